//! The one thread that writes: natural group commit.
//!
//! It takes whatever waits, writes it in one transaction, commits (which syncs once), tells everyone, and takes what arrived meanwhile. No timer: with
//! little to do a record waits for one sync, with much to do a sync carries many records. History rows and commits ride along and cost no sync of their own.

use super::error::{OpenError, Verdict, WriteError, judge};
use super::lock::DirectoryLock;
use super::log_state::{LogState, PARTITION};
use super::operations::{Effects, Operation};
use super::queue::{AppendJob, Job, Queue};
use super::recent::Recent;
use super::write_ahead::Checkpointer;
use chatify_application::ports::log::{Appended, DurableSender, LogRecord};
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{Position, Timestamp};
use rusqlite::{Connection, params};
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

const THREAD: &str = "log-writer";

/// The way to the writer. The writer ends, having written all that waits, when this is dropped.
pub(super) struct Writer {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread is given.
pub(super) struct WriterParts {
    pub(super) connection: Connection,
    pub(super) checkpointer: Checkpointer,
    pub(super) lock: DirectoryLock,
    pub(super) log: LogState,
    pub(super) queue: Queue,
    pub(super) recent: Arc<Recent>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) supervisor: Supervisor,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(parts: WriterParts) -> Result<Self, OpenError> {
        let queue = Arc::new(parts.queue);
        let mut writing = Writing {
            connection: parts.connection,
            next: parts.log.end,
            last_appended_at: parts.log.last_appended_at.unwrap_or(Timestamp::from_millis(i64::MIN)),
            queue: Arc::clone(&queue),
            recent: parts.recent,
            clock: parts.clock,
            supervisor: parts.supervisor,
            checkpointer: parts.checkpointer,
            records: Vec::new(),
            replies: Vec::new(),
            key: String::new(),
            correlation: String::new(),
            refusing: None,
            _lock: parts.lock,
        };
        let thread =
            std::thread::Builder::new().name(THREAD.into()).spawn(move || writing.run()).map_err(OpenError::Thread)?;
        Ok(Self { queue, thread: Mutex::new(Some(thread)) })
    }

    /// Hands a record over, at once, or refuses it.
    pub(super) fn append(&self, job: AppendJob) -> Result<(), WriteError> {
        self.queue.append(job)
    }

    /// Hands an operation over and waits until it is durable.
    pub(super) async fn operate(&self, operation: Operation) -> Result<(), WriteError> {
        let (reply, outcome) = oneshot::channel();
        self.queue.operate(operation, reply)?;
        outcome.await.unwrap_or(Err(WriteError::Unknown))
    }

