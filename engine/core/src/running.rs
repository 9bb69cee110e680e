//! From a running process to nothing left of it: the fixed order in which every execution is watched, stopped, killed,
//! drained and reaped, whatever the cause.

mod kill;

use std::{
    future::pending,
    pin::pin,
    sync::{Arc, LazyLock},
    time::Duration,
};

use tokio::{
    net::unix::pipe,
    time::{Instant, sleep, sleep_until, timeout},
};
use tool_sandbox::{Exit, ResourceLimits, Straggler};

use crate::{
    cancel::Cancels,
    channel::ChannelFolder,
    engine::Core,
    error::{Clock, ErrorKind, Limit},
    event_log::EventLog,
    events::EventKind,
    hints,
    janitor::Leader,
    lane::{Job, Lane},
    limits::{AfterExit, Settled},
    masking::Masking,
    outcome::{Cause, Evidence, outcome},
    plan::{Declared, Protocol},
    report::Report,
    start::{Terms, Watched},
    state::State,
    streams::{Finish, Step, Streams},
    sweep::Sweeper,
};

/// How often what cannot be awaited is looked at: whether a group is empty, whether stragglers are dead.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How often the time on processors is looked at when there is hardly any left.
const LOOK_AT_CPU: Duration = Duration::from_millis(10);

/// How many processors a tool can use at once, and so how fast its time on them can pass.
pub(crate) fn cores() -> u32 {
    // Asked for once: it reads files.
    static CORES: LazyLock<u32> = LazyLock::new(|| {
        std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1))
    });
    *CORES
}

/// A started process and everything that is needed to end it well.
pub(crate) struct Running<'a> {
    leader: Leader,
    exit: pipe::Receiver,
    /// Of a contained process: nothing of it is left.
    gone: Option<pipe::Receiver>,
    /// The leader has exited; it is not reaped.
    exited: bool,
    /// Somebody else reaped it.
    lost: bool,
    /// It had not exited when SIGKILL was sent.
    killed: bool,
    streams: Streams,
    protocol: Protocol,
    terms: Option<Terms>,
    declared: Arc<Declared>,
    limits: Settled,
    resources: ResourceLimits,
    folder: Option<ChannelFolder>,
    folder_removal: Option<Job<()>>,
    cancels: &'a Cancels,
    sweeper: &'a Sweeper,
    lane: &'a Lane,
    log: &'a Arc<EventLog>,
    enforced: tool_sandbox::Enforced,
    masking: Masking,
    began: Instant,
}

/// What else, beside its deadline, ends a phase of pumping.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// A first request to cancel.
    Requested,
    /// A second one.
    Insisted,
    /// Nothing.
    Never,
}

/// How a phase of pumping ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Done,
    Cut,
    TimedOut,
}

impl<'a> Running<'a> {
    pub(crate) fn new(
        core: &'a Core,
        watched: Watched,
        log: &'a Arc<EventLog>,
        cancels: &'a Cancels,
    ) -> Self {
        Self {
            leader: watched.leader,
            exit: watched.exit,
            gone: watched.gone,
            resources: watched.resources,
            exited: false,
            lost: false,
            killed: false,
            streams: watched.streams,
            protocol: watched.protocol,
            terms: watched.terms,
            declared: Arc::default(),
            limits: watched.limits,
            folder: watched.folder,
            folder_removal: None,
            cancels,
            sweeper: &core.sweeper,
            lane: &core.chores,
            log,
            enforced: watched.enforced,
            masking: watched.masking,
            began: Instant::now(),
        }
    }

