//! The system calls that std has no words for, each a small function that is safe to call.
//!
//! No crate is used, so that the program can be built by one `rustc`; the numbers are the kernel's ABI
//! (`include/uapi/asm-generic/unistd.h`, and for x86-64 `arch/x86/entry/syscalls/syscall_64.tbl`).

use std::{
    ffi::{CStr, CString, c_char, c_int, c_long, c_void},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// An error number (errno(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    pub(crate) const PERM: Errno = Errno(1);
    pub(crate) const INTR: Errno = Errno(4);
    pub(crate) const IO: Errno = Errno(5);
    pub(crate) const CHILD: Errno = Errno(10);
    pub(crate) const AGAIN: Errno = Errno(11);
    pub(crate) const ACCES: Errno = Errno(13);
    pub(crate) const INVAL: Errno = Errno(22);
    pub(crate) const STALE: Errno = Errno(116);
    pub(crate) const PROTO: Errno = Errno(71);

    fn last() -> Self {
        std::io::Error::last_os_error().into()
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Errno(error.raw_os_error().unwrap_or(Errno::IO.0))
    }
}

pub(crate) type Result<T> = std::result::Result<T, Errno>;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn clone(
        entry: extern "C" fn(*mut c_void) -> c_int,
        stack: *mut c_void,
        flags: c_int,
        arg: *mut c_void,
        ...
    ) -> c_int;
    fn signal(number: c_int, handler: usize) -> usize;
    fn _exit(status: c_int) -> !;
}

/// Numbers that differ between architectures: x86-64, aarch64.
macro_rules! numbers {
    ($($name:ident = $x86_64:literal, $aarch64:literal;)*) => {
        #[cfg(target_arch = "x86_64")]
        pub(crate) mod nr { $(pub(crate) const $name: i64 = $x86_64;)* }
        #[cfg(target_arch = "aarch64")]
        pub(crate) mod nr { $(pub(crate) const $name: i64 = $aarch64;)* }
    };
}
numbers! {
    SENDMSG = 46, 211; RECVMSG = 47, 212; SOCKETPAIR = 53, 199; SOCKET = 41, 198; BIND = 49, 200; CONNECT = 42, 203;
    LISTEN = 50, 201; SHUTDOWN = 48, 210; IOCTL = 16, 29; SETSID = 112, 157; KILL = 62, 129; WAIT4 = 61, 260;
    EXECVE = 59, 221; PIVOT_ROOT = 155, 41; CAPSET = 126, 91; UMOUNT2 = 166, 39; MOUNT = 165, 40; SETNS = 308, 268;
    UNSHARE = 272, 97; PRCTL = 157, 167; PPOLL = 271, 73; SIGNALFD4 = 289, 74; RT_SIGPROCMASK = 14, 135;
    PRLIMIT64 = 302, 261; SETHOSTNAME = 170, 161; SECCOMP = 317, 277; SETRESUID = 117, 147; SETRESGID = 119, 149;
    SETGROUPS = 116, 159; DUP3 = 292, 24; FCHDIR = 81, 50; MKDIRAT = 258, 34; SYMLINKAT = 266, 36; OPENAT = 257, 56;
    PIPE2 = 293, 59; GETPID = 39, 172; GETPRIORITY = 140, 141;
}
/// Numbers that are the same everywhere.
mod new {
    pub(crate) const PIDFD_SEND_SIGNAL: i64 = 424;
    pub(crate) const OPEN_TREE: i64 = 428;
    pub(crate) const MOVE_MOUNT: i64 = 429;
    pub(crate) const FSOPEN: i64 = 430;
    pub(crate) const FSCONFIG: i64 = 431;
    pub(crate) const FSMOUNT: i64 = 432;
    pub(crate) const PIDFD_OPEN: i64 = 434;
    pub(crate) const CLONE3: i64 = 435;
    pub(crate) const CLOSE_RANGE: i64 = 436;
    pub(crate) const MOUNT_SETATTR: i64 = 442;
    pub(crate) const LANDLOCK_CREATE_RULESET: i64 = 444;
    pub(crate) const LANDLOCK_ADD_RULE: i64 = 445;
    pub(crate) const LANDLOCK_RESTRICT_SELF: i64 = 446;
}

