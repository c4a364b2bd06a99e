//! The history: the queryable projection of the log.

use async_trait::async_trait;
use chatify_building_blocks::error::{Classify, ErrorKind};
use chatify_domain::{LoggedMessage, MessageId, Position, Scope, Timestamp};
use std::time::Duration;

/// Messages by scope and position, cut into segments.
///
/// A segment is named by the position of its first message. The *caller* decides where segments start; the store only keeps them:
///
/// * **Idempotent.** Writing the same row or segment again changes nothing. A row's key is (scope, segment, position).
/// * **Durable** when a write returns.
/// * **Reads** give rows in the asked order and none outside the asked range; a row is visible once its `append` has returned.
/// * **Deadline.** Every call MUST end within the adapter's own deadline, with [`HistoryError::Timeout`] at the latest.
/// * **Cancel safety.** A dropped write may or may not have happened.
#[async_trait]
pub trait HistoryStore: Send + Sync + 'static {
    /// All segments of `scope` whose write has returned, on whatever pod, ascending by start. Empty for an unknown scope.
    async fn segments(&self, scope: &Scope) -> Result<Vec<Segment>, HistoryError>;

    /// Records that `segment` exists; comes before its first row. A segment that is there keeps its first time.
    async fn open_segment(&self, scope: &Scope, segment: Segment) -> Result<(), HistoryError>;

    /// Rows in one segment before this position. It MUST count every row whose write has returned, on whatever pod: where segments are cut rests on it.
    async fn count(&self, scope: &Scope, segment: Position, before: Position) -> Result<u64, HistoryError>;

    /// Writes rows, each into its segment, and makes each findable by id.
    async fn append(&self, rows: &[HistoryRow]) -> Result<(), HistoryError>;

    /// Rows of one segment within `range`, in `range`'s order, at most `limit`.
    async fn slice(
        &self,
        scope: &Scope,
        segment: Position,
        range: PositionRange,
        limit: usize,
    ) -> Result<Vec<LoggedMessage>, HistoryError>;

    /// Messages of `scope` with this id, ascending by position. More than one sender may have used the same id.
    async fn find(&self, scope: &Scope, id: MessageId) -> Result<Vec<LoggedMessage>, HistoryError>;
}

/// One segment of a scope's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The position of its first message, and its name.
    pub start: Position,
    /// When that message was appended: lets a date filter skip whole segments.
    pub first_created_at: Timestamp,
}

/// A message and the segment that it belongs to: the one with the greatest start ≤ its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// The segment's start.
    pub segment: Position,
    /// The message.
    pub message: LoggedMessage,
}

/// Which way a page is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

/// Positions from `from` (inclusive) to `to` (exclusive), read in `order`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionRange {
    /// The lowest position, inclusive.
    pub from: Position,
    /// The highest position, exclusive.
    pub to: Position,
    /// Which end comes first.
    pub order: Order,
}

/// Why the history could not be asked or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It does not answer; trying again may help.
    #[error("the history store is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The adapter's deadline passed; a write may have happened.
    #[error("the history store did not answer in time")]
    Timeout,
    /// A stored row cannot be understood.
    #[error("the history store holds a row that cannot be read")]
    Corrupt(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Classify for HistoryError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable(_) | Self::Timeout => ErrorKind::StoreUnavailable,
            Self::Corrupt(_) => ErrorKind::Internal,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable(_) | Self::Timeout => Some(Duration::from_secs(2)),
            Self::Corrupt(_) => None,
        }
    }
}
