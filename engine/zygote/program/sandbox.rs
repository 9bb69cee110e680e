//! The first process of a sandbox: builds it, starts the program in it, watches over it, and is its end. When it dies,
//! the kernel kills all others in its process id namespace; when they are all dead, it ends.

use std::{
    ffi::CString,
    fs,
    io::{Read, Seek},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use crate::{
    inmates::{everybody, living, terminate},
    landlock::Landlock,
    protocol::{Bytes, Event, Launch, Order, Step, What, Wire},
    step::{At, Steps, failure},
    sys::{self, Errno},
    view,
};

/// What the zygote hands to the process that it forks.
pub(crate) struct Seed {
    /// With namespaces: the common view, and the network.
    pub(crate) namespaces: Option<Namespaces>,
    pub(crate) landlock: Landlock,
    /// A pidfd of the zygote, to find out that it died before we asked to be told.
    pub(crate) zygote: OwnedFd,
    pub(crate) work: Work,
}

/// What to run.
pub(crate) enum Work {
    Now(Task),
    /// It comes over this socket, once it is known; this sandbox was made ahead.
    Later(OwnedFd),
}

/// One launch.
pub(crate) struct Task {
    pub(crate) launch: Vec<u8>,
    pub(crate) control: OwnedFd,
    pub(crate) stdio: [OwnedFd; 3],
    pub(crate) joins: Vec<OwnedFd>,
    pub(crate) mounts: Vec<OwnedFd>,
}

pub(crate) struct Namespaces {
    pub(crate) template: OwnedFd,
    /// The mounts of the host, where paths are looked up.
    pub(crate) host: OwnedFd,
    pub(crate) network: Network,
    /// Bytes and files in `/tmp`, and in `/dev/shm`.
    pub(crate) tmp: (u64, u64),
    /// A bound on process ids; 0: none.
    pub(crate) pid_max: u32,
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
    let Seed { namespaces, landlock, work, .. } = seed;
    let namespaced = namespaces.is_some();
    let made = make(namespaces, landlock);
    let task = match work {
        Work::Now(task) => task,
        Work::Later(socket) => {
            if made.is_err() {
                // Nobody is to wait for us: who comes from now on finds us gone, and makes another. One launch may have
                // come already, and is told.
                sys::refuse(&socket);
            }
            match sys::receive(&socket, true) {
                Ok(Some((message, fds))) => match Task::read(&message, fds) {
                    Some(task) => task,
                    None => sys::exit(1),
                },
                // The zygote has no use for it any more, or it was of none.
                Ok(None) | Err(_) => sys::exit(0),
            }
        }
    };
    let control = match task.control.try_clone() {
        Ok(control) => control,
        Err(_) => sys::exit(1),
    };
    match made.and_then(|made| start(task, made, landlock)) {
        Ok(watch) => oversee(&control, &watch, namespaced),
        Err(failure) => {
            // The engine may be gone.
            let _ = sys::send(&control, &Event::Failed { failure }.to_bytes(), &[]);
            sys::exit(1)
        }
    }
}

impl Seed {
    /// All that are in here.
    fn descriptors(&self) -> Vec<i32> {
        let mut all = vec![&self.zygote];
        if let Some(Namespaces { template, host, network, .. }) = &self.namespaces {
            all.extend([template, host]);
            match network {
                Network::Host => {}
                Network::Pooled(network) => all.push(network),
                Network::New { pool, .. } => all.push(pool),
            }
        }
        match &self.work {
            Work::Now(Task { control, stdio, joins, mounts, launch: _ }) => {
                all.push(control);
                all.extend(stdio.iter().chain(joins).chain(mounts));
            }
            Work::Later(socket) => all.push(socket),
        }
        all.into_iter().map(AsRawFd::as_raw_fd).collect()
    }
}

impl Task {
    /// From a message that the zygote passes on: how many of the descriptors are to join cgroups by, and the launch.
    pub(crate) fn read(mut message: &[u8], fds: Vec<OwnedFd>) -> Option<Self> {
        let joins = u32::read(&mut message)?;
        let apart = bool::read(&mut message)?;
        let mut fds = fds.into_iter();
        let control = fds.next()?;
        let stdio = [fds.next()?, fds.next()?, fds.next()?];
        let joins = (0..joins).map(|_| fds.next()).collect::<Option<Vec<_>>>()?;
        let mut mounts: Vec<_> = fds.collect();
        let launch = if apart { read_all(mounts.pop()?)? } else { message.to_vec() };
        Some(Self { launch, control, stdio, joins, mounts })
    }
}

fn read_all(file: OwnedFd) -> Option<Vec<u8>> {
    let (mut file, mut bytes) = (fs::File::from(file), Vec::new());
    file.rewind().ok()?;
    file.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// What is needed to watch over the program.
struct Watch {
    signals: OwnedFd,
    program: i32,
}

/// What the program's own process needs between its making and exec. It shares our memory and must not change it, but for
/// the failure.
struct Birth<'a> {
    program: CString,
    args: sys::Strings,
    env: sys::Strings,
    workdir: CString,
    stdio: &'a [OwnedFd; 3],
    control: &'a OwnedFd,
    born: Vec<u8>,
    /// Sent with that.
    proof: &'a [BorrowedFd<'a>],
    joins: &'a [OwnedFd],
    rlimits: &'a [(u32, (u64, u64))],
    ruleset: Option<OwnedFd>,
    more_filter: Option<Vec<sys::Instruction>>,
    namespaced: bool,
    parent: i32,
    failed: Option<(Step, Errno)>,
}

