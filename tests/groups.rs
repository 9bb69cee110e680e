//! Several calls under one rule end together, each with one outcome of its own, in the order in which they were given.
//!
//! Promised: whatever the rule, each call has exactly one outcome, at its place. With fail-fast and first-success the others
//! are cancelled, are told because of which, and those that were not started never are. No more run at a time than asked
//! for. The group's deadline, a token, a canceler and the engine's shutdown end all of them. A callback that panics takes
//! nothing with it, and nobody is waited for who does not read. When the group has returned, or some time after it was dropped, nothing of it is left.
//!
//! Not promised: how long it takes; which of two that fail at the same time is the one that the others are told of; that
//! a group ends at its deadline to the moment (what runs has its grace).

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    future::Future,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use support::{Dice, Endless, Flavour, PATIENCE, Rig, alive, hostile, is_alive, until};
use tempfile::TempDir;
use tokio::time::timeout;
use tool_engine::{
    Call, CancelSource, CancellationToken, Clock, Engine, ErrorKind, EventKind, ExecutionError, ExitStatus,
    Group, Limits, Report, Retry,
};

type End = Result<Report, ExecutionError>;

/// A grace that no test lives to see the end of.
const ENDLESS_GRACE: Duration = Duration::from_secs(3600);

/// Runs the test on both flavours of runtime; shuts down, and looks for what is left.
fn on_both<F: Future<Output = ()>>(test: impl Fn(Engine) -> F) {
    for flavour in Flavour::ALL {
        let test = &test;
        Rig::run(flavour, |rig| async move {
            let mark = rig.mark();
            let engine = rig.builder().catalog(Endless::catalog()).max_running(20).build().unwrap();
            test(engine.clone()).await;
            engine.shutdown(Duration::ZERO).await;
            drop(engine);
            mark.assert_settled("after the test").await;
        });
    }
}

fn sh(script: impl Into<String>) -> Call {
    Call::command(["sh".into(), "-c".into(), script.into()])
}

/// Runs the group. Of what has ended nothing is alive.
async fn run(group: Group, calls: Vec<Call>) -> Vec<End> {
    let count = calls.len();
    let ends = timeout(PATIENCE, group.run(calls)).await.expect("the group ends");
    assert_eq!(ends.len(), count);
    for end in &ends {
        assert_eq!(alive(report(end).id), Vec::<String>::new());
    }
    ends
}

fn report(end: &End) -> &Report {
    end.as_ref().unwrap_or_else(ExecutionError::report)
}

fn kind(end: &End) -> &ErrorKind {
    end.as_ref().unwrap_err().kind()
}

/// That it was cancelled so, and what was said.
fn canceled(end: &End, who: CancelSource) -> &str {
    match kind(end) {
        ErrorKind::Canceled { by, reason } if *by == who => reason.as_deref().unwrap_or_default(),
        other => panic!("{other:?}"),
    }
}

fn was_started(end: &End) -> bool {
    report(end).enforced.is_some()
}

