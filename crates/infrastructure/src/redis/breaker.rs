//! When to stop asking.

use super::error::Verdict;
use super::keys::SLOT_RANGES;
use std::sync::atomic::{AtomicU32, Ordering};

/// Failures in a row, in one range of slots, after which Redis counts as away.
const TOLERATED_FAILURES: u32 = 3;

/// Counts failures of each range of slots by itself: in a cluster the healthy nodes' answers must not hide that one node is frozen, which
/// would cost each request to it a whole deadline.
///
/// There is no half-open state: while Redis is away only the connection's own probes reach it, so that no request pays for finding out.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: [AtomicU32; SLOT_RANGES],
}

impl Breaker {
    /// An answer came.
    pub(super) fn succeeded(&self, range: usize) {
        if self.failures[range].load(Ordering::Relaxed) != 0 {
            self.failures[range].store(0, Ordering::Relaxed);
        }
    }

    /// Whether Redis counts as away after this failure.
    pub(super) fn failed(&self, range: usize, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Unrelated => false,
            Verdict::Suspect => self.failures[range].fetch_add(1, Ordering::Relaxed) + 1 >= TOLERATED_FAILURES,
            Verdict::Gone => true,
        }
    }

    /// Redis is back.
    pub(super) fn reset(&self) {
        self.failures.iter().for_each(|failures| failures.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_failures_in_a_row_are_enough_and_a_success_forgives() {
        let breaker = Breaker::default();
        assert!(!breaker.failed(0, Verdict::Suspect));
        assert!(!breaker.failed(0, Verdict::Suspect));
        breaker.succeeded(0);
        assert!(!breaker.failed(0, Verdict::Suspect));
        assert!(!breaker.failed(0, Verdict::Suspect));
        assert!(breaker.failed(0, Verdict::Suspect));
        breaker.reset();
        assert!(!breaker.failed(0, Verdict::Suspect));
    }

    #[test]
    fn a_sick_node_is_not_hidden_by_healthy_ones() {
        let breaker = Breaker::default();
        let opened = (0..3).map(|_| {
            breaker.succeeded(1);
            breaker.failed(0, Verdict::Suspect)
        });
        assert_eq!(opened.collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn a_lost_connection_needs_no_proof_and_a_wrong_command_is_none() {
        let breaker = Breaker::default();
        assert!(breaker.failed(0, Verdict::Gone));
        assert!((0..100).all(|_| !breaker.failed(0, Verdict::Unrelated)));
    }
}
