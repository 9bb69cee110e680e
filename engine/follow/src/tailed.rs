//! Where a file is continued: at a byte of one certain file, however it is called by now.
//!
//! The file is held open here and handed to each `tail` as its standard input, so that it cannot be another one, and so
//! that the position up to which `tail` has read can be asked for when it is gone. When another file has taken its name,
//! the old one is read to its end first, and until it has not grown for [`QUIET`].

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::{Mode, OFlags};
use tokio::time::Instant;

/// How long a file that was renamed has to be without growth before the next one is begun.
const QUIET: Duration = Duration::from_secs(1);

/// How often it is looked whether the file has been renamed or truncated.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) struct Tailed {
    path: PathBuf,
    /// A file that is there at the beginning is followed from its end on.
    from_end: bool,
    file: Option<Arc<File>>,
    /// Up to where its lines were taken.
    taken: u64,
    /// How many bytes came of it from this source.
    came: u64,
    /// When something came of it, or it was looked at.
    quiet_since: Instant,
    /// How long the file was when it was last looked at under another name, and since when.
    settled: Option<(u64, Instant)>,
}

/// What has become of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is where it was.
    Same,
    /// It is shorter than what was read of it.
    Truncated,
    /// Another one has its name, and it was read to its end.
    Replaced,
}

/// What was seen of the file and of its name.
struct Look {
    length: u64,
    is_named: bool,
}

/// Blocking work, and what to do with what it comes to.
pub(crate) type Work<T> = Box<dyn FnOnce() -> T + Send>;

impl Tailed {
    pub(crate) fn new(path: PathBuf, from_end: bool) -> Self {
        Self { path, from_end, file: None, taken: 0, came: 0, quiet_since: Instant::now(), settled: None }
    }

    /// Opens the file, if it is not, and goes to where it is to be continued.
    pub(crate) fn open(&self) -> Work<io::Result<Opened>> {
        let (path, file, taken, from_end) = (self.path.clone(), self.file.clone(), self.taken, self.from_end);
        Box::new(move || {
            let (file, taken) = match file {
                Some(file) => {
                    let length = file.metadata()?.len();
                    // Truncated while nobody looked.
                    (file, if length < taken { 0 } else { taken })
                }
                None => {
                    // Of a FIFO this would otherwise wait for somebody to open its other end.
                    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
                    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
                    let about = file.metadata()?;
                    if !about.is_file() {
                        let words = "only a regular file can be followed";
                        return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
                    }
                    (Arc::new(file), if from_end { about.len() } else { 0 })
                }
            };
            (&*file).seek(SeekFrom::Start(taken))?;
            let stdin = file.try_clone()?.into();
            Ok(Opened { file, taken, stdin })
        })
    }

    /// It was opened. What is to be the standard input of `tail`.
    pub(crate) fn opened(&mut self, opened: Opened) -> OwnedFd {
        self.file = Some(opened.file);
        self.taken = opened.taken;
        self.came = 0;
        self.settled = None;
        opened.stdin
    }

    /// The file was not there at the beginning: it will be new when it is.
    pub(crate) fn not_found(&mut self) {
        self.from_end = false;
    }

    /// So many bytes came.
    pub(crate) fn came(&mut self, bytes: usize) {
        self.came += bytes as u64;
        self.looked();
    }

    /// Or it could not be looked at.
    pub(crate) fn looked(&mut self) {
        self.quiet_since = Instant::now();
    }

