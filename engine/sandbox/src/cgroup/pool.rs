//! The cgroups that wait for their next execution, and those that wait for their end.
//!
//! One is used again when nobody is in it and next to nothing is charged to it. One that somebody is still in is set
//! aside and removed when it has become empty; of that one only the path is kept, no open file.
//!
//! The files of those that wait stay open, so that a short call opens none. When many run at once, those that run beyond
//! a bound have theirs closed: what a running call holds open bounds how many can.
//!
//! To remove a cgroup the kernel looks through the caches of every mounted file system, and each sandbox has some: when
//! thousands end at once, removals in the midst of it take most of the time. So they wait until most sandboxes are gone.

use std::{
    collections::VecDeque,
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{CgroupError, Counters, file, kept::Kept, limits::Limits};

/// Bytes that may still be charged to a cgroup that is used again. An empty one seldom has none: the kernel charges ahead,
/// 256 KiB for each processor. One with more holds files that its tool was the first to read or write; what the next
/// tool uses could then not be told from it.
pub(super) const LEFT_OVER: u64 = 1 << 20;

/// The most that wait for their next execution.
const MOST: usize = 64;

/// The most that wait for their end when hardly any are taken.
const MOST_ASIDE: usize = 64;

/// The most that ever wait for their end: beyond them, the one who returns another has to see to its end himself.
const MOST_EVER_ASIDE: usize = 4096;

/// How many times as many as are taken may wait for their end.
const ASIDE_FOR_EACH_TAKEN: usize = 4;

/// How many of those that wait for their end a new one's taker looks after.
const SOME: usize = 8;

/// Where cgroups are made.
pub(super) trait Place: std::fmt::Debug + Send + Sync {
    /// A new one without limits. When this fails, nothing was left behind.
    fn make(&self, name: &str) -> Result<Box<dyn Group>, CgroupError>;
    fn folders(&self) -> Vec<PathBuf>;
    fn has_cpu(&self) -> bool;
    fn rmdir(&self) -> fn(&Path) -> io::Result<()>;
}

/// A cgroup, with the files that every use needs open. What it counts, it counts since it was made.
pub(super) trait Group: std::fmt::Debug + Send + Sync {
    /// Writes what differs.
    fn limit(&self, before: &Limits, now: &Limits) -> Result<(), CgroupError>;
    /// Nothing while its files are closed.
    fn join(&self) -> Vec<BorrowedFd<'_>>;
    /// Those that may be closed meanwhile.
    fn files(&mut self) -> Vec<&mut Kept>;
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
    is_open: bool,
    /// Taken for a call that is not known yet.
    is_ahead: bool,
}

#[derive(Debug)]
pub(super) struct Pool {
    place: Box<dyn Place>,
    /// The most that wait for their next execution.
    most: usize,
    /// The most whose files stay open while an execution has them.
    most_open: usize,
    next_name: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Made>,
    /// The oldest first.
    aside: VecDeque<Vec<PathBuf>>,
    taken: usize,
    /// Taken for calls that are not known yet.
    ahead: usize,
    /// Whose files are open: those that are free, and some that are taken.
    open: usize,
}

impl State {
    fn counter(&mut self, ahead: bool) -> &mut usize {
        if ahead { &mut self.ahead } else { &mut self.taken }
    }
}

impl Pool {
    /// In a process that may have so many descriptors.
    ///
    /// # Errors
    /// When the first cgroup cannot be made: then no other could.
    pub(super) fn new(place: Box<dyn Place>, descriptors: usize) -> Result<Self, CgroupError> {
        let mut pool =
            Self { place, most: 1, most_open: 1, next_name: AtomicU64::new(0), state: Mutex::default() };
        let mut first = pool.make()?;
        // At most an eighth of the files that the process may open.
        pool.most_open = (descriptors / 8 / first.group.files().len()).max(1);
        pool.most = pool.most_open.min(MOST);
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
        self.state().open += 1;
        Ok(Made {
            group,
            limits: Limits::default(),
            before: Counters::none(),
            is_open: true,
            is_ahead: false,
        })
    }

    /// With these limits; `ahead` of the call that it is for.
    pub(super) fn take(&self, limits: Limits, ahead: bool) -> Result<Made, CgroupError> {
        if limits.quota.is_some() && !self.place.has_cpu() {
            let folder = self.place.folders().pop().unwrap_or_default();
            return Err(CgroupError::new("limiting processors in", folder, io::ErrorKind::Unsupported.into())
                .hint("the cpu controller is missing there; have it delegated (`Delegate=yes`), or do not limit cpus"));
        }
        while let Some(mut made) = self.free_one(&limits) {
            // Somebody may have removed it behind our back: then it can neither be read nor written.
            match made.group.counters().map(|before| made.before = before) {
                Ok(()) if self.limit(&mut made, limits).is_ok() => return Ok(self.count(made, ahead)),
                _ => self.set_aside(made),
            }
        }
        let mut made = self.make()?;
        if let Err(error) = self.limit(&mut made, limits) {
            self.set_aside(made);
            return Err(error);
        }
        Ok(self.count(made, ahead))
    }

    fn count(&self, mut made: Made, ahead: bool) -> Made {
        made.is_ahead = ahead;
        *self.state().counter(ahead) += 1;
        made
    }

    /// The call that it was taken for is there.
    pub(super) fn begin(&self, made: &mut Made) {
        let mut state = self.state();
        *state.counter(made.is_ahead) -= 1;
        state.taken += 1;
        made.is_ahead = false;
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

    /// Closes the files of one that is taken and was joined, when enough have theirs open. Opening them takes some 5 µs
    /// each, so those that are taken while fewer are keep theirs.
    pub(super) fn close_beyond_bound(&self, made: &mut Made) {
        let mut state = self.state();
        if state.open > self.most_open && made.is_open {
            state.open -= 1;
            drop(state);
            made.is_open = false;
            made.group.files().into_iter().for_each(Kept::close);
        }
    }

    /// Whether its files are open, as those of one that waits are.
    fn reopen(&self, made: &mut Made) -> bool {
        if !made.is_open && made.group.files().into_iter().try_for_each(Kept::open).is_ok() {
            made.is_open = true;
            self.state().open += 1;
        }
        made.is_open
    }

    pub(super) fn give_back(&self, mut made: Made) {
        let has_room = self.state().free.len() < self.most;
        let reusable = has_room && self.reopen(&mut made) && made.group.is_empty() && made.group.recycle();
        let mut state = self.state();
        *state.counter(made.is_ahead) -= 1;
        if reusable && state.free.len() < self.most {
            state.free.push(made);
            return;
        }
        drop(state);
        self.set_aside(made);
    }

    fn set_aside(&self, made: Made) {
        let paths = made.group.paths();
        if made.is_open {
            self.state().open -= 1;
        }
        drop(made);
        let full = self.state().aside.len() >= MOST_EVER_ASIDE;
        if full && self.remove(&paths) {
            return;
        }
        self.state().aside.push_back(paths);
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
        self.remove_aside(usize::MAX);
    }

    /// The same for a few.
    pub(super) fn tidy_some(&self) {
        self.remove_aside(SOME);
    }

    /// The same for all, when there are too many.
    pub(super) fn tidy_beyond_bound(&self) {
        let too_many = {
            let state = self.state();
            state.aside.len() > MOST_ASIDE.max(state.taken * ASIDE_FOR_EACH_TAKEN)
        };
        if too_many {
            self.tidy();
        }
    }

    fn remove_aside(&self, most: usize) {
        // Those that are there now: what somebody is still in comes back, and others come meanwhile.
        let count = self.state().aside.len().min(most);
        for _ in 0..count {
            let Some(paths) = self.state().aside.pop_front() else { return };
            if !self.remove(&paths) {
                self.state().aside.push_back(paths);
            }
        }
    }

    /// Taken, waiting for a call, and set aside.
    pub(super) fn counts(&self) -> [usize; 3] {
        let state = self.state();
        [state.taken, state.free.len() + state.ahead, state.aside.len()]
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
