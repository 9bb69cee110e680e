//! Promises: every ending has its one name, found on evidence; its words say what happened and where, and what to do
//! where that is known. Whatever the ending, nothing of the execution is alive when it is told, the event log ends with
//! the same words, and the JSON document follows its published schema (`support::ended` looks at all of these, in every
//! test here).
//!
//! Does not promise: exit codes of the command line, endings that need more than level 0 (memory, pids, system calls),
//! or anything about how long an ending takes. What a stopped tool had written is the subject of `output.rs`, failing
//! kernels that of `faults.rs`, clocks in general that of `timeouts.rs`.

#[path = "outcomes/canceled.rs"]
mod canceled;
#[path = "outcomes/invalid.rs"]
mod invalid;
#[path = "outcomes/lost.rs"]
mod lost;
#[path = "outcomes/process.rs"]
mod process;
#[path = "outcomes/refused.rs"]
mod refused;
#[path = "outcomes/spawn.rs"]
mod spawn;
#[path = "outcomes/stopped.rs"]
mod stopped;
#[path = "outcomes/ties.rs"]
mod ties;
#[path = "outcomes/worker.rs"]
mod worker;

use tool_engine::{Call, EngineBuilder};

/// An engine with the defaults.
fn plain(builder: EngineBuilder) -> EngineBuilder {
    builder
}

/// A call of a shell script.
fn sh(script: &str) -> Call {
    Call::command(["sh", "-c", script])
}
