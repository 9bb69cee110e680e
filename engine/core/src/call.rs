//! What is asked of the engine.

use std::{ffi::OsString, os::fd::OwnedFd, path::PathBuf, time::Duration};

use bytes::Bytes;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tool_sandbox::{Level, Policy, ResourceLimits};

use crate::{
    error::{ErrorKind, invalid},
    limits::{AfterExit, Limits, Overflow},
    secrets::{self, Secret},
};

/// One call: a tool and its input, or a raw command; and what it may use.
#[derive(Debug)]
#[must_use = "a call does nothing until it is given to `Engine::start`"]
pub struct Call {
    pub(crate) target: Target,
    pub(crate) input: Value,
    pub(crate) stdin: Stdin,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) secrets: Vec<Secret>,
    pub(crate) workdir: Option<PathBuf>,
    pub(crate) limits: Limits,
    pub(crate) least_level: Level,
    pub(crate) policy: Policy,
    pub(crate) resources: ResourceLimits,
    pub(crate) tokens: Vec<CancellationToken>,
    pub(crate) back_pressure: bool,
    pub(crate) id: Option<String>,
    pub(crate) owner: Option<String>,
}

/// What a call is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A tool that the engine's [`Catalog`](crate::Catalog) knows.
    Tool(String),
    /// A program and its arguments.
    Command(Vec<OsString>),
    /// What the file of a tool declares about it. The tool itself is loaded and not called.
    Description(String),
}

/// What a raw command reads from its standard input.
#[derive(Debug, Default)]
pub enum Stdin {
    /// Nothing.
    #[default]
    Null,
    /// These bytes. They are written while the command runs; that it does not read them is no error.
    Bytes(Bytes),
    /// This open file or pipe is handed over as it is. A terminal is refused.
    Fd(OwnedFd),
}

impl Call {
    fn new(target: Target, input: Value) -> Self {
        Self {
            target,
            input,
            stdin: Stdin::Null,
            env: Vec::new(),
            secrets: Vec::new(),
            workdir: None,
            limits: Limits::default(),
            least_level: Level::None,
            policy: Policy::default(),
            resources: ResourceLimits::default(),
            tokens: Vec::new(),
            back_pressure: false,
            id: None,
            owner: None,
        }
    }

    /// A call of the tool `name` with this input.
    pub fn tool(name: impl Into<String>, input: impl Into<Value>) -> Self {
        Self::new(Target::Tool(name.into()), input.into())
    }

    /// A call of a program: the first word is its path, or a name to be found in the call's own `PATH`; the others are
    /// its arguments. Its exit code is its outcome.
    pub fn command<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Self {
        Self::new(Target::Command(words.into_iter().map(Into::into).collect()), Value::Null)
    }

    /// Loads the tool `name` without calling it. The value is what its file declares about it: an object with
    /// `description`, `input_schema` and `output_schema`, each where there is one. A command declares nothing.
    pub fn description(name: impl Into<String>) -> Self {
        Self::new(Target::Description(name.into()), Value::Null)
    }

    /// Whether a secret of this name comes with the call.
    pub fn has_secret(&self, name: &str) -> bool {
        self.secrets.iter().any(|secret| secret.name() == name)
    }

    /// What is called.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The tool's input.
    pub fn input(&self) -> &Value {
        &self.input
    }

