//! Promises: a secret that a tool is given arrives as it is, and is shown nowhere: neither in captured output nor in any
//! event, value, error or command line of the report, however the tool's writes cut it, whatever ends the call, and
//! however little of the output is kept. Output in which no secret occurs is what the tool wrote, to the byte. A call
//! masks its own secrets and not those of another. A secret that cannot be masked, or handed over, is refused, and the
//! refusal does not show it.
//!
//! Does not promise: that a value is known again which the tool has changed otherwise than by escaping it in JSON or in a
//! URL; that the beginning of a secret is masked when its end never comes; or that live output is as prompt as without
//! secrets: what may be the beginning of one is held back.

#[path = "secrets/refused.rs"]
mod refused;
#[path = "secrets/streams.rs"]
mod streams;
#[path = "secrets/told.rs"]
mod told;

use tool_engine::{Call, EngineBuilder, Event, EventKind, Events, ExecutionError, Report, ReportDocument};

const TOKEN: &str = "s3cr3t-t0k3n/with \"quotes\"";

/// An engine with the defaults.
fn plain(builder: EngineBuilder) -> EngineBuilder {
    builder
}

/// A call of a shell script that has the token.
fn sh(script: &str) -> Call {
    Call::command(["sh", "-c", script]).secret("TOKEN", TOKEN)
}

/// Everything that is told of an execution that has ended, as text.
fn all_told(mut events: Events, end: &Result<Report, ExecutionError>) -> String {
    let mut text = String::new();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(event) = events.try_next() {
        text += &format!("{event:?}\n{}\n", serde_json::to_string(&event).expect("an event is JSON"));
        match event {
            Event { kind: EventKind::Stdout(chunk), .. } => stdout.extend_from_slice(&chunk.0),
            Event { kind: EventKind::Stderr(chunk), .. } => stderr.extend_from_slice(&chunk.0),
            _ => {}
        }
    }
    let report = end.as_ref().unwrap_or_else(|error| error.report());
    for bytes in [stdout, stderr, report.stdout.bytes().to_vec(), report.stderr.bytes().to_vec()] {
        text += &String::from_utf8_lossy(&bytes);
        text += "\n";
    }
    text += &serde_json::to_string(&ReportDocument::new(end)).expect("a report is JSON");
    match end {
        Ok(report) => text + &format!("{report:?}"),
        Err(error) => text + &format!("{error} {error:?}"),
    }
}

/// Asserts that nothing of this shows the token, whole or in its parts, and that something stands for it.
fn assert_masked(told: &str) {
    for part in ["s3cr3t", "t0k3n", "with \"quotes", "with \\\"quotes"] {
        assert!(!told.contains(part), "{part:?} is shown: {told}");
    }
    assert!(told.contains("***"), "nothing was masked: {told}");
}
