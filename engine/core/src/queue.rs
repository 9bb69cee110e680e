//! Whose turn it is: so many executions at a time, so many more in line, none for longer than it may wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::error::ErrorKind;

#[derive(Debug)]
pub(crate) struct Queue {
    running: Arc<Semaphore>,
    max_running: usize,
    max_queued: usize,
    queued: AtomicUsize,
}

impl Queue {
    pub(crate) fn new(max_running: usize, max_queued: usize) -> Self {
        let max_running = max_running.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            running: Arc::new(Semaphore::new(max_running)),
            max_running,
            max_queued,
            queued: AtomicUsize::new(0),
        }
    }

    pub(crate) fn max_running(&self) -> usize {
        self.max_running
    }

    /// Waits for its turn, first come, first served. Cancel-safe: who stops waiting leaves the line.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the line is full, or after `patience`.
    pub(crate) async fn admit(&self, patience: Duration) -> Result<OwnedSemaphorePermit, ErrorKind> {
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(permit);
        }
        let Some(_place) = Place::take(&self.queued, self.max_queued) else {
            return Err(ErrorKind::Busy {
                reason: format!(
                    "{} executions run and {} wait, which is all there is room for",
                    self.max_running, self.max_queued
                ),
            });
        };
        match timeout(patience, Arc::clone(&self.running).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(ErrorKind::Busy {
                reason: format!("waited {patience:?} for one of {} executions to end", self.max_running),
            }),
        }
    }
}

/// A place in the line, given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(queued: &'a AtomicUsize, most: usize) -> Option<Self> {
        let one_more = |queued| (queued < most).then_some(queued + 1);
        queued.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok().map(|_| Self(queued))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
