//! The event log of one execution: what happened, in order, for any number of readers.
//!
//! Appending never waits. What does not fit into the ring pushes the oldest events out; a reader that was too slow is
//! told how many it missed and goes on. The terminal event has a slot of its own, so it is always there. The one
//! exception is a call that asks for back-pressure: what its first reader has not seen yet is kept, and the tool's pipes
//! are left alone while that is more than the ring holds.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_core::Stream as _;
use tokio::time::Instant;

use crate::{
    error::ErrorKind,
    events::{Event, EventKind},
};

#[derive(Debug)]
pub(crate) struct EventLog {
    began: Instant,
    ring: Mutex<Ring>,
}

/// The weight of what all logs of an engine hold together.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeldBytes(Arc<AtomicU64>);

impl HeldBytes {
    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Event>,
    /// The seq of the next event; that of the oldest one held is `next - events.len()`.
    next: u64,
    weight: u64,
    held: HeldBytes,
    capacity: u64,
    ended: Option<Event>,
    waiting: BTreeMap<u64, Waker>,
    next_reader: u64,
    back_pressure: Option<BackPressure>,
}

#[derive(Debug, Default)]
struct BackPressure {
    /// The first seq that the attentive reader has not seen.
    unread: u64,
    /// The weight of what it has not seen.
    weight: u64,
    pump: Option<Waker>,
    /// Since when there has been no room, and for how long there was none before.
    full_since: Option<Instant>,
    was_full: Duration,
}

impl Ring {
    fn oldest(&self) -> u64 {
        self.next - self.events.len() as u64
    }

    fn append(&mut self, at: Duration, kind: EventKind) {
        let weight = kind.weight();
        self.events.push_back(Event { seq: self.next, at, kind });
        self.next += 1;
        self.weight += weight;
        self.held.0.fetch_add(weight, Ordering::Relaxed);
        if let Some(pressure) = &mut self.back_pressure {
            pressure.weight += weight;
        }
        self.trim();
    }

    fn trim(&mut self) {
        let kept_for_reader = self.back_pressure.as_ref().map_or(u64::MAX, |pressure| pressure.unread);
        while self.weight > self.capacity && self.events.len() > 1 && self.oldest() < kept_for_reader {
            if let Some(event) = self.events.pop_front() {
                let weight = event.kind.weight();
                self.weight -= weight;
                self.held.0.fetch_sub(weight, Ordering::Relaxed);
            }
        }
    }

    fn wake(&mut self) {
        std::mem::take(&mut self.waiting).into_values().for_each(Waker::wake);
    }

    /// What comes at `seq`; `None` when that has not happened yet.
    fn get(&self, seq: u64) -> Option<Event> {
        let oldest = self.oldest();
        if seq < oldest {
            let at = self.events.front().or(self.ended.as_ref()).map_or(Duration::ZERO, |event| event.at);
            return Some(Event { seq, at, kind: EventKind::Gap { missed: oldest - seq } });
        }
        let index = usize::try_from(seq - oldest).unwrap_or(usize::MAX);
        self.events.get(index).or(self.ended.as_ref()).cloned()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.weight, Ordering::Relaxed);
    }
}

