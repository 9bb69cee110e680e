//! The zygote: one thread that forks the first process of each sandbox.

use alloc::{collections::BTreeMap, format, vec::Vec};
use core::fmt::Display;

use crate::{
    landlock::Landlock,
    protocol::{Bytes, Entry, Event, Hello, Init, Kind, Step, VERSION, Wire},
    sandbox::{self, Namespaces, Network, Seed},
    seccomp,
    step::{At, Steps, failure},
    sys::{self, AsFd, Errno, OwnedFd},
    view,
};

/// How many views of different places are kept. One that is used again is not made again (0.4 ms).
const MOST_TEMPLATES: usize = 32;
/// How many network namespaces wait for their next user.
const MOST_NETWORKS: usize = 64;

/// What the zygote holds on to.
pub(crate) struct Zygote {
    socket: OwnedFd,
    engine: OwnedFd,
    keeper: OwnedFd,
    signals: OwnedFd,
    /// Ourselves, for the sandboxes to look whether we live.
    own: OwnedFd,
    landlock: Landlock,
    /// With namespaces.
    host: Option<Host>,
    /// The sandboxes' first processes, and the number of the network each of them uses.
    children: BTreeMap<i32, Option<Used>>,
    /// How many were made, networks made ahead among them.
    made: u64,
}

struct Used {
    number: u64,
    namespace: Option<OwnedFd>,
}

struct Host {
    mounts: OwnedFd,
    system: Vec<Entry>,
    /// Whoever builds the view ahead hands it over here.
    ahead: Option<OwnedFd>,
    /// The most recently used last.
    templates: Vec<(Vec<(Bytes, bool)>, OwnedFd)>,
    networks: Vec<OwnedFd>,
    pool: (OwnedFd, OwnedFd),
}

/// Never returns.
pub(crate) fn live(socket: OwnedFd, engine: OwnedFd, keeper: OwnedFd, init: Init) -> ! {
    sys::set_name(c"run-tool-zygote");
    match set_up(&socket, init) {
        Ok((host, hello, landlock, signals, own)) => {
            if sys::send(&socket, &hello.to_bytes(), &[own.as_fd()]).is_err() {
                sys::exit(1);
            }
            Zygote {
                socket,
                engine,
                keeper,
                signals,
                own,
                landlock,
                host,
                children: BTreeMap::new(),
                made: 0,
            }
            .serve()
        }
        Err(failed) => {
            let _ = sys::send(&socket, &Event::from(failed).to_bytes(), &[]);
            sys::exit(1)
        }
    }
}

type SetUp = (Option<Host>, Hello, Landlock, OwnedFd, OwnedFd);

fn set_up(socket: &OwnedFd, init: Init) -> Steps<SetUp> {
    let own = sys::pidfd_open(sys::getpid()).at(Step::Watch, b"")?;
    let signals = sys::signalfd(&[sys::SIGCHLD]).at(Step::Watch, b"")?;
    if let Some((uid, gid)) = init.user {
        sys::become_user(uid, gid).at(Step::User, format!("{uid}:{gid}").as_bytes())?;
    }
    let mut hello = Hello {
        version: VERSION,
        landlock_abi: 0,
        landlock_files: false,
        landlock_scopes: false,
        proc: false,
        pid_max: false,
    };
    // It is tried out while we go on.
    let landlock = Landlock::probe();
    let made = if init.namespaces {
        make_namespaces(socket, &init).map(Some)
    } else {
        sys::adopt_orphans().at(Step::Watch, b"").map(|()| None)
    };
    // Reaped in any case.
    let landlock = landlock.found();
    let host = made?.map(|(host, proc)| {
        (hello.proc, hello.pid_max) = found_proc(proc);
        host
    });
    hello.landlock_abi = landlock.abi;
    hello.landlock_files = landlock.files;
    hello.landlock_scopes = landlock.scopes;
    sys::set_dumpable(false).at(Step::Capabilities, b"")?;
    sys::no_new_privileges().at(Step::Capabilities, b"")?;
    sys::install_filter(&seccomp::filter()).at(Step::Seccomp, b"")?;
    Ok((host, hello, landlock, signals, own))
}

