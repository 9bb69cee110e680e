//! What a person or a script sees of an execution while it runs, and when it has ended.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use run_tool::{
    CancelSource, Canceler, Cancellation, Enforced, ErrorKind, Event, EventKind, Events, ExecutionError,
    Level, Progress, Report,
};
use tokio::{runtime::Handle, time::timeout};

use crate::{
    exit_code::Column,
    values::{show_size, show_time},
};

/// What there is to say could not be written.
#[derive(Debug)]
pub(crate) struct Unsaid(pub(crate) io::Error);

impl fmt::Display for Unsaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot write what there is to say: {}", self.0)
    }
}

impl std::error::Error for Unsaid {}

/// A line, or several, on standard output.
///
/// # Errors
/// [`Unsaid`].
pub(crate) fn say(text: impl fmt::Display) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    Ok(written.map_err(Unsaid)?)
}

/// A text that does nothing to a terminal, whatever somebody put into it. Its lines stay.
pub(crate) fn plain(text: &str) -> String {
    let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    text.chars().map(|c| if harmless(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// What is shown while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Live {
    /// Nothing.
    Nothing,
    /// Each event as a JSON line on standard output.
    Events,
    /// The tool's stdout on ours, its stderr on ours.
    Through,
    /// All that the tool prints on our stderr.
    Aside,
    /// Only its stderr, on ours: its stdout is its value.
    ErrorsAside,
}

/// What is shown beside what the tool says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    /// A line that says what it is doing.
    pub(crate) progress: bool,
    /// Nothing at all.
    pub(crate) quiet: bool,
}

/// Shows events until the last. Blocks: belongs on a thread of its own, so that a slow terminal or a pipe that nobody
/// reads holds up neither signals nor clocks.
///
/// # Errors
/// When our output cannot be written; then the execution is canceled, and its events are read to the end all the same.
pub(crate) fn show(
    mut events: Events,
    live: Live,
    own: Own,
    canceler: &Canceler,
    runtime: &Handle,
) -> io::Result<()> {
    let mut line = ProgressLine::new(own.progress);
    let mut written = Ok(());
    loop {
        let next = runtime.block_on(async { timeout(Duration::from_millis(100), events.next()).await });
        let event = match next {
            Err(_) => {
                line.tick();
                continue;
            }
            Ok(None) => break,
            Ok(Some(event)) => event,
        };
        if written.is_ok()
            && let Err(error) = one(&event, live, own.quiet, &mut line)
        {
            // From here on the log is only emptied, so that nothing waits for us.
            canceler.cancel(Cancellation {
                by: CancelSource::Signal(SIGPIPE),
                reason: Some(format!("its output cannot be written: {error}")),
            });
            written = Err(error);
        }
    }
    line.clear();
    written
}

const SIGPIPE: i32 = 13;

fn one(event: &Event, live: Live, quiet: bool, line: &mut ProgressLine) -> io::Result<()> {
    if live == Live::Events {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, event)?;
        out.write_all(b"\n")?;
        return out.flush();
    }
    match &event.kind {
        EventKind::Stdout(_) if live == Live::ErrorsAside => Ok(()),
        EventKind::Stdout(chunk) if live == Live::Through => line.write(&mut io::stdout().lock(), &chunk.0),
        EventKind::Stdout(chunk) | EventKind::Stderr(chunk) if live != Live::Nothing => {
            line.write(&mut io::stderr().lock(), &chunk.0)
        }
        EventKind::Progress(progress) => {
            line.report(progress);
            Ok(())
        }
        EventKind::Log(log) if live != Live::Nothing => {
            let text = format!("{}: {}\n", log.level, log.message);
            line.write(&mut io::stderr().lock(), text.as_bytes())
        }
        EventKind::Retrying { attempt, after, error } if live != Live::Nothing && !quiet => {
            let text = format!("run-tool: {error}; attempt {attempt} begins in {}\n", show_time(*after));
            line.write(&mut io::stderr().lock(), plain(&text).as_bytes())
        }
        _ => Ok(()),
    }
}

/// A line that says what a long call is doing; on a terminal only, and never in the middle of a line of the tool's.
struct ProgressLine {
    bar: ProgressBar,
    wanted: bool,
    began: Instant,
    shown: bool,
    at_line_start: bool,
}

impl ProgressLine {
    const NOT_BEFORE: Duration = Duration::from_secs(1);

    fn new(wanted: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self { bar, wanted, began: Instant::now(), shown: false, at_line_start: true }
    }

    fn tick(&mut self) {
        if !self.wanted || !self.at_line_start || self.began.elapsed() < Self::NOT_BEFORE {
            return;
        }
        if !self.shown {
            self.shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            if self.bar.length().is_none() {
                self.set_style("{spinner} {elapsed} {wide_msg}");
            }
        }
        self.bar.tick();
    }

    fn set_style(&self, template: &str) {
        // The templates are written in this file.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
    }

