//! The end of a zygote that nobody needs any more, and of its keeper: asked for at once, waited for where nobody else has to
//! wait, and forced if it does not come.

use std::{
    os::fd::{AsFd, OwnedFd},
    process::Child,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::{ahead::Ready, socket};

/// How long they may take to end by themselves, and then to die. Either takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Both of them, asked to end. Dropping it leaves a zombie behind: see [`wait`](Self::wait).
#[derive(Debug)]
pub(super) struct Parting {
    keeper: Child,
    /// Readable when the keeper has died. It does that after the zygote.
    keeper_alive: OwnedFd,
    /// The same of the zygote, if it ever said who it is.
    zygote_alive: Option<OwnedFd>,
    /// Sandboxes without a call.
    ready: Vec<Ready>,
    /// Until when they may end by themselves.
    until: Instant,
}

impl Parting {
    /// They have just been asked.
    pub(super) fn new(
        keeper: Child,
        keeper_alive: OwnedFd,
        zygote_alive: Option<OwnedFd>,
        ready: Vec<Ready>,
    ) -> Self {
        Self { keeper, keeper_alive, zygote_alive, ready, until: Instant::now() + PATIENCE }
    }

    /// Waits until both are dead, and reaps what is ours to reap. Blocks, at most for twice as long as they may take.
    pub(super) fn wait(mut self) {
        self.ready.clear();
        if !socket::readable(&self.keeper_alive, Some(self.until)) {
            self.kill();
        }
        self.reap();
    }

    /// The same on a thread of its own, which ends with it. Returns at once.
    pub(super) fn wait_elsewhere(self) {
        let (hand_over, parting) = mpsc::channel::<Self>();
        let wait = move || parting.recv().map(Self::wait).unwrap_or_default();
        match thread::Builder::new().name("run-tool-parting".into()).spawn(wait) {
            // It takes it: it does nothing else.
            Ok(_) => drop(hand_over.send(self)),
            // There is no thread to be had. What is killed is dead in a moment, and so nobody need wait for long.
            Err(_) => {
                self.kill();
                self.reap();
            }
        }
    }

    /// Whether they look or not: they may be stopped.
    fn kill(&self) {
        // The zygote first, which its keeper reaps if it can. Both may be dead.
        for alive in self.zygote_alive.iter().chain([&self.keeper_alive]) {
            let _ = pidfd_send_signal(alive, Signal::KILL);
        }
    }

    fn reap(mut self) {
        let until = Instant::now() + PATIENCE;
        let is_dead = socket::readable(&self.keeper_alive, Some(until))
            && self.zygote_alive.as_ref().is_none_or(|zygote| socket::readable(zygote, Some(until)));
        // It may have been reaped by whoever reaps all children of this program.
        let _ = self.keeper.try_wait();
        if let Some(zygote) = &self.zygote_alive {
            // Only ours if its keeper was killed, and orphans fall to us.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let _ = waitid(WaitId::PidFd(zygote.as_fd()), options);
        }
        if !is_dead {
            tracing::error!(
                keeper = self.keeper.id(),
                "the zygote was killed, but does not die; it is left behind"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{Launcher, Policy, Sandbox};

    /// Whoever closes it waits for the end of what he ends; what goes with its last user, nobody would wait for.
    #[test]
    fn one_that_is_in_use_is_ended_by_the_close_after_that() {
        let sandbox = Sandbox::default();
        sandbox.level(&Policy::default()).unwrap();
        let used: Vec<_> = sandbox.0.state().zygotes.values().cloned().collect();
        assert_eq!(used.len(), 1);
        sandbox.close();
        assert!(used.iter().all(|zygote| !zygote.is_gone()));
        assert_eq!(sandbox.vitals().zygotes.len(), 1, "it is not forgotten");
        let used: Vec<_> = used.into_iter().map(|zygote| Arc::downgrade(&zygote)).collect();
        sandbox.close();
        assert!(used.iter().all(|zygote| zygote.upgrade().is_none()));
        assert_eq!(sandbox.vitals().zygotes, []);
    }
}
