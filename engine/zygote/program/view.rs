//! What a sandbox sees: the part that all have in common, built once for each set of places, and what a call adds.

use alloc::{ffi::CString, string::ToString, vec::Vec};
use core::ffi::CStr;

use crate::{
    protocol::{Bytes, Entry, Mount, Step, What},
    step::{At, Steps, failure},
    sys::{self, Errno, OwnedFd},
};

/// The common view without the places of calls: a mount namespace, and its root, which can still be written to.
pub(crate) struct Bare {
    pub(crate) namespace: OwnedFd,
    pub(crate) root: OwnedFd,
}

/// The common view, built in a mount namespace of our own, in which we are afterwards.
pub(crate) fn bare(system: &[Entry]) -> Steps<Bare> {
    sys::unshare(sys::CLONE_NEWNS).at(Step::View, b"")?;
    let namespace = sys::open(c"/proc/self/ns/mnt").at(Step::View, b"/proc/self/ns/mnt")?;
    Ok(Bare { namespace, root: build(system)? })
}

/// A mount namespace whose root holds the common view and empty places for what calls mount; read-only. `ahead`: most of it, if
/// it is there. The current mount namespace is the same afterwards.
pub(crate) fn template(
    host: &OwnedFd,
    system: &[Entry],
    points: &[(Bytes, bool)],
    ahead: Option<Bare>,
) -> Steps<OwnedFd> {
    let begun = match ahead {
        Some(ahead) => sys::setns(&ahead.namespace, sys::CLONE_NEWNS).at(Step::View, b"").map(|()| ahead),
        None => bare(system),
    };
    let built = begun.and_then(|Bare { namespace, root }| finish(&root, system, points).map(|()| namespace));
    sys::setns(host, sys::CLONE_NEWNS).at(Step::View, b"the host's mounts")?;
    built
}

/// Adds the places of calls.
fn finish(root: &OwnedFd, system: &[Entry], points: &[(Bytes, bool)]) -> Steps<()> {
    // Who mounts something in a folder of the host finds the place there.
    let is_hosts = |point: &[u8]| {
        system.iter().any(|entry| match entry {
            Entry::Host { path, folder: true } => {
                point.strip_prefix(&path.0[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            }
            _ => false,
        })
    };
    for (path, folder) in points.iter().filter(|(path, _)| !is_hosts(&path.0)) {
        point(root, &path.0, *folder)?;
    }
    sys::restrict_mount(root, sys::MOUNT_RDONLY, false).at(Step::Attributes, b"/")
}

/// The folder on which the new root is put together. It is there: we have just read from it.
const STAGE: &CStr = c"/proc";

fn build(system: &[Entry]) -> Steps<OwnedFd> {
    let options = [(c"mode", c"0755"), (c"size", c"4m")];
    let root =
        sys::new_mount(c"tmpfs", &options, sys::MOUNT_NOSUID | sys::MOUNT_NODEV).at(Step::Tmpfs, b"/")?;
    let mut mounts = Vec::new();
    for entry in system {
        match entry {
            Entry::Folder { path } => folders(&root, &path.0)?,
            Entry::Link { path, target } => {
                let target = sys::cstring(&target.0).at(Step::View, &target.0)?;
                sys::symlink_at(&target, &root, &relative(&path.0)?).at(Step::View, &path.0)?;
            }
            Entry::File { path, content } => {
                let file = sys::create_at(&root, &relative(&path.0)?, 0o444).at(Step::View, &path.0)?;
                sys::write(file, &content.0).at(Step::View, &path.0)?;
            }
            Entry::Host { path, folder } => {
                let mount = open_tree(&path.0)?;
                let attributes = sys::MOUNT_RDONLY | sys::MOUNT_NOSUID | sys::MOUNT_NODEV;
                sys::restrict_mount(&mount, attributes, true).at(Step::Attributes, &path.0)?;
                point(&root, &path.0, *folder)?;
                mounts.push((path, mount));
            }
            Entry::Device { path } => {
                let mount = open_tree(&path.0)?;
                sys::restrict_mount(&mount, sys::MOUNT_NOSUID | sys::MOUNT_NOEXEC, true)
                    .at(Step::Attributes, &path.0)?;
                point(&root, &path.0, false)?;
                mounts.push((path, mount));
            }
        }
    }
    folders(&root, b"/run")?;
    sys::create_at(&root, &relative(EMPTY_FILE.to_bytes())?, 0).at(Step::View, EMPTY_FILE.to_bytes())?;
    sys::attach(&root, STAGE).at(Step::Attach, b"/")?;
    for (path, mount) in mounts {
        sys::attach_at(mount, &root, &relative(&path.0)?).at(Step::Attach, &path.0)?;
    }
    sys::fchdir(&root).at(Step::Enter, b"/")?;
    sys::pivot_here().at(Step::Enter, b"/")?;
    Ok(root)
}

fn open_tree(path: &[u8]) -> Steps<OwnedFd> {
    let fd = sys::open_path(&sys::cstring(path).at(Step::Path, path)?).at(Step::Path, path)?;
    sys::clone_mount(fd).at(Step::Clone, path)
}

/// The path without its leading slash.
fn relative(path: &[u8]) -> Steps<CString> {
    sys::cstring(path.strip_prefix(b"/").unwrap_or(path)).at(Step::View, path)
}

/// Makes a folder and those above it.
fn folders(root: &OwnedFd, path: &[u8]) -> Steps<()> {
    let mut upto = Vec::new();
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        upto.push(b'/');
        upto.extend_from_slice(part);
        match sys::mkdir_at(root, &relative(&upto)?, 0o755) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failure(Step::View, &upto, errno)),
        }
    }
    Ok(())
}

