//! From arguments to calls.

use std::{
    env::VarError,
    fs::File,
    io::{IsTerminal, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use run_tool::{Call, Engine, Limits, Overflow, Runtime, Stdin, Tool, Tools};
use serde_json::Value;

use crate::{
    args::{Common, Exec, OnOverflow, Run},
    find_runtime,
    values::{RuntimeChoice, SecretFrom, StdinFrom},
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

/// An engine and a call for `run`.
pub(crate) fn run(args: &Run, around: &Surroundings) -> Result<(Engine, Call)> {
    if !args.file.is_file() {
        bail!("{} is not a file; name the file that exports the tool", args.file.display());
    }
    let input = input(&args.input)?;
    let name = tool_name(&args.file, args.export.as_deref());
    let mut builder = Tools::builder().worker_dir(&around.temp_dir);
    let mut tool = match &args.runtime {
        Some(RuntimeChoice { runtime: Runtime::Command, .. }) => {
            Tool::command(&name, [std::path::absolute(&args.file)?])
        }
        asked => {
            let (runtime, program) = find_runtime::for_file(&args.file, asked.as_ref(), around)?;
            builder = builder.runtime(runtime, program);
            Tool::script(&name, runtime, &args.file)
        }
    };
    if let Some(export) = &args.export {
        tool = tool.export(export);
    }
    let tools = builder.tool(tool).build()?;
    let engine = engine(around).catalog(tools).build()?;
    Ok((engine, common(Call::tool(name, input), &args.common, around)?))
}

/// An engine and a call for `exec`.
pub(crate) fn exec(args: &Exec, around: &Surroundings) -> Result<(Engine, Call)> {
    let stdin = match &args.stdin {
        Some(StdinFrom::File(path)) => {
            let file =
                File::open(path).with_context(|| format!("--stdin: cannot read {}", path.display()))?;
            Stdin::Fd(file.into())
        }
        None if std::io::stdin().is_terminal() => Stdin::Null,
        Some(StdinFrom::Ours) | None => Stdin::Fd(std::io::stdin().as_fd().try_clone_to_owned()?),
    };
    let call = Call::command(args.command.iter().cloned()).stdin(stdin);
    Ok((engine(around).build()?, common(call, &args.common, around)?))
}

fn engine(around: &Surroundings) -> run_tool::EngineBuilder {
    // Who sits at the command line may wait as long as they like.
    Engine::builder().temp_dir(&around.temp_dir).max_timeout(Duration::MAX)
}

fn common(mut call: Call, args: &Common, around: &Surroundings) -> Result<Call> {
    call = call
        .limits(Limits {
            timeout: Some(args.timeout),
            idle_timeout: args.idle_timeout,
            kill_grace: Some(args.kill_grace),
            after_exit: Some(args.after_exit),
            stdout: Some(args.max_output),
            stderr: Some(args.max_output),
            overflow: Some(match args.overflow {
                OnOverflow::Truncate => Overflow::Truncate,
                OnOverflow::Fail => Overflow::Fail,
            }),
            ..Limits::default()
        })
        .workdir(match &args.workdir {
            Some(folder) => std::path::absolute(folder)?,
            None => around.current.clone(),
        })
        .back_pressure();
    for name in &args.pass_env {
        call = call.env(name, own_variable(name).with_context(|| format!("--pass-env {name}"))?);
    }
    for (name, value) in &args.env {
        call = call.env(name, value);
    }
    for from in &args.secret {
        call = call.secret(&from.name, secret(from)?);
    }
    Ok(call)
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
    let mut value =
        std::fs::read(path).with_context(|| format!("--secret {name}: cannot read {}", path.display()))?;
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

fn input(text: &str) -> Result<Value> {
    let (text, origin) = match text.strip_prefix('@') {
        Some(path) => (
            std::fs::read_to_string(path).with_context(|| format!("--input: cannot read {path}"))?,
            path.to_owned(),
        ),
        None if text == "-" => {
            let mut all = String::new();
            std::io::stdin().read_to_string(&mut all).context("--input: cannot read standard input")?;
            (all, "standard input".to_owned())
        }
        None => (text.to_owned(), "the argument".to_owned()),
    };
    serde_json::from_str(&text).with_context(|| {
        format!(r#"--input: {origin} is not JSON; write for example '{{"text":"…"}}', or @FILE for a file"#)
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
