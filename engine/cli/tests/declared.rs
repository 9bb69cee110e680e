//! What a person at a terminal can rely on with a manifest: a new tool runs at once, mistakes are named with their place and
//! what to do, and the tools of the fixtures do what they say.
#![expect(clippy::disallowed_methods, reason = "starts the binary under test as a shell would")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use serde_json::{Value, json};
use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures");

/// Exit code, standard output, standard error of the binary in this folder.
fn told(folder: &Path, args: &[&str]) -> (i32, String, String) {
    told_with(&format!("{FIXTURES}/node_modules/.bin:{FIXTURES}/.venv/bin:/usr/bin:/bin"), folder, args)
}

/// The same where only what this `PATH` leads to is installed.
fn told_with(path: &str, folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_run-tool"));
    let output = command.args(args).current_dir(folder).env_clear().env("PATH", path).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// A folder with a manifest.
fn with_manifest(text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tools.toml"), text).unwrap();
    folder
}

#[test]
fn a_new_tool_runs_at_once_in_every_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let told = |args: &[&str]| told(folder.path(), args);
    for runtime in ["bun", "node", "deno", "python", "shell"] {
        let name = format!("hello-{runtime}");
        let (code, out, err) = told(&["new", &name, "--runtime", runtime]);
        assert!(code == 0 && out.contains(&format!("run-tool run {name} --input name=World")), "{out} {err}");
        let (code, out, err) = told(&["run", &name, "--input", "name=World"]);
        assert_eq!((code, out.as_str()), (0, "{\"greeting\":\"Hello, World!\"}\n"), "{runtime}: {err}");
        let (code, _, err) = told(&["run", &name, "--input", "nme=World"]);
        assert!(code == 2 && err.contains("nme: is an unknown field; known are: name"), "{runtime}: {err}");
        let (_, out, _) = told(&["describe", &name]);
        assert!(out.ends_with("--input '{\"name\":\"…\"}'\n"), "{runtime}: {out}");
    }
    let (code, out, _) = told(&["check"]);
    assert_eq!((code, out.as_str()), (0, "tools.toml: ok, 5 tools\n"));
    let (_, out, _) = told(&["list"]);
    assert_eq!(out.lines().count(), 5, "{out}");
    let (code, _, err) = told(&["new", "hello-bun", "--runtime", "bun"]);
    assert!(code == 2 && err.contains("\"hello-bun\" already; choose another name"), "{err}");
    let before = fs::read_to_string(folder.path().join("tools.toml")).unwrap();
    let (code, _, err) = told(&["new", "-", "--runtime", "shell"]);
    assert!(code == 2 && !folder.path().join("-.sh").exists(), "{err}");
    assert_eq!(fs::read_to_string(folder.path().join("tools.toml")).unwrap(), before);
}

#[test]
fn a_new_tool_is_made_as_a_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    // What is written fails: no file may grow, and the signal that says so is ignored.
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" new hello --runtime shell";
    let mut command = Command::new("sh");
    let output =
        command.args(["-c", script, env!("CARGO_BIN_EXE_run-tool")]).current_dir(&folder).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && err.contains("hello.sh"), "{err}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "something is left");
}

