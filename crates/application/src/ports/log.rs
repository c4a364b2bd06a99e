//! The log: the ordered, durable, replayable stream of events.

use async_trait::async_trait;
use chatify_building_blocks::correlation::CorrelationId;
use chatify_building_blocks::error::{Classify, ErrorKind};
use chatify_domain::{ChatEvent, Partition, Position, Scope, Timestamp};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Puts events into the log.
///
/// * **Two steps.** [`LogAppender::append`] returns at once: either the record is *accepted* into a bounded queue, or it is refused
///   and MUST never appear in the log. The returned [`Durable`] resolves when the record is *durable* (embedded: behind the
///   disk's sync; cluster: on every in-sync replica) and then carries its position. A client is answered only after the second.
/// * **Order.** Records of one scope that one caller appends one after the other MUST get ascending positions in that order.
/// * **Bounds.** A full queue is [`AppendError::Overloaded`], at once; `append` MUST NOT block or wait.
/// * **Cancel safety.** Dropping a [`Durable`] does not take the record back.
/// * **Retry.** Refusals ([`AppendError::Overloaded`], [`AppendError::Unavailable`], [`AppendError::TooLarge`]) mean that the record is
///   not and will not be in the log. After [`AppendError::Unknown`] it may be there 0 or 1 times; repeating is safe because
///   consumers deduplicate.
pub trait LogAppender: Send + Sync + 'static {
    /// Accepts `record`, or refuses it.
    ///
    /// # Errors
    /// A refusal: the record is not and will not be in the log.
    fn append(&self, record: NewRecord) -> Result<Durable, AppendError>;
}

/// What is to be appended.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// The fact; its scope is the record's key.
    pub event: ChatEvent,
    /// The request that caused it.
    pub correlation: CorrelationId,
}

/// Resolves when an accepted record is durable, or when that cannot be known.
#[derive(Debug)]
pub struct Durable(oneshot::Receiver<Result<Appended, AppendError>>);

/// The adapter's end of a [`Durable`]. Dropping it unresolved answers [`AppendError::Unknown`].
#[derive(Debug)]
pub struct DurableSender(oneshot::Sender<Result<Appended, AppendError>>);

impl Durable {
    /// A connected pair.
    #[must_use]
    pub fn pair() -> (DurableSender, Self) {
        let (sender, receiver) = oneshot::channel();
        (DurableSender(sender), Self(receiver))
    }
}

impl DurableSender {
    /// Answers; nobody may be waiting any more, which is fine.
    pub fn resolve(self, outcome: Result<Appended, AppendError>) {
        drop(self.0.send(outcome));
    }
}

impl Future for Durable {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|got| got.unwrap_or(Err(AppendError::Unknown)))
    }
}

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its partition.
    pub partition: Partition,
    /// Its place.
    pub position: Position,
    /// The log's own time for it.
    pub appended_at: Timestamp,
}

/// Why there is no position.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The queue is full: refused.
    #[error("too many messages are waiting for the log")]
    Overloaded,
    /// The log cannot take records now (disk full, brokers away): refused.
    #[error("the log cannot take messages: {reason}")]
    Unavailable {
        /// What an operator should know, in one clause.
        reason: &'static str,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// The record is larger than the log takes: refused.
    #[error("the message is too large for the log")]
    TooLarge,
    /// Whether the record is in the log cannot be known.
    #[error("it is not known whether the log has the message")]
    Unknown,
}

impl Classify for AppendError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Overloaded | Self::Unavailable { .. } | Self::Unknown => ErrorKind::EventProduction,
            Self::TooLarge => ErrorKind::PayloadTooLarge,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded | Self::Unavailable { .. } => Some(Duration::from_secs(1)),
            Self::TooLarge | Self::Unknown => None,
        }
    }
}

/// One record as read from the log.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// Its partition.
    pub partition: Partition,
    /// Its place.
    pub position: Position,
    /// The log's own time for it. Mostly, not always, ascending within a partition.
    pub appended_at: Timestamp,
    /// Bytes that it takes in the log, for budgets.
    pub size: usize,
    /// The fact, or why it cannot be read. Unreadable records are reported, never hidden.
    pub content: Result<ChatEvent, Undecodable>,
}

/// Why a record's bytes are no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// Not in the record format at all.
    #[error("the record is malformed")]
    Malformed,
    /// A kind or version of event that this release does not know; a newer pod wrote it.
    #[error("the record's type or schema is not known to this release")]
    UnknownKind,
    /// In the format, but its values break the domain's rules.
    #[error("the record's values are not valid")]
    Invalid,
}

