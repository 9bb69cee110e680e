//! An execution as those see it who look at the whole engine: its span, and its part in the metrics.

use metrics::SharedString;
use tracing::Span;

use crate::{
    call::Call,
    error::ExecutionError,
    execution::{ExecutionId, dropped},
    metering,
    plan::Catalog,
    report::Report,
};

/// From the submission of an execution to its end, which is recorded also when its task is dropped before.
#[derive(Debug)]
pub(crate) struct Observed {
    span: Span,
    tool: SharedString,
    recorded: bool,
}

impl Observed {
    /// The span's parent is the one that the caller is in. `label` is masked.
    pub(crate) fn new(id: ExecutionId, call: &Call, label: &str, catalog: Option<&dyn Catalog>) -> Self {
        // Without a subscriber nothing of this is even formatted.
        let span = tracing::info_span!(
            "execution",
            %id,
            tool = tracing::field::Empty,
            outcome = tracing::field::Empty,
            level = tracing::field::Empty,
            otel.status_code = tracing::field::Empty,
        );
        Self { span, tool: metering::tool(call.target(), label, catalog), recorded: false }
    }

    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }

    pub(crate) fn ended(&mut self, end: &Result<Report, ExecutionError>) {
        self.recorded = true;
        metering::ended(&self.tool, end);
        let report = end.as_ref().unwrap_or_else(|error| error.report());
        // Only now is it known what is secret.
        self.span.record("tool", &*report.tool);
        if let Some(enforced) = &report.enforced {
            self.span.record("level", enforced.level.number());
        }
        self.outcome(end.as_ref().err().map_or("ok", |error| error.kind().name()));
    }

    fn outcome(&self, outcome: &str) {
        self.span.record("outcome", outcome);
        if outcome != "ok" {
            self.span.record("otel.status_code", "error");
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if !self.recorded {
            let kind = dropped(std::thread::panicking());
            metering::lost(&self.tool, &kind);
            self.outcome(kind.name());
        }
    }
}
