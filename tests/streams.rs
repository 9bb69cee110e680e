//! Event streams of what is known by an id: readers that come late, never read, or vanish, a thousand of them.
//!
//! Promised: every reader finds one end, the last event, whenever it comes and however little it read before; what the log
//! still holds is replayed from any event on, and what it does not is told as one gap with an exact count. Readers hold up
//! nobody: a tool writes what it writes whether a thousand read or none does. One that goes away cancels nothing, and
//! nothing of it is kept: no waker, no task.
//!
//! Not promised: that a reader which is slower than the log is long sees everything (see `output.rs` for back-pressure),
//! nor how events are cut into chunks.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use support::{Dice, PATIENCE, assert_same, hostile, pattern, ready, until, wait_for_output, with_engine};
use tokio::time::timeout;
use tool_engine::{Call, Chunk, EngineBuilder, Event, EventKind, Events, Limits, Registry, State};

const CROWD: usize = 1000;

fn plain(builder: EngineBuilder) -> EngineBuilder {
    builder
}

fn ring(bytes: u64) -> Limits {
    Limits { event_ring: Some(bytes), stdout: Some(64 << 20), ..Limits::default() }
}

async fn succeeds(registry: &Registry, id: &str) -> tool_engine::End {
    let end = timeout(PATIENCE, registry.wait(id)).await.expect("it ends").unwrap();
    assert!(end.is_ok(), "{end:?}");
    end
}

async fn rest(events: &mut Events) -> Vec<Event> {
    let mut found = Vec::new();
    while let Some(event) = timeout(PATIENCE, events.next()).await.expect("it ends") {
        found.push(event);
    }
    found
}

/// Checks what holds for everything that one reader can see: nothing is left out but what a gap counts, and there is one
/// end, the last event.
fn assert_whole(events: &[Event]) {
    let mut next = events.first().unwrap().seq;
    for event in events {
        assert_eq!(event.seq, next, "{event:?}");
        next += if let EventKind::Gap { missed } = event.kind { missed } else { 1 };
    }
    let ends = events.iter().filter(|event| matches!(event.kind, EventKind::Ended { .. })).count();
    assert_eq!(ends, 1);
    assert!(matches!(events.last().unwrap().kind, EventKind::Ended { .. }));
}

fn stdout(events: &[Event]) -> Vec<u8> {
    let chunks = events.iter().filter_map(|event| match &event.kind {
        EventKind::Stdout(Chunk(bytes)) => Some(&bytes[..]),
        _ => None,
    });
    chunks.flatten().copied().collect()
}

/// Counts how often it is woken; how many hold it is the count of its references.
#[derive(Debug, Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Counter {
    /// Polls the reader with this as its waker, which it keeps when there is nothing to read.
    fn polls(self: &Arc<Self>, events: &mut Events) -> bool {
        let waker = Waker::from(Arc::clone(self));
        let mut next = std::pin::pin!(events.next());
        Pin::as_mut(&mut next).poll(&mut Context::from_waker(&waker)).is_ready()
    }
}

#[test]
fn a_thousand_readers_that_never_read_hold_up_nobody_and_find_the_end() {
    let total = 3_000_000;
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let call = hostile(["pattern", "stdout", &total.to_string()]).limits(ring(64 << 10));
        let id = registry.submit(call).unwrap().id;
        let mut readers: Vec<_> = (0..CROWD).map(|_| registry.events(&id, None).unwrap()).collect();
        let end = succeeds(&registry, &id).await;
        assert_same(&end.as_ref().as_ref().unwrap().stdout.bytes(), &pattern(0..total), "captured");
        for events in &mut readers {
            let found: Vec<_> = std::iter::from_fn(|| events.try_next()).collect();
            assert_whole(&found);
            assert!(matches!(found[0], Event { seq: 0, kind: EventKind::Gap { .. }, .. }), "{:?}", found[0]);
            let seen = stdout(&found);
            assert_same(&seen, &pattern(total - seen.len()..total), "what the log still held");
        }
    });
}

