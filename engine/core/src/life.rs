//! The life of one execution, from its submission to its one outcome. One task runs it, and owns the child from spawn to
//! reap: it alone waits, signals, pumps and decides the cause; everybody else asks it.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    call::{self, Call},
    cancel::Cancels,
    engine::Core,
    error::{CancelSource, ErrorKind, ExecutionError},
    event_log::EventLog,
    execution::ExecutionId,
    lane::{Lane, Place},
    masking::Masking,
    metering,
    queue::{Claim, Permit},
    report::Report,
    running::Running,
    start::Started,
    state::State,
};

/// How long making a process may take (a program on a network mount can block for ever). If it comes to life after all,
/// it is killed on the spot.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the execution to its end. Nothing of it is left when this returns. `label` is masked; `masking` is of the call's
/// own secrets.
pub(crate) async fn live(
    core: &Core,
    id: ExecutionId,
    call: Call,
    label: String,
    mut masking: Masking,
    log: &Arc<EventLog>,
    cancels: &Cancels,
) -> Result<Report, ExecutionError> {
    let mut report = Report::new(id, label);
    tracing::debug!("queued");
    let queued = metering::OneMore::queued();
    let admitted = admit(core, &call, cancels).await;
    drop(queued);
    report.timings.queued = log.began().elapsed();
    let ended = match admitted {
        Err(kind) => Err(kind),
        // The permit is held until everything is cleaned up.
        Ok(_permit) => {
            let _running = metering::OneMore::running();
            tracing::debug!("starting");
            let started = start(core, id, call, &report.tool, &masking, cancels)
                .await
                .and_then(|started| started.watch(log, &core.chores));
            report.timings.starting = log.began().elapsed() - report.timings.queued;
            match started {
                Err(kind) => Err(kind),
                Ok(watched) => {
                    masking = watched.masking.clone();
                    masking.text(&mut report.tool);
                    cancels.stage().reach(State::Running);
                    Running::new(core, watched, log, cancels).run(&mut report).await
                }
            }
        }
    };
    let ended = ended.map_err(|kind| masking.error(kind));
    report.timings.total = log.began().elapsed();
    tracing::debug!(%id, tool = report.tool, outcome = ended.as_ref().err().map_or("ok", ErrorKind::name), "ended");
    match ended {
        Ok(()) => Ok(report),
        Err(kind) => Err(ExecutionError::new(kind, report)),
    }
}

/// Waits for its turn. Whose end was asked for before it came is never started.
async fn admit<'a>(core: &'a Core, call: &Call, cancels: &Cancels) -> Result<Permit<'a>, ErrorKind> {
    if let Some(cancellation) = cancels.standing() {
        return Err(cancellation.into());
    }
    let owner = call.owner.as_deref();
    owner.map_or(Ok(()), |owner| call::check_name("owner", owner))?;
    let memory = if core.queue.weighs() { core.starter.memory(call) } else { 0 };
    let claim = Claim { owner: owner.map(Arc::from), memory };
    let patience = call.limits.clone().over(&core.starter.limits).queue_timeout();
    let permit = tokio::select! { biased;
        cancellation = cancels.requested() => return Err(cancellation.into()),
        admitted = core.queue.admit(claim, patience) => admitted?,
    };
    if cancels.stage().begin() {
        return Ok(permit);
    }
    Err(cancels.standing().unwrap_or_else(|| CancelSource::Caller.into()).into())
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
    let (starter, masking) = (core.starter.clone(), masking.clone());
    match timeout(START_TIMEOUT, place.spawn(move || starter.start(id, call, masking))).await {
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