/// An empty place to mount something at. That it is there already, or lies in something mounted, is fine.
fn point(root: &OwnedFd, path: &[u8], folder: bool) -> Steps<()> {
    if folder {
        return folders(root, path);
    }
    let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&path[..0], |at| &path[..at]);
    folders(root, parent)?;
    match sys::create_at(root, &relative(path)?, 0o444) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failure(Step::View, path, errno)),
    }
}

/// The mount for a place, made in the host's view; `None` for what comes from the common view. `passed` are those that
/// the engine made.
pub(crate) fn prepare(
    target: &Bytes,
    what: &What,
    passed: &mut impl Iterator<Item = OwnedFd>,
) -> Steps<Option<OwnedFd>> {
    let mount = match what {
        What::Passed => passed.next().ok_or_else(|| failure(Step::Message, &target.0, Errno::PROTO)),
        What::Path { source, device, inode, read_only } => {
            let path = sys::cstring(&source.0).at(Step::Path, &source.0)?;
            let fd = sys::open_path_strictly(&path).at(Step::Path, &source.0)?;
            let there = sys::file_info(&fd).at(Step::Path, &source.0)?;
            if (there.device, there.inode) != (*device, *inode) {
                return Err(failure(Step::Identity, &source.0, Errno::STALE));
            }
            let mount = sys::clone_mount(fd).at(Step::Clone, &source.0)?;
            let read_only = if *read_only { sys::MOUNT_RDONLY } else { 0 };
            sys::restrict_mount(&mount, read_only | sys::MOUNT_NOSUID | sys::MOUNT_NODEV, true)
                .at(Step::Attributes, &source.0)?;
            Ok(mount)
        }
        What::Tmpfs { size, inodes } => tmpfs(&target.0, *size, *inodes, c"1777", 0),
        What::EmptyFolder => tmpfs(&target.0, 4096, 1, c"0555", sys::MOUNT_RDONLY),
        What::EmptyFile => return Ok(None),
    };
    mount.map(Some)
}

/// A file system in memory.
pub(crate) fn tmpfs(target: &[u8], size: u64, inodes: u64, mode: &CStr, attributes: u64) -> Steps<OwnedFd> {
    let size = sys::cstring(size.to_string().as_bytes()).at(Step::Tmpfs, target)?;
    let inodes = sys::cstring(inodes.to_string().as_bytes()).at(Step::Tmpfs, target)?;
    let options = [(c"size", &*size), (c"nr_inodes", &*inodes), (c"mode", mode)];
    sys::new_mount(c"tmpfs", &options, sys::MOUNT_NOSUID | sys::MOUNT_NODEV | attributes)
        .at(Step::Tmpfs, target)
}

/// A new /proc of this process id namespace. Must be made where the host's can be seen, or the kernel refuses.
pub(crate) fn proc() -> sys::Result<OwnedFd> {
    let attributes = sys::MOUNT_NOSUID | sys::MOUNT_NODEV | sys::MOUNT_NOEXEC;
    sys::new_mount(c"proc", &[(c"hidepid", c"invisible")], attributes)
}

/// Makes the place of a mount where it may not be there: in what is new and empty, as `/tmp` is. Elsewhere the common view
/// or the host has it.
pub(crate) fn make_place(mount: &Mount) -> Steps<()> {
    let target = &mount.target.0;
    let path = sys::cstring(target).at(Step::Attach, target)?;
    if sys::open_path(&path).is_ok() {
        return Ok(());
    }
    let file = if mount.folder { None } else { Some(path) };
    let folder = match &file {
        None => &target[..],
        Some(_) => target.iter().rposition(|byte| *byte == b'/').map_or(&target[..0], |at| &target[..at]),
    };
    make_folders(folder).at(Step::Attach, target)?;
    file.map_or(Ok(()), |path| sys::create(&path, 0o666).map(drop)).at(Step::Attach, target)
}

/// Those of them that are not there.
fn make_folders(path: &[u8]) -> sys::Result<()> {
    let ends = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    for end in ends.chain([path.len()]).filter(|end| *end > 0) {
        match sys::mkdir(&sys::cstring(&path[..end])?, 0o777) {
            Ok(()) | Err(Errno::EXIST) => {}
            // It may be where nothing can be made, and be there.
            Err(errno) => drop(sys::open_path(&sys::cstring(&path[..end])?).map_err(|_| errno)?),
        }
    }
    Ok(())
}

/// An empty file that may not be read, in the common view.
const EMPTY_FILE: &CStr = c"/run/empty";

/// Attaches what was prepared.
pub(crate) fn attach(mount: Option<OwnedFd>, target: &Bytes) -> Steps<()> {
    let mount = match mount {
        Some(mount) => mount,
        None => {
            sys::open_path(EMPTY_FILE).and_then(sys::clone_mount).at(Step::Clone, EMPTY_FILE.to_bytes())?
        }
    };
    let path = sys::cstring(&target.0).at(Step::Attach, &target.0)?;
    sys::attach(mount, &path).at(Step::Attach, &target.0)
}
