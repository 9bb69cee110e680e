//! Waiting for what happens elsewhere, without sleeping: polling with a deadline, events, a watchdog.

use std::{
    fmt::Debug,
    process::abort,
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tool_engine::{Chunk, EventKind, Events};

/// How long anything may take before it counts as hanging. A watchdog, not an expectation.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until `look` has an answer.
///
/// # Panics
/// When it has none within `deadline`.
pub async fn until<T>(what: impl Debug, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain for {what:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// As [`until`], outside a runtime. Blocks.
pub(crate) fn until_blocking(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Reads events until the tool has written `text` to stdout or stderr.
///
/// # Panics
/// When the execution ends first, or after [`PATIENCE`].
pub async fn wait_for_output(events: &mut Events, text: &str) {
    wait(events, text, false).await;
}

/// Reads events until the tool has written the line `ready`. One that wrote more than the log holds since was ready, too.
///
/// # Panics
/// As [`wait_for_output`].
pub async fn ready(events: &mut Events) {
    wait(events, "ready\n", true).await;
}

async fn wait(events: &mut Events, text: &str, or_gap: bool) {
    /// Enough of what came before to show, and to find a text in that came in pieces.
    const KEEP: usize = 1000;
    // Two writers may take turns: each has its own.
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let shown = |seen: &[u8]| String::from_utf8_lossy(seen).into_owned();
    let wait = async {
        while let Some(event) = events.next().await {
            let (seen, chunk) = match event.kind {
                EventKind::Stdout(Chunk(chunk)) => (&mut stdout, chunk),
                EventKind::Stderr(Chunk(chunk)) => (&mut stderr, chunk),
                EventKind::Gap { .. } if or_gap => return,
                EventKind::Ended { error } => {
                    let (stdout, stderr) = (shown(&stdout), shown(&stderr));
                    panic!(
                        "ended with {error:?} before it wrote {text:?}; stdout {stdout:?}, stderr {stderr:?}"
                    );
                }
                _ => continue,
            };
            seen.extend_from_slice(&chunk);
            if seen.windows(text.len()).any(|window| window == text.as_bytes()) {
                return;
            }
            seen.drain(..seen.len().saturating_sub(KEEP.max(text.len())));
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, wait).await;
    assert!(
        in_time.is_ok(),
        "waited {PATIENCE:?} in vain for {text:?}; stdout {:?}, stderr {:?}",
        shown(&stdout),
        shown(&stderr)
    );
}

/// Ends the whole test process, by SIGABRT, when it is not dropped in time. For what no assertion can be reached any
/// more after a hang.
#[derive(Debug)]
pub struct Watchdog {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Barks after `patience`.
    ///
    /// # Panics
    /// When the thread cannot be started.
    #[expect(clippy::print_stderr, reason = "it is all that is left to do before the end")]
    pub fn new(patience: Duration) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let bark = move || {
            if stopped.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                eprintln!("the watchdog waited {patience:?}: the test hangs");
                abort();
            }
        };
        let thread =
            thread::Builder::new().name("watchdog".into()).spawn(bark).expect("a thread can be started");
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