/// A system call whose arguments are numbers, or point to what lives during the call.
macro_rules! call {
    ($number:expr $(, $arg:expr)* $(,)?) => {{
        // SAFETY: each use below passes the arguments that the call of this number takes; pointers are to live values of
        // the type and length that it wants, and none of these calls keeps them.
        let done = unsafe { syscall($number, $($arg as c_long),*) };
        if done == -1 { Err(Errno::last()) } else { Ok(done) }
    }};
}

/// The descriptor that a system call has just returned.
fn owned(fd: c_long) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

pub(crate) fn cstring(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

const AT_FDCWD: RawFd = -100;
const AT_EMPTY_PATH: c_long = 0x1000;
const AT_RECURSIVE: c_long = 0x8000;
const O_CLOEXEC: c_long = 0o2000000;
const O_PATH: u64 = 0o10000000;

// ---- processes

pub(crate) const CLONE_NEWNS: u64 = 0x0002_0000;
pub(crate) const CLONE_NEWIPC: u64 = 0x0800_0000;
pub(crate) const CLONE_NEWUTS: u64 = 0x0400_0000;
pub(crate) const CLONE_NEWUSER: u64 = 0x1000_0000;
pub(crate) const CLONE_NEWPID: u64 = 0x2000_0000;
pub(crate) const CLONE_NEWNET: u64 = 0x4000_0000;
pub(crate) const CLONE_NEWCGROUP: u64 = 0x0200_0000;
const CLONE_VM: c_int = 0x100;
const CLONE_VFORK: c_int = 0x4000;
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

/// Runs `entry` in a child that shares our memory, while we stand still until it executes a program or exits (vfork(2)).
///
/// `entry` must not touch what we cannot stand to find changed; what it writes through its reference is there afterwards.
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
    const STACK: usize = 256 << 10;
    let mut stack: Vec<u128> = Vec::with_capacity(STACK / size_of::<u128>());
    let mut start = Start { work, entry };
    // SAFETY: the end of the allocation is as far as a pointer into it may go; the stack grows down from there.
    let top = unsafe { stack.as_mut_ptr().add(STACK / size_of::<u128>()) };
    // SAFETY: with CLONE_VFORK this thread does not go on before the child has left `begin` by exec or exit, so that stack
    // and `start` outlive it; the stack is as aligned as the ABI wants, and nobody else uses it.
    let pid =
        unsafe { clone(begin::<T>, top.cast(), CLONE_VM | CLONE_VFORK | SIGCHLD, (&raw mut start).cast()) };
    if pid == -1 { Err(Errno::last()) } else { Ok(pid) }
}

/// Ends this process at once. Nothing is flushed or dropped.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: it may be called at any time.
    unsafe { _exit(status) }
}

