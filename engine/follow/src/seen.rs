//! Where a source that writes times is continued, and which of its lines were seen already.
//!
//! It is asked for everything since a whole second that lies at least [`OVERLAP`] before its last line. What was seen
//! since then is remembered, line by line and how often, and is not taken a second time. So it makes no difference
//! whether the source takes the time for inclusive, rounds it down, or writes lines a little out of order; nor how many
//! lines, or equal ones, there are in one instant.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    lines::RawLine,
    time_format::{TimeFormat, floor},
};

/// How much later than a line with a later time a line may come and still be expected.
const OVERLAP: Duration = Duration::from_secs(1);

/// How many lines are remembered one by one. With more, earlier instants are forgotten, and the source is asked for what
/// came after them.
const MOST: usize = 32 << 10;

/// How many lines before the first with a time are remembered.
const MOST_UNTIMED: usize = 64;

/// What is known of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timed {
    /// When it was written, by the source's own clock; a line without a time belongs to the one before it.
    pub(crate) time: Option<Timestamp>,
    /// Where what follows the time begins.
    pub(crate) from: usize,
    /// Whether it is new.
    pub(crate) is_new: bool,
}

#[derive(Debug)]
pub(crate) struct Seen {
    format: TimeFormat,
    /// Where it all began.
    start: Timestamp,
    keys: RandomState,
    most: usize,
    /// The latest time of any line.
    newest: Option<Timestamp>,
    /// Since when there is nothing forgotten.
    complete_since: Option<Timestamp>,
    instants: BTreeMap<Timestamp, Vec<u64>>,
    remembered: usize,
    /// Of an instant with more lines than can be remembered: how many more. They are known by their number.
    uncounted: Option<(Timestamp, u64)>,
    /// Lines of this source before its first time.
    untimed: Vec<u64>,
    source: Source,
}

/// What is known of the source that is running.
#[derive(Debug, Default)]
struct Source {
    /// It was asked for what came since then, and had sent lines before.
    since: Option<Timestamp>,
    /// How often each line may come again.
    expected: HashMap<u64, u32>,
    /// The same for those that are known by their number.
    uncounted: Option<(Timestamp, u64)>,
    /// Later than this, nothing comes again.
    until: Option<Timestamp>,
    /// For each stream: the time of the last line, and whether it has come to what it was asked for.
    last: [Option<Timestamp>; 2],
    arrived: [bool; 2],
}

impl Seen {
    pub(crate) fn new(format: TimeFormat, start: Timestamp) -> Self {
        Self {
            format,
            start,
            keys: RandomState::new(),
            most: MOST,
            newest: None,
            complete_since: None,
            instants: BTreeMap::new(),
            remembered: 0,
            uncounted: None,
            untimed: Vec::new(),
            source: Source::default(),
        }
    }

    /// A source is about to be opened: what it is to be asked for.
    pub(crate) fn open(&mut self) -> Timestamp {
        let since = self.since();
        let mut expected = HashMap::new();
        let seen = self.instants.values().flatten().chain(&self.untimed);
        seen.for_each(|key| *expected.entry(*key).or_insert(0) += 1);
        self.untimed.clear();
        self.source = Source {
            since: self.newest.map(|_| since),
            expected,
            uncounted: self.uncounted,
            until: self.newest,
            ..Source::default()
        };
        since
    }

    fn since(&self) -> Timestamp {
        let Some(newest) = self.newest else { return self.start };
        let before = floor(newest.checked_sub(OVERLAP).unwrap_or(newest));
        self.complete_since.map_or(before, |complete| complete.max(before))
    }

    /// A line came, on one of two streams. It is remembered.
    pub(crate) fn take(&mut self, stream: usize, line: &RawLine) -> Timed {
        let (time, from) = match self.format.read(&line.bytes) {
            Some((time, from)) => (Some(time), from),
            None => (self.source.last[stream], 0),
        };
        self.source.last[stream] = time;
        let key = self.key(stream, time, from, line);
        let is_new = self.is_new(stream, time, key);
        if is_new || time.is_none() {
            self.remember(time, key);
        }
        Timed { time, from, is_new }
    }

    /// What there is of a line whose end is missing: whether it cannot have been seen. It is not remembered.
    pub(crate) fn peek(&self, line: &RawLine) -> Option<Timed> {
        let (time, from) = self.format.read(&line.bytes)?;
        // Only the times of whole words can be trusted.
        let is_whole = from < line.bytes.len();
        let is_new = is_whole && self.source.until.is_none_or(|until| time > until);
        is_new.then_some(Timed { time: Some(time), from, is_new })
    }

    /// Whether a line of an earlier source can still come again.
    fn is_new(&mut self, stream: usize, time: Option<Timestamp>, key: u64) -> bool {
        let source = &mut self.source;
        if let (Some(time), Some(since)) = (time, source.since) {
            source.arrived[stream] |= time >= since;
            // It was asked for later lines, and is still on its way there.
            if !source.arrived[stream] {
                return false;
            }
        }
        if let Some(times) = source.expected.get_mut(&key) {
            *times -= 1;
            if *times == 0 {
                source.expected.remove(&key);
                if source.expected.is_empty() {
                    source.expected = HashMap::new();
                }
            }
            return false;
        }
        match &mut source.uncounted {
            Some((instant, left)) if Some(*instant) == time && *left > 0 => {
                *left -= 1;
                false
            }
            _ => true,
        }
    }

