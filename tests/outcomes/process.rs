//! What ends by itself: `ok`, `Process(Code)` and `Process(Signal)`.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use support::{OneTool, ended, failed, sh_up, succeeded, with_engine};
use tool_engine::{Call, ErrorKind, EventKind, ExitStatus};

use crate::{plain, sh};

#[test]
fn exit_code_0_of_a_command_is_ok_without_a_value() {
    with_engine(plain, |engine| async move {
        let report = succeeded(engine.start(sh("echo out; echo err >&2"))).await;
        assert_eq!((report.exit, report.value), (Some(ExitStatus::Code(0)), None));
        assert_eq!((&report.stdout.bytes()[..], &report.stderr.bytes()[..]), (&b"out\n"[..], &b"err\n"[..]));
        assert!(report.enforced.is_some() && report.residue.is_empty());
        assert!(!report.pipe_held && !report.kill_pending);
    });
}

#[test]
fn the_output_of_a_stdio_tool_is_its_value_json_where_it_parses_and_text_otherwise() {
    for (script, value) in [
        ("cat", json!({ "text": "ä", "n": [1, null] })),
        ("echo 42", json!(42)),
        ("echo '\"text\"'", json!("text")),
        ("echo plain; echo text", json!("plain\ntext\n")),
        ("echo '{\"half\":'", json!("{\"half\":\n")),
        ("true", json!("")),
        ("printf '\\377x'", json!("\u{fffd}x")),
        // What goes to stderr is no part of it.
        ("echo 1; echo noise >&2", json!(1)),
    ] {
        with_engine(
            |builder| builder.catalog(OneTool::stdio(script)),
            |engine| async move {
                let call = Call::tool("tool", json!({ "text": "ä", "n": [1, null] }));
                let report = succeeded(engine.start(call)).await;
                assert_eq!(report.value, Some(value), "{script}");
            },
        );
    }
}

#[test]
fn a_stdio_tool_that_fails_has_no_value() {
    with_engine(
        |builder| builder.catalog(OneTool::stdio("echo '{}'; exit 4")),
        |engine| async move {
            let (kind, report) = failed(engine.start(Call::tool("tool", Value::Null))).await;
            assert_eq!(kind, ErrorKind::Process { status: ExitStatus::Code(4) });
            assert_eq!(report.value, None);
        },
    );
}

#[test]
fn every_other_exit_code_is_what_the_tool_said() {
    with_engine(plain, |engine| async move {
        // 124, 126 and 127 are what wrappers use; 128 + n is what shells say of signals, and 137 no proof of anything.
        for code in [1, 2, 3, 42, 64, 75, 76, 124, 125, 126, 127, 128, 130, 137, 139, 143, 254, 255] {
            let (kind, report) = failed(engine.start(sh(&format!("exit {code}")))).await;
            assert_eq!(kind, ErrorKind::Process { status: ExitStatus::Code(code) });
            assert_eq!(report.exit, Some(ExitStatus::Code(code)));
            assert_eq!(kind.to_string(), format!("exited with code {code}"));
            assert!(!kind.is_retryable());
        }
    });
}

#[test]
fn a_signal_that_the_tool_ends_itself_with_is_named_and_not_blamed_on_anybody() {
    with_engine(plain, |engine| async move {
        for (number, words) in [
            (1, "killed by SIGHUP (signal 1), which the engine did not send"),
            (6, "killed by SIGABRT (signal 6), which the engine did not send"),
            (9, "killed by SIGKILL (signal 9), which the engine did not send"),
            (11, "killed by SIGSEGV (signal 11), which the engine did not send"),
            (15, "killed by SIGTERM (signal 15), which the engine did not send"),
            (34, "killed by signal 34, which the engine did not send"),
        ] {
            let (kind, report) = failed(engine.start(sh(&format!("kill -{number} $$")))).await;
            assert_eq!(kind, ErrorKind::Process { status: ExitStatus::Signal(number) });
            assert_eq!(report.exit, Some(ExitStatus::Signal(number)));
            assert_eq!(kind.to_string(), words);
        }
    });
}

#[test]
fn a_sigkill_from_outside_is_a_signal_and_no_timeout_and_no_memory_limit() {
    with_engine(plain, |engine| async move {
        let run = engine.start(sh("echo before; exec sleep 100"));
        let mut events = run.events();
        let pid = loop {
            if let EventKind::Started { pid } = events.next().await.unwrap().kind {
                break pid;
            }
        };
        support::wait_for_output(&mut events, "before\n").await;
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
        let (kind, report) = failed(run).await;
        assert_eq!(kind, ErrorKind::Process { status: ExitStatus::Signal(9) });
        assert_eq!(&report.stdout.bytes()[..], b"before\n");
    });
}

#[test]
fn a_command_that_leaves_something_running_is_ok_and_it_is_named() {
    with_engine(plain, |engine| async move {
        let end = ended(engine.start(sh_up("sleep 101 & up; exit 0"))).await;
        let residue = end.unwrap().residue;
        assert_eq!(residue.iter().map(|left| left.command.as_str()).collect::<Vec<_>>(), ["sleep 101"]);
        assert!(residue[0].killed && !residue[0].escaped);
    });
}
