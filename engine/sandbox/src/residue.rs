//! Who is left of an execution when its leader has ended.
//!
//! At [`Level::None`](crate::Level::None) nothing in the kernel ties a descendant to its execution once it left the
//! process group and its parent died. Three traces remain: the group, the environment it inherited, and the pipes it
//! holds. A process is taken for a straggler only when it is younger than the leader, so that a service that was there
//! before (and was handed a pipe, say) is never touched.

use std::{
    collections::HashSet,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
    time::{ClockId, clock_gettime},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::procfs::{self, Stat};

/// The variable by which every process of an execution knows its id, and by which we know the process.
pub const EXECUTION_VARIABLE: &str = "RUN_TOOL_EXECUTION";

/// A process that still ran when the tool had ended, and was killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Residue {
    /// Its process id; in a sandbox with its own process ids, the one that it had there.
    pub pid: u32,
    /// Its command line, at most 200 characters.
    pub command: String,
    /// Whether it had left the process group (`setsid`, a daemon).
    pub escaped: bool,
    /// Whether it is dead now. `false`: we were not allowed to kill it, or it did not die in time.
    pub killed: bool,
}

/// What to look for.
#[derive(Clone, Debug)]
pub struct ScanTarget {
    leader: u32,
    marker: String,
    pipes: Vec<u64>,
    not_before: u64,
}

impl ScanTarget {
    /// `not_before`: the [moment](ticks_since_boot) just before the leader was started.
    pub(crate) fn new(leader: u32, execution: &str, pipes: Vec<u64>, not_before: u64) -> Self {
        Self { leader, marker: marker(execution), pipes, not_before }
    }

    /// For a process of which nothing needs to be looked for.
    pub(crate) fn nothing() -> Self {
        Self { leader: 0, marker: String::new(), pipes: Vec::new(), not_before: u64::MAX }
    }

    /// Whether the process belongs to it, and whether it left the group.
    fn claims(&self, pid: &str, stat: Stat, traces: &mut Option<Traces>) -> Option<bool> {
        if stat.start_time < self.not_before {
            return None;
        }
        if i64::from(stat.group) == i64::from(self.leader) {
            return Some(false);
        }
        let traces = traces.get_or_insert_with(|| Traces::of(pid));
        (traces.has_line(&self.marker) || traces.pipes.iter().any(|inode| self.pipes.contains(inode)))
            .then_some(true)
    }
}

/// What a process that left its group can be known by.
#[derive(Debug)]
struct Traces {
    environment: Option<Vec<u8>>,
    pipes: Vec<u64>,
}

impl Traces {
    fn of(pid: &str) -> Self {
        Self { environment: procfs::environment(pid), pipes: procfs::writable_pipes(pid) }
    }

    fn has_line(&self, line: &str) -> bool {
        let environment = self.environment.as_deref().unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == line.as_bytes())
    }
}

fn marker(execution: &str) -> String {
    format!("{EXECUTION_VARIABLE}={execution}")
}

/// Now, on the clock and in the unit of a process's start time.
pub(crate) fn ticks_since_boot() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * ticks_per_second + nanos * ticks_per_second / 1_000_000_000
}

/// How many stragglers of one execution are held by pidfd for as long as they are watched. A tool can leave thousands,
/// and must not use up the descriptors of whoever runs it.
const MAX_HELD: usize = 32;

/// What a walk through `/proc` came to.
#[derive(Debug)]
pub struct Swept {
    /// For each target, what still runs of it.
    pub found: Vec<Vec<Straggler>>,
    /// Whether all processes were looked at. `false`: time ran out, and there may be more.
    pub complete: bool,
}

/// Who is alive of a contained process besides its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Residents {
    /// Those that are named.
    pub named: Vec<Residue>,
    /// Whether these are all. `false`: there are more, or nobody could say.
    pub complete: bool,
}

impl Residents {
    /// Nobody.
    pub fn none() -> Self {
        Self { named: Vec::new(), complete: true }
    }

    /// Nobody could say.
    pub fn unknown() -> Self {
        Self { named: Vec::new(), complete: false }
    }
}

/// A process found by [`scan`]: nothing else can be hit when it is killed.
#[derive(Debug)]
pub struct Straggler {
    /// `None` when there are too many of them: then one is opened for a moment when it is needed.
    pidfd: Option<OwnedFd>,
    start_time: u64,
    residue: Residue,
    exiting: bool,
}

impl Straggler {
    /// SIGKILL. Never blocks. `false` when we may not, or cannot for want of a descriptor.
    pub fn kill(&self) -> bool {
        let sent = match &self.pidfd {
            Some(pidfd) => pidfd_send_signal(pidfd, Signal::KILL),
            None => match open(self.residue.pid) {
                // It names the process that we know if that one is still there afterwards.
                Ok(_) if self.is_dead() => return true,
                Ok(pidfd) => pidfd_send_signal(pidfd, Signal::KILL),
                Err(errno) => Err(errno),
            },
        };
        matches!(sent, Ok(()) | Err(Errno::SRCH))
    }

