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
    LISTEN = 50, 201; IOCTL = 16, 29; SETSID = 112, 157; KILL = 62, 129; WAIT4 = 61, 260;
    EXECVE = 59, 221; PIVOT_ROOT = 155, 41; CAPSET = 126, 91; UMOUNT2 = 166, 39; MOUNT = 165, 40; SETNS = 308, 268;
    UNSHARE = 272, 97; PRCTL = 157, 167; PPOLL = 271, 73; SIGNALFD4 = 289, 74; RT_SIGPROCMASK = 14, 135;
    PRLIMIT64 = 302, 261; SETHOSTNAME = 170, 161; SECCOMP = 317, 277; SETRESUID = 117, 147; SETRESGID = 119, 149;
    SETGROUPS = 116, 159; DUP3 = 292, 24; FCHDIR = 81, 50; MKDIRAT = 258, 34; SYMLINKAT = 266, 36; OPENAT = 257, 56;
    PIPE2 = 293, 59; GETPID = 39, 172; MMAP = 9, 222; FUTEX = 202, 98; MUNMAP = 11, 215; GETPPID = 110, 173; GETPRIORITY = 140, 141;
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

// Behind the macro that they use.
mod descriptors;
mod mounts;
mod privileges;
mod processes;
mod sockets;

pub(crate) use self::{descriptors::*, mounts::*, privileges::*, processes::*, sockets::*};
