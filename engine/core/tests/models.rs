//! The queue's line and the registry's book against models of them that are too simple to be wrong: any number of steps in
//! any order.
//!
//! Promises: bounds hold after every step; nobody waits while there is room for the one whose turn it is; one owner's calls
//! are admitted in order, and no owner is admitted twice while another one could have been once; what was given back is
//! forgotten. A record is found until it was removed, or has stayed for long enough after its end, or there are too many;
//! those that have not ended are always found; lists are in the order of submission.
//!
//! Does not promise anything about threads: see `interleavings.rs`.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "../src/registry/book.rs"]
mod book;
#[path = "../src/queue/line.rs"]
mod line;
#[path = "../src/state.rs"]
#[expect(unreachable_pub, dead_code, reason = "the library exports it; here there is one attempt")]
mod state;
mod sync {
    pub(crate) use std::sync::atomic::{AtomicU8, Ordering};
}

use std::{collections::BTreeMap, sync::Arc, task::Waker, time::Duration};

use book::{Book, Keep};
use line::{Bounds, Claim, Entered, Line, Owner};
use proptest::prelude::*;
use state::{Stage, State};

#[derive(Debug, Clone)]
enum Move {
    Enter {
        owner: usize,
        memory: u64,
    },
    /// The nth of those that run.
    Release(usize),
    /// The nth of those that entered and are neither gone nor known to be admitted.
    Leave(usize),
    Look(usize),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        3 => (0..4_usize, 0..6_u64).prop_map(|(owner, memory)| Move::Enter { owner, memory }),
        2 => (0..9_usize).prop_map(Move::Release),
        1 => (0..9_usize).prop_map(Move::Leave),
        1 => (0..9_usize).prop_map(Move::Look),
    ];
    prop::collection::vec(one, 0..120)
}

/// What is known of one that waits.
#[derive(Debug)]
struct Waiter {
    claim: Claim,
    ticket: u64,
    /// The owners that were admitted since it was the first of its owner's and could have been admitted.
    passed_by: Vec<Owner>,
}

struct LineModel {
    line: Line,
    bounds: Bounds,
    running: Vec<Claim>,
    waiting: Vec<Waiter>,
}

impl LineModel {
    fn running_of(&self, owner: &Owner) -> usize {
        self.running.iter().filter(|claim| claim.owner == *owner).count()
    }

    fn waiting_of(&self, owner: &Owner) -> usize {
        self.waiting.iter().filter(|waiter| waiter.claim.owner == *owner).count()
    }

    fn is_first(&self, index: usize) -> bool {
        let owner = &self.waiting[index].claim.owner;
        self.waiting.iter().position(|waiter| waiter.claim.owner == *owner) == Some(index)
    }

    /// Whether its owner may run one more and it is that owner's first.
    fn has_turn(&self, index: usize) -> bool {
        let claim = &self.waiting[index].claim;
        self.is_first(index) && self.running_of(&claim.owner) < self.bounds.running_per_owner
    }

    fn fits(&self, memory: u64) -> bool {
        let used: u64 = self.running.iter().map(|claim| claim.memory).sum();
        self.running.len() < self.bounds.running && used + memory <= self.bounds.memory.unwrap()
    }

