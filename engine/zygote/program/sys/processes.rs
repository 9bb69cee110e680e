//! Making, waiting for and signalling processes.

use core::sync::atomic::{AtomicI32, Ordering};

use super::*;

pub(crate) const CLONE_NEWNS: u64 = 0x0002_0000;
pub(crate) const CLONE_NEWIPC: u64 = 0x0800_0000;
pub(crate) const CLONE_NEWUTS: u64 = 0x0400_0000;
pub(crate) const CLONE_NEWUSER: u64 = 0x1000_0000;
pub(crate) const CLONE_NEWPID: u64 = 0x2000_0000;
pub(crate) const CLONE_NEWNET: u64 = 0x4000_0000;
pub(crate) const CLONE_NEWCGROUP: u64 = 0x0200_0000;
const CLONE_VM: u64 = 0x100;
const CLONE_CHILD_CLEARTID: u64 = 0x0020_0000;
pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGTERM: i32 = 15;
pub(crate) const SIGCHLD: i32 = 17;
pub(crate) const SIGCONT: i32 = 18;

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// fork(2), into new namespaces. 0 in the child, its process id in the parent.
pub(crate) fn fork(namespaces: u64) -> Result<i32> {
    let args = CloneArgs { flags: namespaces, exit_signal: SIGCHLD as u64, ..CloneArgs::default() };
    // This program has one thread, so the child is a whole copy of it, allocator included: it may go on as it likes.
    Ok(call!(new::CLONE3, &raw const args, size_of::<CloneArgs>())? as i32)
}

/// Runs `entry` in a child that shares our memory, while we stand still until it executes a program or exits. It has its own
/// descriptors, credentials and namespaces.
///
/// What it writes through its reference is there afterwards; what it had allocated when it executed a program, for ever.
///
/// As vfork(2), but that we wait as one waits for a lock: what waits in vfork(2) counts as load of the machine (proc_loadavg(5)),
/// and this child may wait for hours.
pub(crate) fn vfork<T>(work: &mut T, entry: fn(&mut T) -> i32) -> Result<i32> {
    struct Start<'a, T> {
        work: &'a mut T,
        entry: fn(&mut T) -> i32,
    }
    extern "C" fn begin<T>(start: *mut c_void) -> c_int {
        // SAFETY: it is the `Start` below, which outlives us, as the caller stands still until we are gone.
        let start = unsafe { &mut *start.cast::<Start<'_, T>>() };
        (start.entry)(start.work)
    }
    const SHARES: c_int = 1;
    const FUTEX_WAIT: c_long = 0;
    const FLAGS: u64 = CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD as u64;
    let stack = Stack::new()?;
    let mut start = Start { work, entry };
    let shares = AtomicI32::new(SHARES);
    // SAFETY: this thread does not go on before the child has let go of our memory by exec or exit, so that stack, `start` and
    // `shares` outlive it; the stack is as aligned as the ABI wants, and nobody else uses it. This program has one thread,
    // and until then it does nothing but wait: the child may use the allocator as a call of ours would.
    let answer = unsafe {
        raw::clone(FLAGS as c_long, stack.top(), shares.as_ptr(), begin::<T>, (&raw mut start).cast())
    };
    let pid = answered(answer)? as i32;
    // The kernel sets it to 0 and wakes us when the child's memory is not ours any more (set_tid_address(2)), however that ends;
    // so this wait needs no bound.
    while shares.load(Ordering::Acquire) == SHARES {
        // When it is not that any more, this fails, and says what the loop sees.
        let _ = call!(nr::FUTEX, shares.as_ptr(), FUTEX_WAIT, SHARES, 0, 0, 0);
    }
    Ok(pid)
}

/// Ends this process at once. Nothing is flushed or dropped.
pub(crate) fn exit(status: i32) -> ! {
    loop {
        let _ = call!(nr::EXIT_GROUP, status);
    }
}

pub(crate) fn getpid() -> i32 {
    call!(nr::GETPID).unwrap_or(0) as i32
}

pub(crate) fn getppid() -> i32 {
    call!(nr::GETPPID).unwrap_or(0) as i32
}

/// What a child used, as wait4(2) tells it.
#[repr(C)]
#[derive(Default, Clone, Copy)]
pub(crate) struct Rusage {
    pub(crate) user: [i64; 2],
    pub(crate) system: [i64; 2],
    pub(crate) max_rss: i64,
    rest: [i64; 13],
}

/// A child that has ended: reaped. `Ok(None)`: there are children, all of them running.
pub(crate) fn reap_any() -> Result<Option<(i32, i32, Rusage)>> {
    const WNOHANG: c_long = 1;
    const WALL: c_long = 0x4000_0000;
    let mut status: c_int = 0;
    let mut usage = Rusage::default();
    let pid = call!(nr::WAIT4, -1, &raw mut status, WNOHANG | WALL, &raw mut usage)?;
    Ok((pid != 0).then_some((pid as i32, status, usage)))
}

