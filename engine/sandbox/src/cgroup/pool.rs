//! The cgroups that wait for their next execution, and those that wait for their end.
//!
//! One is used again when nobody is in it and next to nothing is charged to it. One that somebody is still in is set
//! aside and removed when it has become empty; of that one only the path is kept, no open file.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::{Resource, getrlimit};

use super::{CgroupError, Counters, file, limits::Limits};

/// Bytes that may still be charged to a cgroup that is used again. An empty one seldom has none: the kernel charges ahead,
/// 256 KiB for each processor. One with more holds files that its tool was the first to read or write; what the next
/// tool uses could then not be told from it.
pub(super) const LEFT_OVER: u64 = 1 << 20;

/// The most that wait for their next execution.
const MOST: usize = 64;

/// The most that wait for their end before the one who returns another has to see to its end himself.
const MOST_ASIDE: usize = 64;

/// Where cgroups are made.
pub(super) trait Place: std::fmt::Debug + Send + Sync {
    /// A new one without limits. When this fails, nothing was left behind.
    fn make(&self, name: &str) -> Result<Box<dyn Group>, CgroupError>;
    fn folders(&self) -> Vec<PathBuf>;
    fn has_cpu(&self) -> bool;
    fn files_of_a_group(&self) -> usize;
    fn rmdir(&self) -> fn(&Path) -> io::Result<()>;
}

/// A cgroup, with the files that every use needs open. What it counts, it counts since it was made.
pub(super) trait Group: std::fmt::Debug + Send + Sync {
    /// Writes what differs.
    fn limit(&self, before: &Limits, now: &Limits) -> Result<(), CgroupError>;
    fn join(&self) -> &[OwnedFd];
    fn folder(&self) -> Option<BorrowedFd<'_>>;
    /// On processors, exactly.
    fn cpu(&self) -> io::Result<Option<Duration>>;
    /// All but the peak of memory. How CPU time is split may be sampled.
    fn counters(&self) -> io::Result<Counters>;
    /// Since it was made or last recycled.
    fn peak_memory(&self) -> Option<u64>;
    fn is_empty(&self) -> bool;
    /// Forgets the peak of memory: whether it can be used again.
    fn recycle(&self) -> bool;
    fn kill(&self) -> bool;
    fn processes(&self) -> Vec<u32>;
    fn paths(&self) -> Vec<PathBuf>;
}

/// One that is used, or may be used again.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) group: Box<dyn Group>,
    limits: Limits,
    /// What it had counted when it was last taken.
    pub(super) before: Counters,
}

#[derive(Debug)]
pub(super) struct Pool {
    place: Box<dyn Place>,
    most: usize,
    next_name: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Made>,
    aside: Vec<Vec<PathBuf>>,
    taken: usize,
}

impl Pool {
    /// # Errors
    /// When the first cgroup cannot be made: then no other could.
    pub(super) fn new(place: Box<dyn Place>) -> Result<Self, CgroupError> {
        // At most an eighth of the files that the process may open.
        let files = getrlimit(Resource::Nofile)
            .current
            .map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX) / 8);
        let most = (files / place.files_of_a_group()).clamp(1, MOST);
        let pool = Self { place, most, next_name: AtomicU64::new(0), state: Mutex::default() };
        let first = pool.make()?;
        pool.state().free.push(first);
        Ok(pool)
    }

    pub(super) fn place(&self) -> &dyn Place {
        &*self.place
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in there is ever half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self) -> Result<Made, CgroupError> {
        let name = self.next_name.fetch_add(1, Ordering::Relaxed).to_string();
        let group = self.place.make(&name)?;
        Ok(Made { group, limits: Limits::default(), before: Counters::none() })
    }

    pub(super) fn take(&self, limits: Limits) -> Result<Made, CgroupError> {
        if limits.quota.is_some() && !self.place.has_cpu() {
            let folder = self.place.folders().pop().unwrap_or_default();
            return Err(CgroupError::new("limiting processors in", folder, io::ErrorKind::Unsupported.into())
                .hint("the cpu controller is missing there; have it delegated (`Delegate=yes`), or do not limit cpus"));
        }
        while let Some(mut made) = self.free_one(&limits) {
            // Somebody may have removed it behind our back: then it can neither be read nor written.
            match made.group.counters().map(|before| made.before = before) {
                Ok(()) if self.limit(&mut made, limits).is_ok() => {
                    self.state().taken += 1;
                    return Ok(made);
                }
                _ => self.set_aside(made),
            }
        }
        let mut made = self.make()?;
        if let Err(error) = self.limit(&mut made, limits) {
            self.set_aside(made);
            return Err(error);
        }
        self.state().taken += 1;
        Ok(made)
    }

    /// Rather one that has these limits already.
    fn free_one(&self, limits: &Limits) -> Option<Made> {
        let mut state = self.state();
        let same = state.free.iter().rposition(|made| made.limits == *limits);
        let last = state.free.len().checked_sub(1);
        same.or(last).map(|position| state.free.swap_remove(position))
    }

    #[expect(clippy::unused_self, reason = "a step of `take`")]
    fn limit(&self, made: &mut Made, limits: Limits) -> Result<(), CgroupError> {
        if made.limits != limits {
            made.group.limit(&made.limits, &limits)?;
            made.limits = limits;
        }
        Ok(())
    }

    pub(super) fn give_back(&self, made: Made) {
        let reusable = made.group.is_empty() && made.group.recycle();
        let mut state = self.state();
        state.taken -= 1;
        if reusable && state.free.len() < self.most {
            state.free.push(made);
            return;
        }
        drop(state);
        self.set_aside(made);
    }

    fn set_aside(&self, made: Made) {
        let paths = made.group.paths();
        drop(made);
        let full = self.state().aside.len() >= MOST_ASIDE;
        if full && self.remove(&paths) {
            return;
        }
        self.state().aside.push(paths);
    }

    /// Whether all of it is gone.
    fn remove(&self, paths: &[PathBuf]) -> bool {
        let mut gone = true;
        for path in paths {
            if let Err(error) = file::remove(path, self.place.rmdir()) {
                gone = false;
                if !file::is_busy(&error) {
                    tracing::warn!(folder = %path.display(), %error, "a cgroup cannot be removed");
                }
            }
        }
        gone
    }

    /// Removes what was set aside and is empty by now.
    pub(super) fn tidy(&self) {
        let aside = std::mem::take(&mut self.state().aside);
        for paths in aside {
            if !self.remove(&paths) {
                self.state().aside.push(paths);
            }
        }
    }

    /// Taken, free, and set aside.
    pub(super) fn counts(&self) -> [usize; 3] {
        let state = self.state();
        [state.taken, state.free.len(), state.aside.len()]
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // The files are closed first, and the cgroups go with the folder that they are in.
        self.state().free.clear();
        for folder in self.place.folders() {
            if let Err(error) = file::remove(&folder, self.place.rmdir()) {
                tracing::warn!(folder = %folder.display(), %error, "cgroups are left behind; the next engine removes them");
            }
        }
    }
}
