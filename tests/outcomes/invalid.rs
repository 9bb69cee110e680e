//! `Invalid`: the call is wrong, and nothing was started.

use std::time::Duration;

use nix::pty::openpty;
use serde_json::{Value, json};
use support::{OneTool, Scripted, failed, with_engine};
use tool_engine::{Call, EngineBuilder, ErrorKind, Limits, Stdin};

use crate::{plain, sh};

/// Asserts that the call is refused in these words, and that nothing was started.
fn refused(configure: impl FnOnce(EngineBuilder) -> EngineBuilder, call: Call, words: &str) {
    with_engine(configure, |engine| async move {
        let run = engine.start(call);
        let mut events = run.events();
        let (kind, report) = failed(run).await;
        assert!(matches!(kind, ErrorKind::Invalid { .. }), "{kind:?}");
        assert_eq!(kind.to_string(), words);
        assert!(!kind.is_retryable());
        assert_eq!((report.exit, report.enforced), (None, None));
        assert_eq!(events.next().await.map(|event| event.seq), Some(0), "the end is all there is");
        assert!(events.next().await.is_none());
    });
}

#[test]
fn a_tool_without_a_catalog() {
    refused(
        plain,
        Call::tool("word-count", json!({})),
        "invalid tool \"word-count\": this engine knows no tools; give it a catalog with `Engine::builder().catalog(…)`",
    );
}

#[test]
fn a_tool_that_the_catalog_does_not_know() {
    refused(
        |builder| builder.catalog(OneTool::stdio("cat")),
        Call::tool("other", json!({})),
        "invalid Tool(\"other\"): it is not known; call `tool`",
    );
}

#[test]
fn environment_names_that_others_obey() {
    refused(
        plain,
        sh("true").env("LD_PRELOAD", "/tmp/x.so"),
        "invalid environment variable \"LD_PRELOAD\": refused: the dynamic loader obeys it; hand the setting to the \
         tool in its input instead",
    );
    refused(
        plain,
        sh("true").env("RUN_TOOL_EXECUTION", "me"),
        "invalid environment variable \"RUN_TOOL_EXECUTION\": refused: it is set by the engine itself; hand the \
         setting to the tool in its input instead",
    );
}

#[test]
fn environment_names_and_values_that_are_none() {
    refused(
        plain,
        sh("true").env("A=B", "x"),
        "invalid environment variable \"A=B\": this is no name for a variable; use letters, digits and `_`, not \
         beginning with a digit",
    );
    refused(
        plain,
        sh("true").env("A", "x\0y"),
        "invalid environment variable \"A\": its value contains a NUL byte; encode the value, or hand it over in the \
         input",
    );
}

#[test]
fn a_nul_byte_in_a_word() {
    let words =
        "invalid command: a word contains a NUL byte, which no program can be given; pass such data on stdin";
    refused(plain, Call::command(["echo", "a\0b"]), words);
    refused(plain, Call::command(["ec\0ho"]), words);
}

#[test]
fn timeouts_that_cannot_be_meant() {
    let words = "invalid timeout: a timeout of zero ends every call at once; give a positive time";
    refused(plain, sh("true").timeout(Duration::ZERO), words);
    refused(plain, sh("true").idle_timeout(Duration::ZERO), words);
    refused(
        |builder| builder.max_timeout(Duration::from_secs(5)),
        sh("true").timeout(Duration::from_secs(6)),
        "invalid timeout: 6s is more than the longest that is allowed, 5s; ask for less, or raise it: \
         `max_timeout` of the tool, `Engine::builder().max_timeout(…)`",
    );
}

#[test]
fn a_terminal_as_stdin() {
    let terminal = openpty(None, None).unwrap();
    refused(
        plain,
        sh("cat").stdin(Stdin::Fd(terminal.slave)),
        "invalid stdin: it is a terminal, which is never handed to a tool; pass a file or a pipe",
    );
    drop(terminal.master);
}

#[test]
fn stdin_for_a_tool() {
    let words = "invalid stdin: a tool gets its input as JSON; put the data into the tool's input";
    let call = || Call::tool("tool", Value::Null).stdin(Stdin::Bytes("x".into()));
    refused(|builder| builder.catalog(OneTool::stdio("cat")), call(), words);
    refused(|builder| builder.catalog(OneTool::worker(["begin"])), call(), words);
    let null = std::fs::File::open("/dev/null").unwrap();
    let call = Call::tool("tool", Value::Null).stdin(Stdin::Fd(null.into()));
    refused(|builder| builder.catalog(OneTool::stdio("cat")), call, words);
}

#[test]
fn an_input_longer_than_a_message_may_be() {
    let long = "x".repeat(1000);
    let call =
        Call::tool("scripted", json!([long])).limits(Limits { message: Some(500), ..Limits::default() });
    with_engine(
        |builder| builder.catalog(Scripted),
        |engine| async move {
            let (kind, _) = failed(engine.start(call)).await;
            let ErrorKind::Invalid { subject, message, hint } = kind else { panic!("{kind:?}") };
            assert_eq!(subject, "input");
            assert!(
                message.starts_with("it takes 1") && message.ends_with("and a message may have 500"),
                "{message}"
            );
            assert_eq!(hint, "hand over the name of a file, or raise `Limits::message`");
        },
    );
}
