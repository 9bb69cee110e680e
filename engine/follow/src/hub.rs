//! From one follower to its subscribers, as in an execution's event log: appending never waits, what does not fit pushes the
//! oldest events out, and who was too slow is told how many it missed. One subscriber can ask to be waited for.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::sync::Notify;

use crate::events::{FollowEvent, FollowEventKind};

#[derive(Debug)]
pub(crate) struct Hub {
    ring: Mutex<Ring>,
    /// For subscribers: something was appended.
    appended: Notify,
    /// For the follower: there is room again.
    room: Notify,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<FollowEvent>,
    /// The seq of the next event; that of the oldest one held is `next - events.len()`.
    next: u64,
    weight: u64,
    capacity: u64,
    ended: bool,
    /// What the one that is waited for has not read: from where on, and how much.
    unread: Option<(u64, u64)>,
    /// Nobody subscribed yet, and the first one is to be waited for.
    awaited: bool,
}

impl Ring {
    fn oldest(&self) -> u64 {
        self.next - self.events.len() as u64
    }

    /// With what the one that is waited for has not read.
    fn is_full(&self) -> bool {
        self.unread.is_some_and(|(_, unread)| unread >= self.capacity.max(1))
    }

    fn trim(&mut self) {
        let kept = self.unread.map_or(u64::MAX, |(from, _)| from);
        while self.weight > self.capacity && self.events.len() > 1 && self.oldest() < kept {
            if let Some(event) = self.events.pop_front() {
                self.weight -= event.kind.weight();
            }
        }
    }
}

impl Hub {
    /// `back_pressure`: the first subscriber is waited for.
    pub(crate) fn new(capacity: u64, back_pressure: bool) -> Self {
        Self {
            ring: Mutex::new(Ring {
                events: VecDeque::new(),
                next: 0,
                weight: 0,
                capacity,
                ended: false,
                unread: back_pressure.then_some((0, 0)),
                awaited: back_pressure,
            }),
            appended: Notify::new(),
            room: Notify::new(),
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing that runs under this lock leaves it half done when it panics.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event. Never waits; after the end it does nothing.
    pub(crate) fn append(&self, kind: FollowEventKind) {
        let mut ring = self.ring();
        if ring.ended {
            return;
        }
        ring.ended = matches!(kind, FollowEventKind::Ended { .. });
        let weight = kind.weight();
        let event = FollowEvent { seq: ring.next, at: SystemTime::now(), kind };
        ring.events.push_back(event);
        ring.next += 1;
        ring.weight += weight;
        if let Some((_, unread)) = &mut ring.unread {
            *unread += weight;
        }
        ring.trim();
        drop(ring);
        self.appended.notify_waiters();
    }

    /// Adds an event that nobody misses, if there is room for it: for who waits for a subscriber that does not read, these
    /// must not pile up.
    pub(crate) fn mention(&self, kind: FollowEventKind) {
        let is_full = self.ring().is_full();
        if !is_full {
            self.append(kind);
        }
    }

    /// Waits until the subscriber that is waited for has read enough. Cancel-safe.
    pub(crate) async fn has_room(&self) {
        loop {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            {
                if !self.ring().is_full() {
                    return;
                }
            }
            room.await;
        }
    }

    /// From here on nobody is waited for.
    pub(crate) fn let_go(&self) {
        let mut ring = self.ring();
        ring.unread = None;
        ring.trim();
        drop(ring);
        self.room.notify_waiters();
    }

    /// From the oldest event on that is held.
    pub(crate) fn subscribe(self: &Arc<Self>) -> Subscription {
        let mut ring = self.ring();
        let attentive = std::mem::take(&mut ring.awaited);
        let next = if attentive { 0 } else { ring.oldest() };
        drop(ring);
        Subscription { hub: Arc::clone(self), next, done: false, attentive }
    }

    /// As [`subscribe`](Self::subscribe), for one that is never waited for.
    pub(crate) fn subscribe_aside(self: &Arc<Self>) -> Subscription {
        Subscription { hub: Arc::clone(self), next: self.ring().oldest(), done: false, attentive: false }
    }
}

/// Reads what a follower tells. Any number of them may read; one that is slower than the buffer holds finds a
/// [`Gap`](FollowEventKind::Gap) and goes on. Dropping one ends nothing.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    next: u64,
    done: bool,
    attentive: bool,
}

impl Subscription {
    /// The next event; `None` after [`FollowEventKind::Ended`].
    ///
    /// Cancel-safe: no event is lost when this future is dropped.
    pub async fn next(&mut self) -> Option<FollowEvent> {
        let hub = Arc::clone(&self.hub);
        loop {
            let mut appended = pin!(hub.appended.notified());
            appended.as_mut().enable();
            if self.done {
                return None;
            }
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            appended.await;
        }
    }

