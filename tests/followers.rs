//! A follower delivers each line of its source once, however often the source is opened anew, and however it ends.
//!
//! Promised, with real processes, while a log is being written: lines come out in order, none lost and none twice, over
//! rotations by time and by bytes, with sources that kill themselves in mid-line, that send the whole last second or
//! everything again, with many lines in one instant, equal ones among them, on two streams, in pieces; from a journal by
//! cursor; from a file that is renamed, truncated and written to in half lines. A follower is stopped, and nothing of it
//! is left, whatever its source does, whoever does not read, and also when it is dropped outside a runtime. A slow
//! subscriber is told what it missed and holds nobody up. The file that lines are written to is made anew when somebody takes
//! it away. What is no file to follow, and times that are too long for any clock, do no harm. Keys and places are given out
//! once.
//!
//! Not promised: how long a rotation takes (`scripts/soak` looks at that); what was written to a file and truncated
//! before it was read; lines that the program behind a source drops by itself. `docker`, `podman` and `kubectl` are
//! stood in for by a program with the same contract, as is `journalctl`.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "followers/exact.rs"]
mod exact;
#[path = "followers/files.rs"]
mod files;
#[path = "followers/pool.rs"]
mod pool;
#[path = "followers/stopping.rs"]
mod stopping;
#[path = "followers/telling.rs"]
mod telling;

use std::{
    fs::{File, OpenOptions},
    future::Future,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use support::{Flavour, PATIENCE, Rig, hostile_path, level, uncontained};
use tempfile::TempDir;
use tokio::time::timeout;
use tool_engine::{Call, Engine, Level, Limits};
use tool_follow::{FollowEvent, FollowEventKind, Followers, Line, Since, Source, Subscription};

/// Runs the test with followers on a multi-threaded runtime; shuts down, and looks for what is left.
fn with_followers<F: Future<Output = ()>>(test: impl FnOnce(Followers, Log) -> F) {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let mark = rig.mark();
        let engine = rig.engine();
        let followers = Followers::builder(&engine).build().unwrap();
        test(followers.clone(), Log::new()).await;
        down(followers, engine).await;
        mark.assert_settled("after the test").await;
    });
}

async fn down(followers: Followers, engine: Engine) {
    in_time("a shutdown", followers.shutdown()).await;
    assert_eq!((followers.metrics().active, engine.active()), (0, 0));
    drop(followers);
    in_time("the engine's shutdown", engine.shutdown(Duration::from_secs(5))).await;
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain for {what}"))
}

/// On a busy machine it takes its time to die.
fn patient(call: Call) -> Call {
    let long = Some(Duration::from_secs(20));
    // Files that a template is shown ask for a sandbox.
    let call = if level() == Level::None { uncontained(call) } else { call };
    call.limits(Limits {
        kill_grace: Some(Duration::from_millis(500)),
        drain: long,
        reap_timeout: long,
        stdout: Some(0),
        ..Limits::default()
    })
}

/// A log that is being written, as `hostile logs` reads it.
struct Log {
    _folder: TempDir,
    path: PathBuf,
    file: File,
    written: Vec<String>,
    nanos: u64,
}

impl Log {
    fn new() -> Self {
        let folder = TempDir::with_prefix("run-tool-test-").unwrap();
        // A sandbox has another user.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let path = folder.path().join("log");
        let file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        Self { _folder: folder, path, file, written: Vec::new(), nanos: 0 }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// A line, so many nanoseconds after the last one.
    fn say(&mut self, after: u64, text: &str) {
        self.nanos += after;
        let (seconds, nanos) = (self.nanos / 1_000_000_000, self.nanos % 1_000_000_000);
        let (minute, second) = (seconds / 60, seconds % 60);
        let line = format!("2026-01-31T10:{minute:02}:{second:02}.{nanos:09}Z {text}\n");
        self.file.write_all(line.as_bytes()).unwrap();
        self.written.push(text.to_owned());
    }

    /// Many lines: most in instants that they share, some equal, some on the other stream, one long one.
    fn burst(&mut self, round: u64) {
        for number in 0..5 {
            self.say(0, &format!("line {round} {number}"));
        }
        self.say(0, "the same");
        self.say(0, "the same");
        self.say(17_000_000, &format!("E on stderr {round}"));
        self.say(0, "the same");
        self.say(0, &"x".repeat(200 + usize::try_from(round % 100).unwrap()));
        self.say(230_000_001, "");
    }

    /// A source that serves it as a container's log, in this manner.
    fn source(&self, manner: &'static str) -> Source {
        self.served(
            Source::command(
                [
                    hostile_path().into_os_string(),
                    "logs".into(),
                    "--follow".into(),
                    "--timestamps".into(),
                    "--since".into(),
                    "{since}".into(),
                    self.path.clone().into_os_string(),
                ],
                tool_follow::TimeFormat::Rfc3339,
            ),
            manner,
        )
    }

    fn served(&self, source: Source, manner: &'static str) -> Source {
        let shape = move |call| patient(call).env("HOSTILE_LOGS", manner);
        source.since(Since::Beginning).call(shape).back_pressure()
    }
}

/// The next event.
async fn next(events: &mut Subscription) -> FollowEvent {
    in_time("an event", events.next()).await.expect("the follower has not ended")
}

/// The next line that was written at some time. Nothing is missing before it.
async fn next_line(events: &mut Subscription) -> Line {
    loop {
        match next(events).await.kind {
            FollowEventKind::Line(line) => return line,
            kind @ (FollowEventKind::Gap { .. } | FollowEventKind::Ended { .. }) => {
                panic!("{kind:?} instead of a line")
            }
            _ => {}
        }
    }
}

fn text(line: &Line) -> String {
    String::from_utf8_lossy(&line.content).into_owned()
}

/// The lines are those that were written, in this order; lines of two streams can overtake each other.
fn assert_exact(found: &[Line], written: &[String]) {
    for stream in [tool_engine::Stream::Stdout, tool_engine::Stream::Stderr] {
        let is_here = |text: &str| text.starts_with("E ") == (stream == tool_engine::Stream::Stderr);
        let found: Vec<_> = found.iter().filter(|line| line.stream == stream).map(text).collect();
        let written: Vec<_> = written.iter().filter(|text| is_here(text)).cloned().collect();
        if let Some(at) = (0..found.len().max(written.len())).find(|at| found.get(*at) != written.get(*at)) {
            let around = at.saturating_sub(3)..at + 3;
            let show = |all: &[String]| {
                all.get(around.start..around.end.min(all.len())).unwrap_or_default().to_vec()
            };
            panic!("{stream}: from line {at} on {:?} instead of {:?}", show(&found), show(&written));
        }
    }
    assert_eq!(found.len(), written.len());
}
