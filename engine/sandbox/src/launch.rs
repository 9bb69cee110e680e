//! The seam between the life of an execution and how its process is contained.

use std::{
    ffi::OsString,
    fmt::Debug,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    level::{Enforced, Level},
    policy::{Policy, ResourceLimits},
    residue::{Residents, ScanTarget, Swept},
    vitals::LauncherVitals,
};

/// Where the process reads its standard input from. A terminal is never passed in.
#[derive(Debug)]
pub enum Stdin {
    /// `/dev/null`.
    Null,
    /// A new pipe, whose write end is handed back in [`Launched::stdin`].
    Pipe,
    /// This open file or pipe, as it is.
    Fd(OwnedFd),
}

/// One process to start: everything made concrete.
#[derive(Debug)]
pub struct LaunchSpec {
    /// The id of the execution. Given to the process as [`EXECUTION_VARIABLE`](crate::EXECUTION_VARIABLE).
    pub execution: String,
    /// A path, or a bare name that is looked up in the `PATH` of [`env`](Self::env). A relative path is relative to
    /// [`workdir`](Self::workdir).
    pub program: OsString,
    /// The arguments after the program's own name.
    pub args: Vec<OsString>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// The working folder; the caller's own when `None`.
    pub workdir: Option<PathBuf>,
    /// Standard input.
    pub stdin: Stdin,
    /// What it may touch.
    pub policy: Policy,
    /// How much it may use.
    pub resources: ResourceLimits,
    /// What it needs to be able to read in any case: a worker's file, a tool's folder.
    pub shows: Vec<PathBuf>,
    /// A folder of ours that only this process may use. Where it finds it: see [`Launcher::shown_as`].
    pub private: Option<PathBuf>,
}

/// A started process and our ends of its pipes. All of them are close-on-exec and in blocking mode.
#[derive(Debug)]
pub struct Launched {
    /// The process, which the caller now owns until it is reaped.
    pub process: Box<dyn Process>,
    /// Becomes readable when the leader has exited, and stays so. There is nothing to read from it.
    pub exit: OwnedFd,
    /// The write end of standard input, with [`Stdin::Pipe`].
    pub stdin: Option<OwnedFd>,
    /// The read end of standard output.
    pub stdout: OwnedFd,
    /// The read end of standard error.
    pub stderr: OwnedFd,
    /// Becomes readable when nothing of it is left, and stays so; for a process that is
    /// [contained](Process::is_contained). There is nothing to read from it.
    pub gone: Option<OwnedFd>,
    /// What is enforced on it.
    pub enforced: Enforced,
}

/// Starts processes at one [`Level`](crate::Level). Its calls may block for as long as the kernel takes to load a
/// program (for ever, from a dead network mount): keep them off an async runtime's own threads.
pub trait Launcher: Send + Sync + Debug {
    /// The level at which a process with this policy would run. Blocks the first time, while what is there is tried out.
    ///
    /// # Errors
    /// When that could not be found out for now: descriptors, processes or memory ran out.
    fn level(&self, policy: &Policy) -> Result<Level, LaunchError>;

    /// The least level that will do for a call, where nobody says anything: what its policy and limits need.
    fn least_level(&self, policy: &Policy, resources: &ResourceLimits) -> Level {
        policy.least_level().max(resources.least_level())
    }

    /// What is missing for more than [`level`](Self::level), and what to do about it; empty when nothing is.
    fn missing(&self) -> Vec<Missing> {
        Vec::new()
    }

    /// Where a process with this policy finds its [private folder](LaunchSpec::private).
    fn shown_as(&self, _policy: &Policy, folder: &Path) -> PathBuf {
        folder.to_owned()
    }

    /// Starts a process. When this returns an error, nothing was left behind.
    fn launch(&self, spec: LaunchSpec) -> Result<Launched, LaunchError>;

    /// Does what the first launch would otherwise have to do for all that come after it; what it finds wrong, a launch tells.
    /// Blocks for milliseconds.
    fn warm_up(&self) {}

    /// Makes ahead what the next launch will probably need, and ends what was made for one that did not come. Called after a
    /// launch, once that has been told. Blocks for milliseconds.
    fn prepare(&self) {}

