//! A log in memory.

use super::group::GroupState;
use crate::ports::log::{
    AppendError, Appended, Durable, DurableSender, LogError, LogRecord, NewRecord, PartitionState, TailReader,
    Undecodable,
};
use crate::ports::{LogAppender, LogTail};
use async_trait::async_trait;
use chatify_building_blocks::clock::Clock;
use chatify_domain::{ChatEvent, Epoch, Offset, Partition, Position, Scope, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Records that one read gives at most: few, so that batches have many borders.
pub(super) const BATCH: usize = 16;

/// Implements [`LogAppender`], [`LogTail`] and [`crate::ports::LogGroup`]. Cloning gives another handle to the same log.
#[derive(Clone)]
pub struct MemoryLog {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) changed: Arc<Notify>,
    clock: Arc<dyn Clock>,
}

pub(super) struct State {
    pub(super) partitions: Vec<PartitionLog>,
    pub(super) group: GroupState,
    append_faults: VecDeque<AppendFault>,
    step_back: Duration,
    held: Option<Vec<(NewRecord, DurableSender)>>,
    pub(super) failing_reads: usize,
    pub(super) failing_commits: usize,
    readable: bool,
}

pub(super) struct PartitionLog {
    /// The offset of the first record that is still there.
    first: i64,
    records: VecDeque<LogRecord>,
}

/// What goes wrong with one append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendFault {
    /// It is refused.
    Refused,
    /// It is in the log, but nobody is told.
    AnswerLost,
    /// It is not in the log, and nobody is told.
    RecordLost,
}

