//! From what happened to what it is called, in one place.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tool_sandbox::{Architecture, Exit, ExitStatus, ResourceLimits};

use crate::{
    cancel::Cancellation,
    capture::Captured,
    error::{Clock, ErrorKind, Limit, ProtocolFault, ToolError, reaped_by_others},
    lane::{Lane, Unfinished},
    limits::Settled,
    masking::Masking,
    plan::{Declared, Protocol},
    report::Stream,
    start::{Terms, stdio_value},
    streams::Finish,
};

/// Why a run ended. Decided once, before anything is signalled.
#[derive(Debug)]
pub(crate) enum Cause {
    /// The process ended by itself.
    Exited,
    /// The worker gave the tool's result, or its error.
    Result(Result<Value, ToolError>),
    Canceled(Cancellation),
    Timeout(Clock),
    Overflow(Stream),
    Limit(Limit),
    /// The tool does not take this input.
    Refused(ErrorKind),
    Fault(ProtocolFault),
    /// Somebody else reaped the process.
    Lost,
}

impl Cause {
    /// Whether it ended by itself, so that what it left behind may have its time.
    pub(crate) fn is_natural(&self) -> bool {
        matches!(self, Cause::Exited | Cause::Result(_) | Cause::Lost)
    }
}

impl From<Finish> for Cause {
    fn from(finish: Finish) -> Self {
        match finish {
            Finish::Result(result) => Cause::Result(result),
            Finish::Fault(fault) => Cause::Fault(fault),
            Finish::Overflow(stream) => Cause::Overflow(stream),
        }
    }
}

/// Everything that an outcome is judged on.
pub(crate) struct Evidence<'a> {
    pub(crate) cause: Cause,
    pub(crate) exit: Option<Exit>,
    pub(crate) resources: &'a ResourceLimits,
    /// Whether system calls were filtered.
    pub(crate) filtered: bool,
    /// The architecture that the program is for, if all its calls are refused.
    pub(crate) foreign: Option<Architecture>,
    pub(crate) protocol: &'a Protocol,
    pub(crate) terms: Option<Terms>,
    pub(crate) declared: Arc<Declared>,
    pub(crate) limits: &'a Settled,
    pub(crate) overflowed: Option<Stream>,
    /// Not masked where it is the value.
    pub(crate) stdout: &'a Captured,
    pub(crate) first_garbage: String,
    pub(crate) contained: bool,
    pub(crate) lane: &'a Lane,
    pub(crate) masking: Masking,
}

/// The one outcome: a value (which a plain command does not have), or why there is none.
pub(crate) async fn outcome(evidence: Evidence<'_>) -> Result<Option<Value>, ErrorKind> {
    let Evidence {
        mut cause,
        exit,
        resources,
        filtered,
        foreign,
        protocol,
        terms,
        declared,
        limits,
        overflowed,
        stdout,
        first_garbage,
        contained,
        lane,
        masking,
    } = evidence;
    // It may have been quicker to write too much and exit than we were to read it.
    if let (Cause::Exited, Some(stream)) = (&cause, overflowed) {
        cause = Cause::Overflow(stream);
    }
    let hit = exit.and_then(|exit| hit(exit, resources, filtered, foreign));
    match (cause, exit.map(|exit| exit.status)) {
        (Cause::Canceled(cancellation), _) => Err(cancellation.into()),
        (Cause::Timeout(clock), _) => Err(ErrorKind::Timeout {
            clock,
            after: match clock {
                Clock::Wall => limits.timeout,
                Clock::Idle => limits.idle_timeout.unwrap_or_default(),
            },
        }),
        (Cause::Overflow(stream), _) => Err(ErrorKind::Limit {
            limit: Limit::Output {
                stream,
                bytes: match stream {
                    Stream::Stdout => limits.stdout,
                    Stream::Stderr => limits.stderr,
                },
            },
        }),
        (Cause::Limit(limit), _) => Err(ErrorKind::Limit { limit }),
        (Cause::Fault(fault), _) => Err(ErrorKind::Protocol { fault, excerpt: first_garbage }),
        (Cause::Refused(kind), _) => Err(kind),
        (Cause::Result(Ok(value)), _) => agreed(value, terms, declared, masking, lane).await.map(Some),
        (Cause::Result(Err(error)), _) => Err(ErrorKind::Tool(Box::new(error))),
        (Cause::Lost, _) | (Cause::Exited, None) if contained => Err(ErrorKind::Lost {
            reason: "the zygote that had made its sandbox died, and everything in it with it; the next call gets a new one"
                .into(),
        }),
        (Cause::Lost, _) | (Cause::Exited, None) => Err(reaped_by_others()),
        (Cause::Exited, Some(ExitStatus::Code(0))) => match protocol {
            Protocol::ExitCode => Ok(None),
            Protocol::Stdio if stdout.dropped() > 0 => Err(ErrorKind::Limit {
                limit: Limit::Output { stream: Stream::Stdout, bytes: limits.stdout },
            }),
            Protocol::Stdio => {
                let output = stdout.bytes();
                let value = lane.spawn(move || stdio_value(&output)).await.map_err(interrupted)?;
                agreed(value, terms, declared, masking, lane).await.map(Some)
            }
            Protocol::Channel { .. } => {
                Err(ErrorKind::Protocol { fault: ProtocolFault::NoResult, excerpt: first_garbage })
            }
        },
        (Cause::Exited, Some(status)) => Err(match hit {
            Some(limit) => ErrorKind::Limit { limit },
            None => ErrorKind::Process { status },
        }),
    }
}

