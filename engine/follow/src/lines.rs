//! From chunks to lines.

use std::hash::Hasher;

use bytes::{Bytes, BytesMut};

/// What a line ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnd {
    /// A line feed.
    Lf,
    /// A carriage return and a line feed.
    CrLf,
    /// Nothing: the output of the source ended there.
    None,
}

impl LineEnd {
    /// The bytes.
    pub fn bytes(self) -> &'static [u8] {
        match self {
            LineEnd::Lf => b"\n",
            LineEnd::CrLf => b"\r\n",
            LineEnd::None => b"",
        }
    }
}

/// A line as the source wrote it.
#[derive(Debug, Clone)]
pub(crate) struct RawLine {
    /// Without its end; the first bytes of one that is too long.
    pub(crate) bytes: Bytes,
    pub(crate) end: LineEnd,
    /// How many more bytes there were.
    pub(crate) cut: u64,
    /// Of those.
    digest: u64,
    /// How many bytes it took of the output, its end included.
    pub(crate) length: u64,
}

impl RawLine {
    /// Adds to a hash what makes it this line, up to its end; `from` is where it begins.
    pub(crate) fn hash_from(&self, from: usize, hasher: &mut impl Hasher) {
        hasher.write(self.bytes.get(from..).unwrap_or_default());
        hasher.write_u64(self.cut);
        hasher.write_u64(self.digest);
    }
}

/// Cuts a stream of chunks into lines. Holds one line at most, and of that no more than `most` bytes.
#[derive(Debug)]
pub(crate) struct Lines {
    most: usize,
    held: BytesMut,
    cut: u64,
    digest: std::hash::DefaultHasher,
}

impl Lines {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, held: BytesMut::new(), cut: 0, digest: std::hash::DefaultHasher::new() }
    }

    /// The lines that are complete with this chunk. They are copies: a short line does not keep a long chunk.
    pub(crate) fn push(&mut self, mut chunk: &[u8]) -> Vec<RawLine> {
        let mut lines = Vec::new();
        while let Some(end) = memchr::memchr(b'\n', chunk) {
            self.hold(&chunk[..end]);
            chunk = &chunk[end + 1..];
            lines.extend(self.take(true));
        }
        self.hold(chunk);
        lines
    }

    /// What is left without a line end.
    pub(crate) fn rest(&mut self) -> Option<RawLine> {
        self.take(false)
    }

    fn hold(&mut self, bytes: &[u8]) {
        let (kept, cut) = bytes.split_at(bytes.len().min(self.most - self.held.len()));
        self.held.extend_from_slice(kept);
        self.cut += cut.len() as u64;
        if !cut.is_empty() {
            cut.iter().for_each(|byte| self.digest.write_u8(*byte));
        }
    }

    fn take(&mut self, terminated: bool) -> Option<RawLine> {
        let cut = std::mem::take(&mut self.cut);
        let digest = if cut > 0 { std::mem::take(&mut self.digest).finish() } else { 0 };
        let length = self.held.len() as u64 + cut + u64::from(terminated);
        if length == 0 {
            return None;
        }
        let held = self.held.strip_suffix(b"\r").filter(|_| terminated && cut == 0);
        let line = RawLine {
            bytes: Bytes::copy_from_slice(held.unwrap_or(&self.held)),
            end: match (terminated, held) {
                (true, Some(_)) => LineEnd::CrLf,
                (true, None) => LineEnd::Lf,
                (false, _) => LineEnd::None,
            },
            cut,
            digest,
            length,
        };
        self.held.clear();
        if self.held.capacity() > 64 << 10 {
            // One long line is no reason to hold that much for ever.
            self.held = BytesMut::new();
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(lines: &[RawLine]) -> Vec<u8> {
        lines.iter().flat_map(|line| [&line.bytes[..], line.end.bytes()].concat()).collect()
    }

    #[test]
    fn lines_come_out_however_they_were_cut() {
        let text = b"a\n\n\r\nb\r\nc\rd\n\xff\xfe\nlast";
        for size in 1..text.len() {
            let mut lines = Lines::new(100);
            let mut all: Vec<_> = text.chunks(size).flat_map(|chunk| lines.push(chunk)).collect();
            all.extend(lines.rest());
            let shown: Vec<_> = all.iter().map(|line| &line.bytes[..]).collect();
            assert_eq!(shown, [&b"a"[..], b"", b"", b"b", b"c\rd", b"\xff\xfe", b"last"], "{size}");
            assert_eq!(joined(&all), text);
            assert_eq!(all.iter().map(|line| line.length).sum::<u64>(), text.len() as u64);
            assert!(lines.rest().is_none());
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_counted_and_known_again() {
        let key = |text: &[u8], size| {
            let mut lines = Lines::new(4);
            let all: Vec<_> = text.chunks(size).flat_map(|chunk| lines.push(chunk)).collect();
            assert_eq!((&all[0].bytes[..], all[0].cut), (&b"1234"[..], 4));
            assert_eq!((&all[1].bytes[..], all[1].cut), (&b"ab"[..], 0));
            let mut hasher = std::hash::DefaultHasher::new();
            all[0].hash_from(0, &mut hasher);
            hasher.finish()
        };
        assert_eq!(key(b"12345678\nab\n", 1), key(b"12345678\nab\n", 20));
        assert_ne!(key(b"12345678\nab\n", 1), key(b"12345679\nab\n", 1));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_added(text: Vec<u8>, size in 1usize..20) {
            let mut lines = Lines::new(1000);
            let mut all: Vec<_> = text.chunks(size).flat_map(|chunk| lines.push(chunk)).collect();
            all.extend(lines.rest());
            prop_assert_eq!(joined(&all), text);
        }
    }
}
