//! What waits for the writer: bounded, and taken as a whole.

use super::checksum::ValueDigest;
use super::error::WriteError;
use super::operations::Operation;
use chatify_application::ports::log::DurableSender;
use chatify_building_blocks::correlation::CorrelationId;
use chatify_domain::ChatEvent;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Operations that wait. Their callers wait for the outcome, so there is about one for each caller.
const OPERATIONS: usize = 256;

/// One thing to write.
pub(super) enum Job {
    /// A record for the log.
    Append(AppendJob),
    /// Anything else.
    Operation(Operation, oneshot::Sender<Result<(), WriteError>>),
}

/// A record on its way into the log.
pub(super) struct AppendJob {
    pub(super) event: ChatEvent,
    pub(super) correlation: CorrelationId,
    pub(super) value: Vec<u8>,
    pub(super) digest: ValueDigest,
    pub(super) reply: DurableSender,
}

/// Many may put jobs in, at once and without waiting; one takes all that are there. While it writes one batch, the next one gathers.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    max_records: usize,
    max_bytes: usize,
}

#[derive(Default)]
struct Waiting {
    jobs: Vec<Job>,
    records: usize,
    bytes: usize,
    operations: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new(max_records: usize, max_bytes: usize) -> Self {
        Self { waiting: Mutex::default(), arrived: Condvar::new(), max_records, max_bytes }
    }

    /// Puts a record in, or refuses it.
    pub(super) fn append(&self, job: AppendJob) -> Result<(), WriteError> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(WriteError::Closed);
        }
        let bytes = waiting.bytes + job.value.len();
        if waiting.records >= self.max_records || bytes > self.max_bytes {
            return Err(WriteError::Overloaded);
        }
        waiting.records += 1;
        waiting.bytes = bytes;
        self.push(waiting, Job::Append(job));
        Ok(())
    }

    /// Puts an operation in, or refuses it.
    pub(super) fn operate(
        &self,
        operation: Operation,
        reply: oneshot::Sender<Result<(), WriteError>>,
    ) -> Result<(), WriteError> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(WriteError::Closed);
        }
        if waiting.operations >= OPERATIONS {
            return Err(WriteError::Overloaded);
        }
        waiting.operations += 1;
        self.push(waiting, Job::Operation(operation, reply));
        Ok(())
    }

    /// Waits for jobs and swaps them into `batch`, which is empty. `false` when the queue is closed and nothing is left.
    pub(super) fn take(&self, batch: &mut Vec<Job>) -> bool {
        let mut waiting = self
            .arrived
            .wait_while(self.lock(), |waiting| waiting.jobs.is_empty() && !waiting.closed)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.jobs, batch);
        (waiting.records, waiting.bytes, waiting.operations) = (0, 0, 0);
        !batch.is_empty()
    }

    /// Refuses everything from now on; what waits is still taken.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Closes and gives back what no one will take any more.
    pub(super) fn abandon(&self) -> Vec<Job> {
        let mut waiting = self.lock();
        waiting.closed = true;
        std::mem::take(&mut waiting.jobs)
    }

    /// The writer sleeps only while nothing waits, so only the first job has to wake it.
    fn push(&self, mut waiting: MutexGuard<'_, Waiting>, job: Job) {
        waiting.jobs.push(job);
        let first = waiting.jobs.len() == 1;
        drop(waiting);
        if first {
            self.arrived.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// Tells the caller that nothing of it was written, or that this cannot be known.
    pub(super) fn fail(self, error: WriteError) {
        match self {
            Self::Append(append) => append.reply.resolve(Err(error.into_append())),
            // The caller may have gone; then nobody wants to know.
            Self::Operation(_, reply) => drop(reply.send(Err(error))),
        }
    }
}
