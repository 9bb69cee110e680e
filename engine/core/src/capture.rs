//! Output kept within a bound: its head and its tail, and an exact count of what was dropped between them.

use std::{collections::VecDeque, fmt};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use schemars::JsonSchema;
use serde::{Serialize, Serializer, ser::SerializeStruct};

/// What a tool wrote to one stream: all of it, or, past the cap, its first and its last half-cap of bytes.
#[derive(Clone, Default)]
pub struct Captured {
    head: Vec<Bytes>,
    tail: VecDeque<Bytes>,
    total: u64,
    dropped: u64,
}

impl Captured {
    /// How many bytes the tool wrote; a masked secret counts as what stands for it.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many of them, between head and tail, were not kept.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether the tool wrote nothing.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The beginning; everything, when nothing was dropped.
    pub fn head(&self) -> Bytes {
        let whole = if self.dropped == 0 { self.tail.iter().collect() } else { Vec::new() };
        join(self.head.iter().chain(whole))
    }

    /// The end; everything, when nothing was dropped.
    pub fn tail(&self) -> Bytes {
        if self.dropped == 0 { self.head() } else { join(&self.tail) }
    }

    /// Everything that was kept: head, then tail.
    pub fn bytes(&self) -> Bytes {
        join(self.head.iter().chain(&self.tail))
    }

    /// Everything that was kept, for people: what is not UTF-8 is replaced, and a line says what was dropped.
    pub fn text(&self) -> String {
        if self.dropped == 0 {
            return String::from_utf8_lossy(&self.bytes()).into_owned();
        }
        let (head, tail) = (self.head(), self.tail());
        let (head, tail) = (String::from_utf8_lossy(&head), String::from_utf8_lossy(&tail));
        format!("{head}\n[… {} bytes dropped …]\n{tail}", self.dropped)
    }
}

fn join<'a>(chunks: impl IntoIterator<Item = &'a Bytes>) -> Bytes {
    let mut chunks = chunks.into_iter();
    let Some(first) = chunks.next() else { return Bytes::new() };
    let Some(second) = chunks.next() else { return first.clone() };
    let mut whole = BytesMut::from(&first[..]);
    whole.extend_from_slice(second);
    chunks.for_each(|chunk| whole.extend_from_slice(chunk));
    whole.freeze()
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captured")
            .field("total", &self.total)
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

/// The form of [`Captured`] in JSON.
#[derive(JsonSchema)]
#[schemars(rename = "Captured")]
#[expect(dead_code, reason = "describes what the hand-written `Serialize` writes")]
struct CapturedJson {
    /// How `head` and `tail` are written: `utf-8` as they are, `base64` (RFC 4648, padded) when one of them is not UTF-8.
    encoding: Encoding,
    /// The beginning; everything, when nothing was dropped.
    head: String,
    /// The end; empty when nothing was dropped.
    tail: String,
    /// How many bytes the tool wrote; a masked secret counts as what stands for it.
    total: u64,
    /// How many of them, between head and tail, were not kept.
    dropped: u64,
}

/// How bytes are written in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Encoding {
    /// As they are.
    #[serde(rename = "utf-8")]
    Utf8,
    /// RFC 4648, padded.
    #[serde(rename = "base64")]
    Base64,
}

impl Encoding {
    /// The plainest encoding that can carry all of `parts`.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        if parts.iter().all(|bytes| std::str::from_utf8(bytes).is_ok()) {
            Encoding::Utf8
        } else {
            Encoding::Base64
        }
    }

    pub(crate) fn encode(self, bytes: &[u8]) -> String {
        match self {
            Encoding::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
            Encoding::Base64 => BASE64_STANDARD.encode(bytes),
        }
    }
}

impl Serialize for Captured {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let head = self.head();
        let tail = if self.dropped == 0 { Bytes::new() } else { self.tail() };
        // A character cut in two by the gap must not turn a text into base64: its halves are counted as dropped.
        let (mut head, mut tail) = (&head[..], &tail[..]);
        if self.dropped > 0 {
            head = &head[..head.len() - cut_at_end(head)];
            tail = &tail[cut_at_start(tail)..];
        }
        let encoding = Encoding::of(&[head, tail]);
        let mut form = serializer.serialize_struct("Captured", 5)?;
        form.serialize_field("encoding", &encoding)?;
        form.serialize_field("head", &encoding.encode(head))?;
        form.serialize_field("tail", &encoding.encode(tail))?;
        form.serialize_field("total", &self.total)?;
        form.serialize_field("dropped", &(self.total - head.len() as u64 - tail.len() as u64))?;
        form.end()
    }
}

impl JsonSchema for Captured {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        CapturedJson::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        CapturedJson::json_schema(generator)
    }
}

