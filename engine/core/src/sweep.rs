//! Looking for what is left of an execution, for many executions at once: a walk through `/proc` costs the same for one
//! as for a hundred, so whoever comes while one is under way shares the next.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;
use tool_sandbox::{Launcher, ScanTarget, Straggler, Swept};

use crate::lane::Lane;

/// How long one walk may take, and how long an execution waits for one at most. It takes milliseconds, but on a machine
/// with many busy processes for each core it has to wait for its turn again and again.
const WALK: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(15);

type Request = (ScanTarget, oneshot::Sender<Found>);

/// What is left of one execution.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) stragglers: Vec<Straggler>,
    /// Whether all processes were looked at.
    pub(crate) complete: bool,
}

#[derive(Debug)]
pub(crate) struct Sweeper {
    launcher: Arc<dyn Launcher>,
    lane: Lane,
    waiting: Arc<Mutex<Vec<Request>>>,
    /// Held by whoever walks.
    walking: Arc<tokio::sync::Mutex<()>>,
}

impl Sweeper {
    pub(crate) fn new(launcher: Arc<dyn Launcher>, lane: Lane) -> Self {
        Self { launcher, lane, waiting: Arc::default(), walking: Arc::default() }
    }

    /// What still runs of this execution besides its leader. Takes at most [`PATIENCE`].
    pub(crate) async fn find(&self, target: ScanTarget) -> Found {
        let (sender, mut answer) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((target, sender));
        let walk = async {
            let turn = tokio::select! { biased;
                found = &mut answer => return found.unwrap_or_default(),
                turn = Arc::clone(&self.walking).lock_owned() => turn,
            };
            let (launcher, waiting) = (Arc::clone(&self.launcher), Arc::clone(&self.waiting));
            // The job takes the turn with it: it goes on, and serves the others, when this execution does not wait for it.
            self.lane.spawn(move || {
                let _turn = turn;
                let requests = std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
                let (targets, senders): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
                let Swept { found, complete } = launcher.stragglers(&targets, WALK);
                for (stragglers, sender) in found.into_iter().zip(senders) {
                    // Who does not wait any more does not need it.
                    let _ = sender.send(Found { stragglers, complete });
                }
            });
            answer.await.unwrap_or_default()
        };
        tokio::time::timeout(PATIENCE, walk).await.unwrap_or_else(|_| {
            tracing::warn!("looking for processes left behind takes too long; this execution ends without");
            Found::default()
        })
    }
}
