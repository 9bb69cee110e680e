//! Our end of the zygote and its keeper: how they are started, spoken to, and ended.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
    process::{PidfdFlags, getpid, pidfd_open},
};
use tool_zygote::protocol::{Event, Failure, Hello, Init, Request, Step, VERSION, Wire};

use super::{bytes, memory_file, socket};
use crate::vitals;

/// How long its start may take. It takes 2 ms; a loaded machine may take a thousand times that.
const START: Duration = Duration::from_secs(10);
/// How long it may take to end when it is not needed any more, before it is killed.
const FAREWELL: Duration = Duration::from_secs(2);

/// Where the program is started from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// What this library carries.
    Carried {
        /// Where a copy is put when the kernel does not execute memory files.
        temp_dir: PathBuf,
    },
    /// A file.
    File(PathBuf),
}

/// A running zygote. Ends when it is dropped, and all its sandboxes with it.
#[derive(Debug)]
pub(super) struct Zygote {
    socket: OwnedFd,
    keeper: Mutex<Keeper>,
    hello: Hello,
    /// Readable when it has died.
    alive: Option<OwnedFd>,
}

#[derive(Debug)]
struct Keeper {
    child: Child,
    socket: Option<OwnedFd>,
}

/// Why there is no zygote.
#[derive(Debug)]
pub(super) enum NoZygote {
    /// It could not be started: what failed, and the kernel's answer.
    Start(&'static str, io::Error),
    /// It died without a word: it was killed, or is no zygote at all.
    Died,
    /// It could not set itself up.
    Setup(Failure),
}

impl Zygote {
    /// Starts one, and waits until it is set up.
    pub(super) fn start(source: &Source, init: &Init) -> Result<Self, NoZygote> {
        let failed = NoZygote::Start;
        let (keeper_socket, theirs) = socket::pair().map_err(|e| failed("making a socket", e.into()))?;
        let (zygote_socket, zygote_end) = socket::pair().map_err(|e| failed("making a socket", e.into()))?;
        let engine = pidfd_open(getpid(), PidfdFlags::empty())
            .map_err(|e| failed("opening a handle to ourselves", e.into()))?;
        let init = memory_file(&init.to_bytes()).map_err(|error| failed("writing to memory", error))?;
        let child = source.spawn(theirs).map_err(|error| failed("starting the zygote", error))?;
        let keeper = Keeper { child, socket: Some(keeper_socket) };
        let mut zygote = Self {
            socket: zygote_socket,
            keeper: Mutex::new(keeper),
            hello: Hello {
                version: VERSION,
                landlock_abi: 0,
                landlock_files: false,
                landlock_scopes: false,
                proc: false,
                pid_max: false,
            },
            alive: None,
        };
        let sent = {
            let keeper = zygote.keeper();
            let socket = keeper.socket.as_ref().map(AsFd::as_fd);
            socket.map_or(Err(Errno::PIPE), |socket| {
                socket::send(socket, &VERSION.to_bytes(), &[engine.as_fd(), zygote_end.as_fd(), init.as_fd()])
            })
        };
        // Its only copy is now the zygote's, so that we see when it is gone.
        drop(zygote_end);
        sent.map_err(|errno| failed("speaking to the zygote", errno.into()))?;
        let answer = socket::receive(&zygote.socket, socket::SMALL, Some(Instant::now() + START))
            .map_err(|errno| failed("waiting for the zygote", errno.into()))?;
        let Some(mut answer) = answer else {
            return Err(NoZygote::Died);
        };
        if let Some(Event::Failed { failure }) = Event::from_bytes(&answer.bytes) {
            return Err(NoZygote::Setup(failure));
        }
        zygote.hello =
            Hello::from_bytes(&answer.bytes).filter(|hello| hello.version == VERSION).ok_or_else(|| {
                failed("hearing the zygote", io::Error::other("it is of another version than this library"))
            })?;
        zygote.alive = answer.fds.pop();
        Ok(zygote)
    }

    pub(super) fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Hands over a launch. The answer comes over the control socket among the descriptors.
    pub(super) fn launch(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        socket::send(&self.socket, message, fds)
    }

    /// Whether it has died.
    pub(super) fn is_gone(&self) -> bool {
        // Its sandboxes hold its socket for a moment longer.
        self.alive.as_ref().is_none_or(socket::is_readable)
    }

    /// Its process id, as we see it; `None` when it has died.
    pub(super) fn pid(&self) -> Option<u32> {
        vitals::pid_of(self.alive.as_ref()?.as_raw_fd())
    }

