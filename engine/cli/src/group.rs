//! `run-tool group`: several calls under one rule.

use std::{
    fs::File,
    io::{self, IsTerminal, Read, Write},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use run_tool::{
    Call, CancelSource, ErrorKind, ExecutionError, Report, ReportDocument, Stdin, Target, WrittenCall,
};
use serde::Serialize;

use crate::{
    args,
    board::{Board, draw},
    call::{self, Around, Surroundings},
    declared,
    exit_code::by_signal,
    on_a_thread, open_report,
    show::plain,
    signals::Signals,
    spoken, until_told,
    values::{show_size, show_time},
};

type End = Result<Report, ExecutionError>;

/// Runs the calls of a file and shows how they ended. With the exit code.
pub(crate) async fn group(args: &args::Group) -> Result<u8> {
    let report_file = open_report(args.report.as_deref())?;
    let around = Surroundings::look()?;
    // This may wait for input. Until it is there a signal ends us as it ends any program.
    let written = read(&args.file, &around)?;
    let mut engine = call::engine_for(&args.terms.sandbox, &around);
    if let Some(most) = args.at_most {
        engine = engine.max_running(usize::try_from(most)?);
    }
    let is_tool = |written: &&WrittenCall| matches!(written.target, Target::Tool(_));
    if written.iter().any(|written| is_tool(&written)) {
        let tools = declared::load(args.manifest.as_deref(), &around)?;
        for written in written.iter().filter(is_tool) {
            if let Target::Tool(name) = &written.target
                && let Err(unknown) = tools.get(name)
            {
                bail!("{}:{}: {unknown}", shown(&args.file), written.line);
            }
        }
        engine = engine.catalog(tools);
    }
    let engine = engine.build()?;
    let labels: Vec<_> = written.iter().map(|written| written.label.clone()).collect();
    let given = Around::look(&args.terms.given)?;
    let calls: Vec<_> =
        written.into_iter().map(|written| prepare(written, &args.terms, &given, &around)).collect();
    let mut signals = Signals::listen()?;

    let board = Arc::new(Board::new(&calls, &labels));
    let mut group = run_tool::Group::new(&engine);
    if args.fail_fast {
        group = group.fail_fast();
    }
    if args.first_success {
        group = group.first_success();
    }
    if let Some(deadline) = args.deadline {
        group = group.deadline(deadline);
    }
    let mut drawing = None;
    if !args.quiet && io::stderr().is_terminal() {
        let (events, ends, drawn) = (Arc::clone(&board), Arc::clone(&board), Arc::clone(&board));
        group = group.on_event(move |index, event| events.happened(index, event));
        group = group.on_end(move |index, end| ends.ended(index, end));
        drawing = Some(on_a_thread("draw", move || draw(&drawn))?);
    }
    let (ends, asked) = signals.until_ended(&group.canceler(), group.run(calls)).await;
    board.close();

    let code = code(&ends, args.first_success, asked);
    let (json, quiet) = (args.json, args.quiet);
    let told = until_told(&mut signals, async {
        // What is drawn is cleared before anything else is shown.
        if let Some(drawing) = drawing {
            let _ = drawing.await;
        }
        on_a_thread("tell", move || tell(&ends, &labels, json, quiet, report_file))?.await.unwrap_or(Ok(()))
    });
    // Nobody has to wait for the engine's end to hear of the calls'.
    let (told, ()) = tokio::join!(told, engine.shutdown(std::time::Duration::ZERO));
    Ok(match told {
        Ok(told) => spoken(told.err(), code),
        Err(number) => by_signal(number),
    })
}

/// The calls that are asked for.
fn read(file: &Path, around: &Surroundings) -> Result<Vec<WrittenCall>> {
    if file != Path::new("-") {
        return Ok(WrittenCall::load(file)?);
    }
    let mut text = String::new();
    let read = io::stdin().take(WrittenCall::LARGEST + 1).read_to_string(&mut text);
    let read = read.context("cannot read calls from standard input; they are JSON lines in UTF-8")? as u64;
    if read > WrittenCall::LARGEST {
        bail!("standard input: is larger than {}; run its calls in parts", show_size(WrittenCall::LARGEST));
    }
    Ok(WrittenCall::json_lines(&text, shown(file), &around.current)?)
}

/// What the file is called in messages.
fn shown(file: &Path) -> String {
    if file == Path::new("-") { "standard input".into() } else { file.display().to_string() }
}

/// A call, with what the arguments say of all of them where it says nothing itself.
fn prepare(written: WrittenCall, args: &args::Terms, given: &Around, around: &Surroundings) -> Call {
    let WrittenCall { target, input, stdin, limits, resources, policy, env, retry, workdir, .. } = written;
    let call = match target {
        Target::Command(words) => Call::command(words),
        Target::Tool(name) | Target::Description(name) => Call::tool(name, input),
    };
    let below = call::policy(&args.sandbox, around);
    let level = policy.level.or(below.level);
    let mut policy = policy.over(&below);
    policy.level = level;
    let mut call = call
        .policy(policy)
        .resources(resources.over(&call::resources(&args.use_up)))
        .limits(limits.over(&call::limits(args)))
        .retry(retry.over(&call::retry(args)));
    call = given.apply(call);
    if let Some(stdin) = stdin {
        call = call.stdin(Stdin::Bytes(stdin.into()));
    }
    if let Some(folder) = workdir {
        call = call.workdir(folder);
    }
    env.into_iter().fold(call, |call, (name, value)| call.env(name, value))
}

/// What the endings are to a shell.
fn code(ends: &[End], one_is_enough: bool, asked: Option<i32>) -> u8 {
    let by_us = |end: &End| {
        let kind = end.as_ref().err().map(ExecutionError::kind);
        matches!(kind, Some(ErrorKind::Canceled { by: CancelSource::Signal(_), .. }))
    };
    let enough = if one_is_enough { ends.iter().any(Result::is_ok) } else { ends.iter().all(Result::is_ok) };
    match asked {
        _ if enough => 0,
        Some(number) if ends.iter().any(by_us) => by_signal(number),
        _ => 1,
    }
}

/// A call's report, as `--json` has it.
#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    label: &'a str,
    #[serde(flatten)]
    document: ReportDocument<'a>,
}

