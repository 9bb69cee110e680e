//! In the phases of the end.

use std::{
    fs::OpenOptions,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use support::{
    Dice, Endless, PATIENCE, alive, end_of, hostile, in_lanes, is_alive, level, ready, wait_for_output,
};
use tool_engine::{
    AfterExit, CancelSource, CancellationToken, Clock, ErrorKind, EventKind, ExecutionError, ExitStatus,
    Level, Limits,
};

use crate::{ENDLESS_GRACE, canceled, dead, last_event, on_both, ready_pid};

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
            // In a sandbox it is the number inside.
            assert!(level() != Level::None || !is_alive(daemon.pid));
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
