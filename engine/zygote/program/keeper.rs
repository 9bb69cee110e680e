//! The keeper: starts the zygote, makes what only the engine's own user may make, and when the engine dies, by SIGKILL
//! too, stays to remove what is left on disk.

use alloc::{ffi::CString, format, string::String, vec, vec::Vec};
use core::{ffi::CStr, time::Duration};

use crate::{
    protocol::{Bytes, Event, Init, Request, Step, VERSION, Wire},
    step::{At, Steps, failure},
    sys::{self, AsFd, Errno, OwnedFd},
    zygote,
};

/// How long to wait for what was killed to be gone before its cgroup is given up. Killing takes milliseconds; a process
/// that sleeps uninterruptibly may take longer, and then nobody can remove its cgroup.
const PATIENCE: Duration = Duration::from_secs(10);

/// Never returns. `socket` is the engine's.
pub(crate) fn live(socket: OwnedFd) -> ! {
    sys::set_name(c"run-tool-keeper");
    let Ok(Some((message, mut fds))) = sys::receive(&socket, true) else { sys::exit(1) };
    let mut message = &message[..];
    let is_ours = u32::read(&mut message) == Some(VERSION);
    let init = if is_ours { Init::from_bytes(message) } else { None };
    let (Some(init), Some(zygote_socket), Some(engine)) = (init, fds.pop(), fds.pop()) else {
        let failed = failure(Step::Message, b"the versions of engine and zygote differ", Errno::PROTO);
        let _ = sys::send(&socket, &Event::from(failed).to_bytes(), &[]);
        sys::exit(1)
    };
    if let Some((mount, name)) = &init.scope
        && let Err(failed) = settle(mount, name)
    {
        let _ = sys::send(&zygote_socket, &Event::from(failed).to_bytes(), &[]);
        sys::exit(1)
    }
    let Ok(own) = sys::pidfd_open(sys::getpid()) else { sys::exit(1) };
    let prefix = init.prefix.clone();
    let (mut cgroups, mut watched) = (Vec::new(), Vec::new());
    let user = init.user;
    let zygote = match sys::fork(0) {
        Ok(0) => {
            drop(socket);
            zygote::live(zygote_socket, engine, own, init)
        }
        Ok(pid) => pid,
        Err(errno) => {
            let failed = failure(Step::Fork, b"zygote", errno);
            let _ = sys::send(&zygote_socket, &Event::from(failed).to_bytes(), &[]);
            sys::exit(1)
        }
    };
    drop(zygote_socket);
    let Ok(zygote_alive) = sys::pidfd_open(zygote) else { sys::exit(1) };
    let (mut zygote_died, mut farewell, mut hung_up) = (false, false, false);
    loop {
        let [asked, engine_died, died] = sys::poll(
            [
                (!hung_up).then(|| socket.as_fd()),
                Some(engine.as_fd()),
                (!zygote_died).then(|| zygote_alive.as_fd()),
            ],
            None,
        );
        if engine_died {
            break;
        }
        if died {
            // Here, or it falls to process 1, which in a container may be the engine, and reaps nothing that it does not know.
            zygote_died = sys::wait(zygote).is_ok();
        }
        if asked {
            match sys::receive(&socket, false) {
                Ok(Some((request, _))) => match Request::from_bytes(&request) {
                    Some(Request::Watch { folder }) => watched.push(folder),
                    Some(Request::Cgroups { folder }) => cgroups.push(folder),
                    Some(Request::Farewell) => farewell = true,
                    request => answer(&socket, request, user),
                },
                Err(Errno::AGAIN) => {}
                // Who hangs up without a farewell is about to die, and is waited for: a dying process closes its sockets first.
                Ok(None) | Err(_) => hung_up = true,
            }
        }
        if farewell {
            // What is on disk is the engine's affair, which lives.
            end(&zygote_alive, zygote, zygote_died);
            sys::exit(0);
        }
    }
    end(&zygote_alive, zygote, zygote_died);
    clean_up(&cgroups, &watched, &prefix);
    sys::exit(0)
}

