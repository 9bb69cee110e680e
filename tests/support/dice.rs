//! Numbers that look random and are the same in each run.

use std::{
    hint,
    time::{Duration, Instant},
};

/// A xorshift generator (Marsaglia 2003).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same seed, the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `end`.
    ///
    /// # Panics
    /// When `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }

    /// Lets up to `most` pass, to the microsecond, while other tasks go on. Half of the times it is nearly nothing:
    /// what is quick has its races early.
    pub async fn pause(&mut self, most: Duration) {
        let most = if self.below(2) == 0 { most / 20 } else { most };
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        let until = Instant::now() + Duration::from_micros(self.below(micros + 1));
        while Instant::now() < until {
            tokio::task::yield_now().await;
            hint::spin_loop();
        }
    }
}
