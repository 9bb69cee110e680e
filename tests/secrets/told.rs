//! What a tool says otherwise than by its output, and what is said about it.

use std::sync::Arc;

use serde_json::{Value, json};
use support::{OneTool, Scripted, ended, failed, sh_up, succeeded, with_engine};
use tool_engine::{Call, Contract, Declared, ErrorKind, Overflow, Secret, ToolError, ToolPhase};

use crate::{TOKEN, all_told, assert_masked, plain};

/// A worker's message, to be written as it is.
fn line(message: &serde_json::Value) -> String {
    format!("line={message}")
}

#[test]
fn messages_of_a_worker_are_masked() {
    with_engine(
        |builder| builder.catalog(Scripted),
        |engine| async move {
            let said = [
                line(&json!({ "type": "progress", "message": TOKEN, "data": { TOKEN: [TOKEN] } })),
                line(&json!({ "type": "log", "level": "info", "message": TOKEN, "data": TOKEN })),
                line(&json!([TOKEN])),
                line(&json!({ "type": "result", "value": { "a": [TOKEN, { TOKEN: 1, "***": 2 }] } })),
            ];
            let steps: Vec<&str> = ["begin"].into_iter().chain(said.iter().map(String::as_str)).collect();
            let run = engine.start(Scripted::call(&steps).secret("TOKEN", TOKEN));
            let events = run.events();
            let end = ended(run).await;
            assert_masked(&all_told(events, &end));
            let report = end.expect("it succeeds");
            assert_eq!(report.value, Some(json!({ "a": ["***", { "***": 1, "****": 2 }] })));
        },
    );
}

#[test]
fn what_a_tool_throws_is_masked() {
    with_engine(
        |builder| builder.catalog(Scripted),
        |engine| async move {
            let thrown = line(&json!({
                "type": "error", "phase": "run", "name": format!("E{TOKEN}"), "message": format!("bad: {TOKEN}"),
                "stack": format!("Error: {TOKEN}\n    at {TOKEN}"), "data": { "cause": { "token": TOKEN } },
            }));
            let run = engine.start(Scripted::call(&["begin", &thrown]).secret("TOKEN", TOKEN));
            let events = run.events();
            let end = ended(run).await;
            assert_masked(&all_told(events, &end));
            let error = end.expect_err("it throws");
            let ErrorKind::Tool(tool) = error.kind() else { panic!("{error}") };
            assert_eq!((tool.name.as_str(), tool.message.as_str()), ("E***", "bad: ***"));
            assert_eq!(tool.stack.as_deref(), Some("Error: ***\n    at ***"));
            assert_eq!(tool.data, Some(json!({ "cause": { "token": "***" } })));
        },
    );
}

#[test]
fn an_excerpt_of_garbage_is_masked_before_it_is_cut() {
    with_engine(
        |builder| builder.catalog(Scripted),
        |engine| async move {
            for before in [0, 180, 190, 199] {
                let garbage = format!("line={}{TOKEN}", "x".repeat(before));
                let run = engine.start(Scripted::call(&["begin", &garbage]).secret("TOKEN", TOKEN));
                let (kind, _) = failed(run).await;
                let ErrorKind::Protocol { excerpt, .. } = &kind else { panic!("{kind}") };
                let expected: String = "x".repeat(before).chars().chain("***".chars()).take(200).collect();
                assert_eq!(*excerpt, expected);
            }
        },
    );
}

