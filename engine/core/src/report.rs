//! What is known of an execution when it has ended.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tool_sandbox::{Enforced, ExitStatus, Residue};

use crate::{
    capture::Captured,
    error::{ErrorKind, ExecutionError},
    execution::ExecutionId,
};

/// One of a process's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl std::fmt::Display for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        })
    }
}

/// What is known of an execution, however it ended.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Report {
    /// The execution's id (a UUIDv7, RFC 9562).
    pub id: ExecutionId,
    /// The tool's name, or the command that was run.
    pub tool: String,
    /// The tool's result. `None` for a plain command, and when there is none.
    pub value: Option<Value>,
    /// How the process ended; `None` when none was started, its status is lost, or it could not be reaped in time.
    pub exit: Option<ExitStatus>,
    /// What it wrote to standard output.
    pub stdout: Captured,
    /// What it wrote to standard error.
    pub stderr: Captured,
    /// How long each phase took. With several attempts: of the last one, and `total` is all of it.
    pub timings: Timings,
    /// What it used. With several attempts: the last one, as in `value`, `exit`, `stdout`, `stderr` and `enforced`.
    pub usage: Usage,
    /// What was enforced; `None` when nothing was started.
    pub enforced: Option<Enforced>,
    /// What still ran when the tool had ended, and was killed. Of all attempts.
    pub residue: Vec<Residue>,
    /// There may be more than `residue` names: of a sandbox it names 50 at most, and looking for what still ran may have taken too
    /// long and been given up. That they were killed does not depend on it.
    pub sweep_incomplete: bool,
    /// Somebody out of reach still held the tool's stdout or stderr when we stopped listening, so that there may have
    /// been more to come.
    pub pipe_held: bool,
    /// The process had been killed but had not died when the time for that was over; it is reaped in the background.
    pub kill_pending: bool,
    /// Lines on the worker's channel that were no message, or came after the result, and were thrown away.
    pub discarded_messages: u64,
    /// What to do about a failure, where that is known for sure: what the tool named at its end, is there, and was not shown
    /// to it.
    pub hints: Vec<String>,
    /// The tool had not ended by itself, nor on SIGTERM, and got SIGKILL.
    #[serde(skip)]
    pub(crate) killed: bool,
    /// Every attempt and how it ended, where the first was not to be the last one ([`Call::retry`](crate::Call::retry));
    /// empty otherwise.
    pub attempts: Vec<Attempt>,
}

impl Report {
    pub(crate) fn new(id: ExecutionId, tool: String) -> Self {
        Self {
            id,
            tool,
            value: None,
            exit: None,
            stdout: Captured::default(),
            stderr: Captured::default(),
            timings: Timings::default(),
            usage: Usage::default(),
            enforced: None,
            residue: Vec::new(),
            sweep_incomplete: false,
            pipe_held: false,
            kill_pending: false,
            discarded_messages: 0,
            hints: Vec::new(),
            killed: false,
            attempts: Vec::new(),
        }
    }

    /// Takes over what concerns the whole execution from the report of the attempt before.
    pub(crate) fn follow(&mut self, mut earlier: Self) {
        self.attempts = earlier.attempts;
        earlier.residue.append(&mut self.residue);
        self.residue = earlier.residue;
        self.sweep_incomplete |= earlier.sweep_incomplete;
        self.kill_pending |= earlier.kill_pending;
        self.killed |= earlier.killed;
    }

    /// Notes the attempt that this is the report of. It `began` so long after the submission.
    pub(crate) fn note_attempt(&mut self, began: Duration, error: Option<&ErrorKind>) {
        self.attempts.push(Attempt {
            outcome: error.map_or("ok", ErrorKind::name),
            description: error.map(ToString::to_string),
            exit: self.exit,
            began,
            timings: self.timings,
            usage: self.usage,
        });
    }
}

/// One of several attempts.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Attempt {
    /// `ok`, or the name of the error's kind.
    pub outcome: &'static str,
    /// The error in a sentence; `None` when there was none.
    pub description: Option<String>,
    /// How its process ended, as in the report.
    pub exit: Option<ExitStatus>,
    /// When it began, since the call was submitted.
    #[serde(rename = "began_ms", with = "millis")]
    #[schemars(with = "f64")]
    pub began: Duration,
    /// How long each of its phases took.
    pub timings: Timings,
    /// What it used.
    pub usage: Usage,
}

