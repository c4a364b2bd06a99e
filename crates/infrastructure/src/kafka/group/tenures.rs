//! Who may commit: the partitions that a member owns, each from its assignment to its end, and the commits in them.

use chatify_domain::Partition;
use rdkafka::error::RDKafkaErrorCode;
use std::collections::BTreeMap;

/// The partitions that are owned now.
#[derive(Debug, Default)]
pub(super) struct Tenures {
    owned: BTreeMap<Partition, Tenure>,
    begun: u64,
}

/// One partition's. Invariant: one commit at a time is under way, so that none can overtake a later one.
#[derive(Debug)]
struct Tenure {
    /// Tells it from earlier and later ones of the same partition.
    number: u64,
    done: i64,
    under_way: Option<i64>,
    refused: Option<RDKafkaErrorCode>,
}

/// A commit on its way, good only in the tenure in which it began: the brokers take whatever a member of the group says, also about a partition that
/// has another owner by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) partition: Partition,
    pub(super) offset: i64,
    tenure: u64,
}

/// How a commit goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CommitStep {
    /// It is durable.
    Done,
    /// Nothing is under way: hand this one to the client.
    Send(Commit),
    /// Another one, or this one, is under way.
    Wait,
    /// The brokers refused it.
    Refused(RDKafkaErrorCode),
    /// The partition is not this member's.
    NotOwned,
}

impl Tenures {
    /// The partition is owned from now on, and read from `from` on.
    pub(super) fn begin(&mut self, partition: Partition, from: i64) {
        self.begun += 1;
        let tenure = Tenure { number: self.begun, done: from, under_way: None, refused: None };
        self.owned.insert(partition, tenure);
    }

    pub(super) fn end(&mut self, partition: Partition) {
        self.owned.remove(&partition);
    }

    pub(super) fn clear(&mut self) {
        self.owned.clear();
    }

    pub(super) fn has(&self, partition: Partition) -> bool {
        self.owned.contains_key(&partition)
    }

    pub(super) fn step(&mut self, partition: Partition, offset: i64) -> CommitStep {
        let Some(tenure) = self.owned.get_mut(&partition) else { return CommitStep::NotOwned };
        if let Some(code) = tenure.refused.take() {
            return CommitStep::Refused(code);
        }
        if offset <= tenure.done {
            return CommitStep::Done;
        }
        if tenure.under_way.is_some() {
            return CommitStep::Wait;
        }
        tenure.under_way = Some(offset);
        CommitStep::Send(Commit { partition, offset, tenure: tenure.number })
    }

    pub(super) fn is_under_way(&self, commit: Commit) -> bool {
        let tenure = self.owned.get(&commit.partition).filter(|tenure| tenure.number == commit.tenure);
        tenure.is_some_and(|tenure| tenure.under_way == Some(commit.offset))
    }

    pub(super) fn is_committing(&self, partition: Partition) -> bool {
        self.owned.get(&partition).is_some_and(|tenure| tenure.under_way.is_some())
    }

    pub(super) fn ended(&mut self, commit: Commit, outcome: Result<(), RDKafkaErrorCode>) {
        if !self.is_under_way(commit) {
            return;
        }
        let Some(tenure) = self.owned.get_mut(&commit.partition) else { return };
        tenure.under_way = None;
        match outcome {
            Ok(()) => tenure.done = tenure.done.max(commit.offset),
            Err(code) => tenure.refused = Some(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: Partition = Partition(1);

    fn sent(tenures: &mut Tenures, offset: i64) -> Commit {
        match tenures.step(PARTITION, offset) {
            CommitStep::Send(commit) => commit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_commit_at_a_time_and_none_twice() {
        let mut tenures = Tenures::default();
        assert_eq!(tenures.step(PARTITION, 5), CommitStep::NotOwned);
        tenures.begin(PARTITION, 3);
        assert_eq!(tenures.step(PARTITION, 3), CommitStep::Done);
        let first = sent(&mut tenures, 5);
        assert!(tenures.is_committing(PARTITION));
        assert_eq!(tenures.step(PARTITION, 6), CommitStep::Wait);
        tenures.ended(first, Ok(()));
        assert_eq!(tenures.step(PARTITION, 5), CommitStep::Done);
        let second = sent(&mut tenures, 6);
        tenures.ended(second, Err(RDKafkaErrorCode::RebalanceInProgress));
        assert_eq!(tenures.step(PARTITION, 6), CommitStep::Refused(RDKafkaErrorCode::RebalanceInProgress));
        assert_eq!(sent(&mut tenures, 6), second, "and then it is tried again");
    }

    #[test]
    fn a_commit_of_an_earlier_tenure_is_not_sent_and_proves_nothing_for_a_later_one() {
        let mut tenures = Tenures::default();
        tenures.begin(PARTITION, 0);
        let late = sent(&mut tenures, 100);
        tenures.end(PARTITION);
        assert!(!tenures.is_under_way(late));
        tenures.begin(PARTITION, 50);
        assert!(!tenures.is_under_way(late));
        let own = sent(&mut tenures, 100);
        tenures.ended(late, Ok(()));
        assert!(tenures.is_under_way(own), "what the brokers say of the late one is not about this one");
    }
}
