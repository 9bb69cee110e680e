//! The end of an execution: told once, to everybody at the same moment, also when the task that ran it was dropped.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::{
    error::ExecutionError,
    event_log::EventLog,
    execution::{ExecutionId, dropped},
    registry::Entry,
    report::Report,
    state::{Stage, State},
};

/// Who waits for the end, beside the readers of the log.
#[derive(Debug)]
pub(crate) enum Hearer {
    Handle(oneshot::Sender<Result<Report, ExecutionError>>),
    Registry(Entry),
}

/// Tells the end when it is known, or when it is dropped.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) id: ExecutionId,
    pub(crate) label: String,
    pub(crate) log: Arc<EventLog>,
    pub(crate) stage: Arc<Stage>,
    /// Until it was told.
    pub(crate) hearer: Option<Hearer>,
}

impl Ending {
    pub(crate) fn tell(mut self, ended: Result<Report, ExecutionError>) {
        self.tell_once(ended);
    }

    fn tell_once(&mut self, ended: Result<Report, ExecutionError>) {
        let Some(hearer) = self.hearer.take() else { return };
        let error = ended.as_ref().err().map(|error| error.kind().clone());
        match hearer {
            Hearer::Handle(sender) => {
                self.log.end(error, || self.stage.reach(State::Ended));
                // Nobody may be waiting any more.
                let _ = sender.send(ended);
            }
            Hearer::Registry(entry) => {
                let end = Arc::new(ended);
                self.log.end(error, || {
                    entry.end(end);
                    self.stage.reach(State::Ended);
                });
                entry.close();
            }
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.hearer.is_some() {
            let report = Report::new(self.id, std::mem::take(&mut self.label));
            self.tell_once(Err(ExecutionError::new(dropped(std::thread::panicking()), report)));
        }
    }
}
