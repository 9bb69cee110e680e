//! From a call to a started process: everything that may block, in one piece of work off the runtime's own threads.

use std::{
    ffi::OsString,
    io::IsTerminal,
    os::fd::OwnedFd,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde_json::Value;
use tokio::net::unix::pipe;
use tool_sandbox::{
    Enforced, LaunchError, LaunchSpec, LaunchStep, Launcher, Level, Missing, Policy, ResourceLimits,
};

use crate::{
    call::{Call, Stdin, Target},
    channel::{self, Channel, ChannelFolder, Reply, Request},
    environment,
    error::{ErrorKind, invalid},
    event_log::EventLog,
    execution::ExecutionId,
    janitor::{Janitor, Leader},
    lane::Lane,
    limits::{Limits, Overflow, Settled},
    masking::Masking,
    plan::{CHANNEL_PLACEHOLDER, Catalog, Contract, Plan, Protocol},
    report::Stream,
    secrets,
    streams::{Input, Output, Streams},
};

/// What the engine lends to every start.
#[derive(Debug, Clone)]
pub(crate) struct Starter {
    pub(crate) catalog: Option<Arc<dyn Catalog>>,
    pub(crate) launcher: Arc<dyn Launcher>,
    pub(crate) janitor: Janitor,
    pub(crate) limits: Limits,
    pub(crate) policy: Policy,
    pub(crate) resources: ResourceLimits,
    pub(crate) max_timeout: Duration,
    pub(crate) temp_dir: PathBuf,
}

/// A started process whose pipes are not watched yet. Dropping it kills the process and leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Started {
    leader: Leader,
    exit: OwnedFd,
    gone: Option<OwnedFd>,
    resources: ResourceLimits,
    stdin: Option<(OwnedFd, Bytes)>,
    stdout: OwnedFd,
    stderr: OwnedFd,
    channel: Option<(Channel, Bytes)>,
    protocol: Protocol,
    terms: Option<Terms>,
    limits: Settled,
    enforced: Enforced,
    masking: Masking,
}

/// What a call is held against while it runs, and its input.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) contract: Arc<dyn Contract>,
    pub(crate) input: Arc<Value>,
}

/// A process and its pipes, watched by the event loop.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) leader: Leader,
    pub(crate) exit: pipe::Receiver,
    pub(crate) gone: Option<pipe::Receiver>,
    pub(crate) resources: ResourceLimits,
    pub(crate) streams: Streams,
    pub(crate) folder: Option<ChannelFolder>,
    pub(crate) protocol: Protocol,
    pub(crate) terms: Option<Terms>,
    pub(crate) limits: Settled,
    pub(crate) enforced: Enforced,
    pub(crate) masking: Masking,
}

impl Starter {
    /// How many bytes of memory the call may use, as far as that is known before it is resolved; 0 without a limit.
    pub(crate) fn memory(&self, call: &Call) -> u64 {
        let of_tool = || self.catalog.as_ref().and_then(|catalog| catalog.memory(call));
        call.resources.memory.or_else(of_tool).or(self.resources.memory).unwrap_or(0)
    }

    /// Resolves, checks and starts. Blocks. When it returns an error nothing is left behind. `masking` is of the call's
    /// own secrets.
    pub(crate) fn start(&self, id: ExecutionId, call: Call, masking: Masking) -> Result<Started, ErrorKind> {
        secrets::check_call(&call.secrets, &call.env)?;
        let plan = self.resolve(&call)?;
        secrets::check_plan(&plan.secrets, &call.secrets)?;
        let masking = masking.with(&call.secrets, &plan.secrets);
        self.start_plan(id, call, plan, masking.clone()).map_err(|error| masking.error(error))
    }

