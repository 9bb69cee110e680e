//! What a person or a script at a terminal can rely on: exit codes, what goes to which stream, signals, words.
//!
//! Not promised: the exact words of messages beside those compared here.
#![expect(clippy::disallowed_methods, reason = "starts the binary under test as a shell would")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod child;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use child::Guard;
use nix::sys::signal::Signal;
use snapbox::{assert_data_eq, file, str};

const BINARY: &str = env!("CARGO_BIN_EXE_run-tool");

/// The binary in a clean environment, with nothing on its standard input.
fn run_tool(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").stdin(Stdio::null());
    command
}

fn output(args: &[&str]) -> Output {
    run_tool(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Exit code, standard output, standard error.
fn told(args: &[&str]) -> (i32, String, String) {
    let output = output(args);
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn help_is_as_documented() {
    assert_data_eq!(text(&output(&["--help"]).stdout), file!["help/run-tool.txt"]);
    assert_data_eq!(text(&output(&["run", "--help"]).stdout), file!["help/run.txt"]);
    assert_data_eq!(text(&output(&["exec", "--help"]).stdout), file!["help/exec.txt"]);
}

#[test]
fn the_schema_of_the_report_is_the_published_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/report.schema.json");
    let published = fs::read_to_string(&path).unwrap();
    assert!(
        published == text(&output(&["schema"]).stdout),
        "write it anew: run-tool schema > {}",
        path.display()
    );
    assert!(json(published.as_bytes())["$schema"].as_str().unwrap().contains("2020-12"));
}

#[test]
fn the_readme_has_the_same_exit_codes_as_the_help() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let help = text(&output(&["--help"]).stdout);
    let table = help.split_once("Exit codes:").unwrap().1;
    let rows = table.lines().skip(2).take_while(|line| !line.is_empty());
    let mut checked = 0;
    for row in rows {
        let cells: Vec<_> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let expected = format!("| {} |", cells.join(" | ").replace(" | -", " | –"));
        assert!(readme.contains(&expected), "README.md lacks {expected}");
        checked += 1;
    }
    assert_eq!(checked, 17);
}

#[test]
fn exec_passes_output_and_exit_code_through() {
    let (code, out, err) = told(&["exec", "--", "sh", "-c", "printf out; printf err >&2; exit 7"]);
    assert_eq!((code, out.as_str(), err.as_str()), (7, "out", "err"));
    assert_eq!(told(&["exec", "--", "true"]), (0, String::new(), String::new()));
}

#[test]
fn exec_is_complete_however_slow_its_reader() {
    let mut command = run_tool(&["exec", "--", "sh", "-c", "seq 1000000"]);
    let mut child = command.stdout(Stdio::piped()).spawn().map(Guard).unwrap();
    let mut out = child.0.stdout.take().unwrap();
    let (mut all, mut sip) = (Vec::new(), [0; 1000]);
    loop {
        match out.read(&mut sip).unwrap() {
            0 => break,
            read => all.extend_from_slice(&sip[..read]),
        }
    }
    assert_eq!(child.exit_code(), 0);
    let expected: String = (1..=1_000_000).map(|number| format!("{number}\n")).collect();
    assert!(text(&all) == expected, "{} bytes instead of {}", all.len(), expected.len());
}

#[test]
fn exec_keeps_binary_as_it_is() {
    let all: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&all).unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(output(&["exec", "--stdin", path, "--", "cat"]).stdout, all);
    let mut piped = run_tool(&["exec", "--", "cat"]);
    let piped = piped.stdin(File::open(path).unwrap()).output().unwrap();
    assert_eq!(piped.stdout, all, "our own standard input is passed on");
}

#[test]
fn the_report_carries_what_is_no_text_as_base64() {
    let report = json(&output(&["exec", "--level", "none", "--json", "--", "printf", r"\377\000a"]).stdout);
    assert_eq!(
        (&report["stdout"]["encoding"], &report["stdout"]["head"]),
        (&"base64".into(), &"/wBh".into())
    );
    assert_eq!((&report["outcome"], &report["enforced"]["level"]), (&"ok".into(), &"none".into()));
}

