//! What was shown to a call, for whoever asks afterwards why it did not find something.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode as Permissions, OFlags, ResolveFlags, openat2};

use super::{offer, system, view::View};

/// The places of a call's view, for after its end.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    places: Vec<PathBuf>,
}

/// File systems that answer by themselves. Others may wait for somebody: a network, a program.
const LOCAL: [&str; 17] = [
    "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "jfs", "overlay",
    "ramfs", "squashfs", "tmpfs", "vfat", "xfs", "zfs",
];

impl Shown {
    pub(super) fn of(view: &View) -> Self {
        // Those as well that were hidden or covered: what is missing there is so by the policy's will.
        Self { places: view.places.keys().cloned().collect() }
    }

    /// Whether this is there on the host, and the policy says nothing about it: neither that it is shown, nor that it is
    /// not. Does not wait for anybody: what is behind a link, or on no local disk, is not looked at.
    pub(super) fn lacks(&self, path: &Path) -> bool {
        !self.speaks_of(path) && is_there(path)
    }

    fn speaks_of(&self, path: &Path) -> bool {
        let ours = self.places.iter().any(|place| path.starts_with(place) || place.starts_with(path));
        ours || system::has(path)
    }
}

fn is_there(path: &Path) -> bool {
    // A link at its end is there as it is; one on the way might lead anywhere.
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    LOCAL.contains(&&*offer::file_system(path))
        && openat2(CWD, path, flags, Permissions::empty(), resolve).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_the_policy_says_nothing_about_is_lacking_if_it_is_there() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let root = folder.path().canonicalize().unwrap();
        for inner in ["shown", "other"] {
            fs::create_dir(root.join(inner)).unwrap();
            fs::write(root.join(inner).join("file"), "").unwrap();
        }
        std::os::unix::fs::symlink("other", root.join("link")).unwrap();
        let shown = Shown { places: vec![root.join("shown")] };
        for lacking in ["other", "other/file", "link"] {
            assert!(shown.lacks(&root.join(lacking)), "{lacking}");
        }
        for not in ["shown", "shown/file", "shown/gone", "other/gone", "link/file", ".", ""] {
            assert!(!shown.lacks(&root.join(not)), "{not}");
        }
        let parts = [
            "/",
            "/etc",
            "/etc/passwd",
            "/etc/resolv.conf",
            "/usr/bin/env",
            "/bin",
            "/proc/self",
            "/dev/null",
        ];
        for own in parts.into_iter().chain(["/dev", "/sys", "/run", "/tmp", "/var", "/var/tmp", "relative"]) {
            assert!(!shown.lacks(Path::new(own)), "{own}");
        }
    }
}
