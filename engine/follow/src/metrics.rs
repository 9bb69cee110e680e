//! What followers count.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// What the followers of a pool have done, all together, those included that have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Sources that were started.
    pub sources: u64,
    /// How often a source was ended and the next one opened because it was time.
    pub rotations: u64,
    /// How long the last of these took: from the request to end the one until the other ran.
    pub last_rotation: Duration,
    /// The longest.
    pub longest_rotation: Duration,
    /// How often a source ended by itself or could not be opened.
    pub errors: u64,
    /// Lines that were told.
    pub lines: u64,
    /// Their bytes, times included.
    pub bytes: u64,
    /// Lines that a source sent again.
    pub known: u64,
    /// Failed attempts to write to a file.
    pub output_errors: u64,
    /// At most so many lines were not written to a file, because it was full or slow for too long.
    pub output_lost: u64,
}

/// What a pool of followers is doing, and has done.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Metrics {
    /// Followers that have not ended.
    pub active: usize,
    /// How many there may be.
    pub max: usize,
    /// What was done.
    pub counts: Counts,
    /// Each follower that has not ended, by key.
    pub followers: Vec<FollowerMetrics>,
}

/// What one follower is doing, and has done.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FollowerMetrics {
    /// Its key.
    pub key: String,
    /// Since when it has been following.
    pub age: Duration,
    /// What it has done.
    pub counts: Counts,
}

/// [`Counts`] while they are counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    sources: AtomicU64,
    rotations: AtomicU64,
    last_rotation: AtomicU64,
    longest_rotation: AtomicU64,
    errors: AtomicU64,
    lines: AtomicU64,
    bytes: AtomicU64,
    known: AtomicU64,
    output_errors: AtomicU64,
    output_lost: AtomicU64,
}

impl Counters {
    pub(crate) fn source(&self) -> u64 {
        self.sources.fetch_add(1, Relaxed)
    }

    pub(crate) fn rotation(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.rotations.fetch_add(1, Relaxed);
        self.last_rotation.store(nanos, Relaxed);
        self.longest_rotation.fetch_max(nanos, Relaxed);
    }

    pub(crate) fn error(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn line(&self, bytes: u64) {
        self.lines.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn known(&self) {
        self.known.fetch_add(1, Relaxed);
    }

    pub(crate) fn output_error(&self) {
        self.output_errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn output_lost(&self, lines: u64) {
        self.output_lost.fetch_add(lines, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Counts {
        Counts {
            sources: self.sources.load(Relaxed),
            rotations: self.rotations.load(Relaxed),
            last_rotation: Duration::from_nanos(self.last_rotation.load(Relaxed)),
            longest_rotation: Duration::from_nanos(self.longest_rotation.load(Relaxed)),
            errors: self.errors.load(Relaxed),
            lines: self.lines.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            known: self.known.load(Relaxed),
            output_errors: self.output_errors.load(Relaxed),
            output_lost: self.output_lost.load(Relaxed),
        }
    }
}

impl Counts {
    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            sources: self.sources + other.sources,
            rotations: self.rotations + other.rotations,
            last_rotation: if other.rotations > 0 { other.last_rotation } else { self.last_rotation },
            longest_rotation: self.longest_rotation.max(other.longest_rotation),
            errors: self.errors + other.errors,
            lines: self.lines + other.lines,
            bytes: self.bytes + other.bytes,
            known: self.known + other.known,
            output_errors: self.output_errors + other.output_errors,
            output_lost: self.output_lost + other.output_lost,
        }
    }
}