impl EventLog {
    pub(crate) fn new(capacity: u64, back_pressure: bool, held: HeldBytes) -> Self {
        Self {
            began: Instant::now(),
            ring: Mutex::new(Ring {
                events: VecDeque::new(),
                next: 0,
                weight: 0,
                held,
                capacity,
                ended: None,
                waiting: BTreeMap::new(),
                next_reader: 0,
                back_pressure: back_pressure.then(BackPressure::default),
            }),
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing that runs under this lock leaves it half done when it panics.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the call was submitted.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Adds an event. Never waits; after the end it does nothing.
    pub(crate) fn append(&self, kind: EventKind) {
        let at = self.began.elapsed();
        let mut ring = self.ring();
        if ring.ended.is_none() {
            ring.append(at, kind);
            ring.wake();
        }
    }

    /// Adds the terminal event; the first one stands. With it `also` is done: nobody sees the one without the other.
    pub(crate) fn end(&self, error: Option<ErrorKind>, also: impl FnOnce()) {
        let at = self.began.elapsed();
        let mut ring = self.ring();
        if ring.ended.is_none() {
            ring.ended = Some(Event { seq: ring.next, at, kind: EventKind::Ended { error } });
            also();
            ring.wake();
        }
    }

    /// Ready when there is room for more output; always, without back-pressure.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut ring = self.ring();
        let capacity = ring.capacity.max(1);
        let Some(pressure) = &mut ring.back_pressure else { return Poll::Ready(()) };
        if pressure.weight >= capacity {
            pressure.full_since.get_or_insert_with(Instant::now);
            pressure.pump = Some(cx.waker().clone());
            return Poll::Pending;
        }
        pressure.was_full += pressure.full_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        Poll::Ready(())
    }

    /// Whether a reader may hold the tool up.
    pub(crate) fn has_back_pressure(&self) -> bool {
        self.ring().back_pressure.is_some()
    }

    /// For how long, in all, the reader has held the tool up.
    pub(crate) fn held_up(&self) -> Duration {
        let ring = self.ring();
        let Some(pressure) = &ring.back_pressure else { return Duration::ZERO };
        pressure.was_full + pressure.full_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The bytes that the events held count for.
    pub(crate) fn weight(&self) -> u64 {
        self.ring().weight
    }

    /// The error it ended with, if it has ended with one.
    pub(crate) fn error(&self) -> Option<ErrorKind> {
        match &self.ring().ended {
            Some(Event { kind: EventKind::Ended { error }, .. }) => error.clone(),
            _ => None,
        }
    }

    pub(crate) fn read_from(self: &Arc<Self>, seq: u64, attentive: bool) -> Events {
        let mut ring = self.ring();
        let reader = ring.next_reader;
        ring.next_reader += 1;
        drop(ring);
        Events { log: Arc::clone(self), reader, next: seq, done: false, attentive }
    }
}

/// A reader of an execution's events, from [`Execution::events`](crate::Execution::events). Also a
/// [`Stream`](futures_core::Stream). Dropping it cancels nothing.
#[derive(Debug)]
pub struct Events {
    log: Arc<EventLog>,
    reader: u64,
    next: u64,
    done: bool,
    attentive: bool,
}

impl Events {
    /// The next event; `None` after [`EventKind::Ended`].
    ///
    /// Cancel-safe: no event is lost when this future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The next event if it is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        let log = Arc::clone(&self.log);
        let mut ring = log.ring();
        self.take(&mut ring)
    }

    fn take(&mut self, ring: &mut Ring) -> Option<Event> {
        if self.done {
            return None;
        }
        let event = ring.get(self.next)?;
        self.next = match event.kind {
            EventKind::Gap { missed } => event.seq + missed,
            _ => event.seq + 1,
        };
        self.done = matches!(event.kind, EventKind::Ended { .. });
        if self.attentive
            && let Some(pressure) = &mut ring.back_pressure
        {
            pressure.unread = self.next;
            pressure.weight = pressure.weight.saturating_sub(event.kind.weight());
            if let Some(pump) = pressure.pump.take() {
                pump.wake();
            }
            ring.trim();
        }
        Some(event)
    }
}

impl futures_core::Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.done {
            return Poll::Ready(None);
        }
        let log = Arc::clone(&self.log);
        let mut ring = log.ring();
        match self.take(&mut ring) {
            Some(event) => Poll::Ready(Some(event)),
            None => {
                ring.waiting.insert(self.reader, cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut ring = self.log.ring();
        ring.waiting.remove(&self.reader);
        if self.attentive
            && let Some(pressure) = ring.back_pressure.take()
        {
            // Nobody waits for it any more: from here on the log is an ordinary ring.
            if let Some(pump) = pressure.pump {
                pump.wake();
            }
            ring.trim();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::events::Chunk;

    fn stdout(text: &str) -> EventKind {
        EventKind::Stdout(Chunk(Bytes::copy_from_slice(text.as_bytes())))
    }

    fn drain(events: &mut Events) -> Vec<Event> {
        std::iter::from_fn(|| events.try_next()).collect()
    }

    /// A log that holds about three small events.
    fn small(back_pressure: bool) -> Arc<EventLog> {
        Arc::new(EventLog::new(stdout("12345678").weight() * 3, back_pressure, HeldBytes::default()))
    }

    #[test]
    fn a_late_reader_replays_from_any_seq_held() {
        let log = small(false);
        log.append(EventKind::Started { pid: 1 });
        log.append(stdout("a"));
        log.end(None, || ());
        let seqs =
            |from| drain(&mut log.read_from(from, false)).iter().map(|event| event.seq).collect::<Vec<_>>();
        assert_eq!((seqs(0), seqs(1), seqs(2)), (vec![0, 1, 2], vec![1, 2], vec![2]));
        assert_eq!(seqs(99), [2], "the end is there for everybody");
    }

    #[test]
    fn a_slow_reader_is_told_what_it_missed_and_goes_on() {
        let log = small(false);
        let mut slow = log.read_from(0, false);
        for _ in 0..10 {
            log.append(stdout("12345678"));
        }
        log.end(None, || ());
        let events = drain(&mut slow);
        assert!(matches!(events[0].kind, EventKind::Gap { missed: 7 }), "{events:?}");
        assert_eq!(events.iter().skip(1).map(|event| event.seq).collect::<Vec<_>>(), [7, 8, 9, 10]);
        assert!(matches!(events.last().unwrap().kind, EventKind::Ended { error: None }));
        assert!(slow.try_next().is_none());
    }

    #[test]
    fn the_first_end_stands_and_nothing_follows_it() {
        let log = small(false);
        log.end(None, || ());
        log.end(Some(ErrorKind::Lost { reason: String::new() }), || panic!("it was not the first"));
        log.append(stdout("late"));
        assert!(matches!(
            drain(&mut log.read_from(0, false))[..],
            [Event { kind: EventKind::Ended { error: None }, .. }]
        ));
    }

    #[test]
    fn an_event_larger_than_the_ring_is_still_delivered() {
        let log = Arc::new(EventLog::new(10, false, HeldBytes::default()));
        log.append(stdout(&"x".repeat(100)));
        assert_eq!(drain(&mut log.read_from(0, false)).len(), 1);
    }

    #[test]
    fn what_all_logs_hold_is_counted_until_the_last_reader_lets_go() {
        let held = HeldBytes::default();
        let weight = stdout("12345678").weight();
        let logs = [false, true].map(|pressure| Arc::new(EventLog::new(weight * 3, pressure, held.clone())));
        for log in &logs {
            for _ in 0..10 {
                log.append(stdout("12345678"));
            }
            log.end(None, || ());
        }
        assert_eq!(held.now(), weight * 13, "three in the ring, and ten that a reader holds back");
        let [ring, pressed] = logs;
        let late = ring.read_from(0, false);
        drop((ring, pressed));
        assert_eq!(held.now(), weight * 3);
        drop(late);
        assert_eq!(held.now(), 0);
    }

    #[test]
    fn back_pressure_keeps_what_is_unread_and_lets_go_with_its_reader() {
        let log = small(true);
        let mut reader = log.read_from(0, true);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..10 {
            log.append(stdout("12345678"));
        }
        assert!(log.poll_room(&mut cx).is_pending());
        let events = drain(&mut reader);
        assert_eq!(events.len(), 10, "nothing was missed");
        assert!(log.poll_room(&mut cx).is_ready());
        for _ in 0..10 {
            log.append(stdout("12345678"));
        }
        assert!(log.poll_room(&mut cx).is_pending());
        drop(reader);
        assert!(log.poll_room(&mut cx).is_ready());
        let ring = log.ring();
        assert!(ring.weight <= ring.capacity);
    }
}
