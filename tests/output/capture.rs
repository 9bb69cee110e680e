//! What is kept of the output, and what that costs.

use support::{OneTool, assert_same, ended, failed, hostile, pattern, succeeded, with_engine};
use tool_engine::{Call, Captured, ErrorKind, Limit, Limits, Overflow, Stream};

use crate::{Memory, plain, sh};

const MIB: usize = 1 << 20;

/// Asserts that this is what is kept of a pattern of `total` bytes.
fn assert_kept(captured: &Captured, total: usize, cap: usize) {
    assert_eq!(captured.total(), total as u64);
    assert_eq!(captured.dropped(), total.saturating_sub(cap) as u64);
    let (head, tail) = (captured.head(), captured.tail());
    if total <= cap {
        assert_same(&head, &pattern(0..total), "everything");
        assert_eq!(head, tail);
    } else {
        assert_same(&head, &pattern(0..cap - cap / 2), "the head");
        assert_same(&tail, &pattern(total - cap / 2..total), "the tail");
        assert_eq!(captured.bytes().len(), cap);
    }
}

#[test]
fn a_gigabyte_through_a_cap_of_10_mib_is_counted_to_the_byte_in_bounded_memory() {
    let total = (1 << 30) + 5;
    with_engine(plain, |engine| async move {
        succeeded(engine.start(hostile(["pattern", "stdout", "1000000"]))).await;
        let memory = Memory::begin();
        // The capture, the event ring, and what is being read.
        let report = succeeded(engine.start(hostile(["pattern", "stdout", &total.to_string()]))).await;
        let peak = memory.peak();
        assert!(peak < 64 << 20, "{peak} bytes of memory more at the peak");
        assert_kept(&report.stdout, total, 10 * MIB);
        assert_eq!(report.usage.bytes_out, total as u64);
    });
}

#[test]
fn many_tiny_writes_are_captured_to_the_byte_in_bounded_memory() {
    let total = 400_000;
    with_engine(plain, |engine| async move {
        succeeded(engine.start(hostile(["pattern", "stdout", "100", "1"]))).await;
        let memory = Memory::begin();
        let report = succeeded(engine.start(hostile(["pattern", "stdout", &total.to_string(), "1"]))).await;
        let peak = memory.peak();
        assert!(peak < 64 << 20, "{peak} bytes of memory more at the peak");
        assert_kept(&report.stdout, total, 10 * MIB);
    });
}

#[test]
fn both_streams_at_once_each_with_its_own_cap() {
    with_engine(plain, |engine| async move {
        let script = r#""$0" pattern stdout 30000000 & "$0" pattern stderr 20000000; wait"#;
        let hostile = support::hostile_path();
        let call = Call::command(["sh".into(), "-c".into(), script.into(), hostile.into_os_string()]);
        let report = succeeded(engine.start(call)).await;
        assert_kept(&report.stdout, 30_000_000, 10 * MIB);
        assert_kept(&report.stderr, 20_000_000, MIB);
        assert_eq!(report.usage.bytes_out, 50_000_000);
    });
}

#[test]
fn about_the_cap() {
    with_engine(plain, |engine| async move {
        for cap in [0, 1, 2, 1000, 1001] {
            for total in [cap.max(1) - 1, cap, cap + 1, cap + 2, 3 * cap + 7] {
                let call = hostile(["pattern", "stdout", &total.to_string(), "100"])
                    .max_output(cap as u64, Overflow::Truncate);
                assert_kept(&succeeded(engine.start(call)).await.stdout, total, cap);
            }
        }
    });
}

#[test]
fn no_output_is_none() {
    with_engine(plain, |engine| async move {
        let report = succeeded(engine.start(sh("true"))).await;
        for captured in [&report.stdout, &report.stderr] {
            assert!(captured.is_empty() && captured.bytes().is_empty());
            assert_eq!((captured.total(), captured.dropped(), captured.text().as_str()), (0, 0, ""));
        }
    });
}

#[test]
fn binary_output_stays_binary() {
    let every_byte: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let input = every_byte.clone();
    with_engine(plain, |engine| async move {
        let call = Call::command(["cat"]).stdin(tool_engine::Stdin::Bytes(input.into()));
        let end = ended(engine.start(call)).await;
        let document = serde_json::to_value(tool_engine::ReportDocument::new(&end)).unwrap();
        assert_eq!(document["stdout"]["encoding"], "base64");
        assert_eq!(document["stderr"]["encoding"], "utf-8");
        assert_same(&end.unwrap().stdout.bytes(), &every_byte, "stdout");
    });
}

