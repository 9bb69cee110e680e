//! Promises: an input that does not fit its tool's schema never reaches the tool, and the error says in words where it does
//! not fit; a value that does not fit is an error of the tool's; a schema from outside counts more than the one that the
//! tool's own file declares.
//!
//! Does not promise: that a schema from a tool's own file is checked before its process is started (it is not known
//! earlier).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{failed, succeeded, with_engine};
use tool_engine::{Call, ErrorKind, ToolPhase};
use tool_runtimes::{Runtime, Schema, Tool, Tools};

fn fixture(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(path);
    assert!(path.exists(), "{} is not there: run scripts/setup", path.display());
    path
}

fn schema(source: Value) -> Schema {
    Schema::new(source).expect("a schema")
}

/// `declares-schema` in each of the runtimes with a worker, under the runtime's name.
fn declaring() -> Tools {
    let runtimes = [
        (Runtime::Bun, "node_modules/.bin/bun", "mjs"),
        (Runtime::Node, "node_modules/.bin/node", "mjs"),
        (Runtime::Deno, "node_modules/.bin/deno", "mjs"),
        (Runtime::Python, ".venv/bin/python3", "py"),
    ];
    let builder = runtimes.into_iter().fold(Tools::builder(), |builder, (runtime, program, ending)| {
        let entry = fixture(&format!("workers/declares-schema.{ending}"));
        builder.runtime(runtime, fixture(program)).tool(Tool::script(runtime.name(), runtime, entry))
    });
    builder.build().expect("tools")
}

#[test]
fn a_schema_in_the_tools_own_file_is_held_to_in_every_runtime() {
    with_engine(
        |engine| engine.catalog(declaring()),
        |engine| async move {
            for tool in ["bun", "node", "deno", "python"] {
                let report =
                    succeeded(engine.start(Call::tool(tool, json!({ "text": "one two three" })))).await;
                assert_eq!(report.value, Some(json!({ "words": 3 })), "{tool}");
                let (kind, report) = failed(engine.start(Call::tool(tool, json!({ "text": 3 })))).await;
                let ErrorKind::Invalid { subject, message, .. } = kind else { panic!("{tool}: {kind}") };
                assert_eq!(subject, format!("input of tool {tool:?}"));
                assert_eq!(message, "text: is 3, not a text");
                assert_eq!(report.stdout.total(), 0, "{tool} was not called");
                let description = succeeded(engine.start(Call::description(tool))).await.value.unwrap();
                assert_eq!(description["input_schema"]["required"], json!(["text"]), "{tool}");
                assert_eq!(description["description"], "Counts words", "{tool}");
            }
        },
    );
}

#[test]
fn an_input_that_does_not_fit_starts_nothing() {
    let tool = Tool::command("t", ["cat"]).input_schema(schema(json!({
        "type": "object",
        "required": ["text"],
        "properties": { "text": { "type": "string" }, "top": { "type": "integer", "minimum": 1 } },
        "additionalProperties": false,
    })));
    let tools = Tools::builder().tool(tool).build().unwrap();
    with_engine(
        |engine| engine.catalog(tools),
        |engine| async move {
            let good = json!({ "text": "a", "top": 2 });
            assert_eq!(succeeded(engine.start(Call::tool("t", good.clone()))).await.value, Some(good));
            for (input, words) in [
                (json!({}), "text: is missing"),
                (json!({ "text": "a", "top": 0 }), "top: is 0, less than the least allowed, 1"),
                (json!({ "text": "a", "topp": 1 }), "topp: is an unknown field; known are: text, top"),
                (json!([]), "is [], not an object"),
            ] {
                let (kind, report) = failed(engine.start(Call::tool("t", input))).await;
                assert!(matches!(&kind, ErrorKind::Invalid { .. }), "{kind}");
                assert!(kind.to_string().contains(words), "{kind}");
                assert_eq!((report.exit, report.enforced), (None, None));
            }
        },
    );
}

#[test]
fn a_value_that_does_not_fit_is_the_tools_mistake() {
    let tool = Tool::command("t", ["echo", "{\"words\":\"three\"}"])
        .output_schema(schema(json!({ "properties": { "words": { "type": "integer" } } })));
    let tools = Tools::builder().tool(tool).build().unwrap();
    with_engine(
        |engine| engine.catalog(tools),
        |engine| async move {
            let (kind, _) = failed(engine.start(Call::tool("t", Value::Null))).await;
            let ErrorKind::Tool(error) = kind else { panic!("{kind}") };
            assert_eq!((error.phase, error.name.as_str()), (ToolPhase::Result, "OutputError"));
            assert!(error.message.contains("words: is \"three\", not"), "{}", error.message);
        },
    );
}

#[test]
fn a_schema_from_outside_counts_more_than_the_tools_own() {
    let tool = Tool::script("t", Runtime::Bun, fixture("workers/declares-schema.mjs"))
        .input_schema(schema(json!({ "required": ["text", "more"] })));
    let tools = Tools::builder().runtime(Runtime::Bun, fixture("node_modules/.bin/bun")).tool(tool);
    let tools = tools.build().unwrap();
    with_engine(
        |engine| engine.catalog(tools),
        |engine| async move {
            let (kind, _) = failed(engine.start(Call::tool("t", json!({ "text": "a" })))).await;
            assert!(kind.to_string().contains("more: is missing"), "{kind}");
            succeeded(engine.start(Call::tool("t", json!({ "text": "a", "more": 1 })))).await;
        },
    );
}

#[test]
fn a_command_declares_nothing_about_itself() {
    let tools = Tools::builder().tool(Tool::command("t", ["true"])).build().unwrap();
    with_engine(
        |engine| engine.catalog(tools),
        |engine| async move {
            let (kind, _) = failed(engine.start(Call::description("t"))).await;
            assert!(kind.to_string().contains("declares nothing"), "{kind}");
        },
    );
}
