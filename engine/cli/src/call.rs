//! From arguments to calls.

use std::{
    env::VarError,
    fs::File,
    io::{IsTerminal, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use run_tool::{
    Call, Engine, Limits, Manifest, Policy, ResourceLimits, Retry, Runtime, Sandbox, SandboxBuilder, Stdin,
    Tmpfs, Tool, Tools, manifest::unambiguous,
};
use serde_json::Value;

use crate::{
    args::{Exec, Given, Run, Sandbox as SandboxArgs, Terms, UseUp},
    declared, find_runtime,
    values::{CgroupIn, RuntimeChoice, SecretFrom, StdinFrom},
};

/// What the binary takes from its surroundings; the library takes nothing.
pub(crate) struct Surroundings {
    pub(crate) current: PathBuf,
    pub(crate) temp_dir: PathBuf,
    pub(crate) path: Option<std::ffi::OsString>,
}

impl Surroundings {
    #[expect(clippy::disallowed_methods, reason = "the binary is where the environment is read")]
    pub(crate) fn look() -> Result<Self> {
        Ok(Self {
            current: std::env::current_dir()
                .context("the current folder cannot be found; change to one that exists")?,
            temp_dir: std::env::temp_dir(),
            path: std::env::var_os("PATH"),
        })
    }
}

impl Surroundings {
    /// Our own variables, as far as the manifest asks for them.
    pub(crate) fn variables(&self, manifest: &Manifest) -> Vec<(String, String)> {
        let names = manifest.tools.iter().flat_map(|tool| tool.env_pass.iter().chain(&tool.secrets));
        names.filter_map(|name| Some((name.clone(), own_variable(name).ok()?))).collect()
    }
}

/// What a tool's standard output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prints {
    /// Something for people.
    Words,
    /// Its value, which is shown at the end.
    Value,
}

/// An engine, a call and what its tool prints, for `run`.
pub(crate) fn run(args: &Run, around: &Surroundings) -> Result<(Engine, Call, Prints)> {
    let input = input(&args.input)?;
    let is_declared = args.manifest.is_some() || !args.target.is_file();
    let (tools, name) = if !is_declared {
        file_tool(args, around)?
    } else {
        let name = args.target.to_string_lossy().into_owned();
        let looks_like_a_file = name.contains('/') || args.target.extension().is_some();
        if looks_like_a_file && args.manifest.is_none() && declared::find(None, around).is_err() {
            bail!("{name} is not a file; name the file that exports the tool");
        }
        if args.runtime.is_some() || args.export.is_some() {
            bail!("--runtime and --export are for files; the manifest says what runs {name}");
        }
        let tools = declared::load(args.manifest.as_deref(), around)?;
        if looks_like_a_file && tools.get(&name).is_err() {
            bail!(
                "{name} is neither a file nor a tool of the manifest; check the name, or see `run-tool list`"
            );
        }
        (tools, name)
    };
    let prints = match tools.get(&name).map(Tool::runtime) {
        Ok(Runtime::Shell | Runtime::Command) => Prints::Value,
        _ => Prints::Words,
    };
    let terms = &args.common.terms;
    let engine = engine_for(&terms.sandbox, around).max_running(1).catalog(tools).build()?;
    let mut call = common(Call::tool(name, input), terms)?;
    if is_declared {
        // Whose policy and limits a call can only make stricter.
        call = call.policy(policy(&terms.sandbox, around)).resources(resources(&terms.use_up));
    }
    Ok((engine, call, prints))
}

/// The tool that a file exports.
fn file_tool(args: &Run, around: &Surroundings) -> Result<(Tools, String)> {
    let file = &args.target;
    let name = tool_name(file, args.export.as_deref());
    let mut builder = Tools::builder().worker_dir(&around.temp_dir);
    let mut tool = match &args.runtime {
        Some(RuntimeChoice { runtime: Runtime::Command, .. }) => {
            Tool::command(&name, [std::path::absolute(file)?])
        }
        asked => {
            let (runtime, program) = find_runtime::for_file(file, asked.as_ref(), around)?;
            builder = builder.runtime(runtime, program);
            Tool::script(&name, runtime, file)
        }
    };
    if let Some(export) = &args.export {
        tool = tool.export(export);
    }
    // Nobody has declared what it may: who calls it does.
    let terms = &args.common.terms;
    let tool = tool.policy(policy(&terms.sandbox, around)).resources(resources(&terms.use_up));
    Ok((builder.tool(tool).build()?, name))
}

/// An engine, a call and what its command prints, for `exec`.
pub(crate) fn exec(args: &Exec, around: &Surroundings) -> Result<(Engine, Call, Prints)> {
    let stdin = match &args.stdin {
        Some(StdinFrom::File(path)) => {
            let file =
                File::open(path).with_context(|| format!("--stdin: cannot read {}", path.display()))?;
            Stdin::Fd(file.into())
        }
        // What one attempt has read is not there for the next.
        None if args.common.terms.retry.is_some_and(|attempts| attempts > 1) => Stdin::Null,
        None if std::io::stdin().is_terminal() => Stdin::Null,
        Some(StdinFrom::Ours) | None => Stdin::Fd(std::io::stdin().as_fd().try_clone_to_owned()?),
    };
    let call = Call::command(args.command.iter().cloned())
        .stdin(stdin)
        .policy(policy(&args.common.terms.sandbox, around))
        .resources(resources(&args.common.terms.use_up));
    let engine = engine_for(&args.common.terms.sandbox, around).max_running(1).build()?;
    Ok((engine, common(call, &args.common.terms)?, Prints::Words))
}

pub(crate) fn engine(around: &Surroundings) -> run_tool::EngineBuilder {
    // Who sits at the command line may wait as long as they like.
    Engine::builder()
        .temp_dir(&around.temp_dir)
        .max_timeout(Duration::MAX)
        .launcher(Sandbox::builder().temp_dir(&around.temp_dir).build())
}

/// With what a call asks of the launcher itself.
pub(crate) fn engine_for(args: &SandboxArgs, around: &Surroundings) -> run_tool::EngineBuilder {
    let mut sandbox =
        with_cgroup(Sandbox::builder().temp_dir(&around.temp_dir), args.cgroup.as_ref(), around);
    if let Some(user) = args.user {
        // What there is is tried out as that user: the default one may not exist in a container.
        sandbox = sandbox.user(user);
    }
    engine(around).launcher(sandbox.build())
}

/// With cgroups where that was said.
pub(crate) fn with_cgroup(
    sandbox: SandboxBuilder,
    cgroup: Option<&CgroupIn>,
    around: &Surroundings,
) -> SandboxBuilder {
    match cgroup {
        None => sandbox,
        Some(CgroupIn::Nowhere) => sandbox.without_cgroup(),
        Some(CgroupIn::Folder(folder)) => sandbox.cgroup(around.current.join(folder)),
    }
}

/// What the arguments allow and forbid. Their paths are relative to the current folder.
pub(crate) fn policy(args: &SandboxArgs, around: &Surroundings) -> Policy {
    let absolute = |path: &PathBuf| around.current.join(path);
    let all = |paths: &[PathBuf]| paths.iter().map(absolute).collect();
    Policy {
        network: args.network,
        ro: all(&args.ro),
        rw: all(&args.rw),
        hide: all(&args.hide),
        tmpfs: args.tmpfs.iter().map(|one| Tmpfs { path: absolute(&one.path), size: one.size }).collect(),
        user: args.user,
        level: args.level,
        ..Policy::default()
    }
}

pub(crate) fn resources(args: &UseUp) -> ResourceLimits {
    ResourceLimits {
        memory: args.memory,
        pids: args.pids,
        cpus: args.cpus,
        cpu_time: args.cpu_time,
        file_size: args.file_size,
        open_files: args.open_files,
        tmp_size: args.tmp_size,
        tmp_files: args.tmp_files.map(u64::from),
    }
}

/// How long it may take and how much it may say.
pub(crate) fn limits(args: &Terms) -> Limits {
    Limits {
        timeout: args.timeout,
        idle_timeout: args.idle_timeout,
        kill_grace: args.kill_grace,
        after_exit: args.after_exit,
        stdout: args.max_output,
        stderr: args.max_output,
        overflow: args.overflow,
        ..Limits::default()
    }
}

pub(crate) fn retry(args: &Terms) -> Retry {
    Retry {
        attempts: args.retry,
        backoff: args.retry_delay,
        on: Some(args.retry_on.clone()).filter(|names| !names.is_empty()),
        ..Retry::default()
    }
}

/// The call of `run` and `exec`.
fn common(call: Call, args: &Terms) -> Result<Call> {
    let call = call.limits(limits(args)).retry(retry(args)).back_pressure();
    Ok(Around::look(&args.given)?.apply(call))
}

/// What the arguments say that a call finds around it.
// No `Debug`: it has secrets.
#[derive(Clone)]
pub(crate) struct Around {
    workdir: Option<PathBuf>,
    env: Vec<(String, String)>,
    secrets: Vec<(String, String)>,
}

impl Around {
    /// Reads what is in our own environment and in files.
    pub(crate) fn look(args: &Given) -> Result<Self> {
        let workdir = args.workdir.as_deref().map(std::path::absolute).transpose()?;
        let mut env = Vec::new();
        for name in &args.pass_env {
            let value = own_variable(name).with_context(|| format!("--pass-env {name}"))?;
            env.push((name.clone(), value));
        }
        env.extend(args.env.iter().cloned());
        let secrets = args.secret.iter().map(|from| Ok((from.name.clone(), secret(from)?)));
        Ok(Self { workdir, env, secrets: secrets.collect::<Result<_>>()? })
    }

    pub(crate) fn apply(&self, mut call: Call) -> Call {
        if let Some(folder) = &self.workdir {
            call = call.workdir(folder);
        }
        for (name, value) in &self.env {
            call = call.env(name, value);
        }
        for (name, value) in &self.secrets {
            call = call.secret(name, value);
        }
        call
    }
}

#[expect(clippy::disallowed_methods, reason = "the binary is where the environment is read")]
fn own_variable(name: &str) -> Result<String, std::env::VarError> {
    std::env::var(name)
}

/// The value of a secret. No error shows it.
fn secret(from: &SecretFrom) -> Result<String> {
    let SecretFrom { name, file } = from;
    let Some(path) = file else {
        return match own_variable(name) {
            Ok(value) => Ok(value),
            Err(VarError::NotPresent) => {
                bail!(
                    "--secret {name}: our own environment has no variable {name}; set it, or write {name}=FILE"
                )
            }
            Err(VarError::NotUnicode(_)) => bail!("--secret {name}: the variable is not UTF-8; encode it"),
        };
    };
    /// More than a secret may have.
    const MOST: u64 = 1 << 20;
    let mut value = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MOST).read_to_end(&mut value))
        .with_context(|| format!("--secret {name}: cannot read {}; check the path", path.display()))?;
    if value.ends_with(b"\n") {
        value.pop();
        value.pop_if(|last| *last == b'\r');
    }
    // The error that `from_utf8` returns shows the bytes.
    match String::from_utf8(value) {
        Ok(value) => Ok(value),
        Err(_) => bail!("--secret {name}: {} is not UTF-8; encode it", path.display()),
    }
}

