//! The queue, the state of an execution and the registry's book under a scheduler that tries out interleavings
//! ([`shuttle`]): the library's own files, compiled with that scheduler's locks and atomics.
//!
//! Promises, for hundreds of random schedules, and for those in which few preemptions matter: no more run than may, also when
//! waiters go away at any moment; a permit granted to one that has just gone is passed on, nobody sleeps for ever, and at the
//! end nothing is taken. Of submits with one id one makes the execution; who cancels what has not begun finds that it never
//! begins; whoever cancels finds the record afterwards; the first end stands.
//!
//! Does not promise: what depends on weaker orderings than sequential consistency, which this scheduler does not model; nor
//! anything of tokio's part in it.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "../src/registry/book.rs"]
#[expect(dead_code, reason = "what it does alone is looked at in `models.rs`")]
mod book;
#[path = "../src/queue/gate.rs"]
mod gate;
#[path = "../src/queue/line.rs"]
mod line;
#[path = "../src/state.rs"]
#[expect(unreachable_pub, dead_code, reason = "the library exports it; here there is one attempt")]
mod state;
mod sync {
    pub(crate) use shuttle::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU8, Ordering},
    };
}

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use book::{Book, Keep};
use gate::{Entry, Gate};
use line::{Bounds, Claim};
use shuttle::{
    future::block_on,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use state::{Stage, State};

/// Random schedules, and schedules in which the order of few steps matters.
fn explore(test: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(test.clone(), 600);
    shuttle::check_pct(test, 600, 3);
}

/// Polls so often, and then gives up.
struct Impatient<F> {
    inner: Pin<Box<F>>,
    polls: usize,
}

impl<F: Future> Future for Impatient<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.inner.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if self.polls == 0 {
            return Poll::Ready(None);
        }
        self.polls -= 1;
        // It comes back by itself, whether or not it was woken.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[test]
fn permits_are_never_lost_however_waiters_come_and_go() {
    explore(|| {
        let bounds =
            Bounds { running: 2, running_per_owner: 1, queued: 3, queued_per_owner: 3, memory: Some(5) };
        let gate = Arc::new(Gate::new(bounds));
        let (running, memory) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // Owner, memory, and for how many polls it waits.
        let callers = [("a", 3, None), ("a", 1, Some(0)), ("b", 3, Some(1)), ("c", 2, None), ("b", 1, None)];
        let threads = callers.map(|(owner, bytes, polls)| {
            let (gate, running, memory) = (Arc::clone(&gate), Arc::clone(&running), Arc::clone(&memory));
            thread::spawn(move || {
                let claim = Claim { owner: Some(owner.into()), memory: bytes as u64 };
                let permit = match gate.enter(claim.clone()) {
                    Err(gate::Full) => return,
                    Ok(Entry::Admitted(permit)) => permit,
                    Ok(Entry::Waiting(waiting)) => match polls {
                        None => block_on(waiting),
                        Some(polls) => match block_on(Impatient { inner: Box::pin(waiting), polls }) {
                            Some(permit) => permit,
                            None => return,
                        },
                    },
                };
                assert!(running.fetch_add(1, Ordering::SeqCst) < 2);
                assert!(memory.fetch_add(bytes, Ordering::SeqCst) + bytes <= 5);
                assert_eq!(gate.counts_of(&claim.owner).0, 1);
                thread::yield_now();
                memory.fetch_sub(bytes, Ordering::SeqCst);
                running.fetch_sub(1, Ordering::SeqCst);
                drop(permit);
            })
        });
        // That all of them come to an end is half of the test: the scheduler finds it when nobody can go on.
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let counts = gate.counts();
        assert_eq!((counts.running, counts.queued, counts.memory), (0, 0, 0));
    });
}

/// As much of an execution as matters here.
struct Life {
    stage: Stage,
    /// Whether it ended by a cancel; set once.
    canceled: Mutex<Option<bool>>,
}

type Records = Arc<Mutex<Book<Arc<Life>>>>;

/// What the task of an execution does.
fn live(book: &Records, number: u64, life: &Life) {
    let canceled = !life.stage.begin();
    if !canceled {
        life.stage.reach(State::Running);
        thread::yield_now();
        life.stage.reach(State::Stopping);
    }
    drop(book.lock().unwrap().end(number, 1, Duration::ZERO));
    assert_eq!(life.canceled.lock().unwrap().replace(canceled), None, "one end");
    life.stage.reach(State::Ended);
}

fn submit(book: &Records, lives: &AtomicUsize) {
    let mut open = book.lock().unwrap();
    if open.find("id", Duration::ZERO).is_some() {
        return;
    }
    let life = Arc::new(Life { stage: Stage::new(), canceled: Mutex::new(None) });
    let (number, _) = open.insert("id".into(), Some("owner".into()), Arc::clone(&life));
    drop(open);
    lives.fetch_add(1, Ordering::SeqCst);
    live(book, number, &life);
}

fn find(book: &Records) -> Option<Arc<Life>> {
    book.lock().unwrap().find("id", Duration::ZERO).map(|(_, life)| Arc::clone(life))
}

/// The state after the cancel, as the caller sees it.
fn cancel(life: &Life) -> State {
    let before = life.stage.state();
    if before != State::Ended {
        life.stage.ask();
    }
    let after = life.stage.state();
    assert!(after >= State::Stopping && after >= before, "{before:?}, then {after:?}");
    before
}

#[test]
fn one_id_is_one_execution_and_a_cancel_before_the_beginning_stands() {
    explore(|| {
        let keep = Keep { retention: Duration::from_secs(1), records: 1, bytes: 0 };
        let book: Records = Arc::new(Mutex::new(Book::new(keep)));
        let lives = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::new();
        for _ in 0..2 {
            let (book, lives) = (Arc::clone(&book), Arc::clone(&lives));
            threads.push(thread::spawn(move || submit(&book, &lives)));
        }
        for all in [false, true] {
            let book = Arc::clone(&book);
            threads.push(thread::spawn(move || {
                let known = match all {
                    true => book.lock().unwrap().active(Some("owner")).pop(),
                    false => find(&book),
                };
                let Some(life) = known else { return };
                // It may begin between the look and the request, but not after the request.
                cancel(&life);
                let begins_late = life.stage.begin();
                assert!(!begins_late, "it began after it was cancelled");
                assert!(find(&book).is_some(), "a cancel is followed by a record");
            }));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(lives.load(Ordering::SeqCst), 1);
        let life = find(&book).unwrap();
        assert_eq!(life.stage.state(), State::Ended);
        assert!(life.canceled.lock().unwrap().is_some());
        assert!(book.lock().unwrap().active(None).is_empty());
    });
}

#[test]
fn a_record_picked_up_while_its_end_is_told_is_gone_for_good() {
    explore(|| {
        let keep = Keep { retention: Duration::from_secs(1), records: 10, bytes: 10 };
        let book: Records = Arc::new(Mutex::new(Book::new(keep)));
        let lives = Arc::new(AtomicUsize::new(0));
        let submitter = {
            let (book, lives) = (Arc::clone(&book), Arc::clone(&lives));
            thread::spawn(move || submit(&book, &lives))
        };
        let picker = {
            let book = Arc::clone(&book);
            thread::spawn(move || {
                let mut open = book.lock().unwrap();
                // As the registry does it: only what has its end may go.
                let ended = open
                    .find("id", Duration::ZERO)
                    .is_some_and(|(_, life)| life.canceled.lock().unwrap().is_some());
                ended && open.remove("id").is_some()
            })
        };
        submitter.join().unwrap();
        let picked = picker.join().unwrap();
        let book = book.lock().unwrap();
        assert_eq!(book.find("id", Duration::ZERO).is_none(), picked);
        assert_eq!(book.size(), if picked { (0, 0) } else { (1, 1) });
    });
}
