//! Descriptors and paths.

use super::*;

/// `fd` as `number`, in place of what was there; stays open over exec.
pub(crate) fn dup_to(fd: impl AsFd, number: RawFd) -> Result<()> {
    call!(nr::DUP3, fd.as_fd().as_raw_fd(), number, 0).map(drop)
}

pub(crate) fn close_from(first: RawFd) -> Result<()> {
    call!(new::CLOSE_RANGE, first, u32::MAX, 0).map(drop)
}

pub(crate) fn close_between(first: RawFd, last: RawFd) -> Result<()> {
    if first > last { Ok(()) } else { call!(new::CLOSE_RANGE, first, last, 0).map(drop) }
}

pub(crate) fn fchdir(folder: impl AsFd) -> Result<()> {
    call!(nr::FCHDIR, folder.as_fd().as_raw_fd()).map(drop)
}

pub(crate) fn chdir(folder: &CStr) -> Result<()> {
    let fd = open_path(folder)?;
    fchdir(fd)
}

/// A handle to what is there; following links.
pub(crate) fn open_path(path: &CStr) -> Result<OwnedFd> {
    call!(nr::OPENAT, AT_FDCWD, path.as_ptr(), O_PATH as c_long | O_CLOEXEC, 0).map(owned)
}

/// A handle to what is at this absolute path, if no symbolic link is on the way; if one is at its end, a handle to the link.
/// Step by step, as the filter refuses openat2(2).
pub(crate) fn open_path_strictly(path: &CStr) -> Result<OwnedFd> {
    const DIRECTORY: c_long = if cfg!(target_arch = "x86_64") { 0o200000 } else { 0o40000 };
    const NOFOLLOW: c_long = if cfg!(target_arch = "x86_64") { 0o400000 } else { 0o100000 };
    let open = |folder: RawFd, name: &CStr, flags: c_long| {
        let flags = O_PATH as c_long | O_CLOEXEC | NOFOLLOW | flags;
        call!(nr::OPENAT, folder, name.as_ptr(), flags, 0).map(owned)
    };
    let mut at = open(AT_FDCWD, c"/", DIRECTORY)?;
    let mut names = path.to_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        // A link, opened without following it, is no folder.
        let folder = if names.peek().is_some() { DIRECTORY } else { 0 };
        at = open(at.as_raw_fd(), &cstring(name)?, folder)?;
    }
    Ok(at)
}

pub(crate) fn mkdir_at(folder: impl AsFd, name: &CStr, mode: u32) -> Result<()> {
    call!(nr::MKDIRAT, folder.as_fd().as_raw_fd(), name.as_ptr(), mode).map(drop)
}

pub(crate) fn symlink_at(target: &CStr, folder: impl AsFd, name: &CStr) -> Result<()> {
    call!(nr::SYMLINKAT, target.as_ptr(), folder.as_fd().as_raw_fd(), name.as_ptr()).map(drop)
}

/// A new file for writing.
pub(crate) fn create_at(folder: impl AsFd, name: &CStr, mode: u32) -> Result<OwnedFd> {
    const WRONLY_CREAT_EXCL: c_long = 0o301;
    call!(nr::OPENAT, folder.as_fd().as_raw_fd(), name.as_ptr(), WRONLY_CREAT_EXCL | O_CLOEXEC, mode)
        .map(owned)
}

pub(crate) fn write(fd: impl AsFd, bytes: &[u8]) -> Result<()> {
    const NUMBER: i64 = if cfg!(target_arch = "x86_64") { 1 } else { 64 };
    call!(NUMBER, fd.as_fd().as_raw_fd(), bytes.as_ptr(), bytes.len()).map(drop)
}

/// Marks all descriptors from this one on to be closed on exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: c_long = 4;
    call!(new::CLOSE_RANGE, first, u32::MAX, CLOSE_RANGE_CLOEXEC).map(drop)
}
