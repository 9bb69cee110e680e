//! The followers of one engine.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::sleep_until;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tool_engine::{BuildError, Engine, ErrorKind, Lane};

use crate::{
    events::FollowEventKind,
    follower,
    hub::{Hub, Subscription},
    metrics::{Counters, Counts, FollowerMetrics, Metrics},
    output::{self, FileOutput},
    source::Source,
    stop::Stop,
};

/// Follows many sources at once, each in one task of the engine's. Cheap to clone; when the last clone is dropped, all
/// followers are ended, also outside a runtime.
///
/// It keeps its engine alive. [`Engine::shutdown`] ends its followers, too.
#[derive(Debug, Clone)]
pub struct Followers {
    shared: Arc<Shared>,
    _last: Arc<Last>,
}

#[derive(Debug)]
struct Shared {
    engine: Engine,
    max: usize,
    stop_within: Duration,
    /// For files, whose disks may be slow: not the engine's own.
    lane: Lane,
    closing: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    active: BTreeMap<String, Arc<Entry>>,
    /// What those did that have ended.
    past: Counts,
    closed: bool,
}

/// Dropped with the last [`Followers`].
#[derive(Debug)]
struct Last(CancellationToken);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What is shared between a follower's task and those who hold on to it.
#[derive(Debug)]
pub(crate) struct Entry {
    key: String,
    began: Instant,
    /// The file that it alone writes to.
    file: Option<PathBuf>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: Stop,
    /// Nothing of it is left.
    gone: CancellationToken,
}

/// Why a source is not followed, or there is none to be stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// Something is followed under this key already.
    #[error("{key:?} is followed already; stop it first, or choose another key")]
    AlreadyFollowed {
        /// The key.
        key: String,
    },
    /// There are as many followers as there may be.
    #[error(
        "there are {max} followers, and no more are allowed; stop one, or allow more with `Followers::builder(…).max(…)`"
    )]
    PoolFull {
        /// How many.
        max: usize,
    },
    /// Another follower writes to the file.
    #[error("{} is written by the follower {key:?} already; give each a file of its own", path.display())]
    FileTaken {
        /// The file.
        path: PathBuf,
        /// The other's key.
        key: String,
    },
    /// Nothing is followed under this key.
    #[error("{key:?} is not followed; it was never started, or has ended")]
    NotFollowed {
        /// The key.
        key: String,
    },
    /// The source cannot be followed.
    #[error("{message}; {hint}")]
    Invalid {
        /// What is wrong with it.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The followers or their engine were shut down.
    #[error("the followers were shut down; make new ones, on an engine that runs")]
    Closed,
}

/// Sets [`Followers`] up.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct FollowersBuilder {
    engine: Engine,
    max: usize,
    stop_within: Duration,
}

impl FollowersBuilder {
    /// How many followers there may be at a time. They are not counted in the engine's `max_running`. Default 50.
    pub fn max(mut self, followers: usize) -> Self {
        self.max = followers;
        self
    }

    /// How long stopping a follower may take: half of it for a subscriber that is waited for, most of it for a file. What
    /// a source's own limits add (see [`Source::call`]) comes on top. Default 10 s.
    pub fn stop_within(mut self, time: Duration) -> Self {
        self.stop_within = time;
        self
    }

    /// The followers.
    ///
    /// # Errors
    /// [`BuildError::Thread`]: they have two threads for files.
    pub fn build(self) -> Result<Followers, BuildError> {
        let lane = Lane::open("run-tool-follow", 2, TaskTracker::new()).map_err(BuildError::Thread)?;
        let closing = CancellationToken::new();
        let ours = closing.clone();
        self.engine.accompany(|engines| async move {
            tokio::select! {
                () = engines.cancelled() => ours.cancel(),
                () = ours.cancelled() => {}
            }
        });
        let shared = Shared {
            engine: self.engine,
            max: self.max,
            stop_within: self.stop_within,
            lane,
            closing: closing.clone(),
            state: Mutex::default(),
        };
        Ok(Followers { shared: Arc::new(shared), _last: Arc::new(Last(closing)) })
    }
}

impl Followers {
    /// Begins with the defaults.
    pub fn builder(engine: &Engine) -> FollowersBuilder {
        FollowersBuilder { engine: engine.clone(), max: 50, stop_within: Duration::from_secs(10) }
    }

    /// Follows a source under a key of the caller's. Returns at once; may be called from anywhere. That the source cannot be
    /// opened at all is told by [`FollowEventKind::Ended`]; once it has run, it is opened again whatever happens.
    ///
    /// # Errors
    /// [`FollowError`]; then nothing was started.
    pub fn follow(&self, key: impl Into<String>, source: Source) -> Result<Follower, FollowError> {
        let (key, shared) = (key.into(), &self.shared);
        source.check(shared.engine.max_timeout())?;
        let entry = Arc::new(Entry {
            key: key.clone(),
            began: Instant::now(),
            file: source.output.as_ref().and_then(FileOutput::place),
            hub: Arc::new(Hub::new(source.buffer, source.back_pressure)),
            counters: Arc::default(),
            stop: Stop::new(shared.closing.child_token(), shared.stop_within),
            gone: CancellationToken::new(),
        });
        let mut state = shared.state();
        if state.closed || shared.closing.is_cancelled() {
            return Err(FollowError::Closed);
        }
        if state.active.contains_key(&key) {
            return Err(FollowError::AlreadyFollowed { key });
        }
        if state.active.len() >= shared.max {
            return Err(FollowError::PoolFull { max: shared.max });
        }
        let writes_too = |other: &&Arc<Entry>| entry.file.is_some() && other.file == entry.file;
        if let (Some(path), Some(other)) = (&entry.file, state.active.values().find(writes_too)) {
            return Err(FollowError::FileTaken { path: path.clone(), key: other.key.clone() });
        }
        state.active.insert(key, Arc::clone(&entry));
        drop(state);
        // It ends the follower when it is dropped, also before it has begun.
        let guard = Guard { shared: Arc::clone(shared), entry: Arc::clone(&entry) };
        shared.engine.accompany(|_| live(guard, source));
        Ok(Follower(entry))
    }

