//! Whoever cancels a call, whenever, gets one outcome, and nothing of the call is left.
//!
//! Promised, whether the cancel comes before the start, during it, while the tool runs, in its grace, in linger, in the
//! drain or after the end, from the caller, a token, a dropped future, a shutdown, the last engine or the runtime going
//! away: there is exactly one outcome, and the log has exactly one end, which says the same. What ended by itself before
//! the cancel stays what it is. A second cancel skips grace and linger, never the drain. Output written so far is kept.
//! The process is reaped, and nothing is alive, in its group or escaped from it.
//!
//! Not promised: how long it takes; that a tool which ignores SIGTERM ends before its grace is over (unless it is
//! cancelled twice); which one wins when a cancel and a timeout come at the same moment; that a daemon is found that has
//! left the group, dropped its environment and closed the pipes (only a sandbox can).

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "cancellation/closing.rs"]
mod closing;
#[path = "cancellation/dropping.rs"]
mod dropping;
#[path = "cancellation/ending.rs"]
mod ending;
#[path = "cancellation/hanging.rs"]
mod hanging;
#[path = "cancellation/running.rs"]
mod running;
#[path = "cancellation/runtime.rs"]
mod runtime;
#[path = "cancellation/starting.rs"]
mod starting;

use std::{future::Future, time::Duration};

use support::{Endless, Flavour, PATIENCE, Rig, end_of, is_alive, ready, until};
use tool_engine::{
    Call, CancelSource, Engine, ErrorKind, EventKind, Events, Execution, ExecutionError, Report,
};

/// A grace that no test lives to see the end of.
const ENDLESS_GRACE: Duration = Duration::from_secs(3600);

/// Runs the test on both flavours of runtime, with an engine that knows the endless tools; shuts down, and looks for what
/// is left.
fn on_both<F: Future<Output = ()>>(test: impl Fn(Engine) -> F) {
    for flavour in Flavour::ALL {
        on(flavour, &test);
    }
}

fn on<F: Future<Output = ()>>(flavour: Flavour, test: impl FnOnce(Engine) -> F) {
    Rig::run(flavour, |rig| async move {
        let mark = rig.mark();
        let engine = rig.builder().catalog(Endless::catalog()).max_running(100).build().unwrap();
        test(engine.clone()).await;
        engine.shutdown(Duration::ZERO).await;
        drop(engine);
        mark.assert_settled("after the test").await;
    });
}

fn canceled(end: Result<Report, ExecutionError>, by: CancelSource) -> Report {
    let (kind, report) = end.expect_err("it was cancelled").into_parts();
    assert!(matches!(&kind, ErrorKind::Canceled { by: who, .. } if *who == by), "{kind:?}: {report:?}");
    report
}

/// That it ended before anything was started.
async fn canceled_before_start(run: Execution, by: CancelSource) {
    let mut events = run.events();
    let report = canceled(end_of(run).await, by);
    assert_eq!((report.exit, report.enforced), (None, None));
    assert!(matches!(events.next().await.unwrap().kind, EventKind::Ended { .. }), "something was started");
}

/// Its process id, once it is ready.
async fn ready_pid(run: &Execution) -> u32 {
    let EventKind::Started { pid } = run.events().next().await.unwrap().kind else {
        panic!("it did not start")
    };
    ready(&mut run.events()).await;
    pid
}

async fn dead(pid: u32) {
    until(format!("the end of process {pid}"), PATIENCE, || (!is_alive(pid)).then_some(())).await;
}

async fn last_event(events: &mut Events) -> EventKind {
    let mut last = None;
    while let Some(event) = events.next().await {
        last = Some(event.kind);
    }
    let last = last.unwrap();
    assert!(matches!(last, EventKind::Ended { .. }), "{last:?}");
    last
}

/// Keeps the compiler honest: whoever waits elsewhere may be another thread.
#[test]
fn the_handles_go_to_other_threads() {
    fn sent<T: Send + 'static>() {}
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Engine>();
    sent::<Execution>();
    sent::<Events>();
    sent::<Call>();
    shared::<ExecutionError>();
}