impl MemoryLog {
    /// An empty log of epoch 1.
    #[must_use]
    pub fn new(partitions: u32, clock: Arc<dyn Clock>) -> Self {
        let empty = || PartitionLog { first: 0, records: VecDeque::new() };
        let state = State {
            partitions: (0..partitions).map(|_| empty()).collect(),
            group: GroupState::default(),
            append_faults: VecDeque::new(),
            step_back: Duration::ZERO,
            held: None,
            failing_reads: 0,
            failing_commits: 0,
            readable: true,
        };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::default(), clock }
    }

    /// Every record that is still there, by partition.
    #[must_use]
    pub fn records(&self) -> BTreeMap<Partition, Vec<LogRecord>> {
        let state = self.lock();
        let all = state.partitions.iter().enumerate();
        all.map(|(index, log)| (partition(index), log.records.iter().cloned().collect())).collect()
    }

    /// Appends behind the back of the application, as another pod would. Gives the record's place.
    pub fn append_now(&self, event: ChatEvent) -> Appended {
        let mut state = self.lock();
        let at = self.clock.now().minus(state.step_back);
        let appended = state.append(Ok(event.clone()), event.scope(), at);
        drop(state);
        self.changed.notify_waiters();
        appended
    }

    /// Appends a record that cannot be decoded where `scope`'s records go.
    pub fn append_poison(&self, scope: &Scope) -> Appended {
        let appended = self.lock().append(Err(Undecodable::Malformed), scope, self.clock.now());
        self.changed.notify_waiters();
        appended
    }

    /// What goes wrong with one of the next appends.
    pub fn fail_next_append(&self, fault: AppendFault) {
        self.lock().append_faults.push_back(fault);
    }

    /// From now on the log's time is that much behind the clock.
    pub fn step_back(&self, by: Duration) {
        self.lock().step_back = by;
    }

    /// From now on accepted records wait for [`MemoryLog::release_appends`] before they are durable.
    pub fn hold_appends(&self) {
        self.lock().held.get_or_insert_default();
    }

    /// Makes what is held durable.
    pub fn release_appends(&self) {
        let mut state = self.lock();
        for (record, sender) in state.held.take().unwrap_or_default() {
            let at = self.clock.now().minus(state.step_back);
            let appended = state.append(Ok(record.event.clone()), record.event.scope(), at);
            sender.resolve(Ok(appended));
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// The next `count` reads fail.
    pub fn fail_reads(&self, count: usize) {
        self.lock().failing_reads = count;
        self.changed.notify_waiters();
    }

    /// Whether anything can be read at all.
    pub fn set_readable(&self, readable: bool) {
        self.lock().readable = readable;
        self.changed.notify_waiters();
    }

    /// The next `count` commits fail.
    pub fn fail_commits(&self, count: usize) {
        self.lock().failing_commits = count;
    }

    /// The log gets one more partition, and every scope finds its place anew.
    pub fn add_partition(&self) {
        self.lock().partitions.push(PartitionLog { first: 0, records: VecDeque::new() });
        self.changed.notify_waiters();
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.append_faults.clear();
        (state.step_back, state.failing_reads, state.failing_commits) = (Duration::ZERO, 0, 0);
        state.readable = true;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Removes the oldest records of a partition, `position` excluded.
    pub fn remove_before(&self, partition: Partition, position: Position) {
        let mut state = self.lock();
        let log = &mut state.partitions[index(partition)];
        while log.records.front().is_some_and(|record| record.position < position) {
            log.records.pop_front();
            log.first += 1;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogAppender for MemoryLog {
    fn append(&self, record: NewRecord) -> Result<Durable, AppendError> {
        let (sender, durable) = Durable::pair();
        let mut state = self.lock();
        let fault = state.append_faults.pop_front();
        match fault {
            Some(AppendFault::Refused) => return Err(AppendError::Overloaded),
            Some(AppendFault::RecordLost) => return Ok(durable),
            Some(AppendFault::AnswerLost) | None => {}
        }
        if let Some(held) = &mut state.held {
            held.push((record, sender));
            return Ok(durable);
        }
        let at = self.clock.now().minus(state.step_back);
        let appended = state.append(Ok(record.event.clone()), record.event.scope(), at);
        drop(state);
        if fault.is_none() {
            sender.resolve(Ok(appended));
        }
        self.changed.notify_waiters();
        Ok(durable)
    }
}

#[async_trait]
impl LogTail for MemoryLog {
    fn partition_of(&self, scope: &Scope) -> Partition {
        self.lock().partition_of(scope)
    }

    async fn partitions(&self) -> Result<Vec<PartitionState>, LogError> {
        let mut state = self.lock();
        state.check_readable()?;
        let all = state.partitions.iter().enumerate();
        Ok(all.map(|(index, log)| log.state(partition(index))).collect())
    }

    async fn position_at(&self, partition: Partition, at: Timestamp) -> Result<Position, LogError> {
        let mut state = self.lock();
        state.check_readable()?;
        let log = &state.partitions[index(partition)];
        let found = log.records.iter().find(|record| record.appended_at >= at);
        Ok(found.map_or(log.end(), |record| record.position))
    }

    async fn open(&self, from: &[(Partition, Position)]) -> Result<Box<dyn TailReader>, LogError> {
        let mut state = self.lock();
        state.check_readable()?;
        for (partition, position) in from {
            state.partitions[index(*partition)].check(*position)?;
        }
        Ok(Box::new(Reader { log: self.clone(), cursors: from.to_vec() }))
    }
}

struct Reader {
    log: MemoryLog,
    cursors: Vec<(Partition, Position)>,
}

#[async_trait]
impl TailReader for Reader {
    async fn next(&mut self) -> Result<Vec<LogRecord>, LogError> {
        let log = self.log.clone();
        loop {
            let changed = log.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = log.lock();
                state.check_readable()?;
                for (partition, cursor) in &mut self.cursors {
                    let partition_log = &state.partitions[index(*partition)];
                    partition_log.check(*cursor)?;
                    let records = partition_log.from(*cursor);
                    if let Some(last) = records.last() {
                        *cursor = last.position.next();
                        // The other partitions are next.
                        self.cursors.rotate_left(1);
                        return Ok(records);
                    }
                }
            }
            changed.await;
        }
    }
}

impl State {
    pub(super) fn check_readable(&mut self) -> Result<(), LogError> {
        if self.failing_reads > 0 {
            self.failing_reads -= 1;
            return Err(LogError::Unavailable("a fault on demand".into()));
        }
        if self.readable { Ok(()) } else { Err(LogError::Unavailable("an outage on demand".into())) }
    }

    fn partition_of(&self, scope: &Scope) -> Partition {
        let sum: usize = scope.id().as_str().bytes().map(usize::from).sum();
        partition(sum % self.partitions.len())
    }

    fn append(&mut self, content: Result<ChatEvent, Undecodable>, scope: &Scope, at: Timestamp) -> Appended {
        let partition = self.partition_of(scope);
        let log = &mut self.partitions[index(partition)];
        let position = log.end();
        log.records.push_back(LogRecord { partition, position, appended_at: at, size: 100, content });
        Appended { partition, position, appended_at: at }
    }
}

impl PartitionLog {
    pub(super) fn start(&self) -> Position {
        Position::new(Epoch::FIRST, Offset::new(self.first).expect("a small log"))
    }

    fn end(&self) -> Position {
        self.records.back().map_or(self.start(), |record| record.position.next())
    }

    fn state(&self, partition: Partition) -> PartitionState {
        let last_appended_at = self.records.back().map(|record| record.appended_at);
        PartitionState { partition, first: self.start(), end: self.end(), last_appended_at }
    }

    fn check(&self, wanted: Position) -> Result<(), LogError> {
        let first = self.start();
        if self.first > 0 && wanted < first { Err(LogError::Truncated { wanted, first }) } else { Ok(()) }
    }

    /// A batch of records from `position` on.
    pub(super) fn from(&self, position: Position) -> Vec<LogRecord> {
        let start = self.records.partition_point(|record| record.position < position);
        self.records.range(start..).take(BATCH).cloned().collect()
    }
}

pub(super) fn partition(index: usize) -> Partition {
    Partition(u32::try_from(index).expect("few partitions"))
}

pub(super) fn index(partition: Partition) -> usize {
    usize::try_from(partition.0).expect("few partitions")
}
