//! `run-tool follow`: the lines of a log, as they come.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    pin::pin,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use run_tool::{
    Chunk, ErrorKind,
    follow::{FileOutput, FollowEventKind, Follower, Followers, Line, Source, Subscription},
};
use serde_json::{Map, Value};
use tokio::{io::Interest, net::unix::pipe, runtime::Handle};

use crate::{
    args::{Follow, SourceName},
    call::{Around, Surroundings, engine_for, policy, resources},
    exit_code::{CANNOT_WRITE, Column, OUTPUT_CLOSED, by_signal, of_failure},
    on_a_thread,
    show::plain,
    signals::Signals,
    values::show_time,
};

/// How long whoever reads our output may take for what is left of it when the follower has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Follows until it is stopped, its output cannot be written, or the source cannot be opened at all. With the exit code.
pub(crate) async fn follow(args: &Follow) -> Result<u8> {
    let around = Surroundings::look()?;
    let (key, source) = source(args)?;
    let given = Around::look(&args.given)?;
    let policy = policy(&args.sandbox, &around).over(&source.needs());
    let resources = resources(&args.use_up);
    let shape =
        move |call: run_tool::Call| given.apply(call.policy(policy.clone()).resources(resources.clone()));
    let mut source = source.since(args.since).rotate_every(args.rotate_every).call(shape).back_pressure();
    if let Some(bytes) = args.rotate_bytes {
        source = source.rotate_bytes(bytes);
    }
    if let Some(path) = &args.file {
        source = source.output(output(args, std::path::absolute(path)?));
    }
    let mut signals = Signals::listen()?;
    let engine = engine_for(&args.sandbox, &around).build()?;
    let followers = Followers::builder(&engine).max(1).build()?;
    let follower = followers.follow(&key, source).with_context(|| format!("cannot follow {key}"))?;

    let shower = Shower {
        key,
        json: args.json,
        times: args.timestamps,
        lines: args.file.is_none(),
        quiet: args.quiet,
        written: Ok(()),
    };
    let (events, own, runtime) = (follower.subscribe(), follower.clone(), Handle::current());
    let mut showing = on_a_thread("show", move || shower.show(events, &own, &runtime))?;
    let mut asked = None;
    // A log can be silent for days: not only who writes to it finds out that nobody reads.
    let mut closed = pin!(output_closed());
    let mut is_closed = false;
    let shown = loop {
        // When all is over but for a reader that does not read, that is not waited for much longer.
        let stuck = async {
            follower.ended().await;
            if asked.is_none() && !is_closed {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! { biased;
            shown = &mut showing => break shown.ok(),
            number = signals.next() => {
                if asked.replace(number).is_some() {
                    break None;
                }
                follower.ask_to_stop();
            }
            () = &mut closed, if !is_closed && args.file.is_none() => {
                is_closed = true;
                follower.ask_to_stop();
            }
            () = stuck => break None,
        }
    };
    engine.shutdown(Duration::ZERO).await;
    Ok(match (shown, asked) {
        (Some(Shown { written: Ok(()), failure: None }) | None, None) if is_closed => OUTPUT_CLOSED,
        (Some(Shown { written: Err(error), .. }), _) if error.kind() == io::ErrorKind::BrokenPipe => {
            OUTPUT_CLOSED
        }
        (Some(Shown { written: Err(error), .. }), _) => {
            // What went wrong may be our standard error.
            let _ = writeln!(io::stderr(), "run-tool: cannot write what there is to say: {error}");
            CANNOT_WRITE
        }
        (_, Some(number)) => by_signal(number),
        (Some(Shown { failure: Some(kind), .. }), None) => {
            let _ = writeln!(io::stderr(), "run-tool: {kind}");
            of_failure(&kind, Column::Exec)
        }
        (Some(Shown { failure: None, .. }) | None, None) => 0,
    })
}

/// Waits until whoever reads our standard output, a pipe, is gone; for ever, if it is something else.
async fn output_closed() {
    // Unchecked: it is only watched, and stays as it is for those who write to it.
    let own = io::stdout().as_fd().try_clone_to_owned();
    if let Ok(out) = own.and_then(pipe::Sender::from_owned_fd_unchecked)
        && out.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// What the arguments name, and what it is called.
fn source(args: &Follow) -> Result<(String, Source)> {
    let extra = args.command.clone();
    let name = || args.name.clone().context("name what to follow: a container, a pod or a file");
    let none = || match extra[..] {
        [] => Ok(()),
        _ => bail!("arguments after -- are for kubectl, journal, or a command of your own; leave them out"),
    };
    let mut source = match args.source {
        None if extra.is_empty() => bail!(
            "name what to follow: docker, podman, kubectl, journal or tail and a name, or a command that says {{since}} after --"
        ),
        None => Source::command(extra, args.time_format),
        Some(SourceName::Docker) => none().and_then(|()| Ok(Source::docker(name()?)))?,
        Some(SourceName::Podman) => none().and_then(|()| Ok(Source::podman(name()?)))?,
        Some(SourceName::Tail) => none().and_then(|()| Ok(Source::file(std::path::absolute(name()?)?)))?,
        Some(SourceName::Kubectl) => Source::kubectl([name()?].into_iter().chain(extra)),
        Some(SourceName::Journal) => {
            let unit = args.name.iter().flat_map(|unit| ["--unit".into(), unit.clone()]);
            Source::journal(unit.chain(extra))
        }
    };
    if let Some(program) = &args.program {
        source = source.program(program);
    }
    let named = args.name.as_ref().or(args.command.first());
    let named = || named.map_or_else(|| "journal".to_owned(), |name| name.to_string_lossy().into_owned());
    Ok((args.key.clone().unwrap_or_else(named), source))
}

fn output(args: &Follow, path: std::path::PathBuf) -> FileOutput {
    let mut output = FileOutput::new(path).max_bytes(args.file_max_size).keep(args.keep);
    if let Some(age) = args.file_max_age {
        output = output.max_age(age);
    }
    if args.compress {
        output = output.compress();
    }
    if args.timestamps { output.with_times() } else { output }
}

/// Shows what a follower tells.
struct Shower {
    key: String,
    json: bool,
    times: bool,
    lines: bool,
    quiet: bool,
    written: io::Result<()>,
}

/// How the showing ended.
struct Shown {
    written: io::Result<()>,
    /// Why the source could not be opened at all.
    failure: Option<ErrorKind>,
}

impl Shower {
    /// Shows events until the last. Blocks: belongs on a thread of its own.
    fn show(mut self, mut events: Subscription, follower: &Follower, runtime: &Handle) -> Shown {
        let mut failure = None;
        while let Some(event) = runtime.block_on(events.next()) {
            if let FollowEventKind::Ended { error } = event.kind {
                failure = error;
            } else if self.written.is_ok()
                && let Err(error) = self.one(&event.kind)
            {
                // From here on events are only taken, so that nothing waits for us.
                follower.ask_to_stop();
                self.written = Err(error);
            }
        }
        Shown { written: self.written, failure }
    }

    fn one(&self, event: &FollowEventKind) -> io::Result<()> {
        let aside = |text: String| match self.quiet {
            true => Ok(()),
            false => writeln!(io::stderr(), "run-tool: {}", plain(&text)),
        };
        match event {
            FollowEventKind::Line(line) if self.lines => self.line(line),
            FollowEventKind::Diagnostic(text) => {
                aside(format!("{}: {}", self.key, String::from_utf8_lossy(text)))
            }
            FollowEventKind::Reconnect { reason, after } => {
                aside(format!("{}: {reason}; it is opened again in {}", self.key, show_time(*after)))
            }
            FollowEventKind::OutputFailed { reason, after } => {
                aside(format!("cannot write the file: {reason}; it is tried again in {}", show_time(*after)))
            }
            FollowEventKind::Gap { missed } => {
                aside(format!("{missed} lines are missing here: there was no time left to show them"))
            }
            _ => Ok(()),
        }
    }

    fn line(&self, line: &Line) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, &self.document(line)?)?;
            out.write_all(b"\n")?;
        } else {
            out.write_all(self.said(line))?;
            let end = line.end.bytes();
            out.write_all(if end.is_empty() { b"\n" } else { end })?;
        }
        out.flush()
    }

    fn said<'a>(&self, line: &'a Line) -> &'a [u8] {
        if self.times { &line.written } else { &line.content }
    }

    fn document(&self, line: &Line) -> io::Result<Value> {
        let mut fields = Map::new();
        let time = line.time.map(|time| humantime::format_rfc3339_nanos(time).to_string());
        fields.insert("key".into(), self.key.clone().into());
        fields.insert("time".into(), time.into());
        fields.insert("stream".into(), line.stream.to_string().into());
        let content = if self.times { &line.written } else { &line.content };
        // As everywhere: what is no text is base64.
        let mut chunk = serde_json::to_value(Chunk(content.clone()))?;
        fields.insert("encoding".into(), chunk["encoding"].take());
        fields.insert("line".into(), chunk["data"].take());
        if line.cut > 0 {
            fields.insert("cut".into(), line.cut.into());
        }
        if line.partial {
            fields.insert("partial".into(), true.into());
        }
        Ok(Value::Object(fields))
    }
}
