//! How far an execution has come. It only ever goes forward, but for an execution that is tried again: each attempt begins
//! in the queue. The task that runs the execution moves it; everybody else can but ask for the end, which is seen in the
//! state at once.

use crate::sync::{AtomicU8, Ordering};

/// Somebody has asked for the end. The other bits are a [`State`].
const ASKED: u8 = 0x80;

/// How far an execution has come.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It waits for its turn, or for the time of its next attempt.
    Queued,
    /// Its process is being made.
    Starting,
    /// Its process runs.
    Running,
    /// It is being ended: it has ended by itself and what it left is awaited, it ran out of time, or somebody has asked for
    /// its end, also before it had a process.
    Stopping,
    /// It has its outcome, and nothing of it is left.
    Ended,
}

impl State {
    const ALL: [State; 5] = [State::Queued, State::Starting, State::Running, State::Stopping, State::Ended];
}

/// The state of one execution.
#[derive(Debug)]
pub(crate) struct Stage(AtomicU8);

impl Stage {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(State::Queued as u8))
    }

    pub(crate) fn state(&self) -> State {
        let bits = self.0.load(Ordering::SeqCst);
        let reached = State::ALL[usize::from(bits & !ASKED)];
        if bits & ASKED != 0 { reached.max(State::Stopping) } else { reached }
    }

    /// From queued to starting, unless somebody has asked for the end: then nothing is ever started.
    pub(crate) fn begin(&self) -> bool {
        let (queued, starting) = (State::Queued as u8, State::Starting as u8);
        self.0.compare_exchange(queued, starting, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Forward to this state; never back.
    pub(crate) fn reach(&self, state: State) {
        let forward = |bits: u8| (bits & !ASKED < state as u8).then_some(bits & ASKED | state as u8);
        // It has come further already, or now.
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, forward);
    }

    /// Back to the queue, for another attempt. Who has asked for the end has asked for that of all attempts.
    pub(crate) fn again(&self) {
        self.0.fetch_and(ASKED, Ordering::SeqCst);
    }

    /// Notes that somebody has asked for the end.
    pub(crate) fn ask(&self) {
        self.0.fetch_or(ASKED, Ordering::SeqCst);
    }
}
