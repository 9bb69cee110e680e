//! The program's own process, from its making until it becomes the program. It is made before its call is known, waits for
//! that, and shares the memory of the sandbox's first process, which stands still meanwhile.

use alloc::{ffi::CString, vec::Vec};
use core::convert::Infallible;

use crate::{
    protocol::{Event, Failure, Head, Launch, Step, What, Wire},
    sandbox::{Entered, Sandbox},
    seccomp,
    step::{At, Steps, failure},
    sys::{self, AsFd, Errno, OwnedFd},
    view,
};

/// What it needs, and what it leaves behind in the memory that it shares.
pub(crate) struct Birth<'a> {
    made: &'a Sandbox,
    control: &'a OwnedFd,
    joins: &'a [OwnedFd],
    /// Its parent.
    first: i32,
    /// What to run, and how exec is told. Left here, so that its memory is freed afterwards.
    launch: Option<Launch>,
    words: Option<Words>,
    /// All that is left to do is exec.
    is_ready: bool,
    stillborn: Option<Stillborn>,
}

/// Why there is no program.
pub(crate) enum Stillborn {
    /// The engine has no use for this sandbox any more.
    Unused,
    Failed(Failure),
    /// Somebody killed it.
    Killed,
}

struct Words {
    program: CString,
    args: sys::Strings,
    env: sys::Strings,
}

/// One launch, as it is received.
struct Task {
    launch: Launch,
    stdio: [OwnedFd; 3],
    mounts: Vec<OwnedFd>,
}

impl<'a> Birth<'a> {
    /// The engine is at the other end of `control`; cgroups are joined by `joins`.
    pub(crate) fn new(made: &'a Sandbox, control: &'a OwnedFd, joins: &'a [OwnedFd]) -> Self {
        Self {
            made,
            control,
            joins,
            first: sys::getpid(),
            launch: None,
            words: None,
            is_ready: false,
            stillborn: None,
        }
    }

    /// `None`: it has become the program.
    pub(crate) fn into_stillborn(self) -> Option<Stillborn> {
        self.stillborn.or((!self.is_ready).then_some(Stillborn::Killed))
    }
}

/// From a copy of the first process to the program. All descriptors that it opens or receives are its own: the first process
/// never has the program's pipes, and the engine sees their end when the program is gone.
pub(crate) fn be_born(birth: &mut Birth<'_>) -> i32 {
    birth.stillborn = Some(match await_call(birth) {
        Ok(None) => Stillborn::Unused,
        Ok(Some(task)) => {
            let Err(failure) = become_program(birth, task);
            Stillborn::Failed(failure)
        }
        Err(failure) => Stillborn::Failed(failure),
    });
    127
}

fn await_call(birth: &Birth<'_>) -> Steps<Option<Task>> {
    let Birth { made, control, joins, first, .. } = birth;
    sys::setsid().at(Step::Exec, b"")?;
    if made.entered.is_none() {
        // Nobody else kills it when the first process is killed; which may have died before this line.
        sys::die_with_parent().at(Step::Watch, b"")?;
        if sys::getppid() != *first {
            return Err(failure(Step::Watch, b"", Errno::CHILD));
        }
    }
    for join in *joins {
        // Into the cgroup: `0` is whoever writes.
        sys::write(join, b"0").at(Step::Cgroup, b"")?;
    }
    if made.entered.is_some() {
        // So that /proc/self/cgroup does not tell where on the host it is.
        sys::unshare(sys::CLONE_NEWCGROUP).at(Step::Cgroup, b"")?;
    }
    // Before anything of the tool's can run, and before its limits hold: one of them is how much may be on its way.
    let own = made.entered.as_ref().map(|entered| entered.own.as_fd());
    let proof: Vec<_> = [Some(made.pidfd.as_fd()), own].into_iter().flatten().collect();
    sys::send(control, &Event::Born.to_bytes(), &proof).at(Step::Watch, b"")?;
    match sys::receive(control, true).at(Step::Message, b"")? {
        Some((message, fds)) => {
            let task = Task::read(&message, fds);
            task.map(Some).ok_or_else(|| failure(Step::Message, b"", Errno::PROTO))
        }
        None => Ok(None),
    }
}

