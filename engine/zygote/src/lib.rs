//! The zygote of tool sandboxes: a small, single-threaded program that forks them. This library carries the program as
//! bytes, and knows how to speak to it.
//!
//! Why a process of its own: a fork from an engine with gigabytes of memory costs milliseconds, from here a tenth of one;
//! code between fork and exec is ordinary code here, not async-signal-safe code; and when the engine dies, by SIGKILL
//! too, somebody is left who notices, ends what ran, and cleans up.

pub mod protocol;

/// The program. Empty on systems that are not Linux.
pub static PROGRAM: &[u8] = include_bytes!(env!("ZYGOTE_FILE"));

/// How the program is linked: `static`, `dynamic` where there was no static libc when it was built, or `none`.
pub const LINKAGE: &str = env!("ZYGOTE_LINKAGE");
