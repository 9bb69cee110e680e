//! What is written to the tool.

use std::io::{Seek, SeekFrom, Write};

use support::{Flavour, assert_same, failed, pattern, succeeded, until, with_engine, with_engine_on};
use tool_engine::{Call, ErrorKind, Limits, Stdin};

use crate::{plain, sh, started};

const MUCH: usize = 50 << 20;

#[test]
fn nothing_is_there_to_read_unless_given() {
    with_engine(plain, |engine| async move {
        let report = succeeded(engine.start(sh("cat; readlink /proc/self/fd/0"))).await;
        assert_eq!(report.stdout.text(), "/dev/null\n");
        assert_eq!(report.usage.bytes_in, 0);
    });
}

#[test]
fn much_that_nobody_reads_is_no_error_and_does_not_hang() {
    with_engine(plain, |engine| async move {
        let much = || Stdin::Bytes(pattern(0..MUCH).into());
        for script in ["true", "sleep 0.2", "exec <&-; sleep 0.1; echo done", "head -c 5 >/dev/null"] {
            let report = succeeded(engine.start(sh(script).stdin(much()))).await;
            assert!(report.usage.bytes_in <= MUCH as u64);
        }
        let call = sh("exec sleep 100").stdin(much()).timeout(std::time::Duration::from_millis(200));
        assert!(matches!(failed(engine.start(call)).await.0, ErrorKind::Timeout { .. }));
    });
}

#[test]
fn much_comes_back_to_the_byte_while_it_is_written() {
    for flavour in Flavour::ALL {
        with_engine_on(flavour, plain, |engine| async move {
            let limits = Limits { stdout: Some(64 << 20), ..Limits::default() };
            let much = pattern(0..MUCH);
            let call = Call::command(["cat"]).stdin(Stdin::Bytes(much.clone().into())).limits(limits);
            let report = succeeded(engine.start(call)).await;
            assert_same(&report.stdout.bytes(), &much, "stdout");
            assert_eq!((report.usage.bytes_in, report.usage.bytes_out), (MUCH as u64, MUCH as u64));
        });
    }
}

#[test]
fn no_bytes_are_an_empty_stdin() {
    with_engine(plain, |engine| async move {
        let report = succeeded(engine.start(sh("wc -c").stdin(Stdin::Bytes("".into())))).await;
        assert_eq!(report.stdout.text(), "0\n");
    });
}

#[test]
fn an_open_file_is_read_from_where_it_stands() {
    with_engine(plain, |engine| async move {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"skipped\nread\n").unwrap();
        file.seek(SeekFrom::Start(8)).unwrap();
        let report = succeeded(engine.start(Call::command(["cat"]).stdin(Stdin::Fd(file.into())))).await;
        assert_eq!(report.stdout.text(), "read\n");
        assert_eq!(report.usage.bytes_in, 0, "it was not us who wrote it");
    });
}

#[test]
fn a_pipe_is_handed_over_and_its_end_is_the_end() {
    with_engine(plain, |engine| async move {
        let (read, mut write) = std::io::pipe().unwrap();
        let run = engine.start(Call::command(["cat"]).stdin(Stdin::Fd(read.into())));
        let mut events = run.events();
        started(&mut events).await;
        write.write_all(b"one\n").unwrap();
        support::wait_for_output(&mut events, "one\n").await;
        write.write_all(b"two\n").unwrap();
        drop(write);
        assert_eq!(succeeded(run).await.stdout.text(), "one\ntwo\n");
    });
}

#[test]
fn a_pipe_that_is_never_closed_does_not_hold_a_tool_that_exits() {
    with_engine(plain, |engine| async move {
        let (read, write) = std::io::pipe().unwrap();
        let report = succeeded(engine.start(sh("echo done").stdin(Stdin::Fd(read.into())))).await;
        assert_eq!(report.stdout.text(), "done\n");
        // Our end of what was handed over is closed: nobody reads it any more.
        until("the read end is closed", support::PATIENCE, || (&write).write(b"x").is_err().then_some(()))
            .await;
    });
}