pub(crate) fn getpid() -> i32 {
    call!(nr::GETPID).unwrap_or(0) as i32
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

// ---- signals

/// All signals, or none: the mask of this thread.
pub(crate) fn block_signals(block: bool) -> Result<()> {
    const SETMASK: c_long = 2;
    let set: u64 = if block { !0 } else { 0 };
    call!(nr::RT_SIGPROCMASK, SETMASK, &raw const set, 0, size_of::<u64>()).map(drop)
}

/// Gives every signal its default effect.
pub(crate) fn default_signals() {
    for number in 1..=64 {
        // SAFETY: SIG_DFL (0) runs no code of ours; numbers that cannot be changed are refused.
        let _ = unsafe { signal(number, 0) };
    }
}

/// A descriptor that is readable when one of these (blocked) signals is pending.
pub(crate) fn signalfd(signals: &[i32]) -> Result<OwnedFd> {
    const SFD_CLOEXEC_NONBLOCK: c_long = 0o2004000;
    let set = signals.iter().fold(0u64, |set, signal| set | 1 << (signal - 1));
    call!(nr::SIGNALFD4, -1, &raw const set, size_of::<u64>(), SFD_CLOEXEC_NONBLOCK).map(owned)
}

// ---- waiting

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

// ---- descriptors

/// `fd` as `number`, in place of what was there; stays open over exec.
pub(crate) fn dup_to(fd: impl AsFd, number: RawFd) -> Result<()> {
    call!(nr::DUP3, fd.as_fd().as_raw_fd(), number, 0).map(drop)
}

pub(crate) fn close_from(first: RawFd) -> Result<()> {
    call!(new::CLOSE_RANGE, first, u32::MAX, 0).map(drop)
}

pub(crate) fn close_between(first: RawFd, last: RawFd) -> Result<()> {
    if first > last { Ok(()) } else { call!(new::CLOSE_RANGE, first, last, 0).map(drop) }
}

pub(crate) fn fchdir(folder: impl AsFd) -> Result<()> {
    call!(nr::FCHDIR, folder.as_fd().as_raw_fd()).map(drop)
}

pub(crate) fn chdir(folder: &CStr) -> Result<()> {
    let fd = open_path(folder)?;
    fchdir(fd)
}

/// A handle to what is there; following links.
pub(crate) fn open_path(path: &CStr) -> Result<OwnedFd> {
    call!(nr::OPENAT, AT_FDCWD, path.as_ptr(), O_PATH as c_long | O_CLOEXEC, 0).map(owned)
}

/// A handle to what is at this absolute path, if no symbolic link is on the way; if one is at its end, a handle to the link.
/// Step by step, as the filter refuses openat2(2).
pub(crate) fn open_path_strictly(path: &CStr) -> Result<OwnedFd> {
    const DIRECTORY: c_long = if cfg!(target_arch = "x86_64") { 0o200000 } else { 0o40000 };
    const NOFOLLOW: c_long = if cfg!(target_arch = "x86_64") { 0o400000 } else { 0o100000 };
    let open = |folder: RawFd, name: &CStr, flags: c_long| {
        let flags = O_PATH as c_long | O_CLOEXEC | NOFOLLOW | flags;
        call!(nr::OPENAT, folder, name.as_ptr(), flags, 0).map(owned)
    };
    let mut at = open(AT_FDCWD, c"/", DIRECTORY)?;
    let mut names = path.to_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        // A link, opened without following it, is no folder.
        let folder = if names.peek().is_some() { DIRECTORY } else { 0 };
        at = open(at.as_raw_fd(), &cstring(name)?, folder)?;
    }
    Ok(at)
}

pub(crate) fn mkdir_at(folder: impl AsFd, name: &CStr, mode: u32) -> Result<()> {
    call!(nr::MKDIRAT, folder.as_fd().as_raw_fd(), name.as_ptr(), mode).map(drop)
}

pub(crate) fn symlink_at(target: &CStr, folder: impl AsFd, name: &CStr) -> Result<()> {
    call!(nr::SYMLINKAT, target.as_ptr(), folder.as_fd().as_raw_fd(), name.as_ptr()).map(drop)
}

/// A new file for writing.
pub(crate) fn create_at(folder: impl AsFd, name: &CStr, mode: u32) -> Result<OwnedFd> {
    const WRONLY_CREAT_EXCL: c_long = 0o301;
    call!(nr::OPENAT, folder.as_fd().as_raw_fd(), name.as_ptr(), WRONLY_CREAT_EXCL | O_CLOEXEC, mode)
        .map(owned)
}

// ---- identity and privilege

