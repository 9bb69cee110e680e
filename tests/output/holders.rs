//! Others who hold the tool's pipes when the tool itself has ended.

use std::{fs::OpenOptions, io::Write, time::Duration};

use support::{failed, ready, sh_up, succeeded, until, with_engine};
use tempfile::TempDir;
use tool_engine::{AfterExit, Call, ErrorKind, Limits, Report, Stdin};

use crate::{plain, sh, started};

/// Asserts that just this was left over, and died.
fn assert_residue(report: &Report, expected: &[(&str, bool)]) {
    let left: Vec<_> = report.residue.iter().map(|left| (left.command.as_str(), left.escaped)).collect();
    assert_eq!(left, expected);
    assert!(report.residue.iter().all(|left| left.killed), "{:?}", report.residue);
}

/// A shell whose child waits for the file `go`, writes `late` and ends.
fn late_writer(folder: &TempDir) -> Call {
    sh("(until [ -e go ]; do sleep 0.01; done; echo late) & echo early").workdir(folder.path())
}

#[test]
fn after_the_linger_time_what_is_left_is_killed_and_named() {
    with_engine(plain, |engine| async move {
        for (script, escaped) in
            [("sleep 104 & up; echo done", false), ("setsid sleep 104 & up; echo done", true)]
        {
            let call = sh_up(script).after_exit(AfterExit::Linger(Duration::from_millis(100)));
            let report = succeeded(engine.start(call)).await;
            assert_eq!(report.stdout.text(), "done\n");
            assert_residue(&report, &[("sleep 104", escaped)]);
            assert!(!report.pipe_held, "who held it is dead");
        }
    });
}

#[test]
fn what_writes_within_the_linger_time_is_heard() {
    with_engine(plain, |engine| async move {
        let folder = TempDir::new().unwrap();
        let call = late_writer(&folder).after_exit(AfterExit::Linger(support::PATIENCE));
        let run = engine.start(call);
        support::wait_for_output(&mut run.events(), "early\n").await;
        std::fs::write(folder.path().join("go"), "").unwrap();
        let report = succeeded(run).await;
        assert_eq!(report.stdout.text(), "early\nlate\n");
        assert_residue(&report, &[]);
    });
}

#[test]
fn waiting_hears_everything_to_the_end() {
    with_engine(plain, |engine| async move {
        let folder = TempDir::new().unwrap();
        let run = engine.start(late_writer(&folder).after_exit(AfterExit::Wait));
        let mut events = run.events();
        let pid = started(&mut events).await;
        support::wait_for_output(&mut events, "early\n").await;
        until("the tool has exited", support::PATIENCE, || (!support::is_alive(pid)).then_some(())).await;
        std::fs::write(folder.path().join("go"), "").unwrap();
        let report = succeeded(run).await;
        assert_eq!(report.stdout.text(), "early\nlate\n");
        assert_residue(&report, &[]);
    });
}

#[test]
fn waiting_is_bounded_by_the_wall_clock_and_the_exit_stays_what_it_was() {
    with_engine(plain, |engine| async move {
        let timeout = Duration::from_millis(600);
        let call = sh_up("sleep 105 & up; echo done").after_exit(AfterExit::Wait).timeout(timeout);
        let report = succeeded(engine.start(call)).await;
        assert_eq!(report.stdout.text(), "done\n");
        assert_residue(&report, &[("sleep 105", false)]);
        assert!(!report.pipe_held && report.timings.running < report.timings.stopping);
        let call = sh_up("sleep 105 & up; echo done; exit 3").after_exit(AfterExit::Wait).timeout(timeout);
        assert!(matches!(failed(engine.start(call)).await.0, ErrorKind::Process { .. }));
    });
}

#[test]
fn killing_keeps_what_was_written_before() {
    with_engine(plain, |engine| async move {
        let call = sh_up("(echo child; exec sleep 106) & up; echo done").after_exit(AfterExit::Kill);
        let report = succeeded(engine.start(call)).await;
        assert_eq!(report.stdout.text(), "child\ndone\n");
        assert_residue(&report, &[("sleep 106", false)]);
        assert!(!report.pipe_held);
    });
}

#[test]
fn what_holds_no_pipe_is_killed_and_named_as_well() {
    with_engine(plain, |engine| async move {
        for after_exit in [AfterExit::Linger(Duration::from_millis(100)), AfterExit::Wait, AfterExit::Kill] {
            let call = sh_up("sleep 107 >/dev/null 2>&1 & up; echo done").after_exit(after_exit);
            assert_residue(&succeeded(engine.start(call)).await, &[("sleep 107", false)]);
        }
    });
}

#[test]
fn a_holder_out_of_reach_costs_the_drain_time_and_is_reported() {
    with_engine(plain, |engine| async move {
        for fd in [1, 2] {
            let (read, mut go) = std::io::pipe().unwrap();
            let limits = Limits { drain: Some(Duration::from_millis(100)), ..Limits::default() };
            let call = sh("echo ready; echo err >&2; read _; exit 0");
            let run = engine.start(call.stdin(Stdin::Fd(read.into())).limits(limits));
            let mut events = run.events();
            let pid = started(&mut events).await;
            ready(&mut events).await;
            // The test itself is the one who holds the pipe: it is neither found nor killed.
            let held = OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/{fd}")).unwrap();
            (&held).write_all(b"from outside\n").unwrap();
            go.write_all(b"\n").unwrap();
            let report = succeeded(run).await;
            assert!(report.pipe_held);
            assert_residue(&report, &[]);
            let text = report.stdout.text() + &report.stderr.text();
            assert!(
                text.contains("ready\n") && text.contains("err\n") && text.contains("from outside\n"),
                "{text}"
            );
            assert!((&held).write_all(b"nobody listens").is_err(), "our end is closed");
        }
    });
}
