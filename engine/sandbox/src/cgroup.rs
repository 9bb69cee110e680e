//! Cgroups of executions: what one uses together is limited, counted and (v2) killed together.
//!
//! [`Cgroups::find`] makes a folder of ours where we may, in a delegated v2 subtree or in the v1 hierarchies beside our
//! own place. Each execution [takes](Cgroups::take) a cgroup from there. The first process of a tool joins it by writing
//! `0` to the files of [`Cgroup::join`] while it has one thread: the kernel asks whether *we*, who opened them, may do
//! that, so an unprivileged process can. Who drops a [`Cgroup`] gives it back.
//!
//! Nothing of the caller's is ever moved, and no folder of a living engine removed. Folders of dead engines go when the
//! next one starts in the same place.
//!
//! # What the numbers mean
//!
//! A used cgroup keeps its counters, so differences are told. A peak cannot be subtracted: that of memory is reset (v1;
//! v2 since Linux 6.12; older v2 cgroups are not used twice), that of processes cannot be, and is told only where it is
//! surely this execution's. Memory is what the kernel *charged*: also files that this execution was the first to read
//! or write, and up to 256 KiB for each processor in advance; of a used cgroup up to 1 MiB that its predecessor left.
//! One with more is removed, for `memory.force_empty` takes 1 to 400 ms and evicts what the next tool would read.
//!
//! # What it costs
//!
//! On v1 with four hierarchies, two shared processors, Linux 6.18 (median): from the pool and back 9 µs with the limits it
//! had, 28 µs with another limit of memory; counters 6 µs, CPU time alone 1 µs; a new one 0.7 ms (up to 5 ms when others
//! make cgroups, too), its removal 0.16 ms; [`Cgroups::find`] and the removal of it all 2 ms. A cgroup that is taken or in
//! the pool holds 12 files open (v2: 7), one that is set aside none. All together take an eighth of `ulimit -n`: beyond
//! that, one that is taken holds none (v2: one) from when it is [joined](Cgroup::joined) until it is read, which then
//! takes some 50 µs more.

mod file;
mod kept;
mod limits;
mod pool;
mod scope;
mod stale;
mod system;
mod v1;
mod v2;

use std::{
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::io::Errno;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use self::scope::Scope;
pub use self::system::System;
use self::{
    limits::Limits,
    pool::{Made, Place, Pool},
    stale::Identity,
};
use crate::policy::ResourceLimits;

/// Where the cgroups of executions are made. Cheap to clone. When the last clone and the last [`Cgroup`] are dropped,
/// everything is removed that can be.
#[derive(Clone, Debug)]
pub struct Cgroups {
    version: CgroupVersion,
    pool: Arc<Pool>,
}

/// Which interface of the kernel is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CgroupVersion {
    /// A hierarchy for each controller.
    V1,
    /// One hierarchy.
    V2,
}

impl Cgroups {
    /// Makes a folder for the cgroups of executions: in `given`, a delegated v2 folder without processes, or else where
    /// one may be made. Removes such folders of dead engines on the way. Takes milliseconds.
    ///
    /// # Errors
    /// What is missing on this machine, and how to get it.
    pub fn find(given: Option<&Path>, system: &System) -> Result<Self, NoCgroups> {
        let unreadable = |error: io::Error| NoCgroups {
            missing: format!("/proc is not readable: {error}"),
            hint: "have /proc mounted, with our own processes in it".into(),
        };
        let mounted = system.hierarchies().map_err(unreadable)?;
        let identity = Identity::new().map_err(unreadable)?;
        let in_v2 = v2::find(given, &mounted, &identity, system)
            .and_then(|place| Self::new(CgroupVersion::V2, Box::new(place), system));
        let no_v2 = match in_v2 {
            Err(missing) if given.is_none() => missing,
            result => return result,
        };
        let in_v1 = v1::find(&mounted, &identity, system)
            .and_then(|place| Self::new(CgroupVersion::V1, Box::new(place), system));
        in_v1.map_err(|no_v1| {
            // Who has a v1 hierarchy of memory has no such controller in v2, and the other way round.
            let has_v1 = mounted.iter().any(|one| one.controllers.iter().any(|name| name == "memory"));
            NoCgroups {
                missing: format!("{}; {}", no_v2.missing, no_v1.missing),
                hint: if has_v1 { no_v1.hint } else { no_v2.hint },
            }
        })
    }

