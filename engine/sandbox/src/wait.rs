//! Waiting for a child: looking without reaping, and reaping with what it used.

use std::{io, mem::MaybeUninit, time::Duration};

use nix::sys::resource::{UsageWho, getrusage};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::launch::{Counted, Exit, ExitStatus, Usage};

/// Whether the child `pid` has exited; it stays a zombie (`WNOWAIT`, waitid(2)). `pid` must not have been reaped by us.
pub(crate) fn has_exited(pid: Pid) -> io::Result<bool> {
    // Not nix's: it fails on a child that a real-time signal ended.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(pid), options)?.is_some())
}

/// The largest resident set this process had so far, in bytes: where the mark of a child started by vfork begins.
pub(crate) fn own_peak_memory() -> u64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(u64::MAX, |usage| bytes(usage.max_rss()))
}

/// Reaps the child `pid` if it has exited. `pid` must be an unreaped child of this process, started when
/// [`own_peak_memory`] was `inherited_peak`.
pub(crate) fn reap(pid: Pid, inherited_peak: u64) -> io::Result<Option<Exit>> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to live, writable values of the types wait4(2) wants, and it keeps neither.
    let reaped =
        unsafe { libc::wait4(pid.as_raw_nonzero().get(), &mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    match reaped {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        _ => {
            // SAFETY: it began as zeroes, which are a valid `rusage` (integers only), and wait4 may have filled it in.
            let usage = unsafe { usage.assume_init() };
            Ok(Some(Exit {
                status: exit_status(status),
                usage: summary(&usage, inherited_peak),
                counted: Counted::default(),
            }))
        }
    }
}

pub(crate) fn exit_status(status: libc::c_int) -> ExitStatus {
    if libc::WIFSIGNALED(status) {
        ExitStatus::Signal(libc::WTERMSIG(status))
    } else {
        ExitStatus::Code(libc::WEXITSTATUS(status))
    }
}

/// Linux counts ru_maxrss in KiB (getrusage(2)).
fn bytes(max_rss: libc::c_long) -> u64 {
    u64::try_from(max_rss).unwrap_or(0) * 1024
}

fn summary(usage: &libc::rusage, inherited_peak: u64) -> Usage {
    let time = |t: libc::timeval| {
        Duration::from_secs(u64::try_from(t.tv_sec).unwrap_or(0))
            + Duration::from_micros(u64::try_from(t.tv_usec).unwrap_or(0))
    };
    let peak = bytes(usage.ru_maxrss);
    Usage {
        cpu_user: time(usage.ru_utime),
        cpu_system: time(usage.ru_stime),
        peak_memory: (peak > inherited_peak).then_some(peak),
        peak_memory_at_most: peak,
    }
}
