//! A mark to come back to: what this process holds, and what of that is too much later.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::processes::children;

/// How long what ends in the background may take. A watchdog, not an expectation.
const DEADLINE: Duration = Duration::from_secs(20);

/// What this process holds at one moment.
#[derive(Debug, Clone)]
pub struct Mark {
    temp: Option<PathBuf>,
    /// Number to what it is.
    fds: BTreeMap<u32, String>,
    /// Id to name.
    threads: BTreeMap<u32, String>,
    /// Pid to name and state.
    children: BTreeMap<u32, String>,
    /// Tokio tasks that are alive on the current runtime; `None` outside one.
    tasks: Option<usize>,
    /// Names in the temporary folder.
    entries: Vec<String>,
}

impl Mark {
    /// Takes the mark. What is counted: open descriptors, threads, children (zombies are children), tokio tasks of the
    /// current runtime, entries of the temporary folder `temp` (an engine's own).
    pub fn take(temp: impl Into<Option<PathBuf>>) -> Self {
        let temp = temp.into();
        Self {
            fds: descriptors(),
            threads: threads(),
            children: children(),
            tasks: tokio::runtime::Handle::try_current()
                .ok()
                .map(|runtime| runtime.metrics().num_alive_tasks()),
            entries: temp.as_deref().map(entries).unwrap_or_default(),
            temp,
        }
    }

    /// How many: descriptors, threads, tasks, children, entries.
    pub fn counts(&self) -> [(&'static str, usize); 5] {
        [
            ("fds", self.fds.len()),
            ("threads", self.threads.len()),
            ("tasks", self.tasks.unwrap_or(0)),
            ("children", self.children.len()),
            ("temp entries", self.entries.len()),
        ]
    }

    /// What there is more of now than at the mark; empty when nothing is.
    pub fn growth(&self) -> String {
        let now = Self::take(self.temp.clone());
        let mut text = String::new();
        more(&mut text, "descriptors", &self.fds, &now.fds);
        more(&mut text, "threads", &self.threads, &now.threads);
        more(&mut text, "children", &self.children, &now.children);
        if let (Some(before), Some(after)) = (self.tasks, now.tasks)
            && after > before
        {
            let _ = writeln!(text, "tokio tasks: {before} before, {after} now");
        }
        if now.entries.len() > self.entries.len() {
            let _ = writeln!(text, "temporary folder: {:?} before, {:?} now", self.entries, now.entries);
        }
        text
    }

    /// Waits until nothing is more than at the mark.
    ///
    /// # Panics
    /// With what is too much, when that does not come within a generous deadline.
    pub async fn assert_settled(&self, when: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let growth = self.growth();
            if growth.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left over {when}:\n{growth}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// As [`assert_settled`](Self::assert_settled), outside a runtime. Blocks.
    pub fn assert_settled_blocking(&self, when: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let growth = self.growth();
            if growth.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left over {when}:\n{growth}");
            thread::park_timeout(Duration::from_millis(10));
        }
    }
}

fn more(text: &mut String, what: &str, before: &BTreeMap<u32, String>, now: &BTreeMap<u32, String>) {
    if now.len() > before.len() {
        let new: Vec<_> = now
            .iter()
            .filter(|(id, name)| before.get(id) != Some(name))
            .map(|(id, name)| format!("{id} = {name}"))
            .collect();
        let _ = writeln!(text, "{what}: {} before, {} now; new: {}", before.len(), now.len(), new.join(", "));
    }
}

fn descriptors() -> BTreeMap<u32, String> {
    let folder = fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    folder
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, target.display().to_string()))
        })
        // Those of pooled cgroups come and go with the number of calls at once; the pool is bounded.
        .filter(|(_, target)| !(target.starts_with("/sys/fs/cgroup/") && target.contains("/run-tool.")))
        // The one that reads this very folder.
        .filter(|(_, target)| target != &format!("/proc/{}/fd", std::process::id()))
        .collect()
}

pub(crate) fn threads() -> BTreeMap<u32, String> {
    let folder = fs::read_dir("/proc/self/task").expect("/proc is mounted");
    folder
        .flatten()
        .filter_map(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, name.trim_end().to_owned()))
        })
        .collect()
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the temporary folder is there");
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
