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

use std::{
    fs::OpenOptions,
    future::Future,
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use support::{
    Dice, Endless, Flavour, PATIENCE, Rig, alive, alive_of, end_of, hostile, in_lanes, is_alive, is_canceled,
    is_canceled_at_random, is_dropped_at_random, ready, until, wait_for_output,
};
use tokio::runtime::Runtime;
use tool_engine::{
    AfterExit, Call, CancelSource, Cancellation, CancellationToken, Clock, Engine, ErrorKind, EventKind,
    Events, Execution, ExecutionError, ExecutionId, ExitStatus, Limits, Report,
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

// Before and during the start.

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

// While it runs.

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

// In the phases of the end.

#[test]
fn a_second_cancel_skips_the_grace_and_keeps_the_output() {
    on_both(|engine| async move {
        let run = engine.start(hostile(["on-term", "stay"]).kill_grace(ENDLESS_GRACE));
        let mut events = run.events();
        ready(&mut events).await;
        run.cancel("please");
        wait_for_output(&mut events, "got SIGTERM\n").await;
        run.cancel("now");
        let report = canceled(end_of(run).await, CancelSource::Caller);
        assert_eq!(report.exit, Some(ExitStatus::Signal(9)));
        assert_eq!(report.stderr.text(), "hostile on-term: last words\ngot SIGTERM\n");
    });
}

#[test]
fn a_drop_or_a_token_after_a_cancel_does_not_insist() {
    on_both(|engine| async move {
        let token = CancellationToken::new();
        let run = engine.start(hostile(["on-term"]).kill_grace(ENDLESS_GRACE).cancel_on(token.clone()));
        let mut events = run.events();
        ready(&mut events).await;
        run.cancel("please");
        token.cancel();
        drop(run);
        // It has its grace, and needs it to say this.
        wait_for_output(&mut events, "got SIGTERM\n").await;
        let last = last_event(&mut events).await;
        let kind = ErrorKind::Canceled { by: CancelSource::Caller, reason: Some("please".into()) };
        assert!(matches!(last, EventKind::Ended { error: Some(error) } if error == kind));
    });
}

#[test]
fn a_cancel_cuts_linger_short_and_what_ended_by_itself_stays_a_success() {
    on_both(|engine| async move {
        for after_exit in [AfterExit::Linger(Duration::from_secs(600)), AfterExit::Wait] {
            let call = hostile(["escape", "exit"]).timeout(Duration::from_secs(600)).after_exit(after_exit);
            let run = engine.start(call);
            let pid = ready_pid(&run).await;
            dead(pid).await;
            run.cancel("no more of that");
            let report = end_of(run).await.expect("it had ended with exit code 0");
            assert_eq!(report.exit, Some(ExitStatus::Code(0)));
            let [daemon] = &report.residue[..] else { panic!("{report:?}") };
            assert!(daemon.escaped && daemon.killed, "{daemon:?}");
            assert!(!is_alive(daemon.pid));
        }
    });
}

#[test]
fn no_cancel_cuts_the_drain_short() {
    on_both(|engine| async move {
        let limits = Limits { drain: Some(Duration::from_secs(600)), ..Limits::default() };
        let run = engine.start(hostile(["sleep"]).limits(limits));
        let pid = ready_pid(&run).await;
        // We hold the pipe, and are out of the engine's reach.
        let mut pipe = OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/1")).unwrap();
        let id = run.id();
        run.cancel("once");
        dead(pid).await;
        run.cancel("twice");
        run.cancel("and again");
        let mut run = Box::pin(run);
        let soon = tokio::time::timeout(Duration::from_millis(300), &mut run).await;
        assert!(soon.is_err(), "it did not wait for the pipe: {soon:?}");
        writeln!(pipe, "late").unwrap();
        drop(pipe);
        let end = tokio::time::timeout(PATIENCE, run).await.expect("it ends with the pipe");
        let report = canceled(end, CancelSource::Caller);
        assert_eq!(report.stdout.text(), "ready\nlate\n");
        assert!(!report.pipe_held);
        assert_eq!(alive(id), Vec::<String>::new());
    });
}

#[test]
fn a_pipe_that_stays_held_is_given_up_after_the_drain_and_that_is_told() {
    on_both(|engine| async move {
        let limits = Limits { drain: Some(Duration::from_millis(200)), ..Limits::default() };
        let run = engine.start(hostile(["sleep"]).limits(limits));
        let pid = ready_pid(&run).await;
        let pipe = OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/2")).unwrap();
        run.cancel("once");
        let end = tokio::time::timeout(PATIENCE, run).await.expect("the drain has a bound");
        let report = canceled(end, CancelSource::Caller);
        assert!(report.pipe_held);
        assert_eq!(report.stdout.text(), "ready\n");
        drop(pipe);
    });
}

#[test]
fn after_the_end_the_end_stands() {
    on_both(|engine| async move {
        for (code, token) in [("0", CancellationToken::new()), ("3", CancellationToken::new())] {
            let run = engine.start(hostile(["exit", code]).cancel_on(token.clone()));
            let mut events = run.events();
            let EventKind::Ended { error } = last_event(&mut events).await else { unreachable!() };
            run.cancel("too late");
            token.cancel();
            let canceler = run.canceler();
            let end = end_of(run).await;
            assert_eq!(error.as_ref(), end.as_ref().err().map(ExecutionError::kind));
            let report = end.unwrap_or_else(|error| error.into_parts().1);
            assert_eq!(report.exit, Some(ExitStatus::Code(code.parse().unwrap())));
            canceler.cancel("much too late");
        }
    });
}

#[test]
fn a_cancel_at_the_moment_of_the_timeout_has_one_of_the_two_outcomes() {
    on_both(|engine| async move {
        let (canceled, late) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        in_lanes(4, 60, |round| {
            let (engine, canceled, late) = (engine.clone(), Arc::clone(&canceled), Arc::clone(&late));
            async move {
                let after = Duration::from_millis(60);
                let run = engine.start(Endless::Sleep.call(round).timeout(after));
                let mut events = run.events();
                let canceler = run.canceler();
                let cancel = async {
                    events.next().await;
                    tokio::time::sleep(after).await;
                    Dice::new(round).pause(Duration::from_millis(4)).await;
                    canceler.cancel(CancelSource::Caller);
                };
                let (end, ()) = tokio::join!(end_of(run), cancel);
                let kind = end.unwrap_err().into_parts().0;
                if kind == (ErrorKind::Timeout { clock: Clock::Wall, after }) {
                    late.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert_eq!(kind, ErrorKind::Canceled { by: CancelSource::Caller, reason: None });
                    canceled.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
        .await;
        assert_eq!(canceled.load(Ordering::Relaxed) + late.load(Ordering::Relaxed), 60);
    });
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

#[test]
fn every_reader_finds_one_end_however_late_it_comes() {
    on_both(|engine| async move {
        let run = engine.start(Endless::Flood.command());
        let mut early = run.events();
        ready(&mut early).await;
        let mut middle = run.events();
        let mut from_far_away = run.events_from(u64::MAX / 2);
        run.cancel("enough");
        let mut ends = vec![last_event(&mut early).await, last_event(&mut middle).await];
        ends.push(last_event(&mut from_far_away).await);
        // After the end, the log is still there.
        ends.push(last_event(&mut run.events()).await);
        for readers in [&mut early, &mut middle, &mut from_far_away] {
            assert!(readers.next().await.is_none(), "nothing follows the end");
        }
        let kind = end_of(run).await.unwrap_err().into_parts().0;
        for end in ends {
            assert!(matches!(end, EventKind::Ended { error: Some(error) } if error == kind));
        }
    });
}

// By letting go.

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

// With the engine.

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

// With the runtime.

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
