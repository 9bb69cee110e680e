//! System calls, each a small function that is safe to call.
//!
//! No crate is used, so that the program can be built by one `rustc`; the numbers are the kernel's ABI
//! (`include/uapi/asm-generic/unistd.h`, and for x86-64 `arch/x86/entry/syscalls/syscall_64.tbl`).

use alloc::{ffi::CString, string::ToString, vec, vec::Vec};
use core::{
    ffi::{CStr, c_char, c_int, c_long, c_void},
    ptr,
};

/// An error number (errno(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    pub(crate) const PERM: Errno = Errno(1);
    pub(crate) const NOENT: Errno = Errno(2);
    pub(crate) const INTR: Errno = Errno(4);
    pub(crate) const IO: Errno = Errno(5);
    pub(crate) const CHILD: Errno = Errno(10);
    pub(crate) const AGAIN: Errno = Errno(11);
    pub(crate) const ACCES: Errno = Errno(13);
    pub(crate) const EXIST: Errno = Errno(17);
    pub(crate) const ISDIR: Errno = Errno(21);
    pub(crate) const INVAL: Errno = Errno(22);
    pub(crate) const NOTEMPTY: Errno = Errno(39);
    pub(crate) const STALE: Errno = Errno(116);
    pub(crate) const PROTO: Errno = Errno(71);
}

pub(crate) type Result<T> = core::result::Result<T, Errno>;

/// What the kernel answered: errors are between -4095 and -1 (syscall(2)).
fn answered(answer: c_long) -> Result<c_long> {
    if (-4095..0).contains(&answer) { Err(Errno(-answer as i32)) } else { Ok(answer) }
}

/// The arguments of a system call: there are six, and those that a call does not have are 0.
fn arguments<const N: usize>(given: [c_long; N]) -> [c_long; 6] {
    core::array::from_fn(|index| given.get(index).copied().unwrap_or(0))
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
    LISTEN = 50, 201; IOCTL = 16, 29; SETSID = 112, 157; KILL = 62, 129; WAIT4 = 61, 260;
    EXECVE = 59, 221; PIVOT_ROOT = 155, 41; CAPSET = 126, 91; UMOUNT2 = 166, 39; MOUNT = 165, 40; SETNS = 308, 268;
    UNSHARE = 272, 97; PRCTL = 157, 167; PPOLL = 271, 73; SIGNALFD4 = 289, 74; RT_SIGPROCMASK = 14, 135;
    PRLIMIT64 = 302, 261; SETHOSTNAME = 170, 161; SECCOMP = 317, 277; SETRESUID = 117, 147; SETRESGID = 119, 149;
    SETGROUPS = 116, 159; DUP3 = 292, 24; FCHDIR = 81, 50; MKDIRAT = 258, 34; SYMLINKAT = 266, 36; OPENAT = 257, 56;
    GETPID = 39, 172; MMAP = 9, 222; FUTEX = 202, 98; MUNMAP = 11, 215; GETPPID = 110, 173;
    READ = 0, 63; WRITE = 1, 64; CLOSE = 3, 57; LSEEK = 8, 62; FCNTL = 72, 25; GETDENTS64 = 217, 61; UNLINKAT = 263, 35;
    STATX = 332, 291; CLONE = 56, 220; EXIT_GROUP = 231, 94; RT_SIGACTION = 13, 134; CLOCK_GETTIME = 228, 113;
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
        let answer = unsafe { raw::syscall($number, arguments([$($arg as c_long),*])) };
        answered(answer)
    }};
}

/// The descriptor that a system call has just returned.
fn owned(fd: c_long) -> OwnedFd {
    OwnedFd::from_raw_fd(fd as RawFd)
}

const AT_FDCWD: RawFd = -100;
const AT_EMPTY_PATH: c_long = 0x1000;
const AT_RECURSIVE: c_long = 0x8000;
const O_CLOEXEC: c_long = 0o2000000;
const O_PATH: c_long = 0o10000000;

// Behind the macro that they use.
mod descriptors;
mod fd;
mod files;
mod memory;
mod mounts;
mod privileges;
mod processes;
mod raw;
mod sockets;
mod time;

pub(crate) use self::{
    descriptors::*, fd::*, files::*, memory::*, mounts::*, privileges::*, processes::*, sockets::*, time::*,
};
