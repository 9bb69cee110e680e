//! What is counted and measured, through the facade of the crate `metrics`: whoever embeds the engine chooses who records
//! it. Where nobody does, an execution costs a handful of small allocations more.
//!
//! All of an execution is recorded at its end, in one place; the two gauges follow it. The label `tool` is the name of a
//! tool that the catalog [knows](crate::Catalog::knows): a caller's own words (a command line, a name that is not there)
//! never make a new series.

use std::{sync::Arc, time::Duration};

use metrics::{Gauge, SharedString, Unit, counter, gauge, histogram};
use serde::Serialize;

use crate::{
    call::Target,
    error::{ErrorKind, ExecutionError},
    plan::Catalog,
    report::Report,
    vitals::Vitals,
};

/// Which kind of metric something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often which values came.
    Histogram,
}

/// One of [`METRICS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// As the recorder gets it.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// Its unit: `Count`, `Seconds` or `Bytes`.
    pub unit: Unit,
    /// The names of its labels, which it always has.
    pub labels: &'static [&'static str],
    /// What it means.
    pub about: &'static str,
}

const EXECUTIONS: &str = "run_tool_executions_total";
const ERRORS: &str = "run_tool_errors_total";
const TIMEOUTS: &str = "run_tool_timeouts_total";
const KILLS: &str = "run_tool_kills_total";
const RESIDUE: &str = "run_tool_residue_total";
const DURATION: &str = "run_tool_duration_seconds";
const QUEUE: &str = "run_tool_queue_seconds";
const START: &str = "run_tool_start_seconds";
const OUTPUT: &str = "run_tool_output_bytes";
const RUNNING: &str = "run_tool_running";
const QUEUED: &str = "run_tool_queued";
const HELD: &str = "run_tool_held";
const HELD_BYTES: &str = "run_tool_held_bytes";

/// Everything that an engine records through the crate `metrics`.
pub const METRICS: [Metric; 13] = {
    use MetricKind::{Counter, Gauge, Histogram};
    const fn metric(
        name: &'static str,
        kind: MetricKind,
        unit: Unit,
        labels: &'static [&'static str],
        about: &'static str,
    ) -> Metric {
        Metric { name, kind, unit, labels, about }
    }
    [
        metric(EXECUTIONS, Counter, Unit::Count, &["tool", "outcome"], "executions that have ended"),
        metric(
            ERRORS,
            Counter,
            Unit::Count,
            &["tool", "kind", "detail"],
            "executions that did not succeed: the kind of the error, and which limit, clock, step or source it was",
        ),
        metric(TIMEOUTS, Counter, Unit::Count, &["tool", "clock"], "executions that were stopped for time"),
        metric(
            KILLS,
            Counter,
            Unit::Count,
            &["tool", "outcome"],
            "executions whose tool had to be ended by SIGKILL",
        ),
        metric(
            RESIDUE,
            Counter,
            Unit::Count,
            &["tool", "killed"],
            "processes that were left running and killed, or (killed=\"false\") could not be",
        ),
        metric(
            DURATION,
            Histogram,
            Unit::Seconds,
            &["tool", "outcome"],
            "from submission until nothing was left",
        ),
        metric(QUEUE, Histogram, Unit::Seconds, &["tool", "outcome"], "waiting for a turn"),
        metric(
            START,
            Histogram,
            Unit::Seconds,
            &["tool", "outcome"],
            "from the turn until the program was executed",
        ),
        metric(OUTPUT, Histogram, Unit::Bytes, &["tool", "outcome"], "stdout and stderr of an execution"),
        metric(RUNNING, Gauge, Unit::Count, &[], "executions that have had their turn and have not ended"),
        metric(QUEUED, Gauge, Unit::Count, &[], "executions that wait for their turn"),
        metric(HELD, Gauge, Unit::Count, &["what"], "what the process and the engine hold; with a watch"),
        metric(HELD_BYTES, Gauge, Unit::Bytes, &["what"], "memory: rss, events; with a watch"),
    ]
};

/// Tells the recorder what [`METRICS`] mean. An engine does that when it is built; who installs a recorder later calls it
/// then.
pub fn describe_metrics() {
    for Metric { name, kind, unit, about, .. } in METRICS {
        match kind {
            MetricKind::Counter => metrics::describe_counter!(name, unit, about),
            MetricKind::Gauge => metrics::describe_gauge!(name, unit, about),
            MetricKind::Histogram => metrics::describe_histogram!(name, unit, about),
        }
    }
}

/// The label `tool` of a call; `shown` is its name as it is shown, without secrets.
pub(crate) fn tool(target: &Target, shown: &str, catalog: Option<&dyn Catalog>) -> SharedString {
    match target {
        Target::Command(_) => "command".into(),
        Target::Description(_) => "description".into(),
        Target::Tool(name) if catalog.is_some_and(|catalog| catalog.knows(name)) => {
            Arc::<str>::from(shown).into()
        }
        Target::Tool(_) => "unknown".into(),
    }
}