/// Waits for this child to end.
pub(crate) fn wait(pid: i32) -> Result<i32> {
    let mut status: c_int = 0;
    loop {
        match call!(nr::WAIT4, pid, &raw mut status, 0, 0) {
            Err(Errno::INTR) => {}
            done => return done.map(|_| status),
        }
    }
}

pub(crate) fn kill(pid: i32, signal: i32) -> Result<()> {
    call!(nr::KILL, pid, signal).map(drop)
}

pub(crate) fn setsid() -> Result<()> {
    call!(nr::SETSID).map(drop)
}

pub(crate) fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    call!(new::PIDFD_OPEN, pid, 0).map(owned)
}

pub(crate) fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    call!(new::PIDFD_SEND_SIGNAL, pidfd.as_fd().as_raw_fd(), signal, 0, 0).map(drop)
}

/// A program's name, arguments or environment, as execve(2) wants them.
pub(crate) struct Strings {
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

impl Strings {
    pub(crate) fn new<'a>(strings: impl IntoIterator<Item = &'a [u8]>) -> Result<Self> {
        let strings = strings.into_iter().map(cstring).collect::<Result<Vec<_>>>()?;
        let pointers = strings.iter().map(|one| one.as_ptr()).chain([ptr::null()]).collect();
        Ok(Self { pointers, _strings: strings })
    }
}

/// Only returns when it fails.
pub(crate) fn execve(program: &CStr, args: &Strings, env: &Strings) -> Errno {
    match call!(nr::EXECVE, program.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) {
        Err(errno) => errno,
        Ok(_) => Errno::INVAL,
    }
}

/// All signals, or none: the mask of this thread.
pub(crate) fn block_signals(block: bool) -> Result<()> {
    const SETMASK: c_long = 2;
    let set: u64 = if block { !0 } else { 0 };
    call!(nr::RT_SIGPROCMASK, SETMASK, &raw const set, 0, size_of::<u64>()).map(drop)
}

/// Gives every signal its default effect.
pub(crate) fn default_signals() {
    // The kernel's struct sigaction, SIG_DFL being 0.
    let default = [0u64; 4];
    for number in 1..=64 {
        // Numbers that cannot be changed are refused.
        let _ = call!(nr::RT_SIGACTION, number, default.as_ptr(), 0, size_of::<u64>());
    }
}

/// A descriptor that is readable when one of these (blocked) signals is pending.
pub(crate) fn signalfd(signals: &[i32]) -> Result<OwnedFd> {
    const SFD_CLOEXEC_NONBLOCK: c_long = 0o2004000;
    let set = signals.iter().fold(0u64, |set, signal| set | 1 << (signal - 1));
    call!(nr::SIGNALFD4, -1, &raw const set, size_of::<u64>(), SFD_CLOEXEC_NONBLOCK).map(owned)
}

/// Empties a signalfd. Whether `wanted` was among them, sent from outside of our process id namespace.
pub(crate) fn drain_signals(signals: impl AsFd, wanted: i32) -> bool {
    // struct signalfd_siginfo: 128 bytes; the signal comes first, at 8 how it was sent, at 12 the sender's process id (0:
    // unknown in here). What was sent by kill(2) (SI_USER, 0) has a true sender; rt_sigqueueinfo(2) believes what it is told.
    let mut info = [0u32; 32];
    let mut seen = false;
    while call!(nr::READ, signals.as_fd().as_raw_fd(), info.as_mut_ptr(), size_of_val(&info))
        .is_ok_and(|read| read > 0)
    {
        seen |= info[0] == wanted as u32 && info[2] == 0 && info[3] == 0;
    }
    seen
}

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

/// Waits until one of them can be read, or is at its end. In milliseconds, `None` for ever.
pub(crate) fn poll<const N: usize>(fds: [Option<BorrowedFd<'_>>; N], timeout: Option<u64>) -> [bool; N] {
    const POLLIN: i16 = 1;
    let mut polled =
        fds.map(|fd| PollFd { fd: fd.map_or(-1, |fd| fd.as_raw_fd()), events: POLLIN, revents: 0 });
    let time = timeout.map(|ms| [(ms / 1000) as i64, (ms % 1000 * 1_000_000) as i64]);
    let time = time.as_ref().map_or(ptr::null(), |time| time.as_ptr());
    match call!(nr::PPOLL, polled.as_mut_ptr(), N, time, 0, 0) {
        Ok(_) => polled.map(|one| one.revents != 0),
        // Interrupted: nothing is known to be ready.
        Err(_) => [false; N],
    }
}
