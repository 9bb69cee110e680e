//! A file that every use of a cgroup needs: kept open where that pays, and opened for each look where there would be too
//! many.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::fs::OFlags;

use super::{CgroupError, file};

#[derive(Debug)]
pub(super) struct Kept {
    folder: Arc<Path>,
    name: &'static str,
    flags: OFlags,
    fd: Option<OwnedFd>,
}

impl Kept {
    /// A file that there must be.
    pub(super) fn needed(folder: &Arc<Path>, name: &'static str, flags: OFlags) -> Result<Self, CgroupError> {
        let mut kept = Self { folder: Arc::clone(folder), name, flags, fd: None };
        kept.open()?;
        Ok(kept)
    }

    /// A file that this kernel may not have.
    pub(super) fn optional(
        folder: &Arc<Path>,
        name: &'static str,
        flags: OFlags,
    ) -> Result<Option<Self>, CgroupError> {
        match Self::needed(folder, name, flags) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Opens it, if it is not.
    pub(super) fn open(&mut self) -> Result<(), CgroupError> {
        if self.fd.is_none() {
            let path = self.folder.join(self.name);
            let fd = file::open(&path, self.flags);
            self.fd = Some(fd.map_err(|error| CgroupError::new("opening", path, error))?);
        }
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.fd = None;
    }

    /// While it is open.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// Where it is closed, one descriptor is needed for as long as this takes.
    fn with<T>(&self, look: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        match self.fd() {
            Some(fd) => look(fd),
            None => look(file::open(&self.folder.join(self.name), self.flags)?.as_fd()),
        }
    }

    /// See [`file::number`].
    pub(super) fn number(&self) -> io::Result<u64> {
        self.with(|fd| file::number(fd))
    }

    /// See [`file::values`].
    pub(super) fn values<const N: usize>(&self, keys: [&str; N]) -> io::Result<[Option<u64>; N]> {
        self.with(|fd| file::values(fd, keys))
    }

    pub(super) fn write(&self, text: &str) -> io::Result<()> {
        self.with(|fd| file::write(fd, text))
    }
}
