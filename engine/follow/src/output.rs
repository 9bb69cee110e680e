//! Lines into a file that is begun anew when it is large or old enough.
//!
//! `file-rotate` renames, removes and compresses. The writing is done here, because a line that was written in part when the
//! disk was full has to be finished, and no error may be kept quiet.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use file_rotate::{ContentLimit, FileRotate, compression::Compression, suffix::AppendCount};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tool_engine::Lane;

use crate::{
    backoff::Backoff,
    events::{FollowEventKind, Line},
    hub::{Hub, Subscription},
    metrics::Counters,
};

/// How much is written at once.
const BATCH: usize = 64 << 10;

/// A file for the lines of a follower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOutput {
    path: PathBuf,
    max_bytes: u64,
    max_age: Option<Duration>,
    keep: usize,
    compress: bool,
    whole: bool,
}

impl FileOutput {
    /// Lines are added to this file; it and its folder are made if they are not there, also when somebody removed or renamed
    /// them meanwhile. Others should not write to it. A FIFO is refused.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        // It is the same one also when the current folder is another.
        let path = std::path::absolute(&path).unwrap_or(path);
        Self { path, max_bytes: 64 << 20, max_age: None, keep: 5, compress: false, whole: false }
    }

    /// The size at which the file is renamed (`log` to `log.1`, `log.1` to `log.2`, and so on) and begun anew; a line is
    /// never divided between two. Default 64 MiB.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// The age at which the same is done, when the next line comes. Default: any.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// How many renamed files are kept. Default 5.
    #[must_use]
    pub fn keep(mut self, files: usize) -> Self {
        self.keep = files;
        self
    }

    /// Compresses renamed files (`log.1.gz`).
    #[must_use]
    pub fn compress(mut self) -> Self {
        self.compress = true;
        self
    }

    /// Writes lines as the source wrote them, with their times. Default: without.
    #[must_use]
    pub fn with_times(mut self) -> Self {
        self.whole = true;
        self
    }

    /// Whether it is the file at this path, as far as can be seen now.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        std::path::absolute(path)
            .is_ok_and(|path| path == self.path || place(&path).is_some_and(|at| Some(at) == self.place()))
    }

    /// The file that it alone is to write to: see [`place`].
    pub(crate) fn place(&self) -> Option<PathBuf> {
        place(&self.path)
    }

    fn bytes_of<'a>(&self, line: &'a Line) -> &'a [u8] {
        if self.whole { &line.written } else { &line.content }
    }
}

/// Where a file is, by a name that it has but once; `None` for what is no file, and may be written to by many. Reads the file
/// system.
fn place(path: &Path) -> Option<PathBuf> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => None,
        Ok(_) => Some(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())),
        // It is still to be made, in a folder that may be reached by a link.
        Err(_) => Some(match (path.parent().map(fs::canonicalize), path.file_name()) {
            (Some(Ok(folder)), Some(name)) => folder.join(name),
            _ => path.to_owned(),
        }),
    }
}

/// Takes lines from the follower and has them written, until the follower's last event. A disk that is full or slow holds
/// nobody up: what does not fit into the follower's buffer meanwhile is counted as lost.
pub(crate) async fn write(
    output: FileOutput,
    hub: Arc<Hub>,
    mut subscription: Subscription,
    lane: Lane,
    counters: Arc<Counters>,
    hurry: CancellationToken,
) {
    let mut backoff = Backoff::new((Duration::from_millis(100), Duration::from_secs(30)));
    let mut writer = Some(Writer { output: output.clone(), open: None });
    let mut batch = Batch::default();
    while batch.fill(&mut subscription, &output, &counters).await {
        while !batch.is_empty() {
            let mut own = writer.take().unwrap_or_else(|| Writer { output: output.clone(), open: None });
            let lines = batch.lines();
            let mut work = std::mem::take(&mut batch);
            let job = lane.spawn(move || {
                let done = own.write(&mut work);
                (own, work, done)
            });
            let done = tokio::select! { biased;
                done = job => done,
                // A disk that does not answer.
                () = hurry.cancelled() => return give_up(lines, &mut subscription, &counters),
            };
            let failed = match done {
                Ok((own, left, done)) => {
                    writer = Some(own);
                    batch = left;
                    done.err().map(|error| error.to_string())
                }
                // It panicked, or the lane was closed: what it had is gone.
                Err(_) => {
                    counters.output_lost(lines);
                    Some("writing was given up half-way".to_owned())
                }
            };
            let Some(reason) = failed else {
                backoff.reset();
                continue;
            };
            counters.output_error();
            let after = backoff.next();
            hub.append(FollowEventKind::OutputFailed { reason, after });
            tokio::select! {
                () = sleep(after) => {}
                // The follower has ended, and waits for nothing but this.
                () = hurry.cancelled() => return give_up(batch.lines(), &mut subscription, &counters),
            }
        }
    }
}

