//! When to stop asking.

use super::error::Verdict;
use super::keys::SLOT_RANGES;
use std::sync::atomic::{AtomicU32, Ordering};

/// Failures one after the other, in one range of slots, after which Redis counts as away.
const TOLERATED_FAILURES: u32 = 3;

/// Counts failures of each range of slots by itself: in a cluster the healthy nodes' answers must not hide that one node is frozen, which
/// would cost each request to it a whole deadline. A single server is one range, see [`Link::range`](super::link::Link::range): its users' failures add up.
///
/// Commands that were on their way together fail together, when the machine pauses for a moment. That is one failure: a command only counts when it was
/// sent after the last one that counted had failed.
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

    /// How many failures there were when a command was sent: what [`Breaker::failed`] is to be told.
    pub(super) fn failures(&self, range: usize) -> u32 {
        self.failures[range].load(Ordering::Relaxed)
    }

    /// Whether Redis counts as away after this failure of a command before which there were `before` of them.
    pub(super) fn failed(&self, range: usize, before: u32, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Unrelated => false,
            Verdict::Suspect => {
                let now = before + 1;
                let counts =
                    self.failures[range].compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
                counts && now >= TOLERATED_FAILURES
            }
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

    /// One command after the other.
    fn fails(breaker: &Breaker, range: usize) -> bool {
        breaker.failed(range, breaker.failures(range), Verdict::Suspect)
    }

    #[test]
    fn some_failures_in_a_row_are_enough_and_a_success_forgives() {
        let breaker = Breaker::default();
        assert!(!fails(&breaker, 0));
        assert!(!fails(&breaker, 0));
        breaker.succeeded(0);
        assert!(!fails(&breaker, 0));
        assert!(!fails(&breaker, 0));
        assert!(fails(&breaker, 0));
        breaker.reset();
        assert!(!fails(&breaker, 0));
    }

    #[test]
    fn what_fails_together_is_one_failure() {
        let breaker = Breaker::default();
        for failures in 0..3 {
            assert_eq!(breaker.failures(0), failures);
            let opened: Vec<bool> = (0..100).map(|_| breaker.failed(0, failures, Verdict::Suspect)).collect();
            assert_eq!(opened.contains(&true), failures == 2);
        }
    }

    #[test]
    fn a_sick_node_is_not_hidden_by_healthy_ones() {
        let breaker = Breaker::default();
        let opened = (0..3).map(|_| {
            breaker.succeeded(1);
            fails(&breaker, 0)
        });
        assert_eq!(opened.collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn a_lost_connection_needs_no_proof_and_a_wrong_command_is_none() {
        let breaker = Breaker::default();
        assert!(breaker.failed(0, 0, Verdict::Gone));
        assert!((0..100).all(|_| !breaker.failed(0, 0, Verdict::Unrelated)));
    }
}