#[test]
fn a_tool_that_closes_one_stream_goes_on_with_the_other() {
    with_engine(plain, |engine| async move {
        for (script, out, err) in [
            ("echo out; exec >&-; echo err >&2; sleep 0.05; echo more >&2", "out\n", "err\nmore\n"),
            ("echo err >&2; exec 2>&-; echo out; sleep 0.05; echo more", "out\nmore\n", "err\n"),
            ("exec >&- 2>&-; sleep 0.05", "", ""),
            ("exec <&- >&- 2>&-; exit 0", "", ""),
        ] {
            let report = succeeded(engine.start(sh(script))).await;
            assert_eq!(
                (report.stdout.text().as_str(), report.stderr.text().as_str()),
                (out, err),
                "{script}"
            );
            assert!(!report.pipe_held);
        }
    });
}

#[test]
fn a_tool_that_closed_everything_is_still_watched_by_its_clock() {
    with_engine(plain, |engine| async move {
        let call = sh("exec >&- 2>&-; exec sleep 100").timeout(std::time::Duration::from_millis(200));
        let (kind, _) = failed(engine.start(call)).await;
        assert!(matches!(kind, ErrorKind::Timeout { .. }), "{kind:?}");
    });
}

#[test]
fn output_that_still_runs_through_a_filter_when_the_tool_exits_is_complete() {
    with_engine(plain, |engine| async move {
        for _ in 0..20 {
            let script = r#"exec > >(sed -u "s/^/x/"); echo one; echo two; for n in 3 4 5; do echo $n; done"#;
            let report = succeeded(engine.start(Call::command(["bash", "-c", script]))).await;
            assert_eq!(report.stdout.text(), "xone\nxtwo\nx3\nx4\nx5\n");
            assert!(report.residue.is_empty(), "{:?}", report.residue);
        }
    });
}

#[test]
fn what_was_written_before_a_stop_is_kept() {
    with_engine(plain, |engine| async move {
        let total = 3_000_000;
        let hostile_path = support::hostile_path();
        let script = format!(r#""$0" pattern stdout {total}; echo end >&2; exec sleep 100"#);
        let call = Call::command(["sh".into(), "-c".into(), script.into(), hostile_path.into_os_string()]);
        let run = engine.start(call);
        support::wait_for_output(&mut run.events(), "end\n").await;
        run.cancel("seen enough");
        let (_, report) = failed(run).await;
        assert_kept(&report.stdout, total, 10 * MIB);
    });
}

#[test]
fn a_flood_that_is_stopped_is_counted_to_the_byte_up_to_where_it_was_read() {
    with_engine(plain, |engine| async move {
        for _ in 0..10 {
            let call =
                hostile(["pattern", "stdout", "100000000000"]).timeout(std::time::Duration::from_millis(150));
            let (kind, report) = failed(engine.start(call)).await;
            assert!(matches!(kind, ErrorKind::Timeout { .. }), "{kind:?}");
            let total = usize::try_from(report.stdout.total()).unwrap();
            assert_kept(&report.stdout, total, 10 * MIB);
            assert_eq!(report.usage.bytes_out, total as u64);
        }
    });
}

#[test]
fn a_call_that_must_not_write_more_ends_when_it_does_and_keeps_what_it_wrote() {
    with_engine(plain, |engine| async move {
        let cap = 100_000;
        let flood = hostile(["pattern", "stdout", "100000000000"]).max_output(cap as u64, Overflow::Fail);
        let (kind, report) = failed(engine.start(flood)).await;
        let limit = Limit::Output { stream: Stream::Stdout, bytes: cap as u64 };
        assert_eq!(kind, ErrorKind::Limit { limit });
        assert_kept(&report.stdout, usize::try_from(report.stdout.total()).unwrap(), cap);
        let exactly = hostile(["pattern", "stdout", &cap.to_string()]).max_output(cap as u64, Overflow::Fail);
        assert_kept(&succeeded(engine.start(exactly)).await.stdout, cap, cap);
        // Each stream has a limit of its own.
        let limits = Limits {
            stdout: Some(cap as u64),
            stderr: Some(10),
            overflow: Some(Overflow::Fail),
            ..Limits::default()
        };
        let call = hostile(["pattern", "stderr", "11"]).limits(limits);
        let (kind, _) = failed(engine.start(call)).await;
        assert_eq!(kind, ErrorKind::Limit { limit: Limit::Output { stream: Stream::Stderr, bytes: 10 } });
    });
}

#[test]
fn a_large_value_of_a_stdio_tool_is_whole() {
    with_engine(
        |builder| builder.catalog(OneTool::stdio("cat")),
        |engine| async move {
            let text = "ä".repeat(2 << 20);
            let report = succeeded(engine.start(Call::tool("tool", text.clone()))).await;
            assert!(report.value == Some(text.into()), "the value differs");
        },
    );
}
