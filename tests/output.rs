//! Promises: what a tool wrote is captured to the byte, head and tail beyond the cap, with exact counts; what is written
//! to it arrives to the byte; no flood, no silence, no closed, shared or stolen pipe makes a call hang or costs output
//! that was there before the end. Every reader of the events sees the same, or is told exactly how much it missed; with
//! back-pressure nothing is missed. Memory stays within the bounds that were asked for.
//!
//! Does not promise: that lines or characters arrive in one chunk, an order between stdout and stderr, any speed, or the
//! output of a process that nobody could find or kill after the drain deadline.

#[path = "output/capture.rs"]
mod capture;
#[path = "output/holders.rs"]
mod holders;
#[path = "output/readers.rs"]
mod readers;
#[path = "output/stdin.rs"]
mod stdin;

use std::fs;

use tool_engine::{Call, Chunk, EngineBuilder, Event, EventKind, Events};

/// An engine with the defaults.
fn plain(builder: EngineBuilder) -> EngineBuilder {
    builder
}

/// A call of a shell script.
fn sh(script: &str) -> Call {
    Call::command(["sh", "-c", script])
}

/// The pid of the process, from the event log's first event.
async fn started(events: &mut Events) -> u32 {
    match events.next().await {
        Some(Event { kind: EventKind::Started { pid }, .. }) => pid,
        other => panic!("{other:?} comes before the start"),
    }
}

/// What an event carries of stdout.
fn stdout(event: &Event) -> &[u8] {
    match &event.kind {
        EventKind::Stdout(Chunk(bytes)) => bytes,
        _ => &[],
    }
}

/// A field of a `/proc` file in which each line is a name, a colon and a number.
fn field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {file}"))
}

/// How much memory a piece of a test takes at most.
struct Memory {
    before: u64,
}

impl Memory {
    fn begin() -> Self {
        // "5" makes the peak begin anew (proc_pid_clear_refs(5)).
        fs::write("/proc/self/clear_refs", "5").expect("our own peak can be reset");
        Self { before: field("/proc/self/status", "VmRSS") }
    }

    /// How many bytes more there were at the peak than at the beginning.
    fn peak(&self) -> u64 {
        field("/proc/self/status", "VmHWM").saturating_sub(self.before) * 1024
    }
}