    fn report(&mut self, progress: &Progress) {
        if let Some(fraction) = progress.fraction {
            const STEPS: f64 = 1000.0;
            if self.bar.length().is_none() {
                self.bar.set_length(STEPS as u64);
                self.set_style("{spinner} {elapsed} [{bar:24}] {percent}% {wide_msg}");
            }
            self.bar.set_position((fraction.clamp(0.0, 1.0) * STEPS) as u64);
        }
        if let Some(message) = &progress.message {
            self.bar.set_message(message.clone());
        }
        self.tick();
    }

    fn write(&mut self, to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
        let written = self.bar.suspend(|| to.write_all(bytes).and_then(|()| to.flush()));
        self.at_line_start = bytes.ends_with(b"\n");
        written
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Says how it ended, on standard error: on a terminal always, elsewhere only what the exit code and the tool's own
/// output do not say.
pub(crate) fn verdict(end: &Result<Report, ExecutionError>, column: Column) {
    let report = match end {
        Ok(report) => report,
        Err(error) => error.report(),
    };
    let mut out = anstream::stderr().lock();
    let terminal = io::stderr().is_terminal();
    let green = Style::new().fg_color(Some(AnsiColor::Green.into()));
    let red = Style::new().fg_color(Some(AnsiColor::Red.into()));
    let dim = Style::new().dimmed();
    let told_by_exit_code = !terminal && speaks_for_itself(end, column);
    let mut say = || -> io::Result<()> {
        for left in &report.residue {
            let how = if left.escaped { ", which had left the process group" } else { "" };
            let fate = if left.killed { "killed" } else { "could not kill" };
            writeln!(
                out,
                "run-tool: {fate} what was left running: {} (pid {}){how}",
                left.command, left.pid
            )?;
        }
        if report.sweep_incomplete {
            writeln!(out, "run-tool: there may have been more left running than could be named")?;
        }
        if report.pipe_held {
            writeln!(
                out,
                "run-tool: somebody out of reach still holds the output; there may have been more to come"
            )?;
        }
        if report.kill_pending {
            writeln!(out, "run-tool: the process was killed but has not died yet")?;
        }
        if let Err(error) = end
            && let ErrorKind::Tool(tool) = error.kind()
            && let Some(stack) = &tool.stack
        {
            writeln!(out, "{dim}{stack}{dim:#}")?;
        }
        let facts = facts(report);
        match end {
            _ if told_by_exit_code => Ok(()),
            Ok(_) => writeln!(out, "{green}✓ ok{green:#}{dim}{facts}{dim:#}"),
            Err(error) if terminal => writeln!(out, "{red}✗ {error}{red:#}{dim}{facts}{dim:#}"),
            Err(error) => writeln!(out, "run-tool: {error}"),
        }?;
        report.hints.iter().try_for_each(|hint| writeln!(out, "run-tool: {hint}"))
    };
    // There is nobody left to tell that our standard error is closed.
    let _ = say();
}

/// Success needs no words of ours, and neither does a command's own exit code, which becomes ours. A tool's does not.
fn speaks_for_itself(end: &Result<Report, ExecutionError>, column: Column) -> bool {
    match end {
        Ok(_) => true,
        Err(error) => {
            let exited = matches!(error.kind(), ErrorKind::Process { status: run_tool::ExitStatus::Code(_) });
            exited && column == Column::Exec
        }
    }
}

fn facts(report: &Report) -> String {
    let memory = match report.usage {
        usage if usage.peak_memory.is_some() => {
            format!(" · peak memory {}", show_size(usage.peak_memory.unwrap_or(0)))
        }
        usage if usage.peak_memory_at_most > 0 => {
            format!(" · peak memory below {}", show_size(usage.peak_memory_at_most))
        }
        _ => String::new(),
    };
    let containment = report.enforced.as_ref().map(containment).unwrap_or_default();
    format!(" · {}{memory}{containment}", show_time(report.timings.total))
}

/// What was less than one may expect of a sandbox.
fn containment(enforced: &Enforced) -> String {
    let level =
        if enforced.level < Level::NoCgroup { format!(" · {}", enforced.level) } else { String::new() };
    if enforced.per_process.is_empty() {
        return level;
    }
    format!("{level} · for each process by itself: {}", enforced.per_process.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_less_than_expected_is_told() {
        let at = |level, limits: &[&str]| {
            let per_process = limits.iter().map(ToString::to_string).collect();
            containment(&Enforced { level, per_process, ..Enforced::nothing() })
        };
        assert_eq!((at(Level::Full, &[]), at(Level::NoCgroup, &[])), (String::new(), String::new()));
        assert_eq!(at(Level::None, &[]), " · level 0 (process group only)");
        assert_eq!(at(Level::NoCgroup, &["memory", "pids"]), " · for each process by itself: memory, pids");
        assert!(at(Level::Basic, &["pids"]).ends_with(") · for each process by itself: pids"));
    }
}
