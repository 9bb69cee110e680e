//! Large inputs, results and prints, and what is left open.

use std::time::Duration;

use serde_json::json;
use support::{Flavour, failed, succeeded, with_engine, with_engine_on};
use tool_engine::{Call, ErrorKind, ExitStatus, Limits};

use super::{told, with_tool, with_tools};

const MIB_20: usize = 20 << 20;

fn roomy(file: &str) -> Call {
    Call::tool(file, 1).limits(Limits { stdout: Some(64 << 20), stderr: Some(64 << 20), ..Limits::default() })
}

#[test]
fn an_input_of_20_mib_arrives_whole() {
    with_tool("input-big.mjs", |engine| async move {
        let text = format!("{}end", "x".repeat(MIB_20));
        let report = succeeded(engine.start(Call::tool("input-big.mjs", json!({ "text": text })))).await;
        assert_eq!(report.value, Some(json!({ "length": MIB_20 + 3, "last": "end" })));
        assert!(report.usage.bytes_in > MIB_20 as u64);
    });
}

#[test]
fn a_result_of_20_mib_arrives_whole() {
    with_tool("result-big.mjs", |engine| async move {
        let report = succeeded(engine.start(Call::tool("result-big.mjs", 1))).await;
        assert_eq!(report.value.and_then(|value| value.as_str().map(str::len)), Some(MIB_20));
    });
}

#[test]
fn what_it_prints_arrives_whole_and_is_no_result() {
    let sizes = [
        ("stdout-big.mjs", MIB_20),
        ("stdout-lines.mjs", 20_000_000),
        ("stdout-bun.ts", MIB_20),
        ("stdout-streams.mjs", 8_458_613),
        ("stdout-child.mjs", 4 << 20),
    ];
    with_engine(with_tools(&sizes.map(|(file, _)| (file, None))), |engine| async move {
        for (file, size) in sizes {
            let report = succeeded(engine.start(roomy(file))).await;
            assert_eq!(report.stdout.total(), size as u64, "{file}");
            assert_eq!(report.stdout.dropped(), 0, "{file}");
        }
    });
}

#[test]
fn prints_by_different_means_keep_their_order() {
    with_tool("stdout-mixed.mjs", |engine| async move {
        let report = succeeded(engine.start(roomy("stdout-mixed.mjs"))).await;
        for stream in [&report.stdout, &report.stderr] {
            let numbers: Vec<usize> =
                stream.text().lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
            assert!(numbers.iter().copied().eq(0..30_000), "{} lines", numbers.len());
        }
    });
}

#[test]
fn what_was_printed_before_an_exit_arrives_whole() {
    with_tool("exits-after-output.mjs", |engine| async move {
        let (kind, report) = failed(engine.start(roomy("exits-after-output.mjs"))).await;
        assert_eq!(kind, ErrorKind::Process { status: ExitStatus::Code(3) });
        assert_eq!((report.stdout.total(), report.stderr.total()), (5 << 20, 5 << 20));
    });
}

#[test]
fn streams_that_the_tool_broke_do_not_hold_it_up() {
    let files = ["stdout-destroyed.mjs", "stdout-replaced.mjs"];
    with_engine(with_tools(&files.map(|file| (file, None))), |engine| async move {
        for file in files {
            succeeded(engine.start(Call::tool(file, 1))).await;
        }
    });
}

#[test]
fn timers_servers_and_children_left_open_do_not_hold_the_result_up() {
    let files = ["open-timer.mjs", "open-server.mjs", "open-child.mjs"];
    with_engine(with_tools(&files.map(|file| (file, None))), |engine| async move {
        let [timer, server, child] = files.map(|file| engine.start(Call::tool(file, 1)));
        for run in [timer, server] {
            let report = succeeded(run).await;
            assert_eq!(report.value, Some(json!(1)));
            assert_eq!(report.exit, Some(ExitStatus::Code(0)), "it ended by itself");
            assert!(report.residue.is_empty(), "{:?}", report.residue);
        }
        let report = succeeded(child).await;
        let pid = report.value.and_then(|value| value.as_u64());
        let residue: Vec<_> =
            report.residue.iter().map(|left| (Some(u64::from(left.pid)), left.killed)).collect();
        assert_eq!(residue, [(pid, true)]);
    });
}

#[test]
fn a_flood_on_the_channel_stops_no_clock_and_no_other_call() {
    for flavour in Flavour::ALL {
        with_engine_on(flavour, with_tools(&[("floods-channel.mjs", None)]), |engine| async move {
            for line in
                ["x", "{\"type\":\"progress\"}", "{\"type\":\"log\",\"level\":\"info\",\"message\":\"x\"}"]
            {
                let call = Call::tool("floods-channel.mjs", json!({ "line": line }));
                let flood =
                    engine.start(call.timeout(Duration::from_secs(1)).kill_grace(Duration::from_millis(200)));
                told(&flood, "flooding").await;
                succeeded(engine.start(Call::command(["true"]))).await;
                let (kind, _) = failed(flood).await;
                assert!(matches!(kind, ErrorKind::Timeout { .. }), "{kind}");
            }
        });
    }
}

#[test]
fn with_back_pressure_a_flood_on_the_channel_is_held_back() {
    with_tool("floods-channel.mjs", |engine| async move {
        let line = json!({ "type": "log", "level": "info", "message": "x".repeat(1000) }).to_string();
        let call = Call::tool("floods-channel.mjs", json!({ "line": line })).back_pressure();
        let flood = engine.start(call.timeout(Duration::from_secs(2)).kill_grace(Duration::from_millis(200)));
        let mut unread = flood.events();
        let (kind, _) = failed(flood).await;
        assert!(matches!(kind, ErrorKind::Timeout { .. }), "{kind}");
        let mut kept = 0;
        while unread.try_next().is_some() {
            kept += 1;
        }
        // The ring holds 1 MiB of them; what was in the pipe and in our hands at the end comes on top.
        assert!(kept < 4000, "{kept} messages of 1 kB were kept");
    });
}