/// Reads the log from any position on, for this pod alone: nothing is shared with other readers and nothing is committed.
///
/// * **Completeness.** A reader opened at `p` MUST give every record with a position ≥ `p` of its partition, each once, in ascending order
///   within the partition, and MUST then wait for new ones. A record MUST NOT be given before it is durable.
/// * **Gaps.** Positions ascend but need not be dense. If records at or after `p` were already removed by retention, opening or reading
///   MUST fail with [`LogError::Truncated`] rather than skip them.
/// * **Cancel safety.** [`TailReader::next`] MUST lose nothing when its future is dropped.
#[async_trait]
pub trait LogTail: Send + Sync + 'static {
    /// The partition in which `scope` lives in the current epoch.
    fn partition_of(&self, scope: &Scope) -> Partition;

    /// What there is now, one entry per partition.
    async fn partitions(&self) -> Result<Vec<PartitionState>, LogError>;

    /// [`PartitionState::end`] of one partition, requested from the log after the call. Every read of the history asks, so it MUST be cheap, however
    /// many ask at the same time.
    async fn end(&self, partition: Partition) -> Result<Position, LogError> {
        let states = self.partitions().await?;
        let state = states.into_iter().find(|state| state.partition == partition);
        state.map(|state| state.end).ok_or_else(|| LogError::Unavailable("there is no such partition".into()))
    }

    /// The position of the first record appended at `at` or later, or the end.
    async fn position_at(&self, partition: Partition, at: Timestamp) -> Result<Position, LogError>;

    /// A reader that starts at these positions (inclusive).
    async fn open(&self, from: &[(Partition, Position)]) -> Result<Box<dyn TailReader>, LogError>;
}

/// See [`LogTail`].
#[async_trait]
pub trait TailReader: Send + 'static {
    /// Waits for records and returns at least one, at most a few thousand.
    async fn next(&mut self) -> Result<Vec<LogRecord>, LogError>;
}

/// The ends of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// Which.
    pub partition: Partition,
    /// The oldest record that is still there, or `end` when there is none.
    pub first: Position,
    /// One behind the newest record, or `first` when there is none. The next record's position may be higher: it starts a new epoch then.
    pub end: Position,
    /// When the newest record that is still there was appended.
    pub last_appended_at: Option<Timestamp>,
}

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The wanted records are gone.
    #[error("the log no longer has position {wanted}; it starts at {first}")]
    Truncated {
        /// What was asked for.
        wanted: Position,
        /// What there is.
        first: Position,
    },
    /// It does not answer; trying again may help.
    #[error("the log cannot be read")]
    Unavailable(#[source] BoxError),
    /// This member no longer owns the partition.
    #[error("the partition is no longer assigned to this member")]
    NotAssigned,
    /// The group is sharing its partitions out anew and takes no commits meanwhile. The partition is still owned.
    #[error("the group is sharing its partitions out anew; commit again in a moment")]
    Rebalancing,
}

/// Reads the log together with other members of one group: every partition has one owner at a time.
///
/// * **At least once.** After a crash or a change of owner, records from the committed position on are given again.
/// * **Commit.** [`GroupMember::commit`] of `next` says that everything before `next` has its effect. It MUST be durable when it returns, MUST NOT
///   go back, and MUST fail with [`LogError::NotAssigned`] for a partition that is not owned. While the group is shared out anew it MAY fail with
///   [`LogError::Rebalancing`], at once: the caller goes on polling, which the group waits for, and commits again.
/// * **Revocation.** After [`GroupEvent::Revoking`] the partition MUST NOT get another owner before [`GroupMember::release`] is called
///   (or the member is given up as dead).
/// * **Pausing.** A paused partition gives no records but stays owned for as long as the member is polled.
/// * **Cancel safety.** [`GroupMember::next`] MUST lose nothing when its future is dropped.
#[async_trait]
pub trait LogGroup: Send + Sync + 'static {
    /// Becomes a member.
    async fn join(&self) -> Result<Box<dyn GroupMember>, LogError>;

    /// For each partition the position before which everything is committed, as any pod may ask.
    async fn committed(&self) -> Result<Vec<(Partition, Position)>, LogError>;
}

/// See [`LogGroup`].
#[async_trait]
pub trait GroupMember: Send + 'static {
    /// Waits for what happens next.
    async fn next(&mut self) -> Result<GroupEvent, LogError>;

    /// Everything in `partition` before `next` has its effect.
    async fn commit(&mut self, partition: Partition, next: Position) -> Result<(), LogError>;

    /// Gives a revoked partition away; in-flight work on it is settled.
    async fn release(&mut self, partition: Partition) -> Result<(), LogError>;

    /// Stops the partition's records until [`GroupMember::resume`].
    fn pause(&mut self, partition: Partition);

    /// Lets a paused partition go on.
    fn resume(&mut self, partition: Partition);

    /// Keeps a record that can have no effect, with its origin, where an operator finds it. Durable when it returns; idempotent.
    async fn dead_letter(&mut self, record: &LogRecord, class: &Undecodable) -> Result<(), LogError>;
}

/// What a group's member learns.
#[derive(Clone, Debug)]
pub enum GroupEvent {
    /// The partition is ours; its records will start at `from`.
    Assigned {
        /// Which.
        partition: Partition,
        /// The committed position.
        from: Position,
    },
    /// Records of an owned partition, at least one, ascending.
    Records {
        /// Which.
        partition: Partition,
        /// Them.
        records: Vec<LogRecord>,
    },
    /// The partition is to be given away: settle what is in flight, commit, then release.
    Revoking {
        /// Which.
        partition: Partition,
    },
}
