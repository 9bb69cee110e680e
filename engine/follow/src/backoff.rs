//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// However short the bound.
const LEAST: Duration = Duration::from_millis(10);

/// Twice as long each time, at random below that, up to a bound.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new((first, most): (Duration, Duration)) -> Self {
        Self { first, most, failures: 0 }
    }

    /// It went well.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// It failed: how long to wait.
    pub(crate) fn next(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = (self.failures + 1).min(31);
        // Never at once: a source that fails in a moment would be all that the machine does.
        let bounded = doubled.min(self.most).clamp(LEAST, Duration::from_secs(86_400));
        bounded.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_the_bound_and_begins_anew() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new((first, most));
        for round in 0..100 {
            let longest = (first * 2_u32.pow(round.min(10))).min(most);
            let wait = backoff.next();
            assert!(wait <= longest && wait >= longest / 2, "{round}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= first);
        assert!(Backoff::new((Duration::ZERO, Duration::ZERO)).next() >= LEAST / 2);
    }
}