pub(crate) fn become_user(uid: u32, gid: u32) -> Result<()> {
    call!(nr::SETGROUPS, 0, 0)?;
    call!(nr::SETRESGID, gid, gid, gid)?;
    call!(nr::SETRESUID, uid, uid, uid).map(drop)
}

fn prctl(option: c_long, arg: c_long) -> Result<()> {
    call!(nr::PRCTL, option, arg, 0, 0, 0).map(drop)
}

/// SIGKILL when the parent dies. Forgotten when the user changes.
pub(crate) fn die_with_parent() -> Result<()> {
    prctl(1, SIGKILL.into())
}

pub(crate) fn set_dumpable(dumpable: bool) -> Result<()> {
    prctl(4, dumpable.into())
}

pub(crate) fn set_name(name: &CStr) {
    // Cosmetics.
    let _ = call!(nr::PRCTL, 15, name.as_ptr(), 0, 0, 0);
}

pub(crate) fn no_new_privileges() -> Result<()> {
    prctl(38, 1)
}

/// Orphaned descendants become our children.
pub(crate) fn adopt_orphans() -> Result<()> {
    prctl(36, 1)
}

/// Empties the bounding set: no program executed from here on can gain a capability.
pub(crate) fn drop_bounding_set() -> Result<()> {
    for capability in 0..64 {
        match prctl(24, capability) {
            // Beyond the last that this kernel knows.
            Err(Errno::INVAL) => break,
            done => done?,
        }
    }
    Ok(())
}

/// Gives up all capabilities.
pub(crate) fn drop_capabilities() -> Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let none = [0u32; 6];
    call!(nr::CAPSET, header.as_ptr(), none.as_ptr()).map(drop)
}

pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    call!(nr::PRLIMIT64, 0, resource, limit.as_ptr(), 0).map(drop)
}

// ---- namespaces and mounts

pub(crate) fn unshare(flags: u64) -> Result<()> {
    call!(nr::UNSHARE, flags).map(drop)
}

pub(crate) fn setns(namespace: impl AsFd, kind: u64) -> Result<()> {
    call!(nr::SETNS, namespace.as_fd().as_raw_fd(), kind).map(drop)
}

pub(crate) fn sethostname(name: &[u8]) -> Result<()> {
    call!(nr::SETHOSTNAME, name.as_ptr(), name.len()).map(drop)
}

/// All mounts: what happens to them outside goes on here, nothing of here goes out.
pub(crate) fn make_mounts_slave() -> Result<()> {
    const REC_SLAVE: c_long = 0x4000 | 0x8_0000;
    call!(nr::MOUNT, c"none".as_ptr(), c"/".as_ptr(), 0, REC_SLAVE, 0).map(drop)
}

/// A detached copy of the mounts at and below `fd`.
pub(crate) fn clone_mount(fd: impl AsFd) -> Result<OwnedFd> {
    const CLONE: c_long = 1;
    call!(
        new::OPEN_TREE,
        fd.as_fd().as_raw_fd(),
        c"".as_ptr(),
        CLONE | O_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE
    )
    .map(owned)
}

pub(crate) const MOUNT_RDONLY: u64 = 1;
pub(crate) const MOUNT_NOSUID: u64 = 2;
pub(crate) const MOUNT_NODEV: u64 = 4;
pub(crate) const MOUNT_NOEXEC: u64 = 8;
const MOUNT_PRIVATE: u64 = 0x4_0000;

/// Adds these attributes to a mount, and to those below it; cuts them off from others.
pub(crate) fn restrict_mount(fd: impl AsFd, attributes: u64, recursive: bool) -> Result<()> {
    let attr: [u64; 4] = [attributes, 0, MOUNT_PRIVATE, 0];
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    call!(new::MOUNT_SETATTR, fd.as_fd().as_raw_fd(), c"".as_ptr(), flags, attr.as_ptr(), size_of_val(&attr))
        .map(drop)
}

