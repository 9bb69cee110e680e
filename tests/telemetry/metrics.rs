//! What is recorded through the crate `metrics`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use support::{
    Endless, Flavour, OneTool, PATIENCE, Rig, end_of, failed, hostile, is_canceled, ready, succeeded, until,
};
use tool_engine::{Call, Catalog, Engine, ErrorKind, METRICS, MetricKind, Plan, Target, VitalsWatch};

/// Executes a test on this thread, where the recorder is heard.
fn with_recorder<F: Future<Output = ()>>(test: impl FnOnce(Rig, Snapshotter) -> F) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _heard = metrics::set_default_local_recorder(&recorder);
    Rig::run(Flavour::CurrentThread, |rig| test(rig, snapshotter));
}

/// One series: its name, and its labels as `name=value`.
type Series = (String, BTreeSet<String>);

/// What was recorded since this was last asked.
fn recorded(snapshotter: &Snapshotter) -> BTreeMap<Series, DebugValue> {
    let all = snapshotter.snapshot().into_vec().into_iter();
    all.map(|(key, _, _, value)| {
        let key = key.key();
        let labels = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        ((key.name().to_owned(), labels), value)
    })
    .collect()
}

fn series(name: &str, labels: &[&str]) -> Series {
    (name.to_owned(), labels.iter().map(|label| (*label).to_owned()).collect())
}

fn count(recorded: &BTreeMap<Series, DebugValue>, name: &str, labels: &[&str]) -> u64 {
    match recorded.get(&series(name, labels)) {
        Some(DebugValue::Counter(count)) => *count,
        Some(other) => panic!("{name} is no counter: {other:?}"),
        None => 0,
    }
}

fn values(recorded: &BTreeMap<Series, DebugValue>, name: &str, labels: &[&str]) -> Vec<f64> {
    match recorded.get(&series(name, labels)) {
        Some(DebugValue::Histogram(values)) => values.iter().map(|value| value.into_inner()).collect(),
        other => panic!("{name} {labels:?} is no histogram: {other:?} among {recorded:?}"),
    }
}

fn gauge(recorded: &BTreeMap<Series, DebugValue>, name: &str) -> f64 {
    match recorded.get(&series(name, &[])) {
        Some(DebugValue::Gauge(value)) => value.into_inner(),
        other => panic!("{name} is no gauge: {other:?}"),
    }
}

/// The endless tools, and one that answers; and it says which there are.
#[derive(Debug)]
struct Few;

impl Catalog for Few {
    fn resolve(&self, call: &Call) -> Result<Plan, ErrorKind> {
        match (OneTool::stdio("echo '\"done\"'").resolve(call), call.target()) {
            (Err(_), Target::Tool(name)) if self.knows(name) => Endless::catalog().resolve(call),
            (resolved, _) => resolved,
        }
    }

    fn knows(&self, name: &str) -> bool {
        ["tool", "sleep", "ignore-term"].contains(&name)
    }
}

/// Calls of many endings; in the end the engine has nothing to do.
async fn many_endings(engine: &Engine) {
    for _ in 0..3 {
        succeeded(engine.start(Call::tool("tool", serde_json::Value::Null))).await;
    }
    succeeded(engine.start(Call::command(["printf", "12345"]))).await;
    failed(engine.start(hostile(["exit", "7"]))).await;
    let short = Duration::from_millis(100);
    // Long enough for it to have come to ignoring the signal.
    end_of(engine.start(Endless::IgnoreTerm.tool().timeout(10 * short))).await.unwrap_err();
    end_of(engine.start(Endless::Sleep.tool().idle_timeout(short))).await.unwrap_err();
    is_canceled(engine, Endless::Sleep, 1).await;
    for name in ["made-up", "made up, too"] {
        failed(engine.start(Call::tool(name, 1))).await;
    }
}

