//! Level 0: the process in a group of its own, and nothing else. Everything of `command-group` is in this file.
//!
//! Its *std* side is used, because that leaves the spawn to `posix_spawn`, whose cost does not grow with the caller's
//! memory. Its `wait` is not: it may sleep in `waitpid(-pgid)` for as long as a grandchild likes.

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use command_group::{CommandGroup, GroupChild, Signal, UnixChildExt};
use nix::unistd::{AccessFlags, access};
use rustix::{
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, getpgid, getpriority_pgrp, kill_process, pidfd_open, setpriority_process},
};

use crate::{
    launch::{Exit, LaunchError, LaunchSpec, LaunchStep, Launched, Launcher, Process, Stdin},
    level::{Enforced, Level},
    policy::Policy,
    program,
    residue::{self, EXECUTION_VARIABLE, ScanTarget, Swept},
    wait,
};

/// Launches at [`Level::None`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessGroups;

impl Launcher for ProcessGroups {
    fn level(&self, _policy: &Policy) -> Result<Level, LaunchError> {
        Ok(Level::None)
    }

    fn launch(&self, spec: LaunchSpec) -> Result<Launched, LaunchError> {
        if let Some(folder) = &spec.workdir {
            check_workdir(folder)?;
        }
        let path = program::find(&spec.program, &spec.env, spec.workdir.as_deref())?;
        let name = path.display().to_string();
        let pipe = || {
            pipe_with(PipeFlags::CLOEXEC).map_err(|errno| {
                LaunchError::new(LaunchStep::Pipe, &name, errno)
                    .hint("raise the limit of open files (`ulimit -n`), or run fewer calls at once")
            })
        };
        let (stdout, child_stdout) = pipe()?;
        let (stderr, child_stderr) = pipe()?;
        let (child_stdin, stdin) = match spec.stdin {
            Stdin::Null => (Stdio::null(), None),
            Stdin::Fd(fd) => (Stdio::from(fd), None),
            Stdin::Pipe => {
                let (read, write) = pipe()?;
                (Stdio::from(read), Some(write))
            }
        };

        #[expect(clippy::disallowed_methods, reason = "this is the one place where children are started")]
        let mut command = Command::new(&path);
        command
            .arg0(&spec.program)
            .args(&spec.args)
            .env_clear()
            .envs(spec.env)
            .env(EXECUTION_VARIABLE, &spec.execution)
            .stdin(child_stdin)
            .stdout(child_stdout)
            .stderr(child_stderr);
        if let Some(folder) = &spec.workdir {
            command.current_dir(folder);
        }
        let not_before = residue::ticks_since_boot();
        let inherited_peak = wait::own_peak_memory();
        let child =
            command.group_spawn().map_err(|error| spawn_error(&path, spec.workdir.as_deref(), error))?;
        // `command` still holds the child's ends of the pipes; they must not outlive this call, or EOF never comes.
        drop(command);
        let not_held = spec.policy.words().chain(spec.resources.words()).map(String::from).collect();
        let enforced = Enforced { not_held, ..Enforced::nothing() };
        let (process, exit) = Group::watch(child, spec.execution, not_before, inherited_peak, &name)?;
        Ok(Launched { process: Box::new(process), exit, stdin, stdout, stderr, gone: None, enforced })
    }

    fn stragglers(&self, targets: &[ScanTarget], bound: Duration) -> Swept {
        residue::scan(targets, bound)
    }
}

fn check_workdir(folder: &Path) -> Result<(), LaunchError> {
    let fail = |error: io::Error| LaunchError::new(LaunchStep::Workdir, folder.display().to_string(), error);
    if !folder.metadata().map_err(fail)?.is_dir() {
        return Err(fail(Errno::NOTDIR.into()));
    }
    access(folder, AccessFlags::X_OK).map_err(|errno| fail(errno.into()))
}

/// `std` does not say which step failed, but the steps fail with different errors (fork(2), execve(2), open(2)).
fn spawn_error(path: &Path, workdir: Option<&Path>, error: io::Error) -> LaunchError {
    let errno = Errno::from_io_error(&error);
    // The working folder was there a moment ago, and so was the program.
    if errno == Some(Errno::NOENT)
        && let Some(Err(gone)) = workdir.map(check_workdir)
    {
        return gone;
    }
    let step = match errno {
        Some(Errno::AGAIN | Errno::NOMEM) => LaunchStep::Fork,
        Some(Errno::MFILE | Errno::NFILE) => LaunchStep::Pipe,
        _ => return program::not_executed(path, error),
    };
    LaunchError::new(step, path.display().to_string(), error).hint(match step {
        LaunchStep::Fork => {
            "the user's or the machine's limit of processes or memory is reached; run fewer calls at once"
        }
        _ => "raise the limit of open files (`ulimit -n`), or run fewer calls at once",
    })
}

/// The leader of a process group, unreaped.
#[derive(Debug)]
struct Group {
    child: GroupChild,
    pid: Pid,
    execution: String,
    not_before: u64,
    inherited_peak: u64,
    reaped: bool,
}

impl Group {
    fn watch(
        mut child: GroupChild,
        execution: String,
        not_before: u64,
        inherited_peak: u64,
        name: &str,
    ) -> Result<(Self, OwnedFd), LaunchError> {
        let pid = Pid::from_child(child.inner());
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => {
                Ok((Self { child, pid, execution, not_before, inherited_peak, reaped: false }, pidfd))
            }
            Err(errno) => {
                // Without a handle nobody could watch it. It has just been started: it dies at once, so this wait is short.
                let _ = child.signal(Signal::SIGKILL);
                let _ = child.into_inner().wait();
                Err(LaunchError::new(LaunchStep::Pidfd, name, errno)
                    .hint("raise the limit of open files (`ulimit -n`), or run fewer calls at once"))
            }
        }
    }

    /// Signals the group, and the leader wherever it is: it may have gone over to another group. But only while the leader
    /// is ours: unreaped, it keeps its id from being given to another process or group.
    fn signal(&self, signal: Signal) {
        if self.reaped || self.has_exited().is_err() {
            return;
        }
        // They can only fail because nobody is left, or may be signalled by us any more.
        let _ = self.child.signal(signal);
        if getpgid(Some(self.pid)) != Ok(self.pid)
            && let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32)
        {
            let _ = kill_process(self.pid, signal);
        }
    }
}

impl Process for Group {
    fn id(&self) -> u32 {
        self.child.id()
    }

    fn has_exited(&self) -> io::Result<bool> {
        wait::has_exited(self.pid)
    }

    fn terminate(&self) {
        self.signal(Signal::SIGTERM);
        self.signal(Signal::SIGCONT);
    }

    fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Two system calls instead of a walk through `/proc`: the dead leader is made the nicest of its group
    /// (setpriority(2)); when the group's best priority is still better than that, somebody else is in it. What made
    /// itself as nice (`nice -n 19`) is overlooked here; it is killed all the same, only not listed.
    fn others_may_be_alive(&self) -> bool {
        const NICEST: i32 = 19;
        if self.reaped {
            return false;
        }
        setpriority_process(Some(self.pid), NICEST).is_err() || getpriority_pgrp(Some(self.pid)) != Ok(NICEST)
    }

    fn scan_target(&self, pipes: Vec<u64>) -> ScanTarget {
        ScanTarget::new(self.id(), &self.execution, pipes, self.not_before)
    }

    fn reap(&mut self) -> io::Result<Option<Exit>> {
        let exit = wait::reap(self.pid, self.inherited_peak)?;
        self.reaped |= exit.is_some();
        Ok(exit)
    }
}
