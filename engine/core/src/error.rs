//! Every way in which an execution can end without success.

use std::time::Duration;

use nix::errno::Errno;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tool_sandbox::{Architecture, ExitStatus, LaunchError, LaunchStep};

use crate::report::{Report, Stream};

/// An execution that did not succeed: why, and everything that is known of it, partial output included.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{kind}")]
pub struct ExecutionError {
    kind: ErrorKind,
    report: Box<Report>,
}

impl ExecutionError {
    pub(crate) fn new(kind: ErrorKind, report: Report) -> Self {
        Self { kind, report: Box::new(report) }
    }

    /// Why.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// What is known: output, timings and usage are there on every ending.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Both, by value.
    pub fn into_parts(self) -> (ErrorKind, Report) {
        (self.kind, *self.report)
    }

    /// Whether the same call may well succeed when it is made again: [`ErrorKind::is_retryable`].
    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
    }
}

/// Why an execution did not succeed. Found on evidence, never guessed: a SIGKILL that we did not send is
/// `Process(Signal(9))` and no timeout.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The process ended by itself, and not with exit code 0, without a result.
    #[error("{}", describe_exit(*status))]
    Process {
        /// How it ended.
        status: ExitStatus,
    },
    /// The tool threw an error, or could not be loaded.
    #[error("{0}")]
    Tool(Box<ToolError>),
    /// The call is wrong; nothing was started.
    #[error("invalid {subject}: {message}; {hint}")]
    Invalid {
        /// What of the call is wrong.
        subject: String,
        /// What is wrong with it.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The worker's answer is missing or cannot be read.
    #[error("{fault}{}", quoted(excerpt))]
    Protocol {
        /// What is wrong with it.
        fault: ProtocolFault,
        /// The beginning of what was received instead.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        excerpt: String,
    },
    /// The outcome is unknown, because what should have told it is gone.
    #[error("the outcome is lost: {reason}")]
    Lost {
        /// What is gone.
        reason: String,
    },
    /// There was no room for the call; nothing was started.
    #[error(
        "the engine is busy: {reason}; try again later, or allow more with `max_running` or `max_queued`"
    )]
    Busy {
        /// Which bound was hit.
        reason: String,
    },
    /// The tool used more than it may.
    #[error("the tool went past its limit of {limit}")]
    Limit {
        /// Which limit.
        #[serde(flatten)]
        limit: Limit,
    },
    /// The tool took too long and was stopped.
    #[error("{} {after:?}", match clock { Clock::Wall => "timed out after", Clock::Idle => "timed out: no output or progress for" })]
    Timeout {
        /// Which clock ran out.
        clock: Clock,
        /// The time allowed.
        #[serde(rename = "after_ms", with = "crate::report::millis")]
        #[schemars(with = "f64")]
        after: Duration,
    },
    /// What the call demands cannot be enforced here; nothing was started.
    #[error("cannot be sandboxed as asked: {missing}; {hint}")]
    Sandbox {
        /// What is missing.
        missing: String,
        /// How to get it.
        hint: String,
    },
    /// The process could not be started; nothing was left behind.
    #[error("{}", describe_spawn(*step, subject, *errno, hint))]
    Spawn {
        /// The step that failed.
        step: LaunchStep,
        /// What it failed on: a path or a name.
        subject: String,
        /// The kernel's error number (errno(3)); 0 when there is none.
        errno: i32,
        /// What to do, where that is known.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        hint: String,
    },
    /// Somebody asked for the end.
    #[error("canceled {by}{}", reason.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Canceled {
        /// Who.
        by: CancelSource,
        /// Why, in their words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

impl ErrorKind {
    /// Whether the same call may well succeed when it is made again: there was no room, the machine ran out of
    /// something, or the outcome was lost. What the tool itself did is never retryable.
    pub fn is_retryable(&self) -> bool {
        match self {
            ErrorKind::Busy { .. } | ErrorKind::Lost { .. } => true,
            ErrorKind::Spawn { step, errno, .. } => {
                matches!(step, LaunchStep::Pipe | LaunchStep::Fork | LaunchStep::Pidfd)
                    || matches!(Errno::from_raw(*errno), Errno::EMFILE | Errno::ENFILE)
            }
            _ => false,
        }
    }

