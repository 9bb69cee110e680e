//! A timeout ends a call, whatever the tool does, the hundredth time as the first.
//!
//! Promised, for each way to misbehave, a hundred times in a row (several rows side by side) and a hundred at once: the outcome is
//! `Timeout`; what the tool had written is in the error's report; its process is reaped, and nothing of it is alive, in
//! its group or escaped from it; and when all is over the program has the descriptors, threads, tasks, children and
//! temporary files that it had before. The idle clock is wound up by output and by progress. A tool that obeys SIGTERM
//! may have its last word.
//!
//! Not promised: how long after the timeout the outcome comes (that is measured, by `scripts/bench`); that a daemon is
//! found that has left the group, dropped its environment and closed the pipes (only a sandbox can); that a tool gets to
//! write anything before a short timeout.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use support::{Endless, Flavour, PATIENCE, Rig, end_of, hostile, hostile_path, in_lanes, ready, times_out};
use tempfile::TempDir;
use tool_engine::{
    Call, Catalog, Clock, Engine, ErrorKind, EventKind, ExecutionError, ExitStatus, Limits, Plan, Protocol,
};

/// A hundred runs into their timeout, so many at a time, and nothing left of them.
fn a_hundred(flavour: Flavour, mode: Endless, lanes: u64, timeout: Duration) {
    Rig::run(flavour, |rig| async move {
        let mark = rig.mark();
        let proofs = Arc::new(TempDir::new().unwrap());
        let builder = rig.builder().catalog(Endless::catalog());
        let engine = builder.max_running(usize::try_from(lanes).unwrap()).build().unwrap();
        let wrote = Arc::new(AtomicU32::new(0));
        in_lanes(lanes, 100, |_| {
            let (engine, proofs, wrote) = (engine.clone(), Arc::clone(&proofs), Arc::clone(&wrote));
            async move {
                if times_out(&engine, mode, timeout, proofs.path()).await {
                    wrote.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
        .await;
        assert_ne!(wrote.load(Ordering::Relaxed), 0, "not one could write its last words");
        engine.shutdown(Duration::ZERO).await;
        drop(engine);
        mark.assert_settled("after a hundred timeouts").await;
    });
}

macro_rules! a_hundred_of {
    ($($name:ident: $mode:ident,)*) => { $(
        mod $name {
            use super::*;

            #[test]
            fn in_a_row() {
                a_hundred(Flavour::MultiThread, Endless::$mode, 8, Duration::from_millis(200));
            }

            #[test]
            fn in_a_row_on_one_thread() {
                a_hundred(Flavour::CurrentThread, Endless::$mode, 10, Duration::from_millis(200));
            }

            #[test]
            fn at_once() {
                a_hundred(Flavour::MultiThread, Endless::$mode, 100, Duration::from_millis(1000));
            }
        }
    )* }
}

a_hundred_of! {
    sleep: Sleep,
    ignore_term: IgnoreTerm,
    tree: Tree,
    escape: Escape,
    escape_quiet: EscapeQuiet,
    escape_unmarked: EscapeUnmarked,
    flood: Flood,
    stop: Stop,
    close_stdio: CloseStdio,
}

fn is_timeout(end: &Result<tool_engine::Report, ExecutionError>, which: Clock) -> bool {
    matches!(end.as_ref().map_err(ExecutionError::kind), Err(ErrorKind::Timeout { clock, .. }) if *clock == which)
}

#[test]
fn a_tool_that_obeys_may_have_its_last_word() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let engine = rig.engine();
        // On a busy machine a tool may need some time to get ready for its SIGTERM.
        for timeout in [300, 1000, 3000, 10_000].map(Duration::from_millis) {
            let call = hostile(["on-term"]).timeout(timeout).kill_grace(PATIENCE);
            let end = end_of(engine.start(call)).await;
            assert!(is_timeout(&end, Clock::Wall), "{end:?}");
            let report = end.unwrap_err().into_parts().1;
            if !report.stderr.is_empty() {
                assert_eq!(report.stderr.text(), "hostile on-term: last words\ngot SIGTERM\n");
                assert!(report.stdout.text().ends_with("got SIGTERM\n"), "{report:?}");
                assert_eq!(
                    report.exit,
                    Some(ExitStatus::Code(7)),
                    "that it ended well does not make it a success"
                );
                return;
            }
        }
        panic!("it never wrote anything");
    });
}

#[test]
fn a_tool_that_says_that_it_obeys_and_stays_is_killed_after_the_grace() {
    Rig::run(Flavour::CurrentThread, |rig| async move {
        let engine = rig.engine();
        let call = hostile(["on-term", "stay"]);
        let run =
            engine.start(call.idle_timeout(Duration::from_secs(3)).kill_grace(Duration::from_millis(500)));
        let end = end_of(run).await;
        assert!(is_timeout(&end, Clock::Idle), "{end:?}");
        let report = end.unwrap_err().into_parts().1;
        assert!(report.stderr.text().ends_with("got SIGTERM\n"), "{report:?}");
        assert_eq!(report.exit, Some(ExitStatus::Signal(9)));
    });
}

#[test]
fn cancelling_in_the_grace_of_a_timeout_skips_it_and_the_timeout_stands() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let engine = rig.engine();
        let call = hostile(["on-term", "stay"]).idle_timeout(Duration::from_secs(3));
        let run = engine.start(call.kill_grace(Duration::from_secs(600)));
        support::wait_for_output(&mut run.events(), "got SIGTERM\n").await;
        run.cancel("enough");
        let end = end_of(run).await;
        assert!(is_timeout(&end, Clock::Idle), "{end:?}");
    });
}

