//! The mounts of a call: what it is shown, in the form that the zygote gets it; made here where only root can make them.

use std::{
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    sync::Arc,
};

use rustix::io::Errno;
use tool_zygote::protocol::{Bytes, Mount, What};

use super::{
    Inner, MOST_ID_MAPS, TMP, bytes, kernel, offer, system,
    view::{Mode, Place},
    zygote::Zygote,
};
use crate::{
    launch::{LaunchError, LaunchStep},
    policy::ResourceLimits,
};

/// Mounts, in the form that the zygote gets them, and the descriptors that go with them.
#[derive(Default)]
pub(super) struct Mounts {
    pub(super) mounts: Vec<Mount>,
    pub(super) passed: Vec<OwnedFd>,
    pub(super) points: Vec<(Bytes, bool)>,
}

impl Inner {
    pub(super) fn mount(
        &self,
        mounts: &mut Mounts,
        zygote: &Zygote,
        user: Option<(u32, u32)>,
        target: &Path,
        place: &Place,
        resources: &ResourceLimits,
    ) -> Result<(), LaunchError> {
        let read_only = place.mode == Mode::ReadOnly;
        let what = match place.mode {
            Mode::Tmpfs(size) => What::Tmpfs {
                size: size.or(resources.tmp_size).unwrap_or(TMP.0),
                inodes: resources.tmp_files.unwrap_or(TMP.1),
            },
            Mode::Hidden if place.folder => What::EmptyFolder,
            Mode::Hidden => What::EmptyFile,
            Mode::ReadOnly | Mode::ReadWrite => match user {
                Some(user) => {
                    mounts.passed.push(self.make_mount(zygote, user, place)?);
                    What::Passed
                }
                None => What::Path {
                    source: bytes(&place.source),
                    device: place.identity.0,
                    inode: place.identity.1,
                    read_only,
                },
            },
        };
        mounts.add(target, place.folder, what);
        Ok(())
    }

    /// Makes a mount that only root can make: one on which the owner's files are the tool's.
    pub(super) fn make_mount(
        &self,
        zygote: &Zygote,
        user: (u32, u32),
        place: &Place,
    ) -> Result<OwnedFd, LaunchError> {
        let failed = |error: io::Error| {
            LaunchError::new(LaunchStep::Policy, place.source.display().to_string(), error)
        };
        let fd = kernel::open_strictly(&place.source).map_err(|errno| failed(errno.into()))?;
        let now = rustix::fs::fstat(&fd).map_err(|errno| failed(errno.into()))?;
        if (now.st_dev, now.st_ino) != place.identity {
            return Err(failed(Errno::STALE.into()).hint("something else was put there just now; call again"));
        }
        let clone = || kernel::clone_mount(&fd).map_err(failed);
        let tree = clone()?;
        let attributes =
            kernel::NOSUID | kernel::NODEV | if place.mode == Mode::ReadOnly { kernel::RDONLY } else { 0 };
        if place.owner == user {
            kernel::restrict_mount(&tree, attributes, None).map_err(failed)?;
            return Ok(tree);
        }
        let map = self.id_map(zygote, place.owner, user)?;
        match kernel::restrict_mount(&tree, attributes, Some(&map)) {
            Ok(()) => Ok(tree),
            // This file system cannot map users. Then it is shown as it is: what everybody may read can be read.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && place.mode == Mode::ReadOnly => {
                let tree = clone()?;
                kernel::restrict_mount(&tree, attributes, None).map_err(failed)?;
                Ok(tree)
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(failed(error).hint(format!(
                "its file system ({}) cannot show files as another user's, so a tool could not write there; put the folder \
                 on ext4, xfs, btrfs or tmpfs (in a container: on a volume), or run as the folder's owner instead of root",
                offer::file_system(&place.source)
            ))),
            Err(error) => Err(failed(error)),
        }
    }

    fn id_map(
        &self,
        zygote: &Zygote,
        owner: (u32, u32),
        user: (u32, u32),
    ) -> Result<Arc<OwnedFd>, LaunchError> {
        let key = (owner, user.0);
        if let Some(map) = self.state().id_maps.get(&key) {
            return Ok(Arc::clone(map));
        }
        let map = zygote
            .id_map(owner)
            .map_err(|failure| offer::launch_error(&failure, Path::new("a map of users")))?;
        let map = Arc::new(map);
        let maps = &mut self.state().id_maps;
        if maps.len() >= MOST_ID_MAPS {
            maps.clear();
        }
        maps.insert(key, Arc::clone(&map));
        Ok(map)
    }

    /// The folder that only this call uses is given to the tool's user, and shown at its own place.
    pub(super) fn mount_private(
        &self,
        mounts: &mut Mounts,
        user: Option<(u32, u32)>,
        folder: &Path,
    ) -> Result<(), LaunchError> {
        let failed =
            |error: io::Error| LaunchError::new(LaunchStep::Channel, folder.display().to_string(), error);
        // The engine's temporary folder may be reached through a link.
        let source = folder.canonicalize().map_err(failed)?;
        let what = match user {
            Some((uid, gid)) => {
                let fd = kernel::open_strictly(&source).map_err(|errno| failed(errno.into()))?;
                for entry in std::fs::read_dir(&source).map_err(failed)? {
                    std::os::unix::fs::lchown(entry.map_err(failed)?.path(), Some(uid), Some(gid))
                        .map_err(failed)?;
                }
                std::os::unix::fs::chown(&source, Some(uid), Some(gid)).map_err(failed)?;
                let tree = kernel::clone_mount(&fd).map_err(failed)?;
                kernel::restrict_mount(&tree, kernel::NOSUID | kernel::NODEV, None).map_err(failed)?;
                mounts.passed.push(tree);
                What::Passed
            }
            None => {
                let found = std::fs::metadata(&source).map_err(failed)?;
                use std::os::unix::fs::MetadataExt;
                What::Path {
                    source: bytes(&source),
                    device: found.dev(),
                    inode: found.ino(),
                    read_only: false,
                }
            }
        };
        // Its place is in the common view.
        mounts.mounts.push(Mount { target: bytes(system::PRIVATE), folder: true, what });
        Ok(())
    }
}

impl Mounts {
    fn add(&mut self, target: &Path, folder: bool, what: What) {
        let target = &system::place(target);
        let inside_another = self
            .mounts
            .iter()
            .any(|outer| target.starts_with(Path::new(std::ffi::OsStr::from_bytes(&outer.target.0))));
        let in_common_view = system::shows(target) || target == Path::new("/etc/resolv.conf");
        let in_tmp = ["/tmp", "/dev/shm"].iter().any(|tmp| target.starts_with(tmp));
        if !(inside_another || in_common_view || in_tmp) {
            self.points.push((bytes(target), folder));
        }
        self.mounts.push(Mount { target: bytes(target), folder, what });
    }
}
