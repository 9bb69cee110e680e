//! Our end of the zygote and its keeper: how they are started and spoken to. How they end: see [`parting`](super::parting).

use std::{
    fs::File,
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    iter,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
    net::sockopt::{Timeout, set_socket_timeout},
    process::{Pid, PidfdFlags, getpid, pidfd_open},
};
use tool_zygote::protocol::{Event, Failure, Hello, Init, Kind, Request, Step, VERSION, Wire};

use super::{
    ahead::{Ahead, Ready, Want},
    bytes, memory_file,
    nascent::Nascent,
    parting::Parting,
    socket, system,
};
use crate::{
    cgroup::{Cgroup, Scope},
    policy::ResourceLimits,
    vitals,
};

/// How long its start may take. It takes 2 ms; a loaded machine may take a thousand times that.
const START: Duration = Duration::from_secs(10);

/// How long it may take where systemd is asked for a scope first, which takes 10 ms. Whatever was waited for this long is not to
/// be waited for.
const SCOPE: Duration = Duration::from_secs(5);

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

/// A running zygote. Ends when it is dropped, and all its sandboxes with it; dropping does not wait for that.
#[derive(Debug)]
pub(super) struct Zygote {
    socket: OwnedFd,
    /// The keeper's. Locked for one question at a time, and its answer.
    keeper_socket: Mutex<OwnedFd>,
    /// The keeper, and what is readable when it has died. `None` only while it is dropped.
    keeper: Option<(Child, OwnedFd)>,
    /// How many of the watched folders its keeper knows.
    told: AtomicUsize,
    hello: Hello,
    /// Readable when it has died.
    alive: Option<OwnedFd>,
    namespaced: bool,
    scoped: bool,
    ahead: Ahead,
}

/// Why there is no zygote.
#[derive(Debug)]
pub(super) enum NoZygote {
    /// It could not be started: what failed, and the kernel's answer.
    Start(&'static str, io::Error),
    /// It died without a word: it was killed, or is no zygote at all.
    Died,
    /// There is no scope for it: whoever was asked for one ended like this.
    NoScope(ExitStatus),
    /// It could not set itself up.
    Setup(Failure),
}

/// A zygote that sets itself up.
#[derive(Debug)]
pub(super) struct Starting(Zygote);

impl Starting {
    /// Starts the program, tells it what it is to be, and then what all sandboxes show, which is found out meanwhile. Does not wait
    /// for it. When we die, its keeper removes what is ours in these folders.
    ///
    /// With a scope, in that one: whoever is asked for it becomes the program.
    pub(super) fn begin(
        source: &Source,
        init: Init,
        scope: Option<&Scope>,
        watched: &[PathBuf],
    ) -> Result<Self, NoZygote> {
        let asked = scope.map(|scope| (scope, unit_name()));
        let init = Init {
            scope: asked.as_ref().map(|(scope, unit)| (bytes(scope.mount()), bytes(format!("{unit}.scope")))),
            ..init
        };
        let failed = NoZygote::Start;
        let pair = || socket::pair().map_err(|errno| failed("making a socket", errno.into()));
        let (keeper_socket, keeper_end) = pair()?;
        // One that does not read for so long is of no use.
        set_socket_timeout(&keeper_socket, Timeout::Send, Some(START))
            .map_err(|errno| failed("bounding a socket", errno.into()))?;
        let (socket, theirs) = pair()?;
        let mut child =
            source.spawn(keeper_end, asked).map_err(|error| failed("starting the zygote", error))?;
        let child_alive = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(alive) => alive,
            Err(errno) => {
                // It has just been started: it dies at once, so this wait is short.
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed("opening a handle to the zygote", errno.into()));
            }
        };
        let zygote = Zygote {
            socket,
            keeper_socket: Mutex::new(keeper_socket),
            keeper: Some((child, child_alive)),
            told: AtomicUsize::new(0),
            hello: Hello {
                version: VERSION,
                landlock_abi: 0,
                landlock_files: false,
                landlock_scopes: false,
                proc: false,
                pid_max: false,
            },
            alive: None,
            namespaced: init.namespaces,
            scoped: scope.is_some(),
            ahead: Ahead::default(),
        };
        match zygote.tell(theirs, &init, watched) {
            Ok(()) => Ok(Self(zygote)),
            Err(none) => Err(zygote.gone(none)),
        }
    }

    /// Waits until it is set up. When we die, from before that on, its keeper removes these cgroups.
    pub(super) fn set_up(self, cgroups: impl IntoIterator<Item = PathBuf>) -> Result<Zygote, NoZygote> {
        let Self(mut zygote) = self;
        match zygote.keep_clean(cgroups).and_then(|()| zygote.hear_hello()) {
            Ok(()) => Ok(zygote),
            Err(none) => Err(zygote.gone(none)),
        }
    }
}

