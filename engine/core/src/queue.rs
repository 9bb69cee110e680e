//! Whose turn it is: so many executions at a time, of one owner and of all together, with so much memory; so many more in
//! line, none for longer than it may wait.

mod gate;
mod line;

use std::time::Duration;

use tokio::time::timeout;

use self::gate::{Entry, Full, Gate};
pub(crate) use self::{
    gate::Permit,
    line::{Bounds, Claim},
};
use crate::error::{ErrorKind, invalid};

#[derive(Debug)]
pub(crate) struct Queue {
    gate: Gate,
    bounds: Bounds,
}

impl Queue {
    pub(crate) fn new(mut bounds: Bounds) -> Self {
        bounds.running = bounds.running.max(1);
        bounds.running_per_owner = bounds.running_per_owner.max(1);
        Self { gate: Gate::new(bounds.clone()), bounds }
    }

    pub(crate) fn max_running(&self) -> usize {
        self.bounds.running
    }

    /// Whether memory is looked at.
    pub(crate) fn weighs(&self) -> bool {
        self.bounds.memory.is_some()
    }

    /// Waits for its turn: owners take turns, and of one owner the first is the first. Cancel-safe: who stops waiting
    /// leaves the line.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the line is full, or after `patience`; [`ErrorKind::Invalid`] for a call that there will
    /// never be room for.
    pub(crate) async fn admit(&self, claim: Claim, patience: Duration) -> Result<Permit<'_>, ErrorKind> {
        if let Some(bound) = self.bounds.memory.filter(|bound| claim.memory > *bound) {
            return Err(invalid(
                "limit memory",
                format!(
                    "the call may use {} bytes, and all that run together may use {bound}: it would wait for ever",
                    claim.memory
                ),
                "lower its limit, or allow more with `max_memory`",
            ));
        }
        let wanted = claim.clone();
        let waiting = match self.gate.enter(claim) {
            Ok(Entry::Admitted(permit)) => return Ok(permit),
            Ok(Entry::Waiting(waiting)) => waiting,
            Err(Full) => {
                return Err(ErrorKind::Busy {
                    reason: format!("the queue is full: {}", self.standing(&wanted)),
                });
            }
        };
        timeout(patience, waiting).await.map_err(|_| ErrorKind::Busy {
            reason: format!("waited {patience:?} for a turn: {}", self.standing(&wanted)),
        })
    }

    /// What there is no room beside, in words.
    fn standing(&self, claim: &Claim) -> String {
        let (now, bounds) = (self.gate.counts(), &self.bounds);
        let mut words = format!(
            "{} executions run and {} wait, of at most {} and {}",
            now.running, now.queued, bounds.running, bounds.queued
        );
        let (run, wait) = self.gate.counts_of(&claim.owner);
        if bounds.running_per_owner < bounds.running {
            words += &format!("; {run} of this owner run, of at most {}", bounds.running_per_owner);
        }
        if bounds.queued_per_owner < bounds.queued {
            words += &format!("; {wait} of this owner wait, of at most {}", bounds.queued_per_owner);
        }
        if let Some(bound) = bounds.memory {
            let (used, wanted) = (now.memory, claim.memory);
            words += &format!("; they may use {used} of {bound} bytes of memory, and this call {wanted}");
        }
        words
    }
}
