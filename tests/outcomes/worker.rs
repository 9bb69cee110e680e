//! Workers that speak the protocol over their channel: `ok` with a value, `Tool`, `Protocol`, and what is no answer at
//! all. `hostile script` plays the worker.

use serde_json::{Value, json};
use support::{Scripted, ended, failed, succeeded, with_engine};
use tool_engine::{Engine, ErrorKind, EventKind, ExitStatus, Limits, ProtocolFault, Report, ToolPhase};

/// Runs `test` with an engine whose tool is a worker that takes the steps of its input.
fn workers<F: Future<Output = ()>>(test: impl FnOnce(Engine) -> F) {
    with_engine(|builder| builder.catalog(Scripted), test);
}

async fn value(engine: &Engine, steps: &[&str]) -> Report {
    succeeded(engine.start(Scripted::call(steps))).await
}

async fn protocol(engine: &Engine, steps: &[&str]) -> (ProtocolFault, String, ErrorKind, Report) {
    let (kind, report) = failed(engine.start(Scripted::call(steps))).await;
    match kind.clone() {
        ErrorKind::Protocol { fault, excerpt } => (fault, excerpt, kind, report),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_call_gets_there_and_the_result_gets_back() {
    workers(|engine| async move {
        let run = engine.start(Scripted::call(&["begin", "print=a line of its own", "echo"]));
        let id = run.id().to_string();
        let report = succeeded(run).await;
        assert_eq!(
            report.value,
            Some(json!({
                "type": "call", "id": id, "tool": "scripted", "config": null,
                "input": ["begin", "print=a line of its own", "echo"],
            }))
        );
        assert_eq!(&report.stdout.bytes()[..], b"a line of its own\n", "stdout is the tool's own");
        assert_eq!(report.discarded_messages, 0);
    });
}

#[test]
fn any_value_is_a_result_null_included() {
    workers(|engine| async move {
        for result in ["null", "false", "[]", "\"\\u0000\"", "1e300", "{\"type\":\"error\"}"] {
            let line = format!("line={{\"type\":\"result\",\"value\":{result}}}");
            let report = value(&engine, &["begin", &line]).await;
            assert_eq!(report.value, Some(serde_json::from_str(result).unwrap()));
        }
        let report = value(&engine, &["begin", "big=5000000"]).await;
        assert_eq!(report.value.as_ref().and_then(Value::as_str).map(str::len), Some(5_000_000));
    });
}

#[test]
fn an_exit_code_or_a_signal_after_the_result_changes_nothing() {
    workers(|engine| async move {
        let line = "line={\"type\":\"result\",\"value\":7}";
        assert_eq!(value(&engine, &["begin", line, "exit=5"]).await.value, Some(json!(7)));
        assert_eq!(value(&engine, &["begin", line, "kill=9"]).await.value, Some(json!(7)));
    });
}

#[test]
fn a_worker_that_stays_after_its_result_is_killed_and_has_succeeded() {
    workers(|engine| async move {
        let report = value(&engine, &["begin", "line={\"type\":\"result\",\"value\":7}", "hang"]).await;
        assert_eq!((report.value, report.exit), (Some(json!(7)), Some(ExitStatus::Signal(9))));
    });
}

#[test]
fn what_the_tool_threw_is_a_tool_error_in_its_own_words() {
    workers(|engine| async move {
        for (phase, words) in [
            (ToolPhase::Load, "the tool could not be loaded: TypeError: no"),
            (ToolPhase::Run, "TypeError: no"),
            (ToolPhase::Result, "the tool's result cannot be handed over: TypeError: no"),
        ] {
            let name = serde_json::to_value(phase).unwrap();
            let error = json!({
                "type": "error", "phase": name, "name": "TypeError", "message": "no", "stack": "at f", "data": { "a": 1 },
            });
            let (kind, report) =
                failed(engine.start(Scripted::call(&["begin", &format!("line={error}")]))).await;
            assert_eq!(kind.to_string(), words);
            let ErrorKind::Tool(error) = kind else { panic!("{kind:?}") };
            assert_eq!(error.phase, phase);
            assert_eq!((error.stack.as_deref(), error.data), (Some("at f"), Some(json!({ "a": 1 }))));
            assert_eq!(report.value, None);
        }
    });
}

#[test]
fn a_tool_may_fail_to_load_before_it_is_ready() {
    workers(|engine| async move {
        let line =
            "line={\"type\":\"error\",\"phase\":\"load\",\"name\":\"SyntaxError\",\"message\":\"line 3\"}";
        let (kind, _) = failed(engine.start(Scripted::call(&["hello", line, "exit=1"]))).await;
        assert_eq!(kind.to_string(), "the tool could not be loaded: SyntaxError: line 3");
    });
}

#[test]
fn exit_code_0_without_a_result_is_a_protocol_error() {
    let words =
        "the tool ended with exit code 0 but without a result; return a value instead of calling exit";
    workers(|engine| async move {
        for steps in
            [&[][..], &["hello"], &["begin"], &["begin", "close"], &["begin", "part={\"type\":\"result\""]]
        {
            let (fault, excerpt, kind, report) = protocol(&engine, steps).await;
            assert_eq!((fault, excerpt.as_str()), (ProtocolFault::NoResult, ""), "{steps:?}");
            assert_eq!(kind.to_string(), words);
            assert_eq!(report.exit, Some(ExitStatus::Code(0)));
        }
    });
}

#[test]
fn what_came_instead_of_a_result_is_counted_and_the_first_of_it_shown() {
    workers(|engine| async move {
        let steps = ["begin", "line=oops", "line={}", "line=", "line=[1]"];
        let (fault, excerpt, kind, report) = protocol(&engine, &steps).await;
        assert_eq!(
            (fault, excerpt.as_str(), report.discarded_messages),
            (ProtocolFault::NoResult, "oops", 4)
        );
        assert!(kind.to_string().ends_with("calling exit; received: \"oops\""), "{kind}");
        // Nearly right is wrong, too, and is what one wants to see.
        let nearly = r#"{"type":"result","valeu":1}"#;
        let (_, excerpt, _, report) = protocol(&engine, &["begin", &format!("line={nearly}")]).await;
        assert_eq!(excerpt, format!("missing field `value`: {nearly}"));
        assert_eq!(report.discarded_messages, 1);
        let (_, excerpt, _, _) = protocol(&engine, &["begin", "long=100000"]).await;
        assert!(excerpt.len() <= 200 && excerpt.bytes().all(|byte| byte == b'x') && !excerpt.is_empty());
    });
}

#[test]
fn garbage_beside_a_valid_result_is_counted_and_does_no_harm() {
    workers(|engine| async move {
        let line = "line={\"type\":\"result\",\"value\":1}";
        let report = value(&engine, &["line=a", "begin", "line=b", "line=\u{fffd}", line]).await;
        assert_eq!((report.value, report.discarded_messages), (Some(json!(1)), 3));
    });
}

#[test]
fn the_first_result_stands_and_others_are_counted() {
    workers(|engine| async move {
        let first = "line={\"type\":\"result\",\"value\":1}";
        let second = "line={\"type\":\"result\",\"value\":2}";
        let error = "line={\"type\":\"error\",\"phase\":\"run\",\"name\":\"E\",\"message\":\"late\"}";
        // Whether they are read before or after the worker's exit is seen is a matter of luck.
        for _ in 0..30 {
            let report = value(&engine, &["begin", first, second, error]).await;
            assert_eq!((report.value, report.discarded_messages), (Some(json!(1)), 2));
            let (kind, report) = failed(engine.start(Scripted::call(&["begin", error, first]))).await;
            assert_eq!((kind.to_string().as_str(), report.discarded_messages), ("E: late", 1));
        }
    });
}

#[test]
fn a_message_that_is_too_long_ends_the_call_before_it_is_all_there() {
    let words = "the tool's answer is longer than a message may be; return less, or write it to a file";
    workers(|engine| async move {
        for step in ["big=2000", "long=2000", "endless=2000"] {
            let limits = Limits { message: Some(1000), ..Limits::default() };
            let call = Scripted::call(&["begin", step, "hang"]).limits(limits);
            let (kind, report) = failed(engine.start(call)).await;
            assert!(matches!(kind, ErrorKind::Protocol { fault: ProtocolFault::TooLong, .. }), "{kind:?}");
            assert!(kind.to_string().starts_with(words), "{kind}");
            assert_eq!((report.value, report.exit), (None, Some(ExitStatus::Signal(15))));
        }
    });
}

#[test]
fn another_version_of_the_protocol_is_no_misunderstanding() {
    workers(|engine| async move {
        let (fault, _, kind, _) = protocol(&engine, &["hello=2", "ready", "hang"]).await;
        assert_eq!(fault, ProtocolFault::Version);
        assert_eq!(kind.to_string(), "the worker speaks another version of the protocol than this engine");
    });
}

#[test]
fn a_worker_that_ends_otherwise_without_a_result_is_a_process_that_ended() {
    workers(|engine| async move {
        for (step, status) in [
            ("exit=1", ExitStatus::Code(1)),
            ("exit=137", ExitStatus::Code(137)),
            ("kill=9", ExitStatus::Signal(9)),
            ("kill=6", ExitStatus::Signal(6)),
        ] {
            let (kind, _) = failed(engine.start(Scripted::call(&["begin", "line=oops", step]))).await;
            assert_eq!(kind, ErrorKind::Process { status });
        }
    });
}

#[test]
fn progress_and_log_messages_are_events() {
    workers(|engine| async move {
        for _ in 0..30 {
            let run = engine.start(Scripted::call(&[
                "begin",
                "line={\"type\":\"progress\",\"fraction\":0.5,\"message\":\"half\"}",
                "line={\"type\":\"log\",\"level\":\"warn\",\"message\":\"hm\"}",
                "line={\"type\":\"result\",\"value\":1}",
                "line={\"type\":\"log\",\"level\":\"info\",\"message\":\"after\"}",
            ]));
            let mut events = run.events();
            assert_eq!(succeeded(run).await.discarded_messages, 0);
            let mut said = Vec::new();
            while let Some(event) = events.next().await {
                match event.kind {
                    EventKind::Progress(progress) => {
                        said.push(format!("{:?} {:?}", progress.fraction, progress.message))
                    }
                    EventKind::Log(log) => said.push(format!("{} {}", log.level, log.message)),
                    _ => {}
                }
            }
            assert_eq!(said, ["Some(0.5) Some(\"half\")", "warn hm", "info after"]);
        }
    });
}

#[test]
fn what_a_worker_leaves_running_is_killed_with_its_call() {
    workers(|engine| async move {
        let steps = ["begin", "leave=exec sleep 103", "line={\"type\":\"result\",\"value\":1}"];
        let report = ended(engine.start(Scripted::call(&steps))).await.unwrap();
        assert_eq!(report.value, Some(json!(1)));
        // The shell may not have got as far as `sleep`.
        assert!(report.residue.iter().any(|left| left.command.contains("sleep 103")), "{:?}", report.residue);
    });
}
