//! What a person or a script can rely on of `run-tool follow`: lines as they come, complete; exit codes; words.
//!
//! Not promised here: that no line is lost or comes twice over rotations, which is the suite `followers`' subject.
#![expect(clippy::disallowed_methods, reason = "starts the binary under test as a shell would")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod child;

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    process::{ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use child::Guard;
use nix::sys::signal::Signal;
use serde_json::Value;
use snapbox::{assert_data_eq, file};

fn follow(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_run-tool"));
    command.arg("follow").args(args).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(args: &[&str]) -> (Guard, BufReader<ChildStdout>) {
    let mut child = follow(args).spawn().map(Guard).unwrap();
    let out = BufReader::new(child.0.stdout.take().unwrap());
    (child, out)
}

fn line(out: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line
}

/// Exit code, and what was said on standard error.
fn refused(args: &[&str]) -> (i32, String) {
    let output = follow(args).output().unwrap();
    assert!(output.stdout.is_empty());
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
}

const TWO_LINES: &str = "echo '1 one'; printf '2 t\\377o\\r\\n'; exec sleep 100";

#[test]
fn help_is_as_documented() {
    let help = follow(&["--help"]).output().unwrap().stdout;
    assert_data_eq!(String::from_utf8(help).unwrap(), file!["help/follow.txt"]);
}

#[test]
fn lines_come_as_they_are_written_until_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(&log, "one\n").unwrap();
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let (mut child, mut out) = start(&["tail", log.to_str().unwrap(), "--since", "start"]);
        assert_eq!(line(&mut out), "one\n");
        OpenOptions::new().append(true).open(&log).unwrap().write_all(b"two\n").unwrap();
        assert_eq!(line(&mut out), "two\n");
        child.send(signal);
        assert_eq!(child.exit_code(), code);
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert!(rest.lines().all(|line| line == "two"), "{rest:?}");
    }
}

#[test]
fn a_command_is_told_the_time_and_its_own_times_are_left_out() {
    let args = ["--time-format", "unix", "--since", "start"];
    let command = ["--", "sh", "-c", TWO_LINES, "{since}"];
    let (_child, mut out) = start(&[&args[..], &command].concat());
    let mut both = vec![0; b"one\nt\xffo\r\n".len()];
    out.read_exact(&mut both).unwrap();
    assert_eq!(both, b"one\nt\xffo\r\n");
    let (_child, mut out) = start(&[&args[..], &["--timestamps"], &command].concat());
    assert_eq!(line(&mut out), "1 one\n");
    let (_child, mut out) = start(&[&args[..], &["--json", "--key", "k"], &command].concat());
    let lines: Vec<Value> = (0..2).map(|_| serde_json::from_str(&line(&mut out)).unwrap()).collect();
    let expected = serde_json::json!({
        "key": "k", "time": "1970-01-01T00:00:01.000000000Z", "stream": "stdout", "encoding": "utf-8", "line": "one",
    });
    assert_eq!(lines[0], expected);
    assert_eq!((&lines[1]["encoding"], &lines[1]["line"]), (&"base64".into(), &"dP9v".into()));
}

#[test]
fn what_cannot_be_followed_says_why() {
    for (args, code, words) in [
        (&["--", "/no/such/program", "{since}"][..], 127, "/no/such/program"),
        (&["--", "sleep", "100"], 125, "write {since}"),
        (&[], 125, "name what to follow"),
        (&["docker"], 125, "a container"),
        (&["docker", "web", "--", "--tail"], 125, "leave them out"),
        (&["tail", "/"], 125, "regular file"),
        (&["--since", "yesterday", "tail", "x"], 125, "10m"),
        (&["--file-max-size", "1K", "tail", "x"], 125, "--file <PATH>"),
    ] {
        let (found, err) = refused(args);
        assert!(found == code && err.contains(words), "{args:?}: {found} {err}");
    }
}

#[test]
fn when_nobody_reads_its_output_it_ends() {
    let flood = "while :; do echo '1 flood'; done";
    let (mut child, mut out) =
        start(&["--time-format", "unix", "--since", "start", "--", "sh", "-c", flood, "{since}"]);
    assert_eq!(line(&mut out), "flood\n");
    drop(out);
    assert_eq!(child.exit_code(), 141);
    // Also when there is nothing more to say.
    let silent = "echo '1 one'; exec sleep 1000";
    let (mut child, mut out) =
        start(&["--time-format", "unix", "--since", "start", "--", "sh", "-c", silent, "{since}"]);
    assert_eq!(line(&mut out), "one\n");
    drop(out);
    assert_eq!(child.exit_code(), 141);
}

#[test]
fn one_signal_is_enough_when_nobody_reads_the_output() {
    let flood = "while :; do echo '1 flood'; done";
    let (mut child, mut out) =
        start(&["--time-format", "unix", "--since", "start", "--", "sh", "-c", flood, "{since}"]);
    assert_eq!(line(&mut out), "flood\n");
    child.send(Signal::SIGINT);
    assert_eq!(child.exit_code(), 130);
}

#[test]
fn a_source_that_ends_is_opened_again_and_that_is_said() {
    let (_child, mut out) = start(&["--", "sh", "-c", "echo 2026-01-31T12:00:00Z $(date +%N)", "{since}"]);
    // In the same instant, but not the same line.
    assert_ne!(line(&mut out), line(&mut out));
    let (child, mut out) = start(&["--", "sh", "-c", "echo oh no >&2; echo ready; exit 3", "{since}"]);
    line(&mut out);
    child.send(Signal::SIGINT);
    let mut child = child;
    assert_eq!(child.exit_code(), 130);
    let mut err = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(err.contains("run-tool: sh: oh no\n"), "{err}");
}

#[test]
fn lines_go_to_a_file_that_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (log, out) = (folder.path().join("log"), folder.path().join("sub/out"));
    fs::write(&log, "one\ntwo\nthree\n").unwrap();
    let (log, path) = (log.to_str().unwrap(), out.to_str().unwrap());
    let args = [
        "tail",
        log,
        "--since",
        "start",
        "--file",
        path,
        "--file-max-size",
        "9",
        "--keep",
        "2",
        "--compress",
    ];
    let (mut child, mut stdout) = start(&args);
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::read_to_string(&out).unwrap_or_default() != "three\n" {
        assert!(Instant::now() < deadline, "it is not written");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    child.send(Signal::SIGINT);
    assert_eq!(child.exit_code(), 130);
    assert!(out.with_extension("1.gz").exists());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}
