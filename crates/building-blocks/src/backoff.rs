//! How long to wait before trying again: exponential, capped, with full jitter.

use crate::random::Random;
use std::time::Duration;

/// A policy of growing waits. Jitter keeps many callers from coming back at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub first: Duration,
    /// No wait is longer than this.
    pub cap: Duration,
}

impl Backoff {
    /// The wait before try `attempt` (from 0): between half and the whole of `first * 2^attempt`, at most `cap`.
    #[must_use]
    pub fn wait(&self, attempt: u32, random: &dyn Random) -> Duration {
        let grown = self.first.saturating_mul(2u32.saturating_pow(attempt)).min(self.cap);
        grown.mul_f64(0.5 + random.unit() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    #[test]
    fn waits_grow_to_the_cap_and_stay_in_their_band() {
        let policy = Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(10) };
        let random = SeededRandom::new(7);
        for attempt in 0..64 {
            let full = Duration::from_millis(100).saturating_mul(2u32.saturating_pow(attempt)).min(policy.cap);
            let wait = policy.wait(attempt, &random);
            assert!(wait >= full / 2 && wait <= full, "attempt {attempt}: {wait:?} of {full:?}");
        }
    }
}