/// Attaches a detached mount at a path below `folder`, without following a link at its end.
pub(crate) fn attach_at(mount: impl AsFd, folder: impl AsFd, path: &CStr) -> Result<()> {
    const FROM_EMPTY_PATH: c_long = 4;
    call!(
        new::MOVE_MOUNT,
        mount.as_fd().as_raw_fd(),
        c"".as_ptr(),
        folder.as_fd().as_raw_fd(),
        path.as_ptr(),
        FROM_EMPTY_PATH
    )
    .map(drop)
}

/// Attaches a detached mount at an absolute path.
pub(crate) fn attach(mount: impl AsFd, path: &CStr) -> Result<()> {
    const FROM_EMPTY_PATH: c_long = 4;
    call!(new::MOVE_MOUNT, mount.as_fd().as_raw_fd(), c"".as_ptr(), AT_FDCWD, path.as_ptr(), FROM_EMPTY_PATH)
        .map(drop)
}

/// A new file system as a detached mount.
pub(crate) fn new_mount(kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64) -> Result<OwnedFd> {
    const SET_STRING: c_long = 1;
    const CREATE: c_long = 6;
    let context = owned(call!(new::FSOPEN, kind.as_ptr(), 1)?);
    let context = context.as_fd().as_raw_fd();
    for (key, value) in options {
        call!(new::FSCONFIG, context, SET_STRING, key.as_ptr(), value.as_ptr(), 0)?;
    }
    call!(new::FSCONFIG, context, CREATE, 0, 0, 0)?;
    call!(new::FSMOUNT, context, 1, attributes).map(owned)
}

/// Makes the current folder the root, and lets go of the old one.
pub(crate) fn pivot_here() -> Result<()> {
    const DETACH: c_long = 2;
    call!(nr::PIVOT_ROOT, c".".as_ptr(), c".".as_ptr())?;
    call!(nr::UMOUNT2, c".".as_ptr(), DETACH)?;
    chdir(c"/")
}

// ---- network

/// A socket that stays ours over exec.
pub(crate) fn socket(domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    call!(nr::SOCKET, domain, kind | O_CLOEXEC as i32, protocol).map(owned)
}

/// Two connected sockets that keep messages whole.
pub(crate) fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    const UNIX: c_long = 1;
    const SEQPACKET: c_long = 5;
    let mut pair: [c_int; 2] = [-1; 2];
    call!(nr::SOCKETPAIR, UNIX, SEQPACKET | O_CLOEXEC, 0, pair.as_mut_ptr())?;
    Ok((owned(pair[0].into()), owned(pair[1].into())))
}

/// From now on nothing can be sent to this socket; what was sent before can still be received.
pub(crate) fn refuse(socket: impl AsFd) {
    const READING: c_long = 0;
    // It can only fail on what is no connected socket.
    let _ = call!(nr::SHUTDOWN, socket.as_fd().as_raw_fd(), READING);
}

pub(crate) fn bind(socket: impl AsFd, address: &[u8]) -> Result<()> {
    call!(nr::BIND, socket.as_fd().as_raw_fd(), address.as_ptr(), address.len()).map(drop)
}

pub(crate) fn connect(socket: impl AsFd, address: &[u8]) -> Result<()> {
    call!(nr::CONNECT, socket.as_fd().as_raw_fd(), address.as_ptr(), address.len()).map(drop)
}

pub(crate) fn listen(socket: impl AsFd) -> Result<()> {
    call!(nr::LISTEN, socket.as_fd().as_raw_fd(), 1).map(drop)
}

/// Takes the loopback interface of this network namespace up (netdevice(7)).
pub(crate) fn loopback_up() -> Result<()> {
    const INET: i32 = 2;
    const DGRAM: i32 = 2;
    const SIOCSIFFLAGS: c_long = 0x8914;
    const IFF_UP_RUNNING: u16 = 0x41;
    let socket = socket(INET, DGRAM, 0)?;
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&IFF_UP_RUNNING.to_ne_bytes());
    call!(nr::IOCTL, socket.as_raw_fd(), SIOCSIFFLAGS, request.as_mut_ptr()).map(drop)
}

