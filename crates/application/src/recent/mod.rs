//! The pod's memory: for every partition how far it was read, which messages would be repeats, and the newest messages.

mod tail;

use crate::dedupe::{DedupeWindow, Known, Verdict};
use crate::fingerprint::{Fingerprint, Fingerprints};
use crate::ports::Observer;
use crate::ports::log::LogRecord;
use chatify_domain::limits::DEDUPE_MARGIN;
use chatify_domain::{ChatEvent, LoggedMessage, MessageId, MessageSent, Partition, Position, Scope, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tail::Tail;
use tokio::sync::Notify;

/// Records that are taken in while the lock is held once: a join must not wait for a whole batch.
const RECORDS_PER_LOCK: usize = 128;

/// Written by the fan-out alone, read by everyone. Every section under its one lock is short.
pub(crate) struct Recent {
    fingerprints: Fingerprints,
    window: Duration,
    budget: usize,
    partitions: Mutex<BTreeMap<Partition, Memory>>,
    /// Notified whenever records were taken in.
    advanced: Notify,
}

struct Memory {
    /// Everything up to here was taken in.
    applied: Position,
    beginning: Beginning,
    dedupe: DedupeWindow,
    tail: Tail,
}

/// From where a partition is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginning {
    /// The first position that is read.
    pub(crate) start: Position,
    /// Nothing before `start` was ever in the log, so the history can hold nothing older either.
    pub(crate) nothing_before: bool,
    /// Which records are certainly no repeats of something before `start`.
    pub(crate) provable: Provable,
    /// Messages from here on go to subscribers; earlier ones only fill the memory.
    pub(crate) live_from: Position,
}

/// Which records of a partition are certainly no repeats of something that was not read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Provable {
    /// All of them: nothing was left out.
    All,
    /// Those from this moment on.
    From(Timestamp),
    /// Those from a window after the first record that is read: what retention removed can be as young as that one.
    AfterFirst,
}

/// A part of the newest messages, with what can be said about it.
pub(crate) struct View {
    /// After this position nothing is missing.
    pub(crate) floor: Position,
    /// In the asked order.
    pub(crate) messages: Vec<LoggedMessage>,
}

struct Prepared {
    partition: Partition,
    position: Position,
    appended_at: Timestamp,
    message: Option<(Arc<MessageSent>, Fingerprint, u32, u64)>,
}

impl Recent {
    pub(crate) fn new(fingerprints: Fingerprints, window: Duration, budget: usize) -> Self {
        Self { fingerprints, window, budget, partitions: Mutex::default(), advanced: Notify::new() }
    }

    pub(crate) const fn fingerprints(&self) -> &Fingerprints {
        &self.fingerprints
    }

    /// Starts to remember a partition, or starts again.
    pub(crate) fn begin(&self, partition: Partition, beginning: Beginning) {
        let applied = beginning.start.previous();
        let floor = if beginning.nothing_before { Position::ZERO } else { applied };
        let memory = Memory { applied, beginning, dedupe: DedupeWindow::new(self.window), tail: Tail::new(floor) };
        self.lock().insert(partition, memory);
    }

    /// Takes records in and returns the messages that go to subscribers, in the same order: no repeats, nothing that was taken in before.
    pub(crate) fn apply(&self, records: Vec<LogRecord>, observer: &dyn Observer) -> Vec<LoggedMessage> {
        // Hashing needs no lock.
        let prepared: Vec<Prepared> = records.into_iter().map(|record| self.prepare(record)).collect();
        let mut messages = Vec::with_capacity(prepared.len());
        for section in prepared.chunks(RECORDS_PER_LOCK) {
            let mut partitions = self.lock();
            for record in section {
                if let Some(memory) = partitions.get_mut(&record.partition) {
                    messages.extend(memory.apply(record, self.window, observer));
                }
            }
            shrink(&mut partitions, self.budget);
        }
        self.advanced.notify_waiters();
        messages
    }

    /// How far `partition` was taken in; `None` while it is unknown.
    pub(crate) fn applied(&self, partition: Partition) -> Option<Position> {
        self.lock().get(&partition).map(|memory| memory.applied)
    }

    /// Waits until `partition` was taken in up to `position`.
    pub(crate) async fn reached(&self, partition: Partition, position: Position) {
        loop {
            let advanced = self.advanced.notified();
            tokio::pin!(advanced);
            // Registered before memory is asked, so that no step is missed.
            advanced.as_mut().enable();
            if self.applied(partition).is_some_and(|applied| applied >= position) {
                return;
            }
            advanced.await;
        }
    }

    /// Where a reader of the log goes on.
    pub(crate) fn next_positions(&self) -> Vec<(Partition, Position)> {
        self.lock().iter().map(|(partition, memory)| (*partition, memory.applied.next())).collect()
    }

