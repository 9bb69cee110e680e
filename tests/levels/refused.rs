//! Calls that need more than there is.

use std::fs;

use support::{at, failed, succeeded};
use tool_engine::{Call, ErrorKind, Level, Network, Policy, ResourceLimits};

use crate::{LEVELS, folder};

/// What needs which level, where no level is named.
fn needs() -> Vec<(Level, Policy, ResourceLimits)> {
    let folder = || "/var/tmp".into();
    let (policy, limits) = (Policy::default, ResourceLimits::default);
    vec![
        (Level::NoCgroup, Policy { network: Some(Network::None), ..policy() }, limits()),
        (Level::NoCgroup, Policy { ro: vec![folder()], hide: vec![folder()], ..policy() }, limits()),
        (Level::Full, policy(), ResourceLimits { cpus: Some(0.5), ..limits() }),
    ]
}

#[test]
fn a_call_that_needs_more_is_refused_in_words_and_nothing_is_started() {
    for level in LEVELS {
        at(level, |engine| async move {
            let work = folder();
            let mark = work.path().join("started");
            let touch = || Call::command(["touch".into(), mark.clone()]).workdir(work.path());
            let above = LEVELS.into_iter().filter(|other| *other > level);
            let by_name = above.map(|other| {
                let policy = Policy { level: Some(other), ..Policy::default() };
                (other, policy, ResourceLimits::default())
            });
            let by_need = needs().into_iter().filter(|(needed, ..)| *needed > level);
            for (needed, mut policy, limits) in by_name.chain(by_need) {
                policy.rw.push(work.path().to_owned());
                let call = touch().policy(policy).resources(limits);
                let (kind, report) = failed(engine.start(call)).await;
                let ErrorKind::Sandbox { missing, hint } = &kind else { panic!("{level}, {needed}: {kind}") };
                assert!(missing.contains(&needed.to_string()), "{level}, {needed}: {missing}");
                assert!(
                    missing.contains(&level.to_string()) && !hint.is_empty(),
                    "{level}: {missing}; {hint}"
                );
                assert_eq!((report.enforced, report.exit), (None, None));
                assert!(!mark.exists(), "{level}, {needed}");
            }
            // What accepts it runs, and does what the others did not.
            let policy = Policy { rw: vec![work.path().to_owned()], level: Some(level), ..Policy::default() };
            succeeded(engine.start(touch().policy(policy))).await;
            assert!(mark.exists(), "{level}");
            fs::remove_file(&mark).unwrap();
        });
    }
}