    fn new(version: CgroupVersion, place: Box<dyn Place>, system: &System) -> Result<Self, NoCgroups> {
        let pool = Pool::new(place, system.descriptors).map_err(|error| NoCgroups {
            missing: error.to_string(),
            hint: error.hint.unwrap_or_default(),
        })?;
        Ok(Self { version, pool: Arc::new(pool) })
    }

    /// Which interface is used.
    pub fn version(&self) -> CgroupVersion {
        self.version
    }

    /// Whether a share of processors can be limited. Memory and processes always can.
    pub fn can_limit_cpus(&self) -> bool {
        self.pool.place().has_cpu()
    }

    /// The folders to be removed, with the folders in them, when this process died without doing so.
    pub fn folders(&self) -> Vec<PathBuf> {
        self.pool.place().folders()
    }

    /// A cgroup that nobody is in, with these limits.
    ///
    /// # Errors
    /// When none can be made or the limits cannot be set.
    pub fn take(&self, limits: &ResourceLimits) -> Result<Cgroup, CgroupError> {
        self.take_as(limits, false)
    }

    /// The same for an execution that is to come: until it [begins](Cgroup::begin), the cgroup counts as one that waits.
    ///
    /// # Errors
    /// As for [`take`](Self::take).
    pub fn take_ahead(&self, limits: &ResourceLimits) -> Result<Cgroup, CgroupError> {
        self.take_as(limits, true)
    }

    fn take_as(&self, limits: &ResourceLimits, ahead: bool) -> Result<Cgroup, CgroupError> {
        let made = self.pool.take(Limits::new(limits)?, ahead)?;
        Ok(Cgroup { made: Some(made), pool: Arc::clone(&self.pool) })
    }

    /// Removes what was not empty when it was given back and is by now, and what is not used again. A cgroup takes about
    /// 0.2 ms; ten times that while thousands of sandboxes are alive.
    pub fn tidy(&self) {
        self.pool.tidy();
    }

    /// The same for a few of them: for who starts an execution.
    pub fn tidy_some(&self) {
        self.pool.tidy_some();
    }

    /// Cgroups that executions hold.
    pub fn taken(&self) -> usize {
        self.pool.counts()[0]
    }

    /// Cgroups that wait for their next execution.
    pub fn pooled(&self) -> usize {
        self.pool.counts()[1]
    }

    /// Cgroups that wait for their end: see [`tidy`](Self::tidy).
    pub fn quarantined(&self) -> usize {
        self.pool.counts()[2]
    }
}

/// The cgroup of one execution. Dropped, it is used again, if nobody is in it: kill and reap first.
#[derive(Debug)]
pub struct Cgroup {
    /// Until it is dropped.
    made: Option<Made>,
    pool: Arc<Pool>,
}

impl Cgroup {
    fn made(&self) -> &Made {
        self.made.as_ref().expect("it is only taken out when this is dropped")
    }

    /// Open files (close-on-exec); to join, a process with one thread writes `0` to each of them, in this order.
    ///
    /// Nothing else may get hold of them: whoever can write there moves any process that it can name, with our rights.
    pub fn join(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.made().group.join().into_iter()
    }

    /// The execution that it was [taken ahead](Cgroups::take_ahead) for is there.
    pub fn begin(&mut self) {
        if let Some(made) = &mut self.made {
            self.pool.begin(made);
        }
    }

    /// Nobody is to [join](Self::join) it any more, and so its files need not stay open where there are many.
    pub fn joined(&mut self) {
        if let Some(made) = &mut self.made {
            self.pool.close_beyond_bound(made);
        }
    }

    /// Work for where nobody waits: removes what waits for its end, when it is much.
    pub fn tidying(&self) -> impl FnOnce() + Send + 'static {
        let pool = Arc::clone(&self.pool);
        move || pool.tidy_beyond_bound()
    }

    /// What was counted since it was taken.
    pub fn counters(&self) -> Counters {
        let Made { group, before, .. } = self.made();
        let mut now = group.counters().unwrap_or_default().since(before);
        now.peak_memory = group.peak_memory();
        now
    }

    /// Time on processors since it was taken: [`Counters::cpu`] at less cost.
    pub fn cpu_used(&self) -> Option<Duration> {
        let Made { group, before, .. } = self.made();
        Some(group.cpu().ok()??.saturating_sub(before.cpu?))
    }

    /// v2 since Linux 5.14: SIGKILL to everything in it. Otherwise nothing, and `false`.
    pub fn kill(&self) -> bool {
        self.made().group.kill()
    }

    /// The processes in it, as we see them.
    pub fn processes(&self) -> Vec<u32> {
        self.made().group.processes()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Some(made) = self.made.take() {
            self.pool.give_back(made);
        }
    }
}

