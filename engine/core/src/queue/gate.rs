//! The line, for those who wait in it: under a lock, with futures that leave it when they are dropped.

use std::{
    future::Future,
    pin::Pin,
    sync::PoisonError,
    task::{Context, Poll, Waker},
};

use super::line::{Bounds, Claim, Counts, Entered, Line, Owner};
use crate::sync::{Mutex, MutexGuard};

#[derive(Debug)]
pub(crate) struct Gate(Mutex<Line>);

/// The line is full.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Gate {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self(Mutex::new(Line::new(bounds)))
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Nothing that runs under this lock leaves it half done when it panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the line.
    ///
    /// # Errors
    /// When it is full, or has as many of this owner as it may, and there is no room to run at once.
    pub(crate) fn enter(&self, claim: Claim) -> Result<Entry<'_>, Full> {
        let entered = self.line().enter(&claim);
        match entered {
            Entered::Admitted => Ok(Entry::Admitted(Permit { gate: self, claim })),
            Entered::Waits(ticket) => {
                Ok(Entry::Waiting(Waiting { gate: self, place: Some((claim, ticket)) }))
            }
            Entered::Full => Err(Full),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.line().counts()
    }

    /// How many of this owner run, and how many wait.
    pub(crate) fn counts_of(&self, owner: &Owner) -> (usize, usize) {
        let line = self.line();
        (line.running_of(owner), line.waiting_of(owner))
    }
}

#[derive(Debug)]
pub(crate) enum Entry<'a> {
    Admitted(Permit<'a>),
    Waiting(Waiting<'a>),
}

/// A place among those that run, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    gate: &'a Gate,
    claim: Claim,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let admitted = self.gate.line().release(&self.claim);
        admitted.into_iter().for_each(Waker::wake);
    }
}

/// A place in line. Dropped, it is given up; had it been its turn already, the next one's turn it is.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    gate: &'a Gate,
    /// Until it is admitted.
    place: Option<(Claim, u64)>,
}

impl<'a> Future for Waiting<'a> {
    type Output = Permit<'a>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some((claim, ticket)) = self.place.take() else { return Poll::Pending };
        if self.gate.line().waits(&claim.owner, ticket, cx.waker()) {
            self.place = Some((claim, ticket));
            return Poll::Pending;
        }
        Poll::Ready(Permit { gate: self.gate, claim })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some((claim, ticket)) = self.place.take() {
            let admitted = self.gate.line().leave(&claim, ticket);
            admitted.into_iter().for_each(Waker::wake);
        }
    }
}