    /// The next event if it is there already.
    pub fn try_next(&mut self) -> Option<FollowEvent> {
        if self.done {
            return None;
        }
        let mut ring = self.hub.ring();
        let oldest = ring.oldest();
        if self.next < oldest {
            let at = ring.events.front().map_or_else(SystemTime::now, |event| event.at);
            let missed = oldest - self.next;
            let gap = FollowEvent { seq: self.next, at, kind: FollowEventKind::Gap { missed } };
            self.next = oldest;
            return Some(gap);
        }
        let index = usize::try_from(self.next - oldest).unwrap_or(usize::MAX);
        let event = ring.events.get(index)?.clone();
        self.next += 1;
        self.done = matches!(event.kind, FollowEventKind::Ended { .. });
        if self.attentive
            && let Some((from, unread)) = &mut ring.unread
        {
            *from = self.next;
            *unread = unread.saturating_sub(event.kind.weight());
            ring.trim();
            drop(ring);
            self.hub.room.notify_waiters();
        }
        Some(event)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.attentive {
            self.hub.let_go();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn said(text: &str) -> FollowEventKind {
        FollowEventKind::Diagnostic(text.to_owned().into())
    }

    fn drain(subscription: &mut Subscription) -> Vec<u64> {
        std::iter::from_fn(|| subscription.try_next()).map(|event| event.seq).collect()
    }

    /// Holds about three events.
    fn small(back_pressure: bool) -> Arc<Hub> {
        Arc::new(Hub::new(said("12345678").weight() * 3, back_pressure))
    }

    #[tokio::test]
    async fn who_is_too_slow_is_told_what_it_missed() {
        let hub = small(false);
        let mut slow = hub.subscribe();
        (0..10).for_each(|_| hub.append(said("12345678")));
        hub.append(FollowEventKind::Ended { error: None });
        hub.append(said("late"));
        let first = slow.next().await.unwrap();
        assert!(matches!(first.kind, FollowEventKind::Gap { missed: 8 }), "{first:?}");
        assert_eq!(drain(&mut slow), [8, 9, 10]);
        assert!(slow.next().await.is_none() && slow.try_next().is_none());
        assert_eq!(drain(&mut hub.subscribe()), [8, 9, 10], "who comes late has what is there");
    }

    #[tokio::test]
    async fn the_first_one_can_be_waited_for() {
        let hub = small(true);
        for _ in 0..3 {
            hub.has_room().await;
            hub.append(said("12345678"));
        }
        let full = || timeout(Duration::from_millis(1), hub.has_room());
        assert!(full().await.is_err());
        hub.mention(said("I am alive"));
        let (mut first, mut second) = (hub.subscribe(), hub.subscribe());
        assert_eq!(first.next().await.unwrap().seq, 0);
        assert!(full().await.is_ok());
        hub.append(said("12345678"));
        assert!(full().await.is_err());
        assert_eq!(drain(&mut second), [0, 1, 2, 3], "the first of these is a gap");
        drop(second);
        assert!(full().await.is_err(), "it was not the one");
        assert_eq!(drain(&mut first), [1, 2, 3]);
        drop(first);
        (0..10).for_each(|_| hub.append(said("12345678")));
        assert!(full().await.is_ok(), "nobody is waited for any more");
        let ring = hub.ring();
        assert!(ring.weight <= ring.capacity);
    }

    #[tokio::test]
    async fn a_waiting_subscriber_hears_of_what_comes() {
        let hub = small(false);
        let mut waiting = hub.subscribe();
        let (event, ()) = tokio::join!(waiting.next(), async { hub.append(said("a")) });
        assert_eq!(event.unwrap().seq, 0);
    }
}
