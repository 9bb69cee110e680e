//! The command line of run-tool: arguments in, exit code out.

mod args;
mod call;
mod exit_code;
mod find_bun;
mod show;
mod values;

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Parser, error::ErrorKind as UsageError};
use run_tool::{CancelSource, Engine, Execution, ExecutionError, Report, ReportDocument};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    args::{Cli, Command, Common},
    call::Surroundings,
    exit_code::{Column, exit_code},
    show::Live,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return refuse(&usage),
    };
    let (column, common) = match &cli.command {
        Command::Run(run) => (Column::Run, &run.common),
        Command::Exec(exec) => (Column::Exec, &exec.common),
        Command::Schema => return print_schema(),
    };
    log_to_stderr(common.quiet);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start"), column),
    };
    let done = runtime.block_on(execute(&cli.command, common, column));
    // Not waited for: the thread that shows output may be stuck in a pipe that nobody reads.
    runtime.shutdown_background();
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, column),
    }
}

/// What is wrong before there is an execution, or about telling its end.
fn fail(error: &anyhow::Error, column: Column) -> ExitCode {
    // Our standard error may be closed; the exit code still says it.
    let _ = writeln!(io::stderr(), "run-tool: {error:#}");
    ExitCode::from(column.invalid())
}

/// clap's own answer, but with `exec`'s exit code where the arguments are those of `exec`.
fn refuse(usage: &clap::Error) -> ExitCode {
    let _ = usage.print();
    let is_exec = std::env::args_os().nth(1).is_some_and(|word| word == "exec");
    ExitCode::from(match usage.kind() {
        UsageError::DisplayHelp | UsageError::DisplayVersion => 0,
        _ if is_exec => Column::Exec.invalid(),
        _ => Column::Run.invalid(),
    })
}

fn print_schema() -> ExitCode {
    let schema = ReportDocument::schema().to_value();
    match writeln!(io::stdout(), "{schema:#}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What the engine has to say beside outcomes. `RUN_TOOL_LOG` can ask for more: error, warn, info, debug, trace or off.
fn log_to_stderr(quiet: bool) {
    #[expect(clippy::disallowed_methods, reason = "the binary is where the environment is read")]
    let wish = std::env::var("RUN_TOOL_LOG").ok().and_then(|level| level.parse().ok());
    let default = if quiet {
        tracing::level_filters::LevelFilter::OFF
    } else {
        tracing::level_filters::LevelFilter::WARN
    };
    tracing_subscriber::fmt().with_max_level(wish.unwrap_or(default)).with_writer(io::stderr).init();
}

async fn execute(command: &Command, common: &Common, column: Column) -> Result<u8> {
    // Opened before anything is started: a report that cannot be written should be known beforehand.
    let report_file = match &common.report {
        Some(path) => {
            Some(File::create(path).with_context(|| format!("--report: cannot write {}", path.display()))?)
        }
        None => None,
    };
    let mut signals = Signals::listen()?;
    let around = Surroundings::look()?;
    let (engine, call) = match command {
        Command::Run(args) => call::run(args, &around)?,
        Command::Exec(args) => call::exec(args, &around)?,
        Command::Schema => return Ok(0),
    };
    let live = match column {
        _ if common.events => Live::Events,
        _ if common.json => Live::Nothing,
        Column::Run => Live::Aside,
        Column::Exec => Live::Through,
    };
    let (end, shown) = follow(&engine, call, live, common, &mut signals).await;
    let code = exit_code(&end, column);
    if let Some(file) = report_file {
        write_report(&end, file).context("--report")?;
    }
    if shown {
        tell(&end, common, column)?;
    }
    Ok(code)
}

/// Starts it, shows it, hands signals on, and waits until nothing of it is left. Its end, and whether everything it
/// wrote was shown: if not, our output is stuck, and nothing more can be said there.
async fn follow(
    engine: &Engine,
    call: run_tool::Call,
    live: Live,
    common: &Common,
    signals: &mut Signals,
) -> (Result<Report, ExecutionError>, bool) {
    let mut run: Execution = engine.start(call);
    let (events, canceler) = (run.events(), run.canceler());
    let progress =
        !common.quiet && live != Live::Events && live != Live::Nothing && io::stderr().is_terminal();
    let runtime = tokio::runtime::Handle::current();
    let shower = canceler.clone();
    #[expect(clippy::disallowed_methods, reason = "the one thread that writes to our output; joined below")]
    let mut showing =
        tokio::task::spawn_blocking(move || show::show(events, live, progress, &shower, &runtime));
    let end = loop {
        tokio::select! {
            end = &mut run => break end,
            number = signals.next() => canceler.cancel(CancelSource::Signal(number)),
        }
    };
    // The tool has ended, but whoever reads our output may take its time; a signal ends that too.
    let shown = tokio::select! {
        _ = &mut showing => true,
        _ = signals.next() => false,
    };
    engine.shutdown(Duration::ZERO).await;
    (end, shown)
}

/// The signals that ask a program to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.hangup.recv() => SignalKind::hangup().as_raw_value(),
            _ = self.quit.recv() => SignalKind::quit().as_raw_value(),
        }
    }
}

/// Prints what is to be known when it has ended.
fn tell(end: &Result<Report, ExecutionError>, common: &Common, column: Column) -> Result<()> {
    if common.json {
        return ignore_closed(write_report(end, io::stdout().lock()));
    }
    if common.events {
        return Ok(());
    }
    if !common.quiet {
        show::verdict(end);
    }
    if let (Column::Run, Ok(report)) = (column, end) {
        let value = report.value.as_ref().unwrap_or(&serde_json::Value::Null);
        let mut out = io::stdout().lock();
        let text = if out.is_terminal() { format!("{value:#}\n") } else { format!("{value}\n") };
        return ignore_closed(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    }
    Ok(())
}

fn write_report(end: &Result<Report, ExecutionError>, mut to: impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut to, &ReportDocument::new(end))?;
    to.write_all(b"\n")?;
    to.flush()
}

/// Whoever closed our output does not want what is left.
fn ignore_closed(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}
