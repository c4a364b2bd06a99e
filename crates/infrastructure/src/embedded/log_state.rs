//! What the log was when the process ended, read at the start.

use super::database::classify;
use super::error::OpenError;
use chatify_domain::{Epoch, Offset, Partition, Position, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;

/// The embedded log has this partition alone.
pub(super) const PARTITION: Partition = Partition(0);

/// Where the log stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogState {
    /// The oldest record that is there, or `end`.
    pub(super) first: Position,
    /// The position of the next record.
    pub(super) end: Position,
    /// One behind the newest record; before `end` when a new epoch has none yet.
    pub(super) behind_newest: Position,
    /// Every position before it may have been removed.
    pub(super) trimmed_to: Position,
    /// The history has everything before it.
    pub(super) committed: Position,
    /// When the newest record was appended.
    pub(super) last_appended_at: Option<Timestamp>,
}

/// Reads the state and, with a higher epoch than last time, starts the new one.
pub(super) fn load(connection: &mut Connection, file: &Path, epoch: Epoch) -> Result<LogState, OpenError> {
    let failed = |source| classify(file, source);
    let stored: Option<u16> =
        connection.query_row("SELECT epoch FROM log_state", [], |row| row.get(0)).optional().map_err(failed)?;
    if let Some(stored) = stored
        && stored > epoch.number()
    {
        return Err(OpenError::EpochWentBack { stored, configured: epoch.number() });
    }
    let start = Position::new(epoch, Offset::default());
    let state = read(connection, start).map_err(failed)?;
    if state.end.epoch_number() != epoch.number() {
        return Err(OpenError::EpochFull { epoch });
    }
    store(connection, epoch, &state).map_err(failed)?;
    Ok(state)
}

fn read(connection: &Connection, start: Position) -> Result<LogState, rusqlite::Error> {
    let newest = connection
        .query_row("SELECT position, appended_at FROM log_records ORDER BY position DESC LIMIT 1", [], |row| {
            Ok((position(row, 0)?, Timestamp::from_millis(row.get(1)?)))
        })
        .optional()?;
    let oldest = connection
        .query_row("SELECT position FROM log_records ORDER BY position LIMIT 1", [], |row| position(row, 0))
        .optional()?;
    let trimmed_to = connection
        .query_row("SELECT trimmed_to FROM log_state", [], |row| position(row, 0))
        .optional()?
        .unwrap_or(Position::ZERO);
    let committed = connection
        .query_row("SELECT committed FROM log_group WHERE broker_partition = ?1", [PARTITION.0], |row| position(row, 0))
        .optional()?
        .unwrap_or(Position::ZERO);
    let after_newest = newest.map_or(Position::ZERO, |(position, _)| position.next());
    let end = after_newest.max(start);
    Ok(LogState {
        first: oldest.unwrap_or(end),
        end,
        behind_newest: if newest.is_some() { after_newest } else { end },
        trimmed_to,
        // With nothing left to read, the group stands at the end, also when the end has moved on to a new epoch.
        committed: if committed >= after_newest { end } else { committed.max(oldest.unwrap_or(end)) },
        last_appended_at: newest.map(|(_, appended_at)| appended_at),
    })
}

fn store(connection: &mut Connection, epoch: Epoch, state: &LogState) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction()?;
    transaction.execute(
        "INSERT INTO log_state (singleton, epoch, trimmed_to) VALUES (1, ?1, ?2) \
         ON CONFLICT (singleton) DO UPDATE SET epoch = excluded.epoch",
        params![epoch.number(), state.trimmed_to.number()],
    )?;
    transaction.execute(
        "INSERT INTO log_group (broker_partition, committed) VALUES (?1, ?2) \
         ON CONFLICT (broker_partition) DO UPDATE SET committed = excluded.committed",
        params![PARTITION.0, state.committed.number()],
    )?;
    transaction.commit()
}

/// The position in column `index`.
pub(super) fn position(row: &rusqlite::Row<'_>, index: usize) -> Result<Position, rusqlite::Error> {
    let number = row.get(index)?;
    Position::from_number(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, number))
}
