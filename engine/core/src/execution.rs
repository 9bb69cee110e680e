//! The caller's hold on one execution.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    cancel::{CancelHandle, Cancellation},
    error::{CancelSource, ErrorKind, ExecutionError},
    event_log::{EventLog, Events},
    report::Report,
    state::State,
};

/// The id of an execution: a UUIDv7 (RFC 9562), which sorts by the time it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ExecutionId(#[schemars(with = "String")] Uuid);

impl ExecutionId {
    pub(crate) fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ExecutionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// One execution, running in the background. As a future it resolves to the one outcome, when everything has been
/// cleaned up; polling it drives nothing, so it may be polled late or in a `select!` without harm.
///
/// Dropping it cancels the execution ([`CancelSource::Dropped`]), also outside a runtime; [`detach`](Self::detach) lets
/// it go on.
#[must_use = "dropping an execution cancels it; await it, or `detach` it"]
#[derive(Debug)]
pub struct Execution {
    id: ExecutionId,
    cancel: Arc<CancelHandle>,
    log: Arc<EventLog>,
    end: Option<oneshot::Receiver<Result<Report, ExecutionError>>>,
    label: String,
    attentive: AtomicBool,
}

impl Execution {
    pub(crate) fn new(
        id: ExecutionId,
        label: String,
        cancel: CancelHandle,
        log: Arc<EventLog>,
        end: oneshot::Receiver<Result<Report, ExecutionError>>,
    ) -> Self {
        Self { id, cancel: Arc::new(cancel), log, end: Some(end), label, attentive: AtomicBool::new(true) }
    }

    /// Its id.
    pub fn id(&self) -> ExecutionId {
        self.id
    }

    /// How far it has come.
    pub fn state(&self) -> State {
        self.cancel.stage().state()
    }

    /// What happens, from the beginning on. Any number of readers may read, late ones included; a reader slower than
    /// the event ring holds finds a [`Gap`](crate::EventKind::Gap). With [`Call::back_pressure`](crate::Call::back_pressure)
    /// the first reader misses nothing.
    pub fn events(&self) -> Events {
        let first = self.attentive.swap(false, Ordering::AcqRel);
        self.log.read_from(0, first)
    }

    /// What happens, from the event `seq` on.
    pub fn events_from(&self, seq: u64) -> Events {
        self.log.read_from(seq, false)
    }

    /// Asks for the end: SIGTERM, and SIGKILL after the grace. Returns at once; the outcome comes when everything is
    /// cleaned up. Asking again skips the grace. After the end it does nothing: the end stands.
    pub fn cancel(&self, why: impl Into<Cancellation>) {
        self.cancel.cancel(why.into());
    }

    /// Something that can [`cancel`](Self::cancel) the execution while this value is being awaited.
    pub fn canceler(&self) -> Canceler {
        Canceler::new(Arc::clone(&self.cancel))
    }

    /// Lets the execution go on without anybody waiting for it. It still ends by its own limits, and with the engine.
    pub fn detach(mut self) {
        self.end = None;
    }
}

/// Cancels one execution, or all of a group; see [`Execution::canceler`] and [`Group::canceler`](crate::Group::canceler).
/// Dropping it cancels nothing.
#[derive(Debug, Clone)]
pub struct Canceler(Arc<CancelHandle>);

impl Canceler {
    pub(crate) fn new(handle: Arc<CancelHandle>) -> Self {
        Self(handle)
    }

    /// Asks, but never insists.
    pub(crate) fn ask(&self, cancellation: Cancellation) {
        self.0.ask(cancellation);
    }

    /// As [`Execution::cancel`].
    pub fn cancel(&self, why: impl Into<Cancellation>) {
        self.0.cancel(why.into());
    }
}

impl Future for Execution {
    type Output = Result<Report, ExecutionError>;

    /// # Panics
    /// When polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let end = self.end.as_mut().expect("an execution has one end, which was taken already");
        let ended = std::task::ready!(Pin::new(end).poll(cx));
        self.end = None;
        Poll::Ready(ended.unwrap_or_else(|_| {
            let kind = self.log.error().unwrap_or_else(|| dropped(false));
            Err(ExecutionError::new(kind, Report::new(self.id, self.label.clone())))
        }))
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        if self.end.is_some() {
            self.cancel.ask(CancelSource::Dropped.into());
        }
    }
}

/// The end of an execution whose task was dropped before it could tell one.
pub(crate) fn dropped(panicking: bool) -> ErrorKind {
    let reason = if panicking {
        "the task that ran it panicked, which is a bug of the engine; what ran was killed"
    } else {
        "the runtime that the engine was built on went away; what ran was killed"
    };
    ErrorKind::Lost { reason: reason.into() }
}
