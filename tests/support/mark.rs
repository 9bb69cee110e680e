//! A mark to come back to: what this process holds, and what of that is too much later.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tool_engine::Vitals;

/// How long what ends in the background may take. A watchdog, not an expectation.
const DEADLINE: Duration = Duration::from_secs(20);

/// What this process holds at one moment, by its [`Vitals`].
#[derive(Debug, Clone)]
pub struct Mark {
    temp: Option<PathBuf>,
    vitals: Vitals,
    /// Names in the temporary folder, whosever they are.
    entries: Vec<String>,
}

impl Mark {
    /// Takes the mark. What is counted: open descriptors, threads, children (zombies are children), tokio tasks of the
    /// current runtime, entries of the temporary folder `temp` (an engine's own).
    pub fn take(temp: impl Into<Option<PathBuf>>) -> Self {
        let temp = temp.into();
        let vitals = Vitals::of_process();
        assert!(vitals.fds.is_some() && vitals.threads.is_some(), "/proc is mounted");
        Self { vitals, entries: temp.as_deref().map(entries).unwrap_or_default(), temp }
    }

    /// How many: descriptors, threads, tasks, children, entries.
    pub fn counts(&self) -> [(&'static str, usize); 5] {
        let Vitals { fds, threads, tasks, children, .. } = self.vitals;
        let count = |number: Option<u64>| usize::try_from(number.unwrap_or(0)).expect("it is small");
        [
            ("fds", count(fds)),
            ("threads", count(threads)),
            ("tasks", count(tasks)),
            ("children", count(children)),
            ("temp entries", self.entries.len()),
        ]
    }

    /// What there is more of now than at the mark; empty when nothing is.
    pub fn growth(&self) -> String {
        let now = Self::take(self.temp.clone());
        let mut text: String =
            now.vitals.since(&self.vitals).rows().iter().map(|grown| format!("{grown}\n")).collect();
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

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the temporary folder is there");
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
