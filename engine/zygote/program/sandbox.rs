//! The first process of a sandbox: builds it, makes the program's own process in it, watches over that, and is its end. When
//! it dies, the kernel kills all others in its process id namespace; when they are all dead, it ends.

use alloc::vec::Vec;

use crate::{
    birth::{self, Birth, Stillborn},
    inmates::{everybody, living, terminate},
    landlock::Landlock,
    protocol::{Bytes, Event, Order, Step, Wire},
    step::{At, Steps},
    sys::{self, AsFd, Errno, OwnedFd},
    view,
};

/// What the zygote hands to the process that it forks.
pub(crate) struct Seed {
    /// With namespaces: the common view, and the network.
    pub(crate) namespaces: Option<Namespaces>,
    pub(crate) landlock: Landlock,
    /// A pidfd of the zygote, to find out that it died before we asked to be told.
    pub(crate) zygote: OwnedFd,
    /// Over this the engine says what to run, and what becomes of it.
    pub(crate) control: OwnedFd,
    /// To join cgroups by.
    pub(crate) joins: Vec<OwnedFd>,
}

pub(crate) struct Namespaces {
    pub(crate) template: OwnedFd,
    /// The mounts of the host, where paths are looked up.
    pub(crate) host: OwnedFd,
    pub(crate) network: Network,
    /// Bytes and files in `/tmp`, and in `/dev/shm`.
    pub(crate) tmp: (u64, u64),
}

pub(crate) enum Network {
    Host,
    /// One that was used before, by a sandbox that is gone.
    Pooled(OwnedFd),
    /// A new one, to be handed to the zygote for the next under this number.
    New {
        pool: OwnedFd,
        number: u64,
    },
}

/// Never returns: it is the life of this process.
pub(crate) fn live(seed: Seed) -> ! {
    sys::set_name(c"run-tool-init");
    // The zygote has one for each sandbox that runs, and the program's own process would copy them all once more. The first
    // three stay taken, so that nothing that is opened from now on is where the program's own are to be.
    keep_only(seed.descriptors().into_iter().chain(0..3).collect());
    // What the kernel does when the zygote dies. It may have died before this line.
    if sys::die_with_parent().is_err() || sys::poll([Some(seed.zygote.as_fd())], Some(0)) == [true] {
        sys::exit(1);
    }
    let Seed { namespaces, landlock, control, joins, .. } = seed;
    let namespaced = namespaces.is_some();
    let failed = match make(namespaces, landlock).and_then(|made| start(made, &control, &joins)) {
        Ok(Some(watch)) => oversee(&control, &watch, namespaced),
        // The engine has no use for this sandbox any more, or somebody killed what was to be the program.
        Ok(None) => sys::exit(0),
        Err(failure) => Event::Failed { failure },
    };
    // The engine may be gone.
    let _ = sys::send(&control, &failed.to_bytes(), &[]);
    sys::exit(1)
}

impl Seed {
    /// All that are in here.
    fn descriptors(&self) -> Vec<i32> {
        let mut all: Vec<_> = [&self.zygote, &self.control].into_iter().chain(&self.joins).collect();
        if let Some(Namespaces { template, host, network, .. }) = &self.namespaces {
            all.extend([template, host]);
            match network {
                Network::Host => {}
                Network::Pooled(network) => all.push(network),
                Network::New { pool, .. } => all.push(pool),
            }
        }
        all.into_iter().map(OwnedFd::as_raw_fd).collect()
    }
}

/// What is needed to watch over the program.
struct Watch {
    signals: OwnedFd,
    program: i32,
}

/// A sandbox without a call: all that can be made before its call is known.
pub(crate) struct Sandbox {
    /// With namespaces.
    pub(crate) entered: Option<Entered>,
    pub(crate) landlock: Landlock,
    /// With namespaces: what every call may touch.
    pub(crate) ruleset: Option<OwnedFd>,
    signals: OwnedFd,
    /// Ourselves.
    pub(crate) pidfd: OwnedFd,
}

