//! How the loops are doing, for readiness and metrics.

use chatify_building_blocks::clock::Clock;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A cheap snapshot of the application's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The loop from the log to this pod's connections. Sends and joins are refused while it is [`LoopState::Starting`].
    pub fan_out: LoopState,
    /// The loop from the log to the history.
    pub projection: LoopState,
    /// Records that the history has not got yet: the sum over all partitions, as of a few seconds ago.
    pub lag: u64,
    /// Message ids that are remembered for deduplication.
    pub dedupe_entries: usize,
    /// Bytes that the newest messages take in memory, estimated.
    pub tail_bytes: usize,
}

/// What a loop is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoopState {
    /// It has not done its first work yet.
    Starting,
    /// It works.
    Live,
    /// It worked before, or tries to start, and cannot go on; it keeps trying.
    Stalled {
        /// Since when.
        for_: Duration,
        /// What keeps it, for an operator.
        reason: String,
    },
}

/// One loop's state, written by the loop and read by everyone.
#[derive(Clone)]
pub(crate) struct LoopStatus {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<Progress>>,
}

#[derive(Default)]
struct Progress {
    was_live: bool,
    stalled: Option<(Duration, String)>,
}

impl LoopStatus {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Arc::default() }
    }

    pub(crate) fn live(&self) {
        let mut progress = self.lock();
        progress.was_live = true;
        progress.stalled = None;
    }

    /// A loop that is stalled already keeps the moment when that began.
    pub(crate) fn stalled(&self, reason: String) {
        let now = self.clock.uptime();
        let mut progress = self.lock();
        let since = progress.stalled.as_ref().map_or(now, |(since, _)| *since);
        progress.stalled = Some((since, reason));
    }

    /// Whether the loop has ever been live: what it knows is behind at worst, but it is not missing.
    pub(crate) fn has_been_live(&self) -> bool {
        self.lock().was_live
    }

    pub(crate) fn snapshot(&self) -> LoopState {
        let now = self.clock.uptime();
        let progress = self.lock();
        match &progress.stalled {
            Some((since, reason)) => LoopState::Stalled { for_: now.saturating_sub(*since), reason: reason.clone() },
            None if progress.was_live => LoopState::Live,
            None => LoopState::Starting,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatify_building_blocks::clock::ManualClock;
    use chatify_domain::Timestamp;

    #[test]
    fn a_stall_counts_from_its_beginning_and_ends_with_work() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(0)));
        let status = LoopStatus::new(Arc::clone(&clock) as Arc<dyn Clock>);
        assert_eq!(status.snapshot(), LoopState::Starting);
        status.stalled("one".into());
        clock.advance(Duration::from_secs(3));
        status.stalled("two".into());
        assert!(!status.has_been_live());
        let for_ = Duration::from_secs(3);
        assert_eq!(status.snapshot(), LoopState::Stalled { for_, reason: "two".into() });
        status.live();
        assert_eq!(status.snapshot(), LoopState::Live);
        status.stalled("three".into());
        assert!(status.has_been_live(), "a pod that stalls still knows what it knew");
        assert_eq!(status.snapshot(), LoopState::Stalled { for_: Duration::ZERO, reason: "three".into() });
    }
}