fn make_namespaces(socket: &OwnedFd, init: &Init) -> Steps<(Host, Option<i32>)> {
    // What is written below belongs to root otherwise.
    sys::set_dumpable(true).at(Step::UserMap, b"")?;
    let (outside_uid, outside_gid) = ids()?;
    let namespaces = sys::CLONE_NEWUSER | sys::CLONE_NEWNS | sys::CLONE_NEWIPC | sys::CLONE_NEWUTS;
    sys::unshare(namespaces).at(Step::Namespaces, b"")?;
    let write = |path: &str, text: &dyn Display, step| sys::write_to(path, text).at(step, path.as_bytes());
    write("/proc/self/setgroups", &"deny", Step::UserMap)?;
    let (uid, gid) = init.inside;
    write("/proc/self/uid_map", &format_args!("{uid} {outside_uid} 1"), Step::UserMap)?;
    write("/proc/self/gid_map", &format_args!("{gid} {outside_gid} 1"), Step::UserMap)?;
    write("/proc/sys/user/max_user_namespaces", &0, Step::NestedNamespaces)?;
    sys::make_mounts_slave().at(Step::Propagation, b"/")?;
    sys::sethostname(b"sandbox").at(Step::Namespaces, b"")?;
    sys::drop_bounding_set().at(Step::Capabilities, b"")?;
    let mounts = sys::open(c"/proc/self/ns/mnt").at(Step::Propagation, b"/proc/self/ns/mnt")?;
    let pool = sys::socket_pair().at(Step::Network, b"")?;
    let proc = probe_proc();
    let system = hear_system(socket)?;
    let ahead = build_ahead(&system);
    let host = Host { mounts, system, ahead, templates: Vec::new(), networks: Vec::new(), pool };
    Ok((host, proc))
}

/// What all sandboxes show. The engine gathers it while we set ourselves up, and if it dies, we see the end of the socket.
fn hear_system(socket: &OwnedFd) -> Steps<Vec<Entry>> {
    let heard = sys::receive(socket, true).at(Step::Message, b"what all sandboxes show")?;
    let file = heard.and_then(|(_, mut fds)| fds.pop());
    let text = file.and_then(|file| sys::read_all(file).ok());
    text.and_then(|text| Vec::from_bytes(&text))
        .ok_or_else(|| failure(Step::Message, b"what all sandboxes show", Errno::PROTO))
}

/// A child that builds the view while we go on: the kernel makes whoever takes mounts away wait for milliseconds. Without it,
/// the first sandbox waits for the view.
fn build_ahead(system: &[Entry]) -> Option<OwnedFd> {
    let (ours, theirs) = sys::socket_pair().ok()?;
    match sys::fork(0) {
        Ok(0) => {
            let done = sys::die_with_parent().is_ok()
                && view::bare(system).is_ok_and(|view::Bare { namespace, root }| {
                    sys::send(&theirs, b"\0", &[namespace.as_fd(), root.as_fd()]).is_ok()
                });
            sys::exit(i32::from(!done))
        }
        Ok(_) => Some(ours),
        Err(_) => None,
    }
}

fn ids() -> Steps<(u32, u32)> {
    let own = sys::open(c"/proc/self").and_then(sys::file_info).at(Step::UserMap, b"/proc/self")?;
    Ok((own.uid, own.gid))
}

/// A child that tries whether a /proc can be mounted in a new process id namespace, and process ids bounded there.
fn probe_proc() -> Option<i32> {
    let child = sys::fork(sys::CLONE_NEWPID);
    if child == Ok(0) {
        let Ok(proc) = view::proc() else { sys::exit(0) };
        let bounded = sys::fchdir(&proc).is_ok() && sys::write_to("sys/kernel/pid_max", 400).is_ok();
        sys::exit(if bounded { 3 } else { 1 })
    }
    child.ok()
}

fn found_proc(child: Option<i32>) -> (bool, bool) {
    let status = child.and_then(|child| sys::wait(child).ok());
    let seen = status.map_or(0, |status| status >> 8 & 0xff);
    (seen & 1 != 0, seen & 2 != 0)
}

impl Zygote {
    fn serve(mut self) -> ! {
        // The engine is still busy with the first launch.
        self.make_network();
        loop {
            let pool = self.host.as_ref().map(|host| host.pool.0.as_fd());
            let [asked, died, keeper_died, signaled, network] = sys::poll(
                [
                    Some(self.socket.as_fd()),
                    Some(self.engine.as_fd()),
                    Some(self.keeper.as_fd()),
                    Some(self.signals.as_fd()),
                    pool,
                ],
                None,
            );
            if died || keeper_died {
                // All sandboxes die with us.
                sys::exit(0);
            }
            if network {
                self.note_network();
            }
            if signaled {
                sys::drain_signals(&self.signals, 0);
                self.reap();
            }
            if asked {
                match sys::receive(&self.socket, false) {
                    Ok(Some((kind, fds))) => self.make(&kind, fds),
                    Ok(None) => sys::exit(0),
                    // A message that is too long for us cannot be answered: its sender's control socket went with it.
                    Err(_) => {}
                }
            }
        }
    }