impl Zygote {
    fn tell(&self, theirs: OwnedFd, init: &Init, watched: &[PathBuf]) -> Result<(), NoZygote> {
        let failed = NoZygote::Start;
        let unheard = |errno: Errno| failed("speaking to the zygote", errno.into());
        let engine = pidfd_open(getpid(), PidfdFlags::empty())
            .map_err(|errno| failed("opening a handle to ourselves", errno.into()))?;
        let (mut message, fds) = (VERSION.to_bytes(), [engine.as_fd(), theirs.as_fd()]);
        init.put(&mut message);
        unless_gone(socket::send(&*self.keeper_socket(), &message, &fds)).map_err(unheard)?;
        // So that we see when it is gone.
        drop(theirs);
        self.watch(watched);
        if init.namespaces {
            let system = memory_file(&system::entries(init.inside).to_bytes())
                .map_err(|error| failed("writing to memory", error))?;
            unless_gone(socket::send(&self.socket, &VERSION.to_bytes(), &[system.as_fd()]))
                .map_err(unheard)?;
        }
        Ok(())
    }

    /// When we die, its keeper removes these cgroups.
    pub(super) fn keep_clean(&self, cgroups: impl IntoIterator<Item = PathBuf>) -> Result<(), NoZygote> {
        let told = cgroups.into_iter().try_for_each(|folder| {
            // If it is dead that is found out when it is used.
            unless_gone(self.ask(&Request::Cgroups { folder: bytes(folder) }))
        });
        told.map_err(|errno| NoZygote::Start("speaking to the zygote", errno.into()))
    }

    fn hear_hello(&mut self) -> Result<(), NoZygote> {
        let failed = NoZygote::Start;
        let patience = if self.scoped { SCOPE } else { START };
        let answer = socket::receive(&self.socket, socket::SMALL, Some(Instant::now() + patience))
            .map_err(|errno| failed("waiting for the zygote", errno.into()))?;
        let Some(mut answer) = answer else {
            return Err(self.refusal().map_or(NoZygote::Died, NoZygote::NoScope));
        };
        if let Some(Event::Failed { failure }) = Event::from_bytes(&answer.bytes) {
            return Err(NoZygote::Setup(failure));
        }
        self.hello =
            Hello::from_bytes(&answer.bytes).filter(|hello| hello.version == VERSION).ok_or_else(|| {
                failed("hearing the zygote", io::Error::other("it is of another version than this library"))
            })?;
        self.alive = answer.fds.pop();
        Ok(())
    }

    /// How whoever was to make a scope ended, if there is none. A keeper whose zygote is killed lives on.
    fn refusal(&mut self) -> Option<ExitStatus> {
        // Nobody has the other end of its socket any more: it is about to be dead.
        let is_dying = self.scoped && socket::is_readable(&*self.keeper_socket());
        let (child, alive) = self.keeper.as_mut().filter(|_| is_dying)?;
        socket::readable(&*alive, Some(Instant::now() + SCOPE));
        child.try_wait().ok().flatten().filter(|status| status.code().is_some_and(|code| code != 0))
    }

    /// It is of no use.
    fn gone(self, why: NoZygote) -> NoZygote {
        self.end();
        why
    }

    pub(super) fn hello(&self) -> &Hello {
        &self.hello
    }

    /// A sandbox that waits for its call, made ahead.
    pub(super) fn ready(&self, want: &Want) -> Option<Ready> {
        let mut ready = self.ahead.take(want)?;
        if ready.nascent.is_well() {
            return Some(ready);
        }
        // It could not be made, or was killed; what is wrong, the next one tells.
        self.ahead.leave(ready);
        None
    }

    /// This one is of no use. It ends where nobody waits for that.
    pub(super) fn leave(&self, useless: Ready) {
        self.ahead.leave(useless);
    }

