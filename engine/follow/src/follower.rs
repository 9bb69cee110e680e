//! The life of one follower, in one task: open a source, take its lines, end it, open the next one.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    task::coop::consume_budget,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until},
};
use tool_engine::{
    CancelSource, Chunk, Clock, Engine, ErrorKind, EventKind, Execution, ExitStatus, Lane, Stream,
};

use crate::{
    backoff::Backoff,
    events::FollowEventKind,
    lines::{Lines, RawLine},
    place::{Cut, Meaning, Place, Unopened},
    pool::Entry,
    source::Source,
    tailed::Fate,
};

/// A source that ran for so long was well.
const WELL: Duration = Duration::from_secs(10);

/// How long a source has to end when the follower is stopped, before it is insisted.
const INSIST: Duration = Duration::from_secs(2);

/// How often a file that is not there is looked for.
const MISSING: Duration = Duration::from_millis(500);

/// A rotation comes up to this part earlier.
const JITTER: f64 = 0.1;

/// What one follower works with.
pub(crate) struct Follower {
    pub(crate) entry: Arc<Entry>,
    pub(crate) source: Source,
    pub(crate) engine: Engine,
    pub(crate) lane: Lane,
    place: Place,
    heartbeat: Interval,
    /// When the last new line came.
    heard: Instant,
    /// Since when the source runs.
    running: Option<Instant>,
    /// Since when there is none, because it was time.
    rotating: Option<Instant>,
}

/// Why a source was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nobody,
    Rotation,
    Moved(Fate),
    Stop,
}

/// What became of a source.
enum Outcome {
    Stopped,
    Rotated,
    Gone(ErrorKind),
    Missing(String),
}

impl Follower {
    pub(crate) fn new(entry: Arc<Entry>, source: Source, engine: Engine, lane: Lane) -> Self {
        let place = Place::new(&source);
        let mut heartbeat = interval_at(after(source.heartbeat), source.heartbeat.min(FAR));
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (heard, running, rotating) = (Instant::now(), None, None);
        Self { entry, source, engine, lane, place, heartbeat, heard, running, rotating }
    }

    /// Follows until it is stopped. Otherwise, why the first source could not be opened.
    pub(crate) async fn follow(mut self) -> Option<ErrorKind> {
        let mut backoff = Backoff::new(self.source.backoff);
        let mut has_run = false;
        let mut was_missing = false;
        loop {
            if self.entry.stop.is_asked() {
                return None;
            }
            let opened = self.place.open(&self.source, &self.lane).await;
            let outcome = match opened {
                Ok(call) => self.attend(self.engine.start(call)).await,
                Err(Unopened::Missing(reason)) => Outcome::Missing(reason),
                Err(Unopened::Failed(kind)) => Outcome::Gone(kind),
            };
            let ran = self.running.take();
            has_run |= ran.is_some();
            let after = match outcome {
                Outcome::Stopped => return None,
                Outcome::Rotated => {
                    backoff.reset();
                    continue;
                }
                Outcome::Missing(reason) => {
                    if !was_missing {
                        self.tell(FollowEventKind::Reconnect { reason, after: MISSING }).await;
                    }
                    was_missing = true;
                    MISSING
                }
                Outcome::Gone(kind) => {
                    self.entry.counters.error();
                    if !has_run && is_final(&kind) {
                        return Some(kind);
                    }
                    if ran.is_some_and(|since| since.elapsed() >= WELL) {
                        backoff.reset();
                    }
                    let after = backoff.next();
                    let reason = match kind {
                        ErrorKind::Process { .. } | ErrorKind::Timeout { .. } => format!("the source {kind}"),
                        _ => kind.to_string(),
                    };
                    self.tell(FollowEventKind::Reconnect { reason, after }).await;
                    after
                }
            };
            // What was to follow a rotation came too late for it to be one.
            self.rotating = None;
            self.wait(after).await;
        }
    }

    /// Waits, and goes on telling that it is alive.
    async fn wait(&mut self, time: Duration) {
        let mut over = pin!(sleep(time));
        loop {
            tokio::select! { biased;
                () = self.entry.stop.asked() => return,
                () = &mut over => return,
                _ = self.heartbeat.tick() => self.beat(),
            }
        }
    }

    /// Takes what a source says until nothing of it is left.
    async fn attend(&mut self, run: Execution) -> Outcome {
        let mut events = run.events();
        let canceler = run.canceler();
        let mut lines = [Lines::new(self.source.max_line), Lines::new(self.source.max_line)];
        let mut asked = Asked::Nobody;
        // Of whole lines that had not come before: if what comes again, or half of a long line, were enough to open the
        // source anew, it would never get any further.
        let mut bytes = 0;
        let mut rotation = pin!(sleep_until(far()));
        let mut insisting = pin!(sleep_until(far()));
        loop {
            // A source that never pauses must not be all that this thread does.
            consume_budget().await;
            let is_full = self.source.rotate_bytes.is_some_and(|most| bytes >= most);
            let ask = tokio::select! { biased;
                () = self.entry.stop.asked(), if asked != Asked::Stop => {
                    insisting.as_mut().reset(Instant::now() + INSIST);
                    Asked::Stop
                }
                () = &mut insisting => {
                    insisting.as_mut().reset(far());
                    Asked::Stop
                }
                () = &mut rotation, if asked == Asked::Nobody => Asked::Rotation,
                () = std::future::ready(()), if is_full && asked == Asked::Nobody => Asked::Rotation,
                _ = self.heartbeat.tick() => {
                    self.beat();
                    continue;
                }
                event = events.next() => {
                    match event.map(|event| event.kind) {
                        Some(EventKind::Started { pid }) => {
                            rotation.as_mut().reset(after(self.until_rotation()));
                            self.began(pid).await;
                        }
                        Some(EventKind::Stdout(Chunk(chunk))) => {
                            self.place.came(chunk.len());
                            let lines = lines[0].push(&chunk);
                            bytes += self.take(Stream::Stdout, lines).await;
                        }
                        Some(EventKind::Stderr(Chunk(chunk))) => {
                            let lines = lines[1].push(&chunk);
                            bytes += self.take(Stream::Stderr, lines).await;
                        }
                        Some(_) => {}
                        None => break,
                    }
                    continue;
                }
                // Last: what comes is worth more.
                fate = self.place.look(&self.lane), if asked == Asked::Nobody => match fate {
                    Fate::Same => continue,
                    moved => Asked::Moved(moved),
                },
            };
            asked = ask;
            if asked != Asked::Stop {
                self.rotating = Some(Instant::now());
            }
            canceler.cancel(match asked {
                Asked::Stop => "the follower is stopped",
                _ => "the source is opened anew",
            });
        }
        self.finish(run.await.map(drop).map_err(|error| error.into_parts().0), asked, lines).await
    }

