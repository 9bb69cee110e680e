//! Each row of the table of what a tool can do, and its outcome.

use serde_json::{Value, json};
use support::{ended, failed, succeeded, with_engine};
use tool_engine::{
    Call, CancelSource, ErrorKind, EventKind, ExitStatus, Progress, ProtocolFault, ToolError, ToolPhase,
};

use super::{name, progress, told, with_tool, with_tools};

const TEXT: &str = "one two three";

/// Calls each program, all at once, and hands its value to the check.
fn each_gives(rows: &[(&str, Option<&str>, Value)]) {
    let tools: Vec<_> = rows.iter().map(|(file, export, _)| (*file, *export)).collect();
    with_engine(with_tools(&tools), |engine| async move {
        let runs: Vec<_> = tools
            .iter()
            .map(|(file, export)| engine.start(Call::tool(name(file, *export), json!({ "text": TEXT }))))
            .collect();
        for (run, (file, _, value)) in runs.into_iter().zip(rows) {
            let report = succeeded(run).await;
            assert_eq!(report.value.as_ref(), Some(value), "{file}");
        }
    });
}

/// A program, its export, and what must hold for what it throws.
type Row<'a> = (&'a str, Option<&'a str>, &'a dyn Fn(&ToolError) -> bool);

/// Calls each program, all at once, and hands what it threw to the check.
fn each_throws(rows: &[Row<'_>]) {
    let tools: Vec<_> = rows.iter().map(|(file, export, _)| (*file, *export)).collect();
    with_engine(with_tools(&tools), |engine| async move {
        let runs: Vec<_> = tools
            .iter()
            .map(|(file, export)| engine.start(Call::tool(name(file, *export), json!({ "text": TEXT }))))
            .collect();
        for (run, (file, _, check)) in runs.into_iter().zip(rows) {
            let (kind, report) = failed(run).await;
            let ErrorKind::Tool(error) = kind else { panic!("{file}: {kind} {report:?}") };
            assert!(check(&error), "{file}: {error:?}");
        }
    });
}

#[test]
fn what_it_returns_is_the_result() {
    let count = json!({ "words": 3 });
    each_gives(&[
        ("default.mjs", None, count.clone()),
        ("async.mjs", None, count.clone()),
        ("named.mjs", Some("wordCount"), count.clone()),
        ("only-function.mjs", None, count.clone()),
        ("esm.js", None, count.clone()),
        ("commonjs.js", None, count.clone()),
        ("commonjs-function.cjs", None, count.clone()),
        ("commonjs-object.cjs", Some("wordCount"), count.clone()),
        ("commonjs-exports.cjs", Some("wordCount"), count.clone()),
        ("commonjs-compiled.cjs", None, count),
        ("typescript.ts", None, json!({ "words": 3, "kind": 1 })),
        ("to-json.mjs", None, json!({ "at": "1970-01-01T00:00:00.000Z", "own": "shown" })),
        ("half-surrogate.mjs", None, json!(["\u{fffd}", "\\ud83d", "\\\u{fffd}", "😀"])),
        ("patches-globals.mjs", None, json!({ "ok": true, "text": TEXT })),
        ("exit-code.mjs", None, json!(1)),
    ]);
}

#[test]
fn what_is_no_value_is_null() {
    each_gives(&[
        ("undefined.mjs", None, Value::Null),
        ("function.mjs", None, Value::Null),
        ("symbol.mjs", None, Value::Null),
        ("nan.mjs", None, Value::Null),
    ]);
}

#[test]
fn what_json_cannot_carry_is_an_error_of_the_result() {
    let in_result =
        |name: &'static str| move |error: &ToolError| error.phase == ToolPhase::Result && error.name == name;
    each_throws(&[
        ("cycle.mjs", None, &in_result("TypeError")),
        ("bigint.mjs", None, &in_result("TypeError")),
        ("to-json-throws.mjs", None, &|error| {
            error.phase == ToolPhase::Result && error.message == "cannot show"
        }),
    ]);
}

#[test]
fn what_it_throws_arrives_with_its_fields_and_cause() {
    let run = |name: &'static str, message: &'static str| {
        move |error: &ToolError| {
            (error.phase, error.name.as_str(), error.message.as_str()) == (ToolPhase::Run, name, message)
        }
    };
    let data = |error: &ToolError| error.data.clone().unwrap_or_default();
    each_throws(&[
        ("throws-error.mjs", None, &|error| {
            run("TypeError", "bad input")(error)
                && data(error) == json!({ "code": "E_INPUT", "at": { "line": 3 } })
                && error.stack.as_ref().is_some_and(|stack| stack.contains("throws-error.mjs:3"))
        }),
        ("throws-class.mjs", None, &|error| {
            run("QuotaError", "too much")(error) && data(error)["limit"] == 5
        }),
        ("throws-cause.mjs", None, &|error| {
            run("Error", "outer")(error)
                && data(error)["cause"]["message"] == "inner"
                && data(error)["cause"]["data"]["cause"]["message"] == "root"
        }),
        ("throws-cause-cycle.mjs", None, &run("Error", "again")),
        ("throws-aggregate.mjs", None, &|error| {
            run("AggregateError", "both")(error) && data(error)["errors"][0]["name"] == "TypeError"
        }),
        ("throws-like-error.mjs", None, &|error| run("Refused", "no")(error) && data(error)["code"] == 7),
        ("throws-string.mjs", None, &run("NonError", "just text")),
        ("throws-null.mjs", None, &run("NonError", "null")),
        ("throws-undefined.mjs", None, &run("NonError", "undefined")),
        ("throws-object.mjs", None, &|error| error.name == "NonError" && data(error).is_object()),
        ("throws-proxy.mjs", None, &|error| error.name == "NonError"),
        ("throws-getters.mjs", None, &|error| error.phase == ToolPhase::Run),
        ("throws-bad-stack.mjs", None, &|error| run("Error", "odd")(error) && error.stack.is_none()),
        ("throws-huge.mjs", None, &|error| {
            run("Error", "huge")(error) && serde_json::to_string(error).is_ok_and(|line| line.len() < 1 << 20)
        }),
        ("patches-stack.mjs", None, &run("Error", "structured")),
        ("uncaught-timer.mjs", None, &run("Error", "in a timer")),
        ("unhandled-rejection.mjs", None, &run("Error", "forgotten")),
        ("never-settles.mjs", None, &|error| error.message.contains("nothing is left")),
        ("generator-throws.mjs", None, &run("RangeError", "too far")),
    ]);
}

#[test]
fn what_cannot_be_loaded_says_why() {
    let load = |words: &'static str| {
        move |error: &ToolError| error.phase == ToolPhase::Load && error.message.contains(words)
    };
    each_throws(&[
        ("load-throws.mjs", None, &load("no database")),
        ("load-rejects.mjs", None, &load("connect failed")),
        ("load-missing.mjs", None, &load("no-such-package-here")),
        ("load-never.mjs", None, &load("nothing is left")),
        ("load-syntax.mjs", None, &load("")),
        ("load-syntax.ts", None, &|error| {
            error.phase == ToolPhase::Load
                && error.stack.as_ref().is_some_and(|stack| stack.contains("load-syntax.ts:4"))
        }),
        ("no-exports.mjs", None, &load("exports nothing")),
        ("several-functions.mjs", None, &load("wordCount")),
        ("not-a-function.mjs", Some("limit"), &load("limit is not a function")),
        ("named.mjs", Some("missing"), &load("no export missing")),
    ]);
}