#[test]
fn a_timeout_keeps_partial_output_and_names_what_escaped() {
    // SIGTERM alone does not end what escaped.
    let script = "setsid sh -c \"trap '' TERM; exec sleep 1000\" & echo partial; sleep 1000";
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let (code, out, err) = told(&[
        "exec",
        "--timeout",
        "1s",
        "--kill-grace",
        "100ms",
        "--report",
        path,
        "--",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!((code, out.as_str()), (124, "partial\n"));
    assert!(err.contains("sleep 1000 (pid ") && err.contains("left the process group"), "{err}");
    assert!(err.ends_with("run-tool: timed out after 1s\n"), "{err}");
    let report = json(&fs::read(path).unwrap());
    assert_eq!((&report["outcome"], &report["error"]["clock"]), (&"timeout".into(), &"wall".into()));
    let residue = &report["residue"][0];
    assert_eq!(
        (&residue["command"], &residue["escaped"], &residue["killed"]),
        (&"sleep 1000".into(), &true.into(), &true.into())
    );
}

#[test]
fn what_could_not_be_started_says_why() {
    let plain = tempfile::NamedTempFile::new().unwrap();
    let plain = plain.path().to_str().unwrap();
    let (code, _, err) = told(&["exec", "--", "no-such-program"]);
    assert_eq!(code, 127);
    assert_data_eq!(
        err,
        str![[r#"
run-tool: could not be started: looking up the program "no-such-program" failed: No such file or directory (os error 2); not in the call's PATH (/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin); give an absolute path, or pass a PATH that has it

"#]]
    );
    let (code, _, err) = told(&["exec", "--", plain]);
    assert_eq!(code, 126);
    assert!(err.contains("chmod +x"), "{err}");
    let (code, _, err) = told(&["exec", "--workdir", "/nonexistent", "--", "true"]);
    assert_eq!(code, 125);
    assert!(err.contains("working folder \"/nonexistent\""), "{err}");
}

#[test]
fn what_is_wrong_with_the_arguments_is_said_before_anything_runs() {
    for (args, code, words) in [
        (&["exec", "--timeout", "soon", "--", "true"][..], 125, "500ms, 30s or 1m 30s"),
        (&["exec", "--max-output", "much", "--", "true"], 125, "10MiB"),
        (&["exec", "--env", "A", "--", "true"], 125, "--pass-env"),
        (&["exec", "--env", "LD_PRELOAD=x", "--", "true"], 125, "the dynamic loader obeys it"),
        (&["exec", "--pass-env", "NOT_SET", "--", "true"], 125, "NOT_SET"),
        (&["exec", "--stdin", "/nonexistent", "--", "true"], 125, "/nonexistent"),
        (&["exec", "--report", "/nonexistent/r", "--", "true"], 125, "/nonexistent/r"),
        (&["exec", "--json", "--events", "--", "true"], 125, "cannot be used with"),
        (&["exec"], 125, "<CMD>"),
        (&["exec", "--timeout", "0s", "--", "true"], 125, "give a positive time"),
        (&["run", "/nonexistent.ts"], 2, "is not a file"),
        (&["run", "/etc/passwd"], 2, "run-tool exec"),
        (&["walk"], 2, "unrecognized subcommand"),
    ] {
        let (got, out, err) = told(args);
        assert_eq!((got, out.as_str()), (code, ""), "{args:?}: {err}");
        assert!(err.contains(words), "{args:?}: {err}");
    }
}

#[test]
fn input_that_is_no_json_is_shown_how_to_write() {
    let tool = tempfile::Builder::new().suffix(".ts").tempfile().unwrap();
    let tool = tool.path().to_str().unwrap();
    let (code, _, err) = told(&["run", tool, "--input", "{"]);
    assert_eq!(code, 2);
    assert!(err.contains("the argument is not JSON") && err.contains("@FILE"), "{err}");
    let (code, _, err) = told(&["run", tool, "--input", "@/nonexistent"]);
    assert_eq!(code, 2);
    assert!(err.contains("cannot read /nonexistent"), "{err}");
}

#[test]
fn without_bun_a_tool_says_how_to_get_it() {
    let tool = tempfile::Builder::new().suffix(".ts").tempfile().unwrap();
    let mut command = run_tool(&["run", tool.path().to_str().unwrap()]);
    let output = command.env("PATH", "/nonexistent").current_dir("/").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("npm install bun"), "{output:?}");
}

#[test]
fn events_are_json_lines_that_end_with_the_end() {
    let out = text(&output(&["exec", "--events", "--", "sh", "-c", "echo a; exit 3"]).stdout);
    let events: Vec<_> = out.lines().map(|line| json(line.as_bytes())).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["started", "stdout", "ended"]);
    assert_eq!(events[1]["data"], "a\n");
    assert_eq!(events[2]["error"]["status"]["code"], 3);
    assert_eq!(events.iter().map(|event| event["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn quiet_says_nothing_of_its_own() {
    let (code, out, err) = told(&["exec", "-q", "--timeout", "200ms", "--", "sh", "-c", "echo a; sleep 100"]);
    assert_eq!((code, out.as_str(), err.as_str()), (124, "a\n", ""));
}

#[test]
fn when_nobody_reads_its_output_the_command_ends() {
    let mut child = run_tool(&["exec", "--", "yes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map(Guard)
        .unwrap();
    let mut line = [0; 2];
    child.0.stdout.take().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(child.exit_code(), 141);
}

#[test]
fn output_that_cannot_be_written_is_no_success() {
    for options in [
        &["exec", "--", "echo", "hi"][..],
        &["exec", "--json", "--", "true"],
        &["exec", "--events", "--", "true"],
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = run_tool(options).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(74), "{options:?}");
        assert!(text(&output.stderr).contains("No space left"), "{options:?}: {}", text(&output.stderr));
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = run_tool(&["exec", "--", "echo", "hi"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(141), ""));
}

#[test]
fn a_report_that_cannot_be_written_takes_nothing_from_the_output() {
    let (code, out, err) = told(&["exec", "--report", "/dev/full", "--", "echo", "hi"]);
    assert_eq!((code, out.as_str()), (74, "hi\n"));
    assert!(err.contains("No space left"), "{err}");
}

#[test]
fn a_full_standard_error_changes_no_outcome() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = run_tool(&["exec", "--", "sh", "-c", "echo hi; exit 3"])
        .env("RUN_TOOL_LOG", "trace")
        .stderr(full)
        .output();
    let output = output.unwrap();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(3), "hi\n"));
}

#[test]
fn a_slow_reader_costs_what_goes_on_in_the_background_nothing() {
    let mut command = run_tool(&["exec", "--", "sh", "-c", "seq 1 400000 & exit 0"]);
    let mut child = command.stdout(Stdio::piped()).spawn().map(Guard).unwrap();
    let mut out = child.0.stdout.take().unwrap();
    let mut first = [0; 2];
    out.read_exact(&mut first).unwrap();
    // The time that it may linger passes while nobody reads.
    std::thread::sleep(Duration::from_millis(600));
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("\n400000\n"), "it ends with {:?}", &rest[rest.len().saturating_sub(20)..]);
    assert_eq!(child.exit_code(), 0);
}

#[test]
fn a_leader_that_leaves_its_group_does_not_get_away() {
    let script = "setpgrp(0, getpgrp(getppid())); $| = 1; print \"moved $$\\n\"; sleep 60";
    let (code, out, err) = told(&["exec", "--level", "none", "--timeout", "1s", "--", "perl", "-e", script]);
    assert_eq!(code, 124, "{err}");
    let pid = out.trim().strip_prefix("moved ").unwrap();
    assert!(!Path::new("/proc").join(pid).exists(), "{pid} is still there: {err}");
}

/// Starts a shell script under `run-tool exec` and waits for its line `ready`.
fn ready(script: &str, options: &[&str]) -> (Guard, BufReader<std::process::ChildStdout>) {
    let mut args = vec!["exec"];
    args.extend(options);
    args.extend(["--", "bash", "-c", script]);
    let mut child = run_tool(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map(Guard).unwrap();
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, out)
}

#[test]
fn signals_cancel_and_the_exit_code_says_which() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let (mut child, mut out) = ready("trap 'echo bye; exit 5' TERM; echo ready; sleep 1000 & wait", &[]);
        child.send(signal);
        assert_eq!(child.exit_code(), code);
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "bye\n", "it was asked to end, and what it said then is shown");
    }
}

