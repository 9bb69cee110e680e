//! The command line of run-tool: arguments in, exit code out.

mod args;
mod board;
mod call;
mod declared;
mod doctor;
mod exit_code;
mod find_runtime;
mod follow;
mod group;
mod new;
#[cfg(feature = "otel")]
mod otel;
mod show;
mod signals;
mod telemetry;
mod values;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, error::ErrorKind as UsageError};
use run_tool::{Call, Engine, Execution, ExecutionError, Level, Report, ReportDocument};

use crate::{
    args::{Cli, Command, Common, Manage},
    call::{Prints, Surroundings},
    exit_code::{CANNOT_WRITE, Column, OUTPUT_CLOSED, by_signal, exit_code},
    show::{Live, Own, Unsaid, say},
    signals::Signals,
    telemetry::Telemetry,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return refuse(&usage),
    };
    let otel = cli.otel_endpoint.as_deref();
    let (done, column) = match &cli.command {
        Command::Run(args) => {
            let prepare = |around: &Surroundings| call::run(args, around);
            (in_runtime(args.common.quiet, otel, execute(prepare, &args.common, Column::Run)), Column::Run)
        }
        Command::Exec(args) => {
            let prepare = |around: &Surroundings| call::exec(args, around);
            (in_runtime(args.common.quiet, otel, execute(prepare, &args.common, Column::Exec)), Column::Exec)
        }
        Command::Group(args) => (in_runtime(args.quiet, otel, group::group(args)), Column::Run),
        Command::Follow(args) => (in_runtime(args.quiet, otel, follow::follow(args)), Column::Exec),
        Command::Manage(command) => (manage(command, otel), Column::Run),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, column),
    }
}

/// Does what needs an async runtime. `otel` is where spans and metrics go, if that was said.
fn in_runtime(quiet: bool, otel: Option<&str>, work: impl Future<Output = Result<u8>>) -> Result<u8> {
    let telemetry = Telemetry::begin(quiet, otel)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let done = runtime.block_on(work);
    // Not waited for: the thread that shows output may be stuck in a pipe that nobody reads.
    runtime.shutdown_background();
    telemetry.end();
    done
}

/// What is wrong before there is an execution, or about telling its end.
fn fail(error: &anyhow::Error, column: Column) -> ExitCode {
    let code = match error.downcast_ref() {
        Some(Unsaid(reason)) if reason.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::from(OUTPUT_CLOSED);
        }
        Some(Unsaid(_)) => CANNOT_WRITE,
        None => column.invalid(),
    };
    // Our standard error may be closed; the exit code still says it.
    let _ = writeln!(io::stderr(), "run-tool: {error:#}");
    ExitCode::from(code)
}

/// clap's own answer, but with `exec`'s exit code where the arguments are those of `exec` or `follow`.
fn refuse(usage: &clap::Error) -> ExitCode {
    if let Err(error) = usage.print()
        && !usage.use_stderr()
    {
        return fail(&Unsaid(error).into(), Column::Run);
    }
    ExitCode::from(match usage.kind() {
        UsageError::DisplayHelp | UsageError::DisplayVersion => 0,
        _ if is_exec(std::env::args_os().skip(1)) => Column::Exec.invalid(),
        _ => Column::Run.invalid(),
    })
}

/// Whether these arguments, which clap could not read, are those of a command whose exit codes are [`Column::Exec`]: its name
/// is the first word that is neither an option nor its value.
fn is_exec(mut words: impl Iterator<Item = OsString>) -> bool {
    while let Some(word) = words.next() {
        if word == "--otel-endpoint" {
            words.next();
        } else if !word.as_encoded_bytes().starts_with(b"-") {
            return word == "exec" || word == "follow";
        }
    }
    false
}

/// Everything but calls. With the exit code.
fn manage(command: &Manage, otel: Option<&str>) -> Result<u8> {
    let look = Surroundings::look;
    match command {
        Manage::List(args) => declared::list(args, &look()?)?,
        Manage::Describe(args) => return in_runtime(false, otel, declared::describe(args, &look()?)),
        Manage::Check(args) => declared::check(args.manifest.as_deref(), &look()?)?,
        Manage::Doctor(args) => return doctor::doctor(args, &look()?),
        Manage::New(args) => new::new(args)?,
        Manage::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "run-tool", &mut text);
            say(String::from_utf8_lossy(&text).trim_end())?;
        }
        Manage::Man { folder } => clap_mangen::generate_to(Cli::command(), folder)
            .with_context(|| format!("cannot write manual pages into {}", folder.display()))?,
        Manage::Schema => say(format_args!("{:#}", ReportDocument::schema().to_value()))?,
    }
    Ok(0)
}

