//! From arguments to calls.

use std::{
    fs::File,
    io::{IsTerminal, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use run_tool::{Bun, Call, Engine, Limits, Overflow, Stdin, Tool, Tools};
use serde_json::Value;

use crate::{
    args::{Common, Exec, OnOverflow, Run},
    find_bun::find_bun,
    values::StdinFrom,
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
    const EXTENSIONS: [&str; 8] = ["ts", "mts", "cts", "tsx", "js", "mjs", "cjs", "jsx"];
    let extension = args.file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if !args.file.is_file() {
        bail!("{} is not a file; name the file that exports the tool", args.file.display());
    }
    if !EXTENSIONS.contains(&extension) {
        bail!(
            "{} is neither TypeScript nor JavaScript (its name would end in one of: .{}); run other programs with \
             `run-tool exec -- CMD`",
            args.file.display(),
            EXTENSIONS.join(", .")
        );
    }
    let input = input(&args.input)?;
    let bun = match &args.bun {
        Some(bun) => std::path::absolute(bun)?,
        None => find_bun(&args.file, &around.current, around.path.as_deref())?,
    };
    let mut tool = Tool::bun(tool_name(&args.file, args.export.as_deref()), &args.file);
    if let Some(export) = &args.export {
        tool = tool.export(export);
    }
    let tools = Tools::builder().bun(Bun::at(bun)).worker_dir(&around.temp_dir).tool(tool).build()?;
    let name = tools.names().next().unwrap_or_default().to_owned();
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
        call = call.env(name, own_variable(name)?);
    }
    for (name, value) in &args.env {
        call = call.env(name, value);
    }
    Ok(call)
}

fn own_variable(name: &str) -> Result<String> {
    #[expect(clippy::disallowed_methods, reason = "the binary is where the environment is read")]
    std::env::var(name).with_context(|| format!("--pass-env {name}"))
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