/// Records an ending.
pub(crate) fn ended(tool: &SharedString, end: &Result<Report, ExecutionError>) {
    let (outcome, report, kind) = match end {
        Ok(report) => ("ok", report, None),
        Err(error) => (error.kind().name(), error.report(), Some(error.kind())),
    };
    let record = |name, value: f64| {
        histogram!(name, "tool" => tool.clone(), "outcome" => outcome).record(value);
    };
    counter!(EXECUTIONS, "tool" => tool.clone(), "outcome" => outcome).increment(1);
    record(DURATION, report.timings.total.as_secs_f64());
    record(QUEUE, report.timings.queued.as_secs_f64());
    if report.timings.starting > Duration::ZERO {
        record(START, report.timings.starting.as_secs_f64());
    }
    if report.enforced.is_some() {
        // What never ran has no output.
        #[expect(clippy::cast_precision_loss, reason = "nobody needs more than 53 bits of it")]
        record(OUTPUT, report.usage.bytes_out as f64);
    }
    if report.killed {
        counter!(KILLS, "tool" => tool.clone(), "outcome" => outcome).increment(1);
    }
    for killed in [true, false] {
        let left = report.residue.iter().filter(|left| left.killed == killed).count();
        if left > 0 {
            let killed = if killed { "true" } else { "false" };
            counter!(RESIDUE, "tool" => tool.clone(), "killed" => killed).increment(left as u64);
        }
    }
    if let Some(kind) = kind {
        failed(tool, kind);
    }
}

/// Records an execution whose task was dropped before it had an end.
pub(crate) fn lost(tool: &SharedString, kind: &ErrorKind) {
    counter!(EXECUTIONS, "tool" => tool.clone(), "outcome" => kind.name()).increment(1);
    failed(tool, kind);
}

fn failed(tool: &SharedString, kind: &ErrorKind) {
    let detail = match kind {
        ErrorKind::Process { status } => word(status),
        ErrorKind::Tool(error) => word(&error.phase),
        ErrorKind::Protocol { fault, .. } => word(fault),
        ErrorKind::Limit { limit } => word(limit),
        ErrorKind::Timeout { clock, .. } => {
            counter!(TIMEOUTS, "tool" => tool.clone(), "clock" => word(clock)).increment(1);
            word(clock)
        }
        ErrorKind::Spawn { step, .. } => word(step),
        ErrorKind::Canceled { by, .. } => word(by),
        ErrorKind::Invalid { .. }
        | ErrorKind::Lost { .. }
        | ErrorKind::Busy { .. }
        | ErrorKind::Sandbox { .. } => String::new(),
    };
    counter!(ERRORS, "tool" => tool.clone(), "kind" => kind.name(), "detail" => detail).increment(1);
}

/// The name of a variant, as it is in the JSON report: one of a fixed set of words, without its numbers and texts.
fn word(variant: &impl Serialize) -> String {
    use serde_json::Value;
    match serde_json::to_value(variant) {
        Ok(Value::String(name)) => name,
        // Either tagged by `limit`, or a name with its content.
        Ok(Value::Object(fields)) => match fields.get("limit") {
            Some(Value::String(name)) => name.clone(),
            _ => fields.keys().next().cloned().unwrap_or_default(),
        },
        _ => String::new(),
    }
}

/// One more, until it is dropped. That goes to the recorder that was there at the beginning, so that it comes out even.
#[must_use]
pub(crate) struct OneMore(Gauge);

impl OneMore {
    pub(crate) fn queued() -> Self {
        Self::of(gauge!(QUEUED))
    }

    pub(crate) fn running() -> Self {
        Self::of(gauge!(RUNNING))
    }

    fn of(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for OneMore {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Records what is held.
#[expect(clippy::cast_precision_loss, reason = "nobody needs more than 53 bits of it")]
pub(crate) fn vitals(vitals: &Vitals) {
    let rows = vitals.rows().into_iter().filter(|(what, _)| *what != "event bytes");
    for (what, held) in rows {
        if let Some(held) = held {
            gauge!(HELD, "what" => what).set(held as f64);
        }
    }
    gauge!(HELD_BYTES, "what" => "events").set(vitals.event_bytes as f64);
    if let Some(rss) = vitals.rss {
        gauge!(HELD_BYTES, "what" => "rss").set(rss as f64);
    }
}

#[cfg(test)]
mod tests {
    use tool_sandbox::{ExitStatus, LaunchStep};

    use super::*;
    use crate::error::{CancelSource, Clock, Limit};

    #[test]
    fn the_details_are_words_of_a_fixed_set() {
        assert_eq!(word(&CancelSource::Signal(2)), "signal");
        assert_eq!(word(&CancelSource::Dropped), "dropped");
        assert_eq!(word(&Limit::Memory { bytes: Some(7) }), "memory");
        assert_eq!(word(&Limit::Syscall { architecture: None }), "syscall");
        assert_eq!(word(&ExitStatus::Code(137)), "code");
        assert_eq!(word(&Clock::Idle), "idle");
        assert_eq!(word(&LaunchStep::Workdir), "workdir");
    }
}
