//! Secrets out of bytes: what is known is replaced, wherever it is cut.
//!
//! Every byte that belongs to an occurrence of a pattern is masked. Occurrences that overlap are one; so nothing of a
//! secret is let out because another one begins in the middle of it.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use aho_corasick::{
    AhoCorasick, Anchored, MatchKind,
    automaton::{Automaton, StateID},
    nfa::contiguous::NFA,
    packed::Searcher,
};
use bytes::Bytes;

/// What stands for a secret. It says nothing of its length, and is shorter than any.
pub(crate) const MASK: &str = "***";

/// Everything that is to be masked, ready to be looked for.
pub(crate) struct Masks {
    /// Says quickly that nothing is there.
    finder: AhoCorasick,
    /// Says it more quickly; `None` where there is too much to be looked for.
    packed: Option<Searcher>,
    /// Goes through the bytes one by one. Its state stands for the longest end of them that a pattern begins with.
    automaton: NFA,
    start: StateID,
    /// How many bytes that is, where more of the pattern can follow; no entry for none.
    holds: HashMap<StateID, usize>,
    longest: usize,
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masks").finish_non_exhaustive()
    }
}

impl Masks {
    /// None of `patterns` may be empty, and all of them together must be short of 2³¹ bytes.
    pub(crate) fn new(patterns: &BTreeSet<Vec<u8>>) -> Self {
        const BOUNDED: &str = "patterns of a bounded size make an automaton";
        let finder =
            AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(patterns).expect(BOUNDED);
        let automaton = NFA::new(patterns).expect(BOUNDED);
        let start = automaton.start_state(Anchored::No).expect("it searches anywhere");
        let longest = patterns.iter().map(Vec::len).max().unwrap_or(0);
        let mut masks = Self {
            finder,
            packed: Searcher::new(patterns),
            automaton,
            start,
            holds: HashMap::new(),
            longest,
        };
        let mut whole = Vec::new();
        for pattern in patterns {
            let mut state = start;
            for (index, byte) in pattern.iter().enumerate() {
                state = masks.next(state, *byte);
                if index + 1 < pattern.len() {
                    masks.holds.insert(state, index + 1);
                }
            }
            whole.push((pattern, state));
        }
        // A whole pattern that no other one goes on from holds back only what its own end may be the beginning of. That
        // may be a shorter whole pattern, which is therefore looked at first.
        whole.sort_by_key(|(pattern, _)| pattern.len());
        for (pattern, state) in whole {
            if !masks.holds.contains_key(&state) {
                let held = masks.hold(masks.walk(&pattern[1..]));
                masks.holds.insert(state, held);
            }
        }
        masks
    }

    fn next(&self, state: StateID, byte: u8) -> StateID {
        self.automaton.next_state(Anchored::No, state, byte)
    }

    /// The state behind these bytes.
    fn walk(&self, bytes: &[u8]) -> StateID {
        bytes.iter().fold(self.start, |state, byte| self.next(state, *byte))
    }

    /// How many of the last bytes may be the beginning of a pattern.
    fn hold(&self, state: StateID) -> usize {
        self.holds.get(&state).copied().unwrap_or(0)
    }

    /// The length of the longest pattern that ends in this state; `None` when none does.
    fn ending(&self, state: StateID) -> Option<usize> {
        if !self.automaton.is_match(state) {
            return None;
        }
        let patterns = 0..self.automaton.match_len(state);
        patterns.map(|index| self.automaton.pattern_len(self.automaton.match_pattern(state, index))).max()
    }

    /// Whether there is anything to be masked in these bytes.
    pub(crate) fn occur_in(&self, bytes: &[u8]) -> bool {
        match &self.packed {
            Some(packed) => packed.find(bytes).is_some(),
            None => self.finder.is_match(bytes),
        }
    }

