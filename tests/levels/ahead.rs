//! Sandboxes that are made before their call is known: no call can tell.

use std::{fs, process, time::Duration};

use nix::sys::signal::Signal;
use support::{
    Flavour, PATIENCE, Rig, at, descendants, descendants_named, failed, own_cgroups, send, skip, succeeded,
    until,
};
use tempfile::TempDir;
use tool_engine::{Call, Engine, ErrorKind, Level, Limit, Network, Policy, ResourceLimits, Sandbox};

use crate::folder;

const INIT: &str = "run-tool-init";

/// Two calls, after which the next sandbox is made: its first process and the one that will be the program.
async fn made_ahead(engine: &Engine) -> Vec<u32> {
    for _ in 0..2 {
        succeeded(engine.start(Call::command(["true"]))).await;
    }
    waiting().await
}

async fn waiting() -> Vec<u32> {
    until("a sandbox waits", PATIENCE, || {
        let waiting = descendants_named(process::id(), INIT);
        (waiting.len() == 2).then_some(waiting)
    })
    .await
}

#[test]
fn one_that_waits_is_no_load() {
    at(Level::Full, |engine| async move {
        for pid in made_ahead(&engine).await {
            // What sleeps uninterruptibly counts towards the machine's load (proc_loadavg(5)), and alarms who looks at it.
            until(format!("{pid} sleeps"), PATIENCE, || {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
                stat.contains(&format!("({INIT}) S ")).then_some(())
            })
            .await;
        }
    });
}

#[test]
fn one_that_is_killed_is_replaced_and_no_call_hears_of_it() {
    at(Level::Full, |engine| async move {
        let mut waiting = made_ahead(&engine).await;
        for which in [0, 1, 0, 1] {
            send(Signal::SIGKILL, waiting[which]);
            until("it is dead", PATIENCE, || descendants_named(process::id(), INIT).is_empty().then_some(()))
                .await;
            // The first of them may make none, as the one before it has.
            for _ in 0..2 {
                succeeded(engine.start(Call::command(["true"]))).await;
            }
            waiting = self::waiting().await;
        }
    });
}

#[test]
fn a_call_has_its_own_limits_and_what_it_counts_is_its_own() {
    at(Level::Full, |engine| async move {
        let hog = |memory| {
            let script = "b = bytearray(b'x' * (128 << 20))";
            let resources = ResourceLimits { memory, ..ResourceLimits::default() };
            Call::command(["/usr/bin/python3", "-S", "-c", script]).resources(resources)
        };
        for _ in 0..3 {
            made_ahead(&engine).await;
            let (kind, _) = failed(engine.start(hog(Some(64 << 20)))).await;
            assert!(matches!(kind, ErrorKind::Limit { limit: Limit::Memory { .. } }), "{kind:?}");
            made_ahead(&engine).await;
            let used = succeeded(engine.start(hog(None))).await.usage;
            assert!(used.peak_memory > Some(128 << 20), "{used:?}");
            made_ahead(&engine).await;
            let used = succeeded(engine.start(Call::command(["true"]))).await.usage;
            assert!(used.peak_memory < Some(16 << 20) && used.oom_kills == Some(0), "{used:?}");
        }
    });
}

#[test]
fn a_call_sees_what_is_there_when_it_comes() {
    at(Level::Full, |engine| async move {
        let outer = folder();
        let work = outer.path().join("work");
        for round in 0..5 {
            // Another folder at the same place.
            let _ = fs::rename(&work, outer.path().join(format!("old-{round}")));
            fs::create_dir(&work).expect("it is ours");
            fs::write(work.join("file"), round.to_string()).expect("it is ours");
            let policy = Policy { rw: vec![work.clone()], ..Policy::default() };
            let call = Call::command(["sh", "-c", "cat file; echo $$ > new"]).workdir(&work).policy(policy);
            let report = succeeded(engine.start(call)).await;
            assert_eq!(report.stdout.text(), round.to_string());
            assert_eq!(
                fs::read_to_string(work.join("new")).expect("it was written"),
                "2\n",
                "pid 2, as ever"
            );
        }
    });
}

