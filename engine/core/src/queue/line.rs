//! Who runs, who waits, and whose turn is next: a state machine without a clock, a lock or a task.
//!
//! Owners take turns; of one owner's calls the first is the first. An owner that runs as much as it may gives up its turn
//! and holds up nobody. A call that waits for memory keeps its turn, and those behind it wait, too: otherwise small calls
//! could keep a large one waiting for ever.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    task::Waker,
};

/// Whose call it is. Those of nobody are one owner's.
pub(crate) type Owner = Option<Arc<str>>;

/// What may be taken up at a time.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    pub(crate) running: usize,
    pub(crate) running_per_owner: usize,
    pub(crate) queued: usize,
    pub(crate) queued_per_owner: usize,
    /// Bytes; `None`: as much as they like.
    pub(crate) memory: Option<u64>,
}

/// What one call takes up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) owner: Owner,
    /// At most what the bounds have.
    pub(crate) memory: u64,
}

/// What came of entering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entered {
    Admitted,
    /// In line, with this ticket.
    Waits(u64),
    Full,
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) running: usize,
    pub(crate) queued: usize,
    pub(crate) memory: u64,
}

/// Every step takes as long however many wait and have run.
#[derive(Debug)]
pub(crate) struct Line {
    bounds: Bounds,
    now: Counts,
    /// Those that run or wait.
    owners: HashMap<Owner, Owned>,
    /// Of the owners that wait and may run one more.
    turns: BTreeMap<u64, Owner>,
    next_turn: u64,
    next_ticket: u64,
}

#[derive(Debug, Default)]
struct Owned {
    running: usize,
    waiting: BTreeMap<u64, Waiter>,
    turn: Option<u64>,
}

#[derive(Debug)]
struct Waiter {
    memory: u64,
    waker: Option<Waker>,
}

impl Line {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            now: Counts { running: 0, queued: 0, memory: 0 },
            owners: HashMap::new(),
            turns: BTreeMap::new(),
            next_turn: 0,
            next_ticket: 0,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.now
    }

    /// How many of this owner run.
    pub(crate) fn running_of(&self, owner: &Owner) -> usize {
        self.owners.get(owner).map_or(0, |owned| owned.running)
    }

    /// How many of this owner wait.
    pub(crate) fn waiting_of(&self, owner: &Owner) -> usize {
        self.owners.get(owner).map_or(0, |owned| owned.waiting.len())
    }

    /// Admits the call if there is room and nobody has a turn before it; puts it in line otherwise.
    pub(crate) fn enter(&mut self, claim: &Claim) -> Entered {
        let may_run = self.running_of(&claim.owner) < self.bounds.running_per_owner;
        if may_run && self.turns.is_empty() && self.has_room(claim.memory) {
            self.take(&claim.owner, claim.memory);
            return Entered::Admitted;
        }
        if self.now.queued >= self.bounds.queued
            || self.waiting_of(&claim.owner) >= self.bounds.queued_per_owner
        {
            return Entered::Full;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.now.queued += 1;
        let owned = self.owners.entry(claim.owner.clone()).or_default();
        owned.waiting.insert(ticket, Waiter { memory: claim.memory, waker: None });
        self.give_turn(&claim.owner);
        Entered::Waits(ticket)
    }

    /// Whether it still waits; then this is woken when it does not any more. Who has left may not ask.
    pub(crate) fn waits(&mut self, owner: &Owner, ticket: u64, waker: &Waker) -> bool {
        let waiter = self.owners.get_mut(owner).and_then(|owned| owned.waiting.get_mut(&ticket));
        let Some(waiter) = waiter else { return false };
        match &mut waiter.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        true
    }

    /// Gives back what an admitted call took up. To be woken: those who were admitted instead.
    #[must_use = "who is admitted must be woken"]
    pub(crate) fn release(&mut self, claim: &Claim) -> Vec<Waker> {
        self.now.running -= 1;
        if self.bounds.memory.is_some() {
            self.now.memory -= claim.memory;
        }
        if let Some(owned) = self.owners.get_mut(&claim.owner) {
            owned.running -= 1;
        }
        self.give_turn(&claim.owner);
        self.forget(&claim.owner);
        self.admit()
    }

    /// For one that was put in line and does not want any more. It may have been admitted in the meantime: that is passed
    /// on.
    #[must_use = "who is admitted must be woken"]
    pub(crate) fn leave(&mut self, claim: &Claim, ticket: u64) -> Vec<Waker> {
        let owned = self.owners.get_mut(&claim.owner);
        let Some(owned) = owned.filter(|owned| owned.waiting.contains_key(&ticket)) else {
            return self.release(claim);
        };
        owned.waiting.remove(&ticket);
        self.now.queued -= 1;
        if owned.waiting.is_empty()
            && let Some(turn) = owned.turn.take()
        {
            self.turns.remove(&turn);
        }
        self.forget(&claim.owner);
        // It may have been its want of memory that held up the others.
        self.admit()
    }

    fn has_room(&self, memory: u64) -> bool {
        self.now.running < self.bounds.running
            && self.bounds.memory.is_none_or(|bound| memory <= bound - self.now.memory)
    }

    fn take(&mut self, owner: &Owner, memory: u64) {
        self.now.running += 1;
        if self.bounds.memory.is_some() {
            self.now.memory += memory;
        }
        match self.owners.get_mut(owner) {
            Some(owned) => owned.running += 1,
            None => drop(self.owners.insert(owner.clone(), Owned { running: 1, ..Owned::default() })),
        }
    }

    /// Puts an owner behind all others that have a turn, if it waits, may run, and has none.
    fn give_turn(&mut self, owner: &Owner) {
        let Some(owned) = self.owners.get_mut(owner) else { return };
        if owned.turn.is_none() && !owned.waiting.is_empty() && owned.running < self.bounds.running_per_owner
        {
            owned.turn = Some(self.next_turn);
            self.turns.insert(self.next_turn, owner.clone());
            self.next_turn += 1;
        }
    }

    fn forget(&mut self, owner: &Owner) {
        if self.owners.get(owner).is_some_and(|owned| owned.running == 0 && owned.waiting.is_empty()) {
            self.owners.remove(owner);
        }
    }

    /// Admits as many as there is room for, each owner in its turn.
    fn admit(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some(entry) = self.turns.first_entry() {
            let owner = entry.get().clone();
            let first = self.owners.get(&owner).and_then(|owned| owned.waiting.first_key_value());
            let Some((&ticket, Waiter { memory, .. })) = first else {
                // Who waits for nothing has no turn.
                entry.remove();
                continue;
            };
            let memory = *memory;
            if !self.has_room(memory) {
                break;
            }
            self.turns.pop_first();
            if let Some(owned) = self.owners.get_mut(&owner) {
                owned.turn = None;
                woken.extend(owned.waiting.remove(&ticket).and_then(|waiter| waiter.waker));
            }
            self.now.queued -= 1;
            self.take(&owner, memory);
            self.give_turn(&owner);
        }
        woken
    }
}
