//! An engine that is warmed up: its first call finds what it needs, and nothing is left of one that had no call.

use std::time::Duration;

use support::{succeeded, with_engine};
use tool_engine::{Call, Engine, Level, Policy, Sandbox};

use crate::LEVELS;

/// With an engine at this level, or what there is of it, that has not looked yet which that is.
fn cold<F: Future<Output = ()>>(level: Level, test: impl FnOnce(Engine) -> F) {
    let sandbox = Sandbox::builder().highest(level).build();
    with_engine(|builder| builder.launcher(sandbox), test);
}

/// One that takes what there is.
fn call() -> Call {
    Call::command(["true"]).policy(Policy { level: Some(Level::Basic), ..Policy::default() })
}

fn zygotes(engine: &Engine) -> Vec<u32> {
    engine.vitals().zygotes.iter().map(|zygote| zygote.pid).collect()
}

#[test]
fn the_first_call_finds_what_it_needs() {
    for level in LEVELS.into_iter().filter(|level| *level > Level::None) {
        cold(level, |engine| async move {
            assert_eq!(zygotes(&engine), [0; 0], "nothing is started unasked");
            engine.warm_up().await;
            let started = zygotes(&engine);
            assert_eq!(started.len(), 1);
            succeeded(engine.start(call())).await;
            assert_eq!(zygotes(&engine), started);
        });
    }
}

#[test]
fn who_does_not_wait_for_it_and_who_calls_meanwhile_get_one_zygote() {
    cold(Level::Full, |engine| async move {
        let warm = [engine.warm_up(), engine.warm_up()];
        drop(warm);
        let calls: Vec<_> = (0..4).map(|_| engine.start(call())).collect();
        for call in calls {
            succeeded(call).await;
        }
        assert_eq!(zygotes(&engine).len(), 1);
    });
}

#[test]
fn one_that_ends_while_it_is_warmed_up_leaves_nothing() {
    for _ in 0..20 {
        // Which looks for what is left.
        cold(Level::Full, |engine| async move {
            drop(engine.warm_up());
            engine.shutdown(Duration::ZERO).await;
            assert_eq!(zygotes(&engine), [0; 0]);
            engine.warm_up().await;
            assert_eq!(zygotes(&engine), [0; 0], "it has ended");
        });
    }
}