    /// Messages of `scope` after `after` and up to `upto`, ascending, at most `limit`.
    pub(crate) fn forward(
        &self,
        partition: Partition,
        scope: &Scope,
        (after, upto): (Position, Position),
        limit: usize,
    ) -> View {
        self.view(partition, |tail| tail.forward(scope, after, upto, limit))
    }

    /// Messages of `scope` before `before`, descending, at most `limit`.
    pub(crate) fn backward(&self, partition: Partition, scope: &Scope, before: Position, limit: usize) -> View {
        self.view(partition, |tail| tail.backward(scope, before, limit))
    }

    /// Messages of `scope` with this id, ascending.
    pub(crate) fn by_id(&self, partition: Partition, scope: &Scope, id: MessageId) -> View {
        let id_hash = self.fingerprints.id(scope, id);
        let mut view = self.view(partition, |tail| tail.by_id(scope, id_hash));
        view.messages.retain(|message| message.sent.message_id == id && message.sent.scope == *scope);
        view
    }

    /// What deduplication knows of a message, and the message itself when it is still in memory.
    pub(crate) fn known(&self, partition: Partition, sent: &MessageSent) -> Option<(Known, Option<LoggedMessage>)> {
        let name = self.fingerprints.message(sent);
        let partitions = self.lock();
        let memory = partitions.get(&partition)?;
        let known = memory.dedupe.lookup(name)?;
        Some((known, memory.tail.at(&sent.scope, known.position)))
    }

    /// See [`Tail::border`].
    pub(crate) fn border(&self, partition: Partition, scope: &Scope, at: Timestamp) -> Option<Position> {
        self.lock().get(&partition)?.tail.border(scope, at)
    }

    /// Entries for deduplication, and bytes of messages.
    pub(crate) fn size(&self) -> (usize, usize) {
        let partitions = self.lock();
        let entries = partitions.values().map(|memory| memory.dedupe.len()).sum();
        (entries, partitions.values().map(|memory| memory.tail.bytes()).sum())
    }

    /// Of a partition that is not known yet nothing can be vouched for.
    fn view(&self, partition: Partition, read: impl FnOnce(&Tail) -> Vec<LoggedMessage>) -> View {
        match self.lock().get(&partition) {
            Some(memory) => View { floor: memory.tail.floor(), messages: read(&memory.tail) },
            None => View { floor: Position::MAX, messages: Vec::new() },
        }
    }

    fn prepare(&self, record: LogRecord) -> Prepared {
        let message = match record.content {
            Ok(ChatEvent::MessageSent(sent)) => {
                let name = self.fingerprints.message(&sent);
                let body = self.fingerprints.body(&sent.text);
                let id_hash = self.fingerprints.id(&sent.scope, sent.message_id);
                Some((sent, name, body, id_hash))
            }
            Err(_) => None,
        };
        Prepared { partition: record.partition, position: record.position, appended_at: record.appended_at, message }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Partition, Memory>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn apply(&mut self, record: &Prepared, window: Duration, observer: &dyn Observer) -> Option<LoggedMessage> {
        if record.position <= self.applied {
            return None;
        }
        self.applied = record.position;
        let provable = self.beginning.provable.holds_for(record.appended_at, window);
        let live = record.position >= self.beginning.live_from;
        let Some((sent, name, body, id_hash)) = &record.message else {
            if live {
                observer.poison_skipped();
            }
            return None;
        };
        let verdict = self.dedupe.observe(*name, *body, record.position, record.appended_at);
        if !provable {
            // It may repeat a record from before `start`, so nothing up to it can be vouched for.
            self.tail.raise_floor(record.position);
        }
        match verdict {
            Verdict::DuplicateOf { .. } => {
                if live {
                    observer.duplicate_dropped();
                }
                None
            }
            Verdict::First => {
                let message = LoggedMessage {
                    position: record.position,
                    partition: record.partition,
                    created_at: record.appended_at,
                    sent: Arc::clone(sent),
                };
                if provable {
                    self.tail.push(message.clone(), *id_hash);
                }
                live.then_some(message)
            }
        }
    }
}

impl Provable {
    /// Decides for the next record.
    fn holds_for(&mut self, appended_at: Timestamp, window: Duration) -> bool {
        if let Self::AfterFirst = self {
            *self = Self::From(appended_at.plus(DEDUPE_MARGIN).plus(window));
        }
        match self {
            Self::From(from) => appended_at >= *from,
            Self::All | Self::AfterFirst => true,
        }
    }
}

/// Takes from the partition that has most until the budget holds.
fn shrink(partitions: &mut BTreeMap<Partition, Memory>, budget: usize) {
    let mut total: usize = partitions.values().map(|memory| memory.tail.bytes()).sum();
    while total > budget {
        let Some(largest) = partitions.values_mut().max_by_key(|memory| memory.tail.bytes()) else { return };
        let before = largest.tail.bytes();
        if !largest.tail.evict_oldest() {
            return;
        }
        total -= before - largest.tail.bytes();
    }
}
