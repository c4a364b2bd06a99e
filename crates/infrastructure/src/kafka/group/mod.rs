//! [`LogGroup`]: the history writers of all pods share the log's partitions as a consumer group of the brokers.
//!
//! A member is one client with two threads ([`follower`]): one polls the client's events and nothing else, so that the member stays in the group
//! however long a batch takes to store; one commits. Records are taken from librdkafka's queue of their partition when [`GroupMember::next`] is
//! polled ([`member`]): there is no second queue, and a partition that is not asked for fills its own queue only. What both sides know is in
//! [`session`].
//!
//! A revoked partition is given up by *answering* the rebalance, so the answer waits for [`GroupMember::release`]; until then the brokers give the
//! partition to nobody else.

mod follower;
mod member;
mod session;
mod tenures;

use super::Shared;
use super::letters::Letters;
use super::position::position;
use super::queries::Queries;
use async_trait::async_trait;
use chatify_application::ports::LogGroup;
use chatify_application::ports::log::{GroupMember, LogError};
use chatify_domain::{Partition, Position};
use std::sync::Arc;

/// See the module.
pub(super) struct KafkaGroup {
    shared: Arc<Shared>,
    queries: Arc<Queries>,
    letters: Arc<Letters>,
}

impl KafkaGroup {
    pub(super) fn new(shared: Arc<Shared>, queries: Arc<Queries>) -> Self {
        let letters = Arc::new(Letters::new(Arc::clone(&shared)));
        Self { shared, queries, letters }
    }
}

#[async_trait]
impl LogGroup for KafkaGroup {
    async fn join(&self) -> Result<Box<dyn GroupMember>, LogError> {
        let joined = follower::start(&self.shared).map_err(|error| LogError::Unavailable(Box::new(error)))?;
        Ok(Box::new(member::Member::new(
            Arc::clone(&self.shared),
            Arc::clone(&self.queries),
            Arc::clone(&self.letters),
            joined,
        )))
    }

    async fn committed(&self) -> Result<Vec<(Partition, Position)>, LogError> {
        let epoch = self.shared.options.epoch;
        let mut committed = self.queries.committed().await?;
        if committed.iter().any(Option::is_none) {
            // The very first start is at the first record that there is.
            let bounds = self.queries.bounds().await?;
            for (committed, bounds) in committed.iter_mut().zip(bounds) {
                committed.get_or_insert(bounds.first);
            }
        }
        let positions = committed.into_iter().map(|offset| position(epoch, offset.unwrap_or(0)));
        Ok((0..).map(Partition).zip(positions.map(|position| position.unwrap_or(Position::MAX))).collect())
    }
}