    fn start_plan(
        &self,
        id: ExecutionId,
        call: Call,
        mut plan: Plan,
        masking: Masking,
    ) -> Result<Started, ErrorKind> {
        let (mut policy, resources) = self.settle_policy(&call, &plan)?;
        policy.level = Some(self.must_offer(&policy, &resources, call.least_level)?);
        call.limits.within(&plan.limits)?;
        let max_timeout = plan.max_timeout.map_or(self.max_timeout, |most| most.min(self.max_timeout));
        let limits = call.limits.clone().over(&plan.limits).over(&self.limits).settle(max_timeout)?;
        check_words(&plan)?;
        let mut env = environment::assemble(
            &secrets::on_top(&plan.env, &plan.secrets),
            &secrets::on_top(&call.env, &call.secrets),
        )?;

        let feed = feed(id, &call, &plan, &limits)?;
        let mut channel = None;
        let (stdin, bytes) = match feed {
            Feed::Nothing => (tool_sandbox::Stdin::Null, Bytes::new()),
            Feed::Fd => match call.stdin {
                Stdin::Fd(fd) => (tool_sandbox::Stdin::Fd(fd), Bytes::new()),
                Stdin::Null | Stdin::Bytes(_) => (tool_sandbox::Stdin::Null, Bytes::new()),
            },
            Feed::Stdin(bytes) => (tool_sandbox::Stdin::Pipe, bytes),
            Feed::Channel(line) => {
                let made = Channel::make(&self.temp_dir)?;
                let seen = self.launcher.shown_as(&policy, made.folder.path());
                env.push((channel::VARIABLE.into(), seen.clone().into()));
                name_channel(&mut plan.args, &seen);
                channel = Some((made, line));
                (tool_sandbox::Stdin::Null, Bytes::new())
            }
        };
        let launched = self.launcher.launch(LaunchSpec {
            execution: id.to_string(),
            program: plan.program,
            args: plan.args,
            env,
            workdir: call.workdir.or(plan.workdir),
            stdin,
            policy,
            resources: resources.clone(),
            shows: plan.shows,
            private: channel.as_ref().map(|(made, _)| made.folder.path().to_owned()),
        })?;
        Ok(Started {
            leader: Leader::new(launched.process, [&launched.stdout, &launched.stderr], self.janitor.clone()),
            exit: launched.exit,
            gone: launched.gone,
            resources,
            stdin: launched.stdin.map(|pipe| (pipe, bytes)),
            stdout: launched.stdout,
            stderr: launched.stderr,
            channel,
            protocol: plan.protocol,
            terms: match call.target {
                Target::Tool(_) => {
                    plan.contract.map(|contract| Terms { contract, input: Arc::new(call.input) })
                }
                Target::Command(_) | Target::Description(_) => None,
            },
            limits,
            enforced: launched.enforced,
            masking,
        })
    }

    /// What the call may touch and use: the engine's word, the tool's over it, and the call's over that. A call may make its
    /// tool's stricter, not laxer.
    fn settle_policy(&self, call: &Call, plan: &Plan) -> Result<(Policy, ResourceLimits), ErrorKind> {
        if !matches!(call.target, Target::Command(_)) {
            let hint = "leave it out, or allow it where the tool is declared";
            let tool = plan.policy.clone().over(&self.policy);
            let asked = call.policy.resolved();
            if let Some((word, path)) = asked.exceeds(&tool.resolved()) {
                let subject = match path {
                    Some(path) => format!("policy {word} {}", path.display()),
                    None => format!("policy {word}"),
                };
                return Err(invalid(subject, "the call asks for more than its tool is allowed", hint));
            }
            let floor =
                plan.policy.level.unwrap_or_else(|| self.launcher.least_level(&tool, &plan.resources));
            if let Some(level) = call.policy.level.filter(|level| *level < floor) {
                let message = format!("the call accepts {level}, and its tool needs {floor}");
                return Err(invalid("policy level", message, hint));
            }
            if let Some(name) = call.resources.exceeds(&plan.resources) {
                return Err(invalid(
                    format!("limit {name}"),
                    "the call asks for more than its tool is allowed",
                    hint,
                ));
            }
        }
        let mut policy = call.policy.clone().over(&plan.policy).over(&self.policy);
        policy.level = call.policy.level.or(plan.policy.level);
        if policy.user == Some(0) {
            return Err(invalid("policy user", "0 is root, and no tool runs as root", "name another user"));
        }
        let resources = call.resources.clone().over(&plan.resources).over(&self.resources);
        Ok((policy, resources))
    }

