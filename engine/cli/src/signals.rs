//! The signals that ask us to end, and what becomes of an execution then.

use std::pin::pin;

use anyhow::{Context, Result};
use run_tool::{CancelSource, Canceler};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask a program to end.
pub(crate) struct Signals {
    ending: Vec<(i32, Signal)>,
    _other: Vec<Signal>,
}

impl Signals {
    /// Listens. What we were started to ignore (nohup(1), a shell's background jobs) stays ignored.
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind: SignalKind| signal(kind).context("cannot listen for signals");
        let ignored = ignored_signals();
        let ending =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
        let ending: Vec<_> =
            ending.into_iter().filter(|kind| !ignored.contains(&kind.as_raw_value())).collect();
        // SIGCHLD: ignored, it would have the kernel reap what we start, and its status would be lost. SIGXFSZ: we hear
        // of a file that is too large when we write to it, and clean up.
        let other = [SignalKind::child(), SignalKind::from_raw(SIGXFSZ)];
        Ok(Self {
            ending: ending
                .into_iter()
                .map(|kind| Ok((kind.as_raw_value(), listen(kind)?)))
                .collect::<Result<_>>()?,
            _other: other.into_iter().map(listen).collect::<Result<_>>()?,
        })
    }

    /// Waits for the end of an execution or a group, and hands on to it what comes until then, which cancels it. With the
    /// number of the last one that came.
    pub(crate) async fn until_ended<T>(
        &mut self,
        canceler: &Canceler,
        run: impl Future<Output = T>,
    ) -> (T, Option<i32>) {
        let mut run = pin!(run);
        let mut asked = None;
        loop {
            tokio::select! {
                end = &mut run => return (end, asked),
                number = self.next() => {
                    asked = Some(number);
                    canceler.cancel(CancelSource::Signal(number));
                }
            }
        }
    }

    /// The number of the next one.
    pub(crate) async fn next(&mut self) -> i32 {
        std::future::poll_fn(|cx| {
            for (number, signal) in &mut self.ending {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

const SIGXFSZ: i32 = 25;

/// The signals that are ignored, from `SigIgn` in /proc/self/status (proc_pid_status(5)).
fn ignored_signals() -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap_or(0);
    (1..=64).filter(|number| mask & (1 << (number - 1)) != 0).collect()
}
