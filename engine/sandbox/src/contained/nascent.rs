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
        Self { parts: Some(Parts { control, first: None, mounts: None, pid: 0 }), namespaced }
    }

    /// Hands over what it is to run.
    pub(super) fn launch(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let control = self.parts.as_ref().map(|parts| &parts.control).ok_or(Errno::PROTO)?;
        socket::send(control, message, fds)
    }

    /// Waits until it has said who it is, so that it is known when it is dead; or that there is nobody.
    pub(super) fn meet(&mut self) {
        let Some(parts) = &mut self.parts else { return };
        let until = Instant::now() + PATIENCE;
        while parts.first.is_none() {
            let Ok(Some(heard)) = socket::receive(&parts.control, socket::SMALL, Some(until)) else { return };
            if parts.note(heard).is_err() {
                return;
            }
        }
    }

    /// Whether all is well, as far as can be told before it has something to run. Does not wait.
    pub(super) fn is_well(&mut self) -> bool {
        let Some(parts) = &mut self.parts else { return false };
        loop {
            match socket::receive_now(&parts.control, socket::SMALL) {
                Ok(Some(heard)) => match parts.note(heard) {
                    Ok(Heard::Born) => {}
                    Ok(Heard::Started) | Err(_) => return false,
                },
                Err(errno) => return errno == Errno::AGAIN,
                Ok(None) => return false,
            }
        }
    }

    /// Waits until the program runs. Without a deadline: loading a program takes as long as its file system takes, and whoever
    /// started this call gives up on it. When zygote or sandbox die, the socket ends.
    pub(super) fn wait(&mut self) -> Result<(), Unborn> {
        let Some(parts) = &mut self.parts else { return Err(Unborn::Lost(Errno::PROTO)) };
        loop {
            let heard = socket::receive(&parts.control, socket::SMALL, None).map_err(Unborn::Lost)?;
            match parts.note(heard.ok_or(Unborn::Lost(Errno::PIPE))?)? {
                Heard::Born => {}
                Heard::Started => return Ok(()),
            }
        }
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
                // Nothing was executed, and its first process ends by itself.
                self.first = None;
                Err(Unborn::Failed(failure))
            }
            _ => Err(Unborn::Lost(Errno::PROTO)),
        }
    }
}

impl Drop for Nascent {
    fn drop(&mut self) {
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
