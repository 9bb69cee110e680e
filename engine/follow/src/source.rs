//! What is followed: a command that streams for ever, and what is known of how it can be continued.

use std::{
    ffi::OsString,
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use tool_engine::{Call, Limits, Network, Policy};

use crate::{output::FileOutput, pool::FollowError, time_format::TimeFormat};

/// In a command's words: the time to begin at.
pub(crate) const SINCE: &str = "{since}";

/// Where a follower begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Since {
    /// With what is written from now on.
    #[default]
    Now,
    /// With everything that there is.
    Beginning,
    /// At this time, by the source's own clock. Of a file nothing is known but its end: it is taken for
    /// [`Beginning`](Since::Beginning).
    At(SystemTime),
}

impl Since {
    /// As a time.
    pub(crate) fn time(self) -> Timestamp {
        match self {
            Since::Now => Timestamp::now(),
            Since::Beginning => Timestamp::UNIX_EPOCH,
            Since::At(time) => Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }
}

/// How a source can be continued.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// It is told a time, and writes times at the beginning of its lines.
    Timed { words: Vec<OsString>, format: TimeFormat },
    /// The journal: entries have cursors.
    Journal { words: Vec<OsString> },
    /// A file, which is read from a certain byte on.
    File { program: OsString, path: PathBuf },
}

type Shape = Arc<dyn Fn(Call) -> Call + Send + Sync>;

/// A command that streams for ever, and how it is to be followed.
///
/// | source | is continued at | no line is lost and none comes twice |
/// | --- | --- | --- |
/// | [`command`](Self::command), [`docker`](Self::docker), [`podman`](Self::podman), [`kubectl`](Self::kubectl) | a time, and the lines that were seen since | if it sends what it sent before again in full when it is asked for an earlier time, and no line is more than a second later than one with a later time |
/// | [`journal`](Self::journal) | an entry's cursor | as long as the journal keeps the entry |
/// | [`file`](Self::file) | a byte of one certain file | also when it is renamed, if nobody writes to it a second after another has taken its name; not when it is truncated: what was not read by then is lost |
///
/// A line that was cut in half, because its source ended, comes again whole from the next one. Lines that somebody else
/// drops, a container's log driver for example, are not known here.
#[derive(Clone)]
#[must_use = "a source does nothing until it is given to `Followers::follow`"]
pub struct Source {
    pub(crate) kind: Kind,
    pub(crate) since: Since,
    pub(crate) rotate_every: Duration,
    pub(crate) rotate_bytes: Option<u64>,
    pub(crate) heartbeat: Duration,
    pub(crate) max_line: usize,
    pub(crate) buffer: u64,
    pub(crate) back_pressure: bool,
    pub(crate) output: Option<FileOutput>,
    pub(crate) backoff: (Duration, Duration),
    /// What the template needs to be shown.
    needs: Policy,
    shape: Option<Shape>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("kind", &self.kind).field("since", &self.since).finish_non_exhaustive()
    }
}

