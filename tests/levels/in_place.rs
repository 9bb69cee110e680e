//! Levels 1 and 2, where a call runs in the middle of the machine; what holds there holds above, too.

use std::{
    fs,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use support::{PATIENCE, at, descendants_named, failed, ready, send, succeeded, until};
use tool_engine::{Call, ErrorKind, Level, Policy};

use crate::{folder, python};

const CONTAINED: [Level; 4] = [Level::Basic, Level::NoNamespaces, Level::NoCgroup, Level::Full];

/// `attempt(what, way)` says what came of it.
const ATTEMPT: &str = "
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, way):
    try:
        way()
        print(what, 'worked')
    except OSError as error:
        print(what, 'refused')
def call(number, *words):
    if libc.syscall(number, *words) < 0:
        raise OSError(ctypes.get_errno(), 'no')
";

#[test]
fn files_are_kept_in() {
    let script = format!(
        "{ATTEMPT}
secret, shown = sys.argv[1:]
attempt('read what is not shown', lambda: open(secret).read())
attempt('list what is not shown', lambda: os.listdir(os.path.dirname(secret)))
attempt('write what is not shown', lambda: open(secret, 'a').write('x'))
attempt('go there', lambda: os.listdir('/proc/self/cwd/../' + os.path.basename(os.path.dirname(secret))))
attempt('write what is shown', lambda: open(shown + '/file', 'a').write('x'))
attempt('make something there', lambda: open(shown + '/new', 'x').close())
attempt('link it away', lambda: os.link(shown + '/file', 'link'))
attempt('read shadow', lambda: open('/etc/shadow').read())
attempt('write to the system', lambda: open('/usr/mark', 'x').close())
attempt('write to the kernel', lambda: open('/proc/sys/kernel/core_pattern', 'w').close())
attempt('read what is shown', lambda: open(shown + '/file').read())
attempt('write to its own', lambda: open('own', 'x').write('x'))
attempt('rename its own', lambda: os.rename('own', 'other'))
"
    );
    let script = &script;
    for level in CONTAINED {
        at(level, |engine| async move {
            let (work, shown, elsewhere) = (folder(), folder(), folder());
            let secret = elsewhere.path().join("secret");
            fs::write(&secret, "secret").unwrap();
            fs::write(shown.path().join("file"), "shown").unwrap();
            let call = python(level, work.path(), script, &[&secret, &shown.path()]);
            let policy = Policy {
                rw: vec![work.path().to_owned()],
                ro: vec![shown.path().to_owned()],
                level: Some(level),
                ..Policy::default()
            };
            let report = succeeded(engine.start(call.policy(policy))).await;
            let said = report.stdout.text();
            let worked: Vec<_> = said.lines().filter_map(|line| line.strip_suffix(" worked")).collect();
            assert_eq!(
                worked,
                ["read what is shown", "write to its own", "rename its own"],
                "{level}: {said}"
            );
            assert_eq!(said.lines().count(), 13, "{level}: {said}");
            assert_eq!(fs::read_to_string(secret).unwrap(), "secret");
            assert_eq!(fs::read_to_string(work.path().join("other")).unwrap(), "x");
        });
    }
}

#[test]
fn nobody_is_connected_to_without_a_network() {
    let script = format!(
        "{ATTEMPT}
port, path, name = sys.argv[1:]
def connect(family, kind, address):
    with socket.socket(family, kind) as end:
        end.connect(address)
attempt('TCP', lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', int(port))))
attempt('TCP by IPv6', lambda: connect(socket.AF_INET6, socket.SOCK_STREAM, ('::ffff:127.0.0.1', int(port))))
attempt('UDP', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', int(port))))
attempt('path', lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, path))
attempt('abstract name', lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, '\\0' + name))
attempt('pair', socket.socketpair)
"
    );
    let script = &script;
    for level in CONTAINED {
        at(level, |engine| async move {
            let (work, elsewhere) = (folder(), folder());
            let port = TcpListener::bind("127.0.0.1:0").unwrap();
            let path = elsewhere.path().join("socket");
            let by_path = UnixListener::bind(&path).unwrap();
            let name = format!("run-tool-levels-{}-{}", std::process::id(), level.number());
            let by_name = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
            let number = port.local_addr().unwrap().port().to_string();
            let call = python(level, work.path(), script, &[&number, &path, &name]);
            let said = succeeded(engine.start(call)).await.stdout.text();
            let worked: Vec<_> = said.lines().filter_map(|line| line.strip_suffix(" worked")).collect();
            // In a network of its own there is somebody to send to: nobody.
            let worked: Vec<_> =
                worked.into_iter().filter(|way| *way != "UDP" || level < Level::NoCgroup).collect();
            assert_eq!(worked, ["pair"], "{level}: {said}");
            drop((port, by_path, by_name));
        });
    }
}

