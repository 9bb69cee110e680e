//! Where blocking work is done: on the runtime's blocking threads, but only so many at a time, and tracked.

use std::sync::Arc;

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};
use tokio_util::task::TaskTracker;

/// Starts blocking work on the runtime that the engine was built on.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    runtime: Handle,
    tracker: TaskTracker,
    permits: Arc<Semaphore>,
}

/// Blocking work that did not finish: the runtime went away, or the work panicked.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(crate) panicked: bool,
}

impl Lane {
    pub(crate) fn new(runtime: Handle, tracker: TaskTracker) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self { runtime, tracker, permits: Arc::new(Semaphore::new((cores * 2).max(4))) }
    }

    /// Waits for a place, first come, first served. Cancel-safe.
    pub(crate) async fn place(&self) -> Result<Place<'_>, Unfinished> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        permit.map(|permit| Place { lane: self, permit }).map_err(|_| Unfinished { panicked: false })
    }

    /// Does the work at once, whatever else is going on: for what is short, or has a bound of its own.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn_blocking_on(work, &self.runtime)
    }
}

/// A place in the lane, for one piece of work.
pub(crate) struct Place<'a> {
    lane: &'a Lane,
    permit: OwnedSemaphorePermit,
}

impl Place<'_> {
    /// Does the work. When this future is dropped the work is still done, and keeps the place till then; what it returns
    /// is dropped where it was done.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let job = self.lane.spawn(move || {
            let _permit = self.permit;
            work()
        });
        job.await.map_err(|error| Unfinished { panicked: error.is_panic() })
    }
}
