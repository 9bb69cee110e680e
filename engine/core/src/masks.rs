//! Finding every occurrence of every secret in one pass, however the bytes are cut.
//!
//! An Aho–Corasick automaton, of our own: what a stream needs to know at every cut is how many of the last bytes may be
//! the beginning of a pattern, which the library's does not tell; and the library's takes seconds to make for the longest
//! secrets. The library does what it is fast at: it finds the next place worth looking at, by the first bytes of each
//! pattern, so that the automaton only walks where there may be something.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind, packed::Searcher};

/// How much of each pattern is looked for by the library. It keeps its tables small however long a secret is.
const PREFIX: usize = 8;

/// More prefixes than this the vector instructions do not look for at once.
const MOST_PACKED: usize = 64;

/// The most bytes of a pattern's beginning that are let out when the tool falls silent after them, and at most a quarter
/// of it: see [`StreamMasker::let_go`](crate::masker::StreamMasker::let_go).
const MOST_LET_GO: usize = 3;

/// Everything that is to be masked, ready to be looked for.
pub(crate) struct Masks {
    nodes: Vec<Node>,
    /// The root's children, which are asked for most.
    first: [u32; 256],
    finder: Finder,
    /// The longest prefix that the finder knows.
    prefix: usize,
    let_go: usize,
}

enum Finder {
    Packed(Searcher),
    Automaton(AhoCorasick),
}

/// A beginning of a pattern. Node 0, the root, is the empty one, and stands for "none" where a child is meant.
#[derive(Clone, Copy, Default)]
struct Node {
    byte: u8,
    first_child: u32,
    next_sibling: u32,
    /// The longest other beginning that this one ends with.
    fallback: u32,
    depth: u32,
    /// How many of the last bytes may go on to be a pattern: fewer than `depth` where one ends and no other goes on.
    live: u32,
    /// The length of the longest pattern that ends here; 0 when none does.
    longest: u32,
}

/// A place in the automaton: the longest end of what was seen that a pattern begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State(u32);

impl State {
    pub(crate) const START: State = State(0);
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masks").finish_non_exhaustive()
    }
}

impl Masks {
    /// None of `patterns` may be empty, and all of them together must be short of 2³¹ bytes.
    pub(crate) fn new(patterns: &BTreeSet<Vec<u8>>) -> Self {
        Self::with_prefix(patterns, PREFIX)
    }

    pub(crate) fn with_prefix(patterns: &BTreeSet<Vec<u8>>, prefix: usize) -> Self {
        let prefixes: BTreeSet<&[u8]> =
            patterns.iter().map(|pattern| &pattern[..pattern.len().min(prefix)]).collect();
        let shortest = patterns.iter().map(Vec::len).min().unwrap_or(0);
        let mut masks = Self {
            nodes: vec![Node::default()],
            first: [0; 256],
            prefix: prefixes.iter().map(|prefix| prefix.len()).max().unwrap_or(0),
            finder: Finder::new(&prefixes),
            let_go: MOST_LET_GO.min(shortest / 4),
        };
        patterns.iter().for_each(|pattern| masks.insert(pattern));
        masks.connect();
        masks
    }

    fn insert(&mut self, pattern: &[u8]) {
        let mut at = 0;
        for (byte, depth) in pattern.iter().zip(1..) {
            at = match self.child(at, *byte) {
                0 => {
                    let new = self.nodes.len() as u32;
                    let next_sibling = std::mem::replace(&mut self.nodes[at as usize].first_child, new);
                    self.nodes.push(Node { byte: *byte, next_sibling, depth, ..Node::default() });
                    if at == 0 {
                        self.first[usize::from(*byte)] = new;
                    }
                    new
                }
                known => known,
            };
        }
        let node = &mut self.nodes[at as usize];
        node.longest = node.depth;
    }

    /// Breadth first: what a node falls back to is nearer to the root, and known by then.
    fn connect(&mut self) {
        let mut waiting = VecDeque::from([0]);
        while let Some(at) = waiting.pop_front() {
            let mut child = self.nodes[at as usize].first_child;
            while child != 0 {
                let fallback = match at {
                    0 => 0,
                    _ => {
                        let before = State(self.nodes[at as usize].fallback);
                        self.step(before, self.nodes[child as usize].byte).0
                    }
                };
                let other = self.nodes[fallback as usize];
                let node = &mut self.nodes[child as usize];
                node.fallback = fallback;
                node.live = if node.first_child == 0 { other.live } else { node.depth };
                node.longest = node.longest.max(other.longest);
                waiting.push_back(child);
                child = node.next_sibling;
            }
        }
    }

    /// 0 when there is none.
    fn child(&self, at: u32, byte: u8) -> u32 {
        if at == 0 {
            return self.first[usize::from(byte)];
        }
        let mut child = self.nodes[at as usize].first_child;
        while child != 0 && self.nodes[child as usize].byte != byte {
            child = self.nodes[child as usize].next_sibling;
        }
        child
    }

    fn step(&self, State(mut at): State, byte: u8) -> State {
        loop {
            match self.child(at, byte) {
                0 if at == 0 => return State::START,
                0 => at = self.nodes[at as usize].fallback,
                child => return State(child),
            }
        }
    }

    /// Goes on from `state` over `bytes`. For each place where a pattern ends, `found` is given that place and the length
    /// of the longest that does.
    pub(crate) fn scan(&self, mut state: State, bytes: &[u8], mut found: impl FnMut(usize, usize)) -> State {
        let mut at = 0;
        while at < bytes.len() {
            if state == State::START {
                at += self.skip(&bytes[at..]);
            }
            while let Some(byte) = bytes.get(at) {
                state = self.step(state, *byte);
                at += 1;
                let longest = self.nodes[state.0 as usize].longest;
                if longest > 0 {
                    found(at, longest as usize);
                }
                if state == State::START {
                    break;
                }
            }
        }
        state
    }

    /// How many of these bytes no pattern can begin in. At least one of the next prefix's length remains, in which one
    /// may begin that goes on behind them.
    fn skip(&self, bytes: &[u8]) -> usize {
        let undecided = bytes.len().saturating_sub(self.prefix.saturating_sub(1));
        self.finder.find(bytes).map_or(undecided, |found| found.min(undecided))
    }

    /// How many of the last bytes may be the beginning of a pattern.
    pub(crate) fn hold(&self, state: State) -> usize {
        self.nodes[state.0 as usize].live as usize
    }

    /// How many bytes may be let out before it is known whether they are the beginning of a pattern.
    pub(crate) fn let_go(&self) -> usize {
        self.let_go
    }

    /// Whether there is anything to be masked in these bytes.
    pub(crate) fn occur_in(&self, bytes: &[u8]) -> bool {
        let mut occur = false;
        self.scan(State::START, bytes, |_, _| occur = true);
        occur
    }
}

impl Finder {
    fn new(prefixes: &BTreeSet<&[u8]>) -> Self {
        if prefixes.len() <= MOST_PACKED
            && let Some(packed) = Searcher::new(prefixes)
        {
            return Finder::Packed(packed);
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostFirst)
            .kind(Some(AhoCorasickKind::DFA))
            .build(prefixes);
        // It fails when there are more than 2³¹ states; a call's secrets have at most 2²⁰ bytes.
        Finder::Automaton(automaton.expect("the prefixes of a call's secrets are few"))
    }

    /// Where the first prefix begins.
    fn find(&self, bytes: &[u8]) -> Option<usize> {
        match self {
            Finder::Packed(packed) => packed.find(bytes).map(|found| found.start()),
            Finder::Automaton(automaton) => automaton.find(bytes).map(|found| found.start()),
        }
    }
}