    /// These bytes, masked; with `cut`, what they end with is masked too if a pattern begins with it.
    pub(crate) fn whole(self: &Arc<Self>, bytes: &[u8], cut: bool) -> Vec<u8> {
        let mut masker = StreamMasker::new(Arc::clone(self));
        let mut out = Vec::with_capacity(bytes.len());
        for piece in bytes.chunks(64 << 10) {
            out.extend_from_slice(&masker.push(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&masker.finish(cut));
        out
    }
}

/// Masks a stream that comes in pieces. Holds back only what may be the beginning of a pattern.
#[derive(Debug)]
pub(crate) struct StreamMasker {
    masks: Arc<Masks>,
    state: StateID,
    /// The end of what came in, which is not decided yet.
    held: Vec<u8>,
    /// What of it belongs to an occurrence: in order, without overlap.
    covers: Vec<Cover>,
}

/// Bytes of which nothing is let out.
#[derive(Debug, Clone, Copy)]
struct Cover {
    start: usize,
    end: usize,
    /// The mask was let out already.
    told: bool,
}

impl StreamMasker {
    pub(crate) fn new(masks: Arc<Masks>) -> Self {
        let state = masks.start;
        Self { masks, state, held: Vec::new(), covers: Vec::new() }
    }

    /// Takes a piece in, and lets out what is decided.
    pub(crate) fn push(&mut self, piece: Bytes) -> Bytes {
        if self.held.is_empty() && !self.masks.occur_in(&piece) {
            // The state depends on no more than the bytes that may be the beginning of a pattern.
            let far = piece.len().saturating_sub(self.masks.longest.saturating_sub(1));
            self.state = self.masks.walk(&piece[far..]);
            let decided = piece.len() - self.masks.hold(self.state);
            self.held.extend_from_slice(&piece[decided..]);
            return piece.slice(..decided);
        }
        let begin = self.held.len();
        self.held.extend_from_slice(&piece);
        for (index, byte) in piece.iter().enumerate() {
            self.state = self.masks.next(self.state, *byte);
            if let Some(length) = self.masks.ending(self.state) {
                let end = begin + index + 1;
                self.cover(end - length, end);
            }
        }
        self.let_out(self.held.len() - self.masks.hold(self.state))
    }

    /// Lets out the rest. With `cut`, the stream was cut off, and what may be the beginning of a pattern is taken for one.
    pub(crate) fn finish(mut self, cut: bool) -> Bytes {
        if cut && !self.held.is_empty() {
            self.cover(0, self.held.len());
        }
        self.let_out(self.held.len())
    }

    /// Marks these bytes, and with them what they overlap. `end` never goes back.
    fn cover(&mut self, mut start: usize, end: usize) {
        let mut told = false;
        while let Some(last) = self.covers.last().copied().filter(|last| last.end > start) {
            start = start.min(last.start);
            told |= last.told;
            self.covers.pop();
        }
        self.covers.push(Cover { start, end, told });
    }

    /// Lets out the first `decided` bytes: no occurrence that is still to come begins before them.
    fn let_out(&mut self, decided: usize) -> Bytes {
        let mut out = Vec::with_capacity(decided);
        let mut from = 0;
        let mut open = Vec::new();
        for cover in self.covers.drain(..) {
            if cover.start < decided {
                out.extend_from_slice(&self.held[from..cover.start]);
                if !cover.told {
                    out.extend_from_slice(MASK.as_bytes());
                }
                from = cover.end.min(decided);
            }
            if cover.end > decided {
                open.push(Cover {
                    start: cover.start.saturating_sub(decided),
                    end: cover.end - decided,
                    told: cover.told || cover.start < decided,
                });
            }
        }
        out.extend_from_slice(&self.held[from..decided]);
        self.covers = open;
        self.held.drain(..decided);
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masks(patterns: &[&[u8]]) -> Arc<Masks> {
        Arc::new(Masks::new(&patterns.iter().map(|pattern| pattern.to_vec()).collect()))
    }

    /// What is let out for each piece, and at the end.
    fn pieces(masks: &Arc<Masks>, pieces: &[&[u8]]) -> Vec<String> {
        let mut masker = StreamMasker::new(Arc::clone(masks));
        let mut out: Vec<_> = pieces.iter().map(|piece| masker.push(Bytes::copy_from_slice(piece))).collect();
        out.push(masker.finish(false));
        out.iter().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).collect()
    }

    /// The same, of the whole input at once, in the plainest way.
    fn reference(patterns: &BTreeSet<Vec<u8>>, all: &[u8]) -> Vec<u8> {
        let mut found: Vec<(usize, usize)> = Vec::new();
        for start in 0..all.len() {
            let longest =
                patterns.iter().filter(|pattern| all[start..].starts_with(pattern)).map(Vec::len).max();
            let Some(end) = longest.map(|length| start + length) else { continue };
            match found.last_mut() {
                Some(last) if last.1 > start => last.1 = last.1.max(end),
                _ => found.push((start, end)),
            }
        }
        let (mut out, mut from) = (Vec::new(), 0);
        for (start, end) in found {
            out.extend_from_slice(&all[from..start]);
            out.extend_from_slice(MASK.as_bytes());
            from = end;
        }
        out.extend_from_slice(&all[from..]);
        out
    }

    fn letters(length: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(b'a'..=b'c', length)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]
        #[test]
        fn however_it_is_cut_it_is_as_the_whole(
            patterns in prop::collection::btree_set(letters(1..6), 1..5),
            input in prop::collection::vec(letters(0..8), 0..16),
        ) {
            let masks = Arc::new(Masks::new(&patterns));
            let expected = reference(&patterns, &input.concat());
            prop_assert_eq!(masks.whole(&input.concat(), false), &expected[..]);
            let mut masker = StreamMasker::new(masks);
            let mut out = Vec::new();
            for piece in input {
                out.extend_from_slice(&masker.push(piece.into()));
                // What is held back is the beginning of a pattern, and not a whole one that nothing can be added to.
                let held = &masker.held;
                prop_assert!(held.is_empty() || patterns.iter().any(|pattern| pattern.len() > held.len() && pattern.starts_with(held)));
            }
            out.extend_from_slice(&masker.finish(false));
            prop_assert_eq!(out, expected);
        }

        #[test]
        fn nothing_is_changed_where_nothing_occurs(input in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut masker = StreamMasker::new(masks(&[b"a secret that nobody guesses"]));
            let mut out = Vec::new();
            for piece in &input {
                out.extend_from_slice(&masker.push(Bytes::copy_from_slice(piece)));
            }
            out.extend_from_slice(&masker.finish(false));
            prop_assert_eq!(out, input.concat());
        }
    }

    #[test]
    fn only_a_beginning_is_held_back_and_let_out_at_the_end() {
        let masks = masks(&[b"secret"]);
        assert_eq!(pieces(&masks, &[b"a sec", b"ond", b" secre"]), ["a ", "second", " ", "secre"]);
        assert_eq!(
            pieces(&masks, &[b"s", b"e", b"c", b"r", b"e", b"t", b"s"]),
            ["", "", "", "", "", "***", "", "s"]
        );
        assert_eq!(masks.whole(b"cut off: secr", true), b"cut off: ***");
        assert_eq!(masks.whole(b"cut off: x", true), b"cut off: x");
    }

    #[test]
    fn occurrences_that_overlap_are_one() {
        assert_eq!(masks(&[b"abcd", b"cdef"]).whole(b"xabcdefx", false), b"x***x");
        assert_eq!(masks(&[b"abab"]).whole(b"ababab", false), b"***");
        assert_eq!(masks(&[b"abcd"]).whole(b"abcdabcd", false), b"******");
        assert_eq!(masks(&[b"bc", b"abcd"]).whole(b"abcx", false), b"a***x");
    }

    #[test]
    fn debug_output_shows_no_pattern() {
        let mut masker = StreamMasker::new(masks(&[b"secret"]));
        masker.push(Bytes::from_static(b"a longer text"));
        assert_eq!(format!("{:?}", masker.masks), "Masks { .. }");
    }
}