/// Makes a call, shows it, and tells its end. With the exit code.
async fn execute(
    prepare: impl FnOnce(&Surroundings) -> Result<(Engine, Call, Prints)>,
    common: &Common,
    column: Column,
) -> Result<u8> {
    let report_file = open_report(common.report.as_deref())?;
    let around = Surroundings::look()?;
    // This may wait for input. Until it is there a signal ends us as it ends any program.
    let (engine, call, prints) = prepare(&around)?;
    if common.terms.sandbox.level != Some(Level::None) {
        // What makes sandboxes gets ready while the call does.
        drop(engine.warm_up());
    }
    let mut signals = Signals::listen()?;
    let live = match column {
        _ if common.events => Live::Events,
        _ if common.json => Live::Nothing,
        Column::Run if prints == Prints::Value => Live::ErrorsAside,
        Column::Run => Live::Aside,
        Column::Exec => Live::Through,
    };
    let (end, shown) = attend(&engine, call, live, common, &mut signals).await;
    let code = exit_code(&end, column);
    let words = Words { json: common.json, events: common.events, quiet: common.quiet, column, report_file };
    let aloud = matches!(shown, Shown::All);
    let told = until_told(&mut signals, async {
        on_a_thread("tell", move || tell(&end, aloud, words))?.await.unwrap_or(Ok(()))
    });
    // Nobody has to wait for the engine's end to hear of the call's.
    let (told, ()) = tokio::join!(told, engine.shutdown(Duration::ZERO));
    let told = match told {
        Ok(told) => told,
        Err(number) => return Ok(by_signal(number)),
    };
    Ok(match shown {
        Shown::All => spoken(told.err(), code),
        Shown::Failed(error) => spoken(Some(error), code),
        Shown::Cut(number) => by_signal(number),
    })
}

/// Opened before anything is started: a report that cannot be written should be known beforehand.
fn open_report(path: Option<&Path>) -> Result<Option<File>> {
    path.map(|path| File::create(path).with_context(|| format!("--report: cannot write {}", path.display())))
        .transpose()
}

/// Waits until what there is to say has been said. Our output may be a pipe that nobody reads: a signal ends that wait, too,
/// and then its number is the error.
async fn until_told(
    signals: &mut Signals,
    telling: impl Future<Output = io::Result<()>>,
) -> Result<io::Result<()>, i32> {
    tokio::select! {
        told = telling => Ok(told),
        number = signals.next() => Err(number),
    }
}

/// The exit code, where there was something to say and it could not be said.
fn spoken(failure: Option<io::Error>, code: u8) -> u8 {
    match failure {
        None => code,
        Some(error) if error.kind() == io::ErrorKind::BrokenPipe => OUTPUT_CLOSED,
        Some(error) => {
            // What went wrong may be our standard error.
            let _ = writeln!(io::stderr(), "run-tool: cannot write what there is to say: {error}");
            CANNOT_WRITE
        }
    }
}

/// How much of what the tool wrote was shown.
enum Shown {
    All,
    /// Our output could not be written.
    Failed(io::Error),
    /// A signal with this number ended the wait for whoever reads our output.
    Cut(i32),
}

/// Starts it, shows it, hands signals on, and waits until nothing of it is left.
async fn attend(
    engine: &Engine,
    call: Call,
    live: Live,
    common: &Common,
    signals: &mut Signals,
) -> (Result<Report, ExecutionError>, Shown) {
    /// How long whoever reads our output may take for what is left of it when we were asked to end.
    const LAST_WORDS: Duration = Duration::from_secs(1);
    let run: Execution = engine.start(call);
    let (events, canceler) = (run.events(), run.canceler());
    let progress =
        !common.quiet && live != Live::Events && live != Live::Nothing && io::stderr().is_terminal();
    let runtime = tokio::runtime::Handle::current();
    let (stop, quiet) = (canceler.clone(), common.quiet);
    let showing =
        on_a_thread("show", move || show::show(events, live, Own { progress, quiet }, &stop, &runtime));
    let (end, asked) = signals.until_ended(&canceler, run).await;
    // The tool has ended, but whoever reads our output may take their time; a signal ends that.
    let patience = async {
        match asked {
            Some(number) => {
                tokio::time::sleep(LAST_WORDS).await;
                number
            }
            None => signals.next().await,
        }
    };
    let shown = match showing {
        Ok(showing) => tokio::select! {
            biased;
            written = showing => match written {
                Ok(Err(error)) => Shown::Failed(error),
                Ok(Ok(())) | Err(_) => Shown::All,
            },
            number = patience => Shown::Cut(number),
        },
        Err(error) => Shown::Failed(error),
    };
    (end, shown)
}

/// Does what may block, and may never end, on a thread of its own. It ends with the program.
pub(crate) fn on_a_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<tokio::sync::oneshot::Receiver<T>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // Nobody waits for it any more if a signal came first.
    std::thread::Builder::new().name(name.into()).spawn(move || drop(sender.send(work())))?;
    Ok(receiver)
}

/// What is to be said, and how.
struct Words {
    json: bool,
    events: bool,
    quiet: bool,
    column: Column,
    report_file: Option<File>,
}

/// Says what is to be known when it has ended; where our output is no use any more, only in the report's file.
fn tell(end: &Result<Report, ExecutionError>, aloud: bool, words: Words) -> io::Result<()> {
    let report = match words.report_file {
        Some(file) => write_report(end, file),
        None => Ok(()),
    };
    if !aloud {
        return report;
    }
    if words.json {
        write_report(end, io::stdout().lock())?;
    } else if !words.events {
        if !words.quiet {
            show::verdict(end, words.column);
        }
        if let (Column::Run, Ok(report)) = (words.column, end) {
            let value = report.value.as_ref().unwrap_or(&serde_json::Value::Null);
            let mut out = io::stdout().lock();
            let text = if out.is_terminal() { format!("{value:#}\n") } else { format!("{value}\n") };
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
    }
    report
}

fn write_report(end: &Result<Report, ExecutionError>, to: impl Write) -> io::Result<()> {
    let mut to = io::BufWriter::new(to);
    serde_json::to_writer(&mut to, &ReportDocument::new(end))?;
    to.write_all(b"\n")?;
    to.flush()
}