    /// Finds out who was admitted by the last step, checks that it was their turn, and that nobody's was left out.
    fn settle(&mut self) {
        while let Some(index) = (0..self.waiting.len()).find(|&index| {
            let Waiter { claim, ticket, .. } = &self.waiting[index];
            self.has_turn(index) && !self.line.waits(&claim.owner, *ticket, Waker::noop())
        }) {
            // The order in which several were admitted by one step is not to be seen, only that all may run.
            let waiter = self.waiting.remove(index);
            assert!(self.fits(waiter.claim.memory), "admitted without room: {waiter:?}");
            let turns: Vec<bool> = (0..self.waiting.len()).map(|index| self.has_turn(index)).collect();
            for (other, has_turn) in self.waiting.iter_mut().zip(turns) {
                if has_turn && other.claim.owner != waiter.claim.owner {
                    other.passed_by.push(waiter.claim.owner.clone());
                } else if !has_turn {
                    other.passed_by.clear();
                }
            }
            self.running.push(waiter.claim);
        }
        for index in 0..self.waiting.len() {
            let Waiter { claim, ticket, .. } = &self.waiting[index];
            assert!(
                self.line.waits(&claim.owner, *ticket, Waker::noop()),
                "admitted before its owner's first"
            );
        }
        let turns: Vec<u64> = (0..self.waiting.len())
            .filter(|&index| self.has_turn(index))
            .map(|index| self.waiting[index].claim.memory)
            .collect();
        let some_must_wait = turns.iter().any(|memory| !self.fits(*memory));
        assert!(
            turns.is_empty() || some_must_wait,
            "there is room for all whose turn it could be: {turns:?}"
        );
        for waiter in &self.waiting {
            for owner in &waiter.passed_by {
                // Two in one step, or one before and one after it got its turn.
                let times = waiter.passed_by.iter().filter(|other| *other == owner).count();
                assert!(times <= 2, "{owner:?} was admitted {times} times while {waiter:?} had a turn");
            }
        }
        let counts = self.line.counts();
        assert_eq!((counts.running, counts.queued), (self.running.len(), self.waiting.len()));
        assert_eq!(counts.memory, self.running.iter().map(|claim| claim.memory).sum::<u64>());
        assert!(counts.running <= self.bounds.running && counts.queued <= self.bounds.queued);
        assert!(counts.memory <= self.bounds.memory.unwrap());
        for waiter in &self.waiting {
            let of_owner = self.waiting_of(&waiter.claim.owner);
            assert_eq!(self.line.waiting_of(&waiter.claim.owner), of_owner);
            assert!(of_owner <= self.bounds.queued_per_owner);
        }
        for claim in &self.running {
            let of_owner = self.running_of(&claim.owner);
            assert_eq!(self.line.running_of(&claim.owner), of_owner);
            assert!(of_owner <= self.bounds.running_per_owner);
        }
    }
}

proptest! {
    #[test]
    fn the_line_keeps_its_bounds_and_leaves_nobody_out(
        moves in moves(), running in 1..4_usize, running_per_owner in 1..4_usize, queued in 0..9_usize,
        queued_per_owner in 0..9_usize, memory in 5..9_u64,
    ) {
        let bounds = Bounds { running, running_per_owner, queued, queued_per_owner, memory: Some(memory) };
        let names: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).into();
        let owner = |index: usize| names.get(index).map(Arc::clone);
        let mut model =
            LineModel { line: Line::new(bounds.clone()), bounds, running: Vec::new(), waiting: Vec::new() };
        for step in moves {
            match step {
                Move::Enter { owner: index, memory } => {
                    let claim = Claim { owner: owner(index), memory };
                    let turns = (0..model.waiting.len()).any(|index| model.has_turn(index));
                    let at_once = !turns && model.fits(memory)
                        && model.running_of(&claim.owner) < model.bounds.running_per_owner;
                    match model.line.enter(&claim) {
                        Entered::Admitted => {
                            prop_assert!(at_once);
                            model.running.push(claim);
                        }
                        Entered::Waits(ticket) => {
                            prop_assert!(!at_once);
                            model.waiting.push(Waiter { claim, ticket, passed_by: Vec::new() });
                        }
                        Entered::Full => {
                            let of_owner = model.waiting_of(&claim.owner);
                            prop_assert!(!at_once);
                            prop_assert!(model.waiting.len() == queued || of_owner == queued_per_owner);
                        }
                    }
                }
                Move::Release(nth) if nth < model.running.len() => {
                    let claim = model.running.remove(nth);
                    drop(model.line.release(&claim));
                }
                Move::Leave(nth) if nth < model.waiting.len() => {
                    let waiter = model.waiting.remove(nth);
                    drop(model.line.leave(&waiter.claim, waiter.ticket));
                }
                Move::Look(nth) if nth < model.waiting.len() => {
                    let Waiter { claim, ticket, .. } = &model.waiting[nth];
                    prop_assert!(model.line.waits(&claim.owner, *ticket, Waker::noop()));
                }
                Move::Release(_) | Move::Leave(_) | Move::Look(_) => {}
            }
            model.settle();
        }
        // Whoever waits is admitted when there is room, and then nothing is known of anybody.
        while let Some(claim) = model.running.pop() {
            drop(model.line.release(&claim));
            drop(claim);
            model.settle();
        }
        prop_assert!(model.waiting.is_empty(), "{:?}", model.waiting);
        prop_assert!(names.iter().all(|name| Arc::strong_count(name) == 1), "an owner is remembered");
    }
}

