//! Before and during the start.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use support::{
    Dice, Endless, Flavour, PATIENCE, Rig, alive_of, end_of, hostile, in_lanes, is_canceled_at_random,
    is_dropped_at_random, ready,
};
use tool_engine::{CancelSource, CancellationToken, ErrorKind, EventKind, Limits};

use crate::{canceled, canceled_before_start, on, on_both};

#[test]
fn a_token_that_is_cancelled_already_starts_nothing() {
    on_both(|engine| async move {
        let token = CancellationToken::new();
        token.cancel();
        let call = Endless::Sleep.tool().cancel_on(CancellationToken::new()).cancel_on(token);
        canceled_before_start(engine.start(call), CancelSource::Token).await;
    });
}

#[test]
fn what_waits_for_its_turn_is_cancelled_there_and_the_line_moves_on() {
    for flavour in Flavour::ALL {
        Rig::run(flavour, |rig| async move {
            let mark = rig.mark();
            let engine = rig.builder().max_running(1).build().unwrap();
            let first = engine.start(Endless::Sleep.command());
            ready(&mut first.events()).await;
            let token = CancellationToken::new();
            let waiting = engine.start(Endless::Sleep.command());
            let by_token = engine.start(Endless::Sleep.command().cancel_on(token.clone()));
            let dropped = engine.start(Endless::Sleep.command());
            let (canceler, mut dropped_events) = (waiting.canceler(), dropped.events());
            // When this one has waited in vain, those before it are in the line.
            let limits = Limits { queue_timeout: Some(Duration::from_millis(50)), ..Limits::default() };
            let impatient = end_of(engine.start(hostile(["exit"]).limits(limits))).await;
            assert!(matches!(impatient.unwrap_err().kind(), ErrorKind::Busy { .. }));
            canceler.cancel(CancelSource::Signal(2));
            canceled_before_start(waiting, CancelSource::Signal(2)).await;
            token.cancel();
            canceled_before_start(by_token, CancelSource::Token).await;
            drop(dropped);
            let end = dropped_events.next().await.unwrap();
            let by = CancelSource::Dropped;
            assert!(
                matches!(end.kind, EventKind::Ended { error: Some(ErrorKind::Canceled { by: who, .. }) } if who == by)
            );
            let last = engine.start(hostile(["exit"]));
            first.cancel(CancelSource::Caller);
            canceled(end_of(first).await, CancelSource::Caller);
            end_of(last).await.unwrap();
            engine.shutdown(Duration::ZERO).await;
            drop(engine);
            mark.assert_settled("after the line").await;
        });
    }
}

/// Half of a thousand: these are the suite's slowest.
fn cancels_race_with_the_start(rounds: std::ops::Range<u64>) {
    on(Flavour::MultiThread, |engine| async move {
        in_lanes(4, rounds.end - rounds.start, |round| {
            let (engine, round) = (engine.clone(), round + rounds.start);
            async move {
                let mode = Endless::ALL[usize::try_from(round).unwrap() % Endless::ALL.len()];
                is_canceled_at_random(&engine, mode, &mut Dice::new(round)).await;
            }
        })
        .await;
    });
}

#[test]
fn five_hundred_cancels_race_with_the_start() {
    cancels_race_with_the_start(0..500);
}

#[test]
fn five_hundred_more_cancels_race_with_the_start() {
    cancels_race_with_the_start(500..1000);
}

#[test]
fn a_hundred_cancels_race_with_the_start_on_one_thread() {
    on(Flavour::CurrentThread, |engine| async move {
        for round in 0..100 {
            is_canceled_at_random(&engine, Endless::Sleep, &mut Dice::new(round)).await;
        }
    });
}

#[test]
fn a_thousand_futures_are_dropped_at_random() {
    on(Flavour::MultiThread, |engine| async move {
        let ids = Arc::new(Mutex::new(Vec::new()));
        in_lanes(8, 1000, |round| {
            let (engine, ids) = (engine.clone(), Arc::clone(&ids));
            async move {
                let mode = Endless::ALL[usize::try_from(round).unwrap() % Endless::ALL.len()];
                let id = is_dropped_at_random(&engine, mode, &mut Dice::new(round)).await;
                ids.lock().unwrap().push(id);
            }
        })
        .await;
        engine.shutdown(PATIENCE).await;
        assert_eq!(engine.active(), 0);
        let ids = ids.lock().unwrap().clone();
        assert_eq!(ids.len(), 1000);
        assert_eq!(alive_of(&ids), Vec::<String>::new());
    });
}
