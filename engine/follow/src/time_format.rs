//! How a source writes times: at the beginning of its lines, and where it is told what time to begin at.

use jiff::Timestamp;

/// How a source writes times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimeFormat {
    /// `2026-01-31T23:59:59.123456789Z`, or with an offset (RFC 3339); the fraction can be left out. `{since}` is in UTC.
    Rfc3339,
    /// Seconds since 1970, with or without a fraction: `1769903999.123`. `{since}` is a whole number.
    UnixSeconds,
}

/// Longer than any time is written.
const LONGEST: usize = 48;

impl TimeFormat {
    /// The time as a source is told it. Never later than `time`.
    pub(crate) fn show(self, time: Timestamp) -> String {
        match self {
            TimeFormat::Rfc3339 => time.to_string(),
            TimeFormat::UnixSeconds => floor(time).as_second().to_string(),
        }
    }

    /// The time that a line begins with, and where what follows begins.
    pub(crate) fn read(self, line: &[u8]) -> Option<(Timestamp, usize)> {
        let end = line.iter().take(LONGEST).position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let word = std::str::from_utf8(line.get(..end.min(LONGEST))?).ok()?;
        let time = match self {
            TimeFormat::Rfc3339 => word.parse().ok()?,
            TimeFormat::UnixSeconds => unix(word)?,
        };
        Some((time, line.len().min(end + 1)))
    }
}

/// The whole second that a time lies in.
pub(crate) fn floor(time: Timestamp) -> Timestamp {
    let seconds = time.as_nanosecond().div_euclid(1_000_000_000);
    i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or(time)
}

fn unix(word: &str) -> Option<Timestamp> {
    let (seconds, fraction) = word.split_once('.').unwrap_or((word, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.is_empty() || !digits(seconds) || !digits(fraction) {
        return None;
    }
    let nanoseconds = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Timestamp::new(seconds.parse().ok()?, nanoseconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_sources_write_them() {
        let read = |format: TimeFormat, line: &str| {
            let (time, from) = format.read(line.as_bytes())?;
            Some((time.as_nanosecond(), line[from..].to_owned()))
        };
        let (rfc, unix) = (TimeFormat::Rfc3339, TimeFormat::UnixSeconds);
        let found = |time, rest: &str| Some((time, rest.to_owned()));
        assert_eq!(read(rfc, "1970-01-01T00:00:01.000000002Z a b"), found(1_000_000_002, "a b"));
        assert_eq!(read(rfc, "1970-01-01T01:00:01+01:00 a"), found(1_000_000_000, "a"));
        assert_eq!(read(rfc, "1970-01-01T00:00:01Z"), found(1_000_000_000, ""));
        assert_eq!(read(unix, "1.5 a"), found(1_500_000_000, "a"));
        assert_eq!(read(unix, "1.0000000019\ta"), found(1_000_000_001, "a"));
        for none in ["", " 1", "a", "-1 a", "1.x a", &"1".repeat(100)] {
            assert_eq!(read(rfc, none), None, "{none:?}");
            assert_eq!(read(unix, none), None, "{none:?}");
        }
    }

    #[test]
    fn a_source_is_never_told_a_later_time() {
        let time: Timestamp = "1970-01-01T00:00:01.9Z".parse().unwrap();
        assert_eq!(TimeFormat::Rfc3339.show(time), "1970-01-01T00:00:01.9Z");
        assert_eq!(TimeFormat::UnixSeconds.show(time), "1");
        let early: Timestamp = "1969-12-31T23:59:59.5Z".parse().unwrap();
        assert_eq!(floor(early).as_second(), -1);
    }
}
