//! One declared tool.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use tool_engine::{Limits, Policy, ResourceLimits, Retry};

use crate::{
    manifest::{Annotations, Warm},
    runtime::Runtime,
    schema::Schema,
    units,
};

/// A tool, as a program declares it or a manifest. A manifest's are checked; the others are when they are made callable.
#[derive(Debug, Clone)]
#[must_use = "a tool can be called when it is given to `Tools::builder`"]
#[non_exhaustive]
pub struct Tool {
    /// `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`.
    pub name: String,
    /// What it does, for people and models that choose among tools.
    pub description: Option<String>,
    /// What it is made of.
    pub source: Source,
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
    pub retry: Retry,
    /// Whether it is started ahead of its calls.
    pub warm: Warm,
    /// What callers may know about it beforehand.
    pub annotations: Annotations,
    /// What its input has to be like.
    pub input_schema: Option<Schema>,
    /// What its value has to be like.
    pub output_schema: Option<Schema>,
    /// The folder it runs in.
    pub workdir: Option<PathBuf>,
}

/// What a tool is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A function in a file.
    Script {
        /// What loads the file.
        runtime: Runtime,
        /// The file. A manifest's is an absolute path without symbolic links.
        entry: PathBuf,
        /// Which of its exports is the tool. `None`: the default one, or the only function.
        export: Option<String>,
    },
    /// A program and its arguments. A program that a manifest names by a relative path lies beside it and is absolute here.
    Command(Vec<OsString>),
}

impl Tool {
    pub(crate) fn new(name: impl Into<String>, source: Source) -> Self {
        Self {
            name: name.into(),
            description: None,
            source,
            limits: Limits::default(),
            max_timeout: None,
            resources: ResourceLimits::default(),
            policy: Policy::default(),
            env: Vec::new(),
            env_pass: Vec::new(),
            secrets: Vec::new(),
            config: Value::Null,
            retry: Retry::default(),
            warm: Warm::default(),
            annotations: Annotations::default(),
            input_schema: None,
            output_schema: None,
            workdir: None,
        }
    }

    /// A function in a file that this runtime loads: the default export (in Python, `run`), or the only function that it
    /// exports. For [`Runtime::Shell`] it is a script that gets the input as JSON on its standard input; what it writes to
    /// standard output is the result (parsed where it is JSON, a string otherwise).
    pub fn script(name: impl Into<String>, runtime: Runtime, entry: impl Into<PathBuf>) -> Self {
        Self::new(name, Source::Script { runtime, entry: entry.into(), export: None })
    }

    /// A program: it gets the input as JSON on its standard input, and what it writes to standard output is the result
    /// (parsed where it is JSON, a string otherwise).
    pub fn command<W: Into<OsString>>(name: impl Into<String>, words: impl IntoIterator<Item = W>) -> Self {
        Self::new(name, Source::Command(words.into_iter().map(Into::into).collect()))
    }

    /// Which export of the file is the tool. Commands and shell scripts have none; there it means nothing.
    pub fn export(mut self, name: impl Into<String>) -> Self {
        if let Source::Script { export, .. } = &mut self.source {
            *export = Some(name.into());
        }
        self
    }

    /// Settings that are the same for every call; the tool finds them in `ctx.config`.
    pub fn config(mut self, config: impl Into<Value>) -> Self {
        self.config = config.into();
        self
    }

    /// What it is for, in a sentence.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// Limits for calls that say nothing else. A call may lower them, not raise them; but for the timeout, which may be
    /// raised up to [`max_timeout`](Self::max_timeout).
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The longest timeout that a call may ask for. Default: the engine's.
    pub fn max_timeout(mut self, longest: Duration) -> Self {
        self.max_timeout = Some(longest);
        self
    }

    /// Tries calls again that fail. A call may ask for less, not for more. Default: once is all.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// What it may touch. Where that cannot be enforced, calls are refused, unless the policy names a level that can.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How much it may use. Where that cannot be enforced, calls are refused, unless the policy names a level that can.
    pub fn resources(mut self, resources: ResourceLimits) -> Self {
        self.resources = resources;
        self
    }