    /// For each target, what still runs of it besides its leader. One pass serves all targets, and it ends within
    /// `bound` (what was not looked at by then is missing from the answer, which says so).
    fn stragglers(&self, targets: &[ScanTarget], bound: Duration) -> Swept;

    /// Folders in this one whose names begin with [`own_prefix`](crate::own_prefix) are removed when this program dies before
    /// it can, where there is somebody to do that: from the next answer of [`level`](Self::level) on. Never blocks.
    fn keep_clean(&self, _folder: &Path) {}

    /// What it holds at this moment. Short: a look into `/proc` for each zygote, and no waiting.
    fn vitals(&self) -> LauncherVitals {
        LauncherVitals::default()
    }

    /// Lets go of what is kept for the next launch: processes, cgroups, descriptors. A launch after that makes it anew. What is in
    /// use at this moment stays, and goes when this is called again. Blocks, for seconds at most.
    fn close(&self) {}
}

/// A started process, not yet reaped: as long as this value exists its process id names that process and no other.
///
/// Whoever drops it before [`reap`](Self::reap) answered leaves a zombie behind; the engine hands it to its janitor.
pub trait Process: Send + Sync + Debug {
    /// The process id, as the caller sees it.
    fn id(&self) -> u32;

    /// Whether the leader has exited. Never reaps, never blocks.
    ///
    /// # Errors
    /// `ECHILD` when somebody else reaped it: then its status is lost.
    fn has_exited(&self) -> io::Result<bool>;

    /// Asks leader and descendants to end: SIGTERM, then SIGCONT so that a stopped one can. Never blocks.
    fn terminate(&self);

    /// SIGKILL to everything this level reaches, leader included. Never blocks; nothing after
    /// [`reap`](Self::reap) has answered.
    fn kill(&self);

    /// Whether something besides the leader may be alive within the reach of [`kill`](Self::kill). `true` when that
    /// cannot be told cheaply; a zombie that its new parent has not reaped counts. Never blocks. Only meaningful after
    /// the leader has exited.
    fn others_may_be_alive(&self) -> bool;

    /// Whether everything that it starts, whatever that does, is killed by [`kill`](Self::kill), and known to be dead when
    /// [`Launched::gone`] says so. What is not must be looked for: see [`Launcher::stragglers`].
    fn is_contained(&self) -> bool {
        false
    }

    /// Asks whoever watches over a contained process whether it has exited: who is told of that may hear of it a moment too
    /// late. Never blocks. When it [has answered](Self::has_answered), [`has_exited`](Self::has_exited) is up to date, and
    /// [`Launched::exit`] is readable before that.
    fn ask(&self) {}

    /// Whether there is an answer. Never blocks.
    fn has_answered(&self) -> bool {
        true
    }

    /// Work that finds out who is alive of a contained process besides its leader. It blocks until the sandbox's first
    /// process answers, but for the given time at most.
    fn residents(&self) -> Box<dyn FnOnce(Duration) -> Residents + Send> {
        Box::new(|_| Residents::none())
    }

    /// Work that finds out which of these paths are there on the host and were not shown to the process, though the policy
    /// does not hide them. It blocks for as long as a local disk needs. Nothing, where a process sees the host's files.
    fn unshown(&self) -> Box<dyn FnOnce(Vec<PathBuf>) -> Vec<PathBuf> + Send> {
        Box::new(|_| Vec::new())
    }

    /// What it has used of processors so far, with all that it started; `None` when nobody counts.
    fn cpu_used(&self) -> Option<Duration> {
        None
    }

    /// The architecture of its program, by that one's own header, if the sandbox refuses all system calls of programs for it.
    fn foreign(&self) -> Option<Architecture> {
        None
    }

    /// Work that lets go of what takes time to let go of, once it was reaped: for where nobody waits.
    fn remains(&mut self) -> Option<Box<dyn FnOnce() + Send>> {
        None
    }

    /// What to look for in [`Launcher::stragglers`], given the inodes of the pipes whose write ends it was given.
    fn scan_target(&self, pipes: Vec<u64>) -> ScanTarget;

