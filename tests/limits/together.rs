//! Limits of all processes of a call together, which takes a cgroup.

use std::time::Duration;

use support::{at, ended, failed, succeeded};
use tool_engine::{CgroupVersion, ErrorKind, ExitStatus, Level, Limit, ResourceLimits};

use crate::{python, shell};

const MIB: u64 = 1 << 20;

fn memory(bytes: u64) -> ResourceLimits {
    ResourceLimits { memory: Some(bytes), ..ResourceLimits::default() }
}

#[test]
fn too_much_memory_in_one_process_is_a_limit() {
    at(Level::Full, |engine| async move {
        let call = python("b = bytearray(b'x' * (256 << 20)); print('there is room')", memory(64 * MIB));
        let (kind, report) = failed(engine.start(call)).await;
        assert_eq!(kind, ErrorKind::Limit { limit: Limit::Memory { bytes: Some(64 * MIB) } });
        assert!(report.usage.oom_kills.is_some_and(|kills| kills > 0), "{:?}", report.usage);
        assert!(report.stdout.is_empty());
    });
}

#[test]
fn too_much_memory_in_all_processes_together_is_a_limit() {
    // None of them has too much for itself.
    let script = "
import os, sys
read, write = os.pipe()
children = []
for _ in range(8):
    child = os.fork()
    if child == 0:
        own = bytearray(b'x' * (20 << 20))
        os.write(write, b'.')
        os.read(0, 1)
        os.close(write)
        while True:
            os.sched_yield()
    children.append(child)
ended, status = os.wait()
sys.exit(1)
";
    at(Level::Full, |engine| async move {
        let (kind, report) = failed(engine.start(python(script, memory(96 * MIB)))).await;
        assert_eq!(kind, ErrorKind::Limit { limit: Limit::Memory { bytes: Some(96 * MIB) } });
        assert!(report.usage.oom_kills.is_some_and(|kills| kills > 0), "{:?}", report.usage);
    });
}

#[test]
fn a_child_without_memory_is_told_and_no_ending_of_a_tool_that_went_on() {
    let script = "
import os
child = os.fork()
if child == 0:
    own = bytearray(b'x' * (256 << 20))
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
";
    at(Level::Full, |engine| async move {
        let end = ended(engine.start(python(script, memory(64 * MIB)))).await;
        let report = end.as_ref().unwrap_or_else(|error| error.report());
        assert!(report.usage.oom_kills.is_some_and(|kills| kills > 0), "{:?}", report.usage);
        match report.enforced.as_ref().and_then(|enforced| enforced.cgroup) {
            // It can kill a call as a whole, and does.
            Some(CgroupVersion::V2) => {
                let limit = Limit::Memory { bytes: Some(64 * MIB) };
                assert_eq!(end.expect_err("it was killed, too").kind(), &ErrorKind::Limit { limit });
            }
            _ => assert_eq!(end.expect("it ended well").stdout.text(), "-9\n"),
        }
    });
}

#[test]
fn exit_137_and_a_sigkill_of_its_own_prove_nothing() {
    at(Level::Full, |engine| async move {
        let (kind, _) = failed(engine.start(shell("exit 137", memory(64 * MIB)))).await;
        assert_eq!(kind, ErrorKind::Process { status: ExitStatus::Code(137) });
        let limits = ResourceLimits {
            cpu_time: Some(Duration::from_secs(60)),
            pids: Some(9),
            file_size: Some(MIB),
            ..memory(64 * MIB)
        };
        let (kind, report) = failed(engine.start(shell("kill -KILL $$", limits))).await;
        assert_eq!(kind, ErrorKind::Process { status: ExitStatus::Signal(9) });
        assert_eq!(report.usage.oom_kills, Some(0));
    });
}

#[test]
fn there_are_no_more_processes_than_allowed_and_what_comes_of_it_is_the_tools_affair() {
    let script = |end: &str| {
        format!(
            "
import os, sys, threading
made = 0
hold = threading.Event()
try:
    while made < 200:
        threading.Thread(target=hold.wait, daemon=True).start()
        made += 1
except RuntimeError:
    pass
try:
    if os.fork() == 0:
        os._exit(0)
    made = 1000
except OSError:
    pass
print(made, flush=True)
os._exit({end})
"
        )
    };
    at(Level::Full, |engine| async move {
        let limits = ResourceLimits { pids: Some(16), ..ResourceLimits::default() };
        let report = succeeded(engine.start(python(&script("0"), limits.clone()))).await;
        let made: u32 = report.stdout.text().trim().parse().expect("it says how many");
        assert!((1..16).contains(&made), "{made}");
        assert!(report.usage.pids_refused.is_some_and(|refused| refused > 0), "{:?}", report.usage);
        assert!(report.usage.peak_pids.is_none_or(|peak| peak <= 16), "{:?}", report.usage);
        let (kind, report) = failed(engine.start(python(&script("3"), limits))).await;
        assert_eq!(kind, ErrorKind::Process { status: ExitStatus::Code(3) });
        assert!(report.usage.pids_refused.is_some_and(|refused| refused > 0), "{:?}", report.usage);
    });
}

#[test]
fn a_share_of_processors_is_held_by_all_processes_together() {
    let script = "
import os, time
end = time.monotonic() + 2
for _ in range(3):
    if os.fork() == 0:
        break
while time.monotonic() < end:
    pass
";
    at(Level::Full, |engine| async move {
        let limits = ResourceLimits { cpus: Some(0.25), ..ResourceLimits::default() };
        let report = succeeded(engine.start(python(script, limits))).await;
        let used = report.usage.cpu_user + report.usage.cpu_system;
        // A quarter of it, and generously more; without a limit, all of one processor and of each other that is free.
        assert!(used < report.usage.wall.mul_f64(0.6), "{used:?} in {:?}", report.usage.wall);
    });
}

#[test]
fn too_much_time_on_processors_is_a_limit_in_one_process_and_in_all_together() {
    let one = "while True: pass";
    // Each of them ends before its own time is up.
    let many = "
import os, time
for _ in range(6):
    if os.fork() == 0:
        while time.process_time() < 0.7:
            pass
        os._exit(0)
for _ in range(6):
    os.wait()
print('all')
";
    at(Level::Full, |engine| async move {
        let time = Duration::from_secs(1);
        for script in [one, many] {
            let limits = ResourceLimits { cpu_time: Some(time), ..ResourceLimits::default() };
            let (kind, report) = failed(engine.start(python(script, limits))).await;
            assert_eq!(kind, ErrorKind::Limit { limit: Limit::Cpu { time } }, "{script}");
            assert!(report.stdout.is_empty(), "{script}");
        }
    });
}