    /// Refuses everything from now on and waits until what was accepted is written: about one sync.
    pub(super) fn close(&self) {
        self.queue.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic was reported to the supervisor by the thread itself.
            drop(thread.join());
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread's own state.
struct Writing {
    connection: Connection,
    /// The position of the next record.
    next: Position,
    last_appended_at: Timestamp,
    queue: Arc<Queue>,
    recent: Arc<Recent>,
    clock: Arc<dyn Clock>,
    supervisor: Supervisor,
    checkpointer: Checkpointer,
    // Buffers that are filled and emptied again for each batch.
    records: Vec<LogRecord>,
    replies: Vec<Reply>,
    key: String,
    correlation: String,
    /// Why the last batch was refused, so that the log says it once and not for every batch.
    refusing: Option<&'static str>,
    _lock: DirectoryLock,
}

enum Reply {
    Append(DurableSender, Position),
    Operation(oneshot::Sender<Result<(), WriteError>>),
}

/// A transaction that did not happen, or may not have.
struct Failure {
    error: rusqlite::Error,
    committing: bool,
}

impl Writing {
    fn run(&mut self) {
        let _guard = EndGuard { queue: Arc::clone(&self.queue), supervisor: self.supervisor.clone() };
        let mut batch = Vec::new();
        while self.queue.take(&mut batch) {
            let written = self.write(&mut batch);
            if let Err(cause) = written.and_then(|()| self.checkpointer.step(&self.connection)) {
                self.supervisor.crashed(THREAD, cause);
                return;
            }
        }
        if let Err(cause) = self.checkpointer.finish(&self.connection) {
            self.supervisor.crashed(THREAD, cause);
        }
    }

    /// Writes one batch and answers everyone in it.
    fn write(&mut self, batch: &mut Vec<Job>) -> Result<(), String> {
        let appended_at = self.clock.now().max(self.last_appended_at);
        match self.transact(batch, appended_at) {
            Ok(effects) => {
                if self.refusing.take().is_some() {
                    tracing::info!("writes are accepted again");
                }
                self.settle(batch, appended_at, effects);
                Ok(())
            }
            Err(failure) => self.fail(batch, failure),
        }
    }

    fn transact(&mut self, batch: &[Job], appended_at: Timestamp) -> Result<Effects, Failure> {
        let effects = self.fill(batch, appended_at).map_err(|error| Failure { error, committing: false })?;
        self.connection
            .prepare_cached("COMMIT")
            .and_then(|mut commit| commit.execute([]))
            .map_err(|error| Failure { error, committing: true })?;
        Ok(effects)
    }

    fn fill(&mut self, batch: &[Job], appended_at: Timestamp) -> Result<Effects, rusqlite::Error> {
        let mut effects = Effects::default();
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO log_records (position, appended_at, scope, correlation_id, value, checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        let mut position = self.next;
        for job in batch {
            match job {
                Job::Append(append) => {
                    self.key.clear();
                    self.correlation.clear();
                    // Writing into a `String` cannot fail.
                    let _ = write!(self.key, "{}", append.event.scope());
                    let _ = write!(self.correlation, "{}", append.correlation);
                    let (time, checksum) = (appended_at.as_millis(), append.digest.at(position, appended_at));
                    let row = params![position.number(), time, self.key, self.correlation, append.value, checksum];
                    insert.execute(row)?;
                    position = position.next();
                }
                Job::Operation(operation, _) => operation.apply(&self.connection, &mut effects)?,
            }
        }
        Ok(effects)
    }

    /// The transaction is durable: first the readers learn of it, then whoever waits for an answer.
    fn settle(&mut self, batch: &mut Vec<Job>, appended_at: Timestamp, effects: Effects) {
        for job in batch.drain(..) {
            match job {
                Job::Append(append) => {
                    self.replies.push(Reply::Append(append.reply, self.next));
                    self.records.push(LogRecord {
                        partition: PARTITION,
                        position: self.next,
                        appended_at,
                        size: append.value.len(),
                        content: Ok(append.event),
                    });
                    self.next = self.next.next();
                    self.last_appended_at = appended_at;
                }
                Job::Operation(_, reply) => self.replies.push(Reply::Operation(reply)),
            }
        }
        self.recent.publish(&mut self.records);
        if let Some(trimmed) = effects.trimmed {
            self.recent.trimmed(trimmed);
        }
        for reply in self.replies.drain(..) {
            match reply {
                Reply::Append(sender, position) => {
                    sender.resolve(Ok(Appended { partition: PARTITION, position, appended_at }));
                }
                // The caller may have gone; the write stays.
                Reply::Operation(sender) => drop(sender.send(Ok(()))),
            }
        }
    }

    /// Nothing of the batch is written, or nobody knows; the second ends the process.
    fn fail(&mut self, batch: &mut Vec<Job>, failure: Failure) -> Result<(), String> {
        let verdict = judge(&failure.error, failure.committing);
        let rolled_back = self.connection.is_autocommit() || self.connection.execute_batch("ROLLBACK").is_ok();
        match verdict {
            Verdict::Refused(reason) if rolled_back => {
                if self.refusing.replace(reason) != Some(reason) {
                    tracing::error!(reason, error = %failure.error, "writes are refused until this is mended");
                }
                let error = WriteError::Refused { reason, source: Arc::new(failure.error) };
                batch.drain(..).for_each(|job| job.fail(error.clone()));
                Ok(())
            }
            Verdict::Refused(_) | Verdict::Fatal => {
                batch.drain(..).for_each(|job| job.fail(WriteError::Unknown));
                Err(format!("the database cannot be written: {}", failure.error))
            }
        }
    }
}

/// However the thread ends, nobody is left waiting for it.
struct EndGuard {
    queue: Arc<Queue>,
    supervisor: Supervisor,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.supervisor.crashed(THREAD, "panicked".into());
        }
        for job in self.queue.abandon() {
            job.fail(WriteError::Closed);
        }
    }
}
