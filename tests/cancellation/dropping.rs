//! By letting go of it.

use std::time::Duration;

use support::{Endless, Flavour, Rig, alive, hostile, ready, wait_for_output};
use tool_engine::{CancelSource, ErrorKind, EventKind};

use crate::{last_event, on_both};

#[test]
fn dropping_the_future_in_a_select_cancels_it() {
    on_both(|engine| async move {
        for mode in Endless::ALL {
            let run = engine.start(mode.tool());
            let (id, mut events) = (run.id(), run.events());
            let mut also = run.events();
            tokio::select! {
                () = ready(&mut events) => {}
                end = run => panic!("{end:?}"),
            }
            let kind = ErrorKind::Canceled { by: CancelSource::Dropped, reason: None };
            assert!(
                matches!(last_event(&mut also).await, EventKind::Ended { error: Some(error) } if error == kind)
            );
            assert_eq!(alive(id), Vec::<String>::new());
        }
    });
}

#[test]
fn what_is_detached_goes_on_until_its_own_end_or_the_engines() {
    on_both(|engine| async move {
        let run = engine.start(hostile(["tick", "5", "20"]));
        let mut events = run.events();
        run.detach();
        wait_for_output(&mut events, &"tick\n".repeat(5)).await;
        assert!(matches!(last_event(&mut events).await, EventKind::Ended { error: None }));

        let run = engine.start(Endless::Tree.tool());
        let (id, mut events, canceler) = (run.id(), run.events(), run.canceler());
        ready(&mut events).await;
        run.detach();
        canceler.cancel("it can still be cancelled");
        last_event(&mut events).await;
        assert_eq!(alive(id), Vec::<String>::new());

        let run = engine.start(Endless::Tree.tool());
        let (id, mut events) = (run.id(), run.events());
        ready(&mut events).await;
        run.detach();
        engine.shutdown(Duration::ZERO).await;
        let EventKind::Ended { error: Some(error) } = last_event(&mut events).await else {
            panic!("a success")
        };
        assert_eq!(error, ErrorKind::Canceled { by: CancelSource::Shutdown, reason: None });
        assert_eq!(alive(id), Vec::<String>::new());
    });
}

#[test]
fn an_execution_may_be_dropped_outside_any_runtime() {
    let rig = Rig::new();
    let mark = rig.mark();
    let runtime = Flavour::MultiThread.runtime();
    let engine = rig.builder().catalog(Endless::catalog()).runtime(runtime.handle().clone()).build().unwrap();
    // Started outside of it, too.
    let runs: Vec<_> = Endless::ALL.into_iter().map(|mode| engine.start(mode.tool())).collect();
    let mut readers: Vec<_> = runs.iter().map(|run| (run.id(), run.events(), run.events())).collect();
    for (_, events, _) in &mut readers {
        runtime.block_on(ready(events));
    }
    drop(runs);
    for (id, _, mut events) in readers {
        let EventKind::Ended { error: Some(error) } = runtime.block_on(last_event(&mut events)) else {
            panic!()
        };
        assert_eq!(error, ErrorKind::Canceled { by: CancelSource::Dropped, reason: None });
        assert_eq!(alive(id), Vec::<String>::new());
    }
    drop(engine);
    drop(runtime);
    mark.assert_settled_blocking("after the drops");
}
