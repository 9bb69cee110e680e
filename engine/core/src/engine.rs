//! The engine: what all executions of a process share.

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tool_sandbox::{Launcher, Policy, ResourceLimits, Sandbox};

use crate::{
    call::Call,
    cancel::Closing,
    ending::{Ending, Hearer},
    event_log::HeldBytes,
    execution::Execution,
    janitor::Janitor,
    lane::Lane,
    limits::Limits,
    metering,
    plan::Catalog,
    queue::{Bounds, Queue},
    registry::{Keep, Registry, Shelf},
    start::Starter,
    submission::Submission,
    sweep::Sweeper,
    vitals::{
        Own, Vitals,
        watch::{self, VitalsWatch},
    },
};

/// Runs calls. Cheap to clone; when the last clone is dropped, everything that runs is cancelled.
#[derive(Debug, Clone)]
pub struct Engine {
    core: Arc<Core>,
    _last: Arc<Last>,
}

/// What executions need of the engine. They keep it alive, not the other way round.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) runtime: Handle,
    pub(crate) tracker: TaskTracker,
    /// Held by every execution: the tracker counts their blocking work, too.
    pub(crate) alive: Arc<()>,
    pub(crate) closing: Closing,
    /// What all logs hold together.
    pub(crate) event_bytes: HeldBytes,
    pub(crate) queue: Queue,
    /// For making processes, which may block for long.
    pub(crate) starts: Lane,
    /// For all other blocking work, all of which is bounded.
    pub(crate) chores: Lane,
    pub(crate) sweeper: Sweeper,
    pub(crate) starter: Starter,
    pub(crate) shelf: Arc<Shelf>,
}

/// Dropped with the last [`Engine`].
#[derive(Debug)]
struct Last(Closing);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.asked.cancel();
    }
}

/// Why an engine could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no tokio runtime here, and none was given.
    #[error(
        "an engine is built on a tokio runtime: call `build` inside one, or name it with `Engine::builder().runtime(…)`"
    )]
    NoRuntime,
    /// The temporary folder is not usable.
    #[error(
        "the temporary folder {path:?} is not a folder; name one that exists with `Engine::builder().temp_dir(…)`"
    )]
    TempDir {
        /// The folder.
        path: PathBuf,
    },
    /// The engine's own threads could not be started.
    #[error(
        "the engine's own threads could not be started: {0}; the user's or the machine's limit of processes is reached"
    )]
    Thread(std::io::Error),
}

impl Engine {
    /// Begins an engine with the defaults.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// Starts an execution and returns at once. Whatever is wrong with the call is told by the execution's outcome.
    ///
    /// May be called from anywhere: the execution runs on the runtime that the engine was built on.
    pub fn start(&self, call: Call) -> Execution {
        let Submission { id, label, log, cancel, task } = Submission::new(&self.core, call);
        let (sender, end) = oneshot::channel();
        let ending = Ending {
            id,
            label: label.clone(),
            log: Arc::clone(&log),
            stage: Arc::clone(cancel.stage()),
            hearer: Some(Hearer::Handle(sender)),
        };
        task.spawn(&self.core, ending);
        Execution::new(id, label, cancel, log, end)
    }

    /// Does ahead what the first call would otherwise do for all that come after it: finds out what this machine can do, and
    /// starts what makes the sandboxes, some milliseconds in all. Begins at once, on a thread of the engine's; the future is
    /// ready when it is done, and dropping it changes nothing. What goes wrong, a call tells. After a
    /// [`shutdown`](Self::shutdown) there is nothing to do.
    pub fn warm_up(&self) -> impl Future<Output = ()> + Send + use<> {
        let (launcher, closing) = (Arc::clone(&self.core.starter.launcher), self.closing());
        let warm = self.core.chores.spawn(move || {
            // A shutdown that has not been asked for yet waits for this.
            if !closing.asked.is_cancelled() {
                launcher.warm_up();
            }
        });
        async move { drop(warm.await) }
    }

