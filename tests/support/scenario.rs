//! Runs that must end the same way each time, and everything that must hold when they have. Shared by the suites and the
//! soak.

use std::{
    future::Future,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde_json::Value;
use tokio::{task::JoinSet, time::timeout};
use tool_engine::{
    Call, CancelSource, Catalog, Clock, Engine, ErrorKind, EventKind, Execution, ExecutionError, ExecutionId,
    ExitStatus, Level, Limits, Overflow, Plan, Protocol, Report, Target,
};

use crate::{
    Dice, PATIENCE,
    processes::{is_alive, is_own_child, remains},
    ready,
    rig::{hostile_path, level},
};

/// A `hostile` mode that goes on for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endless {
    /// Sleeps.
    Sleep,
    /// Sleeps and blocks SIGTERM.
    IgnoreTerm,
    /// Seven processes of one group.
    Tree,
    /// A daemon, outside the group, keeps the pipes.
    Escape,
    /// A daemon, outside the group, keeps nothing but its environment.
    EscapeQuiet,
    /// A daemon, outside the group, keeps nothing but the pipes.
    EscapeUnmarked,
    /// Writes to stdout and stderr.
    Flood,
    /// Is stopped.
    Stop,
    /// Has closed its output.
    CloseStdio,
}

impl Endless {
    /// All of them.
    pub const ALL: [Endless; 9] = [
        Endless::Sleep,
        Endless::IgnoreTerm,
        Endless::Tree,
        Endless::Escape,
        Endless::EscapeQuiet,
        Endless::EscapeUnmarked,
        Endless::Flood,
        Endless::Stop,
        Endless::CloseStdio,
    ];

    fn words(self) -> &'static [&'static str] {
        match self {
            Endless::Sleep => &["sleep"],
            Endless::IgnoreTerm => &["ignore-term"],
            Endless::Tree => &["tree"],
            Endless::Escape => &["escape"],
            Endless::EscapeQuiet => &["escape-quiet"],
            Endless::EscapeUnmarked => &["escape", "unmarked"],
            Endless::Flood => &["flood"],
            Endless::Stop => &["stop"],
            Endless::CloseStdio => &["close-stdio"],
        }
    }

    /// What it writes to stderr before anything else.
    pub fn last_words(self) -> String {
        format!("hostile {}: last words\n", self.words()[0])
    }

    /// A call of it, as a command.
    pub fn command(self) -> Call {
        let words = self.words().iter().map(Into::into);
        self.with_limits(Call::command([hostile_path().into_os_string()].into_iter().chain(words)))
    }

    /// A call of it as a tool of [`Endless::catalog`], so that there is a channel, whose folder must be removed.
    pub fn tool(self) -> Call {
        self.with_limits(Call::tool(self.words().join(" "), Value::Null))
    }

    /// By turns the one and the other.
    pub fn call(self, round: u64) -> Call {
        if round.is_multiple_of(2) { self.command() } else { self.tool() }
    }

    fn with_limits(self, call: Call) -> Call {
        // Whoever obeys gets its time, and one that was forked too late to be told, too (a signal to a group does not reach
        // whom a member is about to fork). Whoever does not obey would only waste the test's.
        let grace = Duration::from_millis(if self == Endless::IgnoreTerm { 50 } else { 2000 });
        // Nobody is out of reach, so these never matter, however busy the machine is.
        let enough = PATIENCE / 2;
        call.limits(Limits {
            kill_grace: Some(grace),
            drain: Some(enough),
            reap_timeout: Some(enough),
            stdout: Some(64 << 10),
            stderr: Some(64 << 10),
            overflow: Some(Overflow::Truncate),
            ..Limits::default()
        })
    }

    /// Knows them all by their words.
    pub fn catalog() -> impl Catalog + 'static {
        HostileTools
    }

    /// Checks what is known of a run that was ended from outside, and of which nothing may be left.
    fn check(self, error: &ExecutionError, wrote: bool) {
        let report = error.report();
        let stderr = report.stderr.bytes();
        let last_words = self.last_words();
        if wrote {
            assert!(stderr.starts_with(last_words.as_bytes()), "{self:?}: last words are lost: {report:?}");
        } else {
            assert!(last_words.as_bytes().starts_with(&stderr[..stderr.len().min(last_words.len())]));
        }
        if self == Endless::Flood && report.stderr.dropped() > 0 {
            let tail = report.stderr.tail();
            let lines: Vec<_> = tail.split(|byte| *byte == b'\n').collect();
            let whole = &lines[1..lines.len() - 1];
            assert!(whole.iter().all(|line| line.starts_with(b"stderr ") && line.len() == 16), "{report:?}");
        }
        match report.exit {
            Some(ExitStatus::Signal(9)) => {}
            Some(ExitStatus::Signal(15)) => assert!(self != Endless::IgnoreTerm || !wrote, "{report:?}"),
            // The reader is gone, so it has nothing left to do.
            other => panic!("{self:?}: ended by {other:?}: {report:?}"),
        }
        for line in String::from_utf8_lossy(&report.stdout.bytes()).lines() {
            // In a sandbox it does not know its number outside.
            if let (Level::None, Some(pid)) =
                (level(), line.strip_prefix("escaped ").and_then(|pid| pid.parse().ok()))
            {
                assert!(!is_alive(pid), "{self:?}: {pid} escaped");
            }
        }
    }
}