    /// The level that it needs, if that is offered: never less than was asked for. A level that the policy names stands for
    /// all of it: who accepts less says so.
    fn must_offer(
        &self,
        policy: &Policy,
        resources: &ResourceLimits,
        least: Level,
    ) -> Result<Level, ErrorKind> {
        let needed = policy.level.unwrap_or_else(|| self.launcher.least_level(policy, resources)).max(least);
        let offered = self.launcher.level(policy)?;
        if offered >= needed {
            return Ok(needed);
        }
        let missing = self.launcher.missing();
        let reasons: Vec<_> = missing.iter().filter(|missing| missing.level < needed).collect();
        let words =
            |word: fn(&Missing) -> &str| reasons.iter().map(|one| word(one)).collect::<Vec<_>>().join("; ");
        Err(ErrorKind::Sandbox {
            missing: match reasons[..] {
                [] => format!("the call needs {needed}, this engine offers {offered}"),
                _ => format!("the call needs {needed}, here there is {offered}: {}", words(|one| &one.what)),
            },
            hint: match reasons[..] {
                [] => "accept a lower level by name (`level = 0` in the tool's policy asks for no sandbox), or run it \
                       where more can be enforced"
                    .into(),
                _ => words(|one| &one.hint),
            },
        })
    }

    fn resolve(&self, call: &Call) -> Result<Plan, ErrorKind> {
        match (&call.target, &self.catalog) {
            (Target::Command(words), _) => {
                let mut words = words.iter().cloned();
                let mut plan = Plan::new(words.next().unwrap_or_default(), Protocol::ExitCode);
                plan.args = words.collect();
                Ok(plan)
            }
            (Target::Tool(_) | Target::Description(_), Some(catalog)) => catalog.resolve(call),
            (Target::Tool(name) | Target::Description(name), None) => Err(invalid(
                format!("tool {name:?}"),
                "this engine knows no tools",
                "give it a catalog with `Engine::builder().catalog(…)`",
            )),
        }
    }
}

/// Puts the channel's folder where the plan leaves room for it.
fn name_channel(args: &mut [OsString], folder: &Path) {
    for arg in args {
        if let Some(text) = arg.to_str().filter(|text| text.contains(CHANNEL_PLACEHOLDER)) {
            *arg = text.replace(CHANNEL_PLACEHOLDER, &folder.to_string_lossy()).into();
        }
    }
}

fn check_words(plan: &Plan) -> Result<(), ErrorKind> {
    let has_nul = |word: &OsString| word.as_bytes().contains(&0);
    if has_nul(&plan.program) || plan.args.iter().any(has_nul) {
        return Err(invalid(
            "command",
            "a word contains a NUL byte, which no program can be given",
            "pass such data on stdin",
        ));
    }
    Ok(())
}

/// By which way the input gets in.
enum Feed {
    Nothing,
    Fd,
    Stdin(Bytes),
    Channel(Bytes),
}