/// How many bytes at the end are the beginning of a UTF-8 character whose rest is missing.
pub(crate) fn cut_at_end(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        if byte >= 0b1100_0000 {
            let needed = match byte {
                0b1111_0000.. => 4,
                0b1110_0000.. => 3,
                _ => 2,
            };
            return if needed > back { back } else { 0 };
        }
        if byte < 0b1000_0000 {
            return 0;
        }
    }
    0
}

/// How many bytes at the start are the end of a UTF-8 character whose beginning is missing.
fn cut_at_start(bytes: &[u8]) -> usize {
    bytes.iter().take(3).take_while(|byte| (0b1000_0000..0b1100_0000).contains(*byte)).count()
}

/// The collecting side of [`Captured`].
#[derive(Debug)]
pub(crate) struct Capture {
    kept: Captured,
    head_room: u64,
    tail_cap: u64,
    tail_len: u64,
}

impl Capture {
    /// `cap`: how many bytes to keep in all.
    pub(crate) fn new(cap: u64) -> Self {
        let tail_cap = cap / 2;
        Self { kept: Captured::default(), head_room: cap - tail_cap, tail_cap, tail_len: 0 }
    }

    pub(crate) fn push(&mut self, mut chunk: Bytes) {
        self.kept.total += chunk.len() as u64;
        if self.head_room > 0 {
            let room = usize::try_from(self.head_room).unwrap_or(usize::MAX).min(chunk.len());
            self.head_room -= room as u64;
            append(&mut self.kept.head, chunk.split_to(room));
        }
        if chunk.is_empty() {
            return;
        }
        self.tail_len += chunk.len() as u64;
        self.kept.tail.push_back(chunk);
        while self.tail_len > self.tail_cap {
            let excess = self.tail_len - self.tail_cap;
            let Some(first) = self.kept.tail.front_mut() else { break };
            let cut = usize::try_from(excess).unwrap_or(usize::MAX).min(first.len());
            if cut == first.len() {
                self.kept.tail.pop_front();
            } else {
                bytes::Buf::advance(first, cut);
            }
            self.tail_len -= cut as u64;
            self.kept.dropped += cut as u64;
        }
    }

    /// A short output is copied, so that it does not hold on to the much larger buffers it was read into.
    pub(crate) fn finish(self) -> Captured {
        const SHORT: u64 = 64 << 10;
        let mut kept = self.kept;
        if kept.total - kept.dropped <= SHORT {
            let owned = |bytes: Bytes| if bytes.is_empty() { bytes } else { Bytes::copy_from_slice(&bytes) };
            let tail = owned(join(&kept.tail));
            kept.head = vec![owned(join(&kept.head))];
            kept.tail = if tail.is_empty() { VecDeque::new() } else { VecDeque::from([tail]) };
        }
        kept
    }
}

fn append(chunks: &mut Vec<Bytes>, chunk: Bytes) {
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capture(cap: u64, chunks: &[&[u8]]) -> Captured {
        let mut capture = Capture::new(cap);
        chunks.iter().for_each(|chunk| capture.push(Bytes::copy_from_slice(chunk)));
        capture.finish()
    }

    proptest! {
        #[test]
        fn head_tail_and_count_are_exact(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40), cap in 0u64..300) {
            let all: Vec<u8> = chunks.concat();
            let refs: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let kept = capture(cap, &refs);
            prop_assert_eq!(kept.total(), all.len() as u64);
            prop_assert_eq!(kept.dropped(), (all.len() as u64).saturating_sub(cap));
            prop_assert_eq!(kept.bytes().len() as u64 + kept.dropped(), kept.total());
            if kept.dropped() == 0 {
                prop_assert_eq!(&kept.bytes()[..], &all[..]);
                prop_assert_eq!(&kept.tail()[..], &all[..]);
            } else {
                prop_assert!(all.starts_with(&kept.head()));
                prop_assert!(all.ends_with(&kept.tail()));
                prop_assert_eq!(kept.tail().len() as u64, cap / 2);
            }
        }

        #[test]
        fn json_of_cut_text_stays_text(text in "\\PC{0,80}", cap in 1u64..60) {
            let form = serde_json::to_value(capture(cap, &[text.as_bytes()])).unwrap();
            prop_assert_eq!(&form["encoding"], "utf-8");
            let (head, tail) = (form["head"].as_str().unwrap(), form["tail"].as_str().unwrap());
            prop_assert_eq!((head.len() + tail.len()) as u64 + form["dropped"].as_u64().unwrap(), text.len() as u64);
            prop_assert!(text.starts_with(head) && text.ends_with(tail));
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        let form = serde_json::to_value(capture(100, &[b"\xff\x00a"])).unwrap();
        assert_eq!((form["encoding"].as_str(), form["head"].as_str()), (Some("base64"), Some("/wBh")));
    }

    #[test]
    fn text_for_people_says_what_is_missing() {
        assert_eq!(capture(4, &[b"abcdef"]).text(), "ab\n[… 2 bytes dropped …]\nef");
        assert_eq!(capture(9, &[b"abc", b"def"]).text(), "abcdef");
    }
}