fn start(task: Task, made: Sandbox, landlock: Landlock) -> Steps<Watch> {
    let launch = Launch::from_bytes(&task.launch).ok_or_else(|| failure(Step::Message, b"", Errno::PROTO))?;
    let Task { control, stdio, joins, mounts, .. } = task;
    let Sandbox { entered, ruleset, signals, pidfd } = made;
    let namespaced = entered.is_some();
    if let Some(entered) = &entered {
        show(&launch, entered, mounts)?;
    }
    let ruleset = match ruleset {
        None if landlock.is_usable() => Some(landlock.ruleset(launch.no_network)?),
        ruleset => ruleset,
    };
    if let Some(ruleset) = &ruleset {
        landlock.allow(ruleset, &launch.readable, &launch.writable, namespaced)?;
    }
    let words =
        |words: &[Bytes]| sys::Strings::new(words.iter().map(|word| &word.0[..])).at(Step::Message, b"");
    let proof = [Some(&pidfd), entered.as_ref().map(|entered| &entered.own)];
    let proof: Vec<_> = proof.into_iter().flatten().map(|fd| fd.as_fd()).collect();
    let mut birth = Birth {
        program: sys::cstring(&launch.program.0).at(Step::Exec, &launch.program.0)?,
        args: words(&launch.args)?,
        env: words(&launch.env)?,
        workdir: sys::cstring(&launch.workdir.0).at(Step::Workdir, &launch.workdir.0)?,
        stdio: &stdio,
        control: &control,
        born: Event::Born.to_bytes(),
        proof: &proof,
        joins: &joins,
        rlimits: &launch.rlimits,
        ruleset,
        more_filter: (!namespaced).then(|| crate::seccomp::in_place_filter(launch.no_network)),
        namespaced,
        parent: sys::getpid(),
        failed: None,
    };
    let program = sys::vfork(&mut birth, be_born).at(Step::Fork, b"")?;
    if let Some((step, errno)) = birth.failed {
        let subject = match step {
            Step::Exec => &launch.program.0[..],
            Step::Workdir => &launch.workdir.0[..],
            _ => b"",
        };
        // It is dead, or about to be; nobody else is here.
        let _ = sys::wait(program);
        return Err(failure(step, subject, errno));
    }
    sys::send(&control, &Event::Started.to_bytes(), &[]).at(Step::Watch, b"")?;
    // Our copies of the program's pipes and all else go with the task, or the engine would never see their end.
    Ok(Watch { signals, program })
}

/// A sandbox without a call: all that can be made before its call is known.
struct Sandbox {
    /// With namespaces.
    entered: Option<Entered>,
    /// With namespaces: what every call may touch.
    ruleset: Option<OwnedFd>,
    signals: OwnedFd,
    /// Ourselves.
    pidfd: OwnedFd,
}

struct Entered {
    host: OwnedFd,
    own: OwnedFd,
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
    Ok(Sandbox { entered, ruleset, signals, pidfd })
}

/// Goes into namespaces of its own, and makes what does not depend on the call.
fn enter(namespaces: Namespaces) -> Steps<Entered> {
    let Namespaces { template, host, network, tmp: (size, inodes), pid_max } = namespaces;
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
    if pid_max > 0 {
        fs::write("/proc/sys/kernel/pid_max", pid_max.to_string()).at(Step::PidMax, b"")?;
    }
    let own = fs::File::open("/proc/self/ns/mnt").at(Step::Proc, b"/proc/self/ns/mnt")?;
    Ok(Entered { host, own: own.into() })
}

