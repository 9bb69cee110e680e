//! Where the journal is continued: at a cursor, which names one entry.

use serde_json::Value;

use bytes::Bytes;
use jiff::Timestamp;

/// An entry of the journal, as `journalctl --output=json` writes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) cursor: String,
    pub(crate) time: Option<Timestamp>,
    pub(crate) message: Bytes,
}

impl Entry {
    /// `None` for what is no entry.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let Value::Object(mut fields) = serde_json::from_slice(line).ok()? else { return None };
        let Some(Value::String(cursor)) = fields.remove("__CURSOR") else { return None };
        let micros = fields.get("__REALTIME_TIMESTAMP").and_then(Value::as_str);
        let time = micros.and_then(|micros| Timestamp::from_microsecond(micros.parse().ok()?).ok());
        let message = fields.remove("MESSAGE").map(text).unwrap_or_default();
        Some(Self { cursor, time, message: message.into() })
    }
}

/// A text; the numbers of its bytes, if it is not UTF-8; or several of these.
fn text(value: Value) -> Vec<u8> {
    let byte = |value: &Value| value.as_u64().and_then(|number| u8::try_from(number).ok());
    match value {
        Value::String(text) => text.into_bytes(),
        Value::Array(bytes) if bytes.iter().all(|one| byte(one).is_some()) => {
            bytes.iter().filter_map(byte).collect()
        }
        Value::Array(several) => several.into_iter().map(text).collect::<Vec<_>>().join(&b'\n'),
        _ => Vec::new(),
    }
}

/// The last entry that was taken.
#[derive(Debug, Default)]
pub(crate) struct Place {
    last: Option<String>,
    /// Of a source: its first entry is the last one of the source before.
    is_first: bool,
}

impl Place {
    /// A source is about to be opened: the entry that it is to begin with, which was seen.
    pub(crate) fn open(&mut self) -> Option<&str> {
        self.is_first = true;
        self.last.as_deref()
    }

    /// An entry came. Whether it is new.
    pub(crate) fn take(&mut self, entry: &Entry) -> bool {
        let is_known = std::mem::take(&mut self.is_first) && self.last.as_ref() == Some(&entry.cursor);
        self.last = Some(entry.cursor.clone());
        !is_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_journalctl_writes_them() {
        let message = |json: &str| {
            let line = format!(r#"{{"__CURSOR":"c","__REALTIME_TIMESTAMP":"1000001","MESSAGE":{json}}}"#);
            let entry = Entry::parse(line.as_bytes()).unwrap();
            assert_eq!(entry.time.unwrap().as_microsecond(), 1_000_001);
            entry.message
        };
        assert_eq!(message(r#""a\nb""#), "a\nb");
        assert_eq!(message("[255,10,97]"), &b"\xff\na"[..]);
        assert_eq!(message(r#"["a","b"]"#), "a\nb");
        assert_eq!((message("null"), message("[]")), (Bytes::new(), Bytes::new()));
        for none in ["", "-- Boot 1 --", "[]", "{}", r#"{"__CURSOR":"#] {
            assert_eq!(Entry::parse(none.as_bytes()), None);
        }
    }

    #[test]
    fn the_entry_that_it_continues_at_does_not_come_twice() {
        let entry = |cursor: &str| Entry { cursor: cursor.into(), time: None, message: Bytes::new() };
        let mut place = Place::default();
        assert_eq!(place.open(), None);
        assert!(place.take(&entry("a")) && place.take(&entry("b")));
        assert_eq!(place.open(), Some("b"));
        assert!(!place.take(&entry("b")) && place.take(&entry("c")));
        assert_eq!(place.open(), Some("c"));
        // It is not there any more: nothing is skipped.
        assert!(place.take(&entry("d")));
    }
}