#[test]
fn a_second_signal_kills_at_once() {
    let (mut child, mut out) = ready(
        "trap 'echo asked' TERM; echo ready; while :; do sleep 1000 & wait; done",
        &["--kill-grace", "1h"],
    );
    child.send(Signal::SIGINT);
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "asked\n");
    child.send(Signal::SIGINT);
    assert_eq!(child.exit_code(), 130);
}

#[test]
fn one_signal_is_enough_when_nobody_reads_the_output() {
    for script in ["yes", "head -c 1000000 /dev/zero"] {
        let mut command = run_tool(&["exec", "--", "sh", "-c", script]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map(Guard).unwrap();
        let mut first = [0; 1];
        child.0.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        child.send(Signal::SIGTERM);
        assert_eq!(child.exit_code(), 143, "{script}");
    }
}

#[test]
fn while_it_waits_for_input_a_signal_ends_it() {
    let tool = tempfile::Builder::new().suffix(".ts").tempfile().unwrap();
    let mut command = run_tool(&["run", tool.path().to_str().unwrap(), "--input", "-"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().map(Guard).unwrap();
    // Not every user may see what a process waits for; then it has had time enough.
    let deadline = Instant::now() + Duration::from_secs(5);
    let reads =
        |pid: u32| fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default().contains("pipe_read");
    while !reads(child.0.id()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.send(Signal::SIGINT);
    assert_eq!(child.exit_code(), -2, "by the signal itself");
}

#[test]
fn a_signal_that_it_was_started_to_ignore_stays_ignored() {
    let mut command = Command::new("nohup");
    command.args([BINARY, "exec", "--", "sh", "-c", "echo ready; read line; echo $line"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map(Guard)
        .unwrap();
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    child.send(Signal::SIGHUP);
    child.0.stdin.take().unwrap().write_all(b"on\n").unwrap();
    out.read_line(&mut line).unwrap();
    assert_eq!((line.as_str(), child.exit_code()), ("ready\non\n", 0));
}

const TOKEN: &str = "t0ps3cret value";

#[test]
fn a_secret_is_handed_over_and_shown_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let (file, report) = (folder.path().join("token"), folder.path().join("report"));
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let from_file = format!("TOKEN={}", file.display());
    let script =
        format!("[ \"$TOKEN\" = '{TOKEN}' ] && echo \"out $TOKEN\" && echo \"err $TOKEN\" >&2; exit 3");
    for secret in ["TOKEN", &from_file] {
        for how in [&[][..], &["--json"], &["--events"]] {
            let mut args = vec!["exec", "--secret", secret, "--report", report.to_str().unwrap()];
            args.extend(how);
            args.extend(["--", "sh", "-c", &script]);
            let output = run_tool(&args).env("TOKEN", TOKEN).output().unwrap();
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            let written = fs::read_to_string(&report).unwrap();
            let told = format!("{out}{err}{written}");
            assert!(!told.contains("t0ps3cret"), "{told}");
            assert!(out.contains("out ***") && written.contains("err ***"), "{told}");
            assert_eq!(output.status.code(), Some(3), "the tool had the value: {told}");
        }
    }
}

#[test]
fn a_secret_that_cannot_be_had_says_what_to_do() {
    let told = |secret: &str| {
        let mut command = run_tool(&["exec", "--secret", secret, "--", "true"]);
        let output = command.env("SHORT", "zqz").output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{secret}");
        text(&output.stderr)
    };
    let unset = told("MISSING");
    assert!(unset.contains("set it, or write MISSING=FILE"), "{unset}");
    let no_file = told("A=/nonexistent/token");
    assert!(no_file.contains("/nonexistent/token"), "{no_file}");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), b"s3cr3t\xff").unwrap();
    let path = file.path().to_str().unwrap();
    let no_text = told(&format!("A={path}"));
    assert!(no_text.contains(path) && no_text.contains("UTF-8") && !no_text.contains("s3cr3t"), "{no_text}");
    let short = told("SHORT");
    assert!(short.contains("SHORT") && !short.contains("zqz"), "{short}");
}

#[test]
#[cfg(not(feature = "otel"))]
fn built_without_opentelemetry_the_option_is_refused_in_words_and_the_variables_are_passed_over() {
    let (code, out, err) = told(&["--otel-endpoint", "http://localhost:4318", "exec", "--", "echo", "out"]);
    assert_eq!((code, out.as_str()), (125, ""));
    assert!(err.contains("was built without OpenTelemetry; build it with `cargo build"), "{err}");
    let mut set = run_tool(&["exec", "--", "echo", "out"]);
    let output = set.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318").output().unwrap();
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), ("out\n", ""));
}

#[test]
fn wrong_arguments_of_exec_have_its_exit_code_wherever_it_is_named() {
    let wrong = |before: &[&str]| told(&[before, &["--timeout", "nonsense", "true"]].concat()).0;
    assert_eq!(wrong(&["exec"]), 125);
    assert_eq!(wrong(&["--otel-endpoint", "http://localhost:4318", "exec"]), 125);
    assert_eq!(wrong(&["--otel-endpoint=http://localhost:4318", "exec"]), 125);
    assert_eq!(wrong(&["--otel-endpoint", "exec", "run"]), 2);
}