impl Source {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            since: Since::Now,
            rotate_every: Duration::from_secs(300),
            rotate_bytes: None,
            heartbeat: Duration::from_secs(30),
            max_line: 1 << 20,
            buffer: 1 << 20,
            back_pressure: false,
            output: None,
            backoff: (Duration::from_millis(100), Duration::from_secs(30)),
            needs: Policy::default(),
            shape: None,
        }
    }

    fn timed(program: &str, words: impl IntoIterator<Item = OsString>) -> Self {
        let words = std::iter::once(program.into()).chain(words).collect();
        Self::new(Kind::Timed { words, format: TimeFormat::Rfc3339 })
    }

    /// Any command: in its words `{since}` stands for the time to begin at, and each line that it writes begins with its
    /// time and a space. Lines without one belong to the line before. What it writes to standard error is told as
    /// [`FollowEventKind::Diagnostic`](crate::FollowEventKind::Diagnostic), unless it begins with a time.
    pub fn command<W: Into<OsString>>(words: impl IntoIterator<Item = W>, format: TimeFormat) -> Self {
        Self::new(Kind::Timed { words: words.into_iter().map(Into::into).collect(), format })
    }

    /// The output of a container: `docker logs`. The daemon's socket is shown to it, nothing else.
    pub fn docker(container: impl Into<OsString>) -> Self {
        let words = ["logs", "--follow", "--timestamps", "--since", SINCE].map(OsString::from);
        let mut source = Self::timed("docker", words.into_iter().chain([container.into()]));
        source.needs.rw = vec!["/var/run/docker.sock".into()];
        source
    }

    /// The output of a container: `podman logs`. The folders of the system's containers are shown to it; those of a user
    /// have to be named with [`call`](Self::call).
    pub fn podman(container: impl Into<OsString>) -> Self {
        let words = ["logs", "--follow", "--timestamps", "--since", SINCE].map(OsString::from);
        let mut source = Self::timed("podman", words.into_iter().chain([container.into()]));
        source.needs.ro = vec!["/var/lib/containers".into(), "/etc/containers".into()];
        source.needs.rw = vec!["/run/containers".into()];
        source
    }

    /// The output of a pod's container: `kubectl logs` with these arguments (`["pod/web", "--container", "app"]`). It may
    /// use the network; its configuration has to be shown and named with [`call`](Self::call).
    pub fn kubectl<W: Into<OsString>>(arguments: impl IntoIterator<Item = W>) -> Self {
        let since = OsString::from(format!("--since-time={SINCE}"));
        let words = ["logs", "--follow", "--timestamps"].map(OsString::from).into_iter().chain([since]);
        let mut source = Self::timed("kubectl", words.chain(arguments.into_iter().map(Into::into)));
        source.needs.network = Some(Network::Host);
        source
    }

    /// The systemd journal, since the machine was started: `journalctl` with these arguments (`["--unit", "nginx"]`).
    /// Its files are shown to it. A line is an entry's message, which can have line feeds in it.
    pub fn journal<W: Into<OsString>>(arguments: impl IntoIterator<Item = W>) -> Self {
        let words = [
            "journalctl",
            "--follow",
            "--no-tail",
            "--quiet",
            "--all",
            "--output=json",
            "--output-fields=MESSAGE",
        ];
        let arguments = arguments.into_iter().map(Into::into);
        let words = words.map(OsString::from).into_iter().chain(arguments).collect();
        let mut source = Self::new(Kind::Journal { words });
        source.needs.ro =
            ["/var/log/journal", "/run/log/journal", "/etc/machine-id"].map(PathBuf::from).to_vec();
        source
    }

    /// A file that is written to, also when it is renamed and begun anew or truncated. `tail` is handed the open file, and
    /// sees nothing else. A file that is not there is waited for.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(Kind::File { program: "tail".into(), path: path.into() })
    }

    /// The program to start instead of the one that the source names: where it is.
    pub fn program(mut self, program: impl Into<OsString>) -> Self {
        match &mut self.kind {
            Kind::Timed { words, .. } | Kind::Journal { words } => match words.first_mut() {
                Some(first) => *first = program.into(),
                None => words.push(program.into()),
            },
            Kind::File { program: tail, .. } => *tail = program.into(),
        }
        self
    }

    /// Where it begins. Default: [`Since::Now`].
    pub fn since(mut self, since: Since) -> Self {
        self.since = since;
        self
    }

    /// How long a source runs before it is ended and opened anew, up to a tenth less, so that many do not come at once.
    /// With half a minute to end it, at most the engine's `max_timeout`. Default 5 min.
    pub fn rotate_every(mut self, time: Duration) -> Self {
        self.rotate_every = time;
        self
    }

    /// The bytes of new lines after which it is opened anew. Default: any number.
    pub fn rotate_bytes(mut self, bytes: u64) -> Self {
        self.rotate_bytes = Some(bytes);
        self
    }

    /// How often it is told that the follower is alive. Default 30 s.
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.heartbeat = every;
        self
    }

    /// The bytes of a line that are kept; how many more there were is said. Default 1 MiB.
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.max_line = bytes;
        self
    }

    /// The bytes that are kept for subscribers. Default 1 MiB.
    pub fn buffer(mut self, bytes: u64) -> Self {
        self.buffer = bytes;
        self
    }

    /// Lets a slow subscriber slow the source down instead of missing something. It holds for the first
    /// [`Follower::subscribe`](crate::Follower::subscribe): that one must be read, or the follower stands still. When the
    /// follower is stopped it has half of the time for that.
    pub fn back_pressure(mut self) -> Self {
        self.back_pressure = true;
        self
    }

    /// Writes the lines to a file, too.
    pub fn output(mut self, output: FileOutput) -> Self {
        self.output = Some(output);
        self
    }

    /// How long to wait before a source that ended or failed is opened again: at random between half of `first` and all of it, twice as much each
    /// time, up to `most`, and at least 10 ms. A source that ran for ten seconds or was ended by us begins anew. Default 100 ms and 30 s.
    pub fn backoff(mut self, first: Duration, most: Duration) -> Self {
        self.backoff = (first, most);
        self
    }

    /// What else there is to say about the call that opens the source: what it may touch and use, its environment,
    /// secrets, folder, and limits. It is told each time. What is not said is as it is with any command of the engine's;
    /// `kill_grace` is 500 ms.
    pub fn call(mut self, shape: impl Fn(Call) -> Call + Send + Sync + 'static) -> Self {
        self.shape = Some(Arc::new(shape));
        self
    }

    /// What the source needs to be shown, as far as it is there. It is part of the call already; for one that is given a
    /// policy with [`call`](Self::call) this is to be laid under it. That it names files asks for a sandbox, as everywhere:
    /// where there is none, [`Policy::level`] says that it is not needed. Blocks for a moment.
    pub fn needs(&self) -> Policy {
        let there = |paths: &[PathBuf]| paths.iter().filter(|path| path.exists()).cloned().collect();
        Policy { ro: there(&self.needs.ro), rw: there(&self.needs.rw), ..self.needs.clone() }
    }

    /// The words of the command that would be run to begin at this time.
    pub fn words(&self, since: SystemTime) -> Vec<OsString> {
        let time = Since::At(since).time();
        match &self.kind {
            Kind::Timed { words, format } => with_since(words, &format.show(time)),
            Kind::Journal { words } => journal_words(words, None, time),
            Kind::File { program, .. } => file_words(program),
        }
    }

    /// The call for these words, before the caller has had a say.
    pub(crate) fn plain(&self, words: Vec<OsString>) -> Call {
        let limits = Limits {
            kill_grace: Some(Duration::from_millis(500)),
            // What is told is not kept for a report, too.
            stdout: Some(0),
            stderr: Some(4 << 10),
            event_ring: Some(256 << 10),
            ..Limits::default()
        };
        Call::command(words).policy(self.needs()).limits(limits)
    }

    /// With what the caller says, and what must be so.
    pub(crate) fn shaped(&self, call: Call) -> Call {
        let call = match &self.shape {
            Some(shape) => shape(call),
            None => call,
        };
        call.timeout(self.rotate_every + TIME_TO_END).back_pressure().standing()
    }

    pub(crate) fn check(&self, max_timeout: Duration) -> Result<(), FollowError> {
        let wrong = |what: &str, hint: &str| {
            Err(FollowError::Invalid { message: what.to_owned(), hint: hint.to_owned() })
        };
        match &self.kind {
            Kind::Timed { words, .. } if words.is_empty() => {
                return wrong("the source has no words", "name the program first");
            }
            Kind::Timed { words, .. } if !words.iter().any(|word| word.to_string_lossy().contains(SINCE)) => {
                return wrong(
                    "no word of the source says {since}, so it cannot be continued without losing lines or having them twice",
                    "write {since} where the command is told the time to begin at",
                );
            }
            _ => {}
        }
        if self.rotate_every.is_zero() || self.heartbeat.is_zero() || self.rotate_bytes == Some(0) {
            return wrong(
                "a source that is opened anew all the time delivers nothing",
                "give positive times and sizes to `rotate_every`, `rotate_bytes` and `heartbeat`",
            );
        }
        if let (Kind::File { path, .. }, Some(output)) = (&self.kind, &self.output)
            && output.is_at(path)
        {
            return wrong(
                "its lines would be written to the very file that is followed, without an end",
                "write them to another file",
            );
        }
        if self.max_line == 0 {
            return wrong("lines of no length are all the same", "give a positive `max_line`");
        }
        if self.rotate_every.checked_add(TIME_TO_END).is_none_or(|longest| longest > max_timeout) {
            return wrong(
                &format!(
                    "a source that runs for {:?}, and has {TIME_TO_END:?} to end, takes longer than the engine allows, {max_timeout:?}",
                    self.rotate_every
                ),
                "make `rotate_every` shorter, or allow more with `Engine::builder().max_timeout(…)`",
            );
        }
        Ok(())
    }
}