impl Task {
    fn read(mut message: &[u8], fds: Vec<OwnedFd>) -> Option<Self> {
        let Head { apart } = Head::read(&mut message)?;
        let mut fds = fds.into_iter();
        let stdio = [fds.next()?, fds.next()?, fds.next()?];
        let mut mounts: Vec<_> = fds.collect();
        let launch = if apart {
            Launch::from_bytes(&sys::read_all(mounts.pop()?).ok()?)
        } else {
            Launch::from_bytes(message)
        };
        Some(Self { launch: launch?, stdio, mounts })
    }
}

fn become_program(birth: &mut Birth<'_>, task: Task) -> Steps<Infallible> {
    let Task { launch, stdio, mounts } = task;
    let Birth { made, launch: kept, words, is_ready, .. } = birth;
    let Sandbox { entered, landlock, ruleset, .. } = made;
    let launch = &*kept.insert(launch);
    if let Some(entered) = entered {
        show(launch, entered, mounts)?;
        if launch.pid_max > 0 {
            sys::write_to("/proc/sys/kernel/pid_max", launch.pid_max).at(Step::PidMax, b"")?;
        }
    }
    let own_ruleset = match ruleset {
        None if landlock.is_usable() => Some(landlock.ruleset(launch.no_network)?),
        _ => None,
    };
    let ruleset = ruleset.as_ref().or(own_ruleset.as_ref());
    if let Some(ruleset) = ruleset {
        landlock.allow(ruleset, &launch.readable, &launch.writable, entered.is_some())?;
    }
    let more_filter = entered.is_none().then(|| seccomp::in_place_filter(launch.no_network));
    for (number, fd) in stdio.iter().enumerate() {
        sys::dup_to(fd, number as i32).at(Step::Exec, b"")?;
    }
    // Before the fence and the privileges: it may be a folder that only its owner can enter.
    let workdir = sys::cstring(&launch.workdir.0).at(Step::Workdir, &launch.workdir.0)?;
    sys::chdir(&workdir).at(Step::Workdir, &launch.workdir.0)?;
    let words = words.insert(Words::of(launch)?);
    // From here on nothing is opened: the numbers of our own descriptors may be beyond what the program may have.
    for (resource, (soft, hard)) in &launch.rlimits {
        sys::set_limit(*resource, *soft, *hard).at(Step::Limit, b"")?;
    }
    sys::drop_capabilities().at(Step::Capabilities, b"")?;
    sys::no_new_privileges().at(Step::Capabilities, b"")?;
    if let Some(ruleset) = ruleset {
        sys::landlock_restrict(ruleset).at(Step::Landlock, b"")?;
    }
    if let Some(filter) = &more_filter {
        sys::install_filter(filter).at(Step::Seccomp, b"")?;
    }
    // Everything else is closed on exec; this is in case something was not.
    sys::close_on_exec_from(3).at(Step::Exec, b"")?;
    sys::block_signals(false).at(Step::Exec, b"")?;
    *is_ready = true;
    Err(failure(Step::Exec, &launch.program.0, sys::execve(&words.program, &words.args, &words.env)))
}

impl Words {
    fn of(launch: &Launch) -> Steps<Self> {
        let strings = |words: &[crate::protocol::Bytes]| {
            sys::Strings::new(words.iter().map(|word| &word.0[..])).at(Step::Message, b"")
        };
        Ok(Self {
            program: sys::cstring(&launch.program.0).at(Step::Exec, &launch.program.0)?,
            args: strings(&launch.args)?,
            env: strings(&launch.env)?,
        })
    }
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