    /// A variable of its environment, which is otherwise clean. Checked like those of a call.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Variables that it gets as they are in [`ToolsBuilder::variables`](crate::ToolsBuilder::variables), where they are
    /// there.
    pub fn env_pass<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.env_pass = names.into_iter().map(Into::into).collect();
        self
    }

    /// Variables that it gets likewise, and whose values are masked in everything that is told of its calls. A call
    /// without one of them is refused.
    pub fn secrets<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.secrets = names.into_iter().map(Into::into).collect();
        self
    }

    /// What its input must be like. Checked before anything is started. Without one, what the tool's file declares
    /// counts, which is checked before the tool is called.
    pub fn input_schema(mut self, schema: Schema) -> Self {
        self.input_schema = Some(schema);
        self
    }

    /// What its value must be like. Without one, what the tool's file declares counts.
    pub fn output_schema(mut self, schema: Schema) -> Self {
        self.output_schema = Some(schema);
        self
    }

    /// The folder it runs in. Default: the engine's own.
    pub fn workdir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.workdir = Some(folder.into());
        self
    }
}

impl Tool {
    /// The runtime that it runs in.
    pub fn runtime(&self) -> Runtime {
        match &self.source {
            Source::Script { runtime, .. } => *runtime,
            Source::Command(_) => Runtime::Command,
        }
    }

    /// What is known of it without starting it, as JSON: what it is, its schemas, its limits and its policy. What is not
    /// set is left out.
    pub fn document(&self) -> Value {
        let seconds = |time: Duration| json!(time.as_secs_f64());
        let mut document = json!({
            "name": self.name,
            "description": self.description,
            "runtime": self.runtime().name(),
            "workdir": self.workdir,
            "input_schema": self.input_schema.as_ref().map(Schema::source),
            "output_schema": self.output_schema.as_ref().map(Schema::source),
            "timeout_s": self.limits.timeout.map(seconds),
            "max_timeout_s": self.max_timeout.map(seconds),
            "idle_timeout_s": self.limits.idle_timeout.map(seconds),
            "kill_grace_s": self.limits.kill_grace.map(seconds),
            "after_exit": self.limits.after_exit.map(units::show_after_exit),
            "drain_s": self.limits.drain.map(seconds),
            "overflow": self.limits.overflow.map(units::show_overflow),
            "limits": left({
                let resources = &self.resources;
                json!({
                    "memory": resources.memory,
                    "pids": resources.pids,
                    "cpus": resources.cpus,
                    "cpu_time_s": resources.cpu_time.map(seconds),
                    "file_size": resources.file_size,
                    "open_files": resources.open_files,
                    "tmp_size": resources.tmp_size,
                    "tmp_files": resources.tmp_files,
                    "stdout": self.limits.stdout,
                    "stderr": self.limits.stderr,
                    "message": self.limits.message,
                })
            }),
            "policy": left(json!({
                "network": self.policy.network,
                "ro": list(&self.policy.ro),
                "rw": list(&self.policy.rw),
                "hide": list(&self.policy.hide),
                "tmpfs": list(&self.policy.tmpfs.iter().map(units::show_tmpfs).collect::<Vec<_>>()),
                "user": self.policy.user,
                "level": self.policy.level.map(tool_engine::Level::number),
            })),
            "env": list(&self.env.iter().map(|(name, _)| name).collect::<Vec<_>>()),
            "env_pass": list(&self.env_pass),
            "secrets": list(&self.secrets),
            "annotations": left(json!({
                "title": self.annotations.title,
                "read_only": self.annotations.read_only,
                "idempotent": self.annotations.idempotent,
                "destructive": self.annotations.destructive,
                "open_world": self.annotations.open_world,
            })),
            "retry": left(json!({
                "attempts": self.retry.attempts,
                "backoff_s": self.retry.backoff.map(seconds),
                "max_backoff_s": self.retry.max_backoff.map(seconds),
                "jitter": self.retry.jitter,
                "on": self.retry.on,
                "deadline_s": self.retry.deadline.map(seconds),
            })),
            "warm": match self.warm {
                Warm::Auto => Value::Null,
                Warm::Never => "never".into(),
                Warm::Count(count) => count.into(),
            },
        });
        match (&self.source, document.as_object_mut()) {
            (Source::Script { entry, export, .. }, Some(fields)) => {
                fields.insert("entry".into(), json!(entry));
                fields.insert("export".into(), json!(export));
            }
            (Source::Command(words), Some(fields)) => {
                let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
                fields.insert("command".into(), json!(words));
            }
            (_, None) => {}
        }
        left(document)
    }
}

/// The fields of an object that are set; null when none is.
fn left(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    if object.as_object().is_some_and(serde_json::Map::is_empty) { Value::Null } else { object }
}

fn list<T: serde::Serialize>(items: &[T]) -> Value {
    if items.is_empty() { Value::Null } else { json!(items) }
}

/// `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`: what MCP, URLs, file names and command lines can all carry.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}