/// What a cgroup counted during one execution. `None` is what this kernel cannot tell, or not for this execution alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The most memory that was charged at a time, in bytes.
    pub peak_memory: Option<u64>,
    /// CPU time, of all processes, those included that nobody waited for.
    pub cpu: Option<Duration>,
    /// The part of it in user mode. The kernel samples how [`cpu`](Self::cpu) is split: of less than a few timer ticks
    /// all may be in one part.
    pub cpu_user: Option<Duration>,
    /// The part of it in the kernel, likewise.
    pub cpu_system: Option<Duration>,
    /// Processes killed for want of memory, whosever limit it was.
    pub oom_kills: Option<u64>,
    /// Processes or threads that could not be started because of the limit.
    pub pids_max_hits: Option<u64>,
    /// The most processes and threads at a time.
    pub peak_pids: Option<u64>,
}

impl Counters {
    /// Those of a new cgroup.
    fn none() -> Self {
        Self {
            peak_memory: None,
            cpu: Some(Duration::ZERO),
            cpu_user: Some(Duration::ZERO),
            cpu_system: Some(Duration::ZERO),
            oom_kills: Some(0),
            pids_max_hits: Some(0),
            peak_pids: Some(0),
        }
    }

    fn since(self, before: &Self) -> Self {
        let time = |now: Option<Duration>, before: Option<Duration>| Some(now?.saturating_sub(before?));
        let count = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        let cpu = time(self.cpu, before.cpu);
        let sampled = time(self.cpu_user, before.cpu_user).zip(time(self.cpu_system, before.cpu_system));
        let (cpu_user, cpu_system) =
            cpu.zip(sampled).map(|(cpu, (user, system))| split(cpu, user, system)).unzip();
        Self {
            peak_memory: None,
            cpu,
            cpu_user,
            cpu_system,
            oom_kills: count(self.oom_kills, before.oom_kills),
            pids_max_hits: count(self.pids_max_hits, before.pids_max_hits),
            // A peak that was there before may be another's.
            peak_pids: self.peak_pids.filter(|now| before.peak_pids.is_some_and(|before| *now > before)),
        }
    }
}

/// What the kernel does for getrusage(2): the exact sum in the proportion of the samples, and all of it in user mode when
/// there is none.
fn split(cpu: Duration, user: Duration, system: Duration) -> (Duration, Duration) {
    let sampled = user.as_nanos() + system.as_nanos();
    let in_kernel = (cpu.as_nanos() * system.as_nanos()).checked_div(sampled).unwrap_or(0);
    let in_kernel = Duration::from_nanos(u64::try_from(in_kernel).unwrap_or(u64::MAX)).min(cpu);
    (cpu.saturating_sub(in_kernel), in_kernel)
}

/// No cgroups can be made on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{missing}")]
pub struct NoCgroups {
    /// What is missing, in words.
    pub missing: String,
    /// How to get it, in words.
    pub hint: String,
}

/// A cgroup could not be made or used: what was tried, where, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {source}", .path.display())]
pub struct CgroupError {
    /// What was tried.
    pub action: String,
    /// On which file or folder.
    pub path: PathBuf,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
    /// What the caller can do about it, where that is known.
    pub hint: Option<String>,
}

impl CgroupError {
    fn new(action: impl Into<String>, path: impl AsRef<Path>, source: io::Error) -> Self {
        let hint = match Errno::from_io_error(&source) {
            Some(Errno::MFILE | Errno::NFILE) => {
                Some("raise the limit of open files (`ulimit -n`), or run fewer calls at once")
            }
            Some(Errno::NOSPC | Errno::AGAIN) => Some(
                "the machine or `cgroup.max.descendants` above us allows no more cgroups; run fewer calls at once",
            ),
            Some(Errno::NOMEM) => {
                Some("the kernel has no memory for another cgroup; run fewer calls at once")
            }
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
                Some("start it as root (`sudo`), or have the cgroup delegated to its user (`Delegate=yes`)")
            }
            Some(Errno::NOENT | Errno::NODEV) => {
                Some("somebody removed our cgroups, or this kernel lacks the file; start the engine again")
            }
            _ => None,
        };
        Self { action: action.into(), path: path.as_ref().to_owned(), source, hint: hint.map(Into::into) }
    }

    #[must_use]
    fn hint(mut self, hint: &str) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod real;