#[test]
fn a_thousand_readers_that_vanish_cancel_nothing_and_leave_nothing() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let id = registry.submit(hostile(["sleep"])).unwrap().id;
        ready(&mut registry.events(&id, None).unwrap()).await;
        // All that it writes: of two streams either may be read first.
        wait_for_output(&mut registry.events(&id, None).unwrap(), "last words\n").await;
        let seen = registry
            .events(&id, None)
            .map(|mut events| std::iter::from_fn(|| events.try_next()).last().unwrap().seq);
        let seen = seen.unwrap();
        // Each waits for what comes next, with a waker of ours; then all of them are gone.
        let counter = Arc::new(Counter::default());
        let mut readers: Vec<_> = (0..CROWD).map(|_| registry.events(&id, Some(seen)).unwrap()).collect();
        for events in &mut readers {
            assert!(!counter.polls(events));
        }
        assert_eq!(Arc::strong_count(&counter), 1 + CROWD, "the log wakes each of them");
        drop(readers);
        assert_eq!(Arc::strong_count(&counter), 1, "nothing is kept of who is gone");
        // And as tasks, dropped in the middle of waiting.
        let tasks_alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let before = tasks_alive();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..CROWD {
            let mut events = registry.events(&id, None).unwrap();
            tasks.spawn(async move { while events.next().await.is_some() {} });
        }
        tokio::task::yield_now().await;
        tasks.shutdown().await;
        // The last of them is counted until its worker has let go of it.
        until("the end of their tasks", PATIENCE, || (tasks_alive() <= before).then_some(())).await;
        let status = registry.status(&id).unwrap();
        assert_eq!((status.state, status.cancellation), (State::Running, None), "nobody cancelled it");
        registry.cancel(&id, "enough").unwrap();
        timeout(PATIENCE, registry.wait(&id)).await.unwrap().unwrap().as_ref().as_ref().unwrap_err();
        assert_eq!(counter.0.load(Ordering::SeqCst), 0, "who is gone is not woken");
    });
}

#[test]
fn one_that_waits_is_woken_once_for_what_it_does_not_fetch() {
    let one_at_a_time = |builder: EngineBuilder| builder.max_running(1);
    with_engine(one_at_a_time, |engine| async move {
        let registry = engine.registry();
        let first = registry.submit(hostile(["sleep"])).unwrap().id;
        ready(&mut registry.events(&first, None).unwrap()).await;
        let id = registry.submit(hostile(["pattern", "stdout", "2000000", "1000"])).unwrap().id;
        let counter = Arc::new(Counter::default());
        let mut idle = registry.events(&id, Some(u64::MAX / 2)).unwrap();
        assert!(!counter.polls(&mut idle), "it waits for its turn");
        registry.cancel(&first, "go on").unwrap();
        succeeds(&registry, &id).await;
        assert_eq!(counter.0.load(Ordering::SeqCst), 1);
        assert!(matches!(idle.try_next().unwrap().kind, EventKind::Ended { .. }));
        assert!(idle.try_next().is_none());
    });
}

#[test]
fn late_readers_replay_what_is_held_from_any_event_on() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let total = 300_000;
        let id = registry.submit(hostile(["pattern", "stdout", &total.to_string()])).unwrap().id;
        let mut early = registry.events(&id, None).unwrap();
        let all = rest(&mut early).await;
        assert_whole(&all);
        assert_same(&stdout(&all), &pattern(0..total), "what was read as it came");
        succeeds(&registry, &id).await;
        for seen in 0..all.len() as u64 {
            let late = rest(&mut registry.events(&id, Some(seen)).unwrap()).await;
            // After the end there is nothing but the end.
            let from = usize::try_from(seen + 1).unwrap().min(all.len() - 1);
            let seqs = |events: &[Event]| events.iter().map(|event| event.seq).collect::<Vec<_>>();
            assert_eq!(seqs(&late), seqs(&all[from..]), "after {seen}");
        }
        let removed = registry.events(&id, None).unwrap();
        registry.remove(&id).unwrap();
        let mut removed = removed;
        assert_eq!(rest(&mut removed).await.len(), all.len(), "who reads goes on without the record");
    });
}

#[test]
fn whoever_comes_during_a_flood_that_is_cancelled_finds_one_end() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let id = registry.submit(hostile(["flood"]).limits(ring(32 << 10))).unwrap().id;
        ready(&mut registry.events(&id, None).unwrap()).await;
        let mut readers = tokio::task::JoinSet::new();
        for round in 0..200 {
            let (registry, id) = (registry.clone(), id.clone());
            readers.spawn(async move {
                let mut dice = Dice::new(round);
                dice.pause(Duration::from_millis(30)).await;
                let after = (round % 3 == 0).then(|| dice.below(1000));
                let mut events = registry.events(&id, after).unwrap();
                if round % 5 == 0 {
                    return;
                }
                if round % 2 == 0 {
                    dice.pause(Duration::from_millis(30)).await;
                }
                assert_whole(&rest(&mut events).await);
            });
        }
        Dice::new(1000).pause(Duration::from_millis(30)).await;
        registry.cancel(&id, "enough").unwrap();
        readers.join_all().await;
    });
}

#[test]
fn a_call_that_never_started_has_an_end_to_be_read() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let id = registry.submit(Call::command(["/does/not/exist"])).unwrap().id;
        for after in [None, Some(0), Some(u64::MAX)] {
            let found = rest(&mut registry.events(&id, after).unwrap()).await;
            assert!(
                matches!(found[..], [Event { kind: EventKind::Ended { error: Some(_) }, .. }]),
                "{found:?}"
            );
        }
    });
}
