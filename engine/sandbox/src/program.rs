//! Finding the program before anything is started, so that "not found" and "may not be executed" are told apart from
//! everything else that can fail, and so that `std` can use its fast `posix_spawn` path (it cannot when it has to search
//! a changed `PATH` itself).

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};
use rustix::io::Errno;

use crate::launch::{LaunchError, LaunchStep};

/// The absolute path of `program`, by the rules of execvp(3): a name without a slash is searched in the `PATH` of `env`.
pub(crate) fn find(
    program: &OsStr,
    env: &[(OsString, OsString)],
    workdir: Option<&Path>,
) -> Result<PathBuf, LaunchError> {
    let name = program.to_string_lossy();
    let fail = |errno: Errno| LaunchError::new(LaunchStep::Lookup, name.clone(), errno);
    if program.is_empty() {
        return Err(fail(Errno::NOENT).hint("the command is empty: name a program"));
    }
    if program.as_bytes().contains(&b'/') {
        let path = absolute(Path::new(program), workdir)
            .map_err(|e| LaunchError::new(LaunchStep::Lookup, name.clone(), e))?;
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(Errno::ACCESS) if path.is_dir() => Err(fail(Errno::ACCESS).hint("it is a folder")),
            Err(Errno::ACCESS) => Err(fail(Errno::ACCESS).hint("make it executable with `chmod +x`")),
            Err(errno) => Err(fail(errno)),
        };
    }
    let path_var = env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    let search = path_var.unwrap_or_default();
    let mut denied = None;
    for folder in search.as_bytes().split(|byte| *byte == b':') {
        // An empty element means the working folder to execvp(3); a tool must not be found by accident like that.
        if folder.is_empty() {
            continue;
        }
        let Ok(path) = absolute(&Path::new(OsStr::from_bytes(folder)).join(program), workdir) else {
            continue;
        };
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(Errno::ACCESS) if path.is_file() => denied = Some(path),
            Err(_) => {}
        }
    }
    match denied {
        Some(path) => Err(LaunchError::new(LaunchStep::Lookup, path.display().to_string(), Errno::ACCESS)
            .hint("make it executable with `chmod +x`")),
        None => Err(fail(Errno::NOENT).hint(format!(
            "not in the call's PATH ({}); give an absolute path, or pass a PATH that has it",
            if search.is_empty() { "which is empty".into() } else { search.to_string_lossy() }
        ))),
    }
}

/// Why a program that was found was not executed (execve(2)).
pub(crate) fn not_executed(path: &Path, error: io::Error) -> LaunchError {
    let hint = match Errno::from_io_error(&error) {
        Some(Errno::NOENT) if !path.exists() => "the file, or a folder on the way to it, vanished just now",
        Some(Errno::NOENT) => {
            "the file is there; the interpreter that it names (`#!` line or ELF loader) is not, unless file or working \
             folder were away for a moment"
        }
        Some(Errno::NOEXEC) => "not a program for this machine; a script needs a `#!` line",
        Some(Errno::TXTBSY) => {
            "the file, or the loader that it names, is open for writing; try again when it has been written"
        }
        Some(Errno::TOOBIG) => {
            "arguments and environment are too large together; hand large input over on stdin"
        }
        _ => "",
    };
    let error = LaunchError::new(LaunchStep::Exec, path.display().to_string(), error);
    if hint.is_empty() { error } else { error.hint(hint) }
}

fn absolute(path: &Path, workdir: Option<&Path>) -> io::Result<PathBuf> {
    match workdir {
        _ if path.is_absolute() => Ok(path.to_owned()),
        Some(folder) => std::path::absolute(folder.join(path)),
        None => std::path::absolute(path),
    }
}

fn executable(path: &Path) -> Result<(), Errno> {
    let metadata = path.metadata().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    // root passes access(2) for X_OK as soon as one execute bit is set, and exec asks for the same.
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(Errno::ACCESS);
    }
    access(path, AccessFlags::X_OK).map_err(|e| Errno::from_raw_os_error(e as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(path: &str) -> Vec<(OsString, OsString)> {
        vec![("PATH".into(), path.into())]
    }

    fn failure(program: &str, path: &str) -> (Option<i32>, String) {
        let error = find(OsStr::new(program), &env(path), None).unwrap_err();
        (error.source.raw_os_error(), error.hint.unwrap_or_default())
    }

    #[test]
    fn a_bare_name_is_searched_in_the_calls_own_path() {
        assert_eq!(find(OsStr::new("sh"), &env("/nonexistent:/bin"), None).unwrap(), Path::new("/bin/sh"));
        let (errno, hint) = failure("sh", "/nonexistent");
        assert_eq!(errno, Some(libc::ENOENT));
        assert!(hint.contains("/nonexistent"), "{hint}");
        assert_eq!(failure("sh", "").0, Some(libc::ENOENT));
    }

    #[test]
    fn a_relative_path_is_relative_to_the_working_folder() {
        let found = find(OsStr::new("./sh"), &env(""), Some(Path::new("/bin"))).unwrap();
        assert_eq!(found.canonicalize().unwrap(), Path::new("/bin/sh").canonicalize().unwrap());
    }

    #[test]
    fn what_may_not_be_executed_is_not_called_missing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plain");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        assert_eq!(failure(file.to_str().unwrap(), "").0, Some(libc::EACCES));
        assert_eq!(failure("plain", folder.path().to_str().unwrap()).0, Some(libc::EACCES));
        assert_eq!(failure("/bin/", "").0, Some(libc::EACCES));
        assert_eq!(failure("", "/bin").0, Some(libc::ENOENT));
    }
}
