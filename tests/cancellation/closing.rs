//! With the engine.

use std::time::Duration;

use support::{Endless, Flavour, PATIENCE, Rig, alive_of, end_of, hostile, ready, wait_for_output};
use tool_engine::{CancelSource, Execution};

use crate::{ENDLESS_GRACE, canceled, canceled_before_start, last_event, on_both};

#[test]
fn shutdown_returns_when_nothing_is_left() {
    on_both(|engine| async move {
        let runs: Vec<_> = Endless::ALL
            .into_iter()
            .map(|mode| engine.start(mode.tool().kill_grace(ENDLESS_GRACE)))
            .chain((0..200).map(|_| engine.start(Endless::Sleep.command())))
            .collect();
        let ids: Vec<_> = runs.iter().map(Execution::id).collect();
        for run in &runs[..Endless::ALL.len()] {
            ready(&mut run.events()).await;
        }
        engine.shutdown(Duration::from_millis(300)).await;
        assert_eq!(engine.active(), 0);
        assert_eq!(alive_of(&ids), Vec::<String>::new());
        for run in runs {
            canceled(end_of(run).await, CancelSource::Shutdown);
        }
        canceled_before_start(engine.start(hostile(["exit"])), CancelSource::Shutdown).await;
        engine.shutdown(Duration::ZERO).await;
    });
}

#[test]
fn a_shutdown_that_is_dropped_leaves_the_engine_closed_and_can_be_called_again() {
    on_both(|engine| async move {
        let run = engine.start(hostile(["on-term", "stay"]).kill_grace(ENDLESS_GRACE));
        let mut events = run.events();
        ready(&mut events).await;
        tokio::select! {
            () = wait_for_output(&mut events, "got SIGTERM\n") => {}
            () = engine.shutdown(PATIENCE) => panic!("something is left"),
        }
        canceled_before_start(engine.start(hostile(["exit"])), CancelSource::Shutdown).await;
        engine.shutdown(Duration::ZERO).await;
        canceled(end_of(run).await, CancelSource::Shutdown);
    });
}

#[test]
fn dropping_the_last_engine_cancels_what_runs() {
    for flavour in Flavour::ALL {
        Rig::run(flavour, |rig| async move {
            let mark = rig.mark();
            let engine = rig.builder().catalog(Endless::catalog()).build().unwrap();
            let runs: Vec<_> = Endless::ALL.into_iter().map(|mode| engine.start(mode.tool())).collect();
            for run in &runs {
                ready(&mut run.events()).await;
            }
            let detached = engine.start(Endless::Sleep.tool());
            let mut events = detached.events();
            ready(&mut events).await;
            detached.detach();
            let clone = engine.clone();
            drop(engine);
            assert_eq!(clone.active(), Endless::ALL.len() + 1, "a clone keeps the engine");
            drop(clone);
            for run in runs {
                canceled(end_of(run).await, CancelSource::Shutdown);
            }
            last_event(&mut events).await;
            drop(events);
            mark.assert_settled("after the last engine").await;
        });
    }
}