#[test]
fn every_ending_is_counted_once_under_its_outcome() {
    with_recorder(|rig, snapshotter| async move {
        let engine = rig.builder().catalog(Few).build().unwrap();
        many_endings(&engine).await;
        let seen = recorded(&snapshotter);
        let executions = |labels: &[&str]| count(&seen, "run_tool_executions_total", labels);
        assert_eq!(executions(&["tool=tool", "outcome=ok"]), 3, "{seen:?}");
        assert_eq!(executions(&["tool=command", "outcome=ok"]), 1);
        assert_eq!(executions(&["tool=command", "outcome=process"]), 1);
        assert_eq!(executions(&["tool=ignore-term", "outcome=timeout"]), 1);
        assert_eq!(executions(&["tool=sleep", "outcome=timeout"]), 1);
        assert_eq!(executions(&["tool=sleep", "outcome=canceled"]), 1);
        let errors = |labels: &[&str]| count(&seen, "run_tool_errors_total", labels);
        assert_eq!(errors(&["tool=command", "kind=process", "detail=code"]), 1);
        assert_eq!(errors(&["tool=ignore-term", "kind=timeout", "detail=wall"]), 1);
        assert_eq!(errors(&["tool=sleep", "kind=canceled", "detail=caller"]), 1);
        let timeouts = |labels: &[&str]| count(&seen, "run_tool_timeouts_total", labels);
        assert_eq!(
            (timeouts(&["tool=ignore-term", "clock=wall"]), timeouts(&["tool=sleep", "clock=idle"])),
            (1, 1)
        );
        let kills = |labels: &[&str]| count(&seen, "run_tool_kills_total", labels);
        assert_eq!(kills(&["tool=ignore-term", "outcome=timeout"]), 1);
        assert_eq!(kills(&["tool=tool", "outcome=ok"]), 0, "it ended by itself");
        let ok = ["tool=command", "outcome=ok"];
        assert_eq!(values(&seen, "run_tool_output_bytes", &ok), [5.0]);
        for name in ["run_tool_duration_seconds", "run_tool_queue_seconds", "run_tool_start_seconds"] {
            let tool = values(&seen, name, &["tool=tool", "outcome=ok"]);
            assert!(tool.len() == 3 && tool.iter().all(|value| (0.0..60.0).contains(value)), "{tool:?}");
        }
        let total = values(&seen, "run_tool_duration_seconds", &["tool=ignore-term", "outcome=timeout"]);
        assert!(total[0] >= 0.1, "{total:?}");
        engine.shutdown(PATIENCE).await;
    });
}

#[test]
fn words_of_a_caller_make_no_new_series() {
    with_recorder(|rig, snapshotter| async move {
        let engine = rig.builder().catalog(Few).build().unwrap();
        many_endings(&engine).await;
        let seen = recorded(&snapshotter);
        assert_eq!(
            count(&seen, "run_tool_executions_total", &["tool=unknown", "outcome=invalid"]),
            2,
            "{seen:?}"
        );
        let values: BTreeSet<_> = seen.keys().flat_map(|(_, labels)| labels.clone()).collect();
        let tools: Vec<_> = values.iter().filter_map(|label| label.strip_prefix("tool=")).collect();
        assert_eq!(tools, ["command", "ignore-term", "sleep", "tool", "unknown"]);
        engine.shutdown(PATIENCE).await;
    });
}

#[test]
fn what_is_left_running_is_counted() {
    with_recorder(|rig, snapshotter| async move {
        let engine = rig.builder().build().unwrap();
        let script = support::sh_up("sleep 1000 & up; exit 0");
        let report = succeeded(engine.start(script.after_exit(tool_engine::AfterExit::Kill))).await;
        assert_eq!(report.residue.len(), 1, "{report:?}");
        let seen = recorded(&snapshotter);
        assert_eq!(count(&seen, "run_tool_residue_total", &["tool=command", "killed=true"]), 1, "{seen:?}");
        engine.shutdown(PATIENCE).await;
    });
}

