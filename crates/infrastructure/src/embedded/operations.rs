//! What the writer does besides appending: each in the transaction of the records that happen to be in the same batch.

use super::checksum;
use super::log_state::{PARTITION, position};
use chatify_application::ports::history::{HistoryRow, Segment};
use chatify_application::ports::log::Undecodable;
use chatify_domain::{Position, Scope, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use std::time::Duration;

/// Records that one step of retention removes at most, so that appends never wait long behind it.
const TRIM_STEP: i64 = 1000;

/// One write.
pub(super) enum Operation {
    /// Rows of the history.
    History(Vec<HistoryRow>),
    /// A segment of a scope's history.
    OpenSegment(Scope, Segment),
    /// The group has everything before this position.
    Commit(Position),
    /// Keeps the record at this position for an operator.
    DeadLetter(Position, Undecodable),
    /// Removes a step of old records.
    Trim(Trim),
}

/// Which records may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trim {
    /// Those before this position
    pub(super) before: Position,
    /// that were appended before this moment
    pub(super) cutoff: Timestamp,
    /// and so long before the first one that the group has not committed.
    pub(super) kept_before_committed: Duration,
}

/// What the readers in memory have to learn once the transaction is committed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effects {
    /// What retention removed.
    pub(super) trimmed: Option<Trimmed>,
}

/// The log's new start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trimmed {
    /// Everything before it is gone.
    pub(super) to: Position,
    /// The oldest record that is there; a new epoch begins far behind the end of the last one.
    pub(super) first: Position,
}

impl Operation {
    /// Writes it within the transaction that is open.
    pub(super) fn apply(&self, connection: &Connection, effects: &mut Effects) -> Result<(), rusqlite::Error> {
        match self {
            Self::History(rows) => write_history(connection, rows),
            Self::OpenSegment(scope, segment) => open_segment(connection, scope, segment),
            Self::Commit(next) => commit_group(connection, *next),
            Self::DeadLetter(at, class) => dead_letter(connection, *at, class),
            Self::Trim(which) => trim(connection, *which, effects),
        }
    }
}

fn write_history(connection: &Connection, rows: &[HistoryRow]) -> Result<(), rusqlite::Error> {
    let mut insert_message = connection.prepare_cached(
        "INSERT INTO chat_messages (scope, segment, position, message_id, sender_id, text, created_at, origin_pod_id, broker_partition, \
         checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
    )?;
    // The earliest one is the message; a later one with the same name is a repeat that came too late to be recognised.
    let mut insert_id = connection.prepare_cached(
        "INSERT INTO messages_by_id (message_id, scope, sender_id, segment, position) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT DO UPDATE SET segment = excluded.segment, position = excluded.position WHERE excluded.position < position",
    )?;
    for HistoryRow { segment, message } in rows {
        let sent = &message.sent;
        let scope = sent.scope.to_string();
        let id = sent.message_id.as_u128().to_be_bytes();
        insert_message.execute(params![
            scope,
            segment.number(),
            message.position.number(),
            id,
            sent.sender_id.as_str(),
            sent.text.as_str(),
            message.created_at.as_millis(),
            sent.origin_pod_id.as_str(),
            message.partition.0,
            checksum::of_message(&scope, *segment, message),
        ])?;
        insert_id.execute(params![id, scope, sent.sender_id.as_str(), segment.number(), message.position.number()])?;
    }
    Ok(())
}

fn open_segment(connection: &Connection, scope: &Scope, segment: &Segment) -> Result<(), rusqlite::Error> {
    let scope = scope.to_string();
    connection
        .prepare_cached(
            "INSERT INTO scope_segments (scope, segment, first_created_at, checksum) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            scope,
            segment.start.number(),
            segment.first_created_at.as_millis(),
            checksum::of_segment(&scope, segment),
        ])?;
    Ok(())
}

fn commit_group(connection: &Connection, next: Position) -> Result<(), rusqlite::Error> {
    connection
        .prepare_cached("UPDATE log_group SET committed = max(committed, ?2) WHERE broker_partition = ?1")?
        .execute(params![PARTITION.0, next.number()])?;
    Ok(())
}

fn dead_letter(connection: &Connection, at: Position, class: &Undecodable) -> Result<(), rusqlite::Error> {
    let class = match class {
        Undecodable::Malformed => "malformed",
        Undecodable::UnknownKind => "unknown_kind",
        Undecodable::Invalid => "invalid",
    };
    connection
        .prepare_cached(
            "INSERT INTO dead_letters (position, error_class, appended_at, scope, value) \
             SELECT position, ?2, appended_at, scope, value FROM log_records WHERE position = ?1 ON CONFLICT DO NOTHING",
        )?
        .execute(params![at.number(), class])?;
    Ok(())
}

/// Never removes what the group has not committed, nor the newest record: the next position is counted from it.
fn trim(connection: &Connection, which: Trim, effects: &mut Effects) -> Result<(), rusqlite::Error> {
    let first_to_come = connection
        .prepare_cached(
            "SELECT appended_at FROM log_records WHERE position >= (SELECT committed FROM log_group WHERE broker_partition = ?1) \
             ORDER BY position LIMIT 1",
        )?
        .query_row([PARTITION.0], |row| row.get(0).map(Timestamp::from_millis))
        .optional()?;
    let not_needed = first_to_come.map_or(which.cutoff, |first| first.minus(which.kept_before_committed));
    let newest_removed = connection
        .prepare_cached(
            "SELECT max(position) FROM (SELECT position, appended_at FROM log_records ORDER BY position LIMIT ?1) \
             WHERE position < ?2 AND appended_at < ?3 AND appended_at <= ?5 \
             AND position < (SELECT committed FROM log_group WHERE broker_partition = ?4) \
             AND position < (SELECT max(position) FROM log_records)",
        )?
        .query_row(
            params![TRIM_STEP, which.before.number(), which.cutoff.as_millis(), PARTITION.0, not_needed.as_millis()],
            |row| row.get::<_, Option<i64>>(0)?.map(|_| position(row, 0)).transpose(),
        )?;
    let Some(newest_removed) = newest_removed else {
        return Ok(());
    };
    connection.prepare_cached("DELETE FROM log_records WHERE position <= ?1")?.execute([newest_removed.number()])?;
    let to = newest_removed.next();
    connection.prepare_cached("UPDATE log_state SET trimmed_to = ?1")?.execute([to.number()])?;
    // The newest record always stays, so there is a first one.
    let first =
        connection.prepare_cached("SELECT min(position) FROM log_records")?.query_row([], |row| position(row, 0))?;
    effects.trimmed = Some(Trimmed { to, first });
    Ok(())
}
