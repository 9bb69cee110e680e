//! Promises: when the kernel says no — no descriptor, no process, no space, a read-only or vanished folder, a program or
//! working folder that vanishes at the wrong moment, interrupted system calls — a call ends soon in an error that names
//! the step and the kernel's reason, nothing of it is left behind, and the engine works again as soon as the kernel says
//! yes again.
//!
//! Does not promise: that an engine can be built, or a runtime started, on a machine that has nothing left; that what
//! left its process group is found while there is no descriptor to look with.
//!
//! What a machine does not permit (mounts, other users) is skipped, and the reason printed: run with `--no-capture`.

#[path = "faults/descriptors.rs"]
mod descriptors;
#[path = "faults/inner.rs"]
mod inner;
#[path = "faults/interrupts.rs"]
mod interrupts;
#[path = "faults/processes.rs"]
mod processes;
#[path = "faults/space.rs"]
mod space;
#[path = "faults/sweep.rs"]
mod sweep;
#[path = "faults/vanishing.rs"]
mod vanishing;

use nix::errno::Errno;
use tool_engine::{Call, EngineBuilder, ErrorKind, LaunchStep};

/// An engine with the defaults.
fn plain(builder: EngineBuilder) -> EngineBuilder {
    builder
}

/// A call of a shell script.
fn sh(script: &str) -> Call {
    Call::command(["sh", "-c", script])
}

/// The step and the errno of a call that could not be started.
fn refused(kind: &ErrorKind) -> (LaunchStep, Errno) {
    match kind {
        ErrorKind::Spawn { step, errno, .. } => (*step, Errno::from_raw(*errno)),
        other => panic!("not a failed start: {other:?}"),
    }
}
