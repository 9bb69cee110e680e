//! Which version a runtime's program is. Asked once for each program: the answer is kept, in this process and in a file
//! for the next, for as long as the program's path, size and time of change are the same.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tool_sandbox::{LaunchSpec, Launcher, Policy, Process, ProcessGroups, ResourceLimits, Stdin};

use crate::runtime::Version;

/// How long a program may take to say what it is asked for.
const BOUND: Duration = Duration::from_secs(10);
const FOR_EVER: Duration = Duration::MAX;

static KNOWN: LazyLock<Mutex<HashMap<Identity, Version>>> = LazyLock::new(Mutex::default);

/// What a program is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    path: PathBuf,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Identity {
    pub(crate) fn of(program: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(program)?;
        Ok(Self {
            path: program.to_owned(),
            inode: metadata.ino(),
            size: metadata.len(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file that keeps something about it, in a folder that only we can write to.
    pub(crate) fn file(&self, folder: &Path, what: &str) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        folder.join(format!("{what}-{:016x}", hasher.finish()))
    }
}

/// The version of a program. Blocks, for 10 s at most. `folder`: where answers are kept; only we can write to it.
///
/// # Errors
/// When the program cannot be executed, says no version, or does not end.
pub(crate) fn version(program: &Path, folder: &Path) -> io::Result<Version> {
    let identity = Identity::of(program)?;
    if let Some(version) = known().get(&identity) {
        return Ok(*version);
    }
    let file = identity.file(folder, "version");
    let kept = fs::read_to_string(&file).ok().and_then(|text| Version::find(&text));
    let version = match kept {
        Some(version) => version,
        None => {
            let version = ask(program)?;
            keep(&file, &version.to_string());
            version
        }
    };
    known().insert(identity, version);
    Ok(version)
}

fn known() -> std::sync::MutexGuard<'static, HashMap<Identity, Version>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Renamed into place, so that nobody reads half of it. When it cannot be kept it will be asked again.
pub(crate) fn keep(file: &Path, answer: &str) {
    let Some(folder) = file.parent() else { return };
    let kept = tempfile::NamedTempFile::new_in(folder).and_then(|mut temporary| {
        writeln!(temporary, "{answer}")?;
        temporary.persist(file).map_err(|error| error.error)
    });
    if let Err(error) = kept {
        tracing::debug!(%error, file = %file.display(), "what a runtime said could not be kept");
    }
}

fn ask(program: &Path) -> io::Result<Version> {
    let text = say(program, vec!["--version".into()])?;
    Version::find(&text).ok_or_else(|| {
        let said: String = text.chars().take(100).collect();
        io::Error::other(format!("`--version` says {said:?}, which is no version"))
    })
}

/// What a program says that is started with these arguments, on both of its streams. Blocks, for 10 s at most.
pub(crate) fn say(program: &Path, args: Vec<OsString>) -> io::Result<String> {
    let launched = ProcessGroups
        .launch(LaunchSpec {
            execution: "version".into(),
            program: program.into(),
            args,
            env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("HOME".into(), "/tmp".into())],
            workdir: Some("/".into()),
            stdin: Stdin::Null,
            policy: Policy::default(),
            resources: ResourceLimits::default(),
            shows: Vec::new(),
            private: None,
        })
        .map_err(|error| io::Error::new(error.source.kind(), error.to_string()))?;
    let ended = wait(&launched.exit, BOUND);
    // Whatever it left running is not wanted. What it wrote is in the pipe: what is asked for is shorter than that.
    launched.process.kill();
    reap(launched.process, launched.exit, BOUND);
    ended?;
    let mut text = Vec::new();
    for pipe in [launched.stdout, launched.stderr] {
        let mut pipe = fs::File::from(pipe);
        let mut chunk = [0; 4096];
        // Only what is there: somebody may still hold the other end.
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
            let read = pipe.read(&mut chunk)?;
            text.extend_from_slice(&chunk[..read]);
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Reaps what was killed. What the kernel does not let die within the bound, on a disk that does not answer say, is
/// waited for on a thread of its own: the caller goes on, and no zombie is left all the same.
fn reap(mut process: Box<dyn Process>, exit: OwnedFd, bound: Duration) {
    let mut finish = move |ended: io::Result<()>| {
        let reaped = ended.and_then(|()| process.reap());
        if let Err(error) = &reaped {
            tracing::debug!(%error, pid = process.id(), "a runtime that was asked something is not reaped yet");
        }
        // It may be somebody else who reaped it.
        reaped.is_ok() || process.has_exited().is_err()
    };
    if finish(wait(&exit, bound)) {
        return;
    }
    let thread = std::thread::Builder::new().name("reap".into()).spawn(move || finish(wait(&exit, FOR_EVER)));
    if let Err(error) = thread {
        tracing::warn!(%error, "a runtime that was asked something cannot be waited for; it may stay as a zombie");
    }
}

/// Until it has exited, within the bound.
fn wait(exit: &impl AsFd, bound: Duration) -> io::Result<()> {
    let end = Instant::now().checked_add(bound);
    loop {
        let left = end.map_or(PollTimeout::NONE, |end| {
            let left = end.saturating_duration_since(Instant::now());
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = [PollFd::new(exit.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, left) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("it did not end within {bound:?}"),
                ));
            }
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::mpsc};

    use tool_sandbox::{Exit, ScanTarget};

    use super::*;

    /// Dies when its pipe is closed, and says when it is reaped.
    #[derive(Debug)]
    struct Tough(mpsc::Sender<()>);

    impl Process for Tough {
        fn id(&self) -> u32 {
            1
        }
        fn has_exited(&self) -> io::Result<bool> {
            Ok(false)
        }
        fn terminate(&self) {}
        fn kill(&self) {}
        fn others_may_be_alive(&self) -> bool {
            false
        }
        fn scan_target(&self, _: Vec<u64>) -> ScanTarget {
            unreachable!("nobody looks for what it left")
        }
        fn reap(&mut self) -> io::Result<Option<Exit>> {
            self.0.send(()).map_err(io::Error::other)?;
            Ok(None)
        }
    }

    #[test]
    fn what_does_not_die_in_time_is_reaped_when_it_does() {
        let (exit, alive) = io::pipe().unwrap();
        let (sender, reaped) = mpsc::channel();
        reap(Box::new(Tough(sender)), exit.into(), Duration::from_millis(1));
        assert!(reaped.try_recv().is_err(), "it lives");
        drop(alive);
        reaped.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    fn script(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("runtime");
        let temporary = folder.join("runtime.new");
        fs::write(&temporary, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(temporary, &path).unwrap();
        path
    }

    #[test]
    fn a_program_is_asked_once_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let asked = folder.path().join("asked");
        let program = script(folder.path(), &format!("echo x >>{}; echo v1.2.3", asked.display()));
        for _ in 0..3 {
            assert_eq!(version(&program, folder.path()).unwrap(), Version(1, 2, 3));
        }
        known().clear();
        assert_eq!(version(&program, folder.path()).unwrap(), Version(1, 2, 3));
        assert_eq!(fs::read_to_string(&asked).unwrap(), "x\n", "the next process finds the answer in a file");
        script(folder.path(), "echo v2.0.0; sleep 1000 & exit 0");
        assert_eq!(version(&program, folder.path()).unwrap(), Version(2, 0, 0));
    }

    #[test]
    fn a_program_that_says_no_version_is_an_error_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let program = script(folder.path(), "echo hello");
        let error = version(&program, folder.path()).unwrap_err().to_string();
        assert!(error.contains("hello"), "{error}");
        assert_eq!(
            version(Path::new("/nonexistent"), folder.path()).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