#[test]
fn silence_is_a_timeout_of_its_own() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let mark = rig.mark();
        let engine = rig.builder().catalog(Endless::catalog()).max_running(100).build().unwrap();
        for mode in [Endless::Sleep, Endless::Tree, Endless::Escape, Endless::Stop, Endless::CloseStdio] {
            let after = Duration::from_millis(200);
            in_lanes(10, 20, |round| {
                let run = engine.start(mode.call(round).idle_timeout(after));
                async move {
                    let error = end_of(run).await.unwrap_err();
                    assert_eq!(error.kind(), &ErrorKind::Timeout { clock: Clock::Idle, after }, "{error:?}");
                }
            })
            .await;
        }
        engine.shutdown(Duration::ZERO).await;
        drop(engine);
        mark.assert_settled("after a hundred idle timeouts").await;
    });
}

/// Longer than the pauses of a tool that goes on, shorter than all of it.
const IDLE: Duration = Duration::from_secs(2);

#[test]
fn output_winds_the_idle_clock_up() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let engine = rig.engine();
        let report = end_of(engine.start(hostile(["tick", "30", "100"]).idle_timeout(IDLE))).await.unwrap();
        assert_eq!(report.stdout.text(), "tick\n".repeat(30));
        assert!(report.timings.running > IDLE, "it took too little time to prove anything: {report:?}");
    });
}

#[derive(Debug)]
struct SlowWorker;

impl Catalog for SlowWorker {
    fn resolve(&self, _: &Call) -> Result<Plan, ErrorKind> {
        let mut plan = Plan::new(hostile_path(), Protocol::Channel { config: Value::Null });
        plan.args = ["worker", "30", "100"].map(Into::into).into();
        Ok(plan)
    }
}

#[test]
fn progress_winds_the_idle_clock_up() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let engine = rig.builder().catalog(SlowWorker).build().unwrap();
        let run = engine.start(Call::tool("slow", json!({ "a": 1 })).idle_timeout(IDLE));
        let report = end_of(run).await.unwrap();
        assert_eq!(report.value, Some(json!({ "a": 1 })));
        assert_eq!(report.stdout.text(), "ready\n", "all it did was to report progress");
        assert!(report.timings.running > IDLE, "it took too little time to prove anything: {report:?}");
    });
}

#[test]
fn no_output_winds_the_wall_clock_up() {
    Rig::run(Flavour::CurrentThread, |rig| async move {
        let engine = rig.engine();
        let call = hostile(["tick", "100000", "20"]);
        let run =
            engine.start(call.timeout(Duration::from_millis(700)).idle_timeout(Duration::from_secs(20)));
        let end = end_of(run).await;
        assert!(is_timeout(&end, Clock::Wall), "{end:?}");
    });
}

#[test]
fn a_tool_that_ends_at_the_moment_of_its_timeout_has_one_outcome() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let mark = rig.mark();
        let engine = rig.engine();
        let (ok, late) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        in_lanes(5, 100, |round| {
            let (ok, late) = (Arc::clone(&ok), Arc::clone(&late));
            // The tool takes 100 ms and what it takes to start it.
            let timeout = Duration::from_millis(95 + round / 4);
            let run = engine.start(hostile(["tick", "1", "100"]).timeout(timeout));
            async move {
                let end = end_of(run).await;
                if is_timeout(&end, Clock::Wall) {
                    late.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert_eq!(end.unwrap().exit, Some(ExitStatus::Code(0)));
                    ok.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
        .await;
        assert_eq!(ok.load(Ordering::Relaxed) + late.load(Ordering::Relaxed), 100);
        engine.shutdown(Duration::ZERO).await;
        drop(engine);
        mark.assert_settled("after a hundred close calls").await;
    });
}

#[test]
fn the_wall_clock_does_not_run_while_a_call_waits_for_its_turn() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let engine = rig.builder().max_running(1).build().unwrap();
        let first = engine.start(hostile(["sleep"]));
        ready(&mut first.events()).await;
        let timeout = Duration::from_secs(3);
        let second = engine.start(hostile(["tick", "1", "1"]).timeout(timeout));
        let waited = tokio::time::sleep(timeout + Duration::from_millis(100));
        waited.await;
        first.cancel("it is the other's turn");
        first.await.unwrap_err();
        let report = end_of(second).await.unwrap();
        assert!(report.timings.queued >= timeout, "{report:?}");
    });
}

#[test]
fn a_timeout_that_cannot_be_meant_is_refused_and_nothing_is_started() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let engine = rig.builder().max_timeout(Duration::from_secs(10)).build().unwrap();
        let sleep = || Endless::Sleep.command();
        let calls = [
            sleep().timeout(Duration::ZERO),
            sleep().idle_timeout(Duration::ZERO),
            sleep().timeout(Duration::from_millis(10_001)),
            sleep().timeout(Duration::MAX),
        ];
        for call in calls {
            assert_refused(&engine, call).await;
        }
        let limits = Limits { timeout: Some(Duration::ZERO), ..Limits::default() };
        let engine = rig.builder().limits(limits).build().unwrap();
        assert_refused(&engine, sleep()).await;
    });
}

async fn assert_refused(engine: &Engine, call: Call) {
    let shown = format!("{call:?}");
    let run = engine.start(call);
    let mut events = run.events();
    let error = end_of(run).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Invalid { subject, .. } if subject == "timeout"),
        "{shown}: {error:?}"
    );
    assert_eq!((error.report().exit, &error.report().enforced), (None, &None));
    assert!(matches!(events.next().await.unwrap().kind, EventKind::Ended { .. }), "something was started");
}
