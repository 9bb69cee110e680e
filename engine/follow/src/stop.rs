//! How a follower is asked to end, and how much time there is for what.

use std::{sync::OnceLock, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub(crate) struct Stop {
    asked: CancellationToken,
    within: Duration,
    /// When the follower heard of it.
    since: OnceLock<Instant>,
}

impl Stop {
    /// `asked` also by somebody else; `within`: how long it may take, all in all.
    pub(crate) fn new(asked: CancellationToken, within: Duration) -> Self {
        /// Nobody waits longer, and parts of it can be added to any moment.
        const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
        let within = within.min(LONGEST);
        Self { asked, within, since: OnceLock::new() }
    }

    pub(crate) fn ask(&self) {
        self.asked.cancel();
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// Cancel-safe.
    pub(crate) async fn asked(&self) {
        self.asked.cancelled().await;
        self.since();
    }

    /// It was asked, and subscribers have had half of the time. Cancel-safe.
    pub(crate) async fn readers_had_time(&self) {
        self.asked().await;
        sleep_until(self.since() + self.within / 2).await;
    }

    /// From when on nothing that is still to be written to a file is waited for.
    pub(crate) fn files_until(&self) -> Instant {
        self.since() + self.within * 9 / 10
    }

    fn since(&self) -> Instant {
        *self.since.get_or_init(Instant::now)
    }
}
