//! The system calls for mounts that rustix does not have.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};

/// Attributes of a mount (mount_setattr(2)).
pub(super) const RDONLY: u64 = 1;
pub(super) const NOSUID: u64 = 2;
pub(super) const NODEV: u64 = 4;
const IDMAP: u64 = 0x10_0000;

/// A handle to what is at this path, if no symbolic link is on the way.
pub(super) fn open_strictly(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// A detached copy of the mounts at and below `fd`. Needs CAP_SYS_ADMIN.
pub(super) fn clone_mount(fd: impl AsFd) -> io::Result<OwnedFd> {
    let flags =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE) as u32;
    let empty: &CStr = c"";
    // SAFETY: the path is a C string that lives during the call, which keeps nothing.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, fd.as_fd().as_raw_fd(), empty.as_ptr(), flags) };
    if tree == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(tree as i32) })
}

/// Adds attributes to a mount and those below it, and cuts them off from others; with `id_map`, shows files of those whom
/// that user namespace maps as files of those to whom it maps them.
pub(super) fn restrict_mount(fd: impl AsFd, attributes: u64, id_map: Option<&OwnedFd>) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes | if id_map.is_some() { IDMAP } else { 0 },
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: id_map.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let empty: &CStr = c"";
    // SAFETY: path and structure live during the call, which keeps neither; the size is the structure's own.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_fd().as_raw_fd(),
            empty.as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
