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
    cancel::{Cancels, Closing},
    event_log::EventLog,
    execution::{Execution, ExecutionId, dropped},
    janitor::Janitor,
    lane::Lane,
    life,
    limits::Limits,
    masking::Masking,
    plan::Catalog,
    queue::Queue,
    start::Starter,
    sweep::Sweeper,
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
    runtime: Handle,
    tracker: TaskTracker,
    /// Held by every execution: the tracker counts their blocking work, too.
    alive: Arc<()>,
    closing: Closing,
    pub(crate) queue: Queue,
    /// For making processes, which may block for long.
    pub(crate) starts: Lane,
    /// For all other blocking work, all of which is bounded.
    pub(crate) chores: Lane,
    pub(crate) sweeper: Sweeper,
    pub(crate) starter: Starter,
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
        let id = ExecutionId::new();
        let masking = Masking::of(&call.secrets);
        let mut label = call.label();
        masking.label(&call.secrets, &mut label);
        let ring = call.limits.event_ring.or(self.core.starter.limits.event_ring);
        let log = Arc::new(EventLog::new(
            Limits { event_ring: ring, ..Limits::default() }.event_ring(),
            call.back_pressure,
        ));
        let (cancel, cancels) = Cancels::new(call.tokens.clone(), self.core.closing.clone());
        let (sender, end) = oneshot::channel();
        let core = Arc::clone(&self.core);
        let guard = EndGuard(Arc::clone(&log));
        let alive = Arc::clone(&core.alive);
        let shown = label.clone();
        let task = async move {
            let ended = life::live(&core, id, call, shown, masking, &guard.0, &cancels).await;
            drop(alive);
            // Nobody may be waiting any more.
            let _ = sender.send(ended);
        };
        self.core.tracker.spawn_on(task, &self.core.runtime);
        Execution::new(id, label, cancel, log, end)
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
        if timeout(grace, core.tracker.wait()).await.is_err() {
            core.closing.insisted.cancel();
            core.tracker.wait().await;
        }
        let until = Instant::now() + JANITOR;
        while core.starter.janitor.pending() > 0 && Instant::now() < until {
            sleep(Duration::from_millis(2)).await;
        }
        let launcher = Arc::clone(&core.starter.launcher);
        // It is not the last word of the engine: another one may use the same launcher.
        let _ = core.chores.spawn(move || launcher.close()).await;
        core.starts.close();
        core.chores.close();
        core.starter.janitor.close();
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
        Arc::strong_count(&self.core.alive) - 1
    }
}

/// Puts an end into the log when the task is dropped before it could.
struct EndGuard(Arc<EventLog>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.end(Some(dropped(std::thread::panicking())));
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
    max_queued: usize,
    temp_dir: PathBuf,
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
            max_queued: 1024,
            temp_dir: PathBuf::from("/tmp"),
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

    /// How many more may wait for their turn. Default 1024.
    pub fn max_queued(mut self, most: usize) -> Self {
        self.max_queued = most;
        self
    }

    /// Where the private folders of calls are made. Default `/tmp`: the library does not read `TMPDIR`.
    pub fn temp_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.temp_dir = folder.into();
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
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let max_running = self.max_running.unwrap_or(8 * cores);
        let lane = |name, threads| Lane::open(name, threads, tracker.clone()).map_err(BuildError::Thread);
        let starts = lane("run-tool-start", (2 * cores).max(4))?;
        let chores = lane("run-tool-chores", 2)?;
        let closing = Closing::default();
        let core = Core {
            runtime,
            closing: closing.clone(),
            queue: Queue::new(max_running, self.max_queued),
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
        };
        Ok(Engine { core: Arc::new(core), _last: Arc::new(Last(closing)) })
    }
}
