//! The life of one execution, from its submission to its one outcome. One task runs it, and owns the child from spawn to
//! reap: it alone waits, signals, pumps and decides the cause; everybody else asks it.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    call::{self, Call},
    cancel::Cancels,
    engine::Core,
    error::{CancelSource, ErrorKind, ExecutionError},
    event_log::EventLog,
    events::EventKind,
    execution::ExecutionId,
    lane::{Lane, Place},
    masking::Masking,
    metering,
    queue::{Claim, Permit},
    report::Report,
    retry::Schedule,
    running::Running,
    start::Started,
    state::State,
};

/// How long making a process may take (a program on a network mount can block for ever). If it comes to life after all,
/// it is killed on the spot.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the execution to its end: one attempt, or as many as it is to be tried. Nothing of it is left when this returns.
/// `label` is masked; `masking` is of the call's own secrets.
pub(crate) async fn live(
    core: &Core,
    id: ExecutionId,
    call: Call,
    label: String,
    masking: Masking,
    log: &Arc<EventLog>,
    cancels: &Cancels,
) -> Result<Report, ExecutionError> {
    let mut report = Report::new(id, label);
    let ended = match Schedule::of(&call, core.starter.catalog.as_deref(), log.began()) {
        Err(kind) => Err(masking.error(kind)),
        Ok(schedule) => {
            let mut life = Life { core, id, schedule, log, cancels, report, masking };
            let ended = if life.schedule.is_once() {
                life.attempt(call, log.began()).await
            } else {
                life.attempts(&call).await
            };
            report = life.report;
            ended
        }
    };
    report.timings.total = log.began().elapsed();
    tracing::debug!(%id, tool = report.tool, outcome = ended.as_ref().err().map_or("ok", ErrorKind::name), "ended");
    match ended {
        Ok(()) => Ok(report),
        Err(kind) => Err(ExecutionError::new(kind, report)),
    }
}

/// An execution that goes through one attempt after the other.
struct Life<'a> {
    core: &'a Core,
    id: ExecutionId,
    schedule: Schedule,
    log: &'a Arc<EventLog>,
    cancels: &'a Cancels,
    /// Of the last attempt.
    report: Report,
    /// As much as is known of the secrets.
    masking: Masking,
}

impl Life<'_> {
    /// Tries until it succeeds, is not to be tried again, or is cancelled. Errors are masked.
    async fn attempts(&mut self, call: &Call) -> Result<(), ErrorKind> {
        let mut began = self.log.began();
        let mut made = 0;
        loop {
            made += 1;
            let fresh = Report::new(self.id, self.report.tool.clone());
            let earlier = std::mem::replace(&mut self.report, fresh);
            let ended = self.attempt(call.again(), began).await;
            self.report.timings.total = began.elapsed();
            self.report.follow(earlier);
            let again =
                ended.as_ref().err().and_then(|kind| Some((kind.clone(), self.schedule.wait(made, kind)?)));
            if again.is_some() || !self.report.attempts.is_empty() {
                self.report.note_attempt(began - self.log.began(), ended.as_ref().err());
            }
            let Some((error, after)) = again else { return ended };
            tracing::debug!(id = %self.id, made, ?after, outcome = error.name(), "will be tried again");
            self.cancels.stage().again();
            self.log.append(EventKind::Retrying { attempt: made + 1, after, error });
            tokio::select! { biased;
                cancellation = self.cancels.requested() => {
                    return Err(self.masking.error(cancellation.into()));
                }
                () = sleep(after) => {}
            }
            began = Instant::now();
        }
    }

    /// One attempt, from its turn in the queue to nothing left of it. Errors are masked.
    async fn attempt(&mut self, call: Call, began: Instant) -> Result<(), ErrorKind> {
        let Self { core, id, schedule, log, cancels, report, masking } = self;
        tracing::debug!("queued");
        let queued = metering::OneMore::queued();
        let admitted = admit(core, &call, schedule, cancels).await;
        drop(queued);
        report.timings.queued = began.elapsed();
        let ended = match admitted {
            Err(kind) => Err(kind),
            // The permit is held until everything is cleaned up.
            Ok(_permit) => {
                let _running = metering::OneMore::running();
                tracing::debug!("starting");
                let started = start(core, *id, call, &report.tool, masking, cancels)
                    .await
                    .and_then(|started| started.watch(log, &core.chores));
                report.timings.starting = began.elapsed() - report.timings.queued;
                match started {
                    Err(kind) => Err(kind),
                    Ok(mut watched) => {
                        *masking = watched.masking.clone();
                        masking.text(&mut report.tool);
                        if let Some(left) = schedule.left() {
                            watched.limits.timeout = watched.limits.timeout.min(left);
                        }
                        cancels.stage().reach(State::Running);
                        Running::new(core, watched, log, cancels).run(report).await
                    }
                }
            }
        };
        ended.map_err(|kind| masking.error(kind))
    }
}

