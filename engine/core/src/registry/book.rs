//! Which records there are: by id, by owner, in the order of their submission and of their end. A state machine without a
//! clock or a lock; every step takes as long however many records there are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

/// How many records of ended executions stay, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    pub(crate) retention: Duration,
    pub(crate) records: usize,
    pub(crate) bytes: u64,
}

/// Of records of the type `R`. Times are those since its beginning.
#[derive(Debug)]
pub(crate) struct Book<R> {
    keep: Keep,
    numbers: HashMap<Arc<str>, u64>,
    records: BTreeMap<u64, Kept<R>>,
    /// Those that have not ended.
    active: BTreeSet<u64>,
    owners: HashMap<Arc<str>, Owned>,
    /// Those that have, oldest end first.
    ended: BTreeMap<u64, u64>,
    bytes: u64,
    next: u64,
    next_end: u64,
}

#[derive(Debug)]
struct Kept<R> {
    id: Arc<str>,
    owner: Option<Arc<str>>,
    record: R,
    ended: Option<End>,
}

#[derive(Debug, Default)]
struct Owned {
    all: BTreeSet<u64>,
    active: BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy)]
struct End {
    order: u64,
    expires: Duration,
    bytes: u64,
}

impl<R: Clone> Book<R> {
    pub(crate) fn new(keep: Keep) -> Self {
        Self {
            keep,
            numbers: HashMap::new(),
            records: BTreeMap::new(),
            active: BTreeSet::new(),
            owners: HashMap::new(),
            ended: BTreeMap::new(),
            bytes: 0,
            next: 1,
            next_end: 0,
        }
    }

    /// The record of this id and its number. One that has ended and stayed for long enough is not found.
    pub(crate) fn find(&self, id: &str, now: Duration) -> Option<(u64, &R)> {
        let number = *self.numbers.get(id)?;
        let kept = self.records.get(&number)?;
        let expired = kept.ended.is_some_and(|end| end.expires <= now);
        (!expired).then_some((number, &kept.record))
    }

    /// Adds the record of an execution that has just been submitted. An older one of the same id, which is not found any
    /// more, gives way and is returned.
    pub(crate) fn insert(&mut self, id: Arc<str>, owner: Option<Arc<str>>, record: R) -> (u64, Option<R>) {
        let older = self.remove(&id);
        let number = self.next;
        self.next += 1;
        self.numbers.insert(Arc::clone(&id), number);
        self.active.insert(number);
        if let Some(owner) = &owner {
            let owned = self.owners.entry(Arc::clone(owner)).or_default();
            owned.all.insert(number);
            owned.active.insert(number);
        }
        self.records.insert(number, Kept { id, owner, record, ended: None });
        (number, older)
    }

    /// Notes that the execution has ended; its record takes this many bytes. Returned is what gives way to it, to be
    /// dropped outside the lock.
    pub(crate) fn end(&mut self, number: u64, bytes: u64, now: Duration) -> Vec<R> {
        // It may have been picked up already.
        let Some(kept) = self.records.get_mut(&number).filter(|kept| kept.ended.is_none()) else {
            return Vec::new();
        };
        let order = self.next_end;
        self.next_end += 1;
        kept.ended = Some(End { order, expires: now.saturating_add(self.keep.retention), bytes });
        self.ended.insert(order, number);
        self.bytes = self.bytes.saturating_add(bytes);
        self.active.remove(&number);
        if let Some(owned) = kept.owner.as_ref().and_then(|owner| self.owners.get_mut(owner)) {
            owned.active.remove(&number);
        }
        let mut gone = Vec::new();
        // The newest end is always there to be found.
        while self.ended.len() > 1 && (self.ended.len() > self.keep.records || self.bytes > self.keep.bytes) {
            gone.extend(self.remove_oldest());
        }
        gone
    }

    /// Removes some of those that have stayed for long enough, at most `most`.
    pub(crate) fn sweep(&mut self, now: Duration, most: usize) -> Vec<R> {
        let mut gone = Vec::new();
        while gone.len() < most && self.next_expiry().is_some_and(|expires| expires <= now) {
            gone.extend(self.remove_oldest());
        }
        gone
    }

    /// When the oldest end has stayed for long enough.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        let (_, number) = self.ended.first_key_value()?;
        self.records.get(number)?.ended.map(|end| end.expires)
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<R> {
        let number = *self.numbers.get(id)?;
        self.remove_number(number)
    }

    fn remove_oldest(&mut self) -> Option<R> {
        let (_, number) = self.ended.pop_first()?;
        self.remove_number(number)
    }

    fn remove_number(&mut self, number: u64) -> Option<R> {
        let kept = self.records.remove(&number)?;
        self.numbers.remove(&kept.id);
        self.active.remove(&number);
        if let Some(end) = kept.ended {
            self.ended.remove(&end.order);
            self.bytes = self.bytes.saturating_sub(end.bytes);
        }
        if let Some(owner) = &kept.owner
            && let Some(owned) = self.owners.get_mut(owner)
        {
            owned.all.remove(&number);
            owned.active.remove(&number);
            if owned.all.is_empty() {
                self.owners.remove(owner);
            }
        }
        Some(kept.record)
    }

    /// The records of what has not ended, of one owner or of all, in the order of their submission.
    pub(crate) fn active(&self, owner: Option<&str>) -> Vec<R> {
        let numbers = match owner {
            Some(owner) => self.owners.get(owner).map(|owned| &owned.active),
            None => Some(&self.active),
        };
        let records = numbers.into_iter().flatten().filter_map(|number| self.records.get(number));
        records.map(|kept| kept.record.clone()).collect()
    }

    /// Up to `most` records with a number larger than `after`, of one owner or of all, in the order of their submission.
    pub(crate) fn page(&self, owner: Option<&str>, after: u64, most: usize, now: Duration) -> Page<R> {
        let beyond = after.saturating_add(1)..;
        let mut page = Page { records: Vec::new(), last: None };
        let mut add = |number: u64, kept: &Kept<R>| {
            page.last = Some(number);
            if kept.ended.is_none_or(|end| end.expires > now) {
                page.records.push((number, kept.record.clone()));
            }
        };
        match owner {
            Some(owner) => {
                let numbers = self.owners.get(owner).map(|owned| owned.all.range(beyond));
                for number in numbers.into_iter().flatten().take(most) {
                    if let Some(kept) = self.records.get(number) {
                        add(*number, kept);
                    }
                }
            }
            None => self.records.range(beyond).take(most).for_each(|(number, kept)| add(*number, kept)),
        }
        page
    }

    /// How many records there are, and how many bytes those of what has ended take.
    pub(crate) fn size(&self) -> (usize, u64) {
        (self.records.len(), self.bytes)
    }
}

/// Some records.
#[derive(Debug)]
pub(crate) struct Page<R> {
    pub(crate) records: Vec<(u64, R)>,
    /// The number of the last one looked at; `None` when there are no more.
    pub(crate) last: Option<u64>,
}
