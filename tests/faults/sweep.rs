//! A machine too busy to look through /proc in time.

use std::time::Duration;

use support::{Flavour, Rig, failed, patient, ready, sh_up};
use tool_engine::{Launcher, Level, Limits, Policy, ProcessGroups};
use tool_sandbox::{LaunchError, LaunchSpec, Launched, ScanTarget, Swept};

/// Starts processes as [`ProcessGroups`] does, and never gets through with looking for what they left.
#[derive(Debug)]
struct TooBusyToLook;

impl Launcher for TooBusyToLook {
    fn level(&self, policy: &Policy) -> Result<Level, LaunchError> {
        ProcessGroups.level(policy)
    }

    fn launch(&self, spec: LaunchSpec) -> Result<Launched, LaunchError> {
        ProcessGroups.launch(spec)
    }

    fn stragglers(&self, targets: &[ScanTarget], _bound: Duration) -> Swept {
        ProcessGroups.stragglers(targets, Duration::ZERO)
    }
}

#[test]
fn a_look_for_what_was_left_that_is_given_up_is_reported() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let limits = Limits { drain: Some(Duration::from_millis(100)), ..patient() };
        let engine =
            rig.builder().limits(limits).launcher(TooBusyToLook).policy(Policy::default()).build().unwrap();
        let run = engine.start(sh_up("echo ready; exec sleep 111"));
        ready(&mut run.events()).await;
        run.cancel("enough");
        let (kind, report) = failed(run).await;
        assert_eq!(kind.name(), "canceled");
        assert!(report.sweep_incomplete && report.residue.is_empty(), "{report:?}");
        engine.shutdown(Duration::from_secs(20)).await;
    });
}