#[test]
fn a_new_tool_that_cannot_be_made_says_what_is_in_its_way() {
    let folder = with_manifest("version = 1\n[tools.a_b]\ncommand = [\"true\"]\n");
    let manifest = folder.path().join("tools.toml");
    let refused = |name: &str, expected: &str| {
        let (code, _, err) = told(folder.path(), &["new", name, "--runtime", "python"]);
        assert!(code == 2 && err.contains(expected), "{name}: {err}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{name}: nothing is left of it");
    };
    fs::write(folder.path().join("b.py"), "").unwrap();
    let (code, _, err) = told(folder.path(), &["new", "b", "--runtime", "python"]);
    assert!(code == 2 && err.contains("there is a file b.py already; choose another name"), "{err}");
    fs::remove_file(folder.path().join("b.py")).unwrap();
    refused("a_b", "tools.toml has a tool \"a_b\" already; choose another name, or remove it there");
    refused("a.b", "tools.toml has a tool \"a_b\" already, and `.` is shown as `_`; choose another name");
    for name in ["a b", "..", "ä", &"a".repeat(65)] {
        refused(name, "cannot be a tool's name");
    }
    fs::write(&manifest, "version = 1\ntools = { b = { command = [\"true\"] } }\n").unwrap();
    refused("c", "cannot be added at the end of tools.toml; write its tools as [tools.NAME]");
    fs::write(&manifest, "version = 1\n[tools.b\n").unwrap();
    refused("c", "tools.toml:2:9: unclosed table");
    fs::write(&manifest, b"\xff").unwrap();
    refused("c", "tools.toml:1:1: is not UTF-8 here; save it as UTF-8");
    fs::remove_file(&manifest).unwrap();
    mkfifo(&manifest, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    refused("c", "tools.toml: cannot be read: it is not a file");
}

#[test]
fn a_temporary_folder_that_is_not_there_is_named_once_with_what_to_do() {
    let folder = with_manifest("version = 1\n[tools.a]\nentry = \"a.py\"\n");
    fs::write(folder.path().join("a.py"), "def run(): return 1\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_run-tool"));
    let output = command.args(["run", "a"]).current_dir(&folder).env("TMPDIR", "/gone").output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("below \"/gone\": No such file") && err.ends_with("is TMPDIR\n"), "{err}");
}

#[test]
fn what_a_manifest_says_does_nothing_to_a_terminal() {
    let text = "version = 1\n[tools.a]\ncommand = [\"true\"]\ndescription = \"\\u001b[2Jone\\n  two\"\n";
    let folder = with_manifest(text);
    let (_, out, _) = told(folder.path(), &["list"]);
    assert_eq!(out, "a  command  \u{fffd}[2Jone two\n");
    let (_, out, _) = told(folder.path(), &["describe", "a"]);
    assert!(out.contains("description: \u{fffd}[2Jone\n  two\n"), "{out}");
    let (_, out, _) = told(folder.path(), &["list", "--json"]);
    assert!(out.contains("\\u001b[2Jone\\n  two"), "{out}");
}

#[test]
fn output_that_is_closed_or_full_is_told_by_the_exit_code() {
    let folder = with_manifest("version = 1\n[tools.a]\ncommand = [\"true\"]\n");
    let commands: [&[&str]; 8] = [
        &["list"],
        &["list", "--json"],
        &["describe", "a"],
        &["check"],
        &["schema"],
        &["completions", "bash"],
        &["--help"],
        &["run", "--help"],
    ];
    for args in commands {
        let ended = |out: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_run-tool"));
            let output = command.args(args).current_dir(folder.path()).stdout(out).output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let (reader, closed) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(ended(closed.into()), (Some(141), String::new()), "{args:?}");
        let (code, err) = ended(fs::File::create("/dev/full").unwrap().into());
        assert!(code == Some(74) && err.contains("cannot write what there is to say: "), "{args:?}: {err}");
    }
}

#[test]
fn an_input_that_cannot_be_read_says_what_to_write_instead() {
    let folder = with_manifest("version = 1\n[tools.a]\ncommand = [\"cat\"]\n");
    let run = |input: &str| told(folder.path(), &["run", "a", "--input", input]);
    let nested = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for (input, expected) in [
        ("1a=2", "\"1a\" is none; write JSON for such a field"),
        ("", "the argument is empty; write null"),
        ("@", "no file is named after the `@`"),
        ("@gone.json", "cannot read gone.json; check the path"),
        (nested.as_str(), "nest it less deep"),
        (r#"{"a":1,"a":2}"#, "\"a\" is given twice at line 1 column 10; give it once"),
        (r#"a={"b":1,"b":2}"#, "the field \"a\": \"b\" is given twice at line 1 column 10; give it once"),
        ("1e999", "write a smaller number"),
    ] {
        let (code, _, err) = run(input);
        assert!(code == 2 && err.contains(expected), "{input}: {err}");
    }
    fs::write(folder.path().join("marked.json"), "\u{feff}{\"a\":1}").unwrap();
    let (code, out, err) = run("@marked.json");
    assert_eq!((code, out.as_str()), (0, "{\"a\":1}\n"), "{err}");
}

#[test]
fn a_manifest_that_is_a_link_stays_one() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), with_manifest("version = 1\n# mine\n"));
    let (link, target) = (folder.path().join("tools.toml"), elsewhere.path().join("tools.toml"));
    symlink(&target, &link).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
    let told = |args: &[&str]| told(folder.path(), args);
    let (code, _, err) = told(&["new", "hello", "--runtime", "shell"]);
    assert_eq!(code, 0, "{err}");
    assert!(link.is_symlink(), "the link was replaced");
    let text = fs::read_to_string(&target).unwrap();
    assert!(text.contains("# mine") && text.contains("[tools.\"hello\"]"), "{text}");
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1, "something is left");
    fs::remove_file(&target).unwrap();
    let (code, _, err) = told(&["new", "other", "--runtime", "shell"]);
    assert!(code == 2 && err.contains("a link to a file that is not there"), "{err}");
    assert!(link.is_symlink() && !folder.path().join("other.sh").exists());
}

