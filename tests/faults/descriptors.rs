//! EMFILE: no descriptor left, at every step of a start in turn.
//!
//! The limit is that of the whole process: these tests need a process each, as nextest gives them.

use std::{collections::BTreeSet, fs};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};
use support::{Flavour, Mark, Scripted, ended, failed, ready, sh_up, succeeded, with_engine_on};
use tool_engine::{Call, Engine, ErrorKind, LaunchStep, Level, Stdin};

use crate::{refused, sh};

/// The soft limit on descriptors, until it is dropped.
struct FewDescriptors {
    before: (u64, u64),
}

impl FewDescriptors {
    /// As many as are open now, and `spare` more. What is numbered higher stays open.
    fn leave(spare: u64) -> Self {
        let before = getrlimit(Resource::RLIMIT_NOFILE).expect("limits can be read");
        let mut open: BTreeSet<u64> = fs::read_dir("/proc/self/fd")
            .expect("/proc is mounted")
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        // The one that was just read with is closed again, and was the lowest that was free.
        let mut limit = 0;
        let mut free = 0;
        while free < spare + 1 {
            free += u64::from(!open.remove(&limit));
            limit += 1;
        }
        setrlimit(Resource::RLIMIT_NOFILE, limit - 1, before.1).expect("limits can be lowered");
        Self { before }
    }
}

impl Drop for FewDescriptors {
    fn drop(&mut self) {
        setrlimit(Resource::RLIMIT_NOFILE, self.before.0, self.before.1).expect("a soft limit can be raised");
    }
}

/// Makes the call with 0, 1, 2 … descriptors to spare, until it succeeds three times in a row. Returns the steps that
/// failed.
async fn steps_that_fail(engine: &Engine, mark: &Mark, call: impl Fn() -> Call) -> Vec<LaunchStep> {
    let mut steps = Vec::new();
    let mut successes = 0;
    for spare in 0..40 {
        let few = FewDescriptors::leave(spare);
        let end = engine.start(call()).await;
        drop(few);
        match end {
            Ok(_) => successes += 1,
            Err(error) => {
                let (step, errno) = refused(error.kind());
                assert_eq!(errno, Errno::EMFILE, "{error}");
                assert!(error.is_retryable(), "{error}");
                assert!(error.to_string().contains("raise the limit of open files (`ulimit -n`)"), "{error}");
                assert_eq!(error.report().exit, None);
                successes = 0;
                steps.push(step);
            }
        }
        mark.assert_settled(&format!("with {spare} descriptors to spare")).await;
        succeeded(engine.start(sh("true"))).await;
        if successes == 3 {
            return steps;
        }
    }
    panic!("it never succeeded: {steps:?}");
}

fn at_every_step(call: impl Fn() -> Call, expected: &[LaunchStep]) {
    for flavour in Flavour::ALL {
        with_engine_on(
            flavour,
            |builder| builder.catalog(Scripted),
            |engine| async {
                // What is opened once and kept is open now.
                succeeded(engine.start(sh("true"))).await;
                let mark = Mark::take(None);
                let mut steps = steps_that_fail(&engine, &mark, &call).await;
                steps.dedup();
                // A sandbox opens what it shows as well.
                let own = [LaunchStep::Policy, LaunchStep::Sandbox];
                steps.retain(|step| support::level() == Level::None || !own.contains(step));
                steps.dedup();
                assert_eq!(steps, expected);
                drop(engine);
            },
        );
    }
}

#[test]
fn a_command() {
    at_every_step(|| sh("true"), &[LaunchStep::Pipe]);
}

#[test]
fn a_command_with_stdin() {
    at_every_step(|| sh("cat").stdin(Stdin::Bytes("x".into())), &[LaunchStep::Pipe]);
}

#[test]
fn a_worker() {
    at_every_step(
        || Scripted::call(&["begin", "line={\"type\":\"result\",\"value\":1}"]),
        &[LaunchStep::Channel, LaunchStep::Pipe],
    );
}

#[test]
fn what_runs_when_descriptors_run_out_is_stopped_all_the_same() {
    with_engine_on(
        Flavour::MultiThread,
        |builder| builder.catalog(Scripted),
        |engine| async move {
            for _ in 0..10 {
                let run = engine.start(sh_up("sleep 108 & up; echo ready; exec sleep 100"));
                support::ready(&mut run.events()).await;
                let few = FewDescriptors::leave(0);
                run.cancel("enough");
                let id = run.id();
                let end = run.await;
                drop(few);
                assert!(matches!(end.unwrap_err().kind(), ErrorKind::Canceled { .. }));
                assert_eq!(support::alive(id), Vec::<String>::new());
            }
        },
    );
}

#[test]
fn many_calls_at_once_with_too_few_descriptors_all_end() {
    with_engine_on(
        Flavour::MultiThread,
        |builder| builder.max_running(64),
        |engine| async move {
            succeeded(engine.start(sh("true"))).await;
            let mark = Mark::take(None);
            let few = FewDescriptors::leave(60);
            let runs: Vec<_> = (0..200).map(|_| engine.start(sh("exit 3"))).collect();
            let mut ends = Vec::new();
            for run in runs {
                ends.push(run.await.unwrap_err());
            }
            drop(few);
            for error in &ends {
                match error.kind() {
                    ErrorKind::Process { .. } => {}
                    kind => assert_eq!(refused(kind).1, Errno::EMFILE),
                }
            }
            mark.assert_settled("after 200 calls").await;
            assert!(matches!(failed(engine.start(sh("exit 3"))).await.0, ErrorKind::Process { .. }));
            ended(engine.start(sh("true"))).await.unwrap();
        },
    );
}

#[test]
fn a_crowd_left_behind_uses_up_no_descriptors_and_dies() {
    with_engine_on(Flavour::MultiThread, crate::plain, |engine| async move {
        const CROWD: usize = 200;
        // `up`: only who has left the group is left behind by the group's SIGTERM.
        let script = format!("for i in $(seq {CROWD}); do setsid sleep 1000 & up; done; echo ready; wait");
        let run = engine.start(sh_up(&script));
        ready(&mut run.events()).await;
        let few = FewDescriptors::leave(100);
        run.cancel("enough");
        // Meanwhile others find what they need. At the end, `failed` looks for who is still alive.
        let others = async {
            for _ in 0..20 {
                succeeded(engine.start(sh("true"))).await;
            }
        };
        let ((kind, report), ()) = tokio::join!(failed(run), others);
        drop(few);
        assert_eq!(kind.name(), "canceled");
        // In a sandbox SIGTERM comes to those, too, who left the group; and of many the first are named.
        let (named, crowd) = (report.residue.len(), support::level() == Level::None);
        assert!(if crowd { named == CROWD } else { named <= 50 }, "{report:?}");
        assert!(report.residue.iter().all(|left| left.killed), "{report:?}");
    });
}
