//! One tool as it is declared, by a manifest or by a program.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;
use tool_engine::{Limits, Policy, ResourceLimits};

use crate::schema::Schema;

/// A tool as it is declared. A manifest's are checked; what a program builds is checked when it is made callable.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Declaration {
    /// `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`.
    pub name: String,
    /// What it does, for people and models that choose among tools.
    pub description: Option<String>,
    /// `bun`, `node`, `deno`, `python`, `shell` or `command`.
    pub runtime: String,
    /// The file that the runtime loads. An absolute path without symbolic links; none with `command`.
    pub entry: Option<PathBuf>,
    /// Which of the file's functions it is. `None`: the default one, or the only one.
    pub export: Option<String>,
    /// A program and its arguments, with `command`. A program that is named by a relative path lies beside the manifest
    /// and is absolute here.
    pub command: Vec<String>,
    /// How long a call may take and how much it may say.
    pub limits: Limits,
    /// The longest timeout that a call may ask for.
    pub max_timeout: Option<Duration>,
    /// How much it may use.
    pub resources: ResourceLimits,
    /// What it may touch.
    pub policy: Policy,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
    /// Variables that it gets as they are where the engine runs.
    pub env_pass: Vec<String>,
    /// Variables that it gets likewise, and whose values are kept out of everything that is shown.
    pub secrets: Vec<String>,
    /// Settings that are the same for every call.
    pub config: Value,
    /// Whether a failed call is tried again.
    pub retry: Option<Retry>,
    /// Whether it is started ahead of its calls.
    pub warm: Warm,
    /// What callers may know about it beforehand.
    pub annotations: Annotations,
    /// What its input has to be like.
    pub input_schema: Option<Schema>,
    /// What its value has to be like.
    pub output_schema: Option<Schema>,
    /// The folder it runs in. An absolute path.
    pub workdir: Option<PathBuf>,
}

impl Declaration {
    /// A tool of this name, with everything else to be filled in.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: None,
            runtime: String::new(),
            entry: None,
            export: None,
            command: Vec::new(),
            limits: Limits::default(),
            max_timeout: None,
            resources: ResourceLimits::default(),
            policy: Policy::default(),
            env: Vec::new(),
            env_pass: Vec::new(),
            secrets: Vec::new(),
            config: Value::Null,
            retry: None,
            warm: Warm::Auto,
            annotations: Annotations::default(),
            input_schema: None,
            output_schema: None,
            workdir: None,
        }
    }
}

/// How a failed call is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// How often it is tried in all; 1 is not again.
    pub attempts: u32,
    /// How long to wait before the second attempt; each further time twice as long. Default 200 ms.
    pub backoff: Duration,
    /// The longest wait. Default 30 s.
    pub max_backoff: Duration,
    /// Whether the wait is shortened by chance, so that many do not come again at the same time. Default yes.
    pub jitter: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 1,
            backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(30),
            jitter: true,
        }
    }
}

/// Whether a tool is started ahead of its calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Warm {
    /// When it is called often.
    #[default]
    Auto,
    /// Never.
    Never,
    /// This many wait for a call.
    Count(u32),
}

/// What callers may know about a tool beforehand. Nothing is enforced by it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// What to call it before people.
    pub title: Option<String>,
    /// It changes nothing.
    pub read_only: Option<bool>,
    /// Calling it again with the same input changes nothing more.
    pub idempotent: Option<bool>,
    /// It may destroy something.
    pub destructive: Option<bool>,
    /// It deals with things outside: the web, mail.
    pub open_world: Option<bool>,
}
