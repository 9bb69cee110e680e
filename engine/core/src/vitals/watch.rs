//! A watch over an engine's vitals: it looks now and then, and says so when what is held has grown past a threshold.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::Vitals;
use crate::{cancel::Closing, engine::Core, metering};

/// How often an engine looks at its [`Vitals`], and what growth it warns of; for
/// [`EngineBuilder::watch`](crate::EngineBuilder::watch).
///
/// Growth is what there is more of than when the engine was built. It is no leak yet: what runs needs descriptors (about
/// ten an execution), tasks and memory, so thresholds belong above what the busiest hour needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VitalsWatch {
    /// How often to look; at least 1 ms. Default 1 min.
    pub every: Duration,
    /// Warn when there are this many open descriptors more; `None`: never. Default 4096.
    pub fds: Option<u64>,
    /// Warn when this many tasks more are alive on the engine's runtime; `None`: never. Default 10 000.
    pub tasks: Option<u64>,
    /// Warn when this many bytes of memory more are resident; `None`: never. Default 1 GiB.
    pub rss: Option<u64>,
    /// After a warning, the time until the next one. Default 10 min.
    pub cooldown: Duration,
}

impl Default for VitalsWatch {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(60),
            fds: Some(4096),
            tasks: Some(10_000),
            rss: Some(1 << 30),
            cooldown: Duration::from_secs(600),
        }
    }
}

/// The watch, as a task of the engine.
pub(crate) fn start(core: &Arc<Core>, closing: Closing, settings: VitalsWatch) {
    core.spawn(watch(Arc::downgrade(core), closing, settings));
}

/// Watches until the engine closes. It does not keep the engine alive.
async fn watch(core: Weak<Core>, closing: Closing, settings: VitalsWatch) {
    let every = settings.every.max(Duration::from_millis(1));
    let mut judge = None;
    loop {
        let look = match core.upgrade() {
            Some(core) => {
                let lane = core.chores.clone();
                lane.spawn(move || core.vitals())
            }
            None => return,
        };
        let vitals = tokio::select! { biased;
            () = closing.asked.cancelled() => return,
            looked = look => match looked {
                Ok(vitals) => vitals,
                Err(_) => return,
            },
        };
        metering::vitals(&vitals);
        tracing::trace!(
            fds = vitals.fds,
            tasks = vitals.tasks,
            rss = vitals.rss,
            executions = vitals.executions,
            "looked at the vitals"
        );
        match &mut judge {
            None => judge = Some(Judge::new(settings.clone(), vitals)),
            Some(judge) => {
                if let Some(grown) = judge.grown(&vitals, Instant::now()) {
                    warn(&grown, &vitals);
                }
            }
        }
        tokio::select! { biased;
            () = closing.asked.cancelled() => return,
            () = sleep(every) => {}
        }
    }
}

fn warn(grown: &str, vitals: &Vitals) {
    tracing::warn!(
        fds = vitals.fds,
        threads = vitals.threads,
        tasks = vitals.tasks,
        executions = vitals.executions,
        children = vitals.children,
        event_bytes = vitals.event_bytes,
        records = vitals.records,
        rss = vitals.rss,
        "this process has grown since the engine was built: {grown}; where what runs does not explain that, something is \
         not let go of"
    );
}

/// Decides when to warn.
#[derive(Debug)]
struct Judge {
    settings: VitalsWatch,
    mark: Vitals,
    quiet_until: Option<Instant>,
}

impl Judge {
    fn new(settings: VitalsWatch, mark: Vitals) -> Self {
        Self { settings, mark, quiet_until: None }
    }

    /// What has grown too much, unless that was said a short time ago.
    fn grown(&mut self, vitals: &Vitals, now: Instant) -> Option<String> {
        if self.quiet_until.is_some_and(|until| now < until) {
            return None;
        }
        let VitalsWatch { fds, tasks, rss, cooldown, .. } = self.settings;
        let rows = [
            ("descriptors", self.mark.fds, vitals.fds, fds),
            ("tasks", self.mark.tasks, vitals.tasks, tasks),
            ("bytes of resident memory", self.mark.rss, vitals.rss, rss),
        ];
        let grown = rows.into_iter().filter_map(|(what, before, now, threshold)| {
            let before = before?;
            match now {
                Some(now) if now.saturating_sub(before) < threshold? => None,
                Some(now) => Some(format!("{before} {what} then, {now} now")),
                // It could be counted before: there may not even be a descriptor left to look with.
                None => threshold.map(|_| format!("{before} {what} then, and no way to count them now")),
            }
        });
        let text = grown.collect::<Vec<_>>().join(", ");
        if text.is_empty() {
            return None;
        }
        self.quiet_until = now.checked_add(cooldown).or(self.quiet_until);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vitals(fds: Option<u64>, rss: u64) -> Vitals {
        Vitals { fds, rss: Some(rss), tasks: Some(1), ..Vitals::default() }
    }

    fn judge(cooldown: Duration) -> Judge {
        let settings = VitalsWatch {
            fds: Some(10),
            tasks: None,
            rss: Some(1000),
            cooldown,
            every: Duration::from_secs(1),
        };
        Judge::new(settings, vitals(Some(5), 100))
    }

    #[test]
    fn growth_is_told_once_in_a_cooldown_and_again_after_it() {
        let mut judge = judge(Duration::from_secs(60));
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(judge.grown(&vitals(Some(14), 1099), after(0)), None, "below every threshold");
        assert_eq!(
            judge.grown(&vitals(Some(15), 1100), after(1)).unwrap(),
            "5 descriptors then, 15 now, 100 bytes of resident memory then, 1100 now"
        );
        for second in 2..=60 {
            assert_eq!(judge.grown(&vitals(Some(500), 0), after(second)), None);
        }
        assert!(judge.grown(&vitals(Some(500), 0), after(61)).is_some());
        assert_eq!(judge.grown(&vitals(Some(5), 0), after(200)), None, "it went back");
    }

    #[test]
    fn what_cannot_be_counted_any_more_is_told_and_a_threshold_of_none_is_never_passed() {
        let mut judge = judge(Duration::MAX);
        let now = Instant::now();
        let text = judge.grown(&Vitals { tasks: Some(1 << 40), ..vitals(None, 100) }, now).unwrap();
        assert_eq!(text, "5 descriptors then, and no way to count them now");
    }
}