    fn remember(&mut self, time: Option<Timestamp>, key: u64) {
        let Some(time) = time else {
            if self.untimed.len() < MOST_UNTIMED {
                self.untimed.push(key);
            }
            return;
        };
        self.newest = self.newest.max(Some(time));
        let is_all = self.instants.len() == 1 && self.instants.contains_key(&time);
        if is_all && self.remembered >= self.most {
            let (_, uncounted) = self.uncounted.get_or_insert((time, 0));
            *uncounted += 1;
            return;
        }
        self.instants.entry(time).or_default().push(key);
        self.remembered += 1;
        let since = self.since();
        while self.instants.len() > 1
            && let Some(oldest) = self.instants.first_entry()
            && (*oldest.key() < since || self.remembered > self.most)
        {
            let is_too_much = *oldest.key() >= since;
            let (time, keys) = oldest.remove_entry();
            self.remembered -= keys.len();
            self.uncounted = self.uncounted.filter(|(uncounted, _)| *uncounted != time);
            if is_too_much {
                self.complete_since = self.instants.keys().next().copied();
            }
        }
    }

    fn key(&self, stream: usize, time: Option<Timestamp>, from: usize, line: &RawLine) -> u64 {
        let mut hasher = self.keys.build_hasher();
        hasher.write_usize(stream);
        hasher.write_i128(time.map_or(i128::MIN, Timestamp::as_nanosecond));
        line.hash_from(from, &mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;
    use crate::lines::Lines;

    /// A line of a log: its time in tenths of a second, what it says, and where.
    type Entry = (u16, u8, usize);

    fn show((time, text, _): Entry) -> String {
        let time = Timestamp::from_millisecond(i64::from(time) * 100).unwrap();
        format!("{time} {text}\n")
    }

    /// What comes out when a source is opened after each of these lengths of the log, ending after as many lines.
    /// Of each source, one stream is read before the other if `apart`.
    fn follow(
        log: &[Entry],
        ends: &[usize],
        most: usize,
        apart: bool,
        sends: impl Fn(Entry, Timestamp) -> bool,
    ) -> Vec<Entry> {
        let mut seen = Seen { most, ..Seen::new(TimeFormat::Rfc3339, Timestamp::UNIX_EPOCH) };
        let mut out = Vec::new();
        for end in ends.iter().copied().chain([log.len()]) {
            let since = seen.open();
            let mut sent = log[..end].to_vec();
            if apart {
                sent.sort_by_key(|(.., stream)| *stream);
            }
            for entry in &sent {
                if sends(*entry, since) {
                    let line = Lines::new(1000).push(show(*entry).as_bytes()).remove(0);
                    if seen.take(entry.2, &line).is_new {
                        out.push(*entry);
                    }
                }
            }
        }
        out
    }

    fn time(entry: Entry) -> Timestamp {
        Timestamp::from_millisecond(i64::from(entry.0) * 100).unwrap()
    }

    fn log(steps: &[(u16, u8, usize)]) -> Vec<Entry> {
        let mut now = 100;
        let entry = |(step, text, stream): &(u16, u8, usize)| {
            now += step;
            (now, *text, *stream)
        };
        steps.iter().map(entry).collect()
    }

    /// Few texts and small steps: many lines in one instant, many of them equal.
    fn steps() -> impl Strategy<Value = Vec<(u16, u8, usize)>> {
        vec((prop_oneof![4 => 0u16..1, 2 => 0u16..4, 1 => 0u16..40], 0u8..3, 0usize..2), 0..200)
    }

    proptest! {
        #[test]
        fn no_line_is_lost_and_none_comes_twice(steps in steps(), cuts in vec(any::<Index>(), 0..20)) {
            let log = log(&steps);
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(log.len() + 1)).collect();
            ends.sort_unstable();
            let inclusive = |entry, since| time(entry) >= since;
            let exclusive = |entry, since| time(entry) > since || since == Timestamp::UNIX_EPOCH;
            let whole_seconds = |entry, since| time(entry) >= floor(since);
            let all_again = |_, _| true;
            prop_assert_eq!(&follow(&log, &ends, MOST, false, inclusive), &log);
            prop_assert_eq!(&follow(&log, &ends, MOST, false, exclusive), &log);
            prop_assert_eq!(&follow(&log, &ends, MOST, false, whole_seconds), &log);
            prop_assert_eq!(&follow(&log, &ends, MOST, false, all_again), &log);
            for stream in 0..2 {
                let of = |log: Vec<Entry>| log.into_iter().filter(|entry| entry.2 == stream).collect::<Vec<_>>();
                let found = follow(&log, &ends, MOST, true, inclusive);
                prop_assert_eq!(of(found), of(log.clone()));
            }
            // With hardly any memory, of a source with one stream that takes the time for inclusive.
            let log: Vec<_> = log.into_iter().map(|(time, text, _)| (time, text, 0)).collect();
            prop_assert_eq!(&follow(&log, &ends, 3, false, inclusive), &log);
            prop_assert_eq!(&follow(&log, &ends, 3, false, whole_seconds), &log);
        }
    }

    #[test]
    fn a_line_that_comes_late_is_not_taken_for_a_seen_one() {
        let log = [(100, 1, 0), (105, 2, 0), (98, 3, 1), (104, 4, 1), (20, 5, 0), (106, 6, 0)];
        for end in 0..log.len() {
            assert_eq!(follow(&log[..end], &[], MOST, false, |_, _| true), log[..end]);
        }
        // The second source begins with one that is in order and comes to the late ones then.
        assert_eq!(follow(&log[..4], &[2], MOST, false, |entry, since| time(entry) >= since), log[..4]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = Seen::new(TimeFormat::UnixSeconds, Timestamp::UNIX_EPOCH);
        seen.open();
        for number in 0..(MOST as u64 * 3) {
            let text = format!("{} line {number}\n", 1000 + number / 50_000);
            assert!(seen.take(0, &Lines::new(100).push(text.as_bytes()).remove(0)).is_new);
            assert!(seen.remembered <= MOST + 1);
        }
    }
}
