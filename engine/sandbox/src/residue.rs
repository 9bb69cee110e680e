//! Who is left of an execution when its leader has ended.
//!
//! At [`Level::None`](crate::Level::None) nothing in the kernel ties a descendant to its execution once it left the
//! process group and its parent died. Three traces remain: the group, the environment it inherited, and the pipes it
//! holds. A process is taken for a straggler only when it is younger than the leader, so that a service that was there
//! before (and was handed a pipe, say) is never touched.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
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
    /// Its process id.
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

    /// Whether the process belongs to it, and whether it left the group.
    fn claims(&self, pid: &str, stat: Stat, holds: &mut Option<Vec<u64>>) -> Option<bool> {
        if stat.start_time < self.not_before {
            return None;
        }
        if i64::from(stat.group) == i64::from(self.leader) {
            return Some(false);
        }
        let marked = procfs::has_environment(pid, &self.marker);
        let holds = holds.get_or_insert_with(|| procfs::writable_pipes(pid));
        (marked || holds.iter().any(|inode| self.pipes.contains(inode))).then_some(true)
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

/// A process found by [`scan`], held by a pidfd: nothing else can be hit when it is killed.
#[derive(Debug)]
pub struct Straggler {
    pidfd: OwnedFd,
    residue: Residue,
    exiting: bool,
}

impl Straggler {
    /// SIGKILL. Never blocks. `false` when we may not.
    pub fn kill(&self) -> bool {
        !matches!(pidfd_send_signal(&self.pidfd, Signal::KILL), Err(rustix::io::Errno::PERM))
    }

    /// Whether it has exited, reaped by its parent or not. Never blocks.
    pub fn is_dead(&self) -> bool {
        // A pidfd is readable when its process has exited (pidfd_open(2)).
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
    }

    /// Whether it was on its way out by itself when it was found: to be waited for, but no residue.
    pub fn was_exiting(&self) -> bool {
        self.exiting
    }

    /// What to report of it.
    pub fn residue(&self) -> Residue {
        Residue { killed: self.is_dead(), ..self.residue.clone() }
    }
}

/// Looks through `/proc` once for all targets. Blocks for as long as that takes, but not much longer than `bound`.
///
/// Our own process is left out, and so is a child of ours between fork and exec: for that moment it holds copies of all
/// our descriptors, other executions' pipes included.
pub fn scan(targets: &[ScanTarget], bound: Duration) -> Vec<Vec<Straggler>> {
    let mut found: Vec<Vec<Straggler>> = targets.iter().map(|_| Vec::new()).collect();
    let Some(oldest) = targets.iter().map(|target| target.not_before).min() else { return found };
    let deadline = Instant::now() + bound;
    let own_pid = std::process::id().to_string();
    let (Ok(own), Ok(processes)) = (procfs::stat("self"), procfs::processes()) else {
        tracing::error!("cannot look for processes left behind: /proc is not readable; mount it");
        return found;
    };
    for pid in processes {
        if Instant::now() >= deadline {
            tracing::warn!(
                ?bound,
                "gave up looking for processes left behind: /proc is too large or too slow"
            );
            break;
        }
        if pid == own_pid {
            continue;
        }
        let Ok(stat) = procfs::stat(&pid) else { continue };
        if stat.is_dead() || stat.start_time < oldest || stat.shares_layout_with(own) {
            continue;
        }
        if targets.iter().any(|target| target.leader.to_string() == pid) {
            continue;
        }
        let mut holds = None;
        let claim = targets
            .iter()
            .enumerate()
            .find_map(|(index, target)| Some((index, target.claims(&pid, stat, &mut holds)?)));
        if let Some((index, escaped)) = claim
            && let Some(straggler) = hold(&pid, stat, escaped)
        {
            found[index].push(straggler);
        }
    }
    found
}

/// Opens a pidfd, then makes sure that it names the process we looked at.
fn hold(pid: &str, seen: Stat, escaped: bool) -> Option<Straggler> {
    let number: i32 = pid.parse().ok()?;
    let pidfd = pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok()?;
    let command = procfs::command(pid);
    let now = procfs::stat(pid).ok()?;
    (now.start_time == seen.start_time).then(|| Straggler {
        pidfd,
        residue: Residue { pid: number.unsigned_abs(), command, escaped, killed: false },
        exiting: seen.exiting || now.exiting,
    })
}
