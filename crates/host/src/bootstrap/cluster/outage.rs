//! Since when something is away.

use crate::dependencies::Trouble;
use chatify_building_blocks::clock::Clock;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Written by whoever looks, read by everyone.
#[derive(Clone)]
pub(super) struct Outage {
    clock: Arc<dyn Clock>,
    /// The beginning, in the clock's uptime, and the latest reason.
    state: Arc<Mutex<Option<(Duration, String)>>>,
}

impl Outage {
    pub(super) fn none(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Arc::default() }
    }

    /// What was seen just now; a reason when it is away.
    pub(super) fn observe(&self, away: Option<String>) {
        let now = self.clock.uptime();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = state.as_ref().map_or(now, |(since, _)| *since);
        *state = away.map(|reason| (since, reason));
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        let now = self.clock.uptime();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().map(|(since, reason)| Trouble { for_: now.saturating_sub(*since), reason: reason.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatify_building_blocks::clock::ManualClock;
    use chatify_domain::Timestamp;

    #[test]
    fn an_outage_counts_from_its_first_sign_and_ends_with_the_first_answer() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(0)));
        let outage = Outage::none(clock.clone());
        assert_eq!(outage.trouble(), None);
        outage.observe(Some("refused".into()));
        clock.advance(Duration::from_secs(7));
        outage.observe(Some("silent".into()));
        assert_eq!(outage.trouble(), Some(Trouble { for_: Duration::from_secs(7), reason: "silent".into() }));
        outage.observe(None);
        assert_eq!(outage.trouble(), None);
        outage.observe(Some("refused".into()));
        assert_eq!(outage.trouble(), Some(Trouble { for_: Duration::ZERO, reason: "refused".into() }));
    }
}