/// Mount namespaces.
pub(crate) struct Entered {
    pub(crate) host: OwnedFd,
    pub(crate) own: OwnedFd,
}

/// Makes the program's own process, which waits for its call, and stands still until it has become the program. `None`: there
/// is no program.
fn start(made: Sandbox, control: &OwnedFd, joins: &[OwnedFd]) -> Steps<Option<Watch>> {
    let mut birth = Birth::new(&made, control, joins);
    let program = sys::vfork(&mut birth, birth::be_born).at(Step::Fork, b"")?;
    if let Some(stillborn) = birth.into_stillborn() {
        // It is dead, or about to be; nobody else is here.
        let _ = sys::wait(program);
        return match stillborn {
            // Whoever waits for it sees that nobody is here any more.
            Stillborn::Unused | Stillborn::Killed => Ok(None),
            Stillborn::Failed(failure) => Err(failure),
        };
    }
    sys::send(control, &Event::Started.to_bytes(), &[]).at(Step::Watch, b"")?;
    Ok(Some(Watch { signals: made.signals, program }))
}

/// What every call may write to, in a view of its own. What is mounted over one of them has to be allowed again: a rule holds
/// for what it was given, and is not found from what covers that.
const OWN_PLACES: [&[u8]; 3] = [b"/tmp", b"/dev", b"/proc"];

fn make(namespaces: Option<Namespaces>, landlock: Landlock) -> Steps<Sandbox> {
    let pidfd = sys::pidfd_open(sys::getpid()).at(Step::Watch, b"")?;
    let signals = sys::signalfd(&[sys::SIGCHLD, sys::SIGTERM]).at(Step::Watch, b"")?;
    let (entered, ruleset) = match namespaces {
        Some(namespaces) => {
            let no_tcp = !matches!(namespaces.network, Network::Host);
            let entered = enter(namespaces)?;
            let ruleset = landlock.is_usable().then(|| {
                let ruleset = landlock.ruleset(no_tcp)?;
                let writable = OWN_PLACES.map(|place| Bytes(place.to_vec()));
                landlock.allow(&ruleset, &[Bytes(b"/".to_vec())], &writable, true).map(|()| ruleset)
            });
            (Some(entered), ruleset.transpose()?)
        }
        None => {
            // Without a process id namespace, orphans must come to us some other way.
            sys::adopt_orphans().at(Step::Watch, b"")?;
            (None, None)
        }
    };
    sys::set_dumpable(false).at(Step::Watch, b"")?;
    Ok(Sandbox { entered, landlock, ruleset, signals, pidfd })
}

/// Goes into namespaces of its own, and makes what does not depend on the call.
fn enter(namespaces: Namespaces) -> Steps<Entered> {
    let Namespaces { template, host, network, tmp: (size, inodes) } = namespaces;
    // The kernel only gives a /proc to who can see another.
    let proc = view::proc().at(Step::Proc, b"/proc");
    match network {
        Network::Host => {}
        Network::Pooled(namespace) => sys::setns(namespace, sys::CLONE_NEWNET).at(Step::Network, b"")?,
        Network::New { pool, number } => new_network(&pool, number)?,
    }
    sys::setns(template, sys::CLONE_NEWNS).at(Step::Enter, b"")?;
    sys::unshare(sys::CLONE_NEWNS).at(Step::Enter, b"")?;
    for place in [&b"/tmp"[..], b"/dev/shm"] {
        let tmpfs = view::tmpfs(place, size, inodes, c"1777", 0)?;
        view::attach(Some(tmpfs), &Bytes(place.to_vec()))?;
    }
    if let Ok(proc) = proc {
        view::attach(Some(proc), &Bytes(b"/proc".to_vec()))?;
    }
    let own = sys::open(c"/proc/self/ns/mnt").at(Step::Proc, b"/proc/self/ns/mnt")?;
    Ok(Entered { host, own })
}

