//! [`LogTail`]: from memory for readers that keep up, from the disk for those that do not.

use super::Store;
use super::checksum::{self, Damaged, ValueDigest};
use super::log_state::{PARTITION, position};
use super::read_pool::ReadError;
use super::recent::Found;
use crate::record;
use async_trait::async_trait;
use chatify_application::ports::LogTail;
use chatify_application::ports::log::{LogError, LogRecord, PartitionState, TailReader, Undecodable};
use chatify_building_blocks::error::chain;
use chatify_domain::{Partition, Position, Scope, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::sync::Arc;
use tokio::sync::watch;

/// Records that one call gives at most.
const BATCH: usize = 1024;
/// The same for the disk.
const STORED_BATCH: usize = 1024;

/// A partition that the embedded log does not have.
#[derive(Debug, thiserror::Error)]
#[error("the embedded log has partition 0 alone, not {}", .0.0)]
struct NoSuchPartition(Partition);

pub(super) struct EmbeddedTail(pub(super) Arc<Store>);

#[async_trait]
impl LogTail for EmbeddedTail {
    fn partition_of(&self, _scope: &Scope) -> Partition {
        PARTITION
    }

    async fn partitions(&self) -> Result<Vec<PartitionState>, LogError> {
        Ok(vec![self.0.recent.partition()])
    }

    async fn position_at(&self, partition: Partition, at: Timestamp) -> Result<Position, LogError> {
        check(partition)?;
        let state = self.0.recent.partition();
        if state.last_appended_at.is_none_or(|last| last < at) {
            return Ok(state.end);
        }
        self.0.reads.read(move |connection| first_at(connection, state, at)).await.map_err(unavailable)
    }

    async fn open(&self, from: &[(Partition, Position)]) -> Result<Box<dyn TailReader>, LogError> {
        let mut next = None;
        for (partition, position) in from {
            check(*partition)?;
            next = Some(*position);
        }
        Ok(Box::new(Reader::open(Arc::clone(&self.0), next)?))
    }
}

/// One reader's place.
pub(super) struct Reader {
    store: Arc<Store>,
    /// `None`: of no partition, so there is nothing to read.
    next: Option<Position>,
    end: watch::Receiver<Position>,
}

impl Reader {
    pub(super) fn open(store: Arc<Store>, next: Option<Position>) -> Result<Self, LogError> {
        let state = store.recent.partition();
        if let Some(wanted) = next.filter(|wanted| *wanted < store.recent.trimmed_to()) {
            return Err(LogError::Truncated { wanted, first: state.first });
        }
        let end = store.recent.watch();
        Ok(Self { store, next, end })
    }

    /// What memory or the disk has now; empty when that is nothing.
    async fn available(&mut self) -> Result<Vec<LogRecord>, LogError> {
        let Some(next) = self.next else {
            return Ok(Vec::new());
        };
        let records = match self.store.recent.read(next, BATCH) {
            Found::Records(records) => records,
            Found::AtEnd => Vec::new(),
            Found::OlderThan(boundary) => {
                let stored = self.store.reads.read(move |connection| stored(connection, next, boundary)).await;
                match stored.map_err(unavailable)? {
                    Stored::Truncated { first } => return Err(LogError::Truncated { wanted: next, first }),
                    // Nothing between here and what memory has: the end of an older epoch.
                    Stored::Records(records) if records.is_empty() => {
                        self.next = Some(boundary);
                        records
                    }
                    Stored::Records(records) => records,
                }
            }
        };
        // Moved only here, with no waiting behind it, so that a dropped call loses nothing.
        if let Some(newest) = records.last() {
            self.next = Some(newest.position.next());
        }
        Ok(records)
    }
}

#[async_trait]
impl TailReader for Reader {
    async fn next(&mut self) -> Result<Vec<LogRecord>, LogError> {
        loop {
            // Marked as seen before looking, so that an end which moves in between wakes us again.
            let end = *self.end.borrow_and_update();
            let records = self.available().await?;
            if !records.is_empty() {
                return Ok(records);
            }
            let behind = self.next.is_some_and(|next| next < end);
            if !behind && self.end.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

enum Stored {
    Records(Vec<LogRecord>),
    Truncated { first: Position },
}

fn stored(connection: &Connection, from: Position, before: Position) -> Result<Stored, rusqlite::Error> {
    let trimmed_to =
        connection.prepare_cached("SELECT trimmed_to FROM log_state")?.query_row([], |row| position(row, 0))?;
    if from < trimmed_to {
        let first = connection
            .prepare_cached("SELECT min(position) FROM log_records")?
            .query_row([], |row| position(row, 0))?;
        return Ok(Stored::Truncated { first });
    }
    let limit = i64::try_from(STORED_BATCH).unwrap_or(i64::MAX);
    let records = connection
        .prepare_cached(
            "SELECT position, appended_at, value, checksum FROM log_records WHERE position >= ?1 AND position < ?2 \
             ORDER BY position LIMIT ?3",
        )?
        .query_map(params![from.number(), before.number(), limit], record)?
        .collect::<Result<Vec<_>, _>>()?;
    check_dense(from, before, &records)?;
    Ok(Stored::Records(records))
}

/// A record whose bytes are not those that were written is reported in its place, as one that cannot be read.
fn record(row: &Row<'_>) -> Result<LogRecord, rusqlite::Error> {
    let (position, appended_at) = (position(row, 0)?, Timestamp::from_millis(row.get(1)?));
    let value = row.get_ref(2)?.as_blob()?;
    let damaged = checksum::check("log_records", row.get(3)?, ValueDigest::of(value).at(position, appended_at));
    if let Err(error) = &damaged {
        tracing::error!(%position, error = chain(error), "a record of the log is damaged");
    }
    let content = damaged.map_err(|_| Undecodable::Malformed).and_then(|()| record::decode(value));
    Ok(LogRecord { partition: PARTITION, position, appended_at, size: value.len(), content })
}

/// The writer leaves out no position of an epoch, and retention removes from the start alone: what is not there between `from` and `before` was lost by
/// the disk.
fn check_dense(from: Position, before: Position, records: &[LogRecord]) -> Result<(), Damaged> {
    let mut expected = from;
    for LogRecord { position, .. } in records {
        check_next(expected, *position)?;
        expected = position.next();
    }
    let whole = records.len() == STORED_BATCH || expected >= before;
    if whole { Ok(()) } else { check_next(expected, before) }
}

/// After the end of an epoch comes the start of a later one.
fn check_next(expected: Position, found: Position) -> Result<(), Damaged> {
    let new_epoch = found.epoch_number() > expected.epoch_number() && found.offset().number() == 0;
    if found == expected || new_epoch { Ok(()) } else { Err(Damaged { table: "log_records" }) }
}

/// The log's own times never step back, so the place is found by halving the range of positions, without an index.
fn first_at(connection: &Connection, state: PartitionState, at: Timestamp) -> Result<Position, rusqlite::Error> {
    let mut lookup = connection.prepare_cached(
        "SELECT position, appended_at FROM log_records WHERE position >= ?1 ORDER BY position LIMIT 1",
    )?;
    let (mut low, mut high) = (state.first.number(), state.end.number());
    while low < high {
        let middle = low + (high - low) / 2;
        let found = lookup.query_row([middle], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()?;
        match found {
            Some((position, appended_at)) if appended_at < at.as_millis() => low = position + 1,
            Some(_) | None => high = middle,
        }
    }
    let first = lookup.query_row([low], |row| position(row, 0)).optional()?;
    Ok(first.unwrap_or(state.end))
}

fn check(partition: Partition) -> Result<(), LogError> {
    if partition == PARTITION { Ok(()) } else { Err(LogError::Unavailable(Box::new(NoSuchPartition(partition)))) }
}

pub(super) fn unavailable(error: ReadError) -> LogError {
    LogError::Unavailable(Box::new(error))
}
