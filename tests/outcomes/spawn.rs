//! `Spawn`: the step that failed, what it failed on, and the kernel's word for it.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::errno::Errno;
use support::{failed, with_engine};
use tempfile::TempDir;
use tool_engine::{Call, ErrorKind, LaunchStep};

use crate::{plain, sh};

fn file(folder: &TempDir, name: &str, content: &str, mode: u32) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).expect("a file can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is our own file");
    path
}

/// Asserts that the call cannot be started, for this reason and in these words; `{}` in them stands for `path`.
fn fails(call: Call, step: LaunchStep, errno: Errno, path: &Path, words: &str) {
    with_engine(plain, |engine| async move {
        let (kind, report) = failed(engine.start(call)).await;
        let ErrorKind::Spawn { step: found, errno: number, .. } = kind else { panic!("{kind:?}") };
        assert_eq!((found, Errno::from_raw(number)), (step, errno), "{kind}");
        assert_eq!(kind.to_string(), words.replace("{}", &path.to_string_lossy()));
        assert!(!kind.is_retryable());
        assert_eq!((report.exit, report.enforced), (None, None));
    });
}

#[test]
fn a_name_that_is_not_in_the_path() {
    fails(
        Call::command(["no-such-program"]).env("PATH", "/usr/bin:/bin"),
        LaunchStep::Lookup,
        Errno::ENOENT,
        Path::new(""),
        "could not be started: looking up the program \"no-such-program\" failed: No such file or directory (os error \
         2); not in the call's PATH (/usr/bin:/bin); give an absolute path, or pass a PATH that has it",
    );
}

#[test]
fn a_path_that_is_not_there() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gone");
    fails(
        Call::command([&path]),
        LaunchStep::Lookup,
        Errno::ENOENT,
        &path,
        "could not be started: looking up the program \"{}\" failed: No such file or directory (os error 2)",
    );
}

#[test]
fn a_file_that_is_not_executable() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "plain", "#!/bin/sh\n", 0o644);
    fails(
        Call::command([&path]),
        LaunchStep::Lookup,
        Errno::EACCES,
        &path,
        "could not be started: looking up the program \"{}\" failed: Permission denied (os error 13); make it \
         executable with `chmod +x`",
    );
    fails(
        Call::command([folder.path()]),
        LaunchStep::Lookup,
        Errno::EACCES,
        folder.path(),
        "could not be started: looking up the program \"{}\" failed: Permission denied (os error 13); it is a folder",
    );
}

#[test]
fn an_empty_command() {
    for call in [Call::command([""]), Call::command(Vec::<String>::new())] {
        fails(
            call,
            LaunchStep::Lookup,
            Errno::ENOENT,
            Path::new(""),
            "could not be started: looking up the program \"\" failed: No such file or directory (os error 2); the \
             command is empty: name a program",
        );
    }
}

#[test]
fn a_file_that_is_no_program() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "text", "neither ELF nor script\n", 0o755);
    fails(
        Call::command([&path]),
        LaunchStep::Exec,
        Errno::ENOEXEC,
        &path,
        "could not be started: executing the program \"{}\" failed: Exec format error (os error 8); not a program for \
         this machine; a script needs a `#!` line",
    );
}

#[test]
fn a_script_whose_interpreter_is_missing() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "script", "#!/no/such/interpreter\n", 0o755);
    fails(
        Call::command([&path]),
        LaunchStep::Exec,
        Errno::ENOENT,
        &path,
        "could not be started: executing the program \"{}\" failed: No such file or directory (os error 2); the file \
         is there; the interpreter that it names (`#!` line or ELF loader) is not, unless file or working folder were \
         away for a moment",
    );
}

#[test]
fn a_program_that_is_being_written() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("busy");
    fs::copy("/bin/true", &path).unwrap();
    let writer = OpenOptions::new().append(true).open(&path).unwrap();
    fails(
        Call::command([&path]),
        LaunchStep::Exec,
        Errno::ETXTBSY,
        &path,
        "could not be started: executing the program \"{}\" failed: Text file busy (os error 26); the file, or the \
         loader that it names, is open for writing; try again when it has been written",
    );
    drop(writer);
}

#[test]
fn a_working_folder_that_is_missing_or_none() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gone");
    fails(
        sh("true").workdir(&path),
        LaunchStep::Workdir,
        Errno::ENOENT,
        &path,
        "could not be started: entering the working folder \"{}\" failed: No such file or directory (os error 2)",
    );
    let path = file(&folder, "file", "", 0o755);
    fails(
        sh("true").workdir(&path),
        LaunchStep::Workdir,
        Errno::ENOTDIR,
        &path,
        "could not be started: entering the working folder \"{}\" failed: Not a directory (os error 20)",
    );
}

#[test]
fn more_arguments_than_the_kernel_takes() {
    // One word may have 32 pages (execve(2)).
    let long = "x".repeat(200 << 10);
    fails(
        Call::command(["/bin/true", &long]),
        LaunchStep::Exec,
        Errno::E2BIG,
        Path::new("/bin/true"),
        "could not be started: executing the program \"{}\" failed: Argument list too long (os error 7); arguments and \
         environment are too large together; hand large input over on stdin",
    );
}