/// Shows what the call names.
fn show(launch: &Launch, entered: &Entered, passed: Vec<OwnedFd>) -> Steps<()> {
    let mut passed = passed.into_iter();
    let by_path = launch.mounts.iter().any(|mount| matches!(mount.what, What::Path { .. }));
    if by_path {
        // Paths are the host's.
        sys::setns(&entered.host, sys::CLONE_NEWNS).at(Step::Enter, b"the host's mounts")?;
    }
    let mut mounts = Vec::with_capacity(launch.mounts.len());
    for mount in &launch.mounts {
        mounts.push((view::prepare(&mount.target, &mount.what, &mut passed)?, mount));
    }
    if by_path {
        sys::setns(&entered.own, sys::CLONE_NEWNS).at(Step::Enter, b"")?;
    }
    for (prepared, mount) in mounts {
        view::make_place(mount)?;
        view::attach(prepared, &mount.target)?;
    }
    Ok(())
}

/// A network namespace with nothing but loopback in it.
pub(crate) fn new_network(pool: &OwnedFd, number: u64) -> Steps<()> {
    sys::unshare(sys::CLONE_NEWNET).at(Step::Network, b"")?;
    sys::loopback_up().at(Step::Network, b"lo")?;
    // The next user of this namespace shall not find ports taken by connections of this one. Not all kernels have it for
    // each namespace; then a port may stay taken for a minute.
    let _ = fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0");
    if let Ok(namespace) = fs::File::open("/proc/self/ns/net") {
        // If it does not get there, the next one is new, too.
        let _ = sys::send(pool, &number.to_bytes(), &[namespace.as_fd()]);
    }
    Ok(())
}

/// From a copy of ourselves to the program. Runs in our memory while we stand still.
fn be_born(birth: &mut Birth<'_>) -> i32 {
    let Err(failed) = transform(birth);
    birth.failed = Some(failed);
    127
}

fn transform(birth: &Birth<'_>) -> Result<std::convert::Infallible, (Step, Errno)> {
    let step = |step: Step| move |errno| (step.clone(), errno);
    sys::setsid().map_err(step(Step::Exec))?;
    // Before anything of the tool's can run, and before its limits hold: one of them is how much may be on its way.
    sys::send(birth.control, &birth.born, birth.proof).map_err(step(Step::Watch))?;
    if !birth.namespaced {
        // Nobody else kills it when the first process is killed.
        sys::die_with_parent().map_err(step(Step::Watch))?;
        // It may have died before this line.
        if sys::getppid() != birth.parent {
            return Err((Step::Watch, Errno::CHILD));
        }
    }
    for join in birth.joins {
        // Into the cgroup: `0` is whoever writes.
        sys::write(join, b"0").map_err(step(Step::Cgroup))?;
    }
    if birth.namespaced {
        // So that /proc/self/cgroup does not tell where on the host it is.
        sys::unshare(sys::CLONE_NEWCGROUP).map_err(step(Step::Cgroup))?;
    }
    for (number, fd) in birth.stdio.iter().enumerate() {
        sys::dup_to(fd, number as i32).map_err(step(Step::Exec))?;
    }
    // Before the fence and the privileges: it may be a folder that only its owner can enter.
    sys::chdir(&birth.workdir).map_err(step(Step::Workdir))?;
    // From here on nothing is opened: the numbers of our own descriptors may be beyond what the program may have.
    for (resource, (soft, hard)) in birth.rlimits {
        sys::set_limit(*resource, *soft, *hard).map_err(step(Step::Limit))?;
    }
    sys::drop_capabilities().map_err(step(Step::Capabilities))?;
    sys::no_new_privileges().map_err(step(Step::Capabilities))?;
    if let Some(ruleset) = &birth.ruleset {
        sys::landlock_restrict(ruleset).map_err(step(Step::Landlock))?;
    }
    if let Some(filter) = &birth.more_filter {
        sys::install_filter(filter).map_err(step(Step::Seccomp))?;
    }
    // Everything else is closed on exec; this is in case something was not.
    sys::close_on_exec_from(3).map_err(step(Step::Exec))?;
    sys::block_signals(false).map_err(step(Step::Exec))?;
    Err((Step::Exec, sys::execve(&birth.program, &birth.args, &birth.env)))
}

/// Reaps whatever dies, passes on what the engine asks for, and ends when nobody is left, or nobody asks any more.
fn oversee(control: &OwnedFd, watch: &Watch, namespaced: bool) -> ! {
    // Nothing else is needed any more; least of all a way out of the sandbox.
    keep_only([control, &watch.signals].map(AsRawFd::as_raw_fd).into());
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
                        let event = Event::Living { processes: living(watch.program, namespaced) };
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
