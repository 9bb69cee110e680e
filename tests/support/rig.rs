//! A runtime, a temporary folder and a watchdog for one test; and calls of the `hostile` program.

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tool_engine::{Call, Engine, EngineBuilder, Level, Policy, ProcessGroups, Sandbox};
use tool_sandbox::ProcessVitals;

use crate::{mark::Mark, wait::Watchdog};

/// Which tokio runtime a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Two workers.
    MultiThread,
    /// One thread, the test's own.
    CurrentThread,
}

impl Flavour {
    /// Both.
    pub const ALL: [Flavour; 2] = [Flavour::MultiThread, Flavour::CurrentThread];

    /// A runtime whose idle blocking threads go away soon, so that a mark can be come back to.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn runtime(self) -> Runtime {
        let mut builder = match self {
            Flavour::MultiThread => Builder::new_multi_thread(),
            Flavour::CurrentThread => Builder::new_current_thread(),
        };
        builder
            .worker_threads(2)
            .thread_keep_alive(Duration::from_millis(100))
            .enable_all()
            .build()
            .expect("a runtime can be built")
    }
}

/// What a test works with: a temporary folder of its own, and whatever is made from it.
#[derive(Debug)]
pub struct Rig {
    temp: TempDir,
}

impl Rig {
    /// For a test that makes its runtimes itself.
    ///
    /// # Panics
    /// When there is no temporary folder to be had, and inside a runtime.
    pub fn new() -> Self {
        // The first runtime of a process makes what all later ones share (a pair of sockets for signals). It must be there
        // before a mark is taken.
        drop(Flavour::CurrentThread.runtime());
        Self { temp: TempDir::with_prefix("run-tool-test-").expect("a temporary folder can be made") }
    }

    /// Runs the test on a runtime of this flavour, and ends the process when it hangs.
    pub fn run<F: Future<Output = ()>>(flavour: Flavour, test: impl FnOnce(Rig) -> F) {
        Self::run_within(Duration::from_secs(100), flavour, test);
    }

    /// As [`run`](Self::run), with so much patience.
    pub fn run_within<F: Future<Output = ()>>(
        patience: Duration,
        flavour: Flavour,
        test: impl FnOnce(Rig) -> F,
    ) {
        let _watchdog = Watchdog::new(patience);
        let runtime = flavour.runtime();
        let rig = Self::new();
        if flavour == Flavour::MultiThread {
            // A thread has its name a moment after it is there, and a mark counts threads: not before both are up.
            let workers = || {
                let threads = ProcessVitals::own().threads.expect("/proc is mounted");
                threads.into_values().filter(|name| name == "tokio-rt-worker").count()
            };
            crate::wait::until_blocking("both workers run", || workers() >= 2);
        }
        runtime.block_on(test(rig));
    }

    /// The engine's temporary folder.
    pub fn temp(&self) -> &Path {
        self.temp.path()
    }

    /// An engine in the making, with this temporary folder. Its tools may write to `/tmp`, where the suites put what they
    /// hand over: what a sandbox keeps out is another suite's subject.
    #[expect(clippy::disallowed_methods, reason = "where tempfile puts what tests make")]
    pub fn builder(&self) -> EngineBuilder {
        let builder = Engine::builder().temp_dir(self.temp());
        let programs = hostile_path().parent().map(Path::to_owned);
        let policy = Policy {
            rw: vec![std::env::temp_dir()],
            ro: programs.into_iter().collect(),
            ..Policy::default()
        };
        match level() {
            Level::None => builder.launcher(ProcessGroups),
            highest => builder.launcher(Sandbox::builder().highest(highest).build()).policy(policy),
        }
    }

    /// An engine with the defaults, on the current runtime.
    ///
    /// # Panics
    /// When it cannot be built, which is so outside a runtime.
    pub fn engine(&self) -> Engine {
        self.builder().build().expect("an engine can be built")
    }

    /// A mark, this temporary folder included.
    pub fn mark(&self) -> Mark {
        Mark::take(self.temp().to_owned())
    }
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}

/// The level that the suites run at: `RUN_TOOL_TEST_LEVEL`, a number. Default: the highest.
///
/// # Panics
/// When that is no level.
#[expect(clippy::disallowed_methods, reason = "how a run of the suites is told its level")]
pub fn level() -> Level {
    match std::env::var("RUN_TOOL_TEST_LEVEL") {
        Ok(number) => {
            let level = number.parse().ok().and_then(Level::from_number);
            level.unwrap_or_else(|| panic!("RUN_TOOL_TEST_LEVEL={number} is no level from 0 to 4"))
        }
        Err(_) => Level::Full,
    }
}

/// A call that runs without a sandbox at any level of the suites: for what only happens there, or can only be seen there.
pub fn uncontained(call: Call) -> Call {
    call.policy(Policy { level: Some(Level::None), ..Policy::default() })
}

/// Where the `hostile` program is: cargo builds it beside the suites.
///
/// # Panics
/// When it is not there.
pub fn hostile_path() -> PathBuf {
    let own = std::env::current_exe().expect("we know our own path");
    let found =
        own.ancestors().skip(1).take(2).map(|folder| folder.join("hostile")).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("no `hostile` beside {own:?}; build it: cargo build -p run-tool-tests --bins")
    })
}

/// A call of a `hostile` mode: the mode and its arguments.
pub fn hostile<const N: usize>(words: [&str; N]) -> Call {
    let program = hostile_path().into_os_string();
    Call::command([program].into_iter().chain(words.into_iter().map(Into::into)))
}