// ---- messages with descriptors

#[repr(C)]
struct IoVec {
    base: *mut c_void,
    length: usize,
}

#[repr(C)]
struct MsgHdr {
    name: *mut c_void,
    name_length: u32,
    vectors: *mut IoVec,
    vector_count: usize,
    control: *mut c_void,
    control_length: usize,
    flags: c_int,
}

/// Room for a control message header (16 bytes) and so many descriptors, aligned as it wants.
const CONTROL_WORDS: usize = 2 + crate::protocol::MAX_FDS.div_ceil(2);
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const HEADER: usize = 16;

/// Sends a message and descriptors. Never blocks for ever: a full socket of a peer that does not read is an error.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    const NOSIGNAL: c_long = 0x4000;
    if fds.len() > crate::protocol::MAX_FDS {
        return Err(Errno::INVAL);
    }
    let mut control = [0u64; CONTROL_WORDS];
    control[0] = (HEADER + 4 * fds.len()) as u64;
    control[1] = u64::from(SOL_SOCKET as u32) | u64::from(SCM_RIGHTS as u32) << 32;
    for (index, fd) in fds.iter().enumerate() {
        control[2 + index / 2] |= u64::from(fd.as_raw_fd() as u32) << (32 * (index % 2));
    }
    let mut vector = IoVec { base: bytes.as_ptr().cast_mut().cast(), length: bytes.len() };
    let message = MsgHdr {
        name: ptr::null_mut(),
        name_length: 0,
        vectors: &raw mut vector,
        vector_count: 1,
        control: control.as_mut_ptr().cast(),
        control_length: if fds.is_empty() { 0 } else { (HEADER + 4 * fds.len()).next_multiple_of(8) },
        flags: 0,
    };
    loop {
        match call!(nr::SENDMSG, socket.as_fd().as_raw_fd(), &raw const message, NOSIGNAL) {
            Err(Errno::INTR) => {}
            done => return done.map(drop),
        }
    }
}

/// Receives one message and its descriptors, which are closed on exec. `Ok(None)`: the peer is gone.
pub(crate) fn receive(socket: impl AsFd, wait: bool) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    const CMSG_CLOEXEC: c_long = 0x4000_0000;
    const DONTWAIT: c_long = 0x40;
    const TRUNCATED: c_int = 0x20 | 0x8;
    let mut bytes: Vec<u8> = Vec::with_capacity(crate::protocol::MAX_MESSAGE);
    let mut control = [0u64; CONTROL_WORDS];
    let mut vector = IoVec { base: bytes.as_mut_ptr().cast(), length: bytes.capacity() };
    let mut message = MsgHdr {
        name: ptr::null_mut(),
        name_length: 0,
        vectors: &raw mut vector,
        vector_count: 1,
        control: control.as_mut_ptr().cast(),
        control_length: size_of_val(&control),
        flags: 0,
    };
    let flags = CMSG_CLOEXEC | if wait { 0 } else { DONTWAIT };
    let length = loop {
        match call!(nr::RECVMSG, socket.as_fd().as_raw_fd(), &raw mut message, flags) {
            Err(Errno::INTR) => {}
            done => break done? as usize,
        }
    };
    let mut fds = Vec::new();
    if message.control_length >= HEADER
        && control[1] == (u64::from(SOL_SOCKET as u32) | u64::from(SCM_RIGHTS as u32) << 32)
    {
        let count = (control[0] as usize).saturating_sub(HEADER) / 4;
        for index in 0..count.min(crate::protocol::MAX_FDS) {
            let fd = (control[2 + index / 2] >> (32 * (index % 2))) as u32;
            fds.push(owned(c_long::from(fd)));
        }
    }
    if message.flags & TRUNCATED != 0 {
        return Err(Errno::PROTO);
    }
    if length == 0 && fds.is_empty() {
        return Ok(None);
    }
    // SAFETY: the kernel has written that many bytes, which is at most the capacity it was told.
    unsafe { bytes.set_len(length) };
    Ok(Some((bytes, fds)))
}

