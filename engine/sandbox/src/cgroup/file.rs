//! The small text files of a cgroup: each is read and written in one call, at its beginning, through a file that stays
//! open where that pays.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::{Errno, pread, pwrite, retry_on_intr},
};

use super::CgroupError;

/// How deep cgroups that a tool made within its own are looked for.
const DEEPEST: u32 = 16;

pub(super) fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(retry_on_intr(|| openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty()))?)
}

/// Hands the file's text to `parse`. What is longer than a kilobyte is cut: no file that we read is.
fn with_text<T>(file: impl AsFd, parse: impl FnOnce(&str) -> Option<T>) -> io::Result<T> {
    let mut buffer = [0; 1024];
    let length = retry_on_intr(|| pread(&file, &mut buffer, 0))?;
    let text = std::str::from_utf8(&buffer[..length]).ok();
    text.and_then(parse).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The file's one number.
pub(super) fn number(file: impl AsFd) -> io::Result<u64> {
    // A plain file in a test may be longer than what was last written into it.
    with_text(file, |text| text.lines().next()?.trim().parse().ok())
}

/// The numbers behind some of the file's keys.
pub(super) fn values<const N: usize>(file: impl AsFd, keys: [&str; N]) -> io::Result<[Option<u64>; N]> {
    with_text(file, |text| Some(keys.map(|key| value(text, key))))
}

fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

pub(super) fn write(file: impl AsFd, text: &str) -> io::Result<()> {
    let line = format!("{text}\n");
    retry_on_intr(|| pwrite(&file, line.as_bytes(), 0))?;
    Ok(())
}

/// Opens, writes, closes.
pub(super) fn set(path: &Path, text: &str) -> Result<(), CgroupError> {
    open(path, OFlags::WRONLY)
        .and_then(|file| write(file, text))
        .map_err(|error| CgroupError::new(format!("writing {text:?} to"), path, error))
}

/// The process ids in a `cgroup.procs`, as we see them: those of other namespaces are shown as 0, and left out.
///
/// The file is opened anew each time: v1 hands out a list that is up to a second old to whoever keeps it open.
pub(super) fn processes(folder: &Path) -> Vec<u32> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).filter(|pid| *pid != 0).collect()
}

/// Whether somebody is directly in it, also one that we cannot see.
pub(super) fn holds_processes(folder: &Path) -> bool {
    fs::read(folder.join("cgroup.procs")).is_ok_and(|text| !text.is_empty())
}

/// Removes a cgroup with the cgroups in it. What is not there counts as removed; what holds a process stays, and is
/// an error (EBUSY).
pub(super) fn remove(folder: &Path, rmdir: fn(&Path) -> io::Result<()>) -> io::Result<()> {
    remove_below(folder, rmdir, DEEPEST)
}

fn remove_below(folder: &Path, rmdir: fn(&Path) -> io::Result<()>, depth: u32) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    match gone(rmdir(folder)) {
        Err(error) if depth > 0 && is_busy(&error) => {}
        other => return other,
    }
    let entries = match fs::read_dir(folder) {
        // Somebody else removes it, too: systemd does when it ends a scope.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // What stays is found out by the last call.
            let _ = remove_below(&entry.path(), rmdir, depth - 1);
        }
    }
    gone(rmdir(folder))
}

/// Whether a cgroup could not be removed because it holds a process or another cgroup.
pub(super) fn is_busy(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::BUSY | Errno::NOTEMPTY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_removes_meanwhile_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("cgroup");
        fs::create_dir(&folder).unwrap();
        let busy_and_then_gone = |path: &Path| {
            let _ = fs::remove_dir(path);
            Err(Errno::BUSY.into())
        };
        assert!(remove(&folder, busy_and_then_gone).is_ok());
    }

    #[test]
    fn a_key_is_a_whole_word() {
        let text = "low 0\nmax 3\noom 1\noom_kill 2\noom_group_kill x\n";
        assert_eq!(value(text, "oom"), Some(1));
        assert_eq!(value(text, "oom_kill"), Some(2));
        assert_eq!(value(text, "oom_group_kill"), None);
        assert_eq!(value(text, "ma"), None);
        assert_eq!(value("", "max"), None);
    }
}