/// Waits for its turn; `None` for a call that takes none. Whose end was asked for before it came is never started.
async fn admit<'a>(
    core: &'a Core,
    call: &Call,
    schedule: &Schedule,
    cancels: &Cancels,
) -> Result<Option<Permit<'a>>, ErrorKind> {
    if let Some(cancellation) = cancels.standing() {
        return Err(cancellation.into());
    }
    let owner = call.owner.as_deref();
    owner.map_or(Ok(()), |owner| call::check_name("owner", owner))?;
    let permit = if call.standing { None } else { Some(turn(core, call, owner, schedule, cancels).await?) };
    if cancels.stage().begin() {
        return Ok(permit);
    }
    Err(cancels.standing().unwrap_or_else(|| CancelSource::Caller.into()).into())
}

async fn turn<'a>(
    core: &'a Core,
    call: &Call,
    owner: Option<&str>,
    schedule: &Schedule,
    cancels: &Cancels,
) -> Result<Permit<'a>, ErrorKind> {
    let memory = if core.queue.weighs() { core.starter.memory(call) } else { 0 };
    let claim = Claim { owner: owner.map(Arc::from), memory };
    let patience = call.limits.clone().over(&core.starter.limits).queue_timeout();
    let patience = schedule.left().map_or(patience, |left| patience.min(left));
    tokio::select! { biased;
        cancellation = cancels.requested() => Err(cancellation.into()),
        admitted = core.queue.admit(claim, patience) => admitted,
    }
}

/// Makes the process. A cancellation that comes while that is under way is acted on as soon as there is something to
/// cancel.
async fn start(
    core: &Core,
    id: ExecutionId,
    call: Call,
    label: &str,
    masking: &Masking,
    cancels: &Cancels,
) -> Result<Started, ErrorKind> {
    let place = tokio::select! { biased;
        cancellation = cancels.requested() => return Err(cancellation.into()),
        place = place_to_start(&core.starts) => place,
    };
    let Some(place) = place else {
        return Err(ErrorKind::Busy {
            reason: format!(
                "starting other programs has blocked for {START_TIMEOUT:?}; are they on a network mount that does not answer"
            ),
        });
    };
    let (starter, masking, launcher) =
        (core.starter.clone(), masking.clone(), Arc::clone(&core.starter.launcher));
    let started = place.spawn(move || starter.start(id, call, masking), move || launcher.prepare());
    match timeout(START_TIMEOUT, started).await {
        Ok(Ok(started)) => started,
        Ok(Err(_)) => {
            Err(ErrorKind::Lost { reason: "preparing the call panicked; nothing was started".into() })
        }
        Err(_) => Err(ErrorKind::Spawn {
            step: tool_sandbox::LaunchStep::Exec,
            subject: label.into(),
            errno: nix::errno::Errno::ETIMEDOUT as i32,
            hint: format!(
                "it could not be loaded within {START_TIMEOUT:?}; is it on a network mount that does not answer?"
            ),
        }),
    }
}

/// Waits for a place, for as long as those before it get on; nothing, when none of them has for [`START_TIMEOUT`].
async fn place_to_start(starts: &Lane) -> Option<Place<'_>> {
    let mut place = pin!(starts.place());
    loop {
        let done = starts.done();
        match timeout(START_TIMEOUT, &mut place).await {
            Ok(place) => return place,
            Err(_) if starts.done() == done => return None,
            Err(_) => {}
        }
    }
}