    /// The whole of it. Whatever the cause, every step is taken, in this order; there is no early return.
    pub(crate) async fn run(mut self, report: &mut Report) -> Result<(), ErrorKind> {
        let wall = deadline(self.began, self.limits.timeout);
        report.enforced = Some(self.enforced.clone());
        self.log.append(EventKind::Started { pid: self.leader.id() });
        tracing::debug!(pid = self.leader.id(), "running");

        let cause = self.watch(wall).await;
        let cause = self.settle_ties(cause).await;
        self.cancels.stage().reach(State::Stopping);
        report.timings.running = self.began.elapsed();

        let stopping = Instant::now();
        tracing::debug!("stopping");
        self.stop(&cause, wall).await;
        report.timings.stopping = stopping.elapsed();

        let draining = Instant::now();
        tracing::debug!("draining");
        (report.residue, report.sweep_incomplete) = match self.gone.take() {
            Some(gone) => self.kill_contained(gone).await,
            None => self.kill_and_drain(&cause).await,
        };
        report.residue.iter_mut().for_each(|left| self.masking.command(&mut left.command));
        self.streams.hear_out().await;
        report.pipe_held = self.streams.close();
        let exit = self.reap(&mut report.kill_pending).await;
        self.remove_folder().await;
        if let Some(remains) = self.leader.remains() {
            drop(self.lane.spawn(remains));
        }
        report.timings.draining = draining.elapsed();
        report.killed = self.killed;

        report.exit = exit.map(|exit| exit.status);
        report.usage.wall = self.began.elapsed();
        if let Some(Exit { usage, counted, .. }) = exit {
            report.usage.cpu_user = usage.cpu_user;
            report.usage.cpu_system = usage.cpu_system;
            report.usage.peak_memory = usage.peak_memory;
            report.usage.peak_memory_at_most = usage.peak_memory_at_most;
            report.usage.peak_pids = counted.peak_pids;
            report.usage.oom_kills = counted.oom_kills;
            report.usage.pids_refused = counted.pids_refused;
        }
        let finished = self.streams.finish();
        report.usage.bytes_in = finished.written;
        report.usage.bytes_out = finished.read;
        report.discarded_messages = finished.discarded;
        report.stdout = finished.stdout;
        report.stderr = finished.stderr;
        let masking = self.masking.clone();
        let ended = outcome(Evidence {
            cause,
            exit,
            resources: &self.resources,
            filtered: self.enforced.seccomp,
            foreign: self.leader.foreign(),
            protocol: &self.protocol,
            terms: self.terms,
            declared: self.declared,
            limits: &self.limits,
            overflowed: finished.overflowed,
            stdout: finished.raw_stdout.as_ref().unwrap_or(&report.stdout),
            first_garbage: finished.first_garbage,
            contained: self.leader.is_contained(),
            lane: self.lane,
            masking: self.masking,
        })
        .await;
        match ended {
            Ok(value) => report.value = value,
            Err(kind) => {
                report.hints =
                    hints::of(&kind, report, &self.protocol, &self.leader, self.lane, &masking).await;
                return Err(kind);
            }
        }
        Ok(())
    }

    /// Pumps until something ends the run.
    async fn watch(&mut self, wall: Instant) -> Cause {
        let mut requested = pin!(self.cancels.requested());
        let mut wall = pin!(sleep_until(wall));
        let mut alive_at = Instant::now();
        let idle_limit = self.limits.idle_timeout;
        let idle_deadline = |alive_at| idle_limit.map_or_else(far_future, |limit| deadline(alive_at, limit));
        let mut idle = pin!(sleep_until(idle_deadline(alive_at)));
        let mut inspection: Option<Job<Result<(), ErrorKind>>> = None;
        // The kernel bounds the processor time of each process, and we that of all together.
        let cpu_limit = self.resources.cpu_time.filter(|_| self.leader.cpu_used().is_some());
        let mut look_at_cpu = pin!(sleep_until(self.began + cpu_limit.unwrap_or_default() / cores()));
        loop {
            tokio::select! { biased;
                exited = exited(&self.exit, &self.leader) => {
                    self.exited = true;
                    self.lost = exited.is_err();
                    return Cause::Exited;
                }
                cancellation = &mut requested => return Cause::Canceled(cancellation),
                () = &mut wall => return Cause::Timeout(Clock::Wall),
                () = &mut look_at_cpu, if cpu_limit.is_some() => {
                    let limit = cpu_limit.unwrap_or_default();
                    let left = limit.saturating_sub(self.leader.cpu_used().unwrap_or_default());
                    if left.is_zero() {
                        return Cause::Limit(Limit::Cpu { time: limit });
                    }
                    look_at_cpu.as_mut().reset(Instant::now() + (left / cores()).max(LOOK_AT_CPU));
                }
                // While the call is held back there is nothing for the tool to do.
                inspected = inspected(&mut inspection) => {
                    inspection = None;
                    match inspected {
                        Ok(()) => self.streams.release_call(),
                        Err(kind) => return Cause::Refused(kind),
                    }
                }
                mut step = self.streams.step() => {
                    if step.activity {
                        alive_at = Instant::now();
                    }
                    if let Some(declared) = step.declared.take() {
                        inspection = self.inspect(declared);
                    }
                    if let Some(finish) = note(step, &mut self.folder, &mut self.folder_removal, self.lane) {
                        return finish.into();
                    }
                }
                // Moved only when it fires, not at each sign of life.
                () = &mut idle => {
                    let next = idle_deadline(alive_at);
                    if next <= Instant::now() {
                        return Cause::Timeout(Clock::Idle);
                    }
                    idle.as_mut().reset(next);
                }
            }
        }
    }

