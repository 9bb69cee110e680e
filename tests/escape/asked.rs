//! Ways out that the call itself asks for, before a line of the tool has run.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

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
