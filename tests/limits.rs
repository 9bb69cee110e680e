//! Promises: a limit holds for all processes of a call together, or the report says that it holds for each of them by itself;
//! a call that ran into one ends as [`ErrorKind::Limit`] when the kernel's own evidence says so, and otherwise as the tool
//! made it end.
//!
//! Does not promise: that a tool which catches what the kernel refuses (a process, a descriptor, room in a file system) is
//! stopped. What was refused is told in `usage`.

#[path = "limits/each.rs"]
mod each;
#[path = "limits/per_process.rs"]
mod per_process;
#[path = "limits/together.rs"]
mod together;

use tool_engine::{Call, Level, Policy, ResourceLimits};

/// A script under these limits, at any level that contains it.
fn python(script: &str, resources: ResourceLimits) -> Call {
    contained(Call::command(["/usr/bin/python3", "-S", "-c", script]), resources)
}

fn shell(script: &str, resources: ResourceLimits) -> Call {
    contained(Call::command(["sh", "-c", script]), resources)
}

fn contained(call: Call, resources: ResourceLimits) -> Call {
    call.resources(resources).policy(Policy { level: Some(Level::Basic), ..Policy::default() })
}