#[test]
fn owners_take_turns_and_one_at_its_cap_holds_up_nobody() {
    let bounds =
        Bounds { running: 2, running_per_owner: 1, queued: 100, queued_per_owner: 100, memory: None };
    let mut line = Line::new(bounds);
    let claim = |owner: &str| Claim { owner: Some(owner.into()), memory: u64::MAX };
    let (greedy, modest) = (claim("greedy"), claim("modest"));
    assert_eq!(line.enter(&greedy), Entered::Admitted);
    let Entered::Waits(second) = line.enter(&greedy) else { panic!("it is at its cap") };
    let Entered::Waits(third) = line.enter(&greedy) else { panic!("it is at its cap") };
    assert_eq!(line.enter(&modest), Entered::Admitted, "those who wait have no turn");
    let Entered::Waits(other) = line.enter(&claim("other")) else { panic!("two run") };
    drop(line.release(&greedy));
    let waker = Waker::noop();
    assert!(!line.waits(&claim("other").owner, other, waker), "it was the first with a turn");
    assert!(line.waits(&greedy.owner, second, waker));
    drop(line.release(&modest));
    assert!(!line.waits(&greedy.owner, second, waker) && line.waits(&greedy.owner, third, waker));
}

#[test]
fn a_state_only_goes_forward_and_who_was_asked_to_end_never_begins() {
    let stage = Stage::new();
    assert!(stage.begin() && !stage.begin(), "it begins once");
    stage.reach(State::Stopping);
    stage.reach(State::Running);
    assert_eq!(stage.state(), State::Stopping);
    stage.reach(State::Ended);
    stage.ask();
    stage.reach(State::Queued);
    assert_eq!(stage.state(), State::Ended);
    let stage = Stage::new();
    stage.ask();
    assert_eq!(stage.state(), State::Stopping);
    assert!(!stage.begin());
}

#[derive(Debug, Clone)]
enum Deed {
    Submit {
        id: usize,
        owner: usize,
    },
    /// The nth of those that have not ended.
    End {
        nth: usize,
        bytes: u64,
    },
    Remove(usize),
    Sweep,
    Pass(u64),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let one = prop_oneof![
        4 => (0..12_usize, 0..3_usize).prop_map(|(id, owner)| Deed::Submit { id, owner }),
        3 => (0..6_usize, 0..40_u64).prop_map(|(nth, bytes)| Deed::End { nth, bytes }),
        1 => (0..12_usize).prop_map(Deed::Remove),
        1 => Just(Deed::Sweep),
        2 => (0..8_u64).prop_map(Deed::Pass),
    ];
    prop::collection::vec(one, 0..150)
}

/// A record is its own id.
#[derive(Debug, Clone)]
struct Known {
    number: u64,
    id: String,
    owner: Option<String>,
    /// When it stops being found, and its bytes.
    ended: Option<(Duration, u64)>,
}

