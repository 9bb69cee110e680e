//! A test from an engine's beginning to its end, and what holds for every ending, whatever the suite is about.

use std::{ffi::OsString, future::Future, sync::LazyLock, time::Duration};

use jsonschema::Validator;
use serde_json::Value;
use tokio::time::timeout;
use tool_engine::{
    Call, Catalog, Engine, EngineBuilder, ErrorKind, Event, EventKind, Execution, ExecutionError, Limits,
    Plan, Protocol, Report, ReportDocument,
};

use crate::{Flavour, Rig, alive, hostile_path, wait::PATIENCE};

/// Runs a test with an engine on a multi-threaded runtime; shuts the engine down afterwards and looks for what is left.
pub fn with_engine<F: Future<Output = ()>>(
    configure: impl FnOnce(EngineBuilder) -> EngineBuilder,
    test: impl FnOnce(Engine) -> F,
) {
    with_engine_on(Flavour::MultiThread, configure, test);
}

/// As [`with_engine`], on a runtime of this flavour.
pub fn with_engine_on<F: Future<Output = ()>>(
    flavour: Flavour,
    configure: impl FnOnce(EngineBuilder) -> EngineBuilder,
    test: impl FnOnce(Engine) -> F,
) {
    Rig::run(flavour, |rig| async move {
        let mark = rig.mark();
        let engine = configure(rig.builder().limits(patient())).build().expect("an engine can be built");
        test(engine.clone()).await;
        engine.shutdown(Duration::from_secs(20)).await;
        drop(engine);
        mark.assert_settled("after the test").await;
    });
}

/// Limits for tests that look at whether everything is dead: on a busy machine it takes its time to die.
pub fn patient() -> Limits {
    let long = Some(Duration::from_secs(20));
    Limits { drain: long, reap_timeout: long, ..Limits::default() }
}

/// Waits for the end, and checks what holds for every ending: nothing of the execution is alive; the event log has one
/// end, which says the same; the JSON document follows its published schema.
///
/// # Panics
/// When that is not so, or when the end does not come.
pub async fn ended(run: Execution) -> Result<Report, ExecutionError> {
    let id = run.id();
    let mut events = run.events_from(0);
    let end = timeout(PATIENCE, run).await.unwrap_or_else(|_| panic!("no end within {PATIENCE:?}"));
    let left = alive(id);
    assert!(left.is_empty(), "still alive after the end: {left:?}; {end:?}");
    let mut log = Vec::new();
    while let Some(event) = events.try_next() {
        log.push(event);
    }
    let told = log.iter().filter_map(|event| match &event.kind {
        EventKind::Ended { error } => Some(error.as_ref()),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [end.as_ref().err().map(ExecutionError::kind)], "in the event log");
    assert!(matches!(log.last(), Some(Event { kind: EventKind::Ended { .. }, .. })), "the end comes last");
    assert_document(&end);
    end
}

/// As [`ended`], for a call that must fail: why, and the report.
///
/// # Panics
/// When it succeeds.
pub async fn failed(run: Execution) -> (ErrorKind, Report) {
    match ended(run).await {
        Err(error) => error.into_parts(),
        Ok(report) => panic!("it succeeded: {report:?}"),
    }
}

/// As [`ended`], for a call that must succeed.
///
/// # Panics
/// When it fails.
pub async fn succeeded(run: Execution) -> Report {
    match ended(run).await {
        Ok(report) => report,
        Err(error) => panic!("{error}: {:?}", error.report()),
    }
}

/// Checks the JSON document of an ending against the published schema, and against the ending itself.
fn assert_document(end: &Result<Report, ExecutionError>) {
    static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
        let schema = serde_json::to_value(ReportDocument::schema()).expect("a schema is JSON");
        let options = jsonschema::draft202012::options().should_validate_formats(true);
        options.build(&schema).expect("the schema is one")
    });
    let document = serde_json::to_value(ReportDocument::new(end)).expect("a report is JSON");
    let wrong: Vec<_> = VALIDATOR
        .iter_errors(&document)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert!(wrong.is_empty(), "the document does not follow its schema: {wrong:#?}\n{document:#}");
    let name = end.as_ref().err().map_or("ok", |error| error.kind().name());
    assert_eq!(document["outcome"], name);
    match end {
        Ok(_) => assert_eq!(document["error"], Value::Null),
        Err(error) => {
            assert_eq!(document["error"]["kind"], name);
            assert_eq!(document["error"]["description"], error.to_string());
            assert_eq!(document["error"]["retryable"], error.is_retryable());
        }
    }
}

/// A shell script in which `up` waits until the process that was last put into the background has become `sleep`: only
/// then is it known by what name it is left behind, and in what session.
pub fn sh_up(script: &str) -> Call {
    let up = "up() { until read name </proc/$!/comm && [ \"$name\" = sleep ]; do :; done; }";
    Call::command(["sh".into(), "-c".into(), format!("{up}; {script}")])
}

/// A catalog that knows one tool, named `tool`.
#[derive(Debug, Clone)]
pub struct OneTool(pub Plan);

impl OneTool {
    /// A shell script whose standard output is its value.
    pub fn stdio(script: &str) -> Self {
        let mut plan = Plan::new("sh", Protocol::Stdio);
        plan.args = vec!["-c".into(), script.into()];
        Self(plan)
    }

    /// A worker that takes these steps (see `hostile script`).
    pub fn worker<S: Into<OsString>>(steps: impl IntoIterator<Item = S>) -> Self {
        let mut plan = Plan::new(hostile_path(), Protocol::Channel { config: Value::Null });
        plan.args = vec!["script".into()];
        plan.args.extend(steps.into_iter().map(Into::into));
        Self(plan)
    }
}

impl Catalog for OneTool {
    fn resolve(&self, call: &Call) -> Result<Plan, ErrorKind> {
        match call.target() {
            tool_engine::Target::Tool(name) if name == "tool" => Ok(self.0.clone()),
            other => Err(ErrorKind::Invalid {
                subject: format!("{other:?}"),
                message: "it is not known".into(),
                hint: "call `tool`".into(),
            }),
        }
    }
}

/// A catalog whose worker takes the steps that the input names: one catalog for many calls.
#[derive(Debug, Clone, Copy)]
pub struct Scripted;

impl Scripted {
    /// A call whose worker takes these steps.
    pub fn call(steps: &[&str]) -> Call {
        Call::tool("scripted", steps)
    }
}

impl Catalog for Scripted {
    fn resolve(&self, call: &Call) -> Result<Plan, ErrorKind> {
        let steps = call.input().as_array().into_iter().flatten().filter_map(Value::as_str);
        OneTool::worker(steps).resolve(&Call::tool("tool", Value::Null))
    }
}
