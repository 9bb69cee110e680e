//! What lies around in the working folder, or is missing from the machine.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde_json::json;
use support::{failed, succeeded, with_engine};
use tool_engine::{Call, ErrorKind, LaunchStep};
use tool_runtimes::{Runtime, Tool, Tools};

use super::{fixtures, installed, with_tool};

#[test]
fn files_of_the_working_folder_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("bunfig.toml", "preload = [\"./preload.ts\"]\n[install]\nauto = \"force\"\n");
    write("preload.ts", "console.log('preloaded'); process.exit(9);");
    write(".env", "FROM_DOTENV=1\nRUN_TOOL_CHANNEL=/nonexistent\n");
    write(
        "tsconfig.json",
        r#"{ "compilerOptions": { "paths": { "*": ["./caught.ts"], "/tmp/*": ["./caught.ts"] } } }"#,
    );
    write("caught.ts", "console.log('caught'); process.exit(8);");
    write("package.json", "{ \"type\": \"commonjs\", not json");
    with_tool("default.mjs", |engine| async move {
        let call = Call::tool("default.mjs", json!({ "text": "a b c" })).workdir(folder.path());
        let report = succeeded(engine.start(call)).await;
        assert_eq!(report.value, Some(json!({ "words": 3 })));
        assert!(
            report.stdout.is_empty() && report.stderr.is_empty(),
            "{}{}",
            report.stdout.text(),
            report.stderr.text()
        );
    });
}

#[test]
fn the_worker_for_python_is_compiled_once_and_what_is_stale_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let compiled = || {
        let found = walk(folder.path());
        found.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "pyc")).collect()
    };
    let python = installed(".venv/bin/python3");
    let tools = Tools::builder()
        .worker_dir(folder.path())
        .runtime(Runtime::Python, python)
        .tool(Tool::script("t", Runtime::Python, fixtures().join("default.py")));
    let tools = tools.build().unwrap();
    with_engine(
        |engine| engine.catalog(tools),
        |engine| async move {
            let call = async || {
                let call = Call::tool("t", json!({ "text": "a b c" }));
                let report = succeeded(engine.start(call)).await;
                assert_eq!((report.value, report.stderr.text().as_ref()), (Some(json!({ "words": 3 })), ""));
            };
            call().await;
            let [file]: [PathBuf; 1] = Vec::try_into(compiled()).unwrap();
            let inode = file.metadata().unwrap().ino();
            call().await;
            assert_eq!(file.metadata().unwrap().ino(), inode, "it was made again");
            // As another version of Python would have left it; and one of another source.
            let good = fs::read(&file).unwrap();
            for place in [0, 8] {
                let mut stale = good.clone();
                stale[place] ^= 1;
                fs::write(&file, stale).unwrap();
                call().await;
            }
        },
    );
}

/// All files below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn a_bun_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let bun = folder.path().join("bun");
    fs::copy("/bin/true", &bun).unwrap();
    let tools = Tools::builder()
        .runtime(Runtime::Bun, &bun)
        .tool(Tool::script("t", Runtime::Bun, fixtures().join("default.mjs")))
        .build()
        .unwrap();
    with_engine(
        |engine| engine.catalog(tools),
        |engine| async move {
            fs::remove_file(&bun).unwrap();
            let (kind, _) = failed(engine.start(Call::tool("t", 1))).await;
            let ErrorKind::Spawn { step: LaunchStep::Lookup, subject, errno: 2, .. } = kind else {
                panic!("{kind}")
            };
            assert_eq!(Path::new(&subject), bun);
        },
    );
}

#[test]
fn a_program_that_is_no_worker_is_found_out() {
    let tools = Tools::builder().runtime(Runtime::Bun, "/bin/echo").tool(Tool::script(
        "t",
        Runtime::Bun,
        fixtures().join("default.mjs"),
    ));
    let tools = tools.build().unwrap();
    with_engine(
        |engine| engine.catalog(tools),
        |engine| async move {
            let (kind, report) = failed(engine.start(Call::tool("t", 1))).await;
            assert!(matches!(kind, ErrorKind::Protocol { .. }), "{kind}");
            assert!(report.stdout.text().contains("worker.mjs"), "what it said instead is there to be read");
        },
    );
}

#[test]
fn a_tool_file_that_is_not_there_is_named_and_nothing_is_started() {
    with_tool("no-such-file.ts", |engine| async move {
        let (kind, report) = failed(engine.start(Call::tool("no-such-file.ts", 1))).await;
        assert!(matches!(kind, ErrorKind::Invalid { .. }), "{kind}");
        assert!(kind.to_string().contains("no-such-file.ts") && report.enforced.is_none(), "{kind}");
    });
}

#[test]
fn a_command_gets_json_on_stdin_and_its_stdout_is_the_result() {
    let tools = Tools::builder()
        .tool(Tool::command("echo", ["cat"]))
        .tool(Tool::command("text", ["echo", "plain words"]))
        .tool(Tool::command("fails", ["sh", "-c", "echo why >&2; exit 4"]))
        .build()
        .unwrap();
    with_engine(
        |engine| engine.catalog(tools),
        |engine| async move {
            let input = json!({ "b": [1, 2.5, null], "a": "ä" });
            let report = succeeded(engine.start(Call::tool("echo", input.clone()))).await;
            assert_eq!(report.value, Some(input));
            let report = succeeded(engine.start(Call::tool("text", 1))).await;
            assert_eq!(report.value, Some(json!("plain words\n")));
            let (kind, report) = failed(engine.start(Call::tool("fails", 1))).await;
            assert!(matches!(kind, ErrorKind::Process { .. }) && report.stderr.text() == "why\n");
        },
    );
}