#[test]
fn a_tool_that_is_broken_in_any_way_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let told = |args: &[&str]| told(folder.path(), args);
    assert_eq!(told(&["new", "hello", "--runtime", "python"]).0, 0);
    let file = folder.path().join("hello.py");
    let (good, manifest) =
        (fs::read_to_string(&file).unwrap(), fs::read_to_string(folder.path().join("tools.toml")).unwrap());
    let run = ["run", "hello", "--input", "name=World"];
    for (code, changed, words) in [
        (1, good.replace("def run", "def run("), "hello.py"),
        (
            1,
            good.replace("return {\"greeting\": f\"Hello, {input['name']}!\"}", "return {1}"),
            "cannot be handed over",
        ),
        (1, good.replace("\"type\": \"object\"", "\"type\": \"objet\""), "schema"),
        (1, good.replace("def run", "def _run"), "it exports"),
        (1, good.replace("INPUT_SCHEMA = {", "INPUT_SCHEMA = 3\nX = {"), "INPUT_SCHEMA"),
        (1, good.replace("return", "raise ValueError(\'no\')\n    return"), "ValueError: no"),
    ] {
        assert_ne!(changed, good, "{words}");
        fs::write(&file, &changed).unwrap();
        let (found, _, err) = told(&run);
        assert!(found >= code && err.contains(words), "{words}: {found} {err}");
    }
    fs::write(&file, &good).unwrap();
    for (changed, words) in [
        (manifest.replace("entry = \"hello.py\"", "entry = \"helo.py\""), "tools.toml:6:"),
        (manifest.replace("runtime = \"python\"", "runtime = \"pyton\""), "python"),
        (format!("{manifest}timeout = \"30\"\n"), "tools.toml:7:"),
        (format!("{manifest}timout = \"30s\"\n"), "timeout"),
        (manifest.replace("version = 1", "version = 2"), "tools.toml:1:"),
    ] {
        assert_ne!(changed, manifest, "{words}");
        fs::write(folder.path().join("tools.toml"), changed).unwrap();
        let (code, _, err) = told(&["check"]);
        assert!(code == 2 && err.contains(words) && err.contains('^'), "{words}: {err}");
        assert_eq!(told(&run).0, 2);
    }
}

#[test]
fn a_runtime_that_is_missing_is_missed_by_its_own_tools_only() {
    let folder = with_manifest(
        "version = 1\n[tools.here]\ncommand = [\"/bin/echo\", \"1\"]\n[tools.there]\nentry = \"a.py\"\n\
         [tools.nowhere]\nentry = \"a.mjs\"\nruntime = \"deno\"\n[runtimes.deno]\npath = \"gone/deno\"\n",
    );
    for file in ["a.py", "a.mjs"] {
        fs::write(folder.path().join(file), "").unwrap();
    }
    let nothing = folder.path().to_str().unwrap();
    let told = |args: &[&str]| told_with(nothing, folder.path(), args);
    let (code, out, err) = told(&["run", "here"]);
    assert_eq!((code, out.as_str()), (0, "1\n"), "{err}");
    let (code, out, err) = told(&["list"]);
    assert_eq!((code, out.lines().count()), (0, 3), "{err}");
    let (code, _, err) = told(&["run", "there"]);
    assert!(code == 2 && err.contains("it runs in Python") && err.contains("apt-get install"), "{err}");
    let (code, out, err) = told(&["check"]);
    assert_eq!((code, out.as_str()), (0, "tools.toml: ok, 3 tools\n"), "{err}");
    let lines: Vec<_> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(lines[0].contains("\"nowhere\"") && lines[0].contains("gone/deno"), "{err}");
    assert!(lines[1].contains("\"there\"") && lines[1].contains("Python"), "{err}");
}

