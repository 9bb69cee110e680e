//! Secrets out of bytes: what is known is replaced, wherever it is cut.
//!
//! Every byte that belongs to an occurrence of a pattern is masked. Occurrences that overlap are one; so nothing of a
//! secret is let out because another one begins in the middle of it.

use std::sync::Arc;

use bytes::Bytes;

use crate::masks::{Masks, State};

/// What stands for a secret. It says nothing of its length, and is shorter than any.
pub(crate) const MASK: &str = "***";

/// These bytes, masked; with `cut`, what they end with is masked too if a pattern begins with it.
pub(crate) fn masked(masks: &Arc<Masks>, bytes: &[u8], cut: bool) -> Vec<u8> {
    let mut masker = StreamMasker::new(Arc::clone(masks));
    let mut out = masker.push(Bytes::copy_from_slice(bytes)).to_vec();
    out.extend_from_slice(&masker.finish(cut));
    out
}

/// Masks a stream that comes in pieces. Holds back only what may be the beginning of a pattern.
#[derive(Debug)]
pub(crate) struct StreamMasker {
    masks: Arc<Masks>,
    state: State,
    /// The end of what came in, which is not decided yet.
    held: Vec<u8>,
    /// How much of its beginning was let out as it is: see [`let_go`](Self::let_go).
    gone: usize,
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
        Self { masks, state: State::START, held: Vec::new(), gone: 0, covers: Vec::new() }
    }

    /// Takes a piece in, and lets out what is decided. One in which there is nothing is not copied.
    pub(crate) fn push(&mut self, piece: Bytes) -> Bytes {
        let Self { masks, held, covers, .. } = self;
        let begin = held.len();
        self.state = masks.scan(self.state, &piece, |end, length| {
            cover(covers, begin + end - length, begin + end);
        });
        let decided = begin + piece.len() - masks.hold(self.state);
        self.let_out(piece, decided)
    }

    /// Whether [`let_go`](Self::let_go) would let anything out.
    pub(crate) fn can_let_go(&self) -> bool {
        self.covers.is_empty() && self.held.len() > self.gone && self.held.len() <= self.masks.let_go()
    }

    /// Lets out what is held back, when it is so little that it is probably no secret's beginning, and tells too little of
    /// it if it is: at most three bytes, and at most a quarter of the shortest pattern. For when the tool has fallen
    /// silent after them: it may have written a prompt, and wait for an answer.
    ///
    /// If it is one's beginning after all, the rest is masked when it comes. More is never let out, however long it takes:
    /// a slow writer would give the whole of it away.
    pub(crate) fn let_go(&mut self) -> Bytes {
        if !self.can_let_go() {
            return Bytes::new();
        }
        let gone = std::mem::replace(&mut self.gone, self.held.len());
        Bytes::copy_from_slice(&self.held[gone..])
    }

    /// Lets out the rest. With `cut`, the stream was cut off, and what may be the beginning of a pattern is taken for one.
    pub(crate) fn finish(mut self, cut: bool) -> Bytes {
        if cut && !self.held.is_empty() {
            cover(&mut self.covers, 0, self.held.len());
        }
        let all = self.held.len();
        self.let_out(Bytes::new(), all)
    }

    /// Lets out the first `decided` bytes of what is held and the piece behind it: no occurrence that is still to come
    /// begins before them. Holds the rest.
    fn let_out(&mut self, piece: Bytes, decided: usize) -> Bytes {
        let before = self.held.len();
        if before == 0 && self.covers.is_empty() {
            self.held.extend_from_slice(&piece[decided..]);
            return piece.slice(..decided);
        }
        let mut out = Vec::with_capacity(decided + MASK.len());
        let mut from = self.gone.min(decided);
        let mut open = Vec::new();
        for cover in self.covers.drain(..) {
            if cover.start < decided {
                append(&mut out, &self.held, &piece, from, cover.start);
                if !cover.told {
                    out.extend_from_slice(MASK.as_bytes());
                }
                from = from.max(cover.end.min(decided));
            }
            if cover.end > decided {
                open.push(Cover {
                    start: cover.start.saturating_sub(decided),
                    end: cover.end - decided,
                    told: cover.told || cover.start < decided,
                });
            }
        }
        append(&mut out, &self.held, &piece, from, decided);
        // Whatever it goes on to be, it begins here: a tool that says no more is not waited for.
        if let Some(first) = open.first_mut().filter(|first| first.start == 0 && !first.told) {
            out.extend_from_slice(MASK.as_bytes());
            first.told = true;
        }
        self.covers = open;
        self.gone = self.gone.saturating_sub(decided);
        self.held.drain(..decided.min(before));
        self.held.extend_from_slice(&piece[decided.saturating_sub(before)..]);
        out.into()
    }
}

/// Adds the bytes between these places of what is held and the piece behind it.
fn append(out: &mut Vec<u8>, held: &[u8], piece: &[u8], from: usize, to: usize) {
    if from < to {
        out.extend_from_slice(&held[from.min(held.len())..to.min(held.len())]);
        out.extend_from_slice(&piece[from.saturating_sub(held.len())..to.saturating_sub(held.len())]);
    }
}

