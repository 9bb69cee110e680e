//! The script that a runtime starts, which loads the tool. It is carried inside the library and written to a folder
//! named by its content, so that versions do not get into each other's way and a second engine finds it there.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;

use crate::runtime::Runtime;

/// For bun, node and deno.
const JAVASCRIPT: Worker =
    Worker { files: &[("worker.mjs", include_str!("../workers/worker.mjs"))], compiles: false };

/// For python.
const PYTHON: Worker = Worker {
    files: &[
        ("start.py", include_str!("../workers/start.py")),
        ("worker.py", include_str!("../workers/worker.py")),
    ],
    compiles: true,
};

/// The folder below `parent` that is this user's, and that only they can write to; made if it is not there yet. One a
/// user, so that users of a shared /tmp do not trip over each other. Blocks.
///
/// # Errors
/// When it cannot be made, or somebody else could change it.
pub(crate) fn own_folder(parent: &Path) -> io::Result<PathBuf> {
    let ours = parent.join(format!("run-tool-workers-{}", geteuid()));
    make_private(&ours)?;
    Ok(ours)
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Worker {
    /// Names and contents. The first is what the runtime starts.
    files: &'static [(&'static str, &'static str)],
    /// Whether the last is [compiled](crate::compiled) once rather than at each start.
    compiles: bool,
}

/// Where a worker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed {
    /// What the runtime starts.
    pub(crate) start: PathBuf,
    /// What is compiled once rather than at each start.
    pub(crate) compiles: Option<PathBuf>,
}

impl Worker {
    /// The worker of a runtime, where it has one.
    pub(crate) fn of(runtime: Runtime) -> Option<Self> {
        match runtime {
            Runtime::Bun | Runtime::Node | Runtime::Deno => Some(JAVASCRIPT),
            Runtime::Python => Some(PYTHON),
            Runtime::Shell | Runtime::Command => None,
        }
    }

    /// Where it is, below our [own folder](own_folder); written if it is not there yet. Blocks.
    ///
    /// # Errors
    /// When it cannot be written, or somebody else could change it there.
    pub(crate) fn install(&self, own: &Path) -> io::Result<Installed> {
        let mut hasher = DefaultHasher::new();
        self.files.hash(&mut hasher);
        let folder = own.join(format!("{:016x}", hasher.finish()));
        make_private(&folder)?;
        for (name, content) in self.files {
            let path = folder.join(name);
            if fs::read(&path).is_ok_and(|there| there == content.as_bytes()) {
                continue;
            }
            // Renamed into place, so that nobody ever loads half of it.
            let mut file = tempfile::NamedTempFile::new_in(&folder)?;
            file.write_all(content.as_bytes())?;
            file.persist(&path).map_err(|error| error.error)?;
        }
        let path = |file: Option<&(&str, &str)>| file.map(|(name, _)| folder.join(name));
        let start = path(self.files.first()).unwrap_or_default();
        Ok(Installed { start, compiles: path(self.files.last().filter(|_| self.compiles)) })
    }
}

/// A folder that only we can write to. What is there already must be such a one.
fn make_private(folder: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let metadata = fs::symlink_metadata(folder)?;
    if metadata.is_dir() && metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{} is there, but it is not a folder that only we can write to", folder.display()),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn it_is_written_once_and_mended_when_it_was_changed() {
        let parent = tempfile::tempdir().unwrap();
        let own = own_folder(parent.path()).unwrap();
        let installed = JAVASCRIPT.install(&own).unwrap();
        let path = &installed.start;
        let written = path.metadata().unwrap().ino();
        assert_eq!(JAVASCRIPT.install(&own).unwrap(), installed);
        assert_eq!(path.metadata().unwrap().ino(), written);
        fs::write(path, "changed").unwrap();
        JAVASCRIPT.install(&own).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), JAVASCRIPT.files[0].1);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_folder_that_others_can_change_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let ours = parent.path().join(format!("run-tool-workers-{}", geteuid()));
        symlink("/tmp", &ours).unwrap();
        assert_eq!(own_folder(parent.path()).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        fs::remove_file(&ours).unwrap();
        fs::create_dir(&ours).unwrap();
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(own_folder(parent.path()).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o700)).unwrap();
        let own = own_folder(parent.path()).unwrap();
        let folder = JAVASCRIPT.install(&own).unwrap().start.parent().unwrap().to_owned();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).unwrap();
        assert_eq!(JAVASCRIPT.install(&own).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
