//! The newest records in memory, and the ends of the log: what the writer tells the readers.

use super::log_state::{LogState, PARTITION};
use super::operations::Trimmed;
use chatify_application::ports::log::{LogRecord, PartitionState};
use chatify_domain::{Position, Timestamp};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A record's place in memory beyond its own bytes, roughly.
const RECORD_OVERHEAD: usize = 256;

/// Shared by the writer, which puts records in after their commit, and the readers, which wait here.
#[derive(Debug)]
pub(super) struct Recent {
    state: Mutex<State>,
    end: watch::Sender<Position>,
    budget: usize,
}

/// Invariant: `records` are all records from `from` (inclusive) to `end` (exclusive), and their positions are dense, because they are of this process
/// and so of one epoch.
#[derive(Debug)]
struct State {
    records: VecDeque<LogRecord>,
    bytes: usize,
    from: Position,
    first: Position,
    trimmed_to: Position,
    end: Position,
    /// One behind the newest record; before `end` when a new epoch has none yet.
    behind_newest: Position,
    last_appended_at: Option<Timestamp>,
}

/// What memory has for a reader.
pub(super) enum Found {
    /// Records, at least one, starting at the asked position or at the next one that there is.
    Records(Vec<LogRecord>),
    /// Nothing that new yet.
    AtEnd,
    /// Only the disk has it: everything before this position.
    OlderThan(Position),
}

impl Recent {
    /// Empty, at the end of a log in this state.
    pub(super) fn new(log: &LogState, budget: usize) -> Self {
        let state = State {
            records: VecDeque::new(),
            bytes: 0,
            from: log.end,
            first: log.first,
            trimmed_to: log.trimmed_to,
            end: log.end,
            behind_newest: log.behind_newest,
            last_appended_at: log.last_appended_at,
        };
        Self { state: Mutex::new(state), end: watch::Sender::new(log.end), budget }
    }

    /// Adds durable records and wakes the readers.
    pub(super) fn publish(&self, records: &mut Vec<LogRecord>) {
        let Some((end, appended_at)) = records.last().map(|newest| (newest.position.next(), newest.appended_at)) else {
            return;
        };
        let mut guard = self.lock();
        let state = &mut *guard;
        state.bytes += records.iter().map(weight).sum::<usize>();
        state.records.extend(records.drain(..));
        state.end = end;
        state.behind_newest = end;
        state.last_appended_at = Some(appended_at);
        while state.bytes > self.budget
            && let Some(oldest) = state.records.pop_front()
        {
            state.bytes -= weight(&oldest);
            state.from = oldest.position.next();
        }
        drop(guard);
        self.end.send_replace(end);
    }

    /// Retention removed the oldest records.
    pub(super) fn trimmed(&self, trimmed: Trimmed) {
        let mut state = self.lock();
        state.first = trimmed.first;
        state.trimmed_to = trimmed.to;
    }

    /// At most `limit` records from `position` on.
    pub(super) fn read(&self, position: Position, limit: usize) -> Found {
        let state = self.lock();
        if position < state.from {
            return Found::OlderThan(state.from);
        }
        let skip = usize::try_from(position.number() - state.from.number()).unwrap_or(usize::MAX);
        if skip >= state.records.len() {
            return Found::AtEnd;
        }
        Found::Records(state.records.range(skip..).take(limit).cloned().collect())
    }

    /// Told of every new end.
    pub(super) fn watch(&self) -> watch::Receiver<Position> {
        self.end.subscribe()
    }

    /// The ends now.
    pub(super) fn partition(&self) -> PartitionState {
        let state = self.lock();
        PartitionState {
            partition: PARTITION,
            first: state.first,
            end: state.behind_newest,
            last_appended_at: state.last_appended_at,
        }
    }

    /// Every position before it may have been removed.
    pub(super) fn trimmed_to(&self) -> Position {
        self.lock().trimmed_to
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn weight(record: &LogRecord) -> usize {
    record.size + RECORD_OVERHEAD
}