/// Counts what is not written any more.
fn give_up(lines: u64, rest: &mut Subscription, counters: &Counters) {
    counters.output_lost(lines);
    while let Some(event) = rest.try_next() {
        match event.kind {
            FollowEventKind::Line(_) => counters.output_lost(1),
            FollowEventKind::Gap { missed } => counters.output_lost(missed),
            _ => {}
        }
    }
}

/// Lines that are to be written.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each line ends.
    ends: Vec<usize>,
    /// What of it has been written.
    written: usize,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    fn lines(&self) -> u64 {
        self.ends.iter().filter(|end| **end > self.written).count() as u64
    }

    /// Waits for lines, and takes those that are there. `false` when there are no more. Cancel-safe only between lines.
    async fn fill(&mut self, lines: &mut Subscription, output: &FileOutput, counters: &Counters) -> bool {
        *self = Self::default();
        while self.bytes.is_empty() {
            let Some(event) = lines.next().await else { return false };
            let mut next = Some(event);
            while let Some(event) = next {
                match event.kind {
                    FollowEventKind::Line(line) => self.add(&line, output),
                    // Not all of these were lines.
                    FollowEventKind::Gap { missed } => counters.output_lost(missed),
                    _ => {}
                }
                next = if self.bytes.len() < BATCH { lines.try_next() } else { None };
            }
        }
        true
    }

    fn add(&mut self, line: &Line, output: &FileOutput) {
        self.bytes.extend_from_slice(output.bytes_of(line));
        // Also where there was none: the next line is another.
        self.bytes.extend_from_slice(if line.end.bytes().is_empty() { b"\n" } else { line.end.bytes() });
        self.ends.push(self.bytes.len());
    }
}

/// Owns the file.
struct Writer {
    output: FileOutput,
    open: Option<Open>,
}

struct Open {
    file: File,
    length: u64,
    since: SystemTime,
}