/// What is known of an ending.
fn report(end: &End) -> &Report {
    end.as_ref().unwrap_or_else(ExecutionError::report)
}

fn tell(
    ends: &[End],
    labels: &[Option<String>],
    json: bool,
    quiet: bool,
    report_file: Option<File>,
) -> io::Result<()> {
    let labels: Vec<&str> =
        ends.iter().zip(labels).map(|(end, label)| label.as_deref().unwrap_or(&report(end).tool)).collect();
    let report = report_file.map_or(Ok(()), |file| write_lines(ends, &labels, file));
    if json {
        write_lines(ends, &labels, io::stdout().lock())?;
    } else if !quiet {
        let table = table(ends, &labels);
        let mut out = io::stdout().lock();
        for line in table.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        out.flush()?;
    }
    report
}

fn write_lines(ends: &[End], labels: &[&str], to: impl Write) -> io::Result<()> {
    let mut to = io::BufWriter::new(to);
    for (index, (end, label)) in ends.iter().zip(labels).enumerate() {
        serde_json::to_writer(&mut to, &Line { index, label, document: ReportDocument::new(end) })?;
        to.write_all(b"\n")?;
    }
    to.flush()
}

/// How the calls ended, for people.
fn table(ends: &[End], labels: &[&str]) -> Table {
    /// Of what a call is called and of what there is to say, elsewhere than on a terminal, which has a width.
    const WIDEST: usize = 60;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["call", "outcome", "time", "CPU", "peak memory", ""]);
    for column in [2, 3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (end, label) in ends.iter().zip(labels) {
        let report = report(end);
        let (outcome, colour, words) = match end {
            Ok(_) => ("ok", Color::Green, String::new()),
            Err(error) => (error.kind().name(), Color::Red, error.to_string()),
        };
        let attempts = match report.attempts.len() {
            0 => String::new(),
            attempts => format!("{attempts} attempts{}", if words.is_empty() { "" } else { ": " }),
        };
        let usage = report.usage;
        let memory = match usage.peak_memory {
            Some(bytes) => show_size(bytes),
            None if usage.peak_memory_at_most > 0 => format!("< {}", show_size(usage.peak_memory_at_most)),
            None => "-".into(),
        };
        let cpu = usage.cpu_user + usage.cpu_system;
        table.add_row([
            Cell::new(one_line(label, WIDEST)),
            Cell::new(outcome).fg(colour),
            Cell::new(show_time(report.timings.total)),
            Cell::new(if report.exit.is_some() { show_time(cpu) } else { "-".into() }),
            Cell::new(memory),
            Cell::new(one_line(&format!("{attempts}{words}"), 2 * WIDEST)),
        ]);
    }
    table
}

/// A text in one line that does nothing to a terminal, and has at most so many characters.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    let text = plain(text).split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
