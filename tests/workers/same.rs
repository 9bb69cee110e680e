//! The same tool in Bun, Node.js, Deno and Python: the same value, byte by byte, and the same outcome.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::{ended, failed, succeeded, with_engine};
use tool_engine::{
    Call, Engine, ErrorKind, EventKind, ExecutionError, ExitStatus, Limits, Report, ToolPhase,
};
use tool_runtimes::{Runtime, Tool, Tools};

use super::{fixtures, runtimes, told};

const RUNTIMES: [Runtime; 4] = [Runtime::Bun, Runtime::Node, Runtime::Deno, Runtime::Python];

/// The programs: each is there as `NAME.mjs` and as `NAME.py`; and the export that is the tool.
const ROWS: [(&str, Option<&str>); 33] = [
    ("default", None),
    ("named", Some("wordCount")),
    ("several-functions", Some("second")),
    ("several-functions", None),
    ("only-function", None),
    ("async", None),
    ("generator", None),
    ("generator-throws", None),
    ("undefined", None),
    ("cycle", None),
    ("half-surrogate", None),
    ("throws-error", None),
    ("throws-class", None),
    ("throws-cause", None),
    ("uncaught-timer", None),
    ("uncaught-after", None),
    ("exits-seven", None),
    ("exits-zero", None),
    ("exits-after-output", None),
    ("load-throws", None),
    ("load-syntax", None),
    ("load-missing", None),
    ("load-exits", None),
    ("no-exports", None),
    ("not-a-function", Some("nothing")),
    ("channel-garbage", None),
    ("log", None),
    ("progress", None),
    ("progress-after", None),
    ("open-server", None),
    ("open-timer", None),
    ("stdout-lines", None),
    ("result-big", None),
];

/// An engine's catalog with every row in every runtime, each named `RUNTIME.NAME` and, where there is one, its export.
fn catalog(rows: &[(&str, Option<&str>)]) -> Tools {
    let rows = RUNTIMES.iter().flat_map(|runtime| rows.iter().map(move |row| (*runtime, *row)));
    rows.fold(runtimes(Tools::builder()), |tools, (runtime, (row, export))| {
        let ending = if runtime == Runtime::Python { "py" } else { "mjs" };
        let mut tool =
            Tool::script(name(runtime, row, export), runtime, fixtures().join(format!("{row}.{ending}")));
        if let Some(export) = export {
            tool = tool.export(export);
        }
        tools.tool(tool)
    })
    .build()
    .expect("tools")
}

fn name(runtime: Runtime, row: &str, export: Option<&str>) -> String {
    format!("{}.{row}.{}", runtime.name(), export.unwrap_or_default()).trim_end_matches('.').to_owned()
}

/// What must be the same: the value as JSON, or what went wrong. The words of a language's own errors are its own.
fn outcome(end: &Result<Report, ExecutionError>) -> String {
    match end {
        Ok(report) => format!("ok: {}", report.value.as_ref().unwrap_or(&Value::Null)),
        Err(error) => outcome_of(error.kind()),
    }
}

fn outcome_of(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::Tool(error) if error.phase == ToolPhase::Run => format!("thrown: {}", error.message),
        ErrorKind::Tool(error) => format!("{:?}", error.phase),
        ErrorKind::Protocol { fault, .. } => format!("{fault:?}"),
        kind => kind.to_string(),
    }
}

async fn call(engine: &Engine, runtime: Runtime, row: &str, export: Option<&str>) -> String {
    let input = json!({ "text": "one two three" });
    let run = engine.start(Call::tool(name(runtime, row, export), input));
    let mut events = run.events_from(0);
    let outcome = outcome(&ended(run).await);
    let told = std::iter::from_fn(|| events.try_next()).filter_map(|event| match event.kind {
        EventKind::Progress(progress) => serde_json::to_string(&progress).ok(),
        // What else an error drags along is its language's own.
        EventKind::Log(log) => Some(format!("{}: {}", log.level, log.message)),
        _ => None,
    });
    // Only what is said before the value: what comes after it is noted in each language's own words.
    [outcome]
        .into_iter()
        .chain(told.filter(|line| !line.contains("after the end")))
        .collect::<Vec<_>>()
        .join("\n")
}

/// In all runtimes at once.
async fn in_each<F: Future<Output = String>>(call: impl Fn(Runtime) -> F) -> [(Runtime, String); 4] {
    let [bun, node, deno, python] = RUNTIMES.map(&call);
    let (bun, node, deno, python) = tokio::join!(bun, node, deno, python);
    [(RUNTIMES[0], bun), (RUNTIMES[1], node), (RUNTIMES[2], deno), (RUNTIMES[3], python)]
}

