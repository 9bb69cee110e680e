//! With a zygote that hangs: who lets go of it does not wait for it, and yet it does not stay.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    thread,
};

use nix::sys::signal::Signal;
use support::{
    Flavour, PATIENCE, Rig, descendants_named, is_own_child, is_stopped, is_without_sandbox, level, ready,
    send, sh_up, succeeded, until,
};
use tempfile::TempDir;
use tool_engine::{Call, CancelSource, Launcher as _, Level, Policy, Sandbox};

use crate::canceled;

/// Stops the one keeper of this process and its zygote. Returns the keeper.
async fn stop_them() -> u32 {
    let own = std::process::id();
    let ([keeper], [zygote]) =
        (&descendants_named(own, "run-tool-keeper")[..], &descendants_named(own, "run-tool-zygote")[..])
    else {
        panic!("there is one of each")
    };
    for one in [*keeper, *zygote] {
        send(Signal::SIGSTOP, one);
        until("it stands still", PATIENCE, || is_stopped(one).then_some(())).await;
    }
    *keeper
}

#[test]
fn the_last_who_holds_a_launcher_does_not_wait_for_its_zygote() {
    if is_without_sandbox() {
        return;
    }
    Rig::run(Flavour::CurrentThread, |rig| async move {
        let mark = rig.mark();
        let sandbox = Sandbox::builder().highest(level()).build();
        let engine = rig.builder().launcher(sandbox.clone()).build().unwrap();
        succeeded(engine.start(Call::command(["true"]))).await;
        let keeper = stop_them().await;
        drop(engine);
        // Its last thread holds the launcher, too. (The kernel cuts names.)
        let janitor_ended = || (!mark.growth().contains("run-tool-janit")).then_some(());
        until("the end of the janitor", PATIENCE, janitor_ended).await;
        drop(sandbox);
        // Waiting would have gone on until it was dead and reaped. And the clock of this runtime ticks on.
        assert!(is_own_child(keeper), "nobody waited here");
        mark.assert_settled("after a zygote that hung").await;
    });
}

#[test]
fn the_last_call_of_a_zygote_does_not_wait_for_it() {
    // Below, the first process of a sandbox is reaped by its zygote.
    if is_without_sandbox() || level() < Level::NoCgroup {
        return;
    }
    Rig::run(Flavour::CurrentThread, |rig| async move {
        let mark = rig.mark();
        let sandbox = Sandbox::builder().highest(level()).build();
        let engine = rig.builder().launcher(sandbox.clone()).build().unwrap();
        let run = engine.start(sh_up("echo ready; exec sleep 1000"));
        ready(&mut run.events()).await;
        // Its call has it for itself now.
        sandbox.close();
        let keeper = stop_them().await;
        run.cancel("enough");
        canceled(run.await, CancelSource::Caller);
        assert!(is_own_child(keeper), "nobody waited here");
        engine.shutdown(PATIENCE).await;
        drop((engine, sandbox));
        mark.assert_settled("after a zygote that hung").await;
    });
}

#[test]
fn an_engine_is_built_while_a_zygote_of_its_launcher_does_not_come_up() {
    Rig::run(Flavour::CurrentThread, |rig| async move {
        let mark = rig.mark();
        // It neither hears nor says anything.
        let (folder, program) = (TempDir::new().unwrap(), "#!/bin/sh\nexec sleep 1000\n");
        let path = folder.path().join("zygote");
        fs::write(&path, program).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let sandbox = Sandbox::builder().zygote(path).build();
        let asking = sandbox.clone();
        let asked = thread::Builder::new().spawn(move || asking.level(&Policy::default()).is_ok()).unwrap();
        let sleeps = || descendants_named(std::process::id(), "sleep").first().copied();
        let started = until("it is started", PATIENCE, sleeps).await;
        let engine = rig.builder().launcher(sandbox).build().unwrap();
        assert!(!asked.is_finished(), "whoever asked waits, and nobody else");
        send(Signal::SIGKILL, started);
        until("the answer", PATIENCE, || asked.is_finished().then_some(())).await;
        assert!(!asked.join().unwrap(), "it has died: nothing was found out");
        drop(engine);
        mark.assert_settled("after one that did not come up").await;
    });
}
