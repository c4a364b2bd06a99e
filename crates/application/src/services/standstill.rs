//! Notices a partition of which nothing arrives although the log has more.

use chatify_domain::{Partition, Position};
use std::collections::HashMap;
use std::time::Duration;

/// What a reader waited for when it was looked at, by partition.
#[derive(Debug, Default)]
pub(super) struct Standstill(HashMap<Partition, (Position, Duration)>);

impl Standstill {
    /// Takes a look at a partition whose reader wants `next`, and whose log ends before `end`. Says whether it has been seen waiting for the same record for
    /// `patience`, on the clock's uptime.
    pub(super) fn look(
        &mut self,
        partition: Partition,
        next: Position,
        end: Position,
        now: Duration,
        patience: Duration,
    ) -> bool {
        if next >= end {
            self.0.remove(&partition);
            return false;
        }
        let (at, since) = self.0.entry(partition).or_insert((next, now));
        if *at != next {
            (*at, *since) = (next, now);
        }
        now.saturating_sub(*since) >= patience
    }

    /// It is known why this partition waits.
    pub(super) fn forget(&mut self, partition: Partition) {
        self.0.remove(&partition);
    }
}
