//! A history in memory.

use crate::ports::HistoryStore;
use crate::ports::history::{HistoryError, HistoryRow, Order, PositionRange, Segment};
use async_trait::async_trait;
use chatify_domain::{LoggedMessage, MessageId, Position, Scope};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Implements [`HistoryStore`]. Cloning gives another handle to the same store.
#[derive(Clone, Default)]
pub struct MemoryHistory(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    segments: BTreeMap<Scope, BTreeMap<Position, Segment>>,
    rows: BTreeMap<(Scope, Position), BTreeMap<Position, LoggedMessage>>,
    away: bool,
    torn_appends: usize,
    latency: Duration,
    rows_in_time: Option<usize>,
    calls: usize,
}

impl MemoryHistory {
    /// Whether it answers at all.
    pub fn set_available(&self, available: bool) {
        self.lock().away = !available;
    }

    /// The next `count` writes of rows write every other row and then fail.
    pub fn tear_appends(&self, count: usize) {
        self.lock().torn_appends = count;
    }

    /// Every call takes this long.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// A write of more rows than this ends with a timeout, and has written that many.
    pub fn set_rows_in_time(&self, rows: usize) {
        self.lock().rows_in_time = Some(rows);
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.lock().calls
    }

    /// A scope's segments with all of their rows, also those that readers clip.
    #[must_use]
    pub fn dump(&self, scope: &Scope) -> Vec<(Segment, Vec<LoggedMessage>)> {
        let state = self.lock();
        let rows = |start: &Position| {
            let rows = state.rows.get(&(scope.clone(), *start)).map(|rows| rows.values().cloned().collect());
            rows.unwrap_or_default()
        };
        state.segments.get(scope).into_iter().flatten().map(|(start, segment)| (*segment, rows(start))).collect()
    }

    /// Begins a call.
    async fn call(&self) -> Result<MutexGuard<'_, State>, HistoryError> {
        let latency = self.lock().latency;
        if latency.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(latency).await;
        }
        let mut state = self.lock();
        state.calls += 1;
        if state.away { Err(HistoryError::Unavailable("an outage on demand".into())) } else { Ok(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl HistoryStore for MemoryHistory {
    async fn segments(&self, scope: &Scope) -> Result<Vec<Segment>, HistoryError> {
        Ok(self.call().await?.segments.get(scope).into_iter().flatten().map(|(_, segment)| *segment).collect())
    }

    async fn open_segment(&self, scope: &Scope, segment: Segment) -> Result<(), HistoryError> {
        let mut state = self.call().await?;
        state.segments.entry(scope.clone()).or_default().entry(segment.start).or_insert(segment);
        Ok(())
    }

    async fn count(&self, scope: &Scope, segment: Position, before: Position) -> Result<u64, HistoryError> {
        let rows = &self.call().await?.rows;
        Ok(rows.get(&(scope.clone(), segment)).map_or(0, |rows| rows.range(..before).count() as u64))
    }

    async fn append(&self, rows: &[HistoryRow]) -> Result<(), HistoryError> {
        let mut state = self.call().await?;
        let in_time = state.rows_in_time.unwrap_or(usize::MAX);
        let (late, rows) = (rows.len() > in_time, &rows[..rows.len().min(in_time)]);
        let torn = state.torn_appends > 0;
        state.torn_appends = state.torn_appends.saturating_sub(1);
        for (index, row) in rows.iter().enumerate() {
            if torn && (index + state.torn_appends) % 2 == 0 {
                continue;
            }
            let key = (row.message.sent.scope.clone(), row.segment);
            state.rows.entry(key).or_default().insert(row.message.position, row.message.clone());
        }
        if torn || late { Err(HistoryError::Timeout) } else { Ok(()) }
    }

    async fn slice(
        &self,
        scope: &Scope,
        segment: Position,
        range: PositionRange,
        limit: usize,
    ) -> Result<Vec<LoggedMessage>, HistoryError> {
        let state = self.call().await?;
        let Some(rows) = state.rows.get(&(scope.clone(), segment)) else { return Ok(Vec::new()) };
        if range.from >= range.to {
            return Ok(Vec::new());
        }
        let rows = rows.range(range.from..range.to).map(|(_, message)| message.clone());
        Ok(match range.order {
            Order::Ascending => rows.take(limit).collect(),
            Order::Descending => rows.rev().take(limit).collect(),
        })
    }

    async fn find(&self, scope: &Scope, id: MessageId) -> Result<Vec<LoggedMessage>, HistoryError> {
        let state = self.call().await?;
        let of_scope = state.rows.iter().filter(|((other, _), _)| other == scope).flat_map(|(_, rows)| rows.values());
        let found: BTreeMap<Position, LoggedMessage> = of_scope
            .filter(|message| message.sent.message_id == id)
            .map(|message| (message.position, message.clone()))
            .collect();
        Ok(found.into_values().collect())
    }
}