/// A network namespace with nothing but loopback in it.
pub(crate) fn new_network(pool: &OwnedFd, number: u64) -> Steps<()> {
    sys::unshare(sys::CLONE_NEWNET).at(Step::Network, b"")?;
    sys::loopback_up().at(Step::Network, b"lo")?;
    // The next user of this namespace shall not find ports taken by connections of this one. Not all kernels have it for
    // each namespace; then a port may stay taken for a minute.
    let _ = sys::write_to("/proc/sys/net/ipv4/tcp_max_tw_buckets", 0);
    if let Ok(namespace) = sys::open(c"/proc/self/ns/net") {
        // If it does not get there, the next one is new, too.
        let _ = sys::send(pool, &number.to_bytes(), &[namespace.as_fd()]);
    }
    Ok(())
}

/// Reaps whatever dies, passes on what the engine asks for, and ends when nobody is left, or nobody asks any more.
fn oversee(control: &OwnedFd, watch: &Watch, namespaced: bool) -> ! {
    // Nothing else is needed any more; least of all a way out of the sandbox.
    keep_only([control, &watch.signals].map(OwnedFd::as_raw_fd).into());
    let mut ended = false;
    let mut killing = false;
    loop {
        let [signaled, asked] = sys::poll(
            [Some(watch.signals.as_fd()), Some(control.as_fd())],
            // What is killed may have had children that come to us only now.
            killing.then_some(1),
        );
        if signaled && sys::drain_signals(&watch.signals, sys::SIGTERM) {
            // From outside, as those inside cannot: somebody wants the program to end.
            terminate(watch.program, namespaced);
        }
        let mut event = None;
        let left = loop {
            match sys::reap_any() {
                Ok(Some((pid, status, usage))) => {
                    if pid == watch.program {
                        event = Some((status, usage));
                    }
                }
                Ok(None) => break true,
                Err(Errno::CHILD) => break false,
                Err(_) => {}
            }
        };
        if let Some((status, usage)) = event {
            ended = true;
            let micros = |[seconds, micros]: [i64; 2]| (seconds * 1_000_000 + micros) as u64;
            let event = Event::Exited {
                status,
                user: micros(usage.user),
                system: micros(usage.system),
                max_rss: usage.max_rss as u64,
                others: left,
            };
            if sys::send(control, &event.to_bytes(), &[]).is_err() {
                killing = true;
            }
        }
        if ended && !left {
            sys::exit(0);
        }
        if asked {
            match sys::receive(control, false) {
                Ok(Some((order, _))) => match Order::from_bytes(&order) {
                    Some(Order::Terminate) => terminate(watch.program, namespaced),
                    Some(Order::Kill) => killing = true,
                    // That it has ended was said just above.
                    Some(Order::Ask) if ended => {}
                    Some(Order::Ask) => {
                        let _ = sys::send(control, &Event::Running.to_bytes(), &[]);
                    }
                    Some(Order::List) => {
                        let event = living(watch.program, namespaced);
                        let _ = sys::send(control, &event.to_bytes(), &[]);
                    }
                    None => {}
                },
                Err(Errno::AGAIN) => {}
                // The engine is gone, or does not want this sandbox any more.
                Ok(None) | Err(_) => killing = true,
            }
        }
        if killing {
            if namespaced {
                // The kernel takes all others along.
                sys::exit(1);
            }
            everybody(namespaced).iter().for_each(|one| one.signal(sys::SIGKILL));
        }
    }
}

/// Closes all descriptors but these.
fn keep_only(mut kept: Vec<i32>) {
    kept.sort_unstable();
    let mut next = 0;
    for fd in kept {
        // These cannot fail but for want of the call itself, and all of these are closed on exec anyway.
        let _ = sys::close_between(next, fd - 1);
        next = fd + 1;
    }
    let _ = sys::close_from(next);
}
