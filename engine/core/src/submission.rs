//! From a call to the task that runs it.

use std::sync::Arc;

use tracing::Instrument as _;

use crate::{
    call::Call,
    cancel::{CancelHandle, Cancels},
    ending::Ending,
    engine::Core,
    event_log::EventLog,
    execution::ExecutionId,
    life,
    limits::Limits,
    masking::Masking,
    observed::Observed,
};

/// An execution that has not begun: what others hold of it, and its task.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) id: ExecutionId,
    /// The tool's name, or the command; masked.
    pub(crate) label: String,
    pub(crate) log: Arc<EventLog>,
    pub(crate) cancel: CancelHandle,
    pub(crate) task: Task,
}

/// What runs it.
#[derive(Debug)]
pub(crate) struct Task {
    call: Call,
    masking: Masking,
    cancels: Cancels,
}

impl Submission {
    pub(crate) fn new(core: &Core, call: Call) -> Self {
        let masking = Masking::of(&call.secrets);
        let mut label = call.label();
        masking.label(&call.secrets, &mut label);
        let ring = call.limits.event_ring.or(core.starter.limits.event_ring);
        let ring = Limits { event_ring: ring, ..Limits::default() }.event_ring();
        let log = Arc::new(EventLog::new(ring, call.back_pressure, core.event_bytes.clone()));
        let (cancel, cancels) = Cancels::new(call.tokens.clone(), core.closing.clone());
        Self { id: ExecutionId::new(), label, log, cancel, task: Task { call, masking, cancels } }
    }
}

impl Task {
    /// Runs it in the background. The end is told however that ends.
    pub(crate) fn spawn(self, core: &Arc<Core>, ending: Ending) {
        let Task { call, masking, cancels } = self;
        let (lent, alive) = (Arc::clone(core), Arc::clone(&core.alive));
        let mut observed = Observed::new(ending.id, &call, &ending.label, core.starter.catalog.as_deref());
        let span = observed.span();
        let task = async move {
            let (id, label) = (ending.id, ending.label.clone());
            let ended = life::live(&lent, id, call, label, masking, &ending.log, &cancels).await;
            observed.ended(&ended);
            drop(alive);
            ending.tell(ended);
        };
        core.tracker.spawn_on(task.instrument(span), &core.runtime);
    }
}