fn feed(id: ExecutionId, call: &Call, plan: &Plan, limits: &Settled) -> Result<Feed, ErrorKind> {
    let feed = match (&plan.protocol, &call.stdin) {
        (Protocol::Stdio | Protocol::ExitCode, _) if matches!(call.target, Target::Description(_)) => {
            return Err(invalid(
                format!("tool {:?}", call.label()),
                "it is a command, which declares nothing about itself",
                "declare its schemas where the tool is declared",
            ));
        }
        (Protocol::ExitCode, Stdin::Null) => Feed::Nothing,
        (Protocol::ExitCode, Stdin::Bytes(bytes)) => Feed::Stdin(bytes.clone()),
        (Protocol::ExitCode, Stdin::Fd(fd)) if fd.is_terminal() => {
            return Err(invalid(
                "stdin",
                "it is a terminal, which is never handed to a tool",
                "pass a file or a pipe",
            ));
        }
        (Protocol::ExitCode, Stdin::Fd(_)) => Feed::Fd,
        (Protocol::Stdio, Stdin::Null) => Feed::Stdin(to_json(&call.input)?.into()),
        (Protocol::Channel { config }, Stdin::Null) => {
            let (id, tool) = (id.to_string(), call.label());
            let mut line = to_json(&match call.target {
                Target::Description(_) => Request::Describe,
                Target::Tool(_) | Target::Command(_) => {
                    Request::Call { id: &id, tool: &tool, input: &call.input, config }
                }
            })?;
            line.push(b'\n');
            Feed::Channel(line.into())
        }
        (Protocol::Stdio | Protocol::Channel { .. }, Stdin::Bytes(_) | Stdin::Fd(_)) => {
            return Err(invalid(
                "stdin",
                "a tool gets its input as JSON",
                "put the data into the tool's input",
            ));
        }
    };
    if let Feed::Channel(bytes) = &feed
        && bytes.len() as u64 > limits.message
    {
        return Err(invalid(
            "input",
            format!("it takes {} bytes as JSON, and a message may have {}", bytes.len(), limits.message),
            "hand over the name of a file, or raise `Limits::message`",
        ));
    }
    Ok(feed)
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>, ErrorKind> {
    serde_json::to_vec(value).map_err(|error| {
        invalid("input", format!("it cannot be written as JSON: {error}"), "change the input")
    })
}

impl Started {
    /// Hands the descriptors to the event loop. Must be called on the runtime.
    ///
    /// # Errors
    /// When the kernel refuses to watch one more; the process is then killed and reaped by the janitor.
    pub(crate) fn watch(self, log: &Arc<EventLog>, lane: &Lane) -> Result<Watched, ErrorKind> {
        let refused =
            |error: std::io::Error| ErrorKind::from(LaunchError::new(LaunchStep::Register, "epoll", error));
        let fail_after = |cap| (self.limits.overflow == Overflow::Fail).then_some(cap);
        let stdout = pipe::Receiver::from_owned_fd(self.stdout).map_err(refused)?;
        let stderr = pipe::Receiver::from_owned_fd(self.stderr).map_err(refused)?;
        let stdin = match self.stdin {
            // Nothing to write: dropping our end tells the tool so.
            Some((_, bytes)) if bytes.is_empty() => None,
            Some((pipe, bytes)) => {
                Some(Input::new(pipe::Sender::from_owned_fd(pipe).map_err(refused)?, bytes))
            }
            None => None,
        };
        let mut out = Output::new(Stream::Stdout, stdout, self.limits.stdout, fail_after(self.limits.stdout))
            .masked(&self.masking);
        if self.protocol == Protocol::Stdio {
            out = out.raw_too(self.limits.stdout);
        }
        let mut streams = Streams::new(
            out,
            Output::new(Stream::Stderr, stderr, self.limits.stderr, fail_after(self.limits.stderr))
                .masked(&self.masking),
            stdin,
            Arc::clone(log),
        );
        let mut folder = None;
        let hold = self.terms.is_some();
        if let Some((channel, line)) = self.channel {
            let reply = pipe::Receiver::from_owned_fd(channel.reply).map_err(refused)?;
            let call = pipe::Sender::from_owned_fd(channel.call).map_err(refused)?;
            streams = streams.with_channel(
                Reply::new(reply, self.limits.message, lane.clone(), self.masking.clone()),
                Input::new(call, line),
                hold,
            );
            folder = Some(channel.folder);
        }
        // Not a pipe, but all that is asked of it is when it is readable.
        let exit = pipe::Receiver::from_owned_fd_unchecked(self.exit).map_err(refused)?;
        let gone = self.gone.map(pipe::Receiver::from_owned_fd_unchecked).transpose().map_err(refused)?;
        Ok(Watched {
            leader: self.leader,
            exit,
            gone,
            resources: self.resources,
            streams,
            folder,
            protocol: self.protocol,
            terms: self.terms,
            limits: self.limits,
            enforced: self.enforced,
            masking: self.masking,
        })
    }
}

/// Parses what a [`Protocol::Stdio`] tool wrote: JSON where it is that, text otherwise.
pub(crate) fn stdio_value(output: &[u8]) -> Value {
    serde_json::from_slice(output)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(output).into_owned()))
}
