//! Limits that hold at every level from 1 on: those of each process, and those of a sandbox's own file systems.

use std::time::Duration;

use support::{at, failed, succeeded};
use tool_engine::{ErrorKind, ExitStatus, Level, Limit, ResourceLimits};

use crate::{python, shell};

const MIB: u64 = 1 << 20;
const CONTAINED: [Level; 4] = [Level::Basic, Level::NoNamespaces, Level::NoCgroup, Level::Full];

#[test]
fn a_file_that_grows_too_large_is_a_limit_unless_the_tool_does_not_mind() {
    for level in CONTAINED {
        at(level, |engine| async move {
            let limits = ResourceLimits { file_size: Some(MIB), ..ResourceLimits::default() };
            let file = format!("/tmp/limits-{}-{}", std::process::id(), level.number());
            let call = shell(&format!("exec head -c 2M /dev/zero >{file}"), limits.clone());
            let (kind, _) = failed(engine.start(call)).await;
            assert_eq!(kind, ErrorKind::Limit { limit: Limit::FileSize { bytes: MIB } }, "{level}");
            // Python ignores the signal, and is told by an error.
            let script = "
import errno, os, sys, tempfile
with tempfile.TemporaryFile() as file:
    try:
        file.write(bytes(2 << 20))
        file.flush()
    except OSError as error:
        print(errno.errorcode[error.errno], os.fstat(file.fileno()).st_size, flush=True)
        os._exit(4)
";
            let (kind, report) = failed(engine.start(python(script, limits))).await;
            assert_eq!(kind, ErrorKind::Process { status: ExitStatus::Code(4) }, "{level}");
            assert_eq!(report.stdout.text(), format!("EFBIG {MIB}\n"), "{level}");
            // Where `/tmp` is the machine's.
            let _ = std::fs::remove_file(file);
        });
    }
}

#[test]
fn a_process_has_no_more_open_files_than_allowed() {
    let script = "
import errno, os
made = 3
try:
    while made < 200:
        made = os.dup(0)
except OSError as error:
    print(errno.errorcode[error.errno], made)
";
    for level in CONTAINED {
        at(level, |engine| async move {
            let limits = ResourceLimits { open_files: Some(20), ..ResourceLimits::default() };
            let report = succeeded(engine.start(python(script, limits))).await;
            assert_eq!(report.stdout.text(), "EMFILE 19\n", "{level}");
        });
    }
}

#[test]
fn a_signal_is_a_limit_only_where_there_is_one_and_it_was_reached() {
    for level in CONTAINED {
        at(level, |engine| async move {
            for (signal, number) in [("XCPU", 24), ("XFSZ", 25), ("KILL", 9)] {
                let script = format!("kill -{signal} $$");
                let (kind, _) = failed(engine.start(shell(&script, ResourceLimits::default()))).await;
                let status = ExitStatus::Signal(number);
                assert_eq!(kind, ErrorKind::Process { status }, "{level}, {signal}");
                if signal == "XFSZ" {
                    continue;
                }
                let limits =
                    ResourceLimits { cpu_time: Some(Duration::from_secs(30)), ..ResourceLimits::default() };
                let (kind, _) = failed(engine.start(shell(&script, limits))).await;
                assert_eq!(kind, ErrorKind::Process { status }, "{level}, {signal}, of 30 s");
            }
        });
    }
}

#[test]
fn what_is_in_memory_has_room_for_so_many_bytes_and_files() {
    let script = "
import errno, os, sys
for folder in ('/tmp', '/dev/shm'):
    written = 0
    with open(f'{folder}/large', 'wb', buffering=0) as file:
        try:
            while written < 64 << 20:
                written += file.write(bytes(4096))
        except OSError as error:
            print(folder, errno.errorcode[error.errno], written <= 1 << 20)
    os.unlink(f'{folder}/large')
    made = 0
    try:
        while made < 1000:
            open(f'{folder}/{made}', 'x').close()
            made += 1
    except OSError as error:
        print(folder, errno.errorcode[error.errno], made <= 20)
";
    for level in [Level::NoCgroup, Level::Full] {
        at(level, |engine| async move {
            let limits =
                ResourceLimits { tmp_size: Some(MIB), tmp_files: Some(20), ..ResourceLimits::default() };
            let report = succeeded(engine.start(python(script, limits))).await;
            let full = "/tmp ENOSPC True\n/tmp ENOSPC True\n/dev/shm ENOSPC True\n/dev/shm ENOSPC True\n";
            assert_eq!(report.stdout.text(), full, "{level}");
        });
    }
}