#[test]
fn a_tool_that_is_asked_what_it_is_does_not_outlive_a_sigterm() {
    // Without a sandbox, in which a process does not know what it is called outside.
    let folder = with_manifest("version = 1\n[tools.slow]\nentry = \"slow.py\"\npolicy.level = \"none\"\n");
    let pipe = folder.path().join("pid");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let source =
        "import os, time\nwith open('pid', 'w') as pipe: pipe.write(str(os.getpid()))\ntime.sleep(1000)\n";
    fs::write(folder.path().join("slow.py"), source).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_run-tool"));
    command.args(["describe", "slow"]).current_dir(folder.path());
    let run = command.env_clear().env("PATH", "/usr/bin:/bin").stderr(Stdio::piped()).spawn().unwrap();
    // Until it is being loaded.
    let tool = Pid::from_raw(fs::read_to_string(&pipe).unwrap().parse().unwrap());
    kill(Pid::from_raw(run.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let output = run.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(143), "{err}");
    assert!(err.contains("canceled"), "{err}");
    assert_eq!(kill(tool, None), Err(Errno::ESRCH), "it still runs");
}

#[test]
fn a_tool_that_exits_by_itself_is_told_by_its_exit_code() {
    let folder = with_manifest("version = 1\n[tools.t]\ncommand = [\"sh\", \"-c\", \"exit 7\"]\n");
    let told = |args: &[&str]| told(folder.path(), args);
    assert_eq!(told(&["run", "t"]), (1, String::new(), "run-tool: exited with code 7\n".into()));
    assert_eq!(told(&["run", "t", "--quiet"]), (1, String::new(), String::new()));
    assert_eq!(told(&["exec", "sh", "-c", "exit 7"]), (7, String::new(), String::new()));
}

#[test]
fn what_the_manifest_says_of_too_much_output_counts_unless_the_call_says_otherwise() {
    let folder = with_manifest(
        "version = 1\n[tools.t]\ncommand = [\"sh\", \"-c\", \"seq 1000 >&2\"]\noverflow = \"fail\"\ndrain = \"250ms\"\n\
         after_exit = \"linger:1s\"\nlimits.stderr = \"1KiB\"\n",
    );
    let told = |args: &[&str]| told(folder.path(), args);
    let (code, _, err) = told(&["run", "t"]);
    assert_eq!(code, 123, "{err}");
    let (code, _, err) = told(&["run", "t", "--overflow", "truncate"]);
    assert_eq!(code, 0, "{err}");
    let (code, out, err) = told(&["describe", "t", "--json"]);
    assert_eq!(code, 0, "{err}");
    let document: Value = serde_json::from_str(&out).unwrap();
    let shown = ["overflow", "drain_s", "after_exit"].map(|field| document[field].clone());
    assert_eq!(shown, [json!("fail"), json!(0.25), json!("linger:1s")]);
}

#[test]
fn a_call_may_lower_what_the_manifest_allows_and_not_raise_it() {
    let folder = with_manifest(
        "version = 1\n[tools.nap]\ncommand = [\"sleep\", \"100\"]\ntimeout = \"5s\"\nmax_timeout = \"6s\"\n\
         limits = { stdout = \"1KiB\" }\nkill_grace = \"1s\"\n",
    );
    let told = |args: &[&str]| told(folder.path(), args);
    let (code, _, err) = told(&["run", "nap", "--timeout", "7s"]);
    assert!(code == 2 && err.contains("6s") && err.contains("max_timeout"), "{err}");
    let (code, _, err) = told(&["run", "nap", "--max-output", "2KiB"]);
    assert!(code == 2 && err.contains("stdout"), "{err}");
    let (code, _, err) = told(&["run", "nap", "--timeout", "100ms"]);
    assert_eq!(code, 124, "{err}");
}

#[test]
fn what_cannot_be_enforced_is_refused_unless_the_manifest_accepts_that() {
    let folder = with_manifest(
        "version = 1\n[tools.strict]\ncommand = [\"true\"]\npolicy = { network = \"none\", level = 4 }\n\
         [tools.hungry]\ncommand = [\"true\"]\nlimits = { cpus = 0.5 }\n\
         [tools.loose]\ncommand = [\"echo\", \"1\"]\nlimits = { cpus = 0.5 }\n\
         policy = { network = \"none\", level = \"none\" }\n",
    );
    let told = |args: &[&str]| told(folder.path(), args);
    for tool in ["strict", "hungry"] {
        // Whatever this machine offers, there is no cgroup there.
        let (code, _, err) = told(&["run", tool, "--cgroup", "/nonexistent"]);
        assert!(code == 125 && err.contains("level 4") && err.contains("/nonexistent"), "{err}");
    }
    assert_eq!(told(&["run", "loose", "--cgroup", "/nonexistent"]).1, "1\n");
}

#[test]
fn variables_and_secrets_come_from_us_by_name() {
    let folder = with_manifest(
        "version = 1\n[tools.t]\ncommand = [\"sh\", \"-c\", \"echo $API_KEY $HOME\"]\nsecrets = [\"API_KEY\"]\n",
    );
    let (code, _, err) = told(folder.path(), &["run", "t"]);
    assert!(code == 2 && err.contains("API_KEY") && err.contains("--secret"), "{err}");
    fs::write(folder.path().join("key"), "hunter2hunter2\n").unwrap();
    let (code, out, err) = told(folder.path(), &["run", "t", "--secret", "API_KEY=key"]);
    assert_eq!((code, out.as_str()), (0, "\"*** /tmp\\n\"\n"), "{err}");
}

#[test]
fn a_slip_of_the_pen_is_answered_with_the_nearest_name() {
    let folder = with_manifest("version = 1\n[tools.word-count]\ncommand = [\"true\"]\n");
    let (code, _, err) = told(folder.path(), &["run", "word-cuont"]);
    assert!(code == 2 && err.contains("did you mean \"word-count\"?"), "{err}");
    let (code, _, err) = told(Path::new("/"), &["run", "word-count"]);
    assert!(code == 2 && err.contains("run-tool new"), "{err}");
}

#[test]
fn the_tools_of_the_fixtures_do_what_they_say() {
    // Only the folder itself is shown to its tools, not the way that leads there and back.
    let folder = Path::new(FIXTURES).join("tools").canonicalize().unwrap();
    let data = |name: &str| folder.join("data").join(name).to_str().unwrap().to_owned();
    let rows: [(&str, Value, &str, Value); 9] = [
        ("word-count", json!({ "text": "to be or not to be" }), "/words", json!(6)),
        ("csv-stats", json!({ "file": data("orders.csv") }), "/columns/0/mean", json!(2.5)),
        ("markdown-toc", json!({ "text": "# A\n## B" }), "/headings/1/slug", json!("b")),
        (
            "json-query",
            json!({ "json": { "a": [{ "b": 1 }, { "b": 2 }] }, "path": "a[*].b" }),
            "/matches",
            json!([1, 2]),
        ),
        ("http-headers", json!({ "headers": "HTTP/1.1 200 OK\r\nServer: x\r\n\r\n" }), "/ok", json!(false)),
        ("image-size", json!({ "file": data("pixel.png") }), "/format", json!("png")),
        ("text-diff", json!({ "old": "a\nb\n", "new": "a\nc\n" }), "/added", json!(1)),
        ("units", json!({ "value": 1, "from": "mi", "to": "km" }), "/value", json!(1.609344)),
        ("long-job", json!({ "steps": 2, "seconds": 0.01 }), "/done", json!(2)),
    ];
    for (tool, input, place, expected) in rows {
        let (code, out, err) = told(&folder, &["run", tool, "--input", &input.to_string()]);
        assert_eq!(code, 0, "{tool}: {err}");
        let value: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value.pointer(place), Some(&expected), "{tool}: {out}");
        let (code, out, err) = told(&folder, &["describe", tool, "--json"]);
        assert_eq!(code, 0, "{tool}: {err}");
        let described: Value = serde_json::from_str(&out).unwrap();
        assert!(
            described["input_schema"].is_object() && described["output_schema"].is_object(),
            "{tool}: {out}"
        );
    }
}