#[test]
fn a_value_on_stdout_is_masked_as_output_and_as_value() {
    let mut plan = OneTool::stdio(r#"printf '{"plain": "<%s>", "escaped": "\\u0074he other one"}' "$OTHER""#);
    let secret = Secret::new("OTHER", "the other one").expect("a good secret");
    plan.0.secrets.push(secret);
    with_engine(
        |builder| builder.catalog(plan),
        |engine| async move {
            let report = succeeded(engine.start(Call::tool("tool", json!(null)))).await;
            assert_eq!(report.value, Some(json!({ "plain": "<***>", "escaped": "***" })));
        },
    );
}

/// The text in JSON, each character of it escaped.
fn escaped(text: &str) -> String {
    text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect()
}

#[test]
fn a_value_on_stdout_is_parsed_before_it_is_masked() {
    let plan = OneTool::stdio(
        r#"printf '{"number":%s,"in it":1%s.5,"near":1234568,"escaped":"%s"}' "$PIN" "$PIN" "$ESCAPED""#,
    );
    with_engine(
        |builder| builder.catalog(plan),
        |engine| async move {
            let call = Call::tool("tool", json!(null)).env("ESCAPED", escaped(TOKEN));
            let call = call.secret("PIN", "1234567").secret("TOKEN", TOKEN);
            let run = engine.start(call);
            let events = run.events();
            let end = ended(run).await;
            assert_masked(&all_told(events, &end));
            let report = end.expect("it succeeds");
            // Masked first, it would be no JSON, and nobody would find what is escaped.
            let value = json!({ "number": "***", "in it": "***", "near": 1234568, "escaped": "***" });
            assert_eq!(report.value, Some(value));
            assert!(report.stdout.text().starts_with(r#"{"number":***,"in it":1***.5,"near""#));
        },
    );
}

#[test]
fn whether_a_value_on_stdout_is_too_long_is_told_by_what_the_tool_wrote() {
    let plan = OneTool::stdio(r#"printf '["%s","%s"]' "$TOKEN" "$TOKEN""#);
    with_engine(
        |builder| builder.catalog(plan),
        |engine| async move {
            let secret = "a plain one";
            let length = (2 * secret.len() + r#"["",""]"#.len()) as u64;
            let call = |most| {
                Call::tool("tool", json!(null)).secret("TOKEN", secret).max_output(most, Overflow::Truncate)
            };
            let report = succeeded(engine.start(call(length))).await;
            assert_eq!(report.value, Some(json!(["***", "***"])));
            let (kind, report) = failed(engine.start(call(length - 1))).await;
            assert_eq!(kind.name(), "limit", "{kind}");
            assert_eq!(report.stdout.text(), r#"["***","***"]"#);
        },
    );
}

#[test]
fn a_number_that_is_a_secret_is_one_however_it_is_written() {
    with_engine(
        |builder| builder.catalog(Scripted),
        |engine| async move {
            // More digits than a number keeps, and another way to write it.
            let line = r#"line={"type":"result","value":[12345678901234567890123, 1.5e7, 15000000, 12.5]}"#;
            let call = Scripted::call(&["begin", line]);
            let call = call.secret("LONG", "12345678901234567890123").secret("SHORT", "1.5e7");
            let report = succeeded(engine.start(call)).await;
            assert_eq!(report.value, Some(json!(["***", "***", "***", 12.5])));
        },
    );
}

/// Takes no value but one that is whole and unmasked.
#[derive(Debug)]
struct Whole;

impl Contract for Whole {
    fn check_input(&self, _: &Value, _: &Declared) -> Result<(), ErrorKind> {
        Ok(())
    }

    fn check_output(&self, value: &Value, _: &Declared) -> Result<(), Box<ToolError>> {
        if value["pin"] == 1_234_567 {
            return Ok(());
        }
        Err(Box::new(ToolError {
            phase: ToolPhase::Result,
            name: "OutputError".into(),
            message: value.to_string(),
            stack: None,
            data: None,
        }))
    }
}

#[test]
fn what_a_tool_declares_is_held_against_what_it_returned_not_against_masks() {
    let said = r#"{"pin":1234567}"#;
    let result = format!(r#"line={{"type":"result","value":{said}}}"#);
    for mut plan in [OneTool::stdio(&format!("echo '{said}'")), OneTool::worker(["begin", &result])] {
        plan.0.contract = Some(Arc::new(Whole));
        with_engine(
            |builder| builder.catalog(plan),
            |engine| async move {
                let call = || Call::tool("tool", json!(null));
                let report = succeeded(engine.start(call().secret("PIN", "1234567"))).await;
                assert_eq!(report.value, Some(json!({ "pin": "***" })));
            },
        );
    }
}

/// Takes nothing, and shows the beginning of what it was given, this many characters of it.
#[derive(Debug)]
struct Quoting(usize);

impl Contract for Quoting {
    fn check_input(&self, _: &Value, _: &Declared) -> Result<(), ErrorKind> {
        Ok(())
    }

    fn check_output(&self, value: &Value, _: &Declared) -> Result<(), Box<ToolError>> {
        let shown: String = value.as_str().unwrap_or_default().chars().take(self.0).collect();
        let message = format!("/~1a~1path~1of~1it: is {}, not a number", Value::from(shown + "…"));
        Err(Box::new(ToolError {
            phase: ToolPhase::Result,
            name: "OutputError".into(),
            message,
            stack: None,
            data: None,
        }))
    }
}

#[test]
fn what_an_error_quotes_and_cuts_shows_no_beginning_of_it() {
    for length in 3..=TOKEN.len() {
        let mut plan = OneTool::stdio(r#"printf 'a: %s' "$TOKEN""#);
        plan.0.contract = Some(Arc::new(Quoting(length)));
        with_engine(
            |builder| builder.catalog(plan),
            |engine| async move {
                let call = Call::tool("tool", json!(null))
                    .secret("TOKEN", TOKEN)
                    .secret("PATH_OF_IT", "/a/path/of/it");
                let (kind, _) = failed(engine.start(call)).await;
                let ErrorKind::Tool(error) = &kind else { panic!("{kind}") };
                let shown = match length - 3 {
                    short @ ..=3 => &TOKEN[..short],
                    _ => "***",
                };
                assert_eq!(error.message, format!("/***: is \"a: {shown}…\", not a number"));
            },
        );
    }
}

#[test]
fn the_command_line_of_what_is_left_running_is_masked() {
    with_engine(plain, |engine| async move {
        // The second one's is longer than is kept of it, and cut in the middle of the secret.
        let long = "0".repeat(180);
        let script = format!(r#"sleep 1000 "$NUMBER" & up; sleep {long} "$NUMBER" & up"#);
        let number = "1234567890123456789012345678901234567890";
        let run =
            engine.start(sh_up(&script).secret("NUMBER", number).after_exit(tool_engine::AfterExit::Kill));
        let events = run.events();
        let end = ended(run).await;
        let told = all_told(events, &end);
        assert!(!told.contains("12345"), "{told}");
        let residue = end.expect("it succeeds").residue;
        let mut commands: Vec<_> = residue.iter().map(|left| left.command.as_str()).collect();
        commands.sort_unstable();
        assert_eq!(commands, [&format!("sleep {long} ***…"), "sleep 1000 ***"]);
    });
}

#[test]
fn the_command_itself_and_what_cannot_be_started_are_masked() {
    with_engine(plain, |engine| async move {
        let call = Call::command([TOKEN, TOKEN]).secret("TOKEN", TOKEN);
        let run = engine.start(call);
        let events = run.events();
        let end = ended(run).await;
        assert_masked(&all_told(events, &end));
        let error = end.expect_err("there is no such program");
        assert!(matches!(error.kind(), ErrorKind::Spawn { subject, .. } if subject == "***"), "{error}");
        assert_eq!(error.report().tool, "*** ***");
    });
}
