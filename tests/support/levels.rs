//! Tests at a level of their own, and those that a machine or a level has nothing for.

use std::future::Future;

use tool_engine::{Engine, Launcher as _, Level, Policy, Sandbox};

use crate::{ending::with_engine, rig::level};

/// Runs a test with an engine at exactly this level, where there is one.
///
/// # Panics
/// When what there is cannot be tried out.
pub fn at<F: Future<Output = ()>>(level: Level, test: impl FnOnce(Engine) -> F) {
    let sandbox = Sandbox::builder().highest(level).build();
    let offered = sandbox.level(&Policy::default()).expect("what there is can be tried out");
    if offered != level {
        let missing: Vec<_> = sandbox.missing().into_iter().map(|missing| missing.what).collect();
        sandbox.close();
        return skip(&format!("{level} cannot be had here, only {offered}: {}", missing.join("; ")));
    }
    with_engine(|builder| builder.launcher(sandbox).policy(Policy::default()), test);
}

/// Whether the suites run without a sandbox, for a test that is about one; says so.
pub fn is_without_sandbox() -> bool {
    let without = level() == Level::None;
    if without {
        skip("at level 0 there is no zygote");
    }
    without
}

/// Says that a test was skipped, and why.
#[expect(clippy::print_stderr, reason = "a skipped test must not look like one that ran")]
pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}
