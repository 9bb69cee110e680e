//! Which descriptors a process has, and which it hands on.

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

/// Marks all descriptors from this one on to be closed on exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: c_long = 4;
    call!(new::CLOSE_RANGE, first, u32::MAX, CLOSE_RANGE_CLOEXEC).map(drop)
}

pub(crate) fn fchdir(folder: impl AsFd) -> Result<()> {
    call!(nr::FCHDIR, folder.as_fd().as_raw_fd()).map(drop)
}

pub(crate) fn chdir(folder: &CStr) -> Result<()> {
    let fd = open_path(folder)?;
    fchdir(fd)
}