#[test]
fn every_row_ends_the_same_in_every_runtime() {
    with_engine(
        |engine| engine.catalog(catalog(&ROWS)),
        |engine| async move {
            let mut different = BTreeMap::new();
            for (row, export) in ROWS {
                let mut outcomes = in_each(|runtime| call(&engine, runtime, row, export)).await;
                if outcomes.iter().any(|(_, outcome)| *outcome != outcomes[0].1) {
                    for (_, outcome) in &mut outcomes {
                        outcome.truncate(300);
                    }
                    different.insert(row, outcomes);
                }
            }
            assert!(different.is_empty(), "{different:#?}");
        },
    );
}

#[test]
fn what_is_thrown_has_the_same_fields_and_cause_in_every_runtime() {
    let rows = ["throws-error", "throws-cause"].map(|row| (row, None));
    with_engine(
        |engine| engine.catalog(catalog(&rows)),
        |engine| async move {
            for runtime in RUNTIMES {
                let thrown = async |row| {
                    let call = Call::tool(name(runtime, row, None), json!({ "text": "" }));
                    let (kind, _) = failed(engine.start(call)).await;
                    let ErrorKind::Tool(error) = kind else { panic!("{runtime} {row}: {kind}") };
                    assert!(error.stack.is_some_and(|stack| stack.contains(row)), "{runtime} {row}");
                    (error.phase, error.message, error.data.unwrap_or_default())
                };
                let data = json!({ "code": "E_INPUT", "at": { "line": 3 } });
                assert_eq!(
                    thrown("throws-error").await,
                    (ToolPhase::Run, "bad input".into(), data),
                    "{runtime}"
                );
                let (phase, message, data) = thrown("throws-cause").await;
                assert_eq!((phase, message.as_str()), (ToolPhase::Run, "outer"), "{runtime}");
                let (inner, root) = (&data["cause"], &data["cause"]["data"]["cause"]);
                assert_eq!(inner["message"], "inner", "{runtime}: {data}");
                // A KeyError shows its key as Python writes it.
                let of_root = if runtime == Runtime::Python { "'root'" } else { "root" };
                assert_eq!(root["message"], of_root, "{runtime}: {data}");
            }
        },
    );
}

#[test]
fn a_file_that_takes_the_channels_place_gets_nothing_of_it_in_any_runtime() {
    with_engine(
        |engine| engine.catalog(catalog(&[("reuses-channel", None)])),
        |engine| async move {
            for runtime in RUNTIMES {
                let file = tempfile::NamedTempFile::new().unwrap();
                let call = Call::tool(name(runtime, "reuses-channel", None), json!({ "file": file.path() }));
                let (kind, _) = failed(engine.start(call)).await;
                // Among what it closes is Node's own, which aborts.
                let by_itself = kind == ErrorKind::Process { status: ExitStatus::Signal(6) };
                let exited = matches!(kind, ErrorKind::Process { status: ExitStatus::Code(1..) });
                assert!(exited || (by_itself && runtime == Runtime::Node), "{runtime}: {kind}");
                assert_eq!(file.as_file().metadata().unwrap().len(), 0, "{runtime}");
            }
        },
    );
}

#[test]
fn what_is_waited_for_in_vain_is_told_where_the_runtime_can_tell() {
    const NEVER: &str = "nothing is left that could settle the promise the tool waits for";
    let able = [Runtime::Bun, Runtime::Node, Runtime::Deno];
    let tools = able.iter().fold(runtimes(Tools::builder()), |tools, runtime| {
        let file = fixtures().join("load-never.mjs");
        tools.tool(Tool::script(name(*runtime, "load-never", None), *runtime, file))
    });
    with_engine(
        |engine| engine.catalog(tools.build().expect("tools")),
        |engine| async move {
            for runtime in able {
                let (kind, report) =
                    failed(engine.start(Call::tool(name(runtime, "load-never", None), 1))).await;
                match kind {
                    ErrorKind::Tool(error) if runtime != Runtime::Deno => {
                        assert_eq!((error.phase, error.message.as_str()), (ToolPhase::Load, NEVER));
                    }
                    // Deno finds it out itself, ends, and says so.
                    ErrorKind::Process { status: ExitStatus::Code(1) } if runtime == Runtime::Deno => {
                        assert!(report.stderr.text().contains("never resolved"), "{}", report.stderr.text());
                    }
                    other => panic!("{runtime}: {other}"),
                }
            }
        },
    );
    with_engine(
        |engine| engine.catalog(catalog(&[("never-settles", None)])),
        |engine| async move {
            for runtime in RUNTIMES {
                let call = Call::tool(name(runtime, "never-settles", None), 1);
                if runtime == Runtime::Python {
                    // A loop of asyncio's cannot know that nothing will come any more.
                    let call = call.timeout(std::time::Duration::from_millis(700));
                    let (kind, _) = failed(engine.start(call)).await;
                    assert_eq!(kind.name(), "timeout", "{kind}");
                } else {
                    let (kind, _) = failed(engine.start(call)).await;
                    assert_eq!(outcome_of(&kind), format!("thrown: {NEVER}"), "{runtime}");
                }
            }
        },
    );
}

