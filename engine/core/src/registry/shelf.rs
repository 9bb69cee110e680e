//! The book of records, for many at once, and the one task that clears it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    book::{Book, Keep},
    record::Record,
};

/// How many records are removed under one lock.
const BATCH: usize = 256;

/// The records of an engine.
#[derive(Debug)]
pub(crate) struct Shelf {
    began: Instant,
    retention: Duration,
    book: Mutex<Book<Arc<Record>>>,
    swept: AtomicBool,
}

impl Shelf {
    pub(crate) fn new(keep: Keep) -> Self {
        Self {
            began: Instant::now(),
            retention: keep.retention,
            book: Mutex::new(Book::new(keep)),
            swept: AtomicBool::new(false),
        }
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book<Arc<Record>>> {
        // Nothing that runs under this lock leaves it half done when it panics.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many records there are, those included that have stayed for long enough and are not swept up yet.
    pub(crate) fn count(&self) -> usize {
        self.book().size().0
    }

    /// Since the beginning.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether the caller is the first to ask: it starts [`sweep`](Self::sweep).
    pub(super) fn is_first(&self) -> bool {
        !self.swept.load(Ordering::Relaxed) && !self.swept.swap(true, Ordering::Relaxed)
    }

    /// Removes what has stayed for long enough, until the engine closes. That it is not found any more does not depend on
    /// this: this gives its memory back.
    pub(super) async fn sweep(self: Arc<Self>, closing: CancellationToken) {
        /// However short the retention, it does not spin.
        const LEAST: Duration = Duration::from_millis(100);
        loop {
            let now = self.now();
            let gone = self.book().sweep(now, BATCH);
            if gone.len() == BATCH {
                drop(gone);
                tokio::task::yield_now().await;
                continue;
            }
            drop(gone);
            // What ends from now on stays for as long as that, at least.
            let idle = now.saturating_add(self.retention);
            let next = self.book().next_expiry().unwrap_or(idle).max(now + LEAST);
            let until = self.began.checked_add(next);
            tokio::select! { biased;
                () = closing.cancelled() => return,
                () = async {
                    match until {
                        Some(until) => sleep_until(until).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }
}
