//! Promises: whatever a tool does in Bun, its outcome is the one that is documented for it; its result, its prints and
//! its input arrive whole; what it leaves running does not hold its result up.
//!
//! Does not promise: that code inside a call cannot forge that call's own result, or write garbage to its own channel.

#[path = "workers/big.rs"]
mod big;
#[path = "workers/same.rs"]
mod same;
#[path = "workers/surroundings.rs"]
mod surroundings;
#[path = "workers/table.rs"]
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
};

use support::{succeeded, with_engine};
use tool_engine::{Call, Engine, EngineBuilder, EventKind, Execution, Progress};
use tool_runtimes::{Runtime, Tool, Tools, ToolsBuilder};

/// Where the programs of this suite are: see each one's first line.
fn fixtures() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/workers"))
        .expect("fixtures/workers")
}

/// A program that `scripts/setup` has put into a folder of the checkout.
fn installed(program: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(program);
    assert!(path.is_file(), "{} is not there: run scripts/setup", path.display());
    // Not followed to its end: a virtual environment is known by the path that its python is called by.
    std::path::absolute(path).expect("the path is absolute")
}

fn bun() -> PathBuf {
    installed("node_modules/.bin/bun")
}

/// The runtimes that have a worker.
fn runtimes(tools: ToolsBuilder) -> ToolsBuilder {
    tools
        .runtime(Runtime::Bun, bun())
        .runtime(Runtime::Node, installed("node_modules/.bin/node"))
        .runtime(Runtime::Deno, installed("node_modules/.bin/deno"))
        .runtime(Runtime::Python, installed(".venv/bin/python3"))
}

/// The name under which a program and one of its exports are declared.
fn name(file: &str, export: Option<&str>) -> String {
    export.map_or(file.to_owned(), |export| format!("{file}.{export}"))
}

/// An engine that knows these programs.
fn with_tools(tools: &[(&str, Option<&str>)]) -> impl FnOnce(EngineBuilder) -> EngineBuilder + use<> {
    let mut builder = Tools::builder().runtime(Runtime::Bun, bun());
    for (file, export) in tools {
        let mut tool = Tool::script(name(file, *export), Runtime::Bun, fixtures().join(file));
        if let Some(export) = export {
            tool = tool.export(*export);
        }
        builder = builder.tool(tool.config(serde_json::json!({ "limit": 3 })));
    }
    let tools = builder.build().expect("tools");
    move |engine| engine.catalog(tools)
}

/// Runs a test with an engine that knows one program, declared under its file name.
fn with_tool<F: Future<Output = ()>>(file: &str, test: impl FnOnce(Engine) -> F) {
    with_engine(with_tools(&[(file, None)]), test);
}

/// Everything that the execution reports as progress, so far.
fn progress(run: &Execution) -> Vec<Progress> {
    let mut events = run.events_from(0);
    std::iter::from_fn(|| events.try_next())
        .filter_map(|event| match event.kind {
            EventKind::Progress(progress) => Some(progress),
            _ => None,
        })
        .collect()
}

/// Waits until the tool has reported this.
async fn told(run: &Execution, message: &str) {
    let mut events = run.events_from(0);
    while let Some(event) = events.next().await {
        match event.kind {
            EventKind::Progress(progress) if progress.message.as_deref() == Some(message) => return,
            EventKind::Ended { error } => panic!("it ended before it said {message:?}: {error:?}"),
            _ => {}
        }
    }
}

#[test]
fn the_tool_finds_the_call_in_its_context() {
    with_tool("context.mjs", |engine| async move {
        let folder = fs::canonicalize("/tmp").unwrap();
        let run = engine.start(Call::tool("context.mjs", 1).workdir(&folder));
        let id = run.id().to_string();
        let value = succeeded(run).await.value.unwrap();
        assert_eq!(value["id"], id);
        assert_eq!(value["config"], serde_json::json!({ "limit": 3 }));
        assert_eq!(value["workdir"], folder.to_str().unwrap());
        assert_eq!((&value["cancelled"], &value["signal"]), (&false.into(), &true.into()));
        assert_eq!(value["channel"], serde_json::Value::Null);
    });
}
