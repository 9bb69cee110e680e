//! What a follower's subscribers are told.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tool_engine::{ErrorKind, Stream};

use crate::lines::LineEnd;

/// Something that a follower tells.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FollowEvent {
    /// Its place, from 0. A [`FollowEventKind::Gap`] has that of the first event missed.
    pub seq: u64,
    /// When, by this machine's clock.
    pub at: SystemTime,
    /// What.
    pub kind: FollowEventKind,
}

/// What a follower tells.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FollowEventKind {
    /// A line.
    Line(Line),
    /// A source runs.
    Opened {
        /// The id of its process.
        pid: u32,
        /// How many there were before.
        before: u64,
    },
    /// The source said something about itself: a line on standard error, or what is not in the format it should be in.
    Diagnostic(Bytes),
    /// The follower is alive.
    Heartbeat {
        /// For how long there was no new line.
        silent: Duration,
        /// For how long its source has been running; zero while there is none.
        running: Duration,
    },
    /// The source ended by itself or could not be opened; it is opened again.
    Reconnect {
        /// Why it ended.
        reason: String,
        /// When it is opened again: after this time.
        after: Duration,
    },
    /// The lines could not be written to the file; it is tried again.
    OutputFailed {
        /// Why.
        reason: String,
        /// After this time.
        after: Duration,
    },
    /// This subscriber was too slow: events are missing here.
    Gap {
        /// How many.
        missed: u64,
    },
    /// The follower has ended; the last event.
    Ended {
        /// `None` when it was stopped. Otherwise why its source could not be opened.
        error: Option<ErrorKind>,
    },
}

/// A line of a source.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Line {
    /// When it was written, by the source's own clock, where the source says it. A line without a time of its own has that
    /// of the line before.
    pub time: Option<SystemTime>,
    /// What it says: without the time that the source wrote before it, and without its end.
    pub content: Bytes,
    /// As the source wrote it, without its end.
    pub written: Bytes,
    /// What it ended with.
    pub end: LineEnd,
    /// Where the source wrote it.
    pub stream: Stream,
    /// How many bytes of it were not kept, because it is longer than [`Source::max_line`](crate::Source::max_line).
    pub cut: u64,
    /// It is the beginning of a line, whose rest was not written yet when the follower was stopped.
    pub partial: bool,
}

impl FollowEventKind {
    /// What it counts for in a buffer.
    pub(crate) fn weight(&self) -> u64 {
        let payload = match self {
            // The one is mostly a part of the other.
            FollowEventKind::Line(line) => line.written.len().max(line.content.len()),
            FollowEventKind::Diagnostic(text) => text.len(),
            FollowEventKind::Reconnect { reason, .. } | FollowEventKind::OutputFailed { reason, .. } => {
                reason.len()
            }
            _ => 0,
        };
        (payload + size_of::<FollowEvent>()) as u64
    }
}
