//! Namespaces and mounts.

use super::*;

pub(crate) fn unshare(flags: u64) -> Result<()> {
    call!(nr::UNSHARE, flags).map(drop)
}

pub(crate) fn setns(namespace: impl AsFd, kind: u64) -> Result<()> {
    call!(nr::SETNS, namespace.as_fd().as_raw_fd(), kind).map(drop)
}

pub(crate) fn sethostname(name: &[u8]) -> Result<()> {
    call!(nr::SETHOSTNAME, name.as_ptr(), name.len()).map(drop)
}

/// All mounts: what happens to them outside goes on here, nothing of here goes out.
pub(crate) fn make_mounts_slave() -> Result<()> {
    const REC_SLAVE: c_long = 0x4000 | 0x8_0000;
    call!(nr::MOUNT, c"none".as_ptr(), c"/".as_ptr(), 0, REC_SLAVE, 0).map(drop)
}

/// A detached copy of the mounts at and below `fd`.
pub(crate) fn clone_mount(fd: impl AsFd) -> Result<OwnedFd> {
    const CLONE: c_long = 1;
    call!(
        new::OPEN_TREE,
        fd.as_fd().as_raw_fd(),
        c"".as_ptr(),
        CLONE | O_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE
    )
    .map(owned)
}

pub(crate) const MOUNT_RDONLY: u64 = 1;
pub(crate) const MOUNT_NOSUID: u64 = 2;
pub(crate) const MOUNT_NODEV: u64 = 4;
pub(crate) const MOUNT_NOEXEC: u64 = 8;
const MOUNT_PRIVATE: u64 = 0x4_0000;

/// Adds these attributes to a mount, and to those below it; cuts them off from others.
pub(crate) fn restrict_mount(fd: impl AsFd, attributes: u64, recursive: bool) -> Result<()> {
    let attr: [u64; 4] = [attributes, 0, MOUNT_PRIVATE, 0];
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    call!(new::MOUNT_SETATTR, fd.as_fd().as_raw_fd(), c"".as_ptr(), flags, attr.as_ptr(), size_of_val(&attr))
        .map(drop)
}

/// Attaches a detached mount at a path below `folder`, without following a link at its end.
pub(crate) fn attach_at(mount: impl AsFd, folder: impl AsFd, path: &CStr) -> Result<()> {
    const FROM_EMPTY_PATH: c_long = 4;
    call!(
        new::MOVE_MOUNT,
        mount.as_fd().as_raw_fd(),
        c"".as_ptr(),
        folder.as_fd().as_raw_fd(),
        path.as_ptr(),
        FROM_EMPTY_PATH
    )
    .map(drop)
}

/// Attaches a detached mount at an absolute path.
pub(crate) fn attach(mount: impl AsFd, path: &CStr) -> Result<()> {
    const FROM_EMPTY_PATH: c_long = 4;
    call!(new::MOVE_MOUNT, mount.as_fd().as_raw_fd(), c"".as_ptr(), AT_FDCWD, path.as_ptr(), FROM_EMPTY_PATH)
        .map(drop)
}

/// A new file system as a detached mount.
pub(crate) fn new_mount(kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64) -> Result<OwnedFd> {
    const SET_STRING: c_long = 1;
    const CREATE: c_long = 6;
    let context = owned(call!(new::FSOPEN, kind.as_ptr(), 1)?);
    let context = context.as_fd().as_raw_fd();
    for (key, value) in options {
        call!(new::FSCONFIG, context, SET_STRING, key.as_ptr(), value.as_ptr(), 0)?;
    }
    call!(new::FSCONFIG, context, CREATE, 0, 0, 0)?;
    call!(new::FSMOUNT, context, 1, attributes).map(owned)
}

/// Makes the current folder the root, and lets go of the old one.
pub(crate) fn pivot_here() -> Result<()> {
    const DETACH: c_long = 2;
    call!(nr::PIVOT_ROOT, c".".as_ptr(), c".".as_ptr())?;
    call!(nr::UMOUNT2, c".".as_ptr(), DETACH)?;
    chdir(c"/")
}
