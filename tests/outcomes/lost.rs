//! `Lost`: what should have told the outcome is gone.

use std::{
    fs::File,
    io::Read,
    process::{Command, Stdio},
};

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::Pid,
};
use support::{Flavour, Rig, failed, sh_up, uncontained, with_engine_on};
use tool_engine::{ErrorKind, EventKind};

use crate::{plain, sh};

const WORDS: &str = "the outcome is lost: something else in this program reaped the child; do not wait for children \
                     you did not start, and leave SIGCHLD at its default";

#[test]
fn a_child_that_somebody_else_in_the_program_reaped() {
    // One thread: while the test waits for the child, the engine cannot.
    with_engine_on(Flavour::CurrentThread, plain, |engine| async move {
        let run = engine.start(uncontained(sh_up("echo before; sleep 102 & up; exit 0")));
        let mut events = run.events();
        let pid = loop {
            if let EventKind::Started { pid } = events.next().await.unwrap().kind {
                break pid;
            }
        };
        let reaped = waitpid(Pid::from_raw(i32::try_from(pid).unwrap()), None).unwrap();
        assert!(matches!(reaped, WaitStatus::Exited(_, 0)));
        let (kind, report) = failed(run).await;
        assert_eq!(kind.to_string(), WORDS);
        assert!(kind.is_retryable());
        assert_eq!(report.exit, None, "nobody knows it");
        assert_eq!(&report.stdout.bytes()[..], b"before\n");
        // What the child left behind is found and killed all the same; `failed` has looked that it is dead.
        let left: Vec<_> = report.residue.iter().map(|left| left.command.as_str()).collect();
        assert_eq!(left, ["sleep 102"]);
    });
}

#[test]
fn children_that_the_kernel_reaps_because_sigchld_is_ignored() {
    let mut outer = command("env");
    outer
        .arg("--ignore-signal=CHLD")
        .arg(std::env::current_exe().unwrap())
        .args(["lost::with_sigchld_ignored", "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = outer.spawn().unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[expect(clippy::disallowed_methods, reason = "it starts this test program again, which is no tool call")]
fn command(program: &str) -> Command {
    Command::new(program)
}

#[test]
#[ignore = "the inner half of `children_that_the_kernel_reaps_because_sigchld_is_ignored`"]
fn with_sigchld_ignored() {
    let mut status = String::new();
    File::open("/proc/self/status").unwrap().read_to_string(&mut status).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    // Bit n - 1 stands for signal n (proc_pid_status(5)).
    if ignored & (1 << (nix::sys::signal::Signal::SIGCHLD as i32 - 1)) == 0 {
        return;
    }
    Rig::run(Flavour::MultiThread, |rig| async move {
        let engine = rig.engine();
        for script in ["exit 0", "echo before; exit 7"] {
            let (kind, report) = failed(engine.start(uncontained(sh(script)))).await;
            assert!(matches!(kind, ErrorKind::Lost { .. }), "{kind:?}");
            assert_eq!(kind.to_string(), WORDS);
            assert_eq!(report.exit, None);
        }
        engine.shutdown(std::time::Duration::from_secs(10)).await;
    });
}
