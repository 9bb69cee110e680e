//! Without a cgroup: what then holds for each process by itself, and that the report says so.

use std::time::Duration;

use support::{at, failed, succeeded};
use tool_engine::{ErrorKind, Level, Limit, Policy, ResourceLimits};

use crate::python;

/// Without a cgroup, with namespaces and without.
const LEVELS: [Level; 2] = [Level::Basic, Level::NoCgroup];

#[test]
fn memory_is_refused_to_each_process_by_itself() {
    let script = "
import os
try:
    bytearray(256 << 20)
    print('there is room')
except MemoryError:
    print('refused')
for _ in range(3):
    if os.fork() == 0:
        own = bytearray(b'x' * (40 << 20))
        os._exit(0)
for _ in range(3):
    assert os.wait()[1] == 0
";
    for level in LEVELS {
        at(level, |engine| async move {
            let limits = ResourceLimits { memory: Some(96 << 20), ..ResourceLimits::default() };
            let report = succeeded(engine.start(python(script, limits))).await;
            assert_eq!(report.stdout.text(), "refused\n", "{level}");
            assert_eq!(report.usage.oom_kills, None, "nobody counts them");
            let enforced = report.enforced.expect("it ran");
            assert_eq!((enforced.level, enforced.cgroup), (level, None));
            assert_eq!(enforced.per_process, ["memory"]);
        });
    }
}

#[test]
fn time_on_processors_is_counted_for_each_process_by_itself() {
    let many = "
import os, time
for _ in range(3):
    if os.fork() == 0:
        while time.process_time() < 0.4:
            pass
        os._exit(0)
for _ in range(3):
    assert os.wait()[1] == 0
";
    for level in LEVELS {
        at(level, |engine| async move {
            let time = Duration::from_secs(1);
            let limits = ResourceLimits { cpu_time: Some(time), ..ResourceLimits::default() };
            let (kind, _) = failed(engine.start(python("while True: pass", limits.clone()))).await;
            assert_eq!(kind, ErrorKind::Limit { limit: Limit::Cpu { time } }, "{level}");
            let report = succeeded(engine.start(python(many, limits))).await;
            assert_eq!(report.enforced.expect("it ran").per_process, ["cpu_time"], "{level}");
        });
    }
}

#[test]
fn processes_are_bounded_by_their_ids_where_the_kernel_can() {
    // Used once, ids are scarce: as many processes as are allowed live at a time, and a thousand one after the other.
    let script = "
import os, signal
for _ in range(1000):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
made = []
try:
    while len(made) < 1000:
        child = os.fork()
        if child == 0:
            signal.pause()
        made.append(child)
except OSError:
    pass
print(len(made), flush=True)
for child in made:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
";
    at(Level::NoCgroup, |engine| async move {
        let limits = ResourceLimits { pids: Some(32), ..ResourceLimits::default() };
        let report = succeeded(engine.start(python(script, limits))).await;
        let enforced = report.enforced.expect("it ran");
        assert!(enforced.per_process.is_empty(), "{:?}", enforced.per_process);
        if enforced.not_held == ["pids"] {
            return support::skip("this kernel does not bound process ids for each namespace");
        }
        assert!(enforced.not_held.is_empty(), "{:?}", enforced.not_held);
        let made: u32 = report.stdout.text().trim().parse().expect("it says how many");
        assert!((20..=32).contains(&made), "{made}");
    });
}

#[test]
fn what_takes_a_cgroup_is_refused_unless_the_level_is_accepted_by_name_and_then_told() {
    at(Level::NoCgroup, |engine| async move {
        let limits = ResourceLimits { cpus: Some(0.5), ..ResourceLimits::default() };
        let call = python("", limits).policy(Policy::default());
        let (kind, report) = failed(engine.start(call)).await;
        assert!(matches!(&kind, ErrorKind::Sandbox { hint, .. } if !hint.is_empty()), "{kind}");
        assert_eq!((report.enforced, report.exit), (None, None));
    });
    for level in LEVELS {
        at(level, |engine| async move {
            let limits = ResourceLimits { cpus: Some(0.5), file_size: Some(1), ..ResourceLimits::default() };
            let report = succeeded(engine.start(python("", limits))).await;
            assert_eq!(report.enforced.expect("it ran").not_held, ["cpus"], "{level}");
        });
    }
}
