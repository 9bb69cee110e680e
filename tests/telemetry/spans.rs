//! What is said through the crate `tracing`.

use std::time::Duration;

use support::{Capture, Endless, Flavour, OneTool, PATIENCE, Rig, end_of, failed, ready, succeeded};
use tool_engine::{Call, ExecutionId};
use tracing::Instrument as _;

fn execution(capture: &Capture, id: ExecutionId) -> support::Span {
    let said = capture.said();
    let spans: Vec<_> =
        said.spans.into_iter().filter(|span| span.fields.get("id") == Some(&id.to_string())).collect();
    assert_eq!(spans.len(), 1, "an execution is one span: {spans:?}");
    assert_eq!(spans[0].name, "execution");
    spans[0].clone()
}

#[test]
fn an_execution_is_a_span_in_that_of_its_caller() {
    Rig::run(Flavour::CurrentThread, |rig| async move {
        let capture = Capture::begin();
        let engine = rig.builder().catalog(OneTool::stdio("echo 1")).build().unwrap();
        let call = || Call::tool("tool", serde_json::Value::Null);
        let turn = tracing::info_span!("turn");
        let inside = async { succeeded(engine.start(call())).await }.instrument(turn).await;
        let outside = succeeded(engine.start(call())).await;
        engine.shutdown(PATIENCE).await;
        let level = inside.enforced.expect("it was started").level;
        let (inside, outside) = (execution(&capture, inside.id), execution(&capture, outside.id));
        assert_eq!((inside.parent.as_deref(), outside.parent), (Some("turn"), None));
        assert!(inside.closed && outside.closed);
        let field = |name: &str| inside.fields.get(name).map(String::as_str);
        assert_eq!((field("tool"), field("outcome")), (Some("tool"), Some("ok")), "{inside:?}");
        assert_eq!(field("level"), Some(&*level.number().to_string()), "{inside:?}");
        assert_eq!(field("otel.status_code"), None, "{inside:?}");
        let phases = ["queued", "starting", "running", "stopping", "draining", "ended"];
        let heard: Vec<_> = inside.events.iter().filter(|event| phases.contains(&event.as_str())).collect();
        assert_eq!(heard, phases, "{inside:?}");
    });
}

#[test]
fn what_fails_says_so_and_has_the_phases_that_it_reached() {
    Rig::run(Flavour::CurrentThread, |rig| async move {
        let capture = Capture::begin();
        let engine = rig.builder().catalog(Endless::catalog()).max_running(1).build().unwrap();
        let running = engine.start(Endless::Sleep.tool());
        ready(&mut running.events()).await;
        let waiting = engine.start(Call::command(["true"]));
        let (running_id, waiting_id) = (running.id(), waiting.id());
        waiting.cancel("enough");
        end_of(waiting).await.unwrap_err();
        running.cancel("enough");
        end_of(running).await.unwrap_err();
        let missing = failed(engine.start(Call::command(["/no/such/program"]))).await.1.id;
        engine.shutdown(PATIENCE).await;
        for (id, outcome, last) in [
            (running_id, "canceled", "draining"),
            (waiting_id, "canceled", "queued"),
            (missing, "spawn", "starting"),
        ] {
            let span = execution(&capture, id);
            assert_eq!(span.fields["outcome"], outcome, "{span:?}");
            assert_eq!(span.fields["otel.status_code"], "error", "{span:?}");
            assert_eq!(
                span.events.iter().rev().take(2).rev().collect::<Vec<_>>(),
                [last, "ended"],
                "{span:?}"
            );
            assert!(span.closed, "{span:?}");
        }
    });
}

#[test]
fn a_span_ends_with_its_runtime() {
    let capture = Capture::begin();
    let rig = Rig::new();
    let runtime = Flavour::CurrentThread.runtime();
    let (engine, id) = runtime.block_on(async {
        let engine = rig.engine();
        let run = engine.start(Endless::Sleep.command());
        ready(&mut run.events()).await;
        let id = run.id();
        run.detach();
        (engine, id)
    });
    assert!(!execution(&capture, id).closed);
    drop(runtime);
    drop(engine);
    let span = execution(&capture, id);
    assert!(span.closed && span.fields["outcome"] == "lost", "{span:?}");
}

#[test]
fn no_secret_is_in_what_is_said() {
    const TOKEN: &str = "s3cr3t-t0k3n";
    Rig::run(Flavour::CurrentThread, |rig| async move {
        let capture = Capture::begin();
        let engine = rig.engine();
        let sh =
            |script: String| Call::command(["sh".to_owned(), "-c".to_owned(), script]).secret("TOKEN", TOKEN);
        succeeded(engine.start(sh(format!("echo {TOKEN}")))).await;
        let call = sh(format!("sleep 1000 & echo {TOKEN}; exec sleep 1000 {TOKEN}"));
        end_of(engine.start(call.timeout(Duration::from_millis(200)).kill_grace(Duration::ZERO)))
            .await
            .unwrap_err();
        failed(engine.start(sh(String::new()).workdir(format!("/no/such/{TOKEN}")))).await;
        engine.shutdown(PATIENCE).await;
        let said = capture.said();
        let (text, executions) =
            (format!("{said:?}"), said.spans.iter().filter(|span| span.name == "execution"));
        assert_eq!(executions.count(), 3);
        assert!(!text.contains(TOKEN), "{text}");
        assert!(text.contains("***"), "nothing was masked: {text}");
    });
}
