//! The executions that are known by an id: submitted, looked at, awaited and cancelled by whoever has the id.

mod book;
mod fingerprint;
mod record;
mod shelf;
mod weight;

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::SetOnce;

pub(crate) use self::{book::Keep, record::Entry, shelf::Shelf};
use self::{fingerprint::Fingerprint, record::Record};
use crate::{
    call::{Call, check_name},
    cancel::Cancellation,
    ending::{Ending, Hearer},
    engine::Engine,
    error::{ErrorKind, ExecutionError, invalid},
    event_log::Events,
    execution::ExecutionId,
    report::Report,
    state::State,
    submission::Submission,
};

/// How an execution ended, for all who ask.
pub type End = Arc<Result<Report, ExecutionError>>;

/// The executions of an engine that were submitted here, from [`Engine::registry`]. Cheap to clone; it counts as a clone of
/// the engine.
///
/// Nobody holds what was submitted: it runs until it ends or somebody cancels it, and who stops waiting or reading cancels
/// nothing. Its record stays until it is [removed](Self::remove), for [`retention`](crate::EngineBuilder::retention) after
/// its end, or until there are too many ([`max_records`](crate::EngineBuilder::max_records),
/// [`max_record_bytes`](crate::EngineBuilder::max_record_bytes)): then those that ended first go first. What has not
/// ended stays.
///
/// None of these methods blocks, and all may be called outside a runtime.
///
/// ```
/// use tool_engine::{Call, Engine, State};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::builder().build()?;
/// let registry = engine.registry();
/// let call = || Call::command(["sleep", "100"]).id("turn 7, call 2").owner("agent 12");
/// assert!(registry.submit(call())?.is_new);
/// assert!(!registry.submit(call())?.is_new, "the same call: the same execution");
/// assert!(registry.submit(call().env("TZ", "UTC")).is_err(), "another one");
/// let status = registry.cancel("turn 7, call 2", "the turn is over")?;
/// assert_eq!(status.state, State::Stopping);
/// assert!(registry.wait("turn 7, call 2").await?.is_err());
/// assert_eq!(registry.status("turn 7, call 2")?.outcome(), Some("canceled"));
/// # engine.shutdown(std::time::Duration::from_secs(5)).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Registry {
    engine: Engine,
}

/// A call that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Submitted {
    /// The caller's id; without one, the execution's.
    pub id: String,
    /// The execution's own id.
    pub execution: ExecutionId,
    /// False when the same call had been submitted before: this is its execution.
    pub is_new: bool,
}

/// Why a call was not taken. Nothing was started.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The id is that of another call, or nobody can tell.
    #[error(
        "the id {id:?} was given to a call before, and this is not known to be the same call: {why}; submit it under an id of \
         its own"
    )]
    Conflict {
        /// The id.
        id: String,
        /// What they differ in, as far as that may be told.
        why: String,
    },
    /// The id or the owner is none, or it asks for [back-pressure](Call::back_pressure): [`ErrorKind::Invalid`].
    #[error("{0}")]
    Invalid(ErrorKind),
}

/// There is no record of this id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no execution {id:?} is known: none was submitted under this id, or its record was picked up, or has been kept for as \
     long as `retention`, `max_records` and `max_record_bytes` allow"
)]
pub struct UnknownId {
    /// The id.
    pub id: String,
}

/// Why a record was not removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// There is none.
    #[error(transparent)]
    Unknown(#[from] UnknownId),
    /// Its execution has not ended.
    #[error("execution {id:?} has not ended; cancel it, or wait for it, and remove it then")]
    NotEnded {
        /// The id.
        id: String,
    },
}

/// What is known of an execution at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Status {
    /// The id that it was submitted under.
    pub id: String,
    /// Its place in the order of submission, from 1.
    pub number: u64,
    /// The execution's own id.
    pub execution: ExecutionId,
    /// The tool's name, or the command.
    pub tool: String,
    /// On whose behalf.
    pub owner: Option<String>,
    /// How far it has come.
    pub state: State,
    /// When it has ended: why it did not succeed; `None` when it did.
    pub error: Option<ErrorKind>,
    /// Before it has ended: who has asked for the end by [`Registry::cancel`], and why.
    pub cancellation: Option<Cancellation>,
    /// Since its submission.
    #[serde(rename = "age_ms", with = "crate::report::millis")]
    #[schemars(with = "f64")]
    pub age: Duration,
}

