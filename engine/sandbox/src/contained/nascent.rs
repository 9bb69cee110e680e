//! A sandbox that was asked for and that nobody watches over yet.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Signal, pidfd_send_signal},
};
use tool_zygote::protocol::{Event, Failure, Order, Wire};

use super::socket::{self, Message};

/// How long what is killed may take to die. It takes a millisecond.
const PATIENCE: Duration = Duration::from_secs(10);

/// Dropped before it was [handed over](Self::hand_over), it is killed. With namespaces nothing of it is left afterwards; without
/// them, that is so if its first process lived to see to it.
#[derive(Debug)]
pub(super) struct Nascent {
    parts: Option<Parts>,
    namespaced: bool,
    /// It has said that nothing runs, or says nothing any more.
    is_over: bool,
}

/// What is needed to watch over it.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) control: OwnedFd,
    /// A pidfd of its first process. `None`: it has not said so yet, and no program has begun.
    pub(super) first: Option<OwnedFd>,
    /// Its mounts, if it has its own.
    pub(super) mounts: Option<OwnedFd>,
    /// Its program's process, as we see it.
    pub(super) pid: u32,
}

/// Why no program runs.
#[derive(Debug)]
pub(super) enum Unborn {
    /// It could not be started.
    Failed(Failure),
    /// It was killed, or cannot be heard.
    Lost(Errno),
}

impl Nascent {
    /// It speaks over `control`.
    pub(super) fn new(control: OwnedFd, namespaced: bool) -> Self {
        Self { parts: Some(Parts { control, first: None, mounts: None, pid: 0 }), namespaced, is_over: false }
    }

    /// Hands over what it is to run.
    pub(super) fn launch(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let control = self.parts.as_ref().map(|parts| &parts.control).ok_or(Errno::PROTO)?;
        socket::send(control, message, fds)
    }

    /// Waits until it has said who it is, so that it is known when it is dead; or that there is nobody. For so long at most.
    pub(super) fn meet(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        while !self.is_over && self.parts.as_ref().is_some_and(|parts| parts.first.is_none()) {
            if self.hear(Some(until)).is_err() {
                return;
            }
        }
    }

    /// Whether all is well, as far as can be told before it has something to run. Does not wait.
    pub(super) fn is_well(&mut self) -> bool {
        loop {
            match self.hear(Some(Instant::now())) {
                Ok(Heard::Born) => {}
                Err(Unborn::Lost(Errno::TIMEDOUT)) => return true,
                Ok(Heard::Started) | Err(_) => return false,
            }
        }
    }

    /// Waits until the program runs. Without a deadline: loading a program takes as long as its file system takes, and whoever
    /// started this call gives up on it. When zygote or sandbox die, the socket ends.
    pub(super) fn wait(&mut self) -> Result<(), Unborn> {
        while let Heard::Born = self.hear(None)? {}
        Ok(())
    }

    /// Waits for what it says next.
    fn hear(&mut self, until: Option<Instant>) -> Result<Heard, Unborn> {
        let Some(parts) = &mut self.parts else { return Err(Unborn::Lost(Errno::PROTO)) };
        let heard = match socket::receive(&parts.control, socket::SMALL, until) {
            Ok(Some(heard)) => parts.note(heard),
            Ok(None) => Err(Unborn::Lost(Errno::PIPE)),
            // There was no descriptor left for what it said: that it has joined its cgroup, and who it is. Or it was too late.
            Err(errno) => Err(Unborn::Lost(errno)),
        };
        self.is_over |= matches!(&heard, Err(unborn) if !matches!(unborn, Unborn::Lost(Errno::TIMEDOUT)));
        heard
    }

    /// What is known of it.
    pub(super) fn parts(&self) -> Option<&Parts> {
        self.parts.as_ref()
    }

    /// Somebody watches over it from now on.
    pub(super) fn hand_over(mut self) -> Option<Parts> {
        self.parts.take()
    }
}

/// What a sandbox says before its program runs.
enum Heard {
    Born,
    Started,
}

impl Parts {
    fn note(&mut self, mut heard: Message) -> Result<Heard, Unborn> {
        match Event::from_bytes(&heard.bytes) {
            Some(Event::Born) if !heard.fds.is_empty() => {
                self.pid = heard.pid.unwrap_or(0);
                self.mounts = (heard.fds.len() > 1).then(|| heard.fds.remove(1));
                self.first = heard.fds.pop();
                Ok(Heard::Born)
            }
            Some(Event::Started) if self.first.is_some() => Ok(Heard::Started),
            Some(Event::Failed { failure }) => {
                // Nothing was executed, whoever was in the cgroup has been reaped, and its first process ends by itself.
                self.first = None;
                Err(Unborn::Failed(failure))
            }
            _ => Err(Unborn::Lost(Errno::PROTO)),
        }
    }
}

impl Drop for Nascent {
    fn drop(&mut self) {
        // That its socket is closed ends it, too, but not where another process has a copy of it, and not at once; and until it
        // is dead it is in its cgroup, or about to join that.
        self.meet(PATIENCE);
        let Some(Parts { control, first: Some(first), pid, .. }) = self.parts.take() else { return };
        if self.namespaced {
            // Whose death takes all others along. It may be dead already.
            let _ = pidfd_send_signal(&first, Signal::KILL);
        } else {
            let _ = socket::send_now(&control, &Order::Kill.to_bytes(), &[]);
        }
        // Its end of the socket closes before the others are dead; this does not.
        if !socket::readable(&first, Some(Instant::now() + PATIENCE)) {
            tracing::error!(pid, "killed while it was started, but it does not die; it is left behind");
        }
    }
}