    /// The executions that are known by an id, whoever has their handle.
    pub fn registry(&self) -> Registry {
        Registry::new(self.clone())
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Ends everything: no new calls, what waits is cancelled, what runs is cancelled and gets `grace` before it is
    /// killed (its own `kill_grace` applies too). Returns when nothing is left: no process, no task, no folder; the
    /// engine's own threads end then, too. What a
    /// process that will not die adds to that is bounded by its `reap_timeout`.
    ///
    /// Not cancel-safe in the sense that dropping it leaves the engine closed; call it again to wait on.
    pub async fn shutdown(&self, grace: Duration) {
        /// How long to wait for the janitor: it only has what would not die in time.
        const JANITOR: Duration = Duration::from_secs(5);
        let core = &self.core;
        core.closing.asked.cancel();
        core.tracker.close();
        // It is not the last word of the engine: another one may use the same launcher.
        let close = || {
            let launcher = Arc::clone(&core.starter.launcher);
            core.chores.spawn(move || launcher.close())
        };
        // If nothing runs, while the last execution's remains are taken away; and once more, as something may be in use.
        let early = (core.active() == 0).then(close);
        if timeout(grace, core.tracker.wait()).await.is_err() {
            core.closing.insisted.cancel();
            core.tracker.wait().await;
        }
        let until = Instant::now() + JANITOR;
        while core.starter.janitor.pending() > 0 && Instant::now() < until {
            sleep(Duration::from_millis(2)).await;
        }
        if let Some(early) = early {
            let _ = early.await;
        }
        let _ = close().await;
        core.starts.close();
        core.chores.close();
        core.starter.janitor.close();
    }

    /// How many executions run at a time at most.
    pub fn max_running(&self) -> usize {
        self.core.queue.max_running()
    }

    /// The engine's own wish to end everything.
    pub(crate) fn closing(&self) -> Closing {
        self.core.closing.clone()
    }

    /// Runs a task of something that lives beside this engine, on the engine's runtime; may be called from anywhere.
    /// [`shutdown`](Self::shutdown) waits for it: the token that it is given is cancelled when it has to end.
    pub fn accompany<F: Future<Output = ()> + Send + 'static>(
        &self,
        task: impl FnOnce(CancellationToken) -> F,
    ) {
        let task = task(self.core.closing.asked.child_token());
        self.core.tracker.spawn_on(task, &self.core.runtime);
    }

    /// The longest timeout that a call may ask for.
    pub fn max_timeout(&self) -> Duration {
        self.core.starter.max_timeout
    }

    /// How many executions there are that have not ended, those that wait for their turn included.
    pub fn active(&self) -> usize {
        self.core.active()
    }

    /// What this process and this engine hold at this moment. Blocks shortly: it reads `/proc`, about 5 µs for each
    /// descriptor, thread and child, and the names in the engine's temporary folder. Where there are thousands of them, a
    /// runtime's own thread is better served by [`vitals_off_thread`](Self::vitals_off_thread).
    pub fn vitals(&self) -> Vitals {
        self.core.vitals()
    }

    /// As [`vitals`](Self::vitals), on a thread of the engine's; once that is shut down, on the caller's after all.
    /// Cancel-safe.
    pub async fn vitals_off_thread(&self) -> Vitals {
        let core = Arc::clone(&self.core);
        let looked = self.core.chores.spawn(move || core.vitals()).await;
        looked.unwrap_or_else(|_| self.vitals())
    }
}

impl Core {
    fn active(&self) -> usize {
        Arc::strong_count(&self.alive) - 1
    }

    pub(crate) fn vitals(&self) -> Vitals {
        let own = Own {
            executions: self.active(),
            event_bytes: self.event_bytes.now(),
            records: self.shelf.count(),
            launcher: self.starter.launcher.vitals(),
            temp_dir: &self.starter.temp_dir,
        };
        Vitals::of_engine(&self.runtime, own)
    }

    /// Has a task of the engine's done: [`Engine::shutdown`] waits for it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn_on(task, &self.runtime);
    }
}

/// Sets an [`Engine`] up.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct EngineBuilder {
    catalog: Option<Arc<dyn Catalog>>,
    launcher: Arc<dyn Launcher>,
    runtime: Option<Handle>,
    limits: Limits,
    policy: Policy,
    resources: ResourceLimits,
    max_timeout: Duration,
    max_running: Option<usize>,
    max_running_per_owner: usize,
    max_queued: usize,
    max_queued_per_owner: usize,
    max_memory: Option<u64>,
    keep: Keep,
    temp_dir: PathBuf,
    watch: Option<VitalsWatch>,
}

impl Default for EngineBuilder {
    fn default() -> Self {
        Self {
            catalog: None,
            launcher: Arc::new(Sandbox::default()),
            runtime: None,
            limits: Limits::default(),
            policy: Policy::default(),
            resources: ResourceLimits::default(),
            max_timeout: Duration::from_secs(600),
            max_running: None,
            max_running_per_owner: usize::MAX,
            max_queued: 1024,
            max_queued_per_owner: usize::MAX,
            max_memory: None,
            keep: Keep { retention: Duration::from_secs(600), records: 10_000, bytes: 256 << 20 },
            temp_dir: PathBuf::from("/tmp"),
            watch: None,
        }
    }
}

impl EngineBuilder {
    /// Who knows the tools. Without one only [`Call::command`] works.
    pub fn catalog(mut self, catalog: impl Catalog + 'static) -> Self {
        self.catalog = Some(Arc::new(catalog));
        self
    }

    /// Who starts processes. Default: [`Sandbox`], at the highest level that this machine can do.
    /// [`ProcessGroups`](tool_sandbox::ProcessGroups) contains nothing.
    pub fn launcher(mut self, launcher: impl Launcher + 'static) -> Self {
        self.launcher = Arc::new(launcher);
        self
    }

    /// The runtime to run on, with I/O and time enabled. Default: the one that [`build`](Self::build) is called in.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The limits of calls that say nothing else.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What every call may touch, beside what its tool's policy and its own say. Its level is not heard.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How much calls that say nothing else may use of the machine.
    pub fn resources(mut self, resources: ResourceLimits) -> Self {
        self.resources = resources;
        self
    }

