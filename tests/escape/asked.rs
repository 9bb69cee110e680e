//! Ways out that the call itself asks for, before a line of the tool has run.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use support::{ended, skip};
use tempfile::TempDir;
use tool_engine::Engine;

use super::{
    header::Header,
    judge::left,
    programs::in_scene,
    rig::{contained_as, engine},
    scene::Scene,
};

/// Fails where nothing can be started at all: there, a refusal would show nothing.
async fn works(engine: &Engine, scene: &Scene) {
    let call = contained_as(&header(), scene, Path::new("/bin/true"), &scene.workdir());
    engine.start(call).await.expect("what asks for nothing special runs");
}

fn header() -> Header {
    let text = "# must end in: ok\n# policy: rw=workdir\n# shown by: hand: see below\n# Asks for it.\n";
    Header::parse(text).expect("it is a header")
}

/// A working folder that names what the launcher holds (CVE-2024-21626: `/proc/self/fd/7`) is the tool's own at most:
/// the call is refused, or runs in a folder that it is shown.
#[test]
fn a_working_folder_in_proc_leads_nowhere() {
    in_scene(engine, |scene, engine| async move {
        works(&engine, &scene).await;
        let fds = (3..40).map(|fd| format!("/proc/self/fd/{fd}"));
        let others =
            ["/proc/self/root", "/proc/self/cwd", "/proc/1/root", "/proc/1/cwd", "/proc/thread-self/root"];
        for folder in fds.chain(others.map(Into::into)) {
            let call = contained_as(&header(), &scene, Path::new("/bin/pwd"), Path::new(&folder));
            if let Ok(report) = engine.start(call).await {
                let said = report.stdout.text();
                let inside = Path::new(said.trim_end()).starts_with(scene.workdir()) || said == "/\n";
                assert!(inside && !said.contains("unreachable"), "{folder}: {said}");
            }
        }
        engine.shutdown(Duration::from_secs(5)).await;
        assert!(left(&scene).await.is_empty() && scene.reached().is_empty());
    });
}

/// A script whose interpreter is `/proc/self/exe` (CVE-2019-5736) names whatever is about to execute it, which comes
/// from outside: it must not run as the tool, still less be left where the tool could write to it.
#[test]
fn a_program_that_names_who_executes_it_does_not_run() {
    in_scene(engine, |scene, engine| async move {
        works(&engine, &scene).await;
        let script = scene.workdir().join("script");
        fs::write(&script, "#!/proc/self/exe\n").expect("a file can be written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let end = engine.start(contained_as(&header(), &scene, &script, &scene.workdir())).await;
        let error = end.expect_err("there is nobody it could name");
        assert!(error.report().stdout.is_empty(), "{:?}", error.report());
        engine.shutdown(Duration::from_secs(5)).await;
        assert!(left(&scene).await.is_empty() && scene.reached().is_empty());
    });
}

/// A program of the test's own.
fn program(path: PathBuf, content: &[u8]) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder can be made");
    fs::write(&path, content).expect("a file can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

/// What a script says that one call writes into the working folder, and another runs.
async fn said_by_what_is_left(engine: &Engine, scene: &Scene, script: &str) -> String {
    let writer = format!("#!/bin/sh\ncat >run <<'END'\n{script}\nEND\nchmod 755 run\n");
    let writer = program(scene.workdir().join("writer"), writer.as_bytes());
    let call = |program: &Path| contained_as(&header(), scene, program, &scene.workdir());
    ended(engine.start(call(&writer))).await.expect("it may write there");
    let end = ended(engine.start(call(&scene.workdir().join("run")))).await;
    end.as_ref().unwrap_or_else(|error| error.report()).stdout.text()
}

/// A folder of the caller's that no call is shown.
fn elsewhere() -> TempDir {
    let folder = TempDir::with_prefix_in("run-tool-escape-", "/var/tmp").expect("a folder can be made");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    folder
}

/// A program is shown with what it is installed with, and with what it names in its first line. Not so when a tool may have
/// written that: it would choose what the next call sees.
#[test]
fn a_first_line_that_a_tool_wrote_shows_nothing_of_the_callers() {
    in_scene(engine, |scene, engine| async move {
        let project = elsewhere();
        let cat = fs::read("/bin/cat").expect("there is one");
        let cat = program(project.path().join("bin/cat"), &cat);
        let secret = project.path().join("secret");
        fs::write(&secret, "ESCAPED").expect("a file can be written");
        let script = format!("#!{} {}", cat.display(), secret.display());
        assert_eq!(said_by_what_is_left(&engine, &scene, &script).await, "");
        // The same by one that everybody has.
        let script = "#!/bin/cat /etc/hostname";
        assert_eq!(said_by_what_is_left(&engine, &scene, script).await, format!("sandbox\n{script}\n"));
        engine.shutdown(Duration::from_secs(5)).await;
        assert!(left(&scene).await.is_empty());
    });
}

/// And yet a virtual environment in the working folder finds the Python of a version manager.
#[test]
fn a_runtime_is_found_by_a_link_that_a_tool_wrote() {
    let python = fs::canonicalize("/usr/bin/python3").expect("the suite has one");
    let name = python.file_name().expect("a file has a name").to_owned();
    let library = Path::new("/usr/lib").join(&name);
    if !library.join("os.py").exists() {
        return skip(&format!("the library of {} is not in {}", python.display(), library.display()));
    }
    in_scene(engine, |scene, engine| async move {
        let manager = elsewhere();
        let version = manager.path().join("versions/3");
        let python = program(version.join("bin").join(&name), &fs::read(python).expect("it can be read"));
        fs::create_dir(version.join("lib")).expect("a folder can be made");
        symlink(library, version.join("lib").join(&name)).expect("a link can be made");
        fs::write(manager.path().join("versions/secret"), "").expect("a file can be written");
        let environment = scene.workdir().join(".venv/bin");
        fs::create_dir_all(&environment).expect("a folder can be made");
        symlink(python, environment.join("python")).expect("a link can be made");
        let script = format!(
            "#!{}/python -S\nimport os, sys\nprint(sys.prefix, os.listdir(sys.prefix + '/..'))",
            environment.display()
        );
        let said = said_by_what_is_left(&engine, &scene, &script).await;
        assert_eq!(said, format!("{} ['3']\n", version.display()));
        engine.shutdown(Duration::from_secs(5)).await;
        assert!(left(&scene).await.is_empty());
    });
}
