//! Where blocking work is done: on the runtime's blocking threads, but only so many at a time, and tracked.

use std::sync::Arc;

use tokio::{runtime::Handle, sync::Semaphore, task::JoinHandle};
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

    /// Does the work when a place is free. When this future is dropped the work may still be done; what it returns is
    /// then dropped where it was done.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return Err(Unfinished { panicked: false });
        };
        let job = self.spawn(move || {
            let _permit = permit;
            work()
        });
        job.await.map_err(|error| Unfinished { panicked: error.is_panic() })
    }

    /// Does the work at once, whatever else is going on: for what is short, or has a bound of its own.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn_blocking_on(work, &self.runtime)
    }
}
