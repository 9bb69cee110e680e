//! Who lives in a sandbox besides its first process: asked to end, killed, or named.

use alloc::{boxed::Box, ffi::CString, format, vec, vec::Vec};

use crate::{
    protocol::{Bytes, Event},
    sys,
};

/// Asks the program and everything else in here to end.
pub(crate) fn terminate(program: i32, namespaced: bool) {
    let everybody = everybody(namespaced);
    for signal in [sys::SIGTERM, sys::SIGCONT] {
        if namespaced {
            // In one go, so that none of them sees another end first. They may all be dead.
            let _ = sys::kill(-program, signal);
        }
        for one in &everybody {
            if !namespaced || one.group != program {
                one.signal(signal);
            }
        }
    }
}

/// A process of the sandbox besides us.
pub(crate) struct Inmate {
    pid: i32,
    parent: i32,
    group: i32,
    /// On its way out by itself: not left behind.
    exiting: bool,
    /// In ticks since boot. With the process id, it names a process for good.
    started: u64,
}

impl Inmate {
    /// `None`: there is none, or it is dead.
    fn of(pid: i32) -> Option<Self> {
        let stat = beginning(pid, "stat")?;
        // The name, in parentheses, may contain anything.
        let after = stat.iter().rposition(|byte| *byte == b')')?;
        let mut fields = core::str::from_utf8(stat.get(after + 1..)?).ok()?.split_ascii_whitespace();
        if matches!(fields.next()?, "Z" | "X" | "x") {
            return None;
        }
        let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        const EXITING: u32 = 4;
        // The 9th and the 22nd of all (proc_pid_stat(5)).
        let flags: u32 = fields.nth(3)?.parse().ok()?;
        let started = fields.nth(12)?.parse().ok()?;
        Some(Self { pid, parent, group, exiting: flags & EXITING != 0, started })
    }

    pub(crate) fn signal(&self, signal: i32) {
        // Its process id may be another's by now; what the descriptor stands for stays the same.
        if let Ok(process) = sys::pidfd_open(self.pid)
            && Self::of(self.pid).is_some_and(|now| now.started == self.started)
        {
            // It may have died since.
            let _ = sys::pidfd_send_signal(process, signal);
        }
    }
}

/// Who is alive besides us.
pub(crate) fn everybody(namespaced: bool) -> Vec<Inmate> {
    if namespaced {
        return visible().collect();
    }
    // Without a process id namespace, all processes of the machine can be seen, and ours are those that descend from us;
    // orphans among them are our children.
    let mut found: Vec<Inmate> = visible().collect();
    let mut family = vec![sys::getpid()];
    let mut known = 0;
    while known < family.len() {
        let parent = family[known];
        known += 1;
        family.extend(found.iter().filter(|one| one.parent == parent).map(|one| one.pid));
    }
    found.retain(|one| family.contains(&one.pid));
    found
}

/// Who can be seen besides us; looked at one by one.
fn visible() -> impl Iterator<Item = Inmate> {
    let own = sys::getpid();
    let pids = sys::entries(c"/proc").filter_map(|entry| entry.name.to_str().ok()?.parse::<i32>().ok());
    pids.filter(move |pid| *pid != own).filter_map(Inmate::of)
}

/// Who is alive besides us and the program; of many the first, and that there are more. Whoever asks waits for it before he kills
/// them.
pub(crate) fn living(program: i32, namespaced: bool) -> Event {
    /// As many as anybody reads.
    const MOST: usize = 50;
    let mut all: Box<dyn Iterator<Item = Inmate>> =
        if namespaced { Box::new(visible()) } else { Box::new(everybody(namespaced).into_iter()) };
    let mut left = all.by_ref().filter(|one| one.pid != program && !one.exiting);
    let describe = |one: Inmate| {
        let group = if one.group == program { 2 } else { one.group };
        (one.pid, (group, command(one.pid)))
    };
    let processes = left.by_ref().take(MOST).map(describe).collect();
    Event::Living { processes, more: left.next().is_some() }
}

/// The beginning of its command line, or its name.
fn command(pid: i32) -> Bytes {
    let command = beginning(pid, "cmdline").filter(|command| !command.is_empty());
    Bytes(command.or_else(|| beginning(pid, "comm")).unwrap_or_default())
}

/// The beginning of a file that the kernel has on a process, in one read: all of `stat`, and of a command line more than is
/// shown, so that it can be told that there is more. There may be hundreds of processes to look at, and the engine waits.
fn beginning(pid: i32, file: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 1024];
    let path = CString::new(format!("/proc/{pid}/{file}")).ok()?;
    let read = sys::read(sys::open(&path).ok()?, &mut bytes).ok()?;
    bytes.truncate(read);
    Some(bytes)
}