    /// Makes a network namespace ahead. Without it, the first sandbox makes its own.
    fn make_network(&mut self) {
        let Some(host) = &self.host else { return };
        self.made += 1;
        let number = self.made;
        match sys::fork(0) {
            Ok(0) => {
                // As for a sandbox: we end with the zygote.
                let done =
                    sys::die_with_parent().is_ok() && sandbox::new_network(&host.pool.1, number).is_ok();
                sys::exit(i32::from(!done))
            }
            Ok(pid) => {
                self.children.insert(pid, Some(Used { number, namespace: None }));
            }
            Err(_) => {}
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, _, _))) = sys::reap_any() {
            if matches!(self.children.get(&pid), Some(Some(Used { namespace: None, .. }))) {
                // It has said so before it ended.
                self.note_network();
            }
            if let Some(Some(used)) = self.children.remove(&pid)
                && let Some(namespace) = used.namespace
                && let Some(host) = &mut self.host
                && host.networks.len() < MOST_NETWORKS
            {
                host.networks.push(namespace);
            }
        }
    }

    /// A sandbox has made a network namespace, which the next one can have afterwards.
    fn note_network(&mut self) {
        let Some(host) = &mut self.host else { return };
        while let Ok(Some((number, mut fds))) = sys::receive(&host.pool.0, false) {
            let Some(number) = u64::from_bytes(&number) else { continue };
            let mut users = self.children.values_mut().flatten();
            if let Some(used) = users.find(|used| used.number == number) {
                used.namespace = fds.pop();
            }
        }
    }

    fn make(&mut self, kind: &[u8], mut fds: Vec<OwnedFd>) {
        // Whoever sent what is no kind waits at a control socket, if there is one among the descriptors: it closes now.
        let (Some(kind), false) = (Kind::from_bytes(kind), fds.is_empty()) else { return };
        let control = fds.remove(0);
        if let Err(failed) = self.fork(kind, &control, fds) {
            // The engine may be gone.
            let _ = sys::send(&control, &Event::from(failed).to_bytes(), &[]);
        }
    }

    fn fork(&mut self, kind: Kind, control: &OwnedFd, joins: Vec<OwnedFd>) -> Steps<()> {
        self.made += 1;
        let number = self.made;
        let template = self.host.as_mut().map(|host| host.template(&kind.points)).transpose()?;
        if self.host.as_ref().is_some_and(|host| host.networks.is_empty()) {
            // The first, which was made ahead, may be ready by now.
            self.reap();
        }
        let mut used = None;
        let namespaces = match self.host.as_mut().zip(template) {
            Some((host, template)) => {
                let network = if kind.host_network {
                    Network::Host
                } else if let Some(namespace) = host.networks.pop() {
                    let again = namespace.try_clone().at(Step::Network, b"")?;
                    used = Some(Used { number, namespace: Some(namespace) });
                    Network::Pooled(again)
                } else {
                    used = Some(Used { number, namespace: None });
                    Network::New { pool: host.pool.1.try_clone().at(Step::Network, b"")?, number }
                };
                let host = host.mounts.try_clone().at(Step::View, b"")?;
                Some(Namespaces { template, host, network, tmp: kind.tmp })
            }
            None => None,
        };
        let zygote = self.own.try_clone().at(Step::Watch, b"")?;
        let control = control.try_clone().at(Step::Watch, b"")?;
        let kinds = if namespaces.is_some() { sys::CLONE_NEWPID | sys::CLONE_NEWIPC } else { 0 };
        match sys::fork(kinds).at(Step::Fork, b"")? {
            0 => sandbox::live(Seed { namespaces, landlock: self.landlock, zygote, control, joins }),
            pid => {
                self.children.insert(pid, used);
                Ok(())
            }
        }
    }
}

impl Host {
    /// The common view with these places in it.
    fn template(&mut self, points: &[(Bytes, bool)]) -> Steps<OwnedFd> {
        let known = self.templates.iter().position(|(known, _)| known == points);
        let (points, template) = match known {
            Some(index) => self.templates.remove(index),
            None => {
                // There is nothing to be heard of a child that could not.
                let heard = self.ahead.take().and_then(|ahead| sys::receive(ahead, true).ok().flatten());
                let ahead = heard.and_then(|(_, fds)| <[OwnedFd; 2]>::try_from(fds).ok());
                let ahead = ahead.map(|[namespace, root]| view::Bare { namespace, root });
                (points.to_vec(), view::template(&self.mounts, &self.system, points, ahead)?)
            }
        };
        let again = template.try_clone().at(Step::View, b"")?;
        if self.templates.len() == MOST_TEMPLATES {
            self.templates.remove(0);
        }
        self.templates.push((points, template));
        Ok(again)
    }
}