    /// The longest timeout that a call may ask for. Default 10 min.
    pub fn max_timeout(mut self, longest: Duration) -> Self {
        self.max_timeout = longest;
        self
    }

    /// How many executions run at a time; at least 1. Default 8 for each core.
    pub fn max_running(mut self, most: usize) -> Self {
        self.max_running = Some(most);
        self
    }

    /// How many of them may be of one [owner](Call::owner); at least 1. Default: all.
    pub fn max_running_per_owner(mut self, most: usize) -> Self {
        self.max_running_per_owner = most;
        self
    }

    /// Bytes of memory that all executions that run may use together, as their limits have it: a call whose limit does not
    /// fit in beside the others waits, and one that would not fit in alone is [`ErrorKind::Invalid`](crate::ErrorKind::Invalid).
    /// The limit is the call's own, or its tool's where the catalog [knows it](Catalog::memory), or the engine's
    /// ([`resources`](Self::resources)); a call without any is not counted. Default: no bound.
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = Some(bytes);
        self
    }

    /// How many more may wait for their turn. Default 1024.
    pub fn max_queued(mut self, most: usize) -> Self {
        self.max_queued = most;
        self
    }

    /// How many of them may be of one [owner](Call::owner). Default: all, so that one owner can fill the queue and have the
    /// others turned away ([`ErrorKind::Busy`](crate::ErrorKind::Busy)); where owners do not know of each other, allow each
    /// but a part of it.
    pub fn max_queued_per_owner(mut self, most: usize) -> Self {
        self.max_queued_per_owner = most;
        self
    }

    /// For how long the [registry](Engine::registry) keeps the record of an execution that has ended. Default 10 min.
    pub fn retention(mut self, time: Duration) -> Self {
        self.keep.retention = time;
        self
    }

    /// How many of these records it keeps; at least 1. Default 10 000.
    pub fn max_records(mut self, most: usize) -> Self {
        self.keep.records = most;
        self
    }

    /// How many bytes these records may take, about: output, events and values. The last one stays in any case. Default
    /// 256 MiB.
    pub fn max_record_bytes(mut self, bytes: u64) -> Self {
        self.keep.bytes = bytes;
        self
    }

    /// Where the private folders of calls are made. Default `/tmp`: the library does not read `TMPDIR`.
    pub fn temp_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.temp_dir = folder.into();
        self
    }

    /// Has the engine look at its [`Vitals`] now and then, warn when they have grown (through the crate `tracing`), and
    /// record them (see [`METRICS`](crate::METRICS)). The watch is a task on the engine's runtime and ends with the engine.
    /// Default: none.
    pub fn watch(mut self, watch: VitalsWatch) -> Self {
        self.watch = Some(watch);
        self
    }

    /// The engine.
    ///
    /// # Errors
    /// [`BuildError`]
    pub fn build(self) -> Result<Engine, BuildError> {
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => Handle::try_current().map_err(|_| BuildError::NoRuntime)?,
        };
        // Tools have other working folders than we.
        let temp_dir = std::path::absolute(&self.temp_dir).unwrap_or_default();
        if !temp_dir.is_dir() {
            return Err(BuildError::TempDir { path: self.temp_dir });
        }
        self.launcher.keep_clean(&temp_dir);
        let tracker = TaskTracker::new();
        let cores = crate::running::cores() as usize;
        let max_running = self.max_running.unwrap_or(8 * cores);
        let lane = |name, threads| Lane::open(name, threads, tracker.clone()).map_err(BuildError::Thread);
        // Who has no turn yet starts nothing.
        let starts = lane("run-tool-start", (2 * cores).max(4).min(max_running.max(1)))?;
        let chores = lane("run-tool-chores", 2)?;
        let closing = Closing::default();
        metering::describe_metrics();
        let core = Arc::new(Core {
            runtime,
            closing: closing.clone(),
            event_bytes: HeldBytes::default(),
            queue: Queue::new(Bounds {
                running: max_running,
                running_per_owner: self.max_running_per_owner,
                queued: self.max_queued,
                queued_per_owner: self.max_queued_per_owner,
                memory: self.max_memory,
            }),
            shelf: Arc::new(Shelf::new(self.keep)),
            sweeper: Sweeper::new(Arc::clone(&self.launcher), chores.clone()),
            starts,
            chores,
            tracker,
            alive: Arc::default(),
            starter: Starter {
                catalog: self.catalog,
                janitor: Janitor::start(Arc::clone(&self.launcher)).map_err(BuildError::Thread)?,
                launcher: self.launcher,
                limits: self.limits,
                policy: self.policy,
                resources: self.resources,
                max_timeout: self.max_timeout,
                temp_dir,
            },
        });
        if let Some(settings) = self.watch {
            watch::start(&core, closing.clone(), settings);
        }
        Ok(Engine { core, _last: Arc::new(Last(closing)) })
    }
}
