//! Percentiles of durations.

use std::time::Duration;

/// Durations in ascending order.
#[derive(Clone, Debug, Default)]
pub struct Spread(Vec<Duration>);

impl Spread {
    /// The percentiles of these.
    #[must_use]
    pub fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest sample that is not below `percent` of all of them (the nearest rank); zero when there is none.
    #[must_use]
    pub fn at(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    /// The last one; zero when there is none.
    #[must_use]
    pub fn greatest(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }

    /// `p50 / p95 / greatest` in seconds.
    #[must_use]
    pub fn seconds(&self) -> String {
        if self.0.is_empty() {
            return "no samples".to_owned();
        }
        let [p50, p95, most] = [self.at(50), self.at(95), self.greatest()].map(|found| found.as_secs_f64());
        format!("{p50:.2} / {p95:.2} / {most:.2} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let spread = Spread::of((1..=20).rev().map(Duration::from_secs).collect());
        let seconds = [0, 50, 95, 99, 100].map(|percent| spread.at(percent).as_secs());
        assert_eq!(seconds, [1, 10, 19, 20, 20]);
        assert_eq!(spread.seconds(), "10.00 / 19.00 / 20.00 s");
        assert_eq!(Spread::default().at(95), Duration::ZERO, "nothing was measured");
        assert_eq!(Spread::default().seconds(), "no samples");
    }
}
