//! Several calls under one rule: all of them have ended, each with its outcome, before anybody hears of it.

use std::{
    fmt,
    future::Future,
    iter::Enumerate,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use futures_core::Stream;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::{
    task::coop::consume_budget,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    call::Call,
    cancel::{CancelHandle, Cancellation, Cancels},
    engine::Engine,
    error::{CancelSource, ErrorKind, ExecutionError},
    event_log::Events,
    events::Event,
    execution::{Canceler, Execution, ExecutionId},
    report::Report,
};

/// How a call of a group ended.
type End = Result<Report, ExecutionError>;
type OnEvent = Box<dyn FnMut(usize, &Event) + Send>;
type OnEnd = Box<dyn FnMut(usize, &End) + Send>;

/// When the rest of a group is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    WaitAll,
    FailFast,
    FirstSuccess,
}

/// Several calls under one rule. Each has an execution of its own and an outcome of its own.
///
/// ```
/// use tool_engine::{Call, CancelSource, Engine, ErrorKind, Group};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::builder().build()?;
/// let calls = vec![Call::command(["sleep", "1000"]), Call::command(["sh", "-c", "exit 3"])];
/// let ends = Group::new(&engine).fail_fast().at_most(8).run(calls).await;
/// assert_eq!(ends[1].as_ref().unwrap_err().kind().name(), "process");
/// // Who is cancelled because of another is told because of which.
/// let why = ends[0].as_ref().unwrap_err().kind();
/// assert!(matches!(why, ErrorKind::Canceled { by: CancelSource::Sibling(1), .. }));
/// # Ok(())
/// # }
/// ```
#[must_use = "a group does nothing until `run`"]
pub struct Group {
    engine: Engine,
    rule: Rule,
    at_most: usize,
    deadline: Option<Duration>,
    on_event: Option<OnEvent>,
    on_end: Option<OnEnd>,
    handle: Arc<CancelHandle>,
    cancels: Cancels,
}

impl Group {
    /// A group that waits for all of its calls.
    pub fn new(engine: &Engine) -> Self {
        let (handle, cancels) = Cancels::new(Vec::new(), engine.closing());
        Self {
            engine: engine.clone(),
            rule: Rule::WaitAll,
            at_most: engine.max_running(),
            deadline: None,
            on_event: None,
            on_end: None,
            handle: Arc::new(handle),
            cancels,
        }
    }

    /// Waits for all of them, whatever becomes of the others. This is the default.
    pub fn wait_all(mut self) -> Self {
        self.rule = Rule::WaitAll;
        self
    }

    /// The first that fails cancels the others ([`CancelSource::Sibling`]); those that were not started yet never are.
    pub fn fail_fast(mut self) -> Self {
        self.rule = Rule::FailFast;
        self
    }

    /// The first that succeeds cancels the others ([`CancelSource::Sibling`]); those that were not started yet never are.
    pub fn first_success(mut self) -> Self {
        self.rule = Rule::FirstSuccess;
        self
    }

    /// How many of them there are at a time, at least 1; the others are started in their order as these end. Default: as
    /// many as the engine runs at a time. Of more than that, or where the engine has others to run, too, some wait for
    /// their turn in the engine's queue, no longer than their `queue_timeout`.
    pub fn at_most(mut self, calls: usize) -> Self {
        self.at_most = calls.max(1);
        self
    }

    /// The time for all of them together, from [`run`](Self::run) on. When it is over, what runs is cancelled
    /// ([`CancelSource::Deadline`]), with the grace of its own, and what was not started yet never is. The timeouts of the
    /// calls hold as well. Default: none.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Cancels all of them when the token is cancelled. Can be given several times.
    pub fn cancel_on(mut self, token: CancellationToken) -> Self {
        self.cancels.listen_to(token);
        self
    }

    /// Something that can cancel all of them while [`run`](Self::run) is being awaited. Asking again skips the grace.
    pub fn canceler(&self) -> Canceler {
        Canceler::new(Arc::clone(&self.handle))
    }

