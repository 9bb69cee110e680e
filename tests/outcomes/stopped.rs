//! `Timeout` and `Limit(output)`: the engine stopped it, and says why.

use std::time::Duration;

use serde_json::Value;
use support::{OneTool, failed, hostile, succeeded, with_engine};
use tool_engine::{Call, Clock, ErrorKind, ExitStatus, Limit, Overflow, Stream};

use crate::{plain, sh};

const SHORT: Duration = Duration::from_millis(150);

#[test]
fn the_wall_clock() {
    with_engine(plain, |engine| async move {
        let (kind, report) = failed(engine.start(sh("echo before; exec sleep 100").timeout(SHORT))).await;
        assert_eq!(kind, ErrorKind::Timeout { clock: Clock::Wall, after: SHORT });
        assert_eq!(kind.to_string(), "timed out after 150ms");
        assert_eq!(report.exit, Some(ExitStatus::Signal(15)), "SIGTERM was enough");
        assert!(report.timings.running >= SHORT);
    });
}

#[test]
fn the_idle_clock() {
    with_engine(plain, |engine| async move {
        let (kind, report) =
            failed(engine.start(sh("echo before; exec sleep 100").idle_timeout(SHORT))).await;
        assert_eq!(kind, ErrorKind::Timeout { clock: Clock::Idle, after: SHORT });
        assert_eq!(kind.to_string(), "timed out: no output or progress for 150ms");
        assert_eq!(report.exit, Some(ExitStatus::Signal(15)));
    });
}

#[test]
fn a_tool_that_handles_sigterm_and_exits_0_has_timed_out_all_the_same() {
    with_engine(plain, |engine| async move {
        let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done";
        let (kind, report) = failed(engine.start(sh(script).timeout(Duration::from_millis(500)))).await;
        assert!(matches!(kind, ErrorKind::Timeout { .. }), "{kind:?}");
        assert_eq!(report.exit, Some(ExitStatus::Code(0)));
    });
}

#[test]
fn too_much_output_where_that_ends_the_call() {
    with_engine(plain, |engine| async move {
        for (stream, name) in [(Stream::Stdout, "stdout"), (Stream::Stderr, "stderr")] {
            let call = hostile(["pattern", name, "100000000"]).max_output(1000, Overflow::Fail);
            let (kind, report) = failed(engine.start(call)).await;
            assert_eq!(kind, ErrorKind::Limit { limit: Limit::Output { stream, bytes: 1000 } });
            assert_eq!(kind.to_string(), format!("the tool went past its limit of 1000 bytes of {name}"));
            assert!(!kind.is_retryable());
            assert!(report.usage.bytes_out > 1000);
        }
    });
}

#[test]
fn too_much_output_counts_also_when_the_tool_was_quick_to_exit() {
    with_engine(plain, |engine| async move {
        for _ in 0..40 {
            for script in ["printf 12345678901", "printf 12345678901 >&2; exit 3"] {
                let (kind, _) = failed(engine.start(sh(script).max_output(10, Overflow::Fail))).await;
                assert!(matches!(kind, ErrorKind::Limit { .. }), "{kind:?}");
            }
            succeeded(engine.start(sh("printf 1234567890").max_output(10, Overflow::Fail))).await;
        }
    });
}

#[test]
fn a_value_of_which_a_part_was_dropped_is_none() {
    with_engine(
        |builder| builder.catalog(OneTool::stdio("printf '[1,2,3,4,5]'")),
        |engine| async move {
            let call = Call::tool("tool", Value::Null).max_output(10, Overflow::Truncate);
            let (kind, report) = failed(engine.start(call)).await;
            assert_eq!(kind, ErrorKind::Limit { limit: Limit::Output { stream: Stream::Stdout, bytes: 10 } });
            assert_eq!((report.stdout.total(), report.value), (11, None));
            let enough = Call::tool("tool", Value::Null).max_output(11, Overflow::Truncate);
            assert_eq!(succeeded(engine.start(enough)).await.value, Some(serde_json::json!([1, 2, 3, 4, 5])));
        },
    );
}
