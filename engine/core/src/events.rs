//! What can happen to an execution, as its readers are told.

use std::time::Duration;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Serialize, Serializer, ser::SerializeStruct};
use serde_json::Value;

use crate::{capture::Encoding, error::ErrorKind, report::millis};

/// Something that happened to an execution.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Event {
    /// Its place in the log, from 0. A [`EventKind::Gap`] has that of the first event missed.
    pub seq: u64,
    /// When, since the call was submitted.
    #[serde(rename = "at_ms", with = "millis")]
    #[schemars(with = "f64")]
    pub at: Duration,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The process was started.
    Started {
        /// Its id.
        pid: u32,
    },
    /// The tool wrote to standard output. Chunks are as they were read: they know neither lines nor characters. What may
    /// be the beginning of a secret comes when the rest of it has, or has not.
    Stdout(Chunk),
    /// The tool wrote to standard error.
    Stderr(Chunk),
    /// The tool says how far it is.
    Progress(Progress),
    /// The tool says something to be logged.
    Log(LogMessage),
    /// This reader was too slow: events are missing here.
    Gap {
        /// How many.
        missed: u64,
    },
    /// An attempt has failed, and there will be another.
    Retrying {
        /// Which one, from 2 on.
        attempt: u32,
        /// After how long a wait, from now on.
        #[serde(rename = "after_ms", with = "millis")]
        #[schemars(with = "f64")]
        after: Duration,
        /// Why the one before it failed.
        error: ErrorKind,
    },
    /// The execution has ended; the last event.
    Ended {
        /// `None` when it succeeded.
        error: Option<ErrorKind>,
    },
}

/// How far a tool is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, serde::Deserialize, JsonSchema)]
pub struct Progress {
    /// 0 to 1, as the tool says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f64>,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What a generator yielded, when it was neither a fraction nor a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// Something that a tool logged by `ctx.log`.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize, JsonSchema)]
pub struct LogMessage {
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The text.
    pub message: String,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// Output as it was read. In JSON: `data`, and its `encoding`.
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk(pub Bytes);

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Chunk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let encoding = Encoding::of(&[&self.0]);
        let mut form = serializer.serialize_struct("Chunk", 2)?;
        form.serialize_field("encoding", &encoding)?;
        form.serialize_field("data", &encoding.encode(&self.0))?;
        form.end()
    }
}

#[derive(JsonSchema)]
#[schemars(rename = "Chunk")]
#[expect(dead_code, reason = "describes what the hand-written `Serialize` writes")]
struct ChunkJson {
    /// How `data` is written: `utf-8` as it is, `base64` (RFC 4648, padded) when it is not UTF-8.
    encoding: Encoding,
    /// The bytes.
    data: String,
}

impl JsonSchema for Chunk {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        ChunkJson::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        ChunkJson::json_schema(generator)
    }
}

impl EventKind {
    /// What it counts for in the ring: its payload, and about what it costs to keep.
    pub(crate) fn weight(&self) -> u64 {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let payload = match self {
            EventKind::Stdout(Chunk(bytes)) | EventKind::Stderr(Chunk(bytes)) => bytes.len(),
            EventKind::Progress(progress) => {
                text(&progress.message) + progress.data.as_ref().map_or(0, weight)
            }
            EventKind::Log(log) => log.message.len() + log.data.as_ref().map_or(0, weight),
            EventKind::Started { .. }
            | EventKind::Gap { .. }
            | EventKind::Retrying { .. }
            | EventKind::Ended { .. } => 0,
        };
        (payload + size_of::<Event>()) as u64
    }
}

/// About the bytes that a JSON value takes in memory.
pub(crate) fn weight(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(weight).sum(),
            Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + weight(value)).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}
