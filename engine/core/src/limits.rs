//! How long a call may take and how much it may say. What is not set is taken from the layer below: call, plan
//! (manifest), engine, and at the bottom the defaults named here.

use std::time::Duration;

use crate::error::{ErrorKind, invalid};

/// What happens to what the tool left running, and to what is still in its pipes, once it has ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterExit {
    /// Wait until its pipes are at their end, but at most this long, then kill what is left.
    Linger(Duration),
    /// Wait until its pipes are at their end, but at most until the wall-clock timeout, then kill what is left.
    Wait,
    /// Kill what is left at once.
    Kill,
}

/// What to do with output past the cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Keep head and tail, count what lies between, let the tool go on.
    Truncate,
    /// End the call with [`ErrorKind::Limit`].
    Fail,
}

/// The limits of a call; `None` means: as the layer below has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// How long the tool may run, from exec on. Default 60 s.
    pub timeout: Option<Duration>,
    /// How long it may run without any output or progress. Default: unlimited.
    pub idle_timeout: Option<Duration>,
    /// From SIGTERM to SIGKILL. Zero: SIGKILL at once. Default 2 s.
    pub kill_grace: Option<Duration>,
    /// Default: [`AfterExit::Linger`] of 200 ms.
    pub after_exit: Option<AfterExit>,
    /// From SIGKILL until our ends of the pipes are closed, when somebody out of reach still holds them. Default 500 ms.
    pub drain: Option<Duration>,
    /// From SIGKILL until the process must have been reaped. Default 2 s.
    pub reap_timeout: Option<Duration>,
    /// How long a call may wait for its turn. Default 30 s.
    pub queue_timeout: Option<Duration>,
    /// Bytes of standard output to keep. Default 10 MiB.
    pub stdout: Option<u64>,
    /// Bytes of standard error to keep. Default 1 MiB.
    pub stderr: Option<u64>,
    /// Default: [`Overflow::Truncate`].
    pub overflow: Option<Overflow>,
    /// The longest line on a worker's channel: its result, or the input handed to it; bytes. Default 64 MiB.
    pub message: Option<u64>,
    /// Bytes of events kept for late readers. Default 1 MiB.
    pub event_ring: Option<u64>,
}

impl Limits {
    /// These limits, with `below` where they say nothing.
    #[must_use]
    pub fn over(self, below: &Limits) -> Limits {
        Limits {
            timeout: self.timeout.or(below.timeout),
            idle_timeout: self.idle_timeout.or(below.idle_timeout),
            kill_grace: self.kill_grace.or(below.kill_grace),
            after_exit: self.after_exit.or(below.after_exit),
            drain: self.drain.or(below.drain),
            reap_timeout: self.reap_timeout.or(below.reap_timeout),
            queue_timeout: self.queue_timeout.or(below.queue_timeout),
            stdout: self.stdout.or(below.stdout),
            stderr: self.stderr.or(below.stderr),
            overflow: self.overflow.or(below.overflow),
            message: self.message.or(below.message),
            event_ring: self.event_ring.or(below.event_ring),
        }
    }

    /// Whether a call with these limits stays within those of its tool. A call may ask for less, not for more. The timeout
    /// has a ceiling of its own, so it is not looked at.
    pub(crate) fn within(&self, tool: &Limits) -> Result<(), ErrorKind> {
        fn more<T: PartialOrd>(asked: Option<T>, allowed: Option<T>) -> bool {
            matches!((asked, allowed), (Some(asked), Some(allowed)) if asked > allowed)
        }
        let linger = |after_exit: AfterExit| match after_exit {
            AfterExit::Kill => Duration::ZERO,
            AfterExit::Linger(time) => time,
            AfterExit::Wait => Duration::MAX,
        };
        let raised = [
            ("idle timeout", more(self.idle_timeout, tool.idle_timeout)),
            ("kill grace", more(self.kill_grace, tool.kill_grace)),
            ("time after the exit", more(self.after_exit.map(linger), tool.after_exit.map(linger))),
            ("stdout", more(self.stdout, tool.stdout)),
            ("stderr", more(self.stderr, tool.stderr)),
            ("message size", more(self.message, tool.message)),
        ];
        match raised.iter().find(|(_, raised)| *raised) {
            None => Ok(()),
            Some((name, _)) => Err(invalid(
                *name,
                "the call asks for more than the tool's own limit",
                "ask for less, or raise it where the tool is declared",
            )),
        }
    }

    /// All of them, checked.
    pub(crate) fn settle(&self, max_timeout: Duration) -> Result<Settled, ErrorKind> {
        let timeout = self.timeout.unwrap_or(Duration::from_secs(60).min(max_timeout));
        if timeout.is_zero() || self.idle_timeout.is_some_and(|idle| idle.is_zero()) {
            return Err(invalid(
                "timeout",
                "a timeout of zero ends every call at once",
                "give a positive time",
            ));
        }
        if timeout > max_timeout {
            return Err(invalid(
                "timeout",
                format!("{timeout:?} is more than the longest that is allowed, {max_timeout:?}"),
                "ask for less, or raise it: `max_timeout` of the tool, `Engine::builder().max_timeout(…)`",
            ));
        }
        Ok(Settled {
            timeout,
            idle_timeout: self.idle_timeout,
            kill_grace: self.kill_grace.unwrap_or(Duration::from_secs(2)),
            after_exit: self.after_exit.unwrap_or(AfterExit::Linger(Duration::from_millis(200))),
            drain: self.drain.unwrap_or(Duration::from_millis(500)),
            reap_timeout: self.reap_timeout.unwrap_or(Duration::from_secs(2)),
            stdout: self.stdout.unwrap_or(10 << 20),
            stderr: self.stderr.unwrap_or(1 << 20),
            overflow: self.overflow.unwrap_or(Overflow::Truncate),
            message: self.message.unwrap_or(64 << 20),
        })
    }

    pub(crate) fn queue_timeout(&self) -> Duration {
        self.queue_timeout.unwrap_or(Duration::from_secs(30))
    }

    pub(crate) fn event_ring(&self) -> u64 {
        self.event_ring.unwrap_or(1 << 20)
    }
}

/// The limits that an execution runs under.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) timeout: Duration,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) kill_grace: Duration,
    pub(crate) after_exit: AfterExit,
    pub(crate) drain: Duration,
    pub(crate) reap_timeout: Duration,
    pub(crate) stdout: u64,
    pub(crate) stderr: u64,
    pub(crate) overflow: Overflow,
    pub(crate) message: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(600);

    #[test]
    fn a_layer_wins_over_the_one_below_it() {
        let engine = Limits { timeout: Some(Duration::from_secs(5)), stdout: Some(7), ..Limits::default() };
        let call = Limits { timeout: Some(Duration::from_secs(9)), ..Limits::default() };
        let settled = call.over(&engine).settle(MAX).unwrap();
        assert_eq!((settled.timeout, settled.stdout, settled.stderr), (Duration::from_secs(9), 7, 1 << 20));
    }

    #[test]
    fn a_timeout_that_cannot_be_meant_is_refused() {
        let zero = Limits { timeout: Some(Duration::ZERO), ..Limits::default() };
        assert!(zero.settle(MAX).is_err());
        let idle = Limits { idle_timeout: Some(Duration::ZERO), ..Limits::default() };
        assert!(idle.settle(MAX).is_err());
        let long = Limits { timeout: Some(MAX * 2), ..Limits::default() };
        assert!(long.settle(MAX).unwrap_err().to_string().contains("600s"));
        assert_eq!(Limits::default().settle(Duration::from_secs(1)).unwrap().timeout, Duration::from_secs(1));
    }
}
