//! The end of all that a process has started and left.

use std::{pin::pin, time::Duration};

use tokio::{
    net::unix::pipe,
    time::{Instant, sleep_until},
};
use tool_sandbox::{Residents, Residue, Straggler};

use super::{Cut, LOOK_AGAIN, Running, deadline, note};
use crate::{outcome::Cause, sweep::Found};

/// How often stragglers are looked for anew because there were some: one that is being killed may have forked.
const MAX_SWEEPS: u32 = 16;

impl Running<'_> {
    /// SIGKILL to everything, before the leader is reaped, and output until its end or the deadline. What was still
    /// alive is returned, and whether there may be more.
    pub(super) async fn kill_and_drain(&mut self, cause: &Cause) -> (Vec<Residue>, bool) {
        let mut residue = Vec::new();
        let mut living: Vec<Straggler> = Vec::new();
        let mut until = None;
        let mut incomplete = false;
        // A normal end costs no walk through /proc, unless there is a sign that somebody is left.
        let mut suspect = !cause.is_natural()
            || !self.exited
            || !self.streams.output_at_end()
            || self.leader.others_may_be_alive();
        for _ in 0..MAX_SWEEPS {
            let Found { stragglers: mut found, complete } = if suspect {
                self.find_stragglers().await
            } else {
                Found { complete: true, ..Found::default() }
            };
            incomplete = !complete;
            // Who does not die in spite of a first SIGKILL is found again.
            found.retain(|straggler| !living.iter().any(|known| known.is(straggler)));
            self.killed |= !self.exited;
            self.leader.kill();
            for straggler in &found {
                if !straggler.kill() {
                    let Residue { pid, mut command, .. } = straggler.residue();
                    self.masking.command(&mut command);
                    tracing::error!(pid, command, "left behind: we cannot kill it");
                }
            }
            self.streams.close_input();
            let until = *until.get_or_insert_with(|| deadline(Instant::now(), self.limits.drain));
            // Whoever was alive may have left the group, or started another, before it was killed.
            suspect = incomplete || !found.is_empty();
            living.extend(found);
            self.pump(until, Cut::Never, |running| running.exited && living.iter().all(Straggler::is_dead))
                .await;
            // The dead need not be held any longer, only named.
            let (dead, alive) = living.into_iter().partition(Straggler::is_dead);
            living = alive;
            residue.extend(named(dead));
            if (!suspect && self.streams.output_at_end()) || Instant::now() >= until {
                break;
            }
            // Everybody we know of is dead. Either the pipes are at their end as soon as what is in them was read, or
            // somebody we do not know holds them.
            let soon = until.min(deadline(Instant::now(), LOOK_AGAIN * 10));
            self.pump(soon, Cut::Never, |running| running.streams.output_at_end()).await;
            suspect |= !self.streams.output_at_end();
            if !suspect {
                break;
            }
        }
        if let Some(until) = until {
            self.pump(until, Cut::Never, |running| running.streams.output_at_end()).await;
        }
        residue.extend(named(living));
        (residue, incomplete)
    }

    /// The same for a process of which nothing can escape: one signal kills all, and one descriptor tells that all are
    /// dead. The same is returned.
    pub(super) async fn kill_contained(&mut self, gone: pipe::Receiver) -> (Vec<Residue>, bool) {
        /// Its keeper answers at once, unless it is stopped or starved.
        const PATIENCE: Duration = Duration::from_millis(200);
        let mut left = Residents::none();
        // Without others, its keeper has reaped them all.
        let mut is_dead = self.exited && !self.leader.others_may_be_alive();
        if !is_dead {
            left = self.residents(PATIENCE).await;
            self.killed = !self.exited;
            self.leader.kill();
        }
        self.streams.close_input();
        let until = deadline(Instant::now(), self.limits.drain.max(self.limits.reap_timeout));
        let mut all_dead = pin!(gone.readable());
        let mut deadline_came = pin!(sleep_until(until));
        while !is_dead {
            tokio::select! { biased;
                _ = &mut all_dead => is_dead = true,
                () = &mut deadline_came => break,
                step = self.streams.step() => {
                    note(step, &mut self.folder, &mut self.folder_removal, self.lane);
                }
            }
        }
        self.exited |= is_dead;
        // Nobody of it is left to write: what is in the pipes is all there is, unless they were handed to somebody outside.
        let until = deadline(Instant::now(), self.limits.drain);
        self.pump(until, Cut::Never, |running| running.streams.output_at_end()).await;
        if !is_dead {
            left.named.iter_mut().for_each(|left| left.killed = false);
        }
        (left.named, !left.complete)
    }

    /// Who of a contained process is alive besides its leader.
    async fn residents(&mut self, bound: Duration) -> Residents {
        let ask = self.leader.residents();
        let mut asking = pin!(self.lane.spawn(move || ask(bound)));
        loop {
            tokio::select! { biased;
                found = &mut asking => return found.unwrap_or_else(|_| Residents::unknown()),
                step = self.streams.step() => {
                    note(step, &mut self.folder, &mut self.folder_removal, self.lane);
                }
            }
        }
    }

    pub(super) async fn find_stragglers(&mut self) -> Found {
        let target = self.leader.scan_target();
        let mut finding = pin!(self.sweeper.find(target));
        loop {
            tokio::select! { biased;
                found = &mut finding => return found,
                step = self.streams.step() => {
                    note(step, &mut self.folder, &mut self.folder_removal, self.lane);
                }
            }
        }
    }
}

/// What is to be reported of them. Who was on the way out by itself had to be waited for, but was not left behind.
fn named(stragglers: Vec<Straggler>) -> impl Iterator<Item = Residue> {
    stragglers.into_iter().filter(|straggler| !straggler.was_exiting()).map(|straggler| straggler.residue())
}
