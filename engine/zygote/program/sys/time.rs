//! The one clock.

use core::time::Duration;

use super::*;

/// The time since some moment before this process began (CLOCK_MONOTONIC).
pub(crate) fn now() -> Duration {
    const MONOTONIC: c_long = 1;
    let mut time = [0i64; 2];
    // It cannot fail for this clock.
    let _ = call!(nr::CLOCK_GETTIME, MONOTONIC, time.as_mut_ptr());
    Duration::new(time[0] as u64, time[1] as u32)
}