    /// Makes the next sandbox, if it can be told what it will be for, and ends those that are of no use. Waits for no more than
    /// their death. Without namespaces there is nothing to make.
    pub(super) fn make_ahead(&self, cgroup: impl FnOnce(&ResourceLimits) -> Option<Option<Cgroup>>) {
        if self.namespaced {
            self.ahead.make(|want| {
                let cgroup = cgroup(&want.limits)?;
                // What goes wrong here goes wrong for the next launch, too, and is told then.
                let nascent = self.make(&want.kind, cgroup.as_ref(), false).ok()?;
                Some(Ready::new(nascent, cgroup))
            });
        }
    }

    /// Makes a sandbox. `waits`: while the zygote has not read earlier messages. How that went, the sandbox says.
    pub(super) fn make(&self, kind: &Kind, cgroup: Option<&Cgroup>, waits: bool) -> Result<Nascent, Errno> {
        let (control, theirs) = socket::pair()?;
        let joins = cgroup.into_iter().flat_map(Cgroup::join);
        let message = kind.to_bytes();
        let fds: Vec<_> = iter::once(theirs.as_fd()).chain(joins).collect();
        if waits {
            socket::send(&self.socket, &message, &fds)?;
        } else {
            socket::send_now(&self.socket, &message, &fds)?;
        }
        Ok(Nascent::new(control, self.namespaced))
    }

    /// Whether it has died.
    pub(super) fn is_gone(&self) -> bool {
        // Its sandboxes hold its socket for a moment longer.
        self.alive.as_ref().is_none_or(socket::is_readable)
    }

    /// Its keeper's process id.
    pub(super) fn keeper(&self) -> Option<u32> {
        self.keeper.as_ref().map(|(child, _)| child.id())
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
        let socket = self.keeper_socket();
        socket::send(&*socket, &Request::IdMap { owner }.to_bytes(), &[]).map_err(failed)?;
        let answer =
            socket::receive(&*socket, socket::SMALL, Some(Instant::now() + START)).map_err(failed)?;
        let mut answer = answer.ok_or_else(|| failed(Errno::PIPE))?;
        match (Event::from_bytes(&answer.bytes), answer.fds.pop()) {
            (Some(Event::Failed { failure }), _) => Err(failure),
            (_, Some(namespace)) => Ok(namespace),
            _ => Err(failed(Errno::PROTO)),
        }
    }

    /// Whether its keeper does not know all of these folders, which only ever become more.
    pub(super) fn has_to_watch(&self, folders: &[PathBuf]) -> bool {
        self.told.load(Ordering::Acquire) < folders.len()
    }