#[test]
fn a_process_that_ends_without_a_result_is_told_by_its_exit_code() {
    let files = ["exits-zero.mjs", "exits-seven.mjs", "load-exits.mjs", "closes-channel.mjs"];
    with_engine(with_tools(&files.map(|file| (file, None))), |engine| async move {
        let [zero, seven, load, closed] = files.map(|file| engine.start(Call::tool(file, 1)));
        assert!(matches!(failed(zero).await.0, ErrorKind::Protocol { fault: ProtocolFault::NoResult, .. }));
        assert_eq!(failed(seven).await.0, ErrorKind::Process { status: ExitStatus::Code(7) });
        assert_eq!(failed(load).await.0, ErrorKind::Process { status: ExitStatus::Code(3) });
        assert!(matches!(failed(closed).await.0, ErrorKind::Process { status: ExitStatus::Code(1..) }));
    });
}

#[test]
fn a_file_that_takes_the_channels_place_gets_nothing_of_it() {
    with_tool("reuses-channel.mjs", |engine| async move {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (kind, _) =
            failed(engine.start(Call::tool("reuses-channel.mjs", json!({ "file": file.path() })))).await;
        assert!(matches!(kind, ErrorKind::Process { status: ExitStatus::Code(1..) }), "{kind}");
        assert_eq!(file.as_file().metadata().unwrap().len(), 0);
    });
}

