//! What happens when the engine, its keeper, its zygote or a sandbox's first process is killed by SIGKILL, at any moment.
//!
//! Promised: nothing that ran is alive a moment later; no process, cgroup or temporary folder is left; no mount and no
//! network namespace, as those live no longer than their processes. Calls whose zygote died end as `Lost`, those whose
//! sandbox was killed as killed by SIGKILL; the next call works.
//!
//! Not promised: that cgroups are gone when the engine is killed before its keeper knows of them (a millisecond of its
//! start), or together with it. The next engine removes them then.
//!
//! Without a sandbox there is nobody to outlive the engine: this suite is about levels 1 to 4.

use std::{
    fs,
    future::Future,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use support::{
    Dice, Endless, Flavour, Mark, PATIENCE, Rig, descendants_named, failed, is_without_sandbox, level,
    own_cgroups, patient, ready, send, succeeded,
};
use tempfile::TempDir;
use tool_engine::{Call, Engine, ErrorKind, Execution, ExitStatus, Level};

/// How often each of the parties is killed: `RUN_TOOL_CRASH_ROUNDS`, or 25 times.
#[expect(clippy::disallowed_methods, reason = "how a run of the suite is told")]
fn rounds() -> u64 {
    match std::env::var("RUN_TOOL_CRASH_ROUNDS") {
        Ok(number) => number.parse().expect("RUN_TOOL_CRASH_ROUNDS is a number"),
        Err(_) => 25,
    }
}

/// Runs a test of so many rounds. A round takes a tenth of a second.
fn run<F: Future<Output = ()>>(test: impl FnOnce(Rig) -> F) {
    let patience = Duration::from_secs(60 + 2 * rounds());
    Rig::run_within(patience, Flavour::MultiThread, test);
}

/// The next call works; and when it has ended and the engine is shut down, nothing is left.
async fn goes_on_and_ends(engine: Engine, mark: Mark) {
    succeeded(engine.start(Call::command(["true"]))).await;
    engine.shutdown(Duration::from_secs(20)).await;
    drop(engine);
    mark.assert_settled("after the last zygote").await;
    assert_eq!(own_cgroups(std::process::id()), Vec::<String>::new());
}

/// Calls that never end by themselves, each in its own bad way.
fn endless(engine: &Engine, id: u64) -> Vec<Execution> {
    [Endless::Sleep, Endless::Tree, Endless::Escape, Endless::EscapeUnmarked, Endless::IgnoreTerm]
        .map(|mode| engine.start(mode.call(id)))
        .into()
}

fn sigkill(pid: u32) {
    send(Signal::SIGKILL, pid);
}

#[test]
fn when_the_engine_is_killed_nothing_of_it_is_left() {
    if is_without_sandbox() {
        return;
    }
    // Those who are killed cannot remove what the suite itself made for them.
    let rigs = TempDir::with_prefix("run-tool-test-").expect("a temporary folder");
    for round in 0..rounds() {
        let temp = TempDir::with_prefix("run-tool-crash-").expect("a temporary folder");
        let mut engine = outer(temp.path(), rigs.path());
        let mut said = BufReader::new(engine.stdout.take().expect("it is piped"));
        let mut line = String::new();
        // Half of the time it is killed while it starts, the other half when everything runs.
        if round % 2 == 0 {
            while line != "up\n" {
                line.clear();
                assert_ne!(said.read_line(&mut line).expect("it speaks"), 0, "it ended by itself");
            }
        } else {
            std::thread::park_timeout(Duration::from_micros(Dice::new(round).below(60_000)));
        }
        let pid = engine.id();
        let family = support::descendants(pid);
        sigkill(pid);
        engine.wait().expect("it is our child");
        let left = || {
            let alive: Vec<_> = family.iter().filter(|(pid, name)| support::is_named(*pid, name)).collect();
            let temp: Vec<_> = fs::read_dir(temp.path()).expect("it is ours").flatten().collect();
            (alive.is_empty() && own_cgroups(pid).is_empty() && temp.is_empty())
                .then_some(())
                .ok_or_else(|| format!("{alive:?} {:?} {temp:?}", own_cgroups(pid)))
        };
        let (soon, deadline) = (Instant::now() + Duration::from_secs(3), Instant::now() + PATIENCE);
        while let Err(words) = left() {
            if round % 2 == 1 && Instant::now() > soon {
                // It was too young to have a keeper. The next engine finds what it left.
                next_engine();
            }
            assert!(Instant::now() < deadline, "round {round}: left: {words}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

fn next_engine() {
    Rig::run(Flavour::CurrentThread, |rig| async move {
        let engine = rig.engine();
        succeeded(engine.start(Call::command(["true"]))).await;
        engine.shutdown(Duration::from_secs(20)).await;
    });
}

#[expect(clippy::disallowed_methods, reason = "it starts this test program again, which is no tool call")]
fn outer(temp: &Path, rigs: &Path) -> Child {
    Command::new(std::env::current_exe().expect("we know our own path"))
        .args(["inner", "--exact", "--ignored", "--nocapture"])
        .env("CRASH_TEMP", temp)
        .env("TMPDIR", rigs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it can be started")
}

#[test]
#[ignore = "the inner half of `when_the_engine_is_killed_nothing_of_it_is_left`"]
#[expect(clippy::disallowed_methods, reason = "how the outer half tells")]
fn inner() {
    let Some(temp) = std::env::var_os("CRASH_TEMP") else { return };
    Rig::run(Flavour::MultiThread, |rig| async move {
        let engine = rig.builder().temp_dir(temp).catalog(Endless::catalog()).build().expect("an engine");
        // One way by a command, the other by a channel, which needs a folder.
        let mut runs = endless(&engine, 0);
        runs.extend(endless(&engine, 1));
        let worker = engine.start(Call::command(["sleep", "1000"]));
        for run in &runs {
            ready(&mut run.events()).await;
        }
        #[expect(clippy::print_stdout, reason = "whoever started us waits for it")]
        {
            println!("\nup");
        }
        // Until we are killed.
        let _ = worker.await;
    });
}

/// Kills the zygote or its keeper while calls run.
fn lost(name: &'static str) {
    if is_without_sandbox() {
        return;
    }
    run(|rig| async move {
        let mark = rig.mark();
        let engine = rig.builder().limits(patient()).catalog(Endless::catalog()).build().expect("an engine");
        for round in 0..rounds() {
            let runs = endless(&engine, round);
            for run in &runs {
                ready(&mut run.events()).await;
            }
            let [victim] = descendants_named(std::process::id(), name)[..] else {
                panic!("there is no {name}")
            };
            sigkill(victim);
            for run in runs {
                let (kind, report) = failed(run).await;
                assert!(matches!(kind, ErrorKind::Lost { .. }), "{kind:?}: {report:?}");
                assert!(kind.is_retryable() && kind.to_string().contains("zygote"), "{kind}");
            }
            succeeded(engine.start(Call::command(["true"]))).await;
        }
        goes_on_and_ends(engine, mark).await;
    });
}

#[test]
fn calls_whose_zygote_is_killed_are_lost_and_the_next_works() {
    lost("run-tool-zygote");
}

#[test]
fn calls_whose_zygotes_keeper_is_killed_are_lost_and_the_next_works() {
    lost("run-tool-keeper");
}

/// The zygote is killed at a random moment while calls come and go: each ends, as lost or as it should.
#[test]
fn a_zygote_killed_at_any_moment_loses_no_call_for_good() {
    if is_without_sandbox() {
        return;
    }
    run(|rig| async move {
        let mark = rig.mark();
        let engine = rig.builder().limits(patient()).max_running(4).build().expect("an engine");
        let mut dice = Dice::new(7);
        for round in 0..rounds() {
            let runs: Vec<_> = (0..8).map(|_| engine.start(Call::command(["true"]))).collect();
            tokio::time::sleep(Duration::from_micros(dice.below(8_000))).await;
            descendants_named(std::process::id(), "run-tool-zygote").into_iter().for_each(sigkill);
            for run in runs {
                if let Err(error) = support::ended(run).await {
                    assert!(matches!(error.kind(), ErrorKind::Lost { .. }), "round {round}: {error:?}");
                }
            }
        }
        goes_on_and_ends(engine, mark).await;
    });
}

#[test]
fn a_sandbox_whose_first_process_is_killed_ends_as_killed() {
    if level() < Level::NoCgroup {
        return;
    }
    run(|rig| async move {
        let mark = rig.mark();
        let engine = rig.builder().limits(patient()).catalog(Endless::catalog()).build().expect("an engine");
        for round in 0..rounds() {
            let runs = endless(&engine, round);
            for run in &runs {
                ready(&mut run.events()).await;
            }
            // All of them have the same name: the zygote's children.
            let [zygote] = descendants_named(std::process::id(), "run-tool-zygote")[..] else {
                panic!("there is one zygote, and its children are called otherwise")
            };
            support::descendants(zygote)
                .into_iter()
                .filter(|(_, name)| name == "run-tool-init")
                .for_each(|(pid, _)| sigkill(pid));
            for run in runs {
                let (kind, _) = failed(run).await;
                assert_eq!(kind, ErrorKind::Process { status: ExitStatus::Signal(9) });
            }
        }
        goes_on_and_ends(engine, mark).await;
    });
}