#[test]
fn the_gauges_follow_what_runs_and_waits_and_come_back() {
    with_recorder(|rig, snapshotter| async move {
        let engine = rig.builder().max_running(1).build().unwrap();
        let first = engine.start(hostile(["sleep"]));
        ready(&mut first.events()).await;
        let second = engine.start(hostile(["sleep"]));
        // What is told is what was added since.
        let (mut running, mut queued) = (0.0, 0.0);
        let mut both = || {
            let seen = recorded(&snapshotter);
            running += gauge(&seen, "run_tool_running");
            queued += gauge(&seen, "run_tool_queued");
            (running, queued)
        };
        until("the second waits", PATIENCE, || (both() == (1.0, 1.0)).then_some(())).await;
        second.cancel("enough");
        end_of(second).await.unwrap_err();
        assert_eq!(both(), (1.0, 0.0));
        first.cancel("enough");
        end_of(first).await.unwrap_err();
        assert_eq!(both(), (0.0, 0.0));
        engine.shutdown(PATIENCE).await;
    });
}

#[test]
fn an_execution_whose_runtime_goes_away_is_counted_as_lost() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _heard = metrics::set_default_local_recorder(&recorder);
    let rig = Rig::new();
    let runtime = Flavour::CurrentThread.runtime();
    let engine = runtime.block_on(async {
        let engine = rig.engine();
        let run = engine.start(hostile(["sleep"]));
        ready(&mut run.events()).await;
        run.detach();
        engine
    });
    drop(runtime);
    let seen = recorded(&snapshotter);
    assert_eq!(count(&seen, "run_tool_executions_total", &["tool=command", "outcome=lost"]), 1, "{seen:?}");
    assert_eq!(
        count(&seen, "run_tool_errors_total", &["tool=command", "kind=lost", "detail="]),
        1,
        "{seen:?}"
    );
    assert_eq!((gauge(&seen, "run_tool_running"), gauge(&seen, "run_tool_queued")), (0.0, 0.0));
    drop(engine);
}

#[test]
fn all_that_is_recorded_is_in_the_table_and_all_of_the_table_is_recorded() {
    with_recorder(|rig, snapshotter| async move {
        let watch = VitalsWatch { every: Duration::from_millis(1), ..VitalsWatch::default() };
        let engine = rig.builder().catalog(Few).watch(watch).build().unwrap();
        many_endings(&engine).await;
        let script = support::sh_up("sleep 1000 & up; exit 0");
        succeeded(engine.start(script.after_exit(tool_engine::AfterExit::Kill))).await;
        engine.shutdown(PATIENCE).await;
        let snapshot = snapshotter.snapshot().into_vec();
        let mut names = BTreeSet::new();
        for (key, unit, about, value) in snapshot {
            let name = key.key().name();
            let metric = METRICS.iter().find(|metric| metric.name == name);
            let metric = metric.unwrap_or_else(|| panic!("{name} is not in the table"));
            let labels: Vec<_> = key.key().labels().map(|label| label.key().to_owned()).collect();
            assert_eq!(labels, metric.labels, "{name}");
            assert_eq!((unit, about.as_deref()), (Some(metric.unit), Some(metric.about)), "{name}");
            let kind = match value {
                DebugValue::Counter(_) => MetricKind::Counter,
                DebugValue::Gauge(_) => MetricKind::Gauge,
                DebugValue::Histogram(_) => MetricKind::Histogram,
            };
            assert_eq!(kind, metric.kind, "{name}");
            names.insert(metric.name);
        }
        let unseen: Vec<_> = METRICS.iter().filter(|metric| !names.contains(metric.name)).collect();
        assert!(unseen.is_empty(), "never recorded: {unseen:?}");
    });
}

#[test]
fn the_readme_has_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/README.md");
    let readme = fs::read_to_string(path).unwrap();
    for metric in METRICS {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let row = format!("| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.about);
        assert!(readme.contains(&row), "engine/README.md lacks this row:\n{row}");
    }
}
