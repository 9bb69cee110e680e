//! What lies around a hostile program: the folders that it is shown, the ones that it is not, and who listens on the
//! machine; and afterwards, what of it was reached.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read},
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{MetadataExt, OpenOptionsExt},
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{fcntl::OFlag, sys::stat::Mode, unistd::mkfifo};
use tempfile::TempDir;

use super::header::Given;

/// Where the hostile programs are.
pub(crate) fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("fixtures").join("hostile/escape")
}

/// The surroundings of one test.
#[derive(Debug)]
pub(crate) struct Scene {
    folder: TempDir,
    /// Hexadecimal, and nobody else's.
    pub(crate) token: String,
    port: TcpListener,
    udp: UdpSocket,
    unix: UnixListener,
    hidden: UnixListener,
    leash: File,
}

impl Scene {
    /// # Panics
    /// When the machine does not let us.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Not named as the engine's own are: programs look for those.
        let folder = TempDir::with_prefix("escape-").expect("a temporary folder can be made");
        let path = folder.path();
        for inner in ["work/deep", "work/place", "outside", "gate", "leash", "engine"] {
            fs::create_dir_all(path.join(inner)).expect("a folder can be made");
        }
        for (file, text) in [
            ("work/file", "shown"),
            ("work/empty", ""),
            ("work/deep/hidden", "hidden"),
            ("outside/secret", "secret"),
        ] {
            fs::write(path.join(file), text).expect("a file can be written");
        }
        mkfifo(&path.join("leash/leash"), Mode::S_IRUSR | Mode::S_IWUSR).expect("a FIFO can be made");
        let leash = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path.join("leash/leash"))
            .expect("a FIFO can be opened");
        let token = format!("{:x}", process::id() * 64 + COUNT.fetch_add(1, Ordering::Relaxed));
        let abstract_name =
            SocketAddr::from_abstract_name(format!("run-tool-{token}")).expect("a short name is one");
        let scene = Self {
            port: TcpListener::bind("127.0.0.1:0").expect("a port can be had"),
            udp: UdpSocket::bind("127.0.0.1:0").expect("a port can be had"),
            unix: UnixListener::bind(path.join("outside/socket")).expect("a socket can be made"),
            hidden: UnixListener::bind_addr(&abstract_name).expect("a socket can be made"),
            leash,
            token,
            folder,
        };
        scene.port.set_nonblocking(true).expect("a socket can be non-blocking");
        scene.udp.set_nonblocking(true).expect("a socket can be non-blocking");
        scene.unix.set_nonblocking(true).expect("a socket can be non-blocking");
        scene.hidden.set_nonblocking(true).expect("a socket can be non-blocking");
        scene
    }

    fn path(&self, inner: &str) -> PathBuf {
        self.folder.path().join(inner)
    }

    pub(crate) fn workdir(&self) -> PathBuf {
        self.path("work")
    }

    pub(crate) fn engine(&self) -> PathBuf {
        self.path("engine")
    }

    pub(crate) fn leash(&self) -> PathBuf {
        self.path("leash/leash")
    }

    /// The folder in which the gate opens.
    pub(crate) fn gate(&self) -> PathBuf {
        self.path("gate")
    }

    /// Tells those who wait for it to go on.
    pub(crate) fn open_gate(&self) {
        fs::write(self.path("gate/gate"), "").expect("a file can be written");
    }

    /// Tells those who have gone on that all have.
    pub(crate) fn close_gate(&self) {
        fs::write(self.path("gate/gate-closed"), "").expect("a file can be written");
    }

    /// The argument by which a program is told this.
    pub(crate) fn argument(&self, given: Given) -> OsString {
        let port = |address: std::io::Result<std::net::SocketAddr>| {
            address.expect("a bound socket has an address").port().to_string()
        };
        let (name, value): (_, OsString) = match given {
            Given::Secret => ("secret", self.path("outside/secret").into()),
            Given::Port => ("port", port(self.port.local_addr()).into()),
            Given::Udp => ("udp", port(self.udp.local_addr()).into()),
            Given::Unix => ("unix", self.path("outside/socket").into()),
            Given::Abstract => ("abstract", format!("run-tool-{}", self.token).into()),
            Given::HostPid => ("host-pid", process::id().to_string().into()),
            Given::Leash => ("leash", self.leash().into()),
            Given::Rw => ("rw", self.workdir().into()),
            Given::Ro => ("ro", self.workdir().into()),
            Given::Engine => ("engine", self.engine().into()),
            Given::Gate => ("gate", self.path("gate/gate").into()),
        };
        let mut argument = OsString::from(format!("{name}="));
        argument.push(value);
        argument
    }

    /// What of the surroundings was reached or changed.
    pub(crate) fn reached(&self) -> Vec<String> {
        let mut reached = Vec::new();
        let mut check = |what: &str, error: Option<ErrorKind>| {
            if error != Some(ErrorKind::WouldBlock) {
                reached.push(format!("{what} was reached: {error:?}"));
            }
        };
        check("the port", self.port.accept().err().map(|error| error.kind()));
        check("the UDP port", self.udp.recv(&mut [0; 9]).err().map(|error| error.kind()));
        check("the socket", self.unix.accept().err().map(|error| error.kind()));
        check("the abstract socket", self.hidden.accept().err().map(|error| error.kind()));
        let secret = fs::read_to_string(self.path("outside/secret"));
        if secret.as_deref().ok() != Some("secret") {
            reached.push(format!("the secret was changed: {secret:?}"));
        }
        let beside = names(self.folder.path());
        if beside != ["engine", "gate", "leash", "outside", "work"] {
            reached.push(format!("beside the working folder there are {beside:?}"));
        }
        let outside = names(&self.path("outside"));
        if outside != ["secret", "socket"] {
            reached.push(format!("in the folder outside there are {outside:?}"));
        }
        if !self.workdir().symlink_metadata().is_ok_and(|folder| folder.is_dir()) {
            reached.push("the working folder is gone".into());
        }
        reached
    }

    /// Whether anybody still holds the leash. It is at its end when nobody does.
    pub(crate) fn held(&self) -> bool {
        match (&self.leash).read(&mut [0; 64]) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    /// The processes of the machine that hold the leash, ourselves excepted.
    pub(crate) fn holders(&self) -> Vec<u32> {
        let leash = self.leash.metadata().expect("a FIFO has metadata");
        let holds = |pid: u32| {
            fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().any(|fd| {
                fs::metadata(fd.path())
                    .is_ok_and(|file| (file.dev(), file.ino()) == (leash.dev(), leash.ino()))
            })
        };
        pids().filter(|pid| *pid != process::id() && holds(*pid)).collect()
    }

    /// The processes of the machine that were started with our token as an argument.
    pub(crate) fn marked(&self) -> Vec<u32> {
        let token = format!("token={}", self.token).into_bytes();
        let is_marked = |pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == token)
        };
        pids().filter(|pid| *pid != process::id() && is_marked(*pid)).collect()
    }

    /// Ends what an uncontained program left behind.
    pub(crate) fn clean_up(&self) {
        for pid in self.holders().into_iter().chain(self.marked()) {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid is an i32"));
            // It may have ended by itself.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            // clone(CLONE_PARENT) makes a child of ours.
            let _ = nix::sys::wait::waitpid(pid, None);
        }
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
