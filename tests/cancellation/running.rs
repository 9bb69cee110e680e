//! While it runs.

use std::time::Duration;

use support::{Endless, end_of, hostile, in_lanes, is_canceled, ready, wait_for_output};
use tool_engine::{CancelSource, Cancellation, CancellationToken, Clock, ErrorKind, EventKind, ExitStatus};

use crate::{canceled, on_both};

#[test]
fn a_running_tool_is_cancelled_whatever_it_does() {
    on_both(|engine| async move {
        for mode in Endless::ALL {
            in_lanes(4, 8, |round| {
                let engine = engine.clone();
                async move { is_canceled(&engine, mode, round).await }
            })
            .await;
        }
    });
}

#[test]
fn a_flood_is_cancelled_in_the_middle() {
    on_both(|engine| async move {
        let run = engine.start(Endless::Flood.command());
        let mut events = run.events();
        let mut seen = 0;
        while seen < 1 << 20 {
            match events.next().await.unwrap().kind {
                EventKind::Stdout(chunk) | EventKind::Stderr(chunk) => seen += chunk.0.len(),
                EventKind::Ended { error } => panic!("it ended: {error:?}"),
                _ => {}
            }
        }
        run.cancel("enough");
        let report = canceled(end_of(run).await, CancelSource::Caller);
        assert!(report.usage.bytes_out >= 1 << 20, "{report:?}");
        assert!(report.stdout.dropped() + report.stderr.dropped() > 0, "{report:?}");
    });
}

#[test]
fn a_flood_that_nobody_reads_is_cancelled_and_timed_out_with_back_pressure_too() {
    on_both(|engine| async move {
        // The drain has its usual bound: as long as nobody reads, it does not come to an end by itself.
        let flood = || hostile(["flood"]).back_pressure();
        let run = engine.start(flood());
        let mut reader = run.events();
        wait_for_output(&mut reader, "ready\n").await;
        run.cancel("enough");
        canceled(end_of(run).await, CancelSource::Caller);
        let run = engine.start(flood().timeout(Duration::from_millis(300)));
        let _second_reader = run.events();
        let error = end_of(run).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout { clock: Clock::Wall, .. }), "{error:?}");
        drop(reader);
    });
}

#[test]
fn a_token_cancels_all_calls_that_listen_to_it() {
    on_both(|engine| async move {
        let (turn, other) = (CancellationToken::new(), CancellationToken::new());
        let call = || Endless::Tree.tool().cancel_on(other.clone()).cancel_on(turn.child_token());
        let runs = [engine.start(call()), engine.start(call()), engine.start(call())];
        let bystander = engine.start(Endless::Sleep.command().cancel_on(other.clone()));
        for run in &runs {
            ready(&mut run.events()).await;
        }
        turn.cancel();
        for run in runs {
            canceled(end_of(run).await, CancelSource::Token);
        }
        ready(&mut bystander.events()).await;
        bystander.cancel("it is over");
        canceled(end_of(bystander).await, CancelSource::Caller);
    });
}

#[test]
fn five_at_once_of_which_one_hangs() {
    on_both(|engine| async move {
        let hanging = engine.start(Endless::IgnoreTerm.command());
        ready(&mut hanging.events()).await;
        let others: Vec<_> =
            (0..4).map(|n| engine.start(hostile(["tick", "3", "20"]).env("N", n.to_string()))).collect();
        for other in others {
            let report = end_of(other).await.unwrap();
            assert_eq!(report.stdout.text(), "tick\n".repeat(3));
        }
        assert_eq!(engine.active(), 1, "the one that hangs is still there and kept nobody");
        hanging.cancel("it hangs");
        let report = canceled(end_of(hanging).await, CancelSource::Caller);
        assert_eq!(report.exit, Some(ExitStatus::Signal(9)));
    });
}

#[test]
fn who_cancels_first_is_named_with_the_reason() {
    on_both(|engine| async move {
        let run = engine.start(Endless::Sleep.command());
        ready(&mut run.events()).await;
        let why = Cancellation { by: CancelSource::Signal(15), reason: Some("going down".into()) };
        run.cancel(why.clone());
        run.cancel("me too");
        let error = end_of(run).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Canceled { by: why.by, reason: why.reason });
    });
}
