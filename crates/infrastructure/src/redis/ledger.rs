//! What this pod knows about its own connections, and what of it Redis has.

use super::keys::Incarnation;
use chatify_application::ports::presence::ConnectionId;
use chatify_domain::{SenderId, Timestamp};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

/// The removals that are remembered while Redis cannot be told; more of them end the incarnation instead, which ends all entries at once.
const MAX_PENDING_REMOVALS: usize = 1_024;
/// The least entries that one renewal looks after.
const LEAST_CHECKED: usize = 32;
/// In how many renewals every entry is looked after once: in about four hours.
const RENEWALS_IN_CYCLE: usize = 1_000;

/// One connection of one user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) user: SenderId,
    pub(super) connection: ConnectionId,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    since: Timestamp,
    /// The incarnation under which Redis has it.
    recorded: Option<Incarnation>,
}

/// The pod's own truth. Redis is brought to it, never the other way round.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: BTreeMap<Slot, Entry>,
    removals: Vec<(Slot, Incarnation)>,
    lease: Option<Incarnation>,
    /// The incarnation is to be left: what Redis has under it is incomplete, or too much.
    abandoned: bool,
    withdrawn: bool,
    /// Where the last check of entries ended.
    checked: Option<Slot>,
    /// Until this uptime other pods' entries may be missing from Redis.
    uncertain_until: Duration,
}

impl Ledger {
    /// Takes up a connection; false when it is known.
    pub(super) fn add(&mut self, slot: Slot, since: Timestamp) -> bool {
        let known = self.entries.contains_key(&slot);
        self.entries.entry(slot).or_insert(Entry { since, recorded: None });
        !known
    }

    /// Forgets a connection; false when it is not known.
    pub(super) fn remove(&mut self, slot: &Slot) -> bool {
        self.entries.remove(slot).is_some()
    }

    /// The incarnation that holds the lease, also one that is about to be left.
    pub(super) fn lease(&self) -> Option<Incarnation> {
        self.lease
    }

    /// The incarnation under which entries may be recorded.
    pub(super) fn usable_lease(&self) -> Option<Incarnation> {
        self.lease.filter(|_| !self.abandoned && !self.withdrawn)
    }

    /// The lease was renewed.
    pub(super) fn hold(&mut self, incarnation: Incarnation) {
        if self.lease != Some(incarnation) {
            // What was recorded under the old one counts as gone already.
            self.removals.clear();
        }
        self.lease = Some(incarnation);
        self.abandoned = false;
    }

    /// The next renewal begins a new incarnation.
    pub(super) fn abandon_lease(&mut self) {
        self.abandoned = true;
    }

    /// Ends everything, for good.
    pub(super) fn withdraw(&mut self) -> Option<Incarnation> {
        self.withdrawn = true;
        self.entries.clear();
        self.removals.clear();
        self.lease.take()
    }

    pub(super) fn is_withdrawn(&self) -> bool {
        self.withdrawn
    }

    /// When the connection came; none when it is gone.
    pub(super) fn since(&self, slot: &Slot) -> Option<Timestamp> {
        self.entries.get(slot).map(|entry| entry.since)
    }

    /// Redis has the entry. False when the connection ended meanwhile, so that the entry must go.
    pub(super) fn recorded(&mut self, slot: &Slot, incarnation: Incarnation) -> bool {
        let entry = self.entries.get_mut(slot);
        let there = entry.is_some();
        if let Some(entry) = entry {
            entry.recorded = Some(incarnation);
        }
        there
    }

    pub(super) fn is_recorded(&self, slot: &Slot) -> bool {
        self.entries.get(slot).is_none_or(|entry| self.lease.is_some() && entry.recorded == self.lease)
    }

    /// Everything that Redis does not have under the current lease.
    pub(super) fn missing(&self) -> Vec<Slot> {
        let missing = self.entries.iter().filter(|(_, entry)| self.lease.is_none() || entry.recorded != self.lease);
        missing.map(|(slot, _)| slot.clone()).collect()
    }

