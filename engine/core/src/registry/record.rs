//! What is known of one submitted execution, for as long as somebody may ask.

use std::{sync::Arc, time::Duration};

use tokio::sync::SetOnce;

use super::{End, Status, fingerprint::Fingerprint, shelf::Shelf, weight};
use crate::{
    cancel::{CancelHandle, Cancellation},
    event_log::{EventLog, Events},
    execution::ExecutionId,
    state::State,
};

/// Shared by the task that runs the execution, the shelf, and who waits.
#[derive(Debug)]
pub(crate) struct Record {
    pub(super) id: Arc<str>,
    pub(super) execution: ExecutionId,
    pub(super) owner: Option<Arc<str>>,
    pub(super) tool: String,
    pub(super) fingerprint: Fingerprint,
    pub(super) cancel: CancelHandle,
    pub(super) log: Arc<EventLog>,
    pub(super) end: SetOnce<End>,
}

impl Record {
    /// Ended when the end is there: who has seen the one finds the other.
    pub(super) fn state(&self) -> State {
        match self.end.get() {
            Some(_) => State::Ended,
            None => self.cancel.stage().state().min(State::Stopping),
        }
    }

    pub(super) fn status(&self, number: u64) -> Status {
        let state = self.state();
        let end = self.end.get().filter(|_| state == State::Ended);
        Status {
            id: self.id.to_string(),
            number,
            execution: self.execution,
            tool: self.tool.clone(),
            owner: self.owner.as_deref().map(str::to_owned),
            state,
            error: end.and_then(|end| end.as_ref().as_ref().err()).map(|error| error.kind().clone()),
            cancellation: self.cancel.request().filter(|_| state != State::Ended),
            age: self.log.began().elapsed(),
        }
    }

    /// After the end it does nothing.
    pub(super) fn cancel(&self, why: Cancellation) {
        if self.state() != State::Ended {
            self.cancel.cancel(why);
        }
    }

    pub(super) fn events(&self, after: Option<u64>) -> Events {
        self.log.read_from(after.map_or(0, |seq| seq.saturating_add(1)), false)
    }
}

/// A record on its shelf, for the one who tells its end.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(super) number: u64,
    pub(super) record: Arc<Record>,
    pub(super) shelf: Arc<Shelf>,
}

impl Entry {
    /// Hands the end to those who wait; the first one stands.
    pub(crate) fn end(&self, end: End) {
        let _ = self.record.end.set(end);
    }

    /// From now on the record stays for as long as it may.
    pub(crate) fn close(self) {
        let Some(end) = self.record.end.get() else { return };
        let bytes = weight::of(&self.record, end);
        let now: Duration = self.shelf.now();
        let gone = self.shelf.book().end(self.number, bytes, now);
        drop(gone);
    }
}
