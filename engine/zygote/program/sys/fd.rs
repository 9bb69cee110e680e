//! Descriptors that close themselves, as those of std, which is not here.

use core::marker::PhantomData;

use super::*;

/// A descriptor's number.
pub(crate) type RawFd = i32;

/// A descriptor of our own: closed when it is dropped.
#[derive(Debug)]
pub(crate) struct OwnedFd(RawFd);

/// Somebody's, for as long as they keep it open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BorrowedFd<'a>(RawFd, PhantomData<&'a OwnedFd>);

/// What has a descriptor.
pub(crate) trait AsFd {
    fn as_fd(&self) -> BorrowedFd<'_>;
}

/// No folder: paths are as they are, or begin in the current one.
pub(super) const HERE: BorrowedFd<'static> = BorrowedFd(AT_FDCWD, PhantomData);

impl OwnedFd {
    /// It is nobody else's.
    pub(crate) fn from_raw_fd(fd: RawFd) -> Self {
        Self(fd)
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.0
    }

    /// Another one for the same open file; closed on exec.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        const DUPFD_CLOEXEC: c_long = 1030;
        // Not one of the first three, which a program has for itself.
        call!(nr::FCNTL, self.0, DUPFD_CLOEXEC, 3).map(owned)
    }
}

impl Drop for OwnedFd {
    fn drop(&mut self) {
        // On Linux it is closed, whatever the answer.
        let _ = call!(nr::CLOSE, self.0);
    }
}

impl BorrowedFd<'_> {
    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl AsFd for OwnedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        BorrowedFd(self.0, PhantomData)
    }
}

impl AsFd for BorrowedFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        *self
    }
}

impl<T: AsFd> AsFd for &T {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}