#[test]
fn one_that_is_not_needed_any_more_ends() {
    at(Level::Full, |engine| async move {
        let before = made_ahead(&engine).await;
        let policy = Policy { network: Some(Network::Host), ..Policy::default() };
        succeeded(engine.start(Call::command(["true"]).policy(policy))).await;
        until("it is gone", PATIENCE, || {
            let living = descendants(process::id());
            living.iter().all(|(pid, _)| !before.contains(pid)).then_some(())
        })
        .await;
    });
}

#[test]
fn an_engine_takes_along_what_it_made_ahead() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let engine = || {
            let engine = Engine::builder().temp_dir(rig.temp()).launcher(Sandbox::builder().build());
            engine.build().expect("an engine can be built")
        };
        let dropped = engine();
        if succeeded(dropped.start(Call::command(["true"])))
            .await
            .enforced
            .is_none_or(|now| now.level < Level::NoCgroup)
        {
            return skip("without namespaces nothing is made ahead");
        }
        made_ahead(&dropped).await;
        // Not shut down: nobody waits for it.
        drop(dropped);
        until("all of it is gone", PATIENCE, || is_all_gone().then_some(())).await;
        let shut_down = engine();
        made_ahead(&shut_down).await;
        shut_down.shutdown(PATIENCE).await;
        assert!(is_all_gone());
    });
}

/// The one that was made for another kind of call may be about to join its cgroup.
#[test]
fn one_that_is_let_go_of_at_once_never_gets_into_another_call() {
    at(Level::Full, |engine| async move {
        let two = ResourceLimits { pids: Some(2), ..ResourceLimits::default() };
        let alike = || Call::command(["true"]).resources(two.clone());
        for round in 0..120 {
            succeeded(engine.start(alike())).await;
            let second = engine.start(alike());
            tokio::time::sleep(Duration::from_micros(round % 30 * 100)).await;
            let script = "/bin/true && /bin/true && /bin/true && read uptime < /proc/uptime";
            let other = Policy { network: Some(Network::Host), ..Policy::default() };
            let other = Call::command(["sh", "-c", script]).resources(two.clone()).policy(other);
            let used = succeeded(engine.start(other)).await.usage;
            assert_eq!(used.pids_refused, Some(0), "{used:?}");
            succeeded(second).await;
        }
    });
}

#[test]
fn an_engine_that_ends_just_then_leaves_no_cgroup() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        for round in 0..100_u64 {
            let engine = Engine::builder().temp_dir(rig.temp()).launcher(Sandbox::builder().build());
            let engine = engine.build().expect("an engine can be built");
            succeeded(engine.start(Call::command(["true"]))).await;
            let second = engine.start(Call::command(["true"]));
            if round % 2 == 0 {
                succeeded(second).await;
            } else {
                tokio::time::sleep(Duration::from_micros(round * 50)).await;
                drop(second);
            }
            if round % 4 < 2 {
                engine.shutdown(PATIENCE).await;
            } else {
                drop(engine);
            }
            until("all of it is gone", PATIENCE, || is_all_gone().then_some(())).await;
        }
    });
}

#[test]
fn a_folder_may_lie_a_thousand_folders_deep() {
    at(Level::Full, |engine| async move {
        // Where each of them has to be made.
        let outer = TempDir::with_prefix_in("run-tool-levels-", "/tmp").expect("there is a /tmp");
        let work = outer.path().join(["d"; 1000].join("/"));
        fs::create_dir_all(&work).expect("it is ours");
        let policy = Policy { rw: vec![work.clone()], ..Policy::default() };
        succeeded(engine.start(Call::command(["touch", "file"]).workdir(&work).policy(policy))).await;
        assert!(work.join("file").exists());
    });
}

fn is_all_gone() -> bool {
    let left = descendants(process::id());
    let ours = left.iter().any(|(_, name)| name.starts_with("run-tool"));
    !ours && own_cgroups(process::id()).is_empty()
}

#[test]
fn one_that_is_just_being_made_ends_with_the_engine() {
    for _ in 0..20 {
        at(Level::Full, |engine| async move {
            for _ in 0..3 {
                succeeded(engine.start(Call::command(["true"]))).await;
            }
            // The last call has just been told, and what it has made is still being made.
            engine.shutdown(Duration::ZERO).await;
            for name in [INIT, "run-tool-zygote", "run-tool-keeper"] {
                assert_eq!(descendants_named(process::id(), name), [0; 0], "{name}");
            }
        });
    }
}
