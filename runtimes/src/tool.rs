//! One declared tool.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use serde_json::Value;
use tool_engine::{Limits, Policy, ResourceLimits};

use crate::runtime::Runtime;

/// A tool: its name and what it is made of.
#[derive(Debug, Clone)]
#[must_use = "a tool can be called when it is given to `Tools::builder`"]
pub struct Tool {
    pub(crate) name: String,
    pub(crate) source: Source,
    pub(crate) config: Value,
    pub(crate) description: String,
    pub(crate) limits: Limits,
    pub(crate) max_timeout: Option<Duration>,
    pub(crate) policy: Policy,
    pub(crate) resources: ResourceLimits,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) workdir: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A file that a runtime loads, and which of its exports is the tool.
    Script { runtime: Runtime, entry: PathBuf, export: Option<String> },
    /// A program and its arguments.
    Command(Vec<OsString>),
}

impl Tool {
    fn new(name: impl Into<String>, source: Source) -> Self {
        Self {
            name: name.into(),
            source,
            config: Value::Null,
            description: String::new(),
            limits: Limits::default(),
            max_timeout: None,
            policy: Policy::default(),
            resources: ResourceLimits::default(),
            env: Vec::new(),
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
        self.description = text.into();
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

    /// The folder it runs in. Default: the engine's own.
    pub fn workdir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.workdir = Some(folder.into());
        self
    }
}
