//! [`HistoryStore`]: written by the one writer, read from the pool.

use super::Store;
use super::checksum::{self, Damaged};
use super::error::WriteError;
use super::log_state::position;
use super::operations::Operation;
use super::read_pool::ReadError;
use async_trait::async_trait;
use chatify_application::ports::HistoryStore;
use chatify_application::ports::history::{HistoryError, HistoryRow, Order, PositionRange, Segment};
use chatify_domain::{
    LoggedMessage, MessageId, MessageSent, Partition, PodId, Position, Scope, SenderId, Text, Timestamp,
};
use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};
use std::sync::Arc;

/// What [`unchecked_message`] reads, and then the checksum and the segment.
pub(super) const COLUMNS: &str = "m.position, m.message_id, m.sender_id, m.text, m.created_at, m.origin_pod_id, m.broker_partition, m.checksum, m.segment";

pub(super) struct EmbeddedHistory(pub(super) Arc<Store>);

impl EmbeddedHistory {
    async fn write(&self, operation: Operation) -> Result<(), HistoryError> {
        tokio::time::timeout(self.0.deadline, self.0.writer.operate(operation))
            .await
            .map_err(|_| HistoryError::Timeout)?
            .map_err(WriteError::into_history)
    }

    async fn read<T, F>(&self, read: F) -> Result<T, HistoryError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    {
        tokio::time::timeout(self.0.deadline, self.0.reads.read(read))
            .await
            .map_err(|_| HistoryError::Timeout)?
            .map_err(classify)
    }
}

#[async_trait]
impl HistoryStore for EmbeddedHistory {
    async fn segments(&self, scope: &Scope) -> Result<Vec<Segment>, HistoryError> {
        let scope = scope.to_string();
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT segment, first_created_at, checksum FROM scope_segments WHERE scope = ?1 ORDER BY segment",
                )?
                .query_map([&scope], |row| {
                    let segment =
                        Segment { start: position(row, 0)?, first_created_at: Timestamp::from_millis(row.get(1)?) };
                    checksum::check("scope_segments", row.get(2)?, checksum::of_segment(&scope, &segment))?;
                    Ok(segment)
                })?
                .collect()
        })
        .await
    }

    async fn open_segment(&self, scope: &Scope, segment: Segment) -> Result<(), HistoryError> {
        self.write(Operation::OpenSegment(scope.clone(), segment)).await
    }

    async fn count(&self, scope: &Scope, segment: Position, before: Position) -> Result<u64, HistoryError> {
        let scope = scope.to_string();
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT count(*) FROM chat_messages WHERE scope = ?1 AND segment = ?2 AND position < ?3",
                )?
                .query_row(params![scope, segment.number(), before.number()], |row| row.get(0).map(i64::unsigned_abs))
        })
        .await
    }

    async fn append(&self, rows: &[HistoryRow]) -> Result<(), HistoryError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.write(Operation::History(rows.to_vec())).await
    }

    async fn slice(
        &self,
        scope: &Scope,
        segment: Position,
        range: PositionRange,
        limit: usize,
    ) -> Result<Vec<LoggedMessage>, HistoryError> {
        let direction = match range.order {
            Order::Ascending => "ASC",
            Order::Descending => "DESC",
        };
        let sql = format!(
            "SELECT {COLUMNS} FROM chat_messages m WHERE m.scope = ?1 AND m.segment = ?2 AND m.position >= ?3 AND m.position < ?4 \
             ORDER BY m.position {direction} LIMIT ?5",
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let scope = scope.clone();
        self.read(move |connection| {
            let (from, to) = (range.from.number(), range.to.number());
            connection
                .prepare_cached(&sql)?
                .query_map(params![scope.to_string(), segment.number(), from, to, limit], |row| message(row, &scope))?
                .collect()
        })
        .await
    }

    /// An id whose message is another one, or none, is damage and not an answer.
    async fn find(&self, scope: &Scope, id: MessageId) -> Result<Vec<LoggedMessage>, HistoryError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM messages_by_id i LEFT JOIN chat_messages m \
             ON m.scope = i.scope AND m.segment = i.segment AND m.position = i.position \
             WHERE i.message_id = ?1 AND i.scope = ?2 ORDER BY m.position",
        );
        let scope = scope.clone();
        self.read(move |connection| {
            let found = connection
                .prepare_cached(&sql)?
                .query_map(params![id.as_u128().to_be_bytes(), scope.to_string()], |row| message(row, &scope))?
                .collect::<Result<Vec<_>, _>>()?;
            let other = found.iter().any(|message| message.sent.message_id != id);
            if other { Err(Damaged { table: "messages_by_id" }.into()) } else { Ok(found) }
        })
        .await
    }
}

fn message(row: &Row<'_>, scope: &Scope) -> Result<LoggedMessage, rusqlite::Error> {
    let message = unchecked_message(row, scope)?;
    let computed = checksum::of_message(&scope.to_string(), position(row, 8)?, &message);
    checksum::check("chat_messages", row.get(7)?, computed)?;
    Ok(message)
}

/// As it is stored, whether that is what was written or not.
pub(super) fn unchecked_message(row: &Row<'_>, scope: &Scope) -> Result<LoggedMessage, rusqlite::Error> {
    Ok(LoggedMessage {
        position: position(row, 0)?,
        partition: Partition(row.get(6)?),
        created_at: Timestamp::from_millis(row.get(4)?),
        sent: Arc::new(MessageSent {
            message_id: MessageId::from_u128(u128::from_be_bytes(row.get(1)?)),
            scope: scope.clone(),
            sender_id: parsed(row, 2, Type::Text, SenderId::parse)?,
            text: parsed(row, 3, Type::Text, Text::parse)?,
            origin_pod_id: parsed(row, 5, Type::Text, PodId::parse)?,
        }),
    })
}

/// A stored text as the domain's value.
fn parsed<T, E: std::error::Error + Send + Sync + 'static>(
    row: &Row<'_>,
    column: usize,
    kind: Type,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, rusqlite::Error> {
    parse(row.get_ref(column)?.as_str()?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error)))
}

/// Rows that cannot be understood are another matter than a database that does not answer.
fn classify(error: ReadError) -> HistoryError {
    match error {
        ReadError::Database(
            error @ (rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)),
        ) => HistoryError::Corrupt(Box::new(error)),
        error => HistoryError::Unavailable(Box::new(error)),
    }
}