    /// A user namespace that maps `owner` on disk to the tool's user.
    pub(super) fn id_map(&self, owner: (u32, u32)) -> Result<OwnedFd, Failure> {
        let failed = |errno: Errno| Failure {
            step: Step::UserMap,
            subject: tool_zygote::protocol::Bytes(b"keeper".to_vec()),
            errno: errno.raw_os_error(),
        };
        // One question at a time.
        let keeper = self.keeper();
        let socket = keeper.socket.as_ref().ok_or_else(|| failed(Errno::PIPE))?;
        socket::send(socket, &Request::IdMap { owner }.to_bytes(), &[]).map_err(failed)?;
        let answer = socket::receive(socket, socket::SMALL, Some(Instant::now() + START)).map_err(failed)?;
        let mut answer = answer.ok_or_else(|| failed(Errno::PIPE))?;
        match (Event::from_bytes(&answer.bytes), answer.fds.pop()) {
            (Some(Event::Failed { failure }), _) => Err(failure),
            (_, Some(namespace)) => Ok(namespace),
            _ => Err(failed(Errno::PROTO)),
        }
    }

    /// Has the keeper remove our own folders in this one, too, if we die before we can.
    pub(super) fn watch(&self, folder: &Path) {
        if let Some(socket) = &self.keeper().socket {
            // It is dead: so is the zygote, and the next ones are told when they start.
            let _ = socket::send(socket, &Request::Watch { folder: bytes(folder) }.to_bytes(), &[]);
        }
    }

    fn keeper(&self) -> std::sync::MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Zygote {
    #[expect(
        clippy::disallowed_methods,
        reason = "there is nothing to wait on that is not the child's to reap"
    )]
    fn drop(&mut self) {
        let keeper = self.keeper.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The zygote sees the end of its socket, and the keeper ends after it.
        if let Some(socket) = &keeper.socket {
            let _ = socket::send(socket, &Request::Farewell.to_bytes(), &[]);
        }
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        keeper.socket = None;
        let until = Instant::now() + FAREWELL;
        let mut pause = Duration::from_micros(100);
        loop {
            match keeper.child.try_wait() {
                Ok(None) if Instant::now() < until => thread::sleep(pause),
                Ok(None) => {
                    let _ = keeper.child.kill();
                    let _ = keeper.child.wait();
                    return;
                }
                // Reaped, by us or by whoever reaps all children of this program.
                Ok(Some(_)) | Err(_) => return,
            }
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }
}

impl Source {
    fn spawn(&self, socket: OwnedFd) -> io::Result<Child> {
        match self {
            Source::File(path) => spawn(path, socket),
            Source::Carried { temp_dir } => {
                let memory = in_memory()?;
                let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
                match spawn(Path::new(&path), socket.try_clone()?) {
                    // `vm.memfd_noexec`, or a /proc that is not there.
                    Err(error)
                        if matches!(
                            error.raw_os_error(),
                            Some(libc::EACCES | libc::EPERM | libc::ENOENT)
                        ) =>
                    {
                        let path = on_disk(temp_dir)?;
                        let child = spawn(&path, socket);
                        // It runs, or never will.
                        let _ = std::fs::remove_file(&path);
                        child
                    }
                    done => done,
                }
            }
        }
    }
}

/// Our copy as a file in memory that nobody can change any more.
fn in_memory() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match memfd_create("run-tool-zygote", flags | MemfdFlags::EXEC) {
        // Kernels before 6.3 do not know the flag, and execute without it.
        Err(Errno::INVAL) => memfd_create("run-tool-zygote", flags),
        done => done,
    }?;
    let mut file = File::from(fd);
    file.write_all(tool_zygote::PROGRAM)?;
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file.into())
}

/// Our copy as a file that only we can change, removed as soon as it runs.
fn on_disk(temp_dir: &Path) -> io::Result<PathBuf> {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = temp_dir.join(format!("run-tool-zygote-{}-{count}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(&path)?;
    file.write_all(tool_zygote::PROGRAM)?;
    Ok(path)
}

fn spawn(path: &Path, socket: OwnedFd) -> io::Result<Child> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the zygote is not a tool: it is the one that starts tools"
    )]
    let mut command = Command::new(path);
    // Nothing that would take `std` off its fast path: the cost of posix_spawn does not grow with our memory.
    command.env_clear().stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn()
}