/// A file that is not there yet.
fn marker(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

#[test]
fn each_call_has_its_own_outcome_at_its_place() {
    on_both(|engine| async move {
        let calls = vec![
            sh("sleep 0.2; echo first"),
            sh("exit 3"),
            Endless::Sleep.command().timeout(Duration::from_millis(200)),
            Call::command(["no-such-program"]),
            sh("exit 0").env("LD_PRELOAD", "x"),
            sh("echo last"),
        ];
        let ends = run(Group::new(&engine).wait_all(), calls).await;
        assert_eq!(&ends[0].as_ref().unwrap().stdout.bytes()[..], b"first\n");
        assert_eq!(kind(&ends[1]), &ErrorKind::Process { status: ExitStatus::Code(3) });
        assert!(matches!(kind(&ends[2]), ErrorKind::Timeout { clock: Clock::Wall, .. }));
        assert_eq!(kind(&ends[3]).name(), "spawn");
        assert_eq!(kind(&ends[4]).name(), "invalid");
        assert_eq!(&ends[5].as_ref().unwrap().stdout.bytes()[..], b"last\n");
        assert!(run(Group::new(&engine), Vec::new()).await.is_empty());
    });
}

#[test]
fn the_first_that_fails_cancels_the_others_and_they_are_told_because_of_which() {
    on_both(|engine| async move {
        let folder = TempDir::new().unwrap();
        let (ready, never) = (marker(&folder, "ready"), marker(&folder, "never"));
        let calls = vec![
            sh(format!("touch {ready}; sleep 1000")),
            sh(format!("until [ -e {ready} ]; do sleep 0.01; done; exit 3")),
            sh(format!("touch {never}")),
        ];
        let ends = run(Group::new(&engine).fail_fast().at_most(2), calls).await;
        assert_eq!(kind(&ends[1]), &ErrorKind::Process { status: ExitStatus::Code(3) });
        for end in [&ends[0], &ends[2]] {
            let reason = canceled(end, CancelSource::Sibling(1));
            assert!(reason.starts_with("sh -c until ") && reason.ends_with(" failed: exited with code 3"));
            let words = kind(end).to_string();
            assert!(words.starts_with("canceled because of call 1 of its group: sh -c "), "{words}");
        }
        assert!(was_started(&ends[0]) && !was_started(&ends[2]) && !Path::new(&never).exists());
        assert!(report(&ends[2]).tool.starts_with("sh -c touch "));
    });
}

#[test]
fn the_first_that_succeeds_cancels_the_others() {
    on_both(|engine| async move {
        let calls = vec![Endless::Tree.tool(), sh("exit 3"), sh("echo found"), Endless::Sleep.command()];
        let ends = run(Group::new(&engine).first_success(), calls).await;
        assert_eq!(&ends[2].as_ref().unwrap().stdout.bytes()[..], b"found\n");
        for end in [&ends[0], &ends[3]] {
            assert_eq!(canceled(end, CancelSource::Sibling(2)), "sh -c echo found succeeded");
        }
        // It may have been cancelled before it could fail.
        assert!(ends[1].is_err());

        let ends = run(Group::new(&engine).first_success(), vec![sh("exit 3"), sh("exit 4")]).await;
        let codes = ends.iter().map(|end| report(end).exit);
        assert_eq!(codes.collect::<Vec<_>>(), [Some(ExitStatus::Code(3)), Some(ExitStatus::Code(4))]);
    });
}

#[test]
fn no_more_run_at_a_time_than_asked_for() {
    on_both(|engine| async move {
        for most in [0, 1, 3] {
            let now = Arc::new(AtomicUsize::new(0));
            let peak = Arc::new(AtomicUsize::new(0));
            let (more, less, highest) = (Arc::clone(&now), Arc::clone(&now), Arc::clone(&peak));
            let group = Group::new(&engine)
                .at_most(most)
                .on_event(move |_, event| {
                    if let EventKind::Started { .. } = event.kind {
                        highest.fetch_max(more.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    }
                })
                .on_end(move |_, _| {
                    less.fetch_sub(1, Ordering::SeqCst);
                });
            let ends = run(group, (0..12).map(|_| sh("sleep 0.05")).collect()).await;
            assert!(ends.iter().all(Result::is_ok));
            assert!(peak.load(Ordering::SeqCst) <= most.max(1), "{peak:?} of {most}");
            assert_eq!(now.load(Ordering::SeqCst), 0);
        }
    });
}

#[test]
fn when_the_time_of_the_group_is_over_all_of_it_ends() {
    on_both(|engine| async move {
        let calls =
            vec![sh("echo soon"), Endless::IgnoreTerm.command(), Endless::Sleep.tool(), sh("echo never")];
        let group = Group::new(&engine).at_most(2).deadline(Duration::from_secs(2));
        let ends = run(group, calls).await;
        let why = "2s for all its calls";
        assert!(ends[0].is_ok());
        assert_eq!(canceled(&ends[1], CancelSource::Deadline), why);
        assert_eq!(canceled(&ends[2], CancelSource::Deadline), why);
        assert_eq!(canceled(&ends[3], CancelSource::Deadline), why);
        assert!(!was_started(&ends[3]));

        let ends = run(Group::new(&engine).deadline(Duration::ZERO), vec![sh("sleep 1000")]).await;
        assert_eq!(canceled(&ends[0], CancelSource::Deadline), "0ns for all its calls");
        let ends = run(Group::new(&engine).deadline(Duration::MAX), vec![sh("echo 1")]).await;
        assert!(ends[0].is_ok());
    });
}

#[test]
fn a_canceler_a_token_and_a_shutdown_end_all_of_it() {
    on_both(|engine| async move {
        let stubborn = || {
            let call = Endless::IgnoreTerm.command();
            call.limits(Limits { kill_grace: Some(ENDLESS_GRACE), ..support::patient() })
        };
        // A first request leaves the grace, a second one does not.
        let output = Arc::new(tokio::sync::Notify::new());
        let heard = Arc::clone(&output);
        let group = Group::new(&engine).at_most(1).on_event(move |_, event| {
            if let EventKind::Stdout(_) = event.kind {
                heard.notify_one();
            }
        });
        let canceler = group.canceler();
        let cancel = async {
            output.notified().await;
            canceler.cancel(CancelSource::Signal(2));
            canceler.cancel(CancelSource::Signal(15));
        };
        let (ends, ()) = tokio::join!(run(group, vec![stubborn(), sh("echo never")]), cancel);
        for end in &ends {
            canceled(end, CancelSource::Signal(2));
        }
        assert!(was_started(&ends[0]) && !was_started(&ends[1]));

        let token = CancellationToken::new();
        let group = Group::new(&engine).cancel_on(token.clone());
        token.cancel();
        for end in run(group, vec![sh("sleep 1000"), Endless::Tree.tool()]).await {
            canceled(&end, CancelSource::Token);
            assert!(!was_started(&end), "it was asked to end before it began");
        }

        // A request that came before anything was started.
        let group = Group::new(&engine);
        group.canceler().cancel("changed my mind");
        let ends = run(group, vec![sh("sleep 1000")]).await;
        assert_eq!(canceled(&ends[0], CancelSource::Caller), "changed my mind");
        assert!(!was_started(&ends[0]));

        let down = async {
            until("both run", PATIENCE, || (engine.active() == 2).then_some(())).await;
            engine.shutdown(Duration::ZERO).await;
        };
        let calls = vec![Endless::Sleep.tool(), stubborn(), sh("echo never")];
        let (ends, ()) = tokio::join!(run(Group::new(&engine).at_most(2), calls), down);
        for end in &ends {
            canceled(end, CancelSource::Shutdown);
        }
    });
}

#[test]
fn dropped_at_any_moment_nothing_of_it_goes_on() {
    on_both(|engine| async move {
        for seed in 0..24 {
            let mut dice = Dice::new(seed);
            let modes =
                Endless::ALL.iter().map(|mode| mode.call(seed)).chain([sh("echo quick"), sh("exit 1")]);
            let told = Arc::new(AtomicUsize::new(0));
            let tell = Arc::clone(&told);
            let group = Group::new(&engine).at_most(usize::try_from(1 + dice.below(12)).unwrap()).on_event(
                move |_, _| {
                    tell.fetch_add(1, Ordering::SeqCst);
                },
            );
            tokio::select! { biased;
                () = dice.pause(Duration::from_millis(40)) => {}
                ends = group.run(modes.collect()) => panic!("most of it goes on for ever: {ends:?}"),
            }
            let heard = told.load(Ordering::SeqCst);
            until("nothing runs", PATIENCE, || (engine.active() == 0).then_some(())).await;
            assert_eq!(told.load(Ordering::SeqCst), heard, "nobody is called back after the drop");
        }
    });
}

#[test]
fn a_callback_that_panics_takes_nothing_with_it() {
    on_both(|engine| async move {
        let calls = || vec![hostile(["tick", "3", "5"]), sh("exit 3"), Endless::Sleep.command()];
        let (events, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (event, end) = (Arc::clone(&events), Arc::clone(&ends));
        let group = Group::new(&engine)
            .deadline(Duration::from_secs(2))
            .on_event(move |_, _| {
                event.fetch_add(1, Ordering::SeqCst);
                panic!("on purpose");
            })
            .on_end(move |_, _| {
                end.fetch_add(1, Ordering::SeqCst);
                panic!("on {}", "purpose");
            });
        let outcomes = run(group, calls()).await;
        assert!(outcomes[0].is_ok());
        assert_eq!(kind(&outcomes[1]), &ErrorKind::Process { status: ExitStatus::Code(3) });
        canceled(&outcomes[2], CancelSource::Deadline);
        let called = (events.load(Ordering::SeqCst), ends.load(Ordering::SeqCst));
        assert_eq!(called, (1, 1), "each is called no more after its panic");
    });
}

#[test]
fn whoever_listens_hears_each_call_in_order_and_its_end_last() {
    on_both(|engine| async move {
        let heard: Arc<Mutex<Vec<(usize, String)>>> = Arc::default();
        let (events, ends) = (Arc::clone(&heard), Arc::clone(&heard));
        let group = Group::new(&engine)
            .at_most(2)
            .fail_fast()
            .on_event(move |index, event| {
                let word = match &event.kind {
                    EventKind::Started { .. } => "started",
                    EventKind::Stdout(_) => "stdout",
                    EventKind::Ended { .. } => "ended",
                    other => panic!("{other:?}"),
                };
                events.lock().unwrap().push((index, word.into()));
            })
            .on_end(move |index, end| {
                let word = end.as_ref().map_or_else(|error| error.kind().name(), |_| "ok");
                ends.lock().unwrap().push((index, word.into()));
            });
        run(group, vec![sh("echo 1"), sh("sleep 0.3; exit 1"), sh("sleep 1000"), sh("never")]).await;
        let heard = heard.lock().unwrap();
        let of = |index| {
            heard.iter().filter(|(call, _)| *call == index).map(|(_, word)| &**word).collect::<Vec<_>>()
        };
        assert_eq!(of(0), ["started", "stdout", "ended", "ok"]);
        assert_eq!(of(1), ["started", "ended", "process"]);
        assert_eq!(of(2), ["started", "ended", "canceled"]);
        assert_eq!(of(3), ["canceled"]);
    });
}

#[test]
fn a_flood_of_events_holds_up_neither_clocks_nor_others() {
    on_both(|engine| async move {
        let group = Group::new(&engine).deadline(Duration::from_secs(2)).on_event(|_, _| {});
        let ends = run(group, vec![Endless::Flood.tool(), sh("echo quick"), Endless::Flood.command()]).await;
        canceled(&ends[0], CancelSource::Deadline);
        assert!(ends[1].is_ok());
        canceled(&ends[2], CancelSource::Deadline);
    });
}

#[test]
fn thousands_of_calls_that_are_never_started_cost_next_to_nothing() {
    on_both(|engine| async move {
        let mut calls = vec![sh("exit 1")];
        calls.extend((0..20_000).map(|_| Call::command(["no-such-program"])));
        let ended = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ended);
        let group = Group::new(&engine).fail_fast().at_most(1);
        let group = group.on_end(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let ends = timeout(PATIENCE, group.run(calls)).await.expect("the group ends");
        assert!(ends.iter().skip(1).all(|end| !was_started(end) && kind(end).name() == "canceled"));
        assert_eq!(ended.load(Ordering::SeqCst), 20_001);
    });
}

#[test]
fn a_secret_of_one_is_not_told_to_the_others() {
    on_both(|engine| async move {
        let secret =
            Call::command(["sh", "-c", "exit 3", "t0ps3cret value"]).secret("TOKEN", "t0ps3cret value");
        let ends = run(Group::new(&engine).fail_fast(), vec![secret, sh("sleep 1000")]).await;
        let reason = canceled(&ends[1], CancelSource::Sibling(0));
        assert_eq!(reason, "sh -c exit 3 *** failed: exited with code 3");
    });
}

#[test]
fn what_escapes_from_one_is_found_when_another_fails() {
    on_both(|engine| async move {
        let folder = TempDir::new().unwrap();
        let pid_file = marker(&folder, "pid");
        let calls = vec![
            sh(format!("setsid sh -c 'echo $$ > {pid_file}; sleep 1000' & sleep 1000")),
            sh(format!("until [ -s {pid_file} ]; do sleep 0.01; done; exit 1")),
        ];
        let ends = run(Group::new(&engine).fail_fast(), calls).await;
        canceled(&ends[0], CancelSource::Sibling(1));
        if support::level() == tool_engine::Level::None {
            let pid = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
            assert!(!is_alive(pid));
        }
    });
}

#[test]
fn one_that_waits_for_its_next_attempt_ends_with_the_others() {
    on_both(|engine| async move {
        let hour = Duration::from_secs(3600);
        let again = Retry::attempts(9).backoff(hour).jitter(false).on(["process"]);
        let folder = TempDir::new().unwrap();
        let failed = folder.path().join("failed");
        let calls = vec![sh("exit 1").retry(again), sh(format!("{}; exit 2", await_file(&failed)))];
        let group = Group::new(&engine).fail_fast().on_event(move |_, event| {
            if let EventKind::Retrying { .. } = event.kind {
                fs::write(&failed, "").unwrap();
            }
        });
        let ends = run(group, calls).await;
        canceled(&ends[0], CancelSource::Sibling(1));
        assert_eq!(report(&ends[0]).attempts.len(), 1);
        assert_eq!(*kind(&ends[1]), ErrorKind::Process { status: ExitStatus::Code(2) });
    });
}

/// A script that waits for a file.
fn await_file(path: &Path) -> String {
    format!("until [ -e {} ]; do sleep 0.01; done", path.display())
}

#[test]
fn a_group_of_none_ends_and_one_of_which_none_succeeds_cancels_none() {
    on_both(|engine| async move {
        for group in [Group::new(&engine).at_most(0), Group::new(&engine).deadline(Duration::ZERO)] {
            assert!(run(group, Vec::new()).await.is_empty());
        }
        let calls = (1..4).map(|code| sh(format!("exit {code}"))).collect();
        let ends = run(Group::new(&engine).first_success().at_most(0), calls).await;
        for (end, code) in ends.iter().zip(1..) {
            assert_eq!(*kind(end), ErrorKind::Process { status: ExitStatus::Code(code) });
        }
    });
}

#[test]
fn a_call_whose_reader_would_be_waited_for_is_waited_for_by_nobody() {
    on_both(|engine| async move {
        let call = || sh("head -c 3000000 /dev/zero").back_pressure();
        let limits = Limits { event_ring: Some(64 << 10), ..Limits::default() };
        let ends = run(Group::new(&engine), vec![call().limits(limits.clone())]).await;
        assert!(ends[0].is_ok(), "{:?}", ends[0]);
        // Also when the one that read is gone.
        let group = Group::new(&engine).on_event(|_, _| panic!("on purpose"));
        let ends = run(group, vec![call().limits(limits)]).await;
        assert!(ends[0].is_ok(), "{:?}", ends[0]);
    });
}
