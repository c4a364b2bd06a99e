//! What the two sides of a member know: its thread, which hears the group's events, and the application, which works on records.

use super::follower::GroupEvents;
use super::tenures::{Commit, CommitStep, Tenures};
use crate::kafka::position;
use chatify_domain::Partition;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{TopicPartitionList, TopicPartitionListElem};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The queue of one partition's records.
pub(super) type Records = PartitionQueue<GroupEvents>;

/// See the module.
#[derive(Default)]
pub(super) struct Session {
    state: Mutex<State>,
    /// There may be an event or a record. One waiter: the member.
    pub(super) news: Notify,
    /// A commit ended, or a partition was lost.
    pub(super) commits: Notify,
}

#[derive(Default)]
struct State {
    /// What the member has not heard yet; at most two per partition and rebalance.
    events: VecDeque<Change>,
    owned: Tenures,
    revocation: Option<Revocation>,
    failure: Option<Failure>,
    closing: bool,
}

/// A change of what the member owns.
pub(super) enum Change {
    /// It got a partition, from this offset on.
    Assigned { partition: Partition, from: i64, records: Records },
    /// It is to give a partition away.
    Revoking { partition: Partition },
}

/// A rebalance whose answer waits for partitions to be released.
struct Revocation {
    partitions: TopicPartitionList,
    left: BTreeSet<Partition>,
    /// On the clock's uptime.
    until: Duration,
}

/// Why the membership is over. The application joins anew.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The group went on without this member.
    #[error("the group took this member for dead and gave its partitions to others")]
    Lost,
    /// The partitions were held too long.
    #[error("the partitions were not released in time and went to others")]
    Held,
    /// Records that were to be read next are gone.
    #[error("the log no longer has offset {offset} of partition {}", partition.0)]
    Gone {
        /// Which partition.
        partition: Partition,
        /// The first record that was wanted.
        offset: i64,
    },
    /// The client cannot go on.
    #[error("the group's client cannot go on")]
    Client(#[source] KafkaError),
}

impl Session {
    /// What happened next, if anything did.
    pub(super) fn next_change(&self) -> Result<Option<Change>, Failure> {
        let mut state = self.lock();
        match &state.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(state.events.pop_front()),
        }
    }

    /// The member owns these partitions from now on.
    pub(super) fn assigned(&self, partitions: Vec<(Partition, i64, Records)>) {
        let mut state = self.lock();
        if state.closing || state.failure.is_some() {
            // Nobody will take the queues, and they keep the client alive.
            return;
        }
        for (partition, from, records) in partitions {
            state.owned.begin(partition, from);
            state.events.push_back(Change::Assigned { partition, from, records });
        }
        drop(state);
        self.news.notify_one();
    }

    /// Asks the member to give up what it owns of `partitions`. Gives them back when it owns nothing of them.
    pub(super) fn revoking(&self, partitions: TopicPartitionList, until: Duration) -> Option<TopicPartitionList> {
        let mut state = self.lock();
        let listed = numbered(&partitions).into_iter().map(|(partition, _)| partition);
        let left: BTreeSet<Partition> = listed.filter(|partition| state.owned.has(*partition)).collect();
        if left.is_empty() || state.failure.is_some() {
            return Some(partitions);
        }
        state.events.extend(left.iter().map(|partition| Change::Revoking { partition: *partition }));
        state.revocation = Some(Revocation { partitions, left, until });
        drop(state);
        self.news.notify_one();
        None
    }

    /// The member gives `partition` away: `Some` when it may, with the answer to the rebalance when it was the last one.
    pub(super) fn release(&self, partition: Partition) -> Option<Option<TopicPartitionList>> {
        let mut state = self.lock();
        let revocation = state.revocation.as_mut()?;
        if !revocation.left.remove(&partition) {
            return None;
        }
        let answered = revocation.left.is_empty();
        let answer = if answered { state.revocation.take() } else { None };
        state.owned.end(partition);
        Some(answer.map(|revocation| revocation.partitions))
    }

    /// The answer that waited longer than it may; the membership is over then.
    pub(super) fn overdue(&self, now: Duration) -> Option<TopicPartitionList> {
        let revocation = self.lock().revocation.take_if(|revocation| revocation.until <= now)?;
        self.fail(Failure::Held);
        Some(revocation.partitions)
    }

    /// The membership is over: nothing is owned any more. The first reason stays.
    pub(super) fn fail(&self, failure: Failure) {
        let mut state = self.lock();
        state.failure.get_or_insert(failure);
        state.owned.clear();
        state.events.clear();
        drop(state);
        self.news.notify_one();
        self.commits.notify_waiters();
    }

    pub(super) fn commit_step(&self, partition: Partition, offset: i64) -> CommitStep {
        self.lock().owned.step(partition, offset)
    }

    /// Whether the commit may still go to the brokers. While it is under way its partition is not released.
    pub(super) fn may_send(&self, commit: Commit) -> bool {
        self.lock().owned.is_under_way(commit)
    }

    /// Whether a commit of the partition is on its way to the brokers.
    pub(super) fn is_committing(&self, partition: Partition) -> bool {
        self.lock().owned.is_committing(partition)
    }

    /// The brokers' answer to a commit.
    pub(super) fn commit_ended(&self, commit: Commit, outcome: Result<(), RDKafkaErrorCode>) {
        self.lock().owned.ended(commit, outcome);
        self.commits.notify_waiters();
    }

    /// The member is dropped, and with it what it has not heard: the queues in there keep the client alive.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.events.clear();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.lock().closing
    }

    /// The answer that is still owed when the member is gone.
    pub(super) fn owed(&self) -> Option<TopicPartitionList> {
        self.lock().revocation.take().map(|revocation| revocation.partitions)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The elements of a list with their partitions.
pub(super) fn numbered(list: &TopicPartitionList) -> Vec<(Partition, TopicPartitionListElem<'_>)> {
    let elements = list.elements().into_iter();
    elements.filter_map(|element| Some((position::partition(element.partition())?, element))).collect()
}
