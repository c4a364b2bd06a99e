//! Checksums of stored rows: what was written is what is read, or the row counts as damaged.
//!
//! SQLite checks its write-ahead log, not its pages. A disk that returns other bytes than it was given would change a text that somebody wrote, and
//! nobody would know. Each checksum is SipHash-1-3 over the row's columns, keys included, so that a row found under another key is damaged too.

use chatify_application::ports::history::Segment;
use chatify_domain::{LoggedMessage, Position, Timestamp};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// A row is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored row of `{table}` is damaged: its checksum does not match")]
pub(super) struct Damaged {
    /// The row's table.
    pub(super) table: &'static str,
}

impl From<Damaged> for rusqlite::Error {
    fn from(damaged: Damaged) -> Self {
        Self::FromSqlConversionFailure(0, rusqlite::types::Type::Integer, Box::new(damaged))
    }
}

/// The part of a log record's checksum that can be had before its position is known, away from the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValueDigest(u64);

impl ValueDigest {
    /// Of an encoded event.
    pub(super) fn of(value: &[u8]) -> Self {
        Self(Row::new().bytes(value).0.finish())
    }

    /// The checksum of the record with this value.
    pub(super) fn at(self, position: Position, appended_at: Timestamp) -> i64 {
        Row::new().number(self.0.cast_signed()).number(position.number()).number(appended_at.as_millis()).checksum()
    }
}

/// Of a row of the history; `scope` is the message's own, as it is stored.
pub(super) fn of_message(scope: &str, segment: Position, message: &LoggedMessage) -> i64 {
    let sent = &message.sent;
    Row::new()
        .number(segment.number())
        .number(message.position.number())
        .number(message.created_at.as_millis())
        .number(message.partition.0.into())
        .bytes(&sent.message_id.as_u128().to_be_bytes())
        .bytes(scope.as_bytes())
        .bytes(sent.sender_id.as_str().as_bytes())
        .bytes(sent.text.as_str().as_bytes())
        .bytes(sent.origin_pod_id.as_str().as_bytes())
        .checksum()
}

/// Of a segment of a scope's history.
pub(super) fn of_segment(scope: &str, segment: &Segment) -> i64 {
    let row = Row::new().bytes(scope.as_bytes()).number(segment.start.number());
    row.number(segment.first_created_at.as_millis()).checksum()
}

/// Fails when a row of `table` is not what was written.
pub(super) fn check(table: &'static str, stored: i64, computed: i64) -> Result<(), rusqlite::Error> {
    if stored == computed { Ok(()) } else { Err(Damaged { table }.into()) }
}

/// The columns of one row, one after the other, in a form that no machine reads otherwise.
struct Row(SipHasher13);

impl Row {
    fn new() -> Self {
        Self(SipHasher13::new())
    }

    fn number(mut self, number: i64) -> Self {
        self.0.write(&number.to_le_bytes());
        self
    }

    /// With their length, so that no two rows give the same bytes.
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.write(&(bytes.len() as u64).to_le_bytes());
        self.0.write(bytes);
        self
    }

    fn checksum(self) -> i64 {
        self.0.finish().cast_signed()
    }
}