    /// The name of the kind, as in the JSON report.
    pub fn name(&self) -> &'static str {
        match self {
            ErrorKind::Process { .. } => "process",
            ErrorKind::Tool(_) => "tool",
            ErrorKind::Invalid { .. } => "invalid",
            ErrorKind::Protocol { .. } => "protocol",
            ErrorKind::Lost { .. } => "lost",
            ErrorKind::Busy { .. } => "busy",
            ErrorKind::Limit { .. } => "limit",
            ErrorKind::Timeout { .. } => "timeout",
            ErrorKind::Sandbox { .. } => "sandbox",
            ErrorKind::Spawn { .. } => "spawn",
            ErrorKind::Canceled { .. } => "canceled",
        }
    }
}

/// What a tool threw.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize, JsonSchema)]
#[error("{}{name}: {message}", match phase { ToolPhase::Load => "the tool could not be loaded: ", ToolPhase::Run => "", ToolPhase::Result => "the tool's result cannot be handed over: " })]
pub struct ToolError {
    /// When.
    pub phase: ToolPhase,
    /// The error's class.
    pub name: String,
    /// The error's own words.
    pub message: String,
    /// Where it was thrown, in the runtime's format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// The error's own fields and its cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// When a tool threw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolPhase {
    /// While it was loaded.
    Load,
    /// While it ran.
    Run,
    /// While its result was turned into JSON.
    Result,
}

/// What is wrong with a worker's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProtocolFault {
    /// It ended with exit code 0 and without a result.
    NoResult,
    /// A line is longer than [`Limits::message`](crate::Limits::message).
    TooLong,
    /// It speaks another version of the protocol.
    Version,
}

impl std::fmt::Display for ProtocolFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ProtocolFault::NoResult => {
                "the tool ended with exit code 0 but without a result; return a value instead of calling exit"
            }
            ProtocolFault::TooLong => {
                "the tool's answer is longer than a message may be; return less, or write it to a file"
            }
            ProtocolFault::Version => "the worker speaks another version of the protocol than this engine",
        })
    }
}

/// A limit that was hit, on the evidence of the kernel or of our own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "limit", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Limit {
    /// More output than [`Limits::stdout`](crate::Limits::stdout) or `stderr`, with
    /// [`Overflow::Fail`](crate::Overflow::Fail).
    Output {
        /// Where.
        stream: Stream,
        /// The limit in bytes.
        bytes: u64,
    },
    /// The kernel killed a process of the call for want of memory (`oom_kill` of its cgroup).
    Memory {
        /// The limit in bytes, if there was one; otherwise the machine's own memory was used up.
        bytes: Option<u64>,
    },
    /// More time on processors than [`ResourceLimits::cpu_time`](tool_sandbox::ResourceLimits::cpu_time).
    Cpu {
        /// The limit.
        #[serde(rename = "seconds", with = "crate::report::seconds")]
        #[schemars(with = "f64")]
        time: Duration,
    },
    /// A larger file than [`ResourceLimits::file_size`](tool_sandbox::ResourceLimits::file_size) (SIGXFSZ).
    FileSize {
        /// The limit in bytes.
        bytes: u64,
    },
    /// A system call of another architecture, which is refused: the kernel ended the process with SIGSYS. All other calls that
    /// are refused come back with an error.
    Syscall {
        /// The architecture, if the program was made for it. `None`: the program was not, and so nobody knows whether it made
        /// such a call all the same, or a filter or signal of its own ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        architecture: Option<Architecture>,
    },
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Limit::Output { stream, bytes } => write!(f, "{bytes} bytes of {stream}"),
            Limit::Memory { bytes: Some(bytes) } => {
                write!(f, "{bytes} bytes of memory: the kernel killed a process of it")
            }
            Limit::Memory { bytes: None } => {
                f.write_str("memory: the machine has no more, and the kernel killed a process of it")
            }
            Limit::Cpu { time } => write!(f, "{time:?} on processors"),
            Limit::FileSize { bytes } => write!(f, "{bytes} bytes in a file"),
            Limit::Syscall { architecture: Some(architecture) } => {
                write!(f, "system calls: it is a program for {architecture}, whose calls are refused in a sandbox")
            }
            Limit::Syscall { architecture: None } => f.write_str(
                "system calls: SIGSYS ended it, which in a sandbox is the end of one that makes calls of another \
                 architecture (or of one with a filter of its own)",
            ),
        }
    }
}