    /// Holds the input against what the tool declares.
    fn inspect(&mut self, declared: Declared) -> Option<Job<Result<(), ErrorKind>>> {
        self.declared = Arc::new(declared);
        let (Terms { contract, input }, declared) = (self.terms.clone()?, Arc::clone(&self.declared));
        Some(self.lane.spawn(move || contract.check_input(&input, &declared)))
    }

    /// It ended before we touched it, if it had exited, or its result was on the way, when the clock or the cancellation
    /// came.
    async fn settle_ties(&mut self, cause: Cause) -> Cause {
        if !matches!(cause, Cause::Exited | Cause::Canceled(_) | Cause::Timeout(_)) {
            return cause;
        }
        if !self.exited {
            if self.gone.is_some() {
                self.ask().await;
            }
            let exited = self.leader.has_exited();
            self.exited = !matches!(exited, Ok(false));
            self.lost |= exited.is_err();
        }
        match self.streams.last_words().await {
            Some(finish) => finish.into(),
            None if self.lost => Cause::Lost,
            None if self.exited => Cause::Exited,
            None => cause,
        }
    }

    /// Waits until what watches over a contained process has said whether it runs.
    async fn ask(&self) {
        /// It answers at once, unless it is stopped or starved; then it counts as running.
        const PATIENCE: Duration = Duration::from_millis(100);
        self.leader.ask();
        let answer = async {
            while !self.leader.has_answered() {
                let look = self.exit.readable().await.and_then(|_| {
                    let would_block = || std::io::ErrorKind::WouldBlock.into();
                    self.exit.try_io(|| if self.leader.has_answered() { Ok(()) } else { Err(would_block()) })
                });
                if look.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock) {
                    return;
                }
            }
        };
        // Without an answer it is as it was.
        let _ = timeout(PATIENCE, answer).await;
    }

    /// Lets what ended by itself finish what it left behind; asks what did not to end.
    async fn stop(&mut self, cause: &Cause, wall: Instant) {
        if cause.is_natural() {
            let linger = match self.limits.after_exit {
                AfterExit::Linger(time) => time,
                AfterExit::Wait => Duration::MAX,
                AfterExit::Kill => return,
            };
            let mut until = deadline(Instant::now(), linger).min(wall);
            loop {
                let held_up = self.log.held_up();
                let ended = self
                    .pump(until, Cut::Requested, |running| running.exited && running.streams.output_at_end());
                // What a slow reader took of its time is given back.
                let held_up = match ended.await {
                    Phase::TimedOut => self.log.held_up() - held_up,
                    Phase::Done | Phase::Cut => return,
                };
                if held_up.is_zero() || until >= wall {
                    return;
                }
                until = deadline(until, held_up).min(wall);
            }
        } else if !self.limits.kill_grace.is_zero() {
            self.leader.terminate();
            let until = deadline(Instant::now(), self.limits.kill_grace);
            let cut = if matches!(cause, Cause::Canceled(_)) { Cut::Insisted } else { Cut::Requested };
            self.pump(until, cut, |running| running.exited).await;
            // The leader obeyed. What else is in its group has the rest of the grace. Zombies that their new parent does
            // not reap count as alive there, so the living are looked for once and then watched.
            if self.exited && self.gone.is_some() {
                // Whose keeper ends with the last of them.
                self.pump(until, cut, |running| !running.leader.others_may_be_alive()).await;
            } else if self.exited && self.leader.others_may_be_alive() && Instant::now() < until {
                let others: Vec<_> = self
                    .find_stragglers()
                    .await
                    .stragglers
                    .into_iter()
                    .filter(|other| !other.residue().escaped)
                    .collect();
                self.pump(until, cut, |_| others.iter().all(Straggler::is_dead)).await;
            }
        }
    }

    /// Pumps until the deadline, which is looked at before each read, until `done`, or until it is cut short.
    async fn pump(&mut self, until: Instant, cut: Cut, done: impl Fn(&Self) -> bool) -> Phase {
        let cancels = self.cancels;
        let mut deadline = pin!(sleep_until(until));
        let mut cut = pin!(async {
            match cut {
                Cut::Requested => drop(cancels.requested().await),
                Cut::Insisted => cancels.insisted().await,
                Cut::Never => pending().await,
            }
        });
        let mut look = LOOK_AGAIN / 2;
        while !done(self) {
            tokio::select! { biased;
                () = &mut deadline => return Phase::TimedOut,
                () = &mut cut => return Phase::Cut,
                exited = exited(&self.exit, &self.leader), if !self.exited => {
                    self.exited = true;
                    self.lost |= exited.is_err();
                }
                step = self.streams.step() => {
                    note(step, &mut self.folder, &mut self.folder_removal, self.lane);
                }
                () = sleep(look) => look = (look * 2).min(LOOK_AGAIN * 5),
            }
        }
        Phase::Done
    }

    /// Reaps the leader, or after too long leaves that to the janitor.
    async fn reap(&mut self, kill_pending: &mut bool) -> Option<Exit> {
        if !self.exited {
            let in_time = timeout(self.limits.reap_timeout, exited(&self.exit, &self.leader)).await;
            *kill_pending = in_time.is_err();
        }
        match self.leader.reap() {
            Ok(exit) => {
                if exit.is_none() {
                    *kill_pending = true;
                    tracing::error!(
                        pid = self.leader.id(),
                        "killed, but it does not die; the janitor keeps it"
                    );
                }
                exit
            }
            Err(error) => {
                tracing::warn!(%error, "the exit status is lost: something else in this program reaped the child");
                None
            }
        }
    }

    async fn remove_folder(&mut self) {
        /// Three system calls; a file system that takes longer does not keep an outcome from being told.
        const PATIENCE: Duration = Duration::from_secs(2);
        if let Some(folder) = self.folder.take() {
            self.folder_removal = Some(self.lane.spawn(move || drop(folder)));
        }
        if let Some(removal) = self.folder_removal.take()
            && timeout(PATIENCE, removal).await.is_err()
        {
            tracing::warn!("removing the channel's folder takes long; it goes on in the background");
        }
    }
}