    /// What becomes of the rest of its output, and of the source.
    async fn finish(
        &mut self,
        end: Result<(), ErrorKind>,
        asked: Asked,
        [mut stdout, mut stderr]: [Lines; 2],
    ) -> Outcome {
        let outcome = match (asked, end) {
            (Asked::Stop, _) => Outcome::Stopped,
            (Asked::Rotation | Asked::Moved(_), _) => Outcome::Rotated,
            (Asked::Nobody, Err(ErrorKind::Canceled { by: CancelSource::Shutdown, .. })) => Outcome::Stopped,
            // Its clock came before ours.
            (Asked::Nobody, Err(ErrorKind::Timeout { clock: Clock::Wall, .. })) => {
                self.rotating = Some(Instant::now());
                Outcome::Rotated
            }
            (Asked::Nobody, Ok(())) => Outcome::Gone(ErrorKind::Process { status: ExitStatus::Code(0) }),
            (Asked::Nobody, Err(kind)) => Outcome::Gone(kind),
        };
        let cut = match &outcome {
            Outcome::Stopped => Cut::Last,
            Outcome::Gone(ErrorKind::Process { status: ExitStatus::Code(0) }) => Cut::Whole,
            _ => Cut::Half,
        };
        let fate = if let Asked::Moved(fate) = asked { fate } else { Fate::Same };
        let rest = stdout.rest();
        let length = rest.as_ref().map_or(0, |rest| rest.length);
        let cut = self.place.ended(length, fate, cut, &self.lane).await;
        for (stream, rest) in [(Stream::Stdout, rest), (Stream::Stderr, stderr.rest())] {
            let Some(rest) = rest else { continue };
            if let Some(meaning) = self.place.take_rest(stream, &rest, cut) {
                self.mean(meaning, rest.length).await;
            }
        }
        outcome
    }

    async fn began(&mut self, pid: u32) {
        self.running = Some(Instant::now());
        let counters = &self.entry.counters;
        let before = counters.source();
        if let Some(since) = self.rotating.take() {
            counters.rotation(since.elapsed());
        }
        self.tell(FollowEventKind::Opened { pid, before }).await;
    }

    /// How many bytes of these lines were new.
    async fn take(&mut self, stream: Stream, lines: Vec<RawLine>) -> u64 {
        let mut new = 0;
        for line in lines {
            consume_budget().await;
            let meaning = self.place.take(stream, &line);
            new += if matches!(meaning, Meaning::Known) { 0 } else { line.length };
            self.mean(meaning, line.length).await;
        }
        new
    }

    async fn mean(&mut self, meaning: Meaning, length: u64) {
        match meaning {
            Meaning::Known => self.entry.counters.known(),
            Meaning::Tell(kind) => {
                if matches!(kind, FollowEventKind::Line(_)) {
                    self.heard = Instant::now();
                    self.entry.counters.line(length);
                }
                self.tell(kind).await;
            }
        }
    }

    /// Waits for the subscriber that wants to be waited for; when the follower is stopped, for so long and no longer.
    async fn tell(&self, kind: FollowEventKind) {
        if self.source.back_pressure {
            let stop = &self.entry.stop;
            tokio::select! { biased;
                () = self.entry.hub.has_room() => {}
                () = stop.readers_had_time() => self.entry.hub.let_go(),
            }
        }
        self.entry.hub.append(kind);
    }

    fn beat(&self) {
        let since = |time: Instant| time.elapsed();
        let (silent, running) = (since(self.heard), self.running.map(since).unwrap_or_default());
        self.entry.hub.mention(FollowEventKind::Heartbeat { silent, running });
    }

    fn until_rotation(&self) -> Duration {
        self.source.rotate_every.min(FAR).mul_f64(1.0 - JITTER * fastrand::f64())
    }
}

/// Whether it makes no sense to try it again.
fn is_final(kind: &ErrorKind) -> bool {
    let is_wrong =
        matches!(kind, ErrorKind::Invalid { .. } | ErrorKind::Sandbox { .. } | ErrorKind::Spawn { .. });
    is_wrong && !kind.is_retryable()
}

/// As good as never.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The moment so long after this one.
fn after(time: Duration) -> Instant {
    Instant::now() + time.min(FAR)
}

fn far() -> Instant {
    after(FAR)
}