    /// A removal that Redis could not be told.
    pub(super) fn owe_removal(&mut self, slot: Slot, incarnation: Incarnation) {
        if self.lease != Some(incarnation) {
            return;
        }
        if self.removals.len() < MAX_PENDING_REMOVALS {
            self.removals.push((slot, incarnation));
        } else {
            self.abandon_lease();
        }
    }

    /// The removals that are due.
    pub(super) fn take_removals(&mut self) -> Vec<(Slot, Incarnation)> {
        std::mem::take(&mut self.removals)
    }

    /// The next entries to look after, so that all of them are within a cycle, whatever their number.
    pub(super) fn next_checked(&mut self) -> Vec<Slot> {
        let count = LEAST_CHECKED.max(self.entries.len() / RENEWALS_IN_CYCLE).min(self.entries.len());
        let after = self.checked.take().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.entries.range((after, Bound::Unbounded));
        let slots: Vec<_> = rest.chain(&self.entries).map(|(slot, _)| slot.clone()).take(count).collect();
        self.checked = slots.last().cloned();
        slots
    }

    /// Until `uptime` the absence of an entry proves nothing.
    pub(super) fn doubt_until(&mut self, uptime: Duration) {
        self.uncertain_until = self.uncertain_until.max(uptime);
    }

    pub(super) fn is_certain_at(&self, uptime: Duration) -> bool {
        uptime >= self.uncertain_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Incarnation = Incarnation { process: 7, number: 1 };
    const SECOND: Incarnation = Incarnation { process: 7, number: 2 };

    fn slot(number: u64) -> Slot {
        Slot { user: SenderId::parse(&format!("user {number}")).expect("a user"), connection: ConnectionId(number) }
    }

    fn ledger(entries: u64) -> Ledger {
        let mut ledger = Ledger::default();
        (0..entries).for_each(|number| assert!(ledger.add(slot(number), Timestamp::from_millis(7))));
        ledger
    }

    #[test]
    fn a_new_incarnation_has_nothing_recorded() {
        let mut ledger = ledger(2);
        ledger.hold(FIRST);
        assert!(ledger.recorded(&slot(0), FIRST));
        assert_eq!(ledger.missing(), [slot(1)]);
        ledger.abandon_lease();
        assert_eq!((ledger.lease(), ledger.usable_lease()), (Some(FIRST), None));
        ledger.hold(SECOND);
        assert_eq!(ledger.missing(), [slot(0), slot(1)]);
    }

    #[test]
    fn an_entry_that_ended_while_it_was_recorded_has_to_go() {
        let mut ledger = ledger(1);
        ledger.hold(FIRST);
        assert!(ledger.remove(&slot(0)));
        assert!(!ledger.recorded(&slot(0), FIRST));
        assert!(!ledger.remove(&slot(0)));
    }

    #[test]
    fn too_many_owed_removals_end_the_incarnation() {
        let mut ledger = ledger(0);
        ledger.hold(FIRST);
        (0..1_024).for_each(|number| ledger.owe_removal(slot(number), FIRST));
        assert_eq!(ledger.usable_lease(), Some(FIRST));
        ledger.owe_removal(slot(1_024), FIRST);
        assert_eq!(ledger.usable_lease(), None);
        ledger.hold(SECOND);
        assert!(ledger.take_removals().is_empty(), "they ended with the incarnation");
        ledger.owe_removal(slot(0), FIRST);
        assert!(ledger.take_removals().is_empty(), "it is gone already");
    }

    #[test]
    fn every_entry_is_looked_after_in_turn() {
        let mut ledger = ledger(100);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..4 {
            let slots = ledger.next_checked();
            assert_eq!(slots.len(), 32);
            seen.extend(slots);
        }
        assert_eq!(seen.len(), 100);
        assert_eq!(self::ledger(3).next_checked().len(), 3);
        assert_eq!(self::ledger(0).next_checked().len(), 0);
    }
}
