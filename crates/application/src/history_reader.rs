//! Reads the stored history, with a proof of how far it is complete.

use crate::ports::history::{HistoryError, HistoryStore, Order, PositionRange, Segment};
use crate::ports::log::{LogError, LogGroup};
use crate::segments::overlapping;
use crate::single_flight::SingleFlight;
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::error::chain;
use chatify_domain::{LoggedMessage, MessageId, Partition, Position, Scope};
use futures_util::FutureExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A known commit is good for this long when it proves enough: being late only proves less.
const COMMITTED_MAX_AGE: Duration = Duration::from_millis(250);
/// One that does not prove enough is asked for again when it is at least this old, so that a storm of readers asks once.
const COMMITTED_MIN_AGE: Duration = Duration::from_millis(25);
/// A group that has not told by then proves nothing for this read: the store may have the page although the log is away.
const COMMITTED_PATIENCE: Duration = Duration::from_secs(1);

/// Reads ranges over segments. Identical reads at the same time are one.
#[derive(Clone)]
pub(crate) struct HistoryReader(Arc<Inner>);

struct Inner {
    store: Arc<dyn HistoryStore>,
    group: Arc<dyn LogGroup>,
    clock: Arc<dyn Clock>,
    committed: Mutex<Committed>,
    /// Held while the group is asked, so that many readers ask once.
    asking: tokio::sync::Mutex<()>,
    ranges: SingleFlight<RangeKey, Result<Arc<Stored>, Arc<HistoryError>>>,
}

#[derive(Default)]
struct Committed {
    asked_at: Option<Duration>,
    positions: HashMap<Partition, Position>,
}

type RangeKey = (Scope, Position, Position, bool, usize);

/// What the store answered.
#[derive(Debug)]
pub(crate) struct Stored {
    /// In the asked order.
    pub(crate) messages: Vec<LoggedMessage>,
    /// Every message of the partition before this position was in the store when the read began.
    pub(crate) complete_before: Position,
    /// The start of the scope's first segment.
    pub(crate) first: Option<Position>,
}

impl HistoryReader {
    pub(crate) fn new(store: Arc<dyn HistoryStore>, group: Arc<dyn LogGroup>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            store,
            group,
            clock,
            committed: Mutex::default(),
            asking: tokio::sync::Mutex::new(()),
            ranges: SingleFlight::new(),
        }))
    }

    /// At most `limit` messages of `scope` within `range`, in its order.
    pub(crate) async fn range(
        &self,
        scope: &Scope,
        partition: Partition,
        range: PositionRange,
        limit: usize,
    ) -> Result<Arc<Stored>, HistoryError> {
        let key = (scope.clone(), range.from, range.to, range.order == Order::Ascending, limit);
        let start = || {
            let (inner, scope) = (Arc::clone(&self.0), scope.clone());
            async move { inner.range(&scope, partition, range, limit).await.map(Arc::new).map_err(Arc::new) }.boxed()
        };
        self.0.ranges.run(key, start).await.map_err(|error| share(&error))
    }

    /// Messages of `scope` with this id, ascending.
    pub(crate) async fn find(
        &self,
        scope: &Scope,
        partition: Partition,
        id: MessageId,
        need: Position,
    ) -> Result<Stored, HistoryError> {
        // The proof comes first: what is committed now is in what is read next.
        let complete_before = self.0.complete_before(partition, need).await;
        let messages = self.0.store.find(scope, id).await?;
        Ok(Stored { messages, complete_before, first: None })
    }

    /// The scope's segments.
    pub(crate) async fn segments(&self, scope: &Scope) -> Result<Vec<Segment>, HistoryError> {
        self.0.store.segments(scope).await
    }

    /// The first stored message of one segment within `[from, to)`.
    pub(crate) async fn first_in(
        &self,
        scope: &Scope,
        segment: Position,
        (from, to): (Position, Position),
    ) -> Result<Option<LoggedMessage>, HistoryError> {
        let range = PositionRange { from, to, order: Order::Ascending };
        Ok(self.0.store.slice(scope, segment, range, 1).await?.pop())
    }
}

impl Inner {
    async fn range(
        &self,
        scope: &Scope,
        partition: Partition,
        range: PositionRange,
        limit: usize,
    ) -> Result<Stored, HistoryError> {
        // The proof comes first: what is committed now is in what is read next.
        let complete_before = self.complete_before(partition, range.to).await;
        let segments = self.store.segments(scope).await?;
        let mut messages: Vec<LoggedMessage> = Vec::new();
        for (segment, part) in overlapping(&segments, range) {
            let room = limit - messages.len();
            if room == 0 {
                break;
            }
            messages.extend(self.store.slice(scope, segment, part, room).await?);
        }
        Ok(Stored { messages, complete_before, first: segments.first().map(|segment| segment.start) })
    }

    /// The position before which the history certainly has everything of `partition`. It is asked for again only when what is known does not reach
    /// `need`; when the group cannot be asked, what was known stays true.
    async fn complete_before(&self, partition: Partition, need: Position) -> Position {
        if let Some(known) = self.known(partition, need) {
            return known;
        }
        let _asking = self.asking.lock().await;
        if let Some(known) = self.known(partition, need) {
            return known;
        }
        let late = |late: tokio::time::error::Elapsed| LogError::Unavailable(Box::new(late));
        let answer = tokio::time::timeout(COMMITTED_PATIENCE, self.group.committed()).await.map_err(late).flatten();
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(positions) => committed.positions = positions.into_iter().collect(),
            Err(error) => tracing::debug!(error = chain(&error), "the commits of the history could not be read"),
        }
        committed.asked_at = Some(self.clock.uptime());
        committed.positions.get(&partition).copied().unwrap_or(Position::ZERO)
    }

    fn known(&self, partition: Partition, need: Position) -> Option<Position> {
        let committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let age = self.clock.uptime().saturating_sub(committed.asked_at?);
        let known = committed.positions.get(&partition).copied().unwrap_or(Position::ZERO);
        let good = age < COMMITTED_MIN_AGE || (known >= need && age < COMMITTED_MAX_AGE);
        good.then_some(known)
    }
}

/// The same failure for each of several callers.
fn share(error: &Arc<HistoryError>) -> HistoryError {
    match &**error {
        HistoryError::Unavailable(_) => HistoryError::Unavailable(Box::new(Arc::clone(error))),
        HistoryError::Timeout => HistoryError::Timeout,
        HistoryError::Corrupt(_) => HistoryError::Corrupt(Box::new(Arc::clone(error))),
    }
}

/// The store answers, but the history has not got everything that the answer would need.
#[derive(Debug, thiserror::Error)]
#[error("the history is behind the log")]
pub(crate) struct HistoryBehind;
