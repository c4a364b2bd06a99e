//! How far the history is behind the log, as an operator asks.

use super::Shared;
use super::error::KafkaStartError;
use super::health::HealthState;
use super::options::KafkaOptions;
use super::queries::{Queries, QueryError};
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::error::{Classify, ErrorKind};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::Partition;
use rdkafka::error::RDKafkaErrorCode;
use std::sync::Arc;

/// One partition of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionLag {
    /// Which.
    pub partition: Partition,
    /// The offset of the oldest record that is still there.
    pub first: i64,
    /// The offset behind the newest record.
    pub end: i64,
    /// The offset before which everything is in the history; none before the first history writer's first commit.
    pub committed: Option<i64>,
    /// Records that the history does not have yet and can still get.
    pub lag: u64,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum LagError {
    /// The options make no client.
    #[error(transparent)]
    Client(#[from] KafkaStartError),
    /// There is no log.
    #[error(
        "there is no topic `{topic}` with {partitions} partitions: has a pod been started, and is `message_broker.topic_name` right?"
    )]
    NoTopic {
        /// The configured topic.
        topic: String,
        /// How many partitions it should have.
        partitions: u32,
    },
    /// The brokers do not answer.
    #[error("the lag cannot be read")]
    Brokers(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Classify for LagError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Client(error) => error.kind(),
            Self::NoTopic { .. } => ErrorKind::NotFound,
            Self::Brokers(_) => ErrorKind::EventProduction,
        }
    }
}

/// Every partition of the log. Joins no group and changes nothing.
///
/// # Errors
/// When the brokers do not answer within some seconds.
pub async fn read(options: &KafkaOptions, clock: Arc<dyn Clock>) -> Result<Vec<PartitionLag>, LagError> {
    let health = Arc::new(HealthState::new(Arc::clone(&clock)));
    let shared = Shared { options: options.clone(), clock, supervisor: Supervisor::new(), health };
    let queries = Queries::start(Arc::new(shared))?;
    // What is committed first: it cannot be beyond an end that was asked for later.
    let committed = queries.committed().await.map_err(|error| explain(error, options))?;
    let bounds = queries.bounds().await.map_err(|error| explain(error, options))?;
    let rows = (0..).map(Partition).zip(bounds).zip(committed);
    let row = |((partition, bounds), committed): ((Partition, super::queries::Bounds), Option<i64>)| {
        let from = committed.unwrap_or(bounds.first).max(bounds.first);
        let lag = u64::try_from(bounds.end - from).unwrap_or(0);
        PartitionLag { partition, first: bounds.first, end: bounds.end, committed, lag }
    };
    Ok(rows.map(row).collect())
}

fn explain(error: QueryError, options: &KafkaOptions) -> LagError {
    let code = match &error {
        QueryError::Refused { source, .. } => source.rdkafka_error_code(),
        QueryError::Late { .. } | QueryError::Token(_) | QueryError::Overloaded | QueryError::Closed => None,
    };
    let missing = matches!(code, Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition));
    if missing {
        LagError::NoTopic { topic: options.topic.clone(), partitions: options.partitions }
    } else {
        LagError::Brokers(Box::new(error))
    }
}