/// What a source gets beyond the time it runs for, before its wall clock ends it. That loses nothing either.
pub(crate) const TIME_TO_END: Duration = Duration::from_secs(30);

pub(crate) fn with_since(words: &[OsString], since: &str) -> Vec<OsString> {
    let put = |word: &OsString| match word.to_str() {
        Some(text) => text.replace(SINCE, since).into(),
        None => word.clone(),
    };
    words.iter().map(put).collect()
}

/// `after`: the entry to begin with.
pub(crate) fn journal_words(words: &[OsString], after: Option<&str>, since: Timestamp) -> Vec<OsString> {
    let from = match after {
        Some(cursor) => format!("--cursor={cursor}"),
        None => format!("--since=@{}.{:06}", since.as_second(), since.subsec_microsecond().abs()),
    };
    let mut words = words.to_vec();
    // Before what is told by the caller, who may end the options.
    words.insert(words.len().min(1), from.into());
    words
}

pub(crate) fn file_words(program: &OsString) -> Vec<OsString> {
    // The file is its standard input, and stands where it is to be continued.
    let words = ["-c", "+1", "-s", "0.2", "-f"].map(OsString::from);
    std::iter::once(program.clone()).chain(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(source: &Source) -> String {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 120_000_000);
        source.words(time).iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn templates_are_what_the_programs_understand() {
        let all = [
            Source::docker("web"),
            Source::podman("web").program("/opt/podman"),
            Source::kubectl(["pod/web", "--container", "app"]),
            Source::journal(["--unit", "nginx"]),
            Source::file("/var/log/syslog"),
            Source::command(["replay", "--from", "{since}", "log"], TimeFormat::UnixSeconds),
        ];
        let shown: Vec<_> = all.iter().map(shown).collect();
        assert_eq!(
            shown,
            [
                "docker logs --follow --timestamps --since 2023-11-14T22:13:20.12Z web",
                "/opt/podman logs --follow --timestamps --since 2023-11-14T22:13:20.12Z web",
                "kubectl logs --follow --timestamps --since-time=2023-11-14T22:13:20.12Z pod/web --container app",
                "journalctl --since=@1700000000.120000 --follow --no-tail --quiet --all --output=json \
                 --output-fields=MESSAGE --unit nginx",
                "tail -c +1 -s 0.2 -f",
                "replay --from 1700000000 log",
            ]
        );
        let cursor = journal_words(
            &["journalctl".into(), "-u".into(), "a".into()],
            Some("s=1"),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(cursor, ["journalctl", "--cursor=s=1", "-u", "a"]);
    }

    #[test]
    fn what_cannot_be_followed_is_refused_with_words() {
        let max = Duration::from_secs(600);
        let refused = |source: Source| source.check(max).unwrap_err().to_string();
        let good = || Source::docker("web");
        assert!(good().check(max).is_ok());
        assert!(refused(Source::command(["cat"], TimeFormat::Rfc3339)).contains("{since}"));
        assert!(refused(Source::command([""; 0], TimeFormat::Rfc3339)).contains("program"));
        assert!(refused(good().rotate_every(Duration::ZERO)).contains("positive"));
        assert!(refused(good().rotate_bytes(0)).contains("positive"));
        assert!(refused(good().max_line(0)).contains("max_line"));
        assert!(refused(good().rotate_every(max)).contains("max_timeout"));
        assert!(refused(good().rotate_every(Duration::MAX)).contains("max_timeout"));
    }
}
