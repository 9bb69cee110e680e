//! Calls of every ending, and nothing is left of them.

use std::time::Duration;

use support::{
    Dice, Endless, Flavour, Rig, end_of, hostile, in_lanes, is_canceled, is_dropped_at_random, succeeded,
};
use tool_engine::{Call, Engine, ErrorKind};

use super::settled;

/// One of each ending; `round` is only for the seeds.
async fn each_ending(engine: &Engine, round: u64) {
    succeeded(engine.start(Call::command(["echo", "done"]))).await;
    let kind = |end: Result<_, tool_engine::ExecutionError>| end.unwrap_err().into_parts().0;
    let run = engine.start(Endless::IgnoreTerm.tool().timeout(Duration::from_millis(100)));
    assert!(matches!(kind(end_of(run).await), ErrorKind::Timeout { .. }));
    is_canceled(engine, Endless::Escape, round).await;
    // Some time later it ends, too.
    is_dropped_at_random(engine, Endless::Tree, &mut Dice::new(round)).await;
    let crash = end_of(engine.start(hostile(["signal", "6"]))).await;
    assert!(matches!(kind(crash), ErrorKind::Process { .. }));
    let missing = end_of(engine.start(Call::command(["/no/such/program"]))).await;
    assert!(matches!(kind(missing), ErrorKind::Spawn { .. } | ErrorKind::Sandbox { .. }));
    let unknown = end_of(engine.start(Call::command(["true"]).timeout(Duration::ZERO))).await;
    assert!(matches!(kind(unknown), ErrorKind::Invalid { .. }));
}

fn nothing_is_left(flavour: Flavour, lanes: u64, rounds: u64) {
    Rig::run(flavour, |rig| async move {
        let engine = rig.builder().catalog(Endless::catalog()).max_running(16).build().unwrap();
        // What the first calls make is kept for the next ones.
        each_ending(&engine, 0).await;
        support::until("all are over", support::PATIENCE, || (engine.active() == 0).then_some(())).await;
        let mark = engine.vitals_off_thread().await;
        in_lanes(lanes, rounds, |round| {
            let engine = engine.clone();
            async move { each_ending(&engine, 1 + round).await }
        })
        .await;
        settled(&engine, &mark).await;
        engine.shutdown(Duration::from_secs(20)).await;
        // There is nobody to look elsewhere any more: it looks itself.
        let vitals = engine.vitals_off_thread().await;
        assert_eq!((vitals.executions, vitals.sandboxes, vitals.event_bytes), (0, 0, 0), "{vitals:?}");
        assert_eq!((vitals.children, vitals.zygotes.len()), (Some(0), 0), "{vitals:?}");
    });
}

#[test]
fn one_after_the_other() {
    nothing_is_left(Flavour::CurrentThread, 1, 5);
}

#[test]
fn many_at_once() {
    nothing_is_left(Flavour::MultiThread, 8, 24);
}
