//! EAGAIN: no process left for this user.

use std::{
    fs,
    os::unix::process::CommandExt,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Uid,
};
use support::{Flavour, Rig, failed, patient, sh_up, skip, succeeded, uncontained};
use tool_engine::{BuildError, LaunchStep};

use crate::{
    inner::{self, is_inner},
    refused, sh,
};

/// Runs the inner half as an ordinary user: the limit does not apply to root. Another user than ours, where we are root,
/// that nobody else is just now.
fn as_ordinary_user(test: &str) {
    let mut command = inner::command("/proc/self/exe");
    if Uid::current().is_root() {
        let user = 200_000 + std::process::id() % 100_000;
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let mapped = map.lines().any(|line| {
            let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            matches!(numbers[..], [first, _, count] if (first..first + count).contains(&u64::from(user)))
        });
        if !mapped {
            return skip("we are root and can become no other user here: this user namespace has no other");
        }
        command.uid(user).gid(user);
    }
    inner::run(command, test);
}

/// So few processes that there can be no other one, until it is dropped.
struct NoProcess {
    before: (u64, u64),
}

impl NoProcess {
    fn begin() -> Self {
        let before = getrlimit(Resource::RLIMIT_NPROC).expect("limits can be read");
        setrlimit(Resource::RLIMIT_NPROC, 1, before.1).expect("limits can be lowered");
        Self { before }
    }
}

impl Drop for NoProcess {
    fn drop(&mut self) {
        setrlimit(Resource::RLIMIT_NPROC, self.before.0, self.before.1).expect("a soft limit can be raised");
    }
}

/// How long a refusal may take: far more than it does, far less than any timeout of the engine's.
const SOON: Duration = Duration::from_secs(15);

fn refused_at_once(flavour: Flavour) {
    Rig::run(flavour, |rig| async move {
        let mark = rig.mark();
        let engine = rig.builder().limits(patient()).build().expect("an engine can be built");
        // The first is for an engine, and a runtime, that have done nothing so far.
        for _ in 0..10 {
            let none = NoProcess::begin();
            let began = Instant::now();
            let end = engine.start(uncontained(sh("true"))).await;
            let took = began.elapsed();
            drop(none);
            let error = end.expect_err("no process could be had");
            assert_eq!(refused(error.kind()), (LaunchStep::Fork, Errno::EAGAIN), "after {took:?}: {error}");
            assert!(error.is_retryable());
            assert!(took < SOON, "it took {took:?}");
            assert!(error.to_string().contains("limit of processes"), "{error}");
            // And the engine works again.
            succeeded(engine.start(uncontained(sh("true")))).await;
            assert_eq!(failed(engine.start(sh("exit 3"))).await.0.name(), "process");
        }
        engine.shutdown(Duration::from_secs(10)).await;
        drop(engine);
        mark.assert_settled("after the test").await;
    });
}

#[test]
fn a_call_on_a_multi_threaded_runtime() {
    as_ordinary_user("processes::inner_multi_threaded");
}

#[test]
#[ignore = "the inner half of `a_call_on_a_multi_threaded_runtime`"]
fn inner_multi_threaded() {
    if is_inner() {
        refused_at_once(Flavour::MultiThread);
    }
}

#[test]
fn a_call_on_a_single_threaded_runtime() {
    as_ordinary_user("processes::inner_single_threaded");
}

#[test]
#[ignore = "the inner half of `a_call_on_a_single_threaded_runtime`"]
fn inner_single_threaded() {
    if is_inner() {
        refused_at_once(Flavour::CurrentThread);
    }
}

#[test]
fn what_runs_when_processes_run_out_is_stopped_all_the_same() {
    as_ordinary_user("processes::inner_stop");
}

#[test]
#[ignore = "the inner half of `what_runs_when_processes_run_out_is_stopped_all_the_same`"]
fn inner_stop() {
    if is_inner() {
        Rig::run(Flavour::MultiThread, |rig| async move {
            let engine = rig.builder().limits(patient()).build().unwrap();
            for _ in 0..10 {
                let run =
                    engine.start(uncontained(sh_up("setsid sleep 110 & up; echo ready; exec sleep 100")));
                support::ready(&mut run.events()).await;
                let none = NoProcess::begin();
                run.cancel("enough");
                let (kind, report) = failed(run).await;
                drop(none);
                assert_eq!(kind.name(), "canceled");
                assert_eq!(report.residue.len(), 1, "{:?}", report.residue);
            }
            engine.shutdown(Duration::from_secs(10)).await;
        });
    }
}

#[test]
fn an_engine_without_threads_is_not_built() {
    as_ordinary_user("processes::inner_build");
}

#[test]
#[ignore = "the inner half of `an_engine_without_threads_is_not_built`"]
fn inner_build() {
    if is_inner() {
        Rig::run(Flavour::CurrentThread, |rig| async move {
            let mark = rig.mark();
            let none = NoProcess::begin();
            let error = rig.builder().build().unwrap_err();
            drop(none);
            assert!(matches!(error, BuildError::Thread(_)), "{error:?}");
            assert!(error.to_string().contains("limit of processes is reached"), "{error}");
            mark.assert_settled("of an engine that was not built").await;
            succeeded(rig.engine().start(sh("true"))).await;
        });
    }
}

#[test]
fn a_tool_that_may_start_nothing_says_so_itself() {
    as_ordinary_user("processes::inner_tool");
}

#[test]
#[ignore = "the inner half of `a_tool_that_may_start_nothing_says_so_itself`"]
fn inner_tool() {
    if is_inner() {
        Rig::run(Flavour::MultiThread, |rig| async move {
            let engine = rig.builder().limits(patient()).build().unwrap();
            // The limit is the tool's own, and so is what it does about it.
            let (kind, report) = failed(engine.start(sh("ulimit -u 1; /bin/true; exit 7"))).await;
            assert_eq!(kind.name(), "process");
            assert!(!report.stderr.is_empty());
            engine.shutdown(Duration::from_secs(10)).await;
        });
    }
}