    /// Has the keeper remove our own folders in these, too, if we die before we can. Those that it has no room for are told the next
    /// time. Does not wait.
    pub(super) fn watch(&self, folders: &[PathBuf]) {
        let socket = self.keeper_socket();
        for folder in folders.iter().skip(self.told.load(Ordering::Acquire)) {
            let request = Request::Watch { folder: bytes(folder) }.to_bytes();
            // If it is dead so is the zygote, and the next ones are told when they start.
            if socket::send_now(&*socket, &request, &[]) == Err(Errno::AGAIN) {
                return;
            }
            self.told.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn ask(&self, request: &Request) -> Result<(), Errno> {
        socket::send(&*self.keeper_socket(), &request.to_bytes(), &[])
    }

    fn keeper_socket(&self) -> std::sync::MutexGuard<'_, OwnedFd> {
        self.keeper_socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it, and all its sandboxes with it, and waits for that. Blocks, for seconds at most.
    pub(super) fn end(mut self) {
        if let Some(parting) = self.part() {
            parting.wait();
        }
    }

    /// Asks both to end. Blocks for a tenth of a second at most; what is returned is to be waited for.
    pub(super) fn ask_to_end(mut self) -> Option<Parting> {
        self.part()
    }

    fn part(&mut self) -> Option<Parting> {
        /// How long a sandbox that is just being made may take to say who it is. It takes a millisecond.
        const MEETING: Duration = Duration::from_millis(100);
        let (keeper, keeper_alive) = self.keeper.take()?;
        let mut ready = self.ahead.clear();
        // Afterwards they die with the zygote, and nobody could tell when.
        ready.iter_mut().for_each(|ready| ready.nascent.meet(MEETING));
        // The zygote sees the end of its socket, and the keeper ends after it. One that has not read for so long that this
        // does not get through is killed.
        let _ = socket::send_now(&*self.keeper_socket(), &Request::Farewell.to_bytes(), &[]);
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        Some(Parting::new(keeper, keeper_alive, self.alive.take(), ready))
    }
}

/// Who is gone may have said why, or is known to have died: that is heard next.
fn unless_gone(sent: Result<(), Errno>) -> Result<(), Errno> {
    match sent {
        Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
        sent => sent,
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        if let Some(parting) = self.part() {
            parting.wait_elsewhere();
        }
    }
}

impl Source {
    fn spawn(&self, socket: OwnedFd, asked: Option<(&Scope, String)>) -> io::Result<Child> {
        match (self, asked) {
            (Source::File(path), None) => spawn(path, socket),
            (Source::File(path), Some(asked)) => spawn_in(asked, path, None, socket),
            // It inherits nothing but its standard input, output and error.
            (Source::Carried { .. }, Some(asked)) => {
                spawn_in(asked, Path::new("/proc/self/fd/1"), Some(in_memory()?), socket)
            }
            (Source::Carried { temp_dir }, None) => {
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
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = temp_dir.join(format!("run-tool-zygote-{}-{count}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(&path)?;
    file.write_all(tool_zygote::PROGRAM)?;
    Ok(path)
}

fn spawn(path: &Path, socket: OwnedFd) -> io::Result<Child> {
    begin(path, |command| command.stdin(Stdio::from(socket)).stdout(Stdio::null()))
}

/// A name that no other scope has.
fn unit_name() -> String {
    let random = RandomState::new().hash_one(0);
    format!("run-tool-{}-{random:016x}", std::process::id())
}

/// systemd-run(1) goes into the scope itself, and becomes the program.
fn spawn_in(
    (scope, unit): (&Scope, String),
    path: &Path,
    memory: Option<OwnedFd>,
    socket: OwnedFd,
) -> io::Result<Child> {
    let (program, args) = scope.command(&unit, path);
    begin(program, |command| {
        command.args(args).stdin(Stdio::from(socket)).stdout(memory.map_or_else(Stdio::null, Stdio::from));
        command.envs(scope.runtime_dir().map(|folder| ("XDG_RUNTIME_DIR", folder)))
    })
}

fn begin(path: &Path, set_up: impl FnOnce(&mut Command) -> &mut Command) -> io::Result<Child> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the zygote is not a tool: it is the one that starts tools"
    )]
    let mut command = Command::new(path);
    // Nothing that would take `std` off its fast path: the cost of posix_spawn does not grow with our memory.
    set_up(command.env_clear().stderr(Stdio::null())).spawn()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use tool_zygote::protocol::Bytes;

    use super::*;

    fn begin(program: &Path, watched: &[PathBuf]) -> Result<Starting, NoZygote> {
        let prefix = Bytes(Vec::new());
        let init = Init { user: None, inside: (0, 0), namespaces: true, prefix, scope: None };
        Starting::begin(&Source::File(program.to_owned()), init, None, watched)
    }

    /// So many that telling of them takes a while.
    fn many() -> Vec<PathBuf> {
        (0..5000).map(|number| format!("/nowhere/{number}").into()).collect()
    }

    /// Anything else would be taken for something that this machine cannot do.
    #[test]
    fn that_one_has_died_is_told_however_early_it_does() {
        let watched = many();
        for watched in [&watched[..], &[]].repeat(10) {
            let ended = begin(Path::new("/bin/true"), watched).and_then(|starting| starting.set_up([]));
            assert!(matches!(ended, Err(NoZygote::Died)), "{ended:?}");
        }
    }

    #[test]
    fn one_that_reads_nothing_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let deaf = folder.path().join("deaf");
        fs::write(&deaf, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        fs::set_permissions(&deaf, fs::Permissions::from_mode(0o755)).unwrap();
        let watched = many();
        let starting = begin(&deaf, &watched).unwrap();
        assert!(starting.0.has_to_watch(&watched), "it was told of as many as there was room for");
        let given_up = starting.set_up(["/nowhere".into()]);
        assert!(matches!(given_up, Err(NoZygote::Start(..))), "{given_up:?}");
    }
}