// ---- Landlock

/// Its ABI; 0: there is none.
pub(crate) fn landlock_abi() -> u32 {
    call!(new::LANDLOCK_CREATE_RULESET, 0, 0, 1).map_or(0, |abi| abi as u32)
}

/// A ruleset that refuses these accesses to files and to TCP, and bounds these scopes. `known`: how many of the three
/// words this kernel knows.
pub(crate) fn landlock_ruleset(files: u64, network: u64, scopes: u64, known: usize) -> Result<OwnedFd> {
    let attr = [files, network, scopes];
    call!(new::LANDLOCK_CREATE_RULESET, attr.as_ptr(), 8 * known, 0).map(owned)
}

/// Allows these accesses at and below `place`.
pub(crate) fn landlock_allow(ruleset: impl AsFd, place: impl AsFd, access: u64) -> Result<()> {
    const PATH_BENEATH: c_long = 1;
    #[repr(C, packed)]
    struct PathBeneath {
        access: u64,
        fd: c_int,
    }
    let rule = PathBeneath { access, fd: place.as_fd().as_raw_fd() };
    call!(new::LANDLOCK_ADD_RULE, ruleset.as_fd().as_raw_fd(), PATH_BENEATH, &raw const rule, 0).map(drop)
}

pub(crate) fn landlock_restrict(ruleset: impl AsFd) -> Result<()> {
    call!(new::LANDLOCK_RESTRICT_SELF, ruleset.as_fd().as_raw_fd(), 0).map(drop)
}

// ---- seccomp

/// One instruction of a filter (bpf_filter): code, jump if true, jump if false, operand.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) then: u8,
    pub(crate) otherwise: u8,
    pub(crate) operand: u32,
}

/// Installs a system call filter on this thread and all its descendants (seccomp(2)).
pub(crate) fn install_filter(program: &[Instruction]) -> Result<()> {
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const Instruction,
    }
    const SET_MODE_FILTER: c_long = 1;
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = Program { length, instructions: program.as_ptr() };
    call!(nr::SECCOMP, SET_MODE_FILTER, 0, &raw const program).map(drop)
}

// ---- more descriptors

pub(crate) fn write(fd: impl AsFd, bytes: &[u8]) -> Result<()> {
    const NUMBER: i64 = if cfg!(target_arch = "x86_64") { 1 } else { 64 };
    call!(NUMBER, fd.as_fd().as_raw_fd(), bytes.as_ptr(), bytes.len()).map(drop)
}

/// Marks all descriptors from this one on to be closed on exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: c_long = 4;
    call!(new::CLOSE_RANGE, first, u32::MAX, CLOSE_RANGE_CLOEXEC).map(drop)
}

/// Empties a signalfd. Whether `wanted` was among them, sent from outside of our process id namespace.
pub(crate) fn drain_signals(signals: impl AsFd, wanted: i32) -> bool {
    const NUMBER: i64 = if cfg!(target_arch = "x86_64") { 0 } else { 63 };
    // struct signalfd_siginfo: 128 bytes; the signal comes first, at 8 how it was sent, at 12 the sender's process id (0:
    // unknown in here). What was sent by kill(2) (SI_USER, 0) has a true sender; rt_sigqueueinfo(2) believes what it is told.
    let mut info = [0u32; 32];
    let mut seen = false;
    while call!(NUMBER, signals.as_fd().as_raw_fd(), info.as_mut_ptr(), size_of_val(&info))
        .is_ok_and(|read| read > 0)
    {
        seen |= info[0] == wanted as u32 && info[2] == 0 && info[3] == 0;
    }
    seen
}
