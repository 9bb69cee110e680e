//! Where blocking work is done: on a few threads that the engine has from its beginning.
//!
//! Not on the runtime's blocking threads: those are made when they are needed, and when the system has no thread to give
//! at that moment tokio panics. Here that is found out when the engine is built.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::task::TaskTracker;

type Work = Box<dyn FnOnce() + Send>;

/// Some threads, and the work that waits for them. They end, after what waits, when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Lane {
    open: Arc<Open>,
    tracker: TaskTracker,
    places: Arc<Semaphore>,
    /// How many pieces of work were done in a place.
    done: Arc<AtomicU64>,
}

/// Work that was not finished: it panicked, or the lane was closed before.
#[derive(Debug)]
pub struct Unfinished;

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    closed: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under this lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Work> {
        let mut state = self.state();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                return Some(work);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The queue's end for those who bring work.
struct Open(Arc<Queue>);

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Open")
    }
}

impl Open {
    fn close(&self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.close();
    }
}

impl Lane {
    /// `threads` threads with this name. Work is tracked by `tracker` until it is done.
    ///
    /// # Errors
    /// When the system has no more threads to give.
    pub fn open(name: &str, threads: usize, tracker: TaskTracker) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        // Closed on the way out when one of them cannot be had, so that the others end.
        let open = Arc::new(Open(Arc::clone(&queue)));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            let work = move || {
                while let Some(work) = queue.next() {
                    work();
                }
            };
            thread::Builder::new().name(name.into()).spawn(work)?;
        }
        Ok(Self { open, tracker, places: Arc::new(Semaphore::new(threads)), done: Arc::default() })
    }

    /// Lets the threads end after what waits now. What is brought later is not done.
    pub(crate) fn close(&self) {
        self.open.close();
    }

    /// Waits for a thread to be free, first come, first served. Cancel-safe.
    pub(crate) async fn place(&self) -> Option<Place<'_>> {
        let permit = Arc::clone(&self.places).acquire_owned().await.ok()?;
        Some(Place { lane: self, permit })
    }

    /// How many pieces of work were done in a [place](Self::place) so far: while that grows, waiting for one is no standstill.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Has the work done as soon as a thread is free. When the job is dropped the work is still done; what it returns is
    /// then dropped where it was done.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Job<T> {
        self.spawn_then(work, || {})
    }

    /// The same, and after that something more, which nobody waits for.
    fn spawn_then<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce() + Send + 'static,
    ) -> Job<T> {
        let (sender, receiver) = oneshot::channel();
        let token = self.tracker.token();
        let work = Box::new(move || {
            let done = catch_unwind(AssertUnwindSafe(work)).map_err(|_| Unfinished);
            // Who does not wait any more leaves the result to be dropped here.
            drop(sender.send(done));
            // Nobody is there to be told.
            let _ = catch_unwind(AssertUnwindSafe(then));
            drop(token);
        });
        let mut state = self.open.0.state();
        if !state.closed {
            state.waiting.push_back(work);
        }
        drop(state);
        self.open.0.changed.notify_one();
        Job(receiver)
    }
}

/// A thread of the lane, for one piece of work.
pub(crate) struct Place<'a> {
    lane: &'a Lane,
    permit: OwnedSemaphorePermit,
}

impl Place<'_> {
    /// Has the work done now, and then something more, which nobody waits for. It keeps the place until both are done, even
    /// when nobody waits for the first any more.
    pub(crate) fn spawn<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce() + Send + 'static,
    ) -> Job<T> {
        let done = Done(Arc::clone(&self.lane.done));
        let permit = self.permit;
        let work = move || {
            let _done = done;
            work()
        };
        let then = move || {
            let _permit = permit;
            then();
        };
        self.lane.spawn_then(work, then)
    }
}

/// Counts when dropped, also by a panic.
struct Done(Arc<AtomicU64>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Work under way, to be awaited.
#[derive(Debug)]
pub struct Job<T>(oneshot::Receiver<Result<T, Unfinished>>);

impl<T> Future for Job<T> {
    type Output = Result<T, Unfinished>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|done| done.unwrap_or(Err(Unfinished)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_one_piece_of_work_does_no_harm_to_the_next() {
        let lane = Lane::open("lane", 1, TaskTracker::new()).unwrap();
        assert!(lane.spawn(|| panic!("on purpose")).await.is_err());
        assert_eq!(lane.spawn(|| 2).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn what_waits_is_done_when_the_lane_closes_and_then_its_threads_end() {
        let tracker = TaskTracker::new();
        let lane = Lane::open("lane", 2, tracker.clone()).unwrap();
        let queue = Arc::downgrade(&lane.open.0);
        let jobs: Vec<_> = (0..100).map(|number| lane.spawn(move || number)).collect();
        drop(lane);
        for (number, job) in jobs.into_iter().enumerate() {
            assert_eq!(job.await.unwrap(), number);
        }
        tracker.close();
        tracker.wait().await;
        while queue.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    }
}
