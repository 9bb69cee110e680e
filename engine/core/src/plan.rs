//! A call made concrete, and who makes it so.

use std::{ffi::OsString, fmt::Debug, path::PathBuf, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use tool_sandbox::{Policy, ResourceLimits};

use crate::{
    call::Call,
    error::{ErrorKind, ToolError},
    limits::Limits,
    secrets::Secret,
};

/// Knows tools by name. The engine itself knows none, and no runtime either.
pub trait Catalog: Send + Sync + Debug {
    /// What to start for this call, whose target is a tool, or a tool's description. May block for as long as it takes to
    /// look at files.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an unknown tool, an input that does not fit; nothing is started then.
    fn resolve(&self, call: &Call) -> Result<Plan, ErrorKind>;

    /// Whether there is a tool of this name, as far as that can be told at once and without blocking. What is not known is
    /// called `unknown` in [metrics](crate::METRICS): a name that a caller makes up must not become a time series. Default:
    /// every name is known.
    fn knows(&self, _name: &str) -> bool {
        true
    }

    /// [`Plan::resources`]' memory of this call, in bytes, where that is known at once: the queue asks before the call is
    /// resolved. Must not block. By default it is not known.
    fn memory(&self, _call: &Call) -> Option<u64> {
        None
    }
}

/// In the arguments of a plan with a [`Protocol::Channel`], this stands for the channel's folder, which is only known
/// when the call starts.
pub const CHANNEL_PLACEHOLDER: &str = "{RUN_TOOL_CHANNEL}";

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
    /// Variables that nobody is shown. They win over those of [`env`](Self::env); what a call sets wins over them.
    pub secrets: Vec<Secret>,
    /// The folder to run in.
    pub workdir: Option<PathBuf>,
    /// How to speak to it.
    pub protocol: Protocol,
    /// Limits, where the call says nothing. A call may lower them, not raise them; but for the timeout, which it may raise
    /// up to [`max_timeout`](Self::max_timeout).
    pub limits: Limits,
    /// The longest timeout that a call may ask for. `None`: the engine's.
    pub max_timeout: Option<Duration>,
    /// What the process may touch.
    pub policy: Policy,
    /// How much it may use.
    pub resources: ResourceLimits,
    /// Files and folders that it must be able to read: those of its worker, its own.
    pub shows: Vec<PathBuf>,
    /// What holds input and value against what the tool declares.
    pub contract: Option<Arc<dyn Contract>>,
}

impl Plan {
    /// A plan for a program without arguments.
    pub fn new(program: impl Into<OsString>, protocol: Protocol) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            secrets: Vec::new(),
            workdir: None,
            protocol,
            limits: Limits::default(),
            max_timeout: None,
            policy: Policy::default(),
            resources: ResourceLimits::default(),
            shows: Vec::new(),
            contract: None,
        }
    }
}

/// Holds a call's input and a tool's value against what the tool declares. Called off the runtime's own threads.
///
/// What is known beforehand is better checked in [`Catalog::resolve`], before anything is started: this is for what a
/// tool's own file declares, which is known when its worker has loaded it.
pub trait Contract: Send + Sync + Debug {
    /// Whether the tool takes this input. Asked when it has been loaded and declares something, before it is called.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]; the tool is not called then.
    fn check_input(&self, input: &Value, declared: &Declared) -> Result<(), ErrorKind>;

    /// Whether this is what the tool says it returns. Asked for every value.
    ///
    /// # Errors
    /// The tool's mistake.
    fn check_output(&self, value: &Value, declared: &Declared) -> Result<(), Box<ToolError>>;
}

/// What a tool's own file declares about it: JSON Schemas, as they are.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Declared {
    /// Of its input.
    #[serde(default)]
    pub input_schema: Option<Value>,
    /// Of its value.
    #[serde(default)]
    pub output_schema: Option<Value>,
}

impl Declared {
    /// Whether it declares nothing.
    pub fn is_empty(&self) -> bool {
        self.input_schema.is_none() && self.output_schema.is_none()
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