/// Which clock of a call ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// The whole run.
    Wall,
    /// The time since the last output or progress.
    Idle,
}

/// Who asked for the end of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CancelSource {
    /// [`Execution::cancel`](crate::Execution::cancel).
    Caller,
    /// A token given to [`Call::cancel_on`](crate::Call::cancel_on).
    Token,
    /// The [`Execution`](crate::Execution) was dropped.
    Dropped,
    /// [`Engine::shutdown`](crate::Engine::shutdown), or the last [`Engine`](crate::Engine) was dropped.
    Shutdown,
    /// The calling program received this signal.
    Signal(i32),
}

impl std::fmt::Display for CancelSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CancelSource::Caller => f.write_str("by the caller"),
            CancelSource::Token => f.write_str("by the caller's token"),
            CancelSource::Dropped => f.write_str("because nobody waits for it any more"),
            CancelSource::Shutdown => f.write_str("because the engine shuts down"),
            CancelSource::Signal(number) => write!(f, "by {}", signal_name(*number)),
        }
    }
}

pub(crate) fn invalid(
    subject: impl Into<String>,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> ErrorKind {
    ErrorKind::Invalid { subject: subject.into(), message: message.into(), hint: hint.into() }
}

/// Why nobody can tell how a child ended.
pub(crate) fn reaped_by_others() -> ErrorKind {
    ErrorKind::Lost {
        reason: "something else in this program reaped the child; do not wait for children you did not start, and leave \
                 SIGCHLD at its default"
            .into(),
    }
}

impl From<LaunchError> for ErrorKind {
    fn from(error: LaunchError) -> Self {
        let errno = error.source.raw_os_error().unwrap_or(0);
        if error.step == LaunchStep::Pidfd && errno == Errno::ESRCH as i32 {
            // It was started, and ended so soon that it had been reaped before we could look at it.
            return reaped_by_others();
        }
        let hint = error.hint.clone().unwrap_or_default();
        // What ran out is neither the policy's fault nor the machine's for good.
        let ran_out =
            matches!(Errno::from_raw(errno), Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EAGAIN);
        match error.step {
            LaunchStep::Policy | LaunchStep::Sandbox if !ran_out => {
                return ErrorKind::Sandbox { missing: error.to_string(), hint };
            }
            LaunchStep::Zygote => return ErrorKind::Lost { reason: format!("{error}; {hint}") },
            _ => {}
        }
        ErrorKind::Spawn {
            step: error.step,
            errno,
            subject: error.subject,
            hint: match error.hint {
                Some(hint) => hint,
                None if matches!(Errno::from_raw(errno), Errno::EMFILE | Errno::ENFILE) => {
                    "raise the limit of open files (`ulimit -n`), or run fewer calls at once".into()
                }
                None => String::new(),
            },
        }
    }
}

fn describe_exit(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exited with code {code}"),
        ExitStatus::Signal(number) => {
            format!("killed by {}, which the engine did not send", signal_name(number))
        }
    }
}

fn describe_spawn(step: LaunchStep, subject: &str, errno: i32, hint: &str) -> String {
    let words = std::io::Error::from_raw_os_error(errno);
    let hint = if hint.is_empty() { String::new() } else { format!("; {hint}") };
    format!("could not be started: {step} {subject:?} failed: {words}{hint}")
}

fn quoted(excerpt: &str) -> String {
    if excerpt.is_empty() { String::new() } else { format!("; received: {excerpt:?}") }
}

fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number).map_or_else(
        |_| format!("signal {number}"),
        |signal| format!("{} (signal {number})", signal.as_str()),
    )
}