/// Removes the channel's folder as soon as the worker has opened it, so that the tool cannot.
fn note(
    step: Step,
    folder: &mut Option<ChannelFolder>,
    removal: &mut Option<Job<()>>,
    lane: &Lane,
) -> Option<Finish> {
    if step.hello
        && let Some(folder) = folder.take()
    {
        *removal = Some(lane.spawn(move || drop(folder)));
    }
    step.finish
}

/// What an inspection came to; never, without one. Cancel-safe.
async fn inspected(inspection: &mut Option<Job<Result<(), ErrorKind>>>) -> Result<(), ErrorKind> {
    match inspection {
        Some(job) => job.await.unwrap_or_else(|_| {
            Err(ErrorKind::Lost {
                reason: "looking at what the tool declares panicked; it was not called".into(),
            })
        }),
        None => pending().await,
    }
}

/// Resolves when the leader has exited, without reaping it. Cancel-safe.
///
/// # Errors
/// When somebody else has reaped it.
async fn exited(exit: &pipe::Receiver, leader: &Leader) -> std::io::Result<()> {
    loop {
        exit.readable().await?;
        let look = exit.try_io(|| {
            if leader.has_exited()? { Ok(()) } else { Err(std::io::ErrorKind::WouldBlock.into()) }
        });
        match look {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

/// `from` plus `time`, or so far away that it makes no difference.
fn deadline(from: Instant, time: Duration) -> Instant {
    from.checked_add(time).unwrap_or_else(far_future)
}

fn far_future() -> Instant {
    Instant::now() + Duration::from_secs(30 * 365 * 24 * 3600)
}
