//! The compiled form of the Python worker, which is kept beside it: compiling takes longer than all else that a short call
//! does. Made once for each interpreter, and again when the interpreter or the worker has changed. Where there is none the
//! source is run, so that whatever goes wrong here costs time only.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::UNIX_EPOCH,
};

use crate::probe::{self, Identity};

/// Writes the compiled form to where Python looks for it, and says where that is. Renamed into place by `py_compile`, so
/// that nobody reads half of it.
const COMPILE: &str = "import py_compile, sys; print(py_compile.compile(sys.argv[1], doraise=True))";

/// Who compiled what, and where to; `None` where that failed.
static KNOWN: LazyLock<Mutex<HashMap<Job, Option<PathBuf>>>> = LazyLock::new(Mutex::default);

/// Held while something is compiled: of many first calls, one does it.
static COMPILING: Mutex<()> = Mutex::new(());

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Job {
    interpreter: Identity,
    worker: PathBuf,
    /// Nanoseconds since 1970.
    changed: u128,
}

impl Job {
    fn new(program: &Path, worker: &Path) -> io::Result<Self> {
        let changed = fs::metadata(worker)?.modified()?;
        let changed = changed.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        Ok(Self { interpreter: Identity::of(program)?, worker: worker.to_owned(), changed })
    }

    /// The file that tells the next process; one for each interpreter, in the worker's folder, which is ours alone.
    fn note(&self) -> PathBuf {
        self.interpreter.file(self.worker.parent().unwrap_or(Path::new("/")), "compiled")
    }

    /// What an earlier process made, if it is there.
    fn noted(&self) -> Option<PathBuf> {
        let text = fs::read_to_string(self.note()).ok()?;
        let (changed, compiled) = text.trim_end().split_once(' ')?;
        (changed == self.changed.to_string()).then(|| compiled.into()).filter(|path: &PathBuf| path.is_file())
    }

    fn compile(&self) -> io::Result<PathBuf> {
        let args = ["-I", "-S", "-c", COMPILE].map(Into::into);
        let said = probe::say(self.interpreter.path(), [&args[..], &[self.worker.clone().into()]].concat())?;
        let compiled = PathBuf::from(said.trim_end());
        if !compiled.is_file() {
            let said: String = said.chars().take(500).collect();
            return Err(io::Error::other(format!("it cannot be compiled: {said}")));
        }
        probe::keep(&self.note(), &format!("{} {}", self.changed, compiled.display()));
        Ok(compiled)
    }
}

/// Sees to it that there is a compiled form. Blocks, for 10 s at most, and only if there is none.
pub(crate) fn keep(program: &Path, worker: &Path) {
    // One that is not there is told by starting it.
    let Ok(job) = Job::new(program, worker) else { return };
    if is_settled(&job) {
        return;
    }
    let _one_at_a_time = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
    if is_settled(&job) {
        return;
    }
    let compiled = job.noted().map_or_else(|| job.compile(), Ok);
    if let Err(error) = &compiled {
        let program = program.display();
        tracing::debug!(%error, %program, "the worker is run from its source, which takes longer");
    }
    known().insert(job, compiled.ok());
}

/// Whether it is there, or cannot be made. What cleans up temporary folders may have taken it.
fn is_settled(job: &Job) -> bool {
    known().get(job).is_some_and(|compiled| compiled.as_ref().is_none_or(|path| path.is_file()))
}

fn known() -> MutexGuard<'static, HashMap<Job, Option<PathBuf>>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// An interpreter that notes when it is asked, and a worker.
    fn setup(folder: &Path, does: &str) -> (PathBuf, PathBuf) {
        let (program, worker) = (folder.join("python"), folder.join("worker.py"));
        let text = format!("#!/bin/sh\necho x >>{0}/asked\n{does}\n", folder.display());
        fs::write(folder.join("new"), text).unwrap();
        fs::set_permissions(folder.join("new"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(folder.join("new"), &program).unwrap();
        fs::write(&worker, "1").unwrap();
        (program, worker)
    }

    fn asked(folder: &Path) -> usize {
        fs::read_to_string(folder.join("asked")).unwrap().lines().count()
    }

    #[test]
    fn it_is_made_once_and_again_when_it_is_gone_or_stale() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.pyc");
        let (program, worker) = setup(folder.path(), &format!("touch {0}; echo {0}", out.display()));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| keep(&program, &worker));
            }
        });
        assert_eq!(asked(folder.path()), 1, "of many first calls one does it");
        known().clear();
        keep(&program, &worker);
        assert_eq!(asked(folder.path()), 1, "the next process finds it");
        fs::remove_file(&out).unwrap();
        keep(&program, &worker);
        assert_eq!(asked(folder.path()), 2, "it was gone");
        known().clear();
        fs::File::options()
            .append(true)
            .open(&worker)
            .and_then(|file| file.set_modified(UNIX_EPOCH))
            .unwrap();
        keep(&program, &worker);
        assert_eq!(asked(folder.path()), 3, "the worker had changed");
    }

    #[test]
    fn what_cannot_be_made_is_tried_once() {
        let folder = tempfile::tempdir().unwrap();
        let (program, worker) = setup(folder.path(), "echo no");
        for _ in 0..3 {
            keep(&program, &worker);
        }
        assert_eq!(asked(folder.path()), 1);
        keep(Path::new("/nonexistent"), &worker);
    }
}