    /// Told of every event of every call, with the call's place in the list, from 0 on; of one call in their order. What is
    /// slower than the event ring holds finds a [`Gap`](crate::EventKind::Gap).
    ///
    /// It is called by the task that awaits the group, which hears of nothing else meanwhile: it must not block. When it
    /// panics it is not called again, which is told to [`tracing`]; the group goes on.
    pub fn on_event(mut self, tell: impl FnMut(usize, &Event) + Send + 'static) -> Self {
        self.on_event = Some(Box::new(tell));
        self
    }

    /// Told of the end of every call, in the order in which they end; those that were never started, too. Otherwise as
    /// [`on_event`](Self::on_event).
    pub fn on_end(
        mut self,
        tell: impl FnMut(usize, &Result<Report, ExecutionError>) + Send + 'static,
    ) -> Self {
        self.on_end = Some(Box::new(tell));
        self
    }

    /// Runs them. Resolves when all have ended and nothing of any of them is left, to their outcomes in the order of the
    /// calls, one each.
    ///
    /// Dropping the future, at any time, cancels what runs ([`CancelSource::Dropped`]); the others are never started.
    pub async fn run(self, calls: Vec<Call>) -> Vec<Result<Report, ExecutionError>> {
        let Self { engine, rule, at_most, deadline, on_event, on_end, handle: _asking, cancels } = self;
        let until = deadline.and_then(|deadline| Instant::now().checked_add(deadline));
        let mut running = Running {
            engine,
            rule,
            at_most,
            on_event,
            on_end,
            ends: calls.iter().map(|_| None).collect(),
            cancelers: calls.iter().map(|_| None).collect(),
            calls: calls.into_iter().enumerate(),
            members: FuturesUnordered::new(),
            stopped: None,
        };
        // Who was asked to end before is not even begun.
        if let Some(cancellation) = cancels.standing() {
            running.stop(&cancellation);
        }
        let mut requested = pin!(cancels.requested());
        let mut insisted = pin!(cancels.insisted());
        let mut over = pin!(sleep_until(until.unwrap_or_else(Instant::now)));
        let (mut was_requested, mut was_insisted, mut is_over) = (false, false, until.is_none());
        loop {
            running.start();
            if running.members.is_empty() {
                return running.ends.into_iter().flatten().collect();
            }
            // One call may have thousands of things to tell at once: others have their turn, too.
            consume_budget().await;
            tokio::select! { biased;
                cancellation = &mut requested, if !was_requested => {
                    was_requested = true;
                    running.stop(&cancellation);
                }
                () = &mut insisted, if !was_insisted => {
                    was_insisted = true;
                    running.insist();
                }
                () = &mut over, if !is_over => {
                    is_over = true;
                    let reason = deadline.map(|deadline| format!("{deadline:?} for all its calls"));
                    running.stop(&Cancellation { by: CancelSource::Deadline, reason });
                }
                Some(happened) = running.members.next() => running.take(happened),
            }
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("rule", &self.rule)
            .field("at_most", &self.at_most)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// A group on its way. Dropping it drops its executions, which cancels them.
struct Running {
    engine: Engine,
    rule: Rule,
    at_most: usize,
    on_event: Option<OnEvent>,
    on_end: Option<OnEnd>,
    /// Those that were not started yet.
    calls: Enumerate<vec::IntoIter<Call>>,
    members: FuturesUnordered<Next>,
    /// Of each call: how it ended, and while it runs how to cancel it.
    ends: Vec<Option<End>>,
    cancelers: Vec<Option<Canceler>>,
    /// Why no more are started.
    stopped: Option<Cancellation>,
}

impl Running {
    /// Starts as many as there may be; of a group that was stopped, ends them.
    fn start(&mut self) {
        while self.stopped.is_some() || self.members.len() < self.at_most {
            let Some((index, call)) = self.calls.next() else { return };
            if let Some(cancellation) = self.stopped.clone() {
                self.end(index, Err(never_started(&call, cancellation.into())));
                continue;
            }
            let run = self.engine.start(call);
            self.cancelers[index] = Some(run.canceler());
            // Where nobody is to hear of them, nobody's reading is waited for either: the one reader is dropped.
            let events = Some(run.events()).filter(|_| self.on_event.is_some());
            self.members.push(Next(Some(Box::new(Member { index, events, run }))));
        }
    }

    /// Asks all to end. What the first who asked said stands.
    fn stop(&mut self, cancellation: &Cancellation) {
        self.stopped.get_or_insert_with(|| cancellation.clone());
        self.cancelers.iter().flatten().for_each(|canceler| canceler.ask(cancellation.clone()));
    }

    /// No more grace.
    fn insist(&mut self) {
        self.cancelers.iter().flatten().for_each(|canceler| canceler.cancel(CancelSource::Caller));
    }

    fn take(&mut self, (index, happened): (usize, Happened)) {
        match happened {
            Happened::Event(event, member) => {
                tell(&mut self.on_event, |on_event| on_event(index, &event));
                self.members.push(Next(Some(member)));
            }
            Happened::Ended(end) => {
                let decided = match (self.rule, &*end) {
                    (Rule::FailFast, Err(error)) => {
                        Some(format!("{} failed: {}", short(&error.report().tool), short(&error.to_string())))
                    }
                    (Rule::FirstSuccess, Ok(report)) => Some(format!("{} succeeded", short(&report.tool))),
                    _ => None,
                };
                self.end(index, *end);
                if let (Some(reason), None) = (decided, &self.stopped) {
                    self.stop(&Cancellation { by: CancelSource::Sibling(index), reason: Some(reason) });
                }
            }
        }
    }

    fn end(&mut self, index: usize, end: End) {
        self.cancelers[index] = None;
        tell(&mut self.on_end, |on_end| on_end(index, &end));
        self.ends[index] = Some(end);
    }
}

/// How a call ends that was never started.
fn never_started(call: &Call, kind: ErrorKind) -> ExecutionError {
    let (label, masking) = call.shown();
    ExecutionError::new(masking.error(kind), Report::new(ExecutionId::new(), label))
}

/// Calls back. A panic ends there.
fn tell<F: ?Sized>(callback: &mut Option<Box<F>>, call: impl FnOnce(&mut F)) {
    let Some(function) = callback else { return };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| call(function))) {
        let words = panic.downcast_ref::<&str>().copied();
        let words = words.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let words = words.unwrap_or("without words");
        tracing::error!(
            panic = words,
            "a callback of a group panicked; it is not called again, and the group goes on"
        );
        *callback = None;
    }
}

/// As much of a text as a sentence has room for.
fn short(text: &str) -> String {
    const MOST: usize = 120;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// One execution, and what it has to tell: its events, if anybody listens, then its end.
struct Member {
    index: usize,
    events: Option<Events>,
    run: Execution,
}

enum Happened {
    /// There is more to come.
    Event(Event, Box<Member>),
    Ended(Box<End>),
}

/// Resolves to the next thing that a member has to tell. There is a member in it until then.
struct Next(Option<Box<Member>>);

impl Future for Next {
    type Output = (usize, Happened);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(mut member) = self.0.take() else { return Poll::Pending };
        if let Some(events) = &mut member.events {
            match Pin::new(events).poll_next(cx) {
                Poll::Ready(Some(event)) => {
                    return Poll::Ready((member.index, Happened::Event(event, member)));
                }
                Poll::Ready(None) => member.events = None,
                Poll::Pending => {
                    self.0 = Some(member);
                    return Poll::Pending;
                }
            }
        }
        match Pin::new(&mut member.run).poll(cx) {
            Poll::Ready(end) => Poll::Ready((member.index, Happened::Ended(Box::new(end)))),
            Poll::Pending => {
                self.0 = Some(member);
                Poll::Pending
            }
        }
    }
}