    /// When to look at the file: what comes all the time is no file that has been left.
    pub(crate) fn next_look(&self) -> Instant {
        self.quiet_since + LOOK_EVERY
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at the file and at its name.
    pub(crate) fn look(&self) -> Option<Work<io::Result<Fated>>> {
        let (path, file) = (self.path.clone(), Arc::clone(self.file.as_ref()?));
        Some(Box::new(move || {
            let about = file.metadata()?;
            let is_named = match std::fs::metadata(path) {
                Ok(named) => (named.dev(), named.ino()) == (about.dev(), about.ino()),
                // Until there is another one it is this one.
                Err(_) => true,
            };
            Ok(Fated(Look { length: about.len(), is_named }))
        }))
    }

    /// What the look tells, now that so much has come.
    pub(crate) fn fate(&mut self, Fated(look): Fated) -> Fate {
        self.looked();
        let read = self.taken + self.came;
        if look.length < read {
            return Fate::Truncated;
        }
        if look.is_named || look.length > read {
            self.settled = None;
            return Fate::Same;
        }
        let now = Instant::now();
        match self.settled {
            Some((length, since)) if length == look.length => {
                if now.duration_since(since) >= QUIET {
                    Fate::Replaced
                } else {
                    Fate::Same
                }
            }
            _ => {
                self.settled = Some((look.length, now));
                Fate::Same
            }
        }
    }

    /// The source has ended: up to where it had read.
    pub(crate) fn left_at(&self) -> Option<Work<io::Result<LeftAt>>> {
        let file = Arc::clone(self.file.as_ref()?);
        Some(Box::new(move || {
            Ok(LeftAt { position: (&*file).stream_position()?, length: file.metadata()?.len() })
        }))
    }

    /// The source has ended, after `rest` bytes that are no whole line and will come again, unless the file is at its end.
    /// Whether `rest` is all there will be of it.
    pub(crate) fn ended(&mut self, left_at: LeftAt, rest: u64, fate: Fate) -> bool {
        let came = std::mem::take(&mut self.came);
        let read = self.taken + came;
        let LeftAt { position, length } = left_at;
        match fate {
            Fate::Replaced if length == read => {
                self.file = None;
                self.taken = 0;
                self.from_end = false;
                return true;
            }
            // `tail` had begun anew.
            _ if position < read => self.taken = position.saturating_sub(rest),
            Fate::Truncated => self.taken = 0,
            Fate::Same | Fate::Replaced => self.taken = read - rest.min(came),
        }
        false
    }
}

/// See [`Tailed::open`].
#[derive(Debug)]
pub(crate) struct Opened {
    file: Arc<File>,
    taken: u64,
    stdin: OwnedFd,
}

/// See [`Tailed::left_at`].
pub(crate) struct LeftAt {
    position: u64,
    length: u64,
}

/// See [`Tailed::look`].
pub(crate) struct Fated(Look);

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, path::Path};

    use super::*;

    fn open(tailed: &mut Tailed) -> File {
        let opened = tailed.open()().unwrap();
        File::from(tailed.opened(opened))
    }

    /// What a source would have read.
    fn read(tailed: &mut Tailed) -> String {
        let mut text = String::new();
        open(tailed).read_to_string(&mut text).unwrap();
        tailed.came(text.len());
        text
    }

    fn end(tailed: &mut Tailed, rest: u64, fate: Fate) {
        let left_at = tailed.left_at().unwrap()().unwrap();
        assert_eq!(tailed.ended(left_at, rest, fate), fate == Fate::Replaced);
    }

    fn fate(tailed: &mut Tailed) -> Fate {
        let look = tailed.look().unwrap()().unwrap();
        tailed.fate(look)
    }

    fn file(path: &Path, text: &str) {
        use std::io::Write;
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    #[test]
    fn a_line_without_an_end_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        file(&path, "a\nb");
        let mut tailed = Tailed::new(path.clone(), false);
        assert_eq!(read(&mut tailed), "a\nb");
        end(&mut tailed, 1, Fate::Same);
        file(&path, "c\n");
        assert_eq!(read(&mut tailed), "bc\n");
        end(&mut tailed, 0, Fate::Same);
        assert_eq!(read(&mut tailed), "");
    }

    #[test]
    fn what_was_there_at_the_beginning_can_be_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut tailed = Tailed::new(path.clone(), true);
        assert_eq!(tailed.open()().unwrap_err().kind(), io::ErrorKind::NotFound);
        file(&path, "a\n");
        assert_eq!(read(&mut tailed), "");
        tailed = Tailed::new(path, true);
        tailed.not_found();
        assert_eq!(read(&mut tailed), "a\n");
        assert!(Tailed::new(folder.path().into(), true).open()().is_err());
    }

    #[test]
    fn a_truncated_file_is_read_from_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        file(&path, "abcdef\n");
        let mut tailed = Tailed::new(path.clone(), false);
        assert_eq!(read(&mut tailed), "abcdef\n");
        fs::write(&path, "x\n").unwrap();
        assert_eq!(fate(&mut tailed), Fate::Truncated);
        // `tail` had not noticed.
        end(&mut tailed, 0, Fate::Truncated);
        assert_eq!(read(&mut tailed), "x\n");
        end(&mut tailed, 0, Fate::Same);
        file(&path, "more\n");
        assert_eq!(read(&mut tailed), "more\n");
        end(&mut tailed, 0, Fate::Same);
        fs::write(&path, "").unwrap();
        file(&path, "y\n");
        assert_eq!(read(&mut tailed), "y\n", "noticed when it is opened");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renamed_file_is_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
        file(&path, "a\n");
        let mut tailed = Tailed::new(path.clone(), false);
        assert_eq!(read(&mut tailed), "a\n");
        fs::rename(&path, &old).unwrap();
        assert_eq!(fate(&mut tailed), Fate::Same, "there is no other file yet");
        file(&path, "c\n");
        assert_eq!(fate(&mut tailed), Fate::Same, "it may still grow");
        file(&old, "b\n");
        tokio::time::advance(QUIET).await;
        assert_eq!(fate(&mut tailed), Fate::Same, "it has grown");
        end(&mut tailed, 0, Fate::Same);
        assert_eq!(read(&mut tailed), "b\n");
        assert_eq!(fate(&mut tailed), Fate::Same);
        tokio::time::advance(QUIET).await;
        assert_eq!(fate(&mut tailed), Fate::Replaced);
        end(&mut tailed, 0, Fate::Replaced);
        assert_eq!(read(&mut tailed), "c\n");
    }
}