    /// The follower with this key.
    ///
    /// # Errors
    /// [`FollowError::NotFollowed`]
    pub fn get(&self, key: &str) -> Result<Follower, FollowError> {
        let entry = self.shared.state().active.get(key).cloned();
        entry.map(Follower).ok_or_else(|| FollowError::NotFollowed { key: key.to_owned() })
    }

    /// Stops the follower with this key: see [`Follower::stop`].
    ///
    /// # Errors
    /// [`FollowError::NotFollowed`]
    pub async fn stop(&self, key: &str) -> Result<(), FollowError> {
        self.get(key)?.stop().await;
        Ok(())
    }

    /// Stops all followers at once: see [`Follower::stop`].
    pub async fn stop_all(&self) {
        let entries: Vec<_> = self.shared.state().active.values().cloned().collect();
        entries.iter().for_each(|entry| entry.stop.ask());
        for entry in entries {
            entry.gone.cancelled().await;
        }
    }

    /// Follows nothing more, and stops all followers. The engine goes on.
    pub async fn shutdown(&self) {
        self.shared.state().closed = true;
        self.stop_all().await;
    }

    /// What they are doing, and have done.
    pub fn metrics(&self) -> Metrics {
        let state = self.shared.state();
        let each = |entry: &Arc<Entry>| FollowerMetrics {
            key: entry.key.clone(),
            age: entry.began.elapsed(),
            counts: entry.counters.snapshot(),
        };
        let followers: Vec<_> = state.active.values().map(each).collect();
        let counts = followers.iter().fold(state.past, |sum, follower| sum.plus(follower.counts));
        Metrics { active: followers.len(), max: self.shared.max, counts, followers }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under this lock leaves it half done when it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hold on one follower. Dropping it stops nothing.
#[derive(Debug, Clone)]
pub struct Follower(Arc<Entry>);

impl Follower {
    /// Its key.
    pub fn key(&self) -> &str {
        &self.0.key
    }

    /// Reads what it tells, from the oldest event on that is still there. With
    /// [`Source::back_pressure`] the first subscriber misses nothing.
    pub fn subscribe(&self) -> Subscription {
        self.0.hub.subscribe()
    }

    /// Asks it to stop and returns at once.
    pub fn ask_to_stop(&self) {
        self.0.stop.ask();
    }

    /// Stops it: its source is ended, what was read is told, and nothing of it is left when this returns. Stopping one that
    /// has ended does nothing.
    ///
    /// Dropping this future leaves it stopping.
    pub async fn stop(&self) {
        self.0.stop.ask();
        self.0.gone.cancelled().await;
    }

    /// Waits until it has ended, for whatever reason. Cancel-safe.
    pub async fn ended(&self) {
        self.0.gone.cancelled().await;
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        self.0.counters.snapshot()
    }
}

/// The whole of it, from the first source to the last line in a file.
async fn live(guard: Guard, source: Source) {
    let (shared, entry) = (&guard.shared, &guard.entry);
    // The file is a subscriber from the beginning.
    let file = source.output.clone().map(|output| {
        let (written, hurry) = (CancellationToken::new(), CancellationToken::new());
        let done = written.clone().drop_guard();
        let (hub, lines) = (Arc::clone(&entry.hub), entry.hub.subscribe_aside());
        let (lane, counters) = (shared.lane.clone(), Arc::clone(&entry.counters));
        let in_a_hurry = hurry.clone();
        shared.engine.accompany(|_| async move {
            let _done = done;
            output::write(output, hub, lines, lane, counters, in_a_hurry).await;
        });
        (written, hurry)
    });
    let (engine, lane) = (shared.engine.clone(), shared.lane.clone());
    let error = follower::Follower::new(Arc::clone(entry), source, engine, lane).follow().await;
    entry.hub.append(FollowEventKind::Ended { error });
    if let Some((written, hurry)) = file {
        tokio::select! { biased;
            () = written.cancelled() => {}
            () = sleep_until(entry.stop.files_until()) => {
                hurry.cancel();
                written.cancelled().await;
            }
        }
    }
}

/// Takes the follower off the list when its task ends, or is dropped.
struct Guard {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let reason = if std::thread::panicking() {
            "the task that followed panicked: in what shapes its calls, or by a bug of the engine"
        } else {
            "the runtime that the engine was built on went away"
        };
        // Without effect when it has ended as it should.
        let error = Some(ErrorKind::Lost { reason: reason.into() });
        self.entry.hub.append(FollowEventKind::Ended { error });
        let mut state = self.shared.state();
        state.active.remove(&self.entry.key);
        state.past = state.past.plus(self.entry.counters.snapshot());
        drop(state);
        self.entry.gone.cancel();
    }
}