proptest! {
    #[test]
    fn the_book_has_what_it_should(deeds in deeds(), records in 1..6_usize, bytes in 0..100_u64) {
        let retention = Duration::from_secs(20);
        let mut book: Book<String> = Book::new(Keep { retention, records, bytes });
        let mut now = Duration::ZERO;
        // In the order of submission; and the numbers of those that have ended, in that order.
        let (mut model, mut ends): (BTreeMap<u64, Known>, Vec<u64>) = (BTreeMap::new(), Vec::new());
        let mut last = 0;
        for deed in deeds {
            let stays = |known: &Known| known.ended.is_none_or(|(expires, _)| expires > now);
            match deed {
                Deed::Pass(seconds) => now += Duration::from_secs(seconds),
                Deed::Submit { id, owner } => {
                    let (id, owner) = (format!("id {id}"), (owner > 0).then(|| format!("owner {owner}")));
                    let found = book.find(&id, now).map(|(number, _)| number);
                    let known = model.values().find(|known| known.id == id && stays(known));
                    prop_assert_eq!(found, known.map(|known| known.number));
                    if found.is_none() {
                        let (number, older) =
                            book.insert(id.as_str().into(), owner.as_deref().map(Arc::from), id.clone());
                        prop_assert!(number > last);
                        last = number;
                        let expired = model.values().find(|known| known.id == id).map(|known| known.number);
                        prop_assert_eq!(older.is_some(), expired.is_some());
                        if let Some(expired) = expired {
                            model.remove(&expired);
                            ends.retain(|number| *number != expired);
                        }
                        model.insert(number, Known { number, id, owner, ended: None });
                    }
                }
                Deed::End { nth, bytes: size } => {
                    let active: Vec<u64> =
                        model.values().filter(|known| known.ended.is_none()).map(|known| known.number).collect();
                    let Some(&number) = active.get(nth) else { continue };
                    let gone = book.end(number, size, now);
                    prop_assert!(book.end(number, size, now).is_empty(), "the first end stands");
                    model.get_mut(&number).unwrap().ended = Some((now + retention, size));
                    ends.push(number);
                    let mut expected = Vec::new();
                    let held = |model: &BTreeMap<u64, Known>| -> u64 {
                        model.values().filter_map(|known| known.ended).map(|(_, size)| size).sum()
                    };
                    while ends.len() > 1 && (ends.len() > records || held(&model) > bytes) {
                        expected.push(model.remove(&ends.remove(0)).unwrap().id);
                    }
                    prop_assert_eq!(gone, expected);
                }
                Deed::Remove(id) => {
                    let id = format!("id {id}");
                    let known = model.values().find(|known| known.id == id).map(|known| known.number);
                    prop_assert_eq!(book.remove(&id).is_some(), known.is_some());
                    if let Some(number) = known {
                        model.remove(&number);
                        ends.retain(|ended| *ended != number);
                    }
                }
                Deed::Sweep => {
                    let gone = book.sweep(now, usize::MAX).len();
                    let before = model.len();
                    model.retain(|_, known| known.ended.is_none_or(|(expires, _)| expires > now));
                    prop_assert_eq!(gone, before - model.len());
                    ends.retain(|number| model.contains_key(number));
                }
            }
            let stays = |known: &&Known| known.ended.is_none_or(|(expires, _)| expires > now);
            for known in model.values() {
                let found = book.find(&known.id, now).map(|(number, _)| number);
                prop_assert_eq!(found, stays(&known).then_some(known.number));
            }
            for owner in [None, Some("owner 1"), Some("owner 2")] {
                let of_owner = |known: &&Known| owner.is_none() || known.owner.as_deref() == owner;
                let active = model.values().filter(of_owner).filter(|known| known.ended.is_none());
                let active: Vec<_> = active.map(|known| known.id.clone()).collect();
                prop_assert_eq!(book.active(owner), active);
                // Page by page it is the whole.
                let (mut listed, mut after) = (Vec::new(), 0);
                loop {
                    let page = book.page(owner, after, 2, now);
                    listed.extend(page.records.into_iter().map(|(number, _)| number));
                    let Some(last) = page.last else { break };
                    after = last;
                }
                let all: Vec<_> = model.values().filter(of_owner).filter(stays).map(|known| known.number).collect();
                prop_assert_eq!(listed, all);
            }
            let held = model.values().filter_map(|known| known.ended).map(|(_, size)| size).sum();
            prop_assert_eq!(book.size(), (model.len(), held));
            let next = ends.first().map(|number| model[number].ended.unwrap().0);
            prop_assert_eq!(book.next_expiry(), next);
        }
    }
}
