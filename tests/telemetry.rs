//! Whoever looks at the engine through the crates `metrics` and `tracing` sees what happened, and no secret.
//!
//! Promised: every execution is counted once, under its outcome, also when its runtime goes away under it; the two gauges
//! come back to 0. Everything recorded is in the table of metrics with the labels given there, which is the README's. Words of
//! a caller make no new series. Every execution is one span, in that of its caller, with its id, tool, outcome and level, and
//! its phases in their order. Secrets are in none of it.
//!
//! Not promised: what a recorder or subscriber that is installed in mid-run sees of executions that had begun before; the
//! spans of the embedding program.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "telemetry/metrics.rs"]
mod metrics;
#[path = "telemetry/spans.rs"]
mod spans;
