//! What migrations cannot say in SQL: checksums for rows that were written before there were any.
//!
//! The columns are those of schema version 2, whatever becomes of the tables later.

use super::checksum::{self, ValueDigest};
use super::log_state::position;
use chatify_application::ports::history::Segment;
use chatify_domain::{Scope, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

/// Gives every row of the three tables its checksum, one after the other in the order of its key, within the transaction that is open.
pub(super) fn checksums(connection: &Connection) -> Result<(), rusqlite::Error> {
    let mut last = i64::MIN;
    while let Some(key) = log_record_after(connection, last)? {
        last = key;
    }
    let mut last = (String::new(), i64::MIN, i64::MIN);
    while let Some(key) = message_after(connection, &last)? {
        last = key;
    }
    let mut last = (String::new(), i64::MIN);
    while let Some(key) = segment_after(connection, &last)? {
        last = key;
    }
    Ok(())
}

fn log_record_after(connection: &Connection, key: i64) -> Result<Option<i64>, rusqlite::Error> {
    let next = connection
        .prepare_cached(
            "SELECT position, appended_at, value FROM log_records WHERE position > ?1 ORDER BY position LIMIT 1",
        )?
        .query_row([key], |row| {
            let digest = ValueDigest::of(row.get_ref(2)?.as_blob()?);
            Ok((row.get(0)?, digest.at(position(row, 0)?, Timestamp::from_millis(row.get(1)?))))
        })
        .optional()?;
    let Some((key, checksum)) = next else { return Ok(None) };
    connection
        .prepare_cached("UPDATE log_records SET checksum = ?2 WHERE position = ?1")?
        .execute(params![key, checksum])?;
    Ok(Some(key))
}

type MessageKey = (String, i64, i64);

fn message_after(connection: &Connection, key: &MessageKey) -> Result<Option<MessageKey>, rusqlite::Error> {
    let sql = format!(
        "SELECT {}, m.scope FROM chat_messages m WHERE (m.scope, m.segment, m.position) > (?1, ?2, ?3) \
         ORDER BY m.scope, m.segment, m.position LIMIT 1",
        super::history_store::COLUMNS
    );
    let next = connection
        .prepare_cached(&sql)?
        .query_row(params![key.0, key.1, key.2], |row| {
            let scope: String = row.get(9)?;
            let parsed = Scope::parse(&scope).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(9, rusqlite::types::Type::Text, error.into())
            })?;
            let message = super::history_store::unchecked_message(row, &parsed)?;
            let checksum = checksum::of_message(&scope, position(row, 8)?, &message);
            Ok(((scope, row.get(8)?, row.get(0)?), checksum))
        })
        .optional()?;
    let Some((key, checksum)) = next else { return Ok(None) };
    connection
        .prepare_cached("UPDATE chat_messages SET checksum = ?4 WHERE scope = ?1 AND segment = ?2 AND position = ?3")?
        .execute(params![key.0, key.1, key.2, checksum])?;
    Ok(Some(key))
}

fn segment_after(connection: &Connection, key: &(String, i64)) -> Result<Option<(String, i64)>, rusqlite::Error> {
    let next = connection
        .prepare_cached(
            "SELECT scope, segment, first_created_at FROM scope_segments WHERE (scope, segment) > (?1, ?2) \
             ORDER BY scope, segment LIMIT 1",
        )?
        .query_row(params![key.0, key.1], |row| {
            let scope: String = row.get(0)?;
            let segment = Segment { start: position(row, 1)?, first_created_at: Timestamp::from_millis(row.get(2)?) };
            let checksum = checksum::of_segment(&scope, &segment);
            Ok(((scope, row.get(1)?), checksum))
        })
        .optional()?;
    let Some((key, checksum)) = next else { return Ok(None) };
    connection
        .prepare_cached("UPDATE scope_segments SET checksum = ?3 WHERE scope = ?1 AND segment = ?2")?
        .execute(params![key.0, key.1, checksum])?;
    Ok(Some(key))
}
