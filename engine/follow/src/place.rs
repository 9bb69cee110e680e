//! The place in a source up to which its lines were taken, for each kind of source; and what its output means.

use std::{ffi::OsString, io, time::Duration};

use jiff::Timestamp;
use tool_engine::{Call, ErrorKind, Lane, Stdin, Stream};

use crate::{
    events::{FollowEventKind, Line},
    journal::{self, Entry},
    lines::{LineEnd, RawLine},
    seen::{Seen, Timed},
    source::{Kind, Since, Source, file_words, journal_words, with_since},
    tailed::{Fate, Tailed, Work},
    time_format::TimeFormat,
};

#[derive(Debug)]
pub(crate) enum Place {
    Timed { words: Vec<OsString>, format: TimeFormat, seen: Box<Seen> },
    Journal { words: Vec<OsString>, start: Timestamp, place: journal::Place },
    File { program: OsString, file: Tailed },
}

/// What a line of output is.
pub(crate) enum Meaning {
    /// To be told.
    Tell(FollowEventKind),
    /// A line that was told before.
    Known,
}

/// How the output of a source ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The source said all it had to say: a last line without an end is one.
    Whole,
    /// It was cut; the next source goes on.
    Half,
    /// It was cut, and there is no next one.
    Last,
}

/// Why a source cannot be opened.
pub(crate) enum Unopened {
    /// What is to be followed is not there yet.
    Missing(String),
    Failed(ErrorKind),
}

/// How long looking at a file may take. A file system that does not answer is as good as a file that did not change.
const PATIENCE: Duration = Duration::from_secs(5);

impl Place {
    pub(crate) fn new(source: &Source) -> Self {
        let start = source.since.time();
        match source.kind.clone() {
            Kind::Timed { words, format } => {
                Self::Timed { words, format, seen: Box::new(Seen::new(format, start)) }
            }
            Kind::Journal { words } => Self::Journal { words, start, place: journal::Place::default() },
            Kind::File { program, path } => {
                Self::File { program, file: Tailed::new(path, source.since == Since::Now) }
            }
        }
    }

    /// The call that goes on from here.
    pub(crate) async fn open(&mut self, source: &Source, lane: &Lane) -> Result<Call, Unopened> {
        let call = |words: Vec<OsString>| source.shaped(source.plain(words));
        match self {
            Self::Timed { words, format, seen } => Ok(call(with_since(words, &format.show(seen.open())))),
            Self::Journal { words, start, place } => Ok(call(journal_words(words, place.open(), *start))),
            Self::File { program, file } => {
                let (path, opening) = (file.path().display().to_string(), file.open());
                match done(lane, opening).await {
                    Ok(opened) => Ok(call(file_words(program)).stdin(Stdin::Fd(file.opened(opened)))),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        file.not_found();
                        Err(Unopened::Missing(format!("{path} is not there yet; it is waited for")))
                    }
                    Err(error) => Err(Unopened::Failed(ErrorKind::Invalid {
                        subject: path,
                        message: error.to_string(),
                        hint: "name a regular file that may be read".into(),
                    })),
                }
            }
        }
    }

    /// What a line of output is.
    pub(crate) fn take(&mut self, stream: Stream, line: &RawLine) -> Meaning {
        let diagnostic = || Meaning::Tell(FollowEventKind::Diagnostic(line.bytes.clone()));
        match self {
            Self::Timed { format, seen, .. } => {
                if stream == Stream::Stderr && format.read(&line.bytes).is_none() {
                    return diagnostic();
                }
                let timed = seen.take(usize::from(stream == Stream::Stderr), line);
                if timed.is_new { Meaning::Tell(told(timed, stream, line, false)) } else { Meaning::Known }
            }
            Self::Journal { place, .. } => match Entry::parse(&line.bytes) {
                Some(entry) if stream == Stream::Stdout => {
                    if !place.take(&entry) {
                        return Meaning::Known;
                    }
                    let (time, content) = (entry.time.map(Into::into), entry.message);
                    let (written, end, cut) = (line.bytes.clone(), line.end, line.cut);
                    let line = Line { time, content, written, end, stream, cut, partial: false };
                    Meaning::Tell(FollowEventKind::Line(line))
                }
                _ => diagnostic(),
            },
            Self::File { .. } if stream == Stream::Stderr => diagnostic(),
            Self::File { .. } => Meaning::Tell(told(untimed(), stream, line, false)),
        }
    }

    /// So many bytes of output came; before the lines in them are taken.
    pub(crate) fn came(&mut self, bytes: usize) {
        if let Self::File { file, .. } = self {
            file.came(bytes);
        }
    }

    /// Looks whether what is followed is still where it was, when it is time. Cancel-safe: what is dropped is begun again,
    /// and no later than it would have been.
    pub(crate) async fn look(&mut self, lane: &Lane) -> Fate {
        let Self::File { file, .. } = self else { return std::future::pending().await };
        tokio::time::sleep_until(file.next_look()).await;
        let Some(look) = file.look() else { return std::future::pending().await };
        match done(lane, look).await {
            Ok(look) => file.fate(look),
            Err(_) => {
                file.looked();
                Fate::Same
            }
        }
    }

    /// The source has ended like this, after `rest` bytes without a line end. How they are to be taken: of a file, they
    /// are a line if there is no more to come of it, however `tail` ended; and come again otherwise.
    pub(crate) async fn ended(&mut self, rest: u64, fate: Fate, cut: Cut, lane: &Lane) -> Cut {
        let Self::File { file, .. } = self else { return cut };
        let Some(left_at) = file.left_at() else { return cut };
        match done(lane, left_at).await.is_ok_and(|left_at| file.ended(left_at, rest, fate)) {
            true => Cut::Whole,
            false if cut == Cut::Whole => Cut::Half,
            false => cut,
        }
    }

    /// What the rest of its output is, which has no line end. `None`: it comes again.
    pub(crate) fn take_rest(&mut self, stream: Stream, rest: &RawLine, cut: Cut) -> Option<Meaning> {
        let is_told = match self {
            Self::Timed { format, .. } => format.read(&rest.bytes).is_none() && stream == Stream::Stderr,
            Self::Journal { .. } => false,
            Self::File { .. } => stream == Stream::Stderr,
        };
        match (self, cut) {
            (Self::Journal { .. }, _) if stream == Stream::Stdout => None,
            (place, _) if is_told => Some(place.take(stream, rest)),
            (place, Cut::Whole) => Some(place.take(stream, rest)),
            (Self::Timed { seen, .. }, Cut::Last) => {
                Some(Meaning::Tell(told(seen.peek(rest)?, stream, rest, true)))
            }
            (Self::File { .. }, Cut::Last) => Some(Meaning::Tell(told(untimed(), stream, rest, true))),
            (_, Cut::Last | Cut::Half) => None,
        }
    }
}

/// Has it done, within a bound.
async fn done<T: Send + 'static>(lane: &Lane, work: Work<io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(PATIENCE, lane.spawn(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) | Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the file system does not answer"))
        }
    }
}

fn untimed() -> Timed {
    Timed { time: None, from: 0, is_new: true }
}

fn told(timed: Timed, stream: Stream, line: &RawLine, partial: bool) -> FollowEventKind {
    FollowEventKind::Line(Line {
        time: timed.time.map(Into::into),
        content: line.bytes.slice(timed.from.min(line.bytes.len())..),
        written: line.bytes.clone(),
        end: if partial { LineEnd::None } else { line.end },
        stream,
        cut: line.cut,
        partial,
    })
}
