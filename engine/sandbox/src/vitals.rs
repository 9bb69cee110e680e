//! What processes hold, as `/proc` tells it (proc(5)): this one, and those that a launcher keeps.
//!
//! Everything is looked up anew and nothing is waited for. What a machine does not tell is `None`, never 0.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What this process holds at one moment: numbers, and what stands behind them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessVitals {
    /// Open descriptors, from their number to what they are; those in [`pooled_fds`](Self::pooled_fds) aside.
    pub fds: Option<BTreeMap<u32, String>>,
    /// Open descriptors of cgroups that launchers of this process made, and of sandboxes that they made ahead of a call. They are
    /// pooled: there are as many as there were calls at once, up to a bound, and that there are more than before is no sign
    /// of a leak.
    pub pooled_fds: u64,
    /// Threads, from their id to their name.
    pub threads: Option<BTreeMap<u32, String>>,
    /// Children that nobody has reaped, from their process id to their name and state (`sh (S)`; `Z` has exited). `None`
    /// also where the kernel was built without `CONFIG_PROC_CHILDREN`.
    pub children: Option<BTreeMap<u32, String>>,
    /// Resident memory in bytes.
    pub rss: Option<u64>,
}

impl ProcessVitals {
    /// Of this process, now. Takes about 5 µs for each descriptor, thread and child; never waits.
    pub fn own() -> Self {
        let mut fds =
            numbered("/proc/self/fd", |path| Some(fs::read_link(path).ok()?.to_string_lossy().into_owned()));
        let mut pooled_fds = 0;
        if let Some(fds) = &mut fds {
            let id = std::process::id();
            let (pooled, reader) = (format!("/run-tool.{id}."), format!("/proc/{id}/fd"));
            let waiting = waiting();
            fds.retain(|fd, target| {
                let is_pooled = target.contains(&pooled) || waiting.contains(fd);
                pooled_fds += u64::from(is_pooled);
                // The one that reads this very folder is not to be seen any more.
                !is_pooled && *target != reader
            });
        }
        let name = |path: &Path| Some(fs::read_to_string(path.join("comm")).ok()?.trim_end().to_owned());
        Self {
            fds,
            pooled_fds,
            threads: numbered("/proc/self/task", name),
            children: children("self").map(|pids| pids.into_iter().map(|pid| (pid, shown(pid))).collect()),
            rss: rss("self"),
        }
    }
}

/// Descriptors that wait for their next call, and cannot be told from others by what they are.
static WAITING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn waiting() -> MutexGuard<'static, BTreeSet<u32>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A descriptor that waits for its next call, until this is dropped: before the descriptor is used, or closed.
#[derive(Debug)]
pub(crate) struct Waiting(u32);

impl Waiting {
    pub(crate) fn new(fd: impl AsFd) -> Self {
        let fd = fd.as_fd().as_raw_fd().unsigned_abs();
        waiting().insert(fd);
        Self(fd)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        waiting().remove(&self.0);
    }
}

/// What a launcher holds for the calls that run and for those to come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LauncherVitals {
    /// Sandboxes that were made for a call and not let go of.
    pub sandboxes: u64,
    /// Cgroups that a call is in, and those that wait for their end because somebody was still in them.
    pub cgroups: u64,
    /// Cgroups that wait for their next call.
    pub pooled_cgroups: u64,
    /// The processes that make sandboxes.
    pub zygotes: Vec<ZygoteVitals>,
}

/// What a process that makes sandboxes holds. It keeps some things for the next call, so that all of it grows with the
/// number of calls at once, up to a bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZygoteVitals {
    /// Its process id.
    pub pid: u32,
    /// Open descriptors; `None` where we may not look.
    pub fds: Option<u64>,
    /// Its children, unreaped ones included: sandboxes that run, and those that wait for their call.
    pub children: Option<u64>,
    /// Mounts in its view of the host.
    pub mounts: Option<u64>,
    /// Resident memory in bytes.
    pub rss: Option<u64>,
}

impl ZygoteVitals {
    pub(crate) fn of(pid: u32) -> Self {
        let text = pid.to_string();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"));
        Self {
            pid,
            fds: fs::read_dir(format!("/proc/{pid}/fd")).ok().map(|fds| count(fds.count())),
            children: children(&text).map(|children| count(children.len())),
            mounts: mounts.ok().map(|mounts| count(mounts.lines().count())),
            rss: rss(&text),
        }
    }
}

/// The entries of a folder whose names are numbers; what is gone by the time it is looked at is left out.
fn numbered(folder: &str, what: impl Fn(&Path) -> Option<String>) -> Option<BTreeMap<u32, String>> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    Some(
        entries
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, what(&entry.path())?)))
            .collect(),
    )
}

/// The children of each of its threads.
fn children(pid: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(pids) => all.extend(pids.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok())),
            // The thread has ended, and its children are another one's.
            Err(_) if !thread.path().exists() => {}
            Err(_) => return None,
        }
    }
    Some(all)
}

fn shown(pid: u32) -> String {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let text = String::from_utf8_lossy(&stat);
    // The name is in parentheses and may contain some.
    let parts = text.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
    match parts.and_then(|(name, rest)| Some((name, rest.trim_start().chars().next()?))) {
        Some((name, state)) => format!("{name} ({state})"),
        None => "gone while it was looked at".to_owned(),
    }
}

fn rss(pid: &str) -> Option<u64> {
    let pages: u64 =
        fs::read_to_string(format!("/proc/{pid}/statm")).ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(u64::try_from(rustix::param::page_size()).ok()?))
}

/// The process that a pidfd stands for, as we see it; `None` when it has been reaped.
pub(crate) fn pid_of(pidfd: std::os::fd::RawFd) -> Option<u32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{pidfd}")).ok()?;
    // -1 when it is dead, 0 when it is in no namespace that we see.
    info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok().filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    use super::*;

    #[test]
    fn what_this_process_holds_is_found_by_name() {
        let before = ProcessVitals::own();
        let file = tempfile::NamedTempFile::new().unwrap();
        let number = u32::try_from(file.as_file().as_raw_fd()).unwrap();
        let now = ProcessVitals::own();
        assert_eq!(now.fds.as_ref().unwrap()[&number], file.path().to_str().unwrap());
        assert!(!before.fds.unwrap().contains_key(&number));
        assert!(now.threads.unwrap().contains_key(&std::process::id()));
        assert!(now.rss.unwrap() > 100 << 10);
    }

    #[test]
    fn a_pidfd_is_known_by_its_process() {
        let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        assert_eq!(pid_of(own.as_raw_fd()), Some(std::process::id()));
        let found = ZygoteVitals::of(std::process::id());
        assert!(found.fds.unwrap() > 2 && found.rss.unwrap() > 100 << 10 && found.mounts.unwrap() > 0);
        // It has none, or the kernel does not tell.
        assert!(found.children.is_none_or(|children| children < 100));
    }
}