#[derive(Debug)]
struct HostileTools;

impl Catalog for HostileTools {
    fn resolve(&self, call: &Call) -> Result<Plan, ErrorKind> {
        let mut plan = Plan::new(hostile_path(), Protocol::Channel { config: Value::Null });
        if let Target::Tool(words) = call.target() {
            plan.args = words.split(' ').map(Into::into).collect();
        }
        Ok(plan)
    }
}

/// Waits for the end of an execution, whatever it is, and checks what holds for every end: it comes; nothing of the
/// execution is alive, in its group or out of it; its process was reaped; the event log has one end, the last event,
/// which says the same to a reader that comes late.
///
/// # Panics
/// When one of it does not hold.
pub async fn end_of(run: Execution) -> Result<Report, ExecutionError> {
    let id = run.id();
    let mut late = run.events_from(0);
    // `Started` is the first event, unless it never started or the ring is full already.
    let leader = match run.events_from(0).next().await.map(|event| event.kind) {
        Some(EventKind::Started { pid }) => Some(pid),
        _ => None,
    };
    let Ok(end) = timeout(PATIENCE, run).await else { panic!("no end within {PATIENCE:?}") };
    let remains = remains(id, leader);
    assert!(remains.is_empty(), "alive after the end: {remains:?}; {end:?}");
    assert!(!leader.is_some_and(is_own_child), "{leader:?} is not reaped: {end:?}");
    let report = end.as_ref().unwrap_or_else(ExecutionError::report);
    assert!(!report.kill_pending && !report.pipe_held, "{end:?}");
    assert!(report.residue.iter().all(|residue| residue.killed), "{end:?}");
    let mut ends = 0;
    while let Some(event) = late.try_next() {
        assert_eq!(ends, 0, "an event after the end: {event:?}");
        if let EventKind::Ended { error } = event.kind {
            ends += 1;
            assert_eq!(error.as_ref(), end.as_ref().err().map(ExecutionError::kind));
        }
    }
    assert_eq!(ends, 1, "an execution has one end");
    end
}

/// Runs it into its wall-clock timeout and checks the ending. Whether the tool had written its last words by then.
///
/// # Panics
/// When the ending is not as it should be.
pub async fn times_out(engine: &Engine, mode: Endless, after: Duration, proofs: &Path) -> bool {
    static ROUND: AtomicU64 = AtomicU64::new(0);
    let round = ROUND.fetch_add(1, Ordering::Relaxed);
    let proof = proofs.join(round.to_string());
    let call = mode.call(round).timeout(after).env("HOSTILE_WROTE", proof.display().to_string());
    let error = end_of(engine.start(call)).await.expect_err("it goes on for ever");
    assert_eq!(error.kind(), &ErrorKind::Timeout { clock: Clock::Wall, after }, "{error:?}");
    let wrote = proof.exists();
    mode.check(&error, wrote);
    wrote
}

/// Cancels it when it is ready and checks the ending.
///
/// # Panics
/// When the ending is not as it should be.
pub async fn is_canceled(engine: &Engine, mode: Endless, round: u64) {
    let run = engine.start(mode.call(round));
    let mut events = run.events();
    ready(&mut events).await;
    drop(events);
    run.cancel("enough");
    let error = end_of(run).await.expect_err("it was cancelled");
    let kind = ErrorKind::Canceled { by: CancelSource::Caller, reason: Some("enough".into()) };
    assert_eq!(error.kind(), &kind, "{error:?}");
    mode.check(&error, true);
}

/// Cancels it at some moment around its start and checks the ending.
///
/// # Panics
/// When the ending is not as it should be.
pub async fn is_canceled_at_random(engine: &Engine, mode: Endless, dice: &mut Dice) {
    let run = engine.start(mode.call(dice.below(2)));
    let canceler = run.canceler();
    let cancel = async {
        dice.pause(Duration::from_millis(20)).await;
        canceler.cancel(CancelSource::Caller);
    };
    let (end, ()) = tokio::join!(end_of(run), cancel);
    let error = end.expect_err("it was cancelled");
    assert_eq!(error.kind(), &ErrorKind::Canceled { by: CancelSource::Caller, reason: None }, "{error:?}");
}

/// Drops the execution at some moment around its start. It ends some time later.
///
/// # Panics
/// When it ends before.
pub async fn is_dropped_at_random(engine: &Engine, mode: Endless, dice: &mut Dice) -> ExecutionId {
    let run = engine.start(mode.call(dice.below(2)));
    let id = run.id();
    tokio::select! { biased;
        () = dice.pause(Duration::from_millis(20)) => {}
        end = run => panic!("it goes on for ever, but ended: {end:?}"),
    }
    id
}

/// `rounds` runs, `lanes` of them at a time, each lane one after the other; the run is told its number.
///
/// # Panics
/// When a run panics.
pub async fn in_lanes<F>(lanes: u64, rounds: u64, run: impl Fn(u64) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut next = 0;
    let mut running = JoinSet::new();
    loop {
        while next < rounds && (running.len() as u64) < lanes {
            running.spawn(run(next));
            next += 1;
        }
        match running.join_next().await {
            Some(Ok(())) => {}
            Some(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => panic!("{error}"),
            },
            None => return,
        }
    }
}
