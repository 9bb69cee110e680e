//! With the runtime.

use std::{thread, time::Duration};

use support::{Dice, Endless, Flavour, PATIENCE, Rig, alive_of, hostile, ready, until};
use tokio::runtime::Runtime;
use tool_engine::{Engine, ErrorKind, EventKind, Execution, ExecutionError, ExecutionId, Report};

use crate::last_event;

/// Starts everything on a runtime of its own, and returns when all are ready.
fn running_elsewhere(rig: &Rig, flavour: Flavour) -> (Runtime, Engine, Vec<Execution>) {
    let runtime = flavour.runtime();
    let engine = rig.builder().catalog(Endless::catalog()).runtime(runtime.handle().clone()).build().unwrap();
    let runs: Vec<_> = Endless::ALL.into_iter().map(|mode| engine.start(mode.tool())).collect();
    runtime.block_on(async {
        for run in &runs {
            ready(&mut run.events()).await;
        }
    });
    (runtime, engine, runs)
}

/// The janitor works in the background, after the outcome.
async fn all_dead(ids: &[ExecutionId]) {
    until("the end of all processes", PATIENCE, || alive_of(ids).is_empty().then_some(())).await;
}

fn assert_lost(end: Result<Report, ExecutionError>) {
    assert!(matches!(end.unwrap_err().kind(), ErrorKind::Lost { .. }));
}

fn the_runtime_goes_away(flavour: Flavour, keep_engine: bool) {
    let rig = Rig::new();
    let mark = rig.mark();
    let (runtime, engine, mut runs) = running_elsewhere(&rig, flavour);
    let ids: Vec<_> = runs.iter().map(Execution::id).collect();
    // One is waited for all the time, the others only afterwards.
    let first = runs.remove(0);
    let mut events = first.events();
    let waiting = thread::Builder::new()
        .spawn(move || {
            Flavour::CurrentThread.runtime().block_on(async { tokio::time::timeout(PATIENCE, first).await })
        })
        .unwrap();
    let engine = keep_engine.then_some(engine);
    drop(runtime);
    assert_lost(waiting.join().unwrap().expect("the one who waits hears of it"));
    let holder = Flavour::CurrentThread.runtime();
    holder.block_on(async {
        assert!(matches!(
            last_event(&mut events).await,
            EventKind::Ended { error: Some(ErrorKind::Lost { .. }) }
        ));
        for run in runs {
            let mut events = run.events();
            assert_lost(tokio::time::timeout(PATIENCE, run).await.expect("the end comes"));
            assert!(matches!(
                last_event(&mut events).await,
                EventKind::Ended { error: Some(ErrorKind::Lost { .. }) }
            ));
        }
        all_dead(&ids).await;
        if let Some(engine) = &engine {
            let late = engine.start(hostile(["exit"]));
            assert_lost(tokio::time::timeout(PATIENCE, late).await.expect("a late call ends as well"));
        }
    });
    drop(holder);
    drop((engine, events));
    mark.assert_settled_blocking("after the runtime went away");
}

#[test]
fn a_runtime_that_goes_away_leaves_nothing() {
    the_runtime_goes_away(Flavour::MultiThread, true);
}

#[test]
fn a_runtime_that_goes_away_after_its_engine_leaves_nothing() {
    the_runtime_goes_away(Flavour::MultiThread, false);
}

#[test]
fn a_runtime_of_one_thread_that_goes_away_leaves_nothing() {
    the_runtime_goes_away(Flavour::CurrentThread, true);
    the_runtime_goes_away(Flavour::CurrentThread, false);
}

#[test]
fn a_runtime_that_goes_away_at_random_leaves_nothing() {
    let rig = Rig::new();
    let mark = rig.mark();
    for round in 0..100 {
        let mut dice = Dice::new(round);
        let runtime = if round % 4 == 0 { Flavour::CurrentThread } else { Flavour::MultiThread }.runtime();
        let engine =
            rig.builder().catalog(Endless::catalog()).runtime(runtime.handle().clone()).build().unwrap();
        let runs: Vec<_> = (0..5).map(|n| engine.start(Endless::Sleep.call(n))).collect();
        let ids: Vec<_> = runs.iter().map(Execution::id).collect();
        if dice.below(2) == 0 {
            runs[0].cancel("at random");
        }
        runtime.block_on(dice.pause(Duration::from_millis(20)));
        match dice.below(2) {
            0 => drop(runtime),
            _ => runtime.shutdown_background(),
        }
        let holder = Flavour::CurrentThread.runtime();
        holder.block_on(async {
            for run in runs {
                let end = tokio::time::timeout(PATIENCE, run).await.expect("the end comes");
                assert!(matches!(
                    end.unwrap_err().kind(),
                    ErrorKind::Lost { .. } | ErrorKind::Canceled { .. }
                ));
            }
            drop(engine);
            all_dead(&ids).await;
        });
    }
    mark.assert_settled_blocking("after a hundred runtimes went away");
}