    /// The wall-clock timeout, counted from exec on; at most the engine's `max_timeout`. Default 60 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.limits.timeout = Some(timeout);
        self
    }

    /// How long the tool may be silent: neither output nor progress. Default: for ever.
    pub fn idle_timeout(mut self, idle: Duration) -> Self {
        self.limits.idle_timeout = Some(idle);
        self
    }

    /// The time between SIGTERM and SIGKILL; zero: SIGKILL at once. Default 2 s.
    pub fn kill_grace(mut self, grace: Duration) -> Self {
        self.limits.kill_grace = Some(grace);
        self
    }

    /// What happens to what the tool leaves running. Default: [`AfterExit::Linger`] of 200 ms.
    pub fn after_exit(mut self, after_exit: AfterExit) -> Self {
        self.limits.after_exit = Some(after_exit);
        self
    }

    /// Bytes to keep of each output stream, and what to do past that.
    pub fn max_output(mut self, bytes: u64, overflow: Overflow) -> Self {
        self.limits.stdout = Some(bytes);
        self.limits.stderr = Some(bytes);
        self.limits.overflow = Some(overflow);
        self
    }

    /// All limits at once, replacing those set so far.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets a variable in the tool's environment, which is otherwise clean. Names that loaders, runtimes and shells obey
    /// are refused: see [`environment::check`](crate::environment::check).
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Hands the tool a [`Secret`] as a variable of its environment, and masks it in everything that is told of this call.
    /// What [`Secret::new`] refuses, and a variable that [`env`](Self::env) sets as well, is told by the execution's
    /// outcome: [`ErrorKind::Invalid`](crate::ErrorKind::Invalid).
    pub fn secret(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.secrets.push(Secret::unchecked(name.into(), value.into()));
        self
    }

    /// The folder that the tool runs in. Default: that of its plan; for a command, the engine's own.
    pub fn workdir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.workdir = Some(folder.into());
        self
    }

    /// What a command reads from its standard input. A tool gets its input another way and may not be given one.
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// What it may touch. A command is allowed this beside the engine's default; a tool's own policy can only be made
    /// stricter. [`Policy::level`] of [`Level::None`] runs a command without a sandbox.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How much of the machine it may use. A tool's own limits can only be lowered.
    pub fn resources(mut self, resources: ResourceLimits) -> Self {
        self.resources = resources;
        self
    }

    /// The least [`Level`] of containment that will do; below it nothing is started. Default: [`Level::None`].
    pub fn least_level(mut self, level: Level) -> Self {
        self.least_level = level;
        self
    }

    /// The caller's own id for it, by which [`Registry::submit`](crate::Registry::submit) knows it again: 1 to 256 bytes
    /// without control characters. [`Engine::start`](crate::Engine::start) does not look at it.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// On whose behalf it is made: 1 to 256 bytes without control characters. Owners take turns in the queue, and
    /// [`Registry::cancel_all`](crate::Registry::cancel_all) ends what one of them has. All calls of nobody take turns as
    /// one owner.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Cancels the call when the token is cancelled. Can be given several times.
    pub fn cancel_on(mut self, token: CancellationToken) -> Self {
        self.tokens.push(token);
        self
    }

    /// Lets a slow reader slow the tool down, as a pipe would, instead of losing events. It holds for the first
    /// [`Execution::events`](crate::Execution::events): that one must be read, or the tool stands still once the event
    /// ring and its pipe are full (its timeouts still apply).
    pub fn back_pressure(mut self) -> Self {
        self.back_pressure = true;
        self
    }

    /// For the report: the tool's name, or the command's words. Secrets that cannot be masked are not in it.
    pub(crate) fn label(&self) -> String {
        let mut words = match &self.target {
            Target::Tool(name) | Target::Description(name) => vec![name.clone()],
            Target::Command(words) => {
                words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>()
            }
        };
        secrets::hide_refused(&self.secrets, &mut words);
        words.join(" ")
    }
}

/// Checks a name that a caller gives, to a call or to itself.
///
/// # Errors
/// [`ErrorKind::Invalid`]
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), ErrorKind> {
    const LONGEST: usize = 256;
    if name.is_empty() || name.len() > LONGEST || name.chars().any(char::is_control) {
        let found = if name.len() > LONGEST { "is too long" } else { "is empty, or has a control character" };
        let shown: String = name.chars().take(64).collect();
        let hint = format!("give 1 to {LONGEST} bytes of printable text");
        return Err(invalid(format!("{what} {shown:?}"), found, hint));
    }
    Ok(())
}