#[test]
fn garbage_on_the_channel_and_a_second_result_are_counted_and_do_no_harm() {
    with_tool("channel-garbage.mjs", |engine| async move {
        let report = succeeded(engine.start(Call::tool("channel-garbage.mjs", 1))).await;
        assert_eq!(report.value, Some(json!("forged")), "the first result is the result");
        assert!(report.discarded_messages >= 1, "{report:?}");
    });
}

#[test]
fn yields_and_progress_are_events_and_the_return_value_is_the_result() {
    let of = |fraction: Option<f64>, message: Option<&str>, data: Option<Value>| Progress {
        fraction,
        message: message.map(str::to_owned),
        data,
    };
    with_engine(
        with_tools(&[("generator.mjs", None), ("async-generator.mjs", None), ("progress.mjs", None)]),
        |engine| async move {
            let runs = ["generator.mjs", "async-generator.mjs", "progress.mjs"]
                .map(|file| engine.start(Call::tool(file, 1)));
            let [mut generator, mut asynchronous, mut plain] = runs;
            assert_eq!((&mut generator).await.unwrap().value, Some(json!("done")));
            assert_eq!(
                progress(&generator),
                [
                    of(Some(0.5), None, None),
                    of(None, Some("half"), None),
                    of(Some(0.75), Some("most"), None),
                    of(None, None, Some(json!({ "rows": 2 }))),
                ]
            );
            assert_eq!((&mut asynchronous).await.unwrap().value, Some(json!("done")));
            assert_eq!(
                progress(&asynchronous),
                [of(Some(0.5), None, None), of(Some(1.0), Some("all"), None)]
            );
            assert_eq!((&mut plain).await.unwrap().value, Some(Value::Null));
            assert_eq!(progress(&plain).len(), 6);
        },
    );
}

#[test]
fn what_it_logs_is_an_event() {
    with_tool("log.mjs", |engine| async move {
        let run = engine.start(Call::tool("log.mjs", 1));
        let mut events = run.events_from(0);
        ended(run).await.unwrap();
        let logs: Vec<_> = std::iter::from_fn(|| events.try_next())
            .filter_map(|event| match event.kind {
                EventKind::Log(log) => Some((log.level, log.message)),
                _ => None,
            })
            .collect();
        let expected = [("warn", "careful"), ("info", "plain"), ("error", "broken"), ("info", "loop")];
        assert_eq!(logs, expected.map(|(level, message)| (level.to_owned(), message.to_owned())));
    });
}

#[test]
fn a_cancel_reaches_the_tool_as_its_signal() {
    let files = ["signal-respected.mjs", "signal-throws.mjs", "signal-ignored.mjs", "signal-generator.mjs"];
    with_engine(with_tools(&files.map(|file| (file, None))), |engine| async move {
        for file in files {
            let call = Call::tool(file, 1).kill_grace(std::time::Duration::from_millis(1500));
            let run = engine.start(call);
            told(&run, "waiting").await;
            run.cancel("enough");
            let (kind, report) = failed(run).await;
            let expected = ErrorKind::Canceled { by: CancelSource::Caller, reason: Some("enough".into()) };
            assert_eq!(kind, expected, "{file}: whatever it still says, it was canceled");
            let ignored = file == "signal-ignored.mjs";
            assert_eq!(report.exit == Some(ExitStatus::Signal(9)), ignored, "{file}: {:?}", report.exit);
        }
    });
}

#[test]
fn nothing_that_comes_after_the_result_changes_it() {
    each_gives(&[("uncaught-after.mjs", None, json!(1)), ("progress-after.mjs", None, json!(1))]);
}