/// The limit that a process which did not succeed ran into, by what the kernel says of it. An exit code is no evidence:
/// 137 is what a shell says of a killed child, and what anybody may say.
fn hit(
    exit: Exit,
    resources: &ResourceLimits,
    filtered: bool,
    foreign: Option<Architecture>,
) -> Option<Limit> {
    const SIGKILL: i32 = nix::libc::SIGKILL;
    const SIGXCPU: i32 = nix::libc::SIGXCPU;
    const SIGXFSZ: i32 = nix::libc::SIGXFSZ;
    const SIGSYS: i32 = nix::libc::SIGSYS;
    const CPU_TICKS: Duration = Duration::from_millis(50);
    if exit.counted.oom_kills.is_some_and(|kills| kills > 0) {
        return Some(Limit::Memory { bytes: resources.memory });
    }
    let used = exit.usage.cpu_user + exit.usage.cpu_system;
    match (exit.status, resources.cpu_time, resources.file_size) {
        // The kernel sends these when the time is up, and a second later; whoever sends one to himself has not used that
        // much. For the first, the kernel counts in whole ticks, which on a busy machine comes to a good deal more than it
        // tells afterwards.
        (ExitStatus::Signal(SIGXCPU), Some(time), _) if used * 2 >= time => Some(Limit::Cpu { time }),
        (ExitStatus::Signal(SIGKILL), Some(time), _) if used + CPU_TICKS >= time => Some(Limit::Cpu { time }),
        (ExitStatus::Signal(SIGXFSZ), _, Some(bytes)) => Some(Limit::FileSize { bytes }),
        (ExitStatus::Signal(SIGSYS), ..) if filtered => Some(Limit::Syscall { architecture: foreign }),
        _ => None,
    }
}

/// The value, masked, if it is what the tool declares to return.
async fn agreed(
    mut value: Value,
    terms: Option<Terms>,
    declared: Arc<Declared>,
    masking: Masking,
    lane: &Lane,
) -> Result<Value, ErrorKind> {
    if terms.is_none() && masking.is_empty() {
        return Ok(value);
    }
    let check = move || {
        // Before it is masked: a number that is a secret is still a number.
        if let Some(Terms { contract, .. }) = terms {
            contract.check_output(&value, &declared)?;
        }
        masking.value(&mut value);
        Ok(value)
    };
    lane.spawn(check).await.map_err(interrupted)?.map_err(ErrorKind::Tool)
}

fn interrupted(_: Unfinished) -> ErrorKind {
    ErrorKind::Lost { reason: "reading the result was interrupted".into() }
}