impl Status {
    /// When it has ended: `ok`, or the name of the error's kind.
    pub fn outcome(&self) -> Option<&'static str> {
        (self.state == State::Ended).then(|| self.error.as_ref().map_or("ok", ErrorKind::name))
    }
}

/// Which records to [list](Registry::list). `None` means: any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this owner.
    pub owner: Option<String>,
    /// In this state.
    pub state: Option<State>,
    /// Of this tool, or command, as [`Status::tool`] has it.
    pub tool: Option<String>,
    /// Submitted after the one with this [number](Status::number).
    pub after: Option<u64>,
    /// At most so many. Default 100.
    pub limit: Option<usize>,
}

impl Registry {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    fn shelf(&self) -> &Arc<Shelf> {
        &self.engine.core().shelf
    }

    /// Starts an execution, as [`Engine::start`] does, under the [id](Call::id) that its caller gave, or else its own. The
    /// same call under the same id is the same execution, running or ended: to submit it again is safe.
    ///
    /// The same is a call of which nothing that shapes it differs: what is called and by whom, input, environment, secrets,
    /// limits, policy. A call with an open file as its standard input, or with a cancellation token, cannot be compared.
    ///
    /// # Errors
    /// [`SubmitError`]. Whatever else is wrong with the call is told by the execution's outcome.
    pub fn submit(&self, call: Call) -> Result<Submitted, SubmitError> {
        for (what, name) in [("id", &call.id), ("owner", &call.owner)] {
            name.as_ref().map_or(Ok(()), |name| check_name(what, name)).map_err(SubmitError::Invalid)?;
        }
        if call.back_pressure {
            return Err(SubmitError::Invalid(invalid(
                "back-pressure",
                "no reader holds what is submitted, so none may hold it up",
                "leave it out, or use `Engine::start`",
            )));
        }
        let (core, shelf) = (self.engine.core(), self.shelf());
        let fingerprint = match call.id {
            Some(_) => Fingerprint::of(&call),
            None => Fingerprint::Unique("the id is one that the engine gave"),
        };
        let (own_id, owner) = (call.id.clone(), call.owner.as_deref().map(Arc::from));
        let Submission { id: execution, label, log, cancel, task } = Submission::new(core, call);
        let id: Arc<str> = own_id.unwrap_or_else(|| execution.to_string()).into();
        let record = Arc::new(Record {
            id: Arc::clone(&id),
            execution,
            owner,
            tool: label.clone(),
            fingerprint,
            cancel,
            log: Arc::clone(&log),
            end: SetOnce::new(),
        });

        let (now, mut book) = (shelf.now(), shelf.book());
        if let Some((_, known)) = book.find(&id, now) {
            let known = Arc::clone(known);
            drop(book);
            return match known.fingerprint.compare(&record.fingerprint) {
                Ok(()) => Ok(Submitted { id: id.to_string(), execution: known.execution, is_new: false }),
                Err(why) => Err(SubmitError::Conflict { id: id.to_string(), why: why.into() }),
            };
        }
        let (number, expired) = book.insert(Arc::clone(&id), record.owner.clone(), Arc::clone(&record));
        drop(book);
        drop(expired);
        let stage = Arc::clone(record.cancel.stage());
        let entry = Entry { number, record, shelf: Arc::clone(shelf) };
        task.spawn(core, Ending { id: execution, label, log, stage, hearer: Some(Hearer::Registry(entry)) });
        if shelf.is_first() {
            let sweep = Arc::clone(shelf).sweep(core.closing.asked.clone());
            core.tracker.spawn_on(sweep, &core.runtime);
        }
        Ok(Submitted { id: id.to_string(), execution, is_new: true })
    }

    fn find(&self, id: &str) -> Result<(u64, Arc<Record>), UnknownId> {
        let shelf = self.shelf();
        let found = shelf.book().find(id, shelf.now()).map(|(number, record)| (number, Arc::clone(record)));
        found.ok_or_else(|| UnknownId { id: id.into() })
    }

