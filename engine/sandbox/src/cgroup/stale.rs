//! Whose a folder of cgroups is, and the removal of those whose engine is dead.
//!
//! A folder's name tells the process that made it: `run-tool.PID.START.PIDNS-TIMENS.COUNT`. A process has that name from
//! the moment on at which the folder is made until it ends, so a starting engine's folder is never taken for a dead
//! one's. Process ids and start times mean something only to those in the same pid and time namespaces: folders from
//! others are left alone.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    io::Errno,
    process::{Pid, getpid, test_kill_process},
};

use super::file;
use crate::procfs;

const PREFIX: &str = "run-tool.";

/// Folders made by this process.
static MADE: AtomicU64 = AtomicU64::new(0);

/// Who makes a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pid: i32,
    start_time: u64,
    namespaces: String,
    count: u64,
}

impl Identity {
    /// This process. Another one at each call, so that two engines in one process do not meet in one folder.
    pub(super) fn new() -> io::Result<Self> {
        let namespace = |kind| fs::metadata(format!("/proc/self/ns/{kind}")).map_or(0, |file| file.ino());
        Ok(Self {
            pid: getpid().as_raw_nonzero().get(),
            start_time: procfs::stat("self")?.start_time,
            namespaces: format!("{}-{}", namespace("pid"), namespace("time")),
            count: MADE.fetch_add(1, Ordering::Relaxed),
        })
    }

    #[cfg(test)]
    pub(super) fn with_pid(self, pid: i32) -> Self {
        Self { pid, ..self }
    }

    pub(super) fn folder_name(&self) -> String {
        format!("{PREFIX}{}.{}.{}.{}", self.pid, self.start_time, self.namespaces, self.count)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut fields = name.strip_prefix(PREFIX)?.split('.');
        let found = Self {
            pid: fields.next()?.parse().ok().filter(|pid| *pid > 0)?,
            start_time: fields.next()?.parse().ok()?,
            namespaces: fields.next()?.to_owned(),
            count: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(found)
    }

    /// Whether the process that bore this name has ended. `false` when in doubt.
    fn has_ended(&self) -> bool {
        match procfs::stat(&self.pid.to_string()) {
            Ok(stat) => stat.start_time != self.start_time || stat.is_dead(),
            // What is hidden from us in /proc is still there for a signal.
            Err(_) => Pid::from_raw(self.pid).is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH)),
        }
    }
}

/// Removes the folders in `base` whose engines have ended. What is still in use there is left.
pub(super) fn remove(base: &Path, own: &Identity, rmdir: fn(&Path) -> io::Result<()>) {
    // With /proc of another pid namespace, ids in it are not those that we know.
    let proc_is_ours = fs::read_link("/proc/self").is_ok_and(|to| to == Path::new(&own.pid.to_string()));
    let Ok(entries) = fs::read_dir(base) else { return };
    if !proc_is_ours {
        return;
    }
    for entry in entries.flatten() {
        let Some(other) = entry.file_name().to_str().and_then(Identity::parse) else { continue };
        if other.namespaces != own.namespaces || !other.has_ended() {
            continue;
        }
        if let Err(error) = file::remove(&entry.path(), rmdir) {
            tracing::debug!(folder = %entry.path().display(), %error, "cgroups of a dead engine stay");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_names_its_maker() {
        let own = Identity::new().unwrap();
        assert_eq!(Identity::parse(&own.folder_name()), Some(own.clone()));
        assert_ne!(Identity::new().unwrap().folder_name(), own.folder_name());
        for name in
            ["run-tool.1", "run-tool.0.1.1-1.0", "run-tool.1.1.1-1.0.9", "x.1.1.1-1.0", "run-tool.a.1.1-1.0"]
        {
            assert_eq!(Identity::parse(name), None, "{name}");
        }
    }

    #[test]
    fn only_what_is_surely_dead_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let own = Identity::new().unwrap();
        let dead = Identity { start_time: own.start_time + 1, ..own.clone() };
        let nobody = Identity { pid: i32::MAX, ..own.clone() };
        let elsewhere = Identity { namespaces: "1-1".into(), ..nobody.clone() };
        let alive = Identity { count: 77, ..own.clone() };
        for one in [&dead, &nobody, &elsewhere, &alive] {
            fs::create_dir_all(base.path().join(one.folder_name()).join("0/made-by-the-tool")).unwrap();
        }
        fs::create_dir(base.path().join("other")).unwrap();

        remove(base.path(), &own, |path| fs::remove_dir(path));

        let exists = |one: &Identity| base.path().join(one.folder_name()).exists();
        assert!(!exists(&dead), "its process id is another process's now");
        assert!(!exists(&nobody));
        assert!(exists(&elsewhere) && exists(&alive) && base.path().join("other").exists());
    }
}