impl Writer {
    /// Writes what there is. Blocks. After an error the rest is still there, from the byte on that was not written.
    fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        // Somebody removed or renamed it, or its folder: what would be written to it is lost.
        if self.open.as_ref().is_some_and(|open| !open.is_at(&self.output.path)) {
            self.open = None;
        }
        while !batch.is_empty() {
            let next = batch.ends.partition_point(|end| *end <= batch.written);
            let is_at_line = next == 0 || batch.ends[next - 1] == batch.written;
            if is_at_line {
                self.rotate_if_due(batch.ends[next] - batch.written)?;
            }
            let open = match &mut self.open {
                Some(open) => open,
                None => self.open.insert(Open::at(&self.output.path)?),
            };
            // As many lines as fit into this file, the first one in any case.
            let room = self.output.max_bytes.saturating_sub(open.length);
            let room = batch.written.saturating_add(usize::try_from(room).unwrap_or(usize::MAX));
            let fit = batch.ends.partition_point(|end| *end <= room);
            let until = batch.ends[fit.saturating_sub(1).max(next)];
            match open.file.write(&batch.bytes[batch.written..until]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    batch.written += written;
                    open.length += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Before a line of this length.
    fn rotate_if_due(&mut self, line: usize) -> io::Result<()> {
        let Some(open) = &self.open else {
            // What was there before counts, too.
            self.open = Some(Open::at(&self.output.path)?);
            return self.rotate_if_due(line);
        };
        if open.length == 0 {
            return Ok(());
        }
        let is_large = open.length + line as u64 > self.output.max_bytes;
        let is_old = self.output.max_age.is_some_and(|most| open.since.elapsed().unwrap_or_default() >= most);
        if is_large || is_old {
            self.open = None;
            rotate(&self.output)?;
        }
        Ok(())
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // It would wait for somebody to open the other end, with a thread that others need.
        if fs::metadata(path).is_ok_and(|about| about.file_type().is_fifo()) {
            let words = "it is a FIFO, and lines are written to files only; name another one";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let about = file.metadata()?;
        // When it was begun, as far as the file system says it.
        let since = about.created().or_else(|_| about.modified()).unwrap_or_else(|_| SystemTime::now());
        let since = if about.len() == 0 { SystemTime::now() } else { since };
        Ok(Self { file, length: about.len(), since })
    }

    /// Whether it is still the one of this name, unless that cannot be told.
    fn is_at(&self, path: &Path) -> bool {
        let own = self.file.metadata().map(|own| (own.dev(), own.ino()));
        match (own, fs::metadata(path)) {
            (Ok(own), Ok(named)) => own == (named.dev(), named.ino()),
            (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
            (Err(_), Ok(_)) => true,
        }
    }
}

/// Renames, removes, compresses.
fn rotate(output: &FileOutput) -> io::Result<()> {
    // `file-rotate` panics where it cannot be made.
    if let Some(folder) = output.path.parent() {
        fs::create_dir_all(folder)?;
    }
    // A compressed file beside the one that it was made from is not complete: the disk was full, or we were killed.
    for number in 1_u64.. {
        let named = |ending: &str| {
            let mut path = output.path.clone().into_os_string();
            path.push(format!(".{number}{ending}"));
            PathBuf::from(path)
        };
        match (named("").exists(), named(".gz").exists()) {
            (true, true) => fs::remove_file(named(".gz"))?,
            (false, false) => break,
            _ => {}
        }
    }
    let compression = if output.compress { Compression::OnRotate(0) } else { Compression::None };
    FileRotate::new(&output.path, AppendCount::new(output.keep), ContentLimit::None, compression, None)
        .rotate()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tool_engine::Stream;

    use super::*;
    use crate::lines::LineEnd;

    fn batch(lines: &[&str], output: &FileOutput) -> Batch {
        let mut batch = Batch::default();
        for text in lines {
            let content = Bytes::copy_from_slice(text.as_bytes());
            let (time, stream, end) = (None, Stream::Stdout, LineEnd::Lf);
            let line = Line { time, written: content.clone(), content, end, stream, cut: 0, partial: false };
            batch.add(&line, output);
        }
        batch
    }

    fn write_all(output: &FileOutput, lines: &[&str]) {
        let mut batch = batch(lines, output);
        Writer { output: output.clone(), open: None }.write(&mut batch).unwrap();
        assert!(batch.is_empty() && batch.lines() == 0);
    }

    fn contents(folder: &Path) -> Vec<(String, String)> {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let mut all: Vec<_> = files
            .map(|file| {
                let text = String::from_utf8_lossy(&fs::read(file.path()).unwrap()).into_owned();
                (file.file_name().to_string_lossy().into_owned(), text)
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_file_is_begun_anew_between_lines_when_it_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let output = FileOutput::new(folder.path().join("log")).max_bytes(10).keep(2);
        write_all(&output, &["aaaa", "bbbb", "cccc", "a line that is too long", "dd"]);
        // Another program goes on with it.
        write_all(&output, &["ee", "ffff"]);
        let expected = [("log", "ffff\n"), ("log.1", "dd\nee\n"), ("log.2", "a line that is too long\n")];
        let expected: Vec<_> = expected.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        assert_eq!(contents(folder.path()), expected);
    }

    #[test]
    fn a_file_is_begun_anew_when_it_is_old_and_the_old_one_is_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let output =
            FileOutput::new(folder.path().join("sub/log")).max_age(Duration::ZERO).compress().keep(2);
        // What an interrupted rotation leaves.
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/log.1"), "a\n").unwrap();
        fs::write(folder.path().join("sub/log.1.gz"), "half of it").unwrap();
        ["b", "c", "d"].iter().for_each(|line| write_all(&output, &[line]));
        let names: Vec<_> = contents(&folder.path().join("sub")).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["log", "log.1.gz", "log.2.gz"]);
    }

    #[test]
    fn a_line_that_was_written_in_part_is_finished_later() {
        let folder = tempfile::tempdir().unwrap();
        let output = FileOutput::new(folder.path().join("log")).max_bytes(6);
        let mut batch = batch(&["aaaa", "bbbb"], &output);
        fs::write(folder.path().join("log"), "aa").unwrap();
        batch.written = 2;
        assert_eq!(batch.lines(), 2);
        Writer { output, open: None }.write(&mut batch).unwrap();
        let expected = [("log".to_owned(), "bbbb\n".to_owned()), ("log.1".to_owned(), "aaaa\n".to_owned())];
        assert_eq!(contents(folder.path()), expected);
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_counted_and_ends_nothing() {
        let lane = Lane::open("test", 1, tokio_util::task::TaskTracker::new()).unwrap();
        let hub = Arc::new(Hub::new(1 << 20, false));
        let (counters, hurry) = (Arc::<Counters>::default(), CancellationToken::new());
        let output = FileOutput::new("/dev/full");
        let mut told = hub.subscribe();
        let content = Bytes::from_static(b"a");
        let (time, stream, end) = (None, Stream::Stdout, LineEnd::Lf);
        let line = Line { time, written: content.clone(), content, end, stream, cut: 0, partial: false };
        hub.append(FollowEventKind::Line(line));
        let lines = hub.subscribe_aside();
        let writing = write(output, Arc::clone(&hub), lines, lane, Arc::clone(&counters), hurry.clone());
        let ending = async {
            while let Some(event) = told.next().await {
                if let FollowEventKind::OutputFailed { reason, .. } = event.kind {
                    assert!(reason.contains("space"), "{reason}");
                    break;
                }
            }
            hurry.cancel();
        };
        tokio::join!(writing, ending);
        let snapshot = counters.snapshot();
        assert_eq!(snapshot.output_lost, 1);
        assert!(snapshot.output_errors >= 1);
    }
}
