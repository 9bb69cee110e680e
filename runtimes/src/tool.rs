//! One declared tool.

use std::{ffi::OsString, path::PathBuf};

use serde_json::Value;
use tool_engine::Limits;

/// A tool: its name and what it is made of.
#[derive(Debug, Clone)]
#[must_use = "a tool can be called when it is given to `Tools::builder`"]
pub struct Tool {
    pub(crate) name: String,
    pub(crate) source: Source,
    pub(crate) config: Value,
    pub(crate) limits: Limits,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) workdir: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A file that a JavaScript runtime loads, and which of its exports is the tool.
    Script { entry: PathBuf, export: Option<String> },
    /// A program and its arguments.
    Command(Vec<OsString>),
}

impl Tool {
    fn new(name: impl Into<String>, source: Source) -> Self {
        Self {
            name: name.into(),
            source,
            config: Value::Null,
            limits: Limits::default(),
            env: Vec::new(),
            workdir: None,
        }
    }

    /// A function in a JavaScript or TypeScript file, run by Bun: its default export, or the only function that it
    /// exports.
    pub fn bun(name: impl Into<String>, entry: impl Into<PathBuf>) -> Self {
        Self::new(name, Source::Script { entry: entry.into(), export: None })
    }

    /// A program: it gets the input as JSON on its standard input, and what it writes to standard output is the result
    /// (parsed where it is JSON, a string otherwise).
    pub fn command<W: Into<OsString>>(name: impl Into<String>, words: impl IntoIterator<Item = W>) -> Self {
        Self::new(name, Source::Command(words.into_iter().map(Into::into).collect()))
    }

    /// Which export of the file is the tool. A command has none; there it means nothing.
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

    /// Limits for calls that say nothing else.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
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
