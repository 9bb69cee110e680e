//! What an engine says of itself is true, and it holds after a call what it held before.
//!
//! Promised: after calls of every ending, on both kinds of runtime, nothing is more than at the mark. What is held shows in
//! its own row, with what it is where that has a name; so none of the rows is blind. A watch warns once in a cooldown when
//! growth has passed a threshold, names the numbers, and ends with the engine, which it does not keep alive.
//!
//! Not promised: that memory goes back (the allocator keeps some); that a pool does not fill up to its bound; what
//! another engine or the embedding program holds in the same process is not told apart.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "vitals/endings.rs"]
mod endings;
#[path = "vitals/rows.rs"]
mod rows;
#[path = "vitals/watch.rs"]
mod watch;

use support::{PATIENCE, until};
use tool_engine::{Engine, Growth, Vitals};

/// Waits until nothing is more than at the mark: a lane's thread lets go of some things a moment after the end is told.
async fn settled(engine: &Engine, mark: &Vitals) {
    let mut last = Growth::default();
    let calm = tokio::time::timeout(PATIENCE, async {
        loop {
            last = engine.vitals().since(mark);
            if last.is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    let calm = calm.await;
    assert!(calm.is_ok(), "left over:\n{last}");
}

/// Waits until this row has grown, and returns it as text.
async fn grows(engine: &Engine, mark: &Vitals, what: &str) -> String {
    until(format!("growth of {what}"), PATIENCE, || {
        let growth = engine.vitals().since(mark);
        growth.rows().iter().find(|row| row.what == what).map(ToString::to_string)
    })
    .await
}