#[test]
fn processes_of_others_are_left_alone() {
    let script = format!(
        "{ATTEMPT}
pid = int(sys.argv[1])
attempt('signal', lambda: os.kill(pid, 0))
attempt('read its memory', lambda: open(f'/proc/{{pid}}/mem', 'rb').close())
attempt('read its environment', lambda: open(f'/proc/{{pid}}/environ', 'rb').read())
attempt('see its descriptors', lambda: os.readlink(f'/proc/{{pid}}/fd/0'))
attempt('trace', lambda: call(101, 16, pid, 0, 0))
attempt('limit', lambda: call(302, pid, 7, 0, 0))
attempt('signal all', lambda: os.kill(-1, 0))
attempt('io_uring', lambda: call(425, 1, 0))
attempt('become root', lambda: os.setuid(0) if os.getuid() else os.setuid(1))
"
    );
    let script = &script;
    for level in CONTAINED {
        at(level, |engine| async move {
            let work = folder();
            let mut other = sleeper();
            let call = python(level, work.path(), script, &[&other.id().to_string()]);
            let report = succeeded(engine.start(call)).await;
            let said = report.stdout.text();
            other.kill().unwrap();
            other.wait().unwrap();
            let signals = report.enforced.unwrap().landlock.is_some_and(|landlock| landlock.scopes);
            let worked = said.lines().filter(|line| line.ends_with(" worked"));
            // Where Landlock does not know of signals, only a namespace keeps them in.
            let worked: Vec<_> = worked
                .filter(|line| !line.starts_with("signal") || signals || level >= Level::NoCgroup)
                .collect();
            // A process may always signal itself: `all` are those that it may.
            let worked: Vec<_> = worked.into_iter().filter(|line| *line != "signal all worked").collect();
            assert!(worked.is_empty(), "{level}: {said}");
        });
    }
}

/// Double-forked, in a session of its own, with nothing open, deaf to what can be ignored.
const DAEMON: &str = "
import os, signal, sys
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    os.environb.clear()
    os.write(write, str(os.getpid()).encode())
    os.closerange(0, 64)
    while True:
        signal.pause()
os.wait()
os.read(read, 9)
print('ready', flush=True)
";

/// How many processes have this word on their command line.
fn marked(mark: &str) -> usize {
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let lines = processes.map(|entry| entry.path().join("cmdline"));
    lines
        .filter(|path| {
            let line = fs::read(path).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
        })
        .count()
}

#[test]
fn a_daemon_dies_with_its_call_however_that_ends_and_nobody_else_does() {
    for level in CONTAINED {
        at(level, |engine| async move {
            let work = folder();
            // Beside the call, of the same user: what goes for everybody that can be seen would find it.
            let mut bystander = sleeper();
            let mark = format!("levels-daemon-{}-{}", std::process::id(), level.number());
            let stays = format!("{DAEMON}\nsignal.pause()");

            let ended = engine.start(python(level, work.path(), DAEMON, &[&mark]));
            succeeded(ended).await;
            assert_eq!(marked(&mark), 0, "{level}: after the tool ended");

            let timed_out = python(level, work.path(), &stays, &[&mark]).timeout(Duration::from_secs(1));
            let (kind, _) = failed(engine.start(timed_out)).await;
            assert!(matches!(kind, ErrorKind::Timeout { .. }), "{level}: {kind}");
            assert_eq!(marked(&mark), 0, "{level}: after it was stopped for time");

            let canceled = engine.start(python(level, work.path(), &stays, &[&mark]));
            ready(&mut canceled.events()).await;
            assert_eq!(marked(&mark), 2, "{level}: it runs, and its daemon");
            canceled.cancel("enough");
            failed(canceled).await;
            assert_eq!(marked(&mark), 0, "{level}: after it was canceled");

            assert_eq!(bystander.try_wait().unwrap(), None, "{level}: the one beside it");
            bystander.kill().unwrap();
            bystander.wait().unwrap();
        });
    }
}

/// At levels 1 and 2 what it has started besides may outlive it.
#[test]
fn a_tool_dies_with_its_zygote() {
    const STAYS: &str = "import signal\nprint('ready', flush=True)\nsignal.pause()";
    for level in CONTAINED {
        at(level, |engine| async move {
            let work = folder();
            let mark = format!("levels-zygote-{}-{}", std::process::id(), level.number());
            let run = engine.start(python(level, work.path(), STAYS, &[&mark]));
            ready(&mut run.events()).await;
            assert_eq!(marked(&mark), 1, "{level}");
            let [victim] = descendants_named(std::process::id(), "run-tool-zygote")[..] else {
                panic!("{level}: there is not one zygote")
            };
            send(Signal::SIGKILL, victim);
            let error = run.await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Lost { .. }), "{level}: {error}");
            until("the tool's end", PATIENCE, || (marked(&mark) == 0).then_some(())).await;
        });
    }
}

#[test]
fn a_folder_by_another_name_leaves_no_trace_by_the_first() {
    for level in [Level::NoCgroup, Level::Full] {
        at(level, |engine| async move {
            // In a sandbox, `/var/tmp` is a link to `/tmp`.
            let work = folder();
            let call = Call::command(["pwd"]).workdir(work.path());
            let said = succeeded(engine.start(call)).await.stdout.text();
            let there = std::path::Path::new("/tmp").join(work.path().file_name().unwrap());
            assert_eq!(said, format!("{}\n", there.display()), "{level}");
            assert!(!there.exists(), "{level}: {}", there.display());
        });
    }
}

/// Somebody who has nothing to do with any call.
#[expect(clippy::disallowed_methods, reason = "it is no tool call")]
fn sleeper() -> std::process::Child {
    Command::new("sleep").arg("100").stdin(Stdio::null()).spawn().expect("sleep can be started")
}