/// Goes into a child of the cgroup that was made for us, which then holds no process and can hand its controllers down to the
/// cgroups of calls. `mount`: where the hierarchy is mounted.
fn settle(mount: &Bytes, name: &Bytes) -> Steps<()> {
    const OWN: &CStr = c"/proc/self/cgroup";
    // Whoever executed us there was handed our program as its standard output.
    let null = sys::open(c"/dev/null").at(Step::Cgroup, b"/dev/null")?;
    sys::dup_to(null, 1).at(Step::Cgroup, b"/dev/null")?;
    let mut text = vec![0; 8192];
    let read = sys::open(OWN).and_then(|file| sys::read(file, &mut text)).at(Step::Cgroup, OWN.to_bytes())?;
    // The line of v2 (cgroups(7)).
    let own = text[..read].split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"));
    // It would be our caller's if nobody has moved us.
    let own = own.filter(|own| own.ends_with(&[b"/", &name.0[..]].concat()));
    let own = own.ok_or_else(|| failure(Step::Cgroup, &name.0, Errno::NOENT))?;
    let folder = [&mount.0, own, b"/keeper"].concat();
    sys::cstring(&folder).and_then(|path| sys::mkdir(&path, 0o755)).at(Step::Cgroup, &folder)?;
    let procs = [&folder[..], b"/cgroup.procs"].concat();
    sys::write_to(String::from_utf8_lossy(&procs), 0).at(Step::Cgroup, &procs)
}

/// Waits for the end of the zygote. It sees what we saw; in case it does not look, it is killed.
fn end(alive: &OwnedFd, zygote: i32, is_reaped: bool) {
    if is_reaped {
        return;
    }
    if sys::poll([Some(alive.as_fd())], Some(500)) != [true] {
        let _ = sys::pidfd_send_signal(alive, sys::SIGKILL);
    }
    let _ = sys::wait(zygote);
}

fn answer(socket: &OwnedFd, request: Option<Request>, user: Option<(u32, u32)>) {
    let answer = match (request, user) {
        (Some(Request::IdMap { owner }), Some(user)) => id_map(owner, user),
        _ => Err(failure(Step::Message, b"", Errno::PROTO)),
    };
    // Who does not read the answer does not need it.
    let _ = match answer {
        Ok(namespace) => sys::send(socket, b"\0", &[namespace.as_fd()]),
        Err(failed) => sys::send(socket, &Event::from(failed).to_bytes(), &[]),
    };
}

/// A user namespace that maps the owner on disk to the tool's user; for mount_setattr(2).
fn id_map(owner: (u32, u32), user: (u32, u32)) -> Steps<OwnedFd> {
    let (hold, held) = sys::socket_pair().at(Step::UserMap, b"")?;
    let pid = match sys::fork(sys::CLONE_NEWUSER).at(Step::UserMap, b"")? {
        0 => {
            // Until the other end is closed.
            drop(hold);
            let _ = sys::receive(&held, true);
            sys::exit(0)
        }
        pid => pid,
    };
    drop(held);
    let write = |map: &str, inside: u32, outside: u32| {
        let path = format_args!("/proc/{pid}/{map}");
        sys::write_to(path, format_args!("{inside} {outside} 1")).at(Step::UserMap, map.as_bytes())
    };
    let made = write("uid_map", owner.0, user.0)
        .and_then(|()| write("gid_map", owner.1, user.1))
        .and_then(|()| sys::cstring(format!("/proc/{pid}/ns/user").as_bytes()).at(Step::UserMap, b"ns/user"))
        .and_then(|path| sys::open(&path).at(Step::UserMap, b"ns/user"));
    drop(hold);
    let _ = sys::wait(pid);
    made
}

/// Removes what the engine would have removed.
fn clean_up(cgroups: &[Bytes], watched: &[Bytes], prefix: &Bytes) {
    let until = sys::now() + PATIENCE;
    for cgroup in cgroups {
        while !remove_cgroups(&cgroup.0) && sys::now() < until {
            // What is in there has been killed, and is about to be gone.
            sys::poll([], Some(5));
        }
    }
    for folder in watched {
        let Ok(path) = sys::cstring(&folder.0) else { continue };
        for entry in sys::entries(&path).filter(|entry| entry.name.to_bytes().starts_with(&prefix.0)) {
            // It may be gone already.
            let _ = inside(&folder.0, &entry.name).and_then(|path| sys::remove_tree(&path));
        }
    }
}

/// Removes a cgroup and those in it. Whether it is gone. Their files go with them.
fn remove_cgroups(path: &[u8]) -> bool {
    let Ok(folder) = sys::cstring(path) else { return true };
    for child in sys::entries(&folder).filter(|child| child.is_folder) {
        if let Ok(child) = inside(path, &child.name) {
            remove_cgroups(child.to_bytes());
        }
    }
    matches!(sys::remove_folder(&folder), Ok(()) | Err(Errno::NOENT))
}

fn inside(folder: &[u8], name: &CStr) -> sys::Result<CString> {
    sys::cstring(&[folder, b"/", name.to_bytes()].concat())
}