/// How long each phase of an execution took. What it never reached is zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Timings {
    /// Waiting for its turn.
    #[serde(rename = "queued_ms", with = "millis")]
    #[schemars(with = "f64")]
    pub queued: Duration,
    /// From then until the program was executed.
    #[serde(rename = "starting_ms", with = "millis")]
    #[schemars(with = "f64")]
    pub starting: Duration,
    /// From then until it ended, gave its result, or was stopped.
    #[serde(rename = "running_ms", with = "millis")]
    #[schemars(with = "f64")]
    pub running: Duration,
    /// From then until SIGKILL: the grace after SIGTERM, or what [`AfterExit`](crate::AfterExit) allows.
    #[serde(rename = "stopping_ms", with = "millis")]
    #[schemars(with = "f64")]
    pub stopping: Duration,
    /// From then until output was at its end and the process reaped.
    #[serde(rename = "draining_ms", with = "millis")]
    #[schemars(with = "f64")]
    pub draining: Duration,
    /// All of it.
    #[serde(rename = "total_ms", with = "millis")]
    #[schemars(with = "f64")]
    pub total: Duration,
}

/// What an execution used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Usage {
    /// From exec until the process was reaped.
    #[serde(rename = "wall_ms", with = "millis")]
    #[schemars(with = "f64")]
    pub wall: Duration,
    /// CPU time in user mode, of all its processes. Without a cgroup: of the leader and the descendants that it waited for.
    #[serde(rename = "cpu_user_ms", with = "millis")]
    #[schemars(with = "f64")]
    pub cpu_user: Duration,
    /// CPU time in the kernel, of the same processes.
    #[serde(rename = "cpu_system_ms", with = "millis")]
    #[schemars(with = "f64")]
    pub cpu_system: Duration,
    /// The most memory that all its processes had at a time, in bytes, files in memory included. Without a cgroup: the
    /// largest resident set that one of these processes had, in bytes. `None` when it is below
    /// `peak_memory_at_most` and the kernel cannot say by how much.
    pub peak_memory: Option<u64>,
    /// A bound on the peak memory that always holds, in bytes. It cannot be below the engine's own at the time of the
    /// start, where a process's mark begins.
    pub peak_memory_at_most: u64,
    /// The most processes and threads at a time; `None` where nobody counted.
    pub peak_pids: Option<u64>,
    /// How many of its processes the kernel killed for want of memory, also where the tool went on without them; `None`
    /// where nobody counted.
    pub oom_kills: Option<u64>,
    /// How many times it could not start another process or thread because of its limit; `None` where nobody counted.
    pub pids_refused: Option<u64>,
    /// Bytes handed to the tool: standard input that we wrote (a file passed on is not counted), and the input on the
    /// worker's channel.
    pub bytes_in: u64,
    /// Bytes of standard output and standard error, as the tool wrote them: before secrets were masked.
    pub bytes_out: u64,
}

/// One ending, as every surface shows it: [`ReportDocument::new`] makes it from what an
/// [`Execution`](crate::Execution) resolves to.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "run-tool report")]
pub struct ReportDocument<'a> {
    /// The version of this format.
    pub version: u32,
    /// `ok`, or the kind of the error.
    pub outcome: &'a str,
    /// Why it did not succeed; `null` when it did.
    pub error: Option<ErrorDocument<'a>>,
    /// What is known.
    #[serde(flatten)]
    pub report: &'a Report,
}

/// An error and its words.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ErrorDocument<'a> {
    /// The kind and its facts.
    #[serde(flatten)]
    pub kind: &'a ErrorKind,
    /// In a sentence: what, where, and what to do.
    pub description: String,
    /// Whether the same call may well succeed when it is made again.
    pub retryable: bool,
}

impl<'a> ReportDocument<'a> {
    /// The document of an ending.
    pub fn new(end: &'a Result<Report, ExecutionError>) -> Self {
        let (report, error) = match end {
            Ok(report) => (report, None),
            Err(error) => (error.report(), Some(error.kind())),
        };
        Self {
            version: 1,
            outcome: error.map_or("ok", ErrorKind::name),
            error: error.map(|kind| ErrorDocument {
                kind,
                description: kind.to_string(),
                retryable: kind.is_retryable(),
            }),
            report,
        }
    }

    /// The JSON Schema (2020-12) of the document.
    pub fn schema() -> schemars::Schema {
        schemars::schema_for!(ReportDocument<'static>)
    }
}

/// A duration as seconds.
pub(crate) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(time.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A duration as milliseconds, with the microseconds behind the point.
pub(crate) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        // Rounded to whole microseconds first, so that no 0.30000000000000004 gets out.
        serializer.serialize_f64(time.as_micros() as f64 / 1000.0)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let time = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(time / 1000.0).map_err(serde::de::Error::custom)
    }
}