    /// Reaps the leader if it has exited: its status and what it used. Never blocks.
    ///
    /// # Errors
    /// `ECHILD` when somebody else reaped it.
    fn reap(&mut self) -> io::Result<Option<Exit>>;
}

/// An architecture whose programs this kernel may execute beside its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Architecture {
    /// 32-bit x86.
    I386,
    /// x86-64 with 32-bit pointers.
    X32,
    /// 32-bit ARM.
    Arm,
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Architecture::I386 => "i386",
            Architecture::X32 => "x32",
            Architecture::Arm => "32-bit ARM",
        })
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It called `exit` with this code, 0 to 255.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl ExitStatus {
    /// Whether this is exit code 0.
    pub fn success(self) -> bool {
        self == ExitStatus::Code(0)
    }
}

/// What the kernel says a process used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode: the leader and those descendants that it waited for (`getrusage(2)`).
    pub cpu_user: Duration,
    /// CPU time in the kernel, of the same processes.
    pub cpu_system: Duration,
    /// The largest resident set that one of these processes had, in bytes. `None` when it is below
    /// [`peak_memory_at_most`](Self::peak_memory_at_most) and the kernel cannot say by how much.
    pub peak_memory: Option<u64>,
    /// A bound that always holds: when a process starts another without copying itself (vfork, posix_spawn), the new
    /// one's mark begins at the resident set of the one that started it.
    pub peak_memory_at_most: u64,
}

/// A reaped process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// How it ended.
    pub status: ExitStatus,
    /// What it used.
    pub usage: Usage,
    /// What the kernel counted.
    pub counted: Counted,
}

/// What the kernel counted of a whole call, where there was a cgroup to count in. `None`: it cannot tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many processes it killed for want of memory.
    pub oom_kills: Option<u64>,
    /// How many times it refused to make another process or thread.
    pub pids_refused: Option<u64>,
    /// The most processes and threads there were at a time.
    pub peak_pids: Option<u64>,
}

/// Something that keeps a level from being offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Missing {
    /// The highest level that is possible without it.
    pub level: Level,
    /// What is missing, and how the kernel said so.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// The step of a launch that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LaunchStep {
    /// Making sense of the policy: what it names is not there, contradicts itself, or cannot be had here.
    Policy,
    /// Building the sandbox.
    Sandbox,
    /// Speaking to the zygote, which died.
    Zygote,
    /// Making the private folder with the worker's channel.
    Channel,
    /// Opening the working folder.
    Workdir,
    /// Looking the program up.
    Lookup,
    /// Making the pipes.
    Pipe,
    /// Making the process.
    Fork,
    /// Loading the program.
    Exec,
    /// Opening the handle by which the process is watched.
    Pidfd,
    /// Handing our ends of the pipes to the event loop.
    Register,
}

impl std::fmt::Display for LaunchStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LaunchStep::Policy => "applying the policy to",
            LaunchStep::Sandbox => "building the sandbox",
            LaunchStep::Zygote => "asking the zygote for",
            LaunchStep::Channel => "making the private folder of the worker's channel",
            LaunchStep::Workdir => "entering the working folder",
            LaunchStep::Lookup => "looking up the program",
            LaunchStep::Pipe => "making the pipes",
            LaunchStep::Fork => "making the process",
            LaunchStep::Exec => "executing the program",
            LaunchStep::Pidfd => "opening a handle to the process",
            LaunchStep::Register => "watching the pipes",
        })
    }
}

/// Nothing was started: which step failed, on what, and why.
#[derive(Debug, thiserror::Error)]
#[error("{step}{}: {source}", if subject.is_empty() { String::new() } else { format!(" {subject:?}") })]
pub struct LaunchError {
    /// The step that failed.
    pub step: LaunchStep,
    /// The path or name it failed on.
    pub subject: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
    /// What the caller can do about it, where that is known.
    pub hint: Option<String>,
}

impl LaunchError {
    /// An error without a hint.
    pub fn new(step: LaunchStep, subject: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { step, subject: subject.into(), source: source.into(), hint: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
