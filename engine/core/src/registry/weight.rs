//! About how many bytes a record takes.

use super::{End, record::Record};
use crate::{
    error::{ErrorKind, ExecutionError},
    events,
    report::Attempt,
};

/// What a record takes beside what is counted, tables included; about, and rather more.
const FIXED: u64 = 4 << 10;

/// Of a record and its end: output, events, value, error. Output that the events hold as well is counted twice.
pub(super) fn of(record: &Record, end: &End) -> u64 {
    let report = end.as_ref().as_ref().unwrap_or_else(ExecutionError::report);
    let captured = [&report.stdout, &report.stderr].map(|captured| captured.total() - captured.dropped());
    let words = record.id.len() + record.tool.len() + report.tool.len();
    let lists = report.residue.iter().map(|left| left.command.len()).sum::<usize>()
        + report.hints.iter().map(String::len).sum::<usize>()
        + report.attempts.iter().map(of_attempt).sum::<usize>();
    let value = report.value.as_ref().map_or(0, events::weight);
    // It is in the end and in the event that tells it.
    let error = 2 * end.as_ref().as_ref().err().map_or(0, |error| of_error(error.kind()));
    FIXED + record.log.weight() + captured.iter().sum::<u64>() + (words + lists + value + error) as u64
}

fn of_attempt(attempt: &Attempt) -> usize {
    size_of::<Attempt>() + attempt.description.as_ref().map_or(0, String::len)
}

fn of_error(kind: &ErrorKind) -> usize {
    match kind {
        ErrorKind::Tool(error) => {
            error.name.len()
                + error.message.len()
                + error.stack.as_ref().map_or(0, String::len)
                + error.data.as_ref().map_or(0, events::weight)
        }
        ErrorKind::Invalid { subject, message, hint } => subject.len() + message.len() + hint.len(),
        ErrorKind::Canceled { reason, .. } => reason.as_ref().map_or(0, String::len),
        // Words of our own, and excerpts that are short.
        _ => 0,
    }
}