    /// What is known of it now.
    ///
    /// # Errors
    /// [`UnknownId`]
    pub fn status(&self, id: &str) -> Result<Status, UnknownId> {
        self.find(id).map(|(number, record)| record.status(number))
    }

    /// What happened, after the event with this seq, or from the beginning on, and what will happen. What is not held any
    /// more is told as a [`Gap`](crate::EventKind::Gap); the end is always there. A reader that has begun goes on, whatever
    /// becomes of the record. Dropping it cancels nothing.
    ///
    /// # Errors
    /// [`UnknownId`]
    pub fn events(&self, id: &str, after: Option<u64>) -> Result<Events, UnknownId> {
        self.find(id).map(|(_, record)| record.events(after))
    }

    /// Waits for the end. Any number may wait; who comes after the end has it at once.
    ///
    /// Cancel-safe: who stops waiting loses nothing and cancels nothing.
    ///
    /// # Errors
    /// [`UnknownId`], at once.
    pub async fn wait(&self, id: &str) -> Result<End, UnknownId> {
        let (_, record) = self.find(id)?;
        Ok(Arc::clone(record.end.wait().await))
    }

    /// Asks for the end, as [`Execution::cancel`](crate::Execution::cancel) does; asking again skips the grace. Returns at
    /// once, with the status: what has not ended is then [stopping](State::Stopping) and will be
    /// [`Canceled`](ErrorKind::Canceled), unless it ends by itself at this very moment; what waited for its turn is never
    /// started. What has ended stays as it is.
    ///
    /// # Errors
    /// [`UnknownId`]
    pub fn cancel(&self, id: &str, why: impl Into<Cancellation>) -> Result<Status, UnknownId> {
        let (number, record) = self.find(id)?;
        record.cancel(why.into());
        Ok(record.status(number))
    }

    /// [Cancels](Self::cancel) all that this owner has, or without an owner all that there are. How many had not ended. What
    /// is submitted meanwhile may or may not be among them.
    pub fn cancel_all(&self, owner: Option<&str>, why: impl Into<Cancellation>) -> usize {
        let why = why.into();
        let mut active = self.shelf().book().active(owner);
        active.retain(|record| record.state() != State::Ended);
        active.iter().for_each(|record| record.cancel(why.clone()));
        active.len()
    }

    /// What there is, in the order of submission. To go on where a list ended, ask for what comes
    /// [after](Filter::after) its last one.
    pub fn list(&self, filter: &Filter) -> Vec<Status> {
        /// Looked at under one lock, so that no list holds up a call.
        const PAGE: usize = 256;
        let limit = filter.limit.unwrap_or(100);
        let mut after = filter.after.unwrap_or(0);
        let mut found = Vec::new();
        while found.len() < limit {
            let shelf = self.shelf();
            let page = shelf.book().page(filter.owner.as_deref(), after, PAGE, shelf.now());
            let Some(last) = page.last else { break };
            after = last;
            let wanted = page.records.iter().filter(|(_, record)| {
                filter.tool.as_ref().is_none_or(|tool| *tool == record.tool)
                    && filter.state.is_none_or(|state| state == record.state())
            });
            found.extend(wanted.map(|(number, record)| record.status(*number)).take(limit - found.len()));
        }
        found
    }

    /// Picks the end up: the record is gone, and its id is free.
    ///
    /// # Errors
    /// [`RemoveError`]
    pub fn remove(&self, id: &str) -> Result<End, RemoveError> {
        let shelf = self.shelf();
        let now = shelf.now();
        let mut book = shelf.book();
        let Some((_, record)) = book.find(id, now) else {
            return Err(UnknownId { id: id.into() }.into());
        };
        let Some(end) = record.end.get().map(Arc::clone) else {
            return Err(RemoveError::NotEnded { id: id.into() });
        };
        let removed = book.remove(id);
        drop(book);
        drop(removed);
        Ok(end)
    }

    /// How many records there are, and about how many bytes those of what has ended take.
    pub fn size(&self) -> (usize, u64) {
        self.shelf().book().size()
    }
}
