//! Limits that hold at every level from 1 on: those of each process, and those of a sandbox's own file systems.

use std::{fs::Permissions, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use support::{at, ended, failed, skip, succeeded};
use tempfile::TempDir;
use tool_engine::{Architecture, Call, ErrorKind, ExitStatus, Level, Limit, Policy, ResourceLimits};

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

/// A program that ends at once with exit code 42, by the system calls that its kind makes on x86-64.
fn program(machine: Machine) -> Vec<u8> {
    let code: &[u8] = match machine {
        // mov eax, 1 (exit); mov ebx, 42; int 0x80
        Machine::I386 => &[0xb8, 1, 0, 0, 0, 0xbb, 42, 0, 0, 0, 0xcd, 0x80],
        // mov eax, 0x4000003c (exit); mov edi, 42; syscall
        Machine::X32 => &[0xb8, 0x3c, 0, 0, 0x40, 0xbf, 42, 0, 0, 0, 0x0f, 0x05],
    };
    const AT: u32 = 0x40_0000;
    const HEADERS: u32 = 52 + 32;
    let length = HEADERS + code.len() as u32;
    let short = |number: u16| number.to_le_bytes().to_vec();
    let long = |number: u32| number.to_le_bytes().to_vec();
    [
        b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        [short(2), short(machine as u16), long(1), long(AT + HEADERS), long(52), long(0), long(0)].concat(),
        [52, 32, 1, 0, 0, 0].map(short).concat(),
        // One part, all of the file, to be read and executed.
        [1, 0, AT, AT, length, length, 5, 0x1000].map(long).concat(),
        code.to_vec(),
    ]
    .concat()
}

/// By its number (elf(5)).
#[derive(Clone, Copy)]
enum Machine {
    I386 = 3,
    X32 = 62,
}

#[test]
fn a_program_for_another_architecture_is_told_by_name() {
    if !cfg!(target_arch = "x86_64") {
        return skip("these programs are for what x86-64 executes beside its own");
    }
    let folder =
        TempDir::with_prefix_in("run-tool-limits-", "/var/tmp").expect("a temporary folder can be made");
    let make = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file can be written");
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
        path
    };
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("it is ours");
    let narrow = make("narrow", &program(Machine::I386));
    let script = make("script", format!("#!{}\n", narrow.display()).as_bytes());
    let x32 = make("x32", &program(Machine::X32));
    let programs = [(narrow, Architecture::I386), (script, Architecture::I386), (x32, Architecture::X32)];
    let (programs, folder) = (&programs, folder.path());
    for level in CONTAINED {
        at(level, |engine| async move {
            let call = |path: &Path| {
                let policy = Policy { level: Some(level), ..Policy::default() };
                Call::command([path]).workdir(folder).policy(policy)
            };
            for (path, architecture) in programs {
                let free = ended(engine.start(support::uncontained(call(path)))).await;
                let kind = free.expect_err("it exits with a code").into_parts().0;
                if kind != (ErrorKind::Process { status: ExitStatus::Code(42) }) {
                    skip(&format!("this kernel does not execute programs for {architecture}: {kind}"));
                    continue;
                }
                let (kind, report) = failed(engine.start(call(path))).await;
                let limit = Limit::Syscall { architecture: Some(*architecture) };
                assert_eq!(kind, ErrorKind::Limit { limit }, "{level}");
                assert!(kind.to_string().contains(&architecture.to_string()), "{kind}");
                assert_eq!(report.exit, Some(ExitStatus::Signal(31)), "{level}");
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
