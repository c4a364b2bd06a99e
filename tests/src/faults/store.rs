//! The rows of the history store, read past the pods: what is really persisted, without what their memory adds.

use super::verdict::LogRecord;
use crate::cql::{self, Row};
use std::io;
use std::time::Duration;
use uuid::Uuid;

/// How long one page may take.
const PAGE: Duration = Duration::from_secs(20);

/// Every message that the store has.
///
/// # Errors
/// When the store does not answer.
pub fn messages(address: &str, keyspace: &str) -> io::Result<Vec<LogRecord>> {
    let columns = "broker_partition, position, created_at_utc, scope, sender_id, message_id, text, origin_pod_id";
    let rows = cql::rows(address, &format!("SELECT {columns} FROM {keyspace}.chat_messages"), PAGE)?;
    rows.iter().map(|row| message(row).ok_or_else(|| io::Error::other(format!("a row with holes: {row:?}")))).collect()
}

/// Whether the store has a message at `position` of the segment's scope, whatever its segment.
///
/// # Errors
/// When the store does not answer.
pub fn has(address: &str, keyspace: &str, record: &LogRecord) -> io::Result<bool> {
    let statement = format!("SELECT position FROM {keyspace}.messages_by_id WHERE message_id = {}", record.message_id);
    let rows = cql::rows(address, &statement, PAGE)?;
    Ok(rows.iter().any(|row| number(row, 0) == Some(record.position)))
}

fn message(row: &Row) -> Option<LogRecord> {
    Some(LogRecord {
        partition: i32::try_from(number(row, 0)?).ok()?,
        position: number(row, 1)?,
        appended_at: number(row, 2)?,
        scope: text(row, 3)?,
        sender_id: text(row, 4)?,
        message_id: Uuid::from_slice(row.get(5)?.as_deref()?).ok()?.hyphenated().to_string(),
        text: text(row, 6)?,
        origin_pod_id: text(row, 7)?,
    })
}

fn number(row: &Row, column: usize) -> Option<i64> {
    let bytes = row.get(column)?.as_deref()?;
    bytes.try_into().ok().map(i64::from_be_bytes)
}

fn text(row: &Row, column: usize) -> Option<String> {
    String::from_utf8(row.get(column)?.clone()?).ok()
}
