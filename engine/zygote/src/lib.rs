//! The zygote of tool sandboxes: a small, single-threaded program that forks them. This library carries the program as
//! bytes, and knows how to speak to it.
//!
//! Why a process of its own: a fork from an engine with gigabytes of memory costs milliseconds, from here a tenth of one;
//! code between fork and exec is ordinary code here, not async-signal-safe code; and when the engine dies, by SIGKILL
//! too, somebody is left who notices, ends what ran, and cleans up.

extern crate alloc;

pub mod protocol;

/// The program. Empty on systems that are not Linux.
pub static PROGRAM: &[u8] = include_bytes!(env!("ZYGOTE_FILE"));

/// How the program is linked: `freestanding`, with nothing but itself; `static` or `dynamic`, with a C library, where that could
/// not be; or `none`.
pub const LINKAGE: &str = env!("ZYGOTE_LINKAGE");

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;

    /// It is written to memory for each engine, and copied for each sandbox.
    #[test]
    fn it_is_small_and_needs_nothing() {
        assert_eq!(LINKAGE, "freestanding");
        assert!(PROGRAM.len() < 160 << 10, "{} bytes", PROGRAM.len());
    }
}