/// Marks these bytes, and with them what they overlap. `end` never goes back.
fn cover(covers: &mut Vec<Cover>, mut start: usize, end: usize) {
    let mut told = false;
    while let Some(last) = covers.last().copied().filter(|last| last.end > start) {
        start = start.min(last.start);
        told |= last.told;
        covers.pop();
    }
    covers.push(Cover { start, end, told });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
            prefix in 1usize..7,
        ) {
            let masks = Arc::new(Masks::with_prefix(&patterns, prefix));
            let expected = reference(&patterns, &input.concat());
            prop_assert_eq!(masked(&masks, &input.concat(), false), &expected[..]);
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
        assert_eq!(masked(&masks, b"cut off: secr", true), b"cut off: ***");
        assert_eq!(masked(&masks, b"cut off: x", true), b"cut off: x");
    }

    #[test]
    fn a_whole_one_is_told_at_once_though_a_longer_one_may_come_of_it() {
        let masks = masks(&[b"abcd", b"abcd\n", b"xabcdx"]);
        assert_eq!(
            pieces(&masks, &[b"1 abcd", b"\n", b"2 abcd", b"3 ", b"xabcd", b"x", b"abcd"]),
            ["1 ***", "", "2 ***", "3 ", "", "***", "", "***"]
        );
    }

    #[test]
    fn occurrences_that_overlap_are_one() {
        assert_eq!(masked(&masks(&[b"abcd", b"cdef"]), b"xabcdefx", false), b"x***x");
        assert_eq!(masked(&masks(&[b"abab"]), b"ababab", false), b"***");
        assert_eq!(masked(&masks(&[b"abcd"]), b"abcdabcd", false), b"******");
        assert_eq!(masked(&masks(&[b"bc", b"abcd"]), b"abcx", false), b"a***x");
    }

    #[test]
    fn a_few_bytes_are_let_go_and_no_more() {
        let masks = masks(&[b"secret-of-18-bytes"]);
        let mut masker = StreamMasker::new(masks);
        let mut push = |piece: &'static [u8]| {
            let decided = masker.push(Bytes::from_static(piece));
            let can = masker.can_let_go();
            let gone = masker.let_go();
            assert_eq!(can, !gone.is_empty());
            assert!(masker.let_go().is_empty(), "they are out once");
            [decided, gone].map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        };
        assert_eq!(push(b"continue? yes"), ["continue? ye", "s"]);
        assert_eq!(push(b"e"), ["", "e"]);
        assert_eq!(push(b"c"), ["", "c"]);
        assert_eq!(push(b"r"), ["", ""]);
        assert_eq!(push(b"et-of-18-bytes; s"), ["***; ", "s"]);
        // What is let go is not let out again, whether or not it goes on.
        assert_eq!(push(b"ecx"), ["ecx", ""]);
        assert_eq!(push(b"ses"), ["se", "s"]);
        assert_eq!(push(b"x"), ["x", ""]);
        assert_eq!(push(b"sec"), ["", "sec"]);
        assert!(masker.finish(false).is_empty());
    }

    #[test]
    fn of_a_short_one_a_quarter_is_let_go() {
        for (pattern, most) in [(&b"abcd"[..], 1), (b"abcdefgh", 2), (b"abcdefghijkl", 3), (&[b'x'; 1000], 3)]
        {
            for length in 1..pattern.len() {
                let mut masker = StreamMasker::new(masks(&[pattern]));
                assert!(masker.push(Bytes::copy_from_slice(&pattern[..length])).is_empty());
                assert_eq!(masker.can_let_go(), length <= most, "{length} of {}", pattern.len());
            }
        }
    }

    #[test]
    fn the_longest_secrets_and_very_many_are_found() {
        let long: Vec<u8> = (0..64 << 10).map(|n: u32| b'!' + (n.wrapping_mul(n) >> 7) as u8 % 90).collect();
        let many: Vec<Vec<u8>> = (0..1000).map(|n| format!("{n:04} is one of them").into_bytes()).collect();
        let patterns = many.iter().cloned().chain([long.clone()]).collect();
        let masks = Arc::new(Masks::new(&patterns));
        let mut text = [&long[..100], &long, b" 0017 is one of", b" 0017 is one of them."].concat();
        text.extend_from_slice(&long[..long.len() - 1]);
        let expected = [&long[..100], b"*** 0017 is one of ***.", &long[..long.len() - 1]].concat();
        for size in [1, 1000, 65536, text.len()] {
            let mut masker = StreamMasker::new(Arc::clone(&masks));
            let pieces = text.chunks(size);
            let mut out: Vec<u8> =
                pieces.flat_map(|piece| masker.push(Bytes::copy_from_slice(piece)).to_vec()).collect();
            out.extend_from_slice(&masker.finish(false));
            assert!(out == expected, "in pieces of {size}");
        }
    }

    #[test]
    fn debug_output_shows_no_pattern() {
        let mut masker = StreamMasker::new(masks(&[b"secret"]));
        masker.push(Bytes::from_static(b"a longer text"));
        assert_eq!(format!("{:?}", masker.masks), "Masks { .. }");
    }
}