    /// Whether it has exited, reaped by its parent or not. Never blocks.
    pub fn is_dead(&self) -> bool {
        let Some(pidfd) = &self.pidfd else {
            let now = procfs::stat(&self.residue.pid.to_string());
            return now.map_or(true, |now| now.start_time != self.start_time || now.is_dead());
        };
        // A pidfd is readable when its process has exited (pidfd_open(2)).
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
    }

    /// Whether it was on its way out by itself when it was found: to be waited for, but no residue.
    pub fn was_exiting(&self) -> bool {
        self.exiting
    }

    /// Whether both are the same process.
    pub fn is(&self, other: &Self) -> bool {
        (self.residue.pid, self.start_time) == (other.residue.pid, other.start_time)
    }

    /// What to report of it.
    pub fn residue(&self) -> Residue {
        Residue { killed: self.is_dead(), ..self.residue.clone() }
    }
}

/// How often `/proc` is listed anew because there was somebody new in it.
const MAX_LISTS: u32 = 8;

/// How often a process without an environment is looked at: it may be in the middle of exec(2).
const MAX_LOOKS: u32 = 4;

/// Looks through `/proc` once for all targets. Blocks for as long as that takes, but not much longer than `bound`.
///
/// A list of processes is old as soon as it is made: one on it may have ended before its turn and left behind another,
/// which is not on it. So it is made again until nobody new is on it.
///
/// Our own process is left out, and so is a child of ours between fork and exec: for that moment it holds copies of all
/// our descriptors, other executions' pipes included.
pub fn scan(targets: &[ScanTarget], bound: Duration) -> Swept {
    let mut found: Vec<Vec<Straggler>> = targets.iter().map(|_| Vec::new()).collect();
    let Some(oldest) = targets.iter().map(|target| target.not_before).min() else {
        return Swept { found, complete: true };
    };
    let deadline = Instant::now() + bound;
    let Ok(own) = procfs::stat("self") else {
        tracing::error!("cannot look for processes left behind: /proc is not readable; mount it");
        return Swept { found, complete: false };
    };
    // Ourselves, and the leaders: they are no stragglers.
    let mut seen: HashSet<String> = targets.iter().map(|target| target.leader.to_string()).collect();
    seen.insert(std::process::id().to_string());
    for list in 0..MAX_LISTS {
        let Ok(processes) = procfs::processes() else { return Swept { found, complete: false } };
        let mut new: Vec<String> = processes.filter(|pid| !seen.contains(pid)).collect();
        // The youngest mostly come last, and they are what is looked for: first with them, in case time runs out.
        new.reverse();
        if new.is_empty() {
            break;
        }
        for pid in new {
            if Instant::now() >= deadline {
                tracing::warn!(
                    ?bound,
                    "gave up looking for processes left behind: /proc is too large or too slow"
                );
                return Swept { found, complete: false };
            }
            let Ok(stat) = procfs::stat(&pid) else { continue };
            let mut traces = None;
            if !stat.is_dead() && stat.start_time >= oldest && !stat.shares_layout_with(own) {
                let claim = targets
                    .iter()
                    .enumerate()
                    .find_map(|(index, target)| Some((index, target.claims(&pid, stat, &mut traces)?)));
                if let Some((index, escaped)) = claim {
                    let held = found[index].len() < MAX_HELD;
                    found[index].extend(hold(&pid, stat, escaped, held));
                } else if list < MAX_LOOKS
                    && !(stat.kernel || stat.exiting)
                    && traces.is_some_and(|traces| traces.environment.is_none())
                {
                    continue;
                }
            }
            seen.insert(pid);
        }
    }
    Swept { found, complete: true }
}

/// Opens a pidfd, if it is to be held, then makes sure that it names the process we looked at.
fn hold(pid: &str, seen: Stat, escaped: bool, held: bool) -> Option<Straggler> {
    let pid_number: u32 = pid.parse().ok()?;
    let pidfd = match open(pid_number) {
        Ok(pidfd) if held => Some(pidfd),
        Ok(_) | Err(Errno::MFILE | Errno::NFILE) => None,
        Err(_) => return None,
    };
    let command = procfs::command(pid);
    let now = procfs::stat(pid).ok()?;
    (now.start_time == seen.start_time).then(|| Straggler {
        pidfd,
        start_time: seen.start_time,
        residue: Residue { pid: pid_number, command, escaped, killed: false },
        exiting: seen.exiting || now.exiting,
    })
}

fn open(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty())
}
