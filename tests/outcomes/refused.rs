//! `Busy` and `Sandbox`: no room, or not as much containment as demanded. Nothing is started.

use std::time::Duration;

use support::{Flavour, failed, ready, succeeded, with_engine, with_engine_on};
use tool_engine::{ErrorKind, Level, Limits, Policy, ProcessGroups};

use crate::sh;

#[test]
fn a_full_queue_is_busy_at_once_and_what_ran_and_waited_goes_on() {
    with_engine_on(
        Flavour::CurrentThread,
        |builder| builder.max_running(1).max_queued(1),
        |engine| async move {
            let running = engine.start(sh("echo ready; exec sleep 100"));
            ready(&mut running.events()).await;
            let waiting = engine.start(sh("exit 3"));
            // One thread: the second one is in line before the third one is looked at.
            let (kind, report) = failed(engine.start(sh("true"))).await;
            assert!(matches!(kind, ErrorKind::Busy { .. }), "{kind:?}");
            assert_eq!(
                kind.to_string(),
                "the engine is busy: the queue is full: 1 executions run and 1 wait, of at most 1 and 1; try again later, or \
                 allow more with `max_running` or `max_queued`"
            );
            assert!(kind.is_retryable());
            assert_eq!((report.exit, report.enforced), (None, None));
            running.cancel("enough");
            assert!(matches!(failed(running).await.0, ErrorKind::Canceled { .. }));
            assert!(matches!(failed(waiting).await.0, ErrorKind::Process { .. }));
        },
    );
}

#[test]
fn whoever_waited_too_long_in_line_is_told_so() {
    with_engine(
        |builder| builder.max_running(1),
        |engine| async move {
            let running = engine.start(sh("echo ready; exec sleep 100"));
            ready(&mut running.events()).await;
            let patience = Limits { queue_timeout: Some(Duration::from_millis(50)), ..Limits::default() };
            let (kind, report) = failed(engine.start(sh("true").limits(patience))).await;
            assert_eq!(
                kind.to_string(),
                "the engine is busy: waited 50ms for a turn: 1 executions run and 0 wait, of at most 1 and 1024; try again later, or allow more with \
                 `max_running` or `max_queued`"
            );
            assert_eq!(report.enforced, None);
            running.cancel("enough");
            failed(running).await;
            succeeded(engine.start(sh("true"))).await;
        },
    );
}

#[test]
fn a_level_that_is_not_to_be_had_is_a_sandbox_error() {
    with_engine(
        |builder| builder.launcher(ProcessGroups).policy(Policy::default()),
        |engine| async move {
            let (kind, report) = failed(engine.start(sh("true").least_level(Level::Full))).await;
            assert_eq!(
                kind.to_string(),
                "cannot be sandboxed as asked: the call needs level 4 (namespaces, cgroup, Landlock and seccomp), this \
             engine offers level 0 (process group only); accept a lower level by name (`level = 0` in the tool's policy \
             asks for no sandbox), or run it where more can be enforced"
            );
            assert!(!kind.is_retryable());
            assert_eq!((report.exit, report.enforced), (None, None));
            succeeded(engine.start(sh("true").least_level(Level::None))).await;
        },
    );
}