fn input(given: &[String]) -> Result<Value> {
    match given {
        [] => Ok(Value::Null),
        [one] if field(one).is_none() => whole_input(one),
        fields => {
            let mut object = serde_json::Map::new();
            for text in fields {
                let Some((key, value)) = field(text) else {
                    bail!("--input {text:?}: beside other fields this has to be one, too: KEY=VALUE");
                };
                let value = match unambiguous(value) {
                    Ok(value) => value,
                    Err(error) if error.is_data() => {
                        bail!("--input: the field {key:?}: {error}; give it once")
                    }
                    Err(_) => value.into(),
                };
                if object.insert(key.to_owned(), value).is_some() {
                    bail!("--input: the field {key:?} is given twice; give it once");
                }
            }
            Ok(Value::Object(object))
        }
    }
}

/// `KEY=VALUE`. What begins as JSON does is JSON.
fn field(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once('=')?;
    let is_key = key.starts_with(|first: char| first.is_alphabetic() || first == '_')
        && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    is_key.then_some((key, value))
}

fn whole_input(text: &str) -> Result<Value> {
    let (text, origin) = match text.strip_prefix('@') {
        Some("") => bail!("--input @: no file is named after the `@`; write @FILE"),
        Some(path) => {
            let read = std::fs::read_to_string(path);
            (read.with_context(|| format!("--input: cannot read {path}; check the path"))?, path.to_owned())
        }
        None if text == "-" => {
            let mut all = String::new();
            std::io::stdin().read_to_string(&mut all).context("--input: cannot read standard input")?;
            (all, "standard input".to_owned())
        }
        None => (text.to_owned(), "the argument".to_owned()),
    };
    // Some editors begin a file with a mark that says that it is UTF-8.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if text.trim().is_empty() {
        bail!(r#"--input: {origin} is empty; write null, '{{"text":"…"}}', text=…, or @FILE for a file"#);
    }
    unambiguous(text).map_err(|error| {
        let reason = error.to_string();
        let hint = match text.split_once('=') {
            _ if error.is_data() => "give it once".to_owned(),
            _ if reason.starts_with("recursion limit exceeded") => "nest it less deep".to_owned(),
            _ if reason.starts_with("number out of range") => "write a smaller number, or a text".to_owned(),
            Some((key, _)) if !key.contains(['{', '[', '"', '\n']) => format!(
                "of KEY=VALUE, the key begins with a letter or `_`, and {key:?} is none; write JSON for such a field"
            ),
            _ => r#"write for example '{"text":"…"}', text=…, or @FILE for a file"#.to_owned(),
        };
        anyhow!("--input: {origin} is not JSON that can be read: {reason}; {hint}")
    })
}

/// The file's name without its ending, and the export: a name that every tool may have.
fn tool_name(file: &Path, export: Option<&str>) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let whole = export.map_or(stem.to_string(), |export| format!("{stem}.{export}"));
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let mut name: String = whole.chars().map(|c| if allowed(c) { c } else { '-' }).take(63).collect();
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        name.insert(0, 'x');
    }
    name
}
