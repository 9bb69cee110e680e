//! The registry: executions known by an id, whoever holds them or nobody; and the queue that they wait in.
//!
//! Promised: the same call under the same id is one execution, another call under it a conflict that says why. A state only
//! goes forward. Whoever cancels, at whatever moment, finds the record afterwards, with one end, which stands: `canceled`, or
//! the end that had come before. What waited for its turn when it was cancelled is never started. Waiting and reading have no
//! part in it: who stops cancels nothing. What has ended stays for as long as was asked for, within bounds of number and
//! bytes, oldest end first; what has not ended stays. In the queue owners take turns, no owner runs more than it may, and
//! what runs fits into the memory that was allowed. What is tried again is one execution with one end. What ran is gone when all were cancelled.
//!
//! Not promised: which of two submits with one id makes the execution; whether what is submitted during a `cancel_all` is
//! among the cancelled; that records take no more than their bound to the byte; how long anything takes.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "registry/canceling.rs"]
mod canceling;
#[path = "registry/keeping.rs"]
mod keeping;
#[path = "registry/many.rs"]
mod many;
#[path = "registry/queue.rs"]
mod queue;
#[path = "registry/retrying.rs"]
mod retrying;
#[path = "registry/submitting.rs"]
mod submitting;

use support::{PATIENCE, ready};
use tool_engine::{Call, End, EngineBuilder, ErrorKind, EventKind, Registry, State};

fn plain(builder: EngineBuilder) -> EngineBuilder {
    builder
}

fn sh(script: &str) -> Call {
    Call::command(["sh", "-c", script])
}

/// Says `ready`, and then nothing for ever.
fn sleeping() -> Call {
    sh("echo ready; exec sleep 1000")
}

/// Submits it and waits until it runs.
async fn running(registry: &Registry, call: Call) -> String {
    let id = registry.submit(call).unwrap().id;
    ready(&mut registry.events(&id, None).unwrap()).await;
    assert_eq!(registry.status(&id).unwrap().state, State::Running);
    id
}

async fn end(registry: &Registry, id: &str) -> End {
    tokio::time::timeout(PATIENCE, registry.wait(id)).await.expect("it ends").expect("it is known")
}

fn kind(end: &End) -> ErrorKind {
    end.as_ref().as_ref().expect_err("it failed").kind().clone()
}

/// All events, to the end. There is one end, and it comes last.
async fn events(registry: &Registry, id: &str) -> Vec<EventKind> {
    let mut reader = registry.events(id, None).unwrap();
    let mut found = Vec::new();
    while let Some(event) = tokio::time::timeout(PATIENCE, reader.next()).await.expect("it ends") {
        found.push(event.kind);
    }
    let ends = found.iter().filter(|event| matches!(event, EventKind::Ended { .. })).count();
    assert!(ends == 1 && matches!(found.last(), Some(EventKind::Ended { .. })), "{found:?}");
    found
}