#[test]
fn a_value_that_is_too_deep_is_no_result() {
    with_engine(
        |engine| engine.catalog(catalog(&[("deep", None)])),
        |engine| async move {
            for runtime in RUNTIMES {
                let (kind, _) = failed(engine.start(Call::tool(name(runtime, "deep", None), 1))).await;
                // Newer V8 writes it, whatever the depth; then it is the engine that does not read it.
                assert_eq!(outcome_of(&kind), "Result", "{runtime}: {kind}");
            }
        },
    );
}

#[test]
fn typescript_is_the_same_in_every_runtime_that_runs_it() {
    let able = [Runtime::Bun, Runtime::Node, Runtime::Deno];
    let file = fixtures().join("typescript.ts");
    let tools = able.iter().fold(runtimes(Tools::builder()), |tools, runtime| {
        tools.tool(Tool::script(runtime.name(), *runtime, &file))
    });
    with_engine(
        |engine| engine.catalog(tools.build().expect("tools")),
        |engine| async move {
            for runtime in able {
                let call = Call::tool(runtime.name(), json!({ "text": "one two three" }));
                let report = succeeded(engine.start(call)).await;
                assert_eq!(report.value, Some(json!({ "words": 3, "kind": 1 })), "{runtime}");
                assert!(report.stderr.is_empty(), "{runtime}: {}", report.stderr.text());
            }
        },
    );
}

#[test]
fn where_the_languages_differ() {
    let rows = ["nan", "async-generator", "closes-channel", "open-child"].map(|row| (row, None));
    with_engine(
        |engine| engine.catalog(catalog(&rows)),
        |engine| async move {
            let engine = &engine;
            let outcomes = async |row| {
                let told = in_each(|runtime| call(engine, runtime, row, None)).await;
                told.map(|(runtime, told)| (runtime, told.lines().next().unwrap_or_default().to_owned()))
            };
            // JSON.stringify says null; in Python it is a value that JSON cannot carry.
            let nan = outcomes("nan").await.map(|(_, outcome)| outcome);
            assert_eq!(nan, ["ok: null", "ok: null", "ok: null", "Result"]);
            // An async generator of Python's has no return value.
            let generator = outcomes("async-generator").await.map(|(_, outcome)| outcome);
            assert_eq!(generator, [r#"ok: "done""#, r#"ok: "done""#, r#"ok: "done""#, "ok: null"]);
            // Closing all descriptors closes Node's own ones, too, which it aborts on.
            for (runtime, outcome) in outcomes("closes-channel").await {
                let of_node = runtime == Runtime::Node && outcome.starts_with("killed by SIGABRT");
                assert!(of_node || outcome == "exited with code 1", "{runtime}: {outcome}");
            }
            // The value is the child's process id.
            for (runtime, outcome) in outcomes("open-child").await {
                let pid = outcome.strip_prefix("ok: ").and_then(|pid| pid.parse::<u32>().ok());
                assert!(pid.is_some(), "{runtime}: {outcome}");
            }
        },
    );
}

#[test]
fn twenty_mib_in_and_printed_arrive_whole_in_every_runtime() {
    const MIB_20: usize = 20 << 20;
    let rows = ["input-big", "stdout-big"].map(|row| (row, None));
    with_engine(
        |engine| engine.catalog(catalog(&rows)),
        |engine| async move {
            let text = format!("{}end", "x".repeat(MIB_20));
            for runtime in RUNTIMES {
                let input = Call::tool(name(runtime, "input-big", None), json!({ "text": text }));
                let value = succeeded(engine.start(input)).await.value;
                assert_eq!(value, Some(json!({ "length": MIB_20 + 3, "last": "end" })), "{runtime}");
                let prints = Call::tool(name(runtime, "stdout-big", None), 1)
                    .limits(Limits { stdout: Some(64 << 20), ..Limits::default() });
                let stdout = succeeded(engine.start(prints)).await.stdout;
                assert_eq!((stdout.total(), stdout.dropped()), (MIB_20 as u64, 0), "{runtime}");
            }
        },
    );
}

#[test]
fn a_cancel_reaches_the_tool_in_every_runtime() {
    let rows = ["signal-respected", "signal-generator", "signal-ignored"].map(|row| (row, None));
    with_engine(
        |engine| engine.catalog(catalog(&rows)),
        |engine| async move {
            for (row, _) in rows {
                for runtime in RUNTIMES {
                    let call = Call::tool(name(runtime, row, None), 1);
                    let run = engine.start(call.kill_grace(std::time::Duration::from_millis(1500)));
                    told(&run, "waiting").await;
                    run.cancel("enough");
                    let (kind, report) = failed(run).await;
                    assert_eq!(kind.name(), "canceled", "{runtime} {row}");
                    let killed = report.exit == Some(ExitStatus::Signal(9));
                    assert_eq!(killed, row == "signal-ignored", "{runtime} {row}: {:?}", report.exit);
                }
            }
        },
    );
}
