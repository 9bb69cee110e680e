//! What a person or a script sees of `run-tool group`: the table and the JSON lines, messages about a file with mistakes,
//! exit codes, signals, and on a terminal what runs.
//!
//! Not promised: the exact look of the table and of what is drawn while calls run.
#![expect(clippy::disallowed_methods, reason = "starts the binary under test as a shell would")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod child;

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use child::Guard;
use nix::{
    pty::{Winsize, openpty},
    sys::signal::Signal,
};
use serde_json::Value;
use snapbox::{assert_data_eq, file, str};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_run-tool");

/// How long anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

fn run_tool(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command
}

/// A folder with this file in it.
fn with(name: &str, text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), text).unwrap();
    folder
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Exit code, standard output, standard error.
fn told(output: &Output) -> (i32, String, String) {
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// `run-tool group` with a file `calls.jsonl` of these lines.
fn group(lines: &str, args: &[&str]) -> (i32, String, String) {
    let folder = with("calls.jsonl", lines);
    let args: Vec<_> = ["group", "calls.jsonl"].iter().chain(args).copied().collect();
    told(&run_tool(folder.path(), &args).output().unwrap())
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn help_is_as_documented() {
    let help = run_tool(Path::new("/"), &["group", "--help"]).output().unwrap();
    assert_data_eq!(text(&help.stdout), file!["help/group.txt"]);
}

#[test]
fn a_table_says_how_each_call_ended_and_the_exit_code_whether_all_is_well() {
    let lines = r#"{"label": "quick", "command": ["true"]}
{"command": ["sh", "-c", "exit 3"]}

{"command": ["sleep", "1000"], "timeout": "300ms"}
{"label": "stub\u001bborn", "command": ["sh", "-c", "exit 4"], "retry": {"attempts": 2, "on": ["process"], "backoff": "5ms"}}
"#;
    let (code, out, err) = group(lines, &[]);
    assert_eq!((code, err.as_str()), (1, ""));
    let rows: Vec<Vec<&str>> = out
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(rows.len(), 5, "{out}");
    assert_eq!(rows[0], ["call", "outcome", "time", "CPU", "peak memory"]);
    assert_eq!((rows[1][0], rows[1][1], rows[1].len()), ("quick", "ok", 5));
    assert_eq!((rows[2][0], rows[2][1], rows[2][5]), ("sh -c exit 3", "process", "exited with code 3"));
    assert_eq!((rows[3][1], rows[3][5]), ("timeout", "timed out after 300ms"));
    assert_eq!((rows[4][0], rows[4][5]), ("stub\u{fffd}born", "2 attempts: exited with code 4"));

    assert_eq!(group(r#"{"command": ["true"]}"#, &["--quiet"]), (0, String::new(), String::new()));
    assert_eq!(group(r#"{"command": ["false"]}"#, &["--quiet"]).0, 1);
}

#[test]
fn json_lines_are_the_reports_in_the_order_of_the_file() {
    let folder = with(
        "calls.jsonl",
        "{\"command\": [\"sh\", \"-c\", \"sleep 0.3; cat\"], \"stdin\": \"a\\u0000b\"}\n{\"label\": \"b\", \"command\": [\"false\"]}",
    );
    let args = ["group", "calls.jsonl", "--json", "--report", "report.jsonl"];
    let (code, out, err) = told(&run_tool(folder.path(), &args).output().unwrap());
    assert_eq!((code, err.as_str()), (1, ""));
    let lines = json_lines(&out);
    let field = |index: usize, name: &str| lines[index][name].clone();
    assert_eq!((field(0, "index"), field(1, "index"), lines.len()), (0.into(), 1.into(), 2));
    assert_eq!((field(0, "label"), field(1, "label")), ("sh -c sleep 0.3; cat".into(), "b".into()));
    assert_eq!((field(0, "outcome"), field(1, "outcome")), ("ok".into(), "process".into()));
    assert_eq!(field(0, "stdout")["head"], "a\0b");
    assert_eq!(fs::read_to_string(folder.path().join("report.jsonl")).unwrap(), out);
}

#[test]
fn rules_and_deadlines() {
    let lines = "{\"command\": [\"sleep\", \"1000\"]}\n{\"command\": [\"false\"]}\n{\"command\": [\"sleep\", \"1000\"]}\n";
    let (code, out, _) = group(lines, &["--fail-fast", "--at-most", "2", "--json"]);
    assert_eq!(code, 1);
    for index in [0, 2] {
        assert_eq!(json_lines(&out)[index]["error"]["by"]["sibling"], 1);
    }
    let (code, out, _) = group(&lines.replace("false", "true"), &["--first-success", "--json"]);
    assert_eq!((code, &json_lines(&out)[0]["error"]["by"]["sibling"]), (0, &1.into()));
    let (code, out, _) = group(lines, &["--deadline", "500ms", "--json"]);
    assert_eq!((code, &json_lines(&out)[2]["error"]["by"]), (1, &"deadline".into()));
    let (code, out, _) = group(lines, &["--timeout", "300ms", "--json"]);
    assert_eq!((code, &json_lines(&out)[2]["outcome"]), (1, &"timeout".into()), "an option holds for all");
    assert_eq!(group(lines, &["--fail-fast", "--first-success"]).0, 2);
}

#[test]
fn calls_come_as_toml_and_from_standard_input_too() {
    let toml = r#"
[[calls]]
label = "greet"
tool = "greet"
input = { name = "World" }
[[calls]]
command = ["./say", "hi"]
env = { WHO = "me" }
limits = { pids = 20, memory = "256MiB" }
policy = { level = "none" }
"#;
    let folder = with("calls.toml", toml);
    let manifest = "version = 1\n[tools.greet]\ncommand = [\"sh\", \"-c\", \"cat\"]\n";
    fs::write(folder.path().join("tools.toml"), manifest).unwrap();
    fs::write(folder.path().join("say"), "#!/bin/sh\necho $1 $WHO\n").unwrap();
    let mut executable = fs::metadata(folder.path().join("say")).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut executable, 0o755);
    fs::set_permissions(folder.path().join("say"), executable).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (calls, manifest) = (path("calls.toml"), path("tools.toml"));
    let args = ["group", &calls, "--json", "--manifest", &manifest];
    let (code, out, err) = told(&run_tool(&std::env::temp_dir(), &args).output().unwrap());
    let lines = json_lines(&out);
    assert_eq!((code, &lines[0]["value"]["name"]), (0, &"World".into()), "{out}{err}");
    assert_eq!(lines[1]["stdout"]["head"], "hi me\n");
    let not_held = &lines[1]["enforced"]["not_held"];
    assert_eq!(
        not_held,
        &serde_json::json!(["memory", "pids"]),
        "what the file says arrives, also its policy"
    );

    let mut child = run_tool(folder.path(), &["group", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"{\"command\": [\"./say\", \"hello\"], \"env\": {\"WHO\": \"you\"}}")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(json_lines(&text(&output.stdout))[0]["stdout"]["head"], "hello you\n");
}

#[test]
fn what_is_wrong_with_the_file_is_said_with_its_place_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let proof = folder.path().join("proof").display().to_string();
    let bad = format!("{{\"command\": [\"touch\", \"{proof}\"], \"policy\": {{\"level\": 0}}}}\n")
        + r#"{"command": ["true"], "timeout": 3}
{"tool": "x", "input": null, "colour": 1}
{"command": []}
{"comand": 1}
nonsense
[1]
{"command": ["a"], "limits": {"memory": null, "pids": 0}}
{"tool": "a", "command": ["a"]}
{"tool": "a", "stdin": "x"}
{"command": ["a"], "input": 1, "max_timeout": "1s"}
{"command": ["a"], "retry": {"attempts": 2, "on": ["tool"]}}
{"command": ["a"], "env": {"A": "1", "B": "2", "A": "1"}}
{"tool": "a", "input": [{"b": 1, "b": 2}]}
{"command": ["a"], "command": ["b"]}
"#;
    let (code, out, err) = group(&bad, &[]);
    assert_eq!((code, out.as_str()), (2, ""));
    let said: Vec<_> = err.lines().filter(|line| line.contains("calls.jsonl:")).collect();
    assert_data_eq!(said.join("\n") + "\n", file!["group/bad.txt"]);
    assert!(!Path::new(&proof).exists());

    let (code, _, err) = group("\n \n", &[]);
    assert_eq!(code, 2);
    assert_data_eq!(
        err,
        str![[r#"
run-tool: calls.jsonl: there is no call in it; write one, such as {"tool": "NAME", "input": {…}} or {"command": ["PROGRAM"]}

"#]]
    );
    let folder = with("tools.toml", "version = 1\n[tools.greet]\ncommand = [\"true\"]\n");
    fs::write(folder.path().join("calls.jsonl"), "{\"tool\": \"greet\"}\n{\"tool\": \"gret\"}\n").unwrap();
    let (code, _, err) = told(&run_tool(folder.path(), &["group", "calls.jsonl"]).output().unwrap());
    assert_eq!(code, 2);
    assert_data_eq!(
        err,
        str![[r#"
run-tool: calls.jsonl:2: invalid tool "gret": there is no tool with this name; did you mean "greet"?

"#]]
    );
    for (args, words) in [
        (&["group", "gone.jsonl"][..], "gone.jsonl: cannot be read: No such file"),
        (&["group", "calls.jsonl", "--report", "/nonexistent/r"], "/nonexistent/r"),
        (&["group", "calls.jsonl", "--at-most", "0"], "whole number from 1 on"),
        (&["group"], "<FILE|->"),
    ] {
        let (code, out, err) = told(&run_tool(folder.path(), args).output().unwrap());
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.contains(words), "{err}");
    }
}

/// Waits until a file is there.
fn wait_for(path: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} does not come", path.display());
        thread::sleep(Duration::from_millis(5));
    }
}

/// A group of two calls that ignore SIGTERM, both ready.
fn stubborn() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let ready = |name: &str| folder.path().join(name).display().to_string();
    let line = |name: &str| {
        let script = format!(
            "trap 'touch {0}.asked' TERM; touch {0}; while :; do sleep 1000 & wait; done",
            ready(name)
        );
        let rw = folder.path().display();
        format!(
            "{}\n",
            serde_json::json!({ "command": ["bash", "-c", script], "policy": { "rw": [rw.to_string()] } })
        )
    };
    fs::write(folder.path().join("calls.jsonl"), line("a") + &line("b")).unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}

#[test]
fn a_signal_cancels_all_and_a_second_one_kills_at_once() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let (_folder, path) = stubborn();
        let mut command = run_tool(&path, &["group", "calls.jsonl", "--kill-grace", "1h", "--json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().map(Guard).unwrap();
        ["a", "b"].iter().for_each(|name| wait_for(&path.join(name)));
        child.send(signal);
        ["a.asked", "b.asked"].iter().for_each(|name| wait_for(&path.join(name)));
        child.send(signal);
        let mut out = String::new();
        child.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        assert_eq!(child.exit_code(), code);
        for line in json_lines(&out) {
            assert_eq!(line["error"]["by"]["signal"], signal as i32, "{line}");
        }
    }
}

/// A terminal, and what is written to it.
struct Screen {
    chunks: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Screen {
    /// The terminal's other end, for a program, and the screen.
    fn open() -> (OwnedFd, Self) {
        let size = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let mut master = File::from(pty.master);
        let (sender, chunks) = mpsc::channel();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            // The end of a terminal is an error (EIO).
            while let Ok(read @ 1..) = master.read(&mut chunk) {
                if sender.send(chunk[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        (pty.slave, Self { chunks, seen: String::new() })
    }

    fn wait_for(&mut self, words: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        while !words.iter().all(|word| self.seen.contains(word)) {
            let left = deadline.saturating_duration_since(Instant::now());
            let chunk = self.chunks.recv_timeout(left);
            let chunk = chunk.unwrap_or_else(|_| panic!("{words:?} do not come: {:?}", self.seen));
            self.seen += &String::from_utf8_lossy(&chunk);
        }
    }
}

#[test]
fn on_a_terminal_what_runs_has_a_line_and_there_is_a_total() {
    let (folder, path) = stubborn();
    let more = format!("{}\n", serde_json::json!({ "label": "quick", "command": ["true"] }));
    let lines = fs::read_to_string(path.join("calls.jsonl")).unwrap().replacen(
        '{',
        "{\"label\": \"stubborn one\", ",
        1,
    );
    fs::write(path.join("calls.jsonl"), lines + &more).unwrap();
    let (terminal, mut screen) = Screen::open();
    let mut command = run_tool(&path, &["group", "calls.jsonl", "--kill-grace", "1h"]);
    command.env("TERM", "xterm").stdout(terminal.try_clone().unwrap()).stderr(terminal);
    let mut child = command.spawn().map(Guard).unwrap();
    drop(command);
    screen.wait_for(&["stubborn one", "bash -c trap", "1 of 3"]);
    child.send(Signal::SIGINT);
    ["a.asked", "b.asked"].iter().for_each(|name| wait_for(&path.join(name)));
    child.send(Signal::SIGINT);
    screen.seen.clear();
    // The table comes last; its words are coloured.
    screen.wait_for(&["peak memory", "quick", "canceled by SIGINT (signal 2)"]);
    assert_eq!(child.exit_code(), 130);
    drop(folder);
}

#[test]
fn exec_tries_again_when_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let script = "n=$(($(cat n 2>/dev/null || echo 0) + 1)); echo $n | tee n; [ $n -ge 3 ] || exit 7";
    let exec = |args: &[&str]| {
        let args: Vec<_> = ["exec", "--rw", "."].iter().chain(args).copied().collect();
        let output = run_tool(folder.path(), &args).args(["--", "sh", "-c", script]).output().unwrap();
        fs::remove_file(folder.path().join("n")).unwrap();
        told(&output)
    };
    let (code, out, err) = exec(&["--retry", "5", "--retry-on", "timeout,process", "--retry-delay", "5ms"]);
    assert_eq!((code, out.as_str()), (0, "1\n2\n3\n"));
    assert!(err.starts_with("run-tool: exited with code 7; attempt 2 begins in "), "{err}");
    assert_eq!(
        exec(&["--retry", "5"]),
        (7, "1\n".into(), String::new()),
        "what it did itself is not tried again"
    );
    let (code, _, err) =
        told(&run_tool(folder.path(), &["exec", "--retry-on", "busy", "--", "true"]).output().unwrap());
    assert!(code == 125 && err.contains("--retry <N>"), "{err}");
    let (code, _, err) = told(
        &run_tool(folder.path(), &["exec", "--retry", "2", "--retry-on", "tool", "--", "true"])
            .output()
            .unwrap(),
    );
    assert!(code == 125 && err.contains("\"tool\" is never tried again"), "{err}");
}

#[test]
fn a_line_may_be_long_and_have_many_parts() {
    let words = |word: &str| format!("{{\"command\": [{}]}}", vec![word; 100_000].join(","));
    let (code, _, err) = group(&words("1"), &[]);
    assert_eq!(code, 2);
    assert!(err.starts_with("run-tool: calls.jsonl:1:14: command: is a whole number"), "{err}");
    let (code, out, err) = group(&words("\"true\""), &["--json"]);
    assert_eq!((code, json_lines(&out).len()), (0, 1), "{err}");
    let (code, out, err) =
        group("\u{feff}{\"command\": [\"true\"]}\r\n\r\n{\"command\": [\"true\"]}\r", &["--json"]);
    assert_eq!((code, json_lines(&out).len()), (0, 2), "{err}");
}
