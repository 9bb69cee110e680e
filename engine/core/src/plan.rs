//! A call made concrete, and who makes it so.

use std::{ffi::OsString, fmt::Debug, path::PathBuf};

use serde_json::Value;

use crate::{call::Call, error::ErrorKind, limits::Limits};

/// Knows tools by name. The engine itself knows none, and no runtime either.
pub trait Catalog: Send + Sync + Debug {
    /// What to start for this call, whose target is a tool. May block for as long as it takes to look at files.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an unknown tool, an input that does not fit; nothing is started then.
    fn resolve(&self, call: &Call) -> Result<Plan, ErrorKind>;
}

/// A call made concrete: what to execute and how to speak to it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Plan {
    /// A path, or a name to be found in the `PATH` of the tool's environment.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to the clean environment. Unlike those of a call they are not checked.
    pub env: Vec<(String, String)>,
    /// The folder to run in.
    pub workdir: Option<PathBuf>,
    /// How to speak to it.
    pub protocol: Protocol,
    /// Limits, where the call says nothing.
    pub limits: Limits,
}

impl Plan {
    /// A plan for a program without arguments.
    pub fn new(program: impl Into<OsString>, protocol: Protocol) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            workdir: None,
            protocol,
            limits: Limits::default(),
        }
    }
}

/// How an input gets to a process, and how its result is told.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Protocol {
    /// There is no input and no value; exit code 0 is success.
    ExitCode,
    /// The input is written to standard input as JSON. With exit code 0, standard output is the value: parsed where it
    /// is JSON, as a string otherwise.
    Stdio,
    /// A worker speaks JSON lines over two FIFOs in the folder that `RUN_TOOL_CHANNEL` names. Its standard output is the
    /// tool's own; nothing of a result is ever read from there.
    Channel {
        /// Handed to the tool beside its input.
        config: Value,
    },
}
