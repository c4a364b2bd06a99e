//! What the application does, as numbers for whoever counts.

use chatify_building_blocks::error::ErrorKind;
use std::time::Duration;

/// Told about everything that is worth a metric. Calls are made on hot paths: they MUST be short, MUST NOT block and MUST NOT fail.
pub trait Observer: Send + Sync + 'static {
    /// A send was answered with its position; `stage` is the time from the log's acceptance to durability.
    fn sent(&self, stage: Duration);
    /// A join was answered; `recovered` as in [`crate::Joined::recovered`].
    fn joined(&self, recovered: bool);
    /// A command or query was refused for this kind of reason.
    fn refused(&self, kind: ErrorKind);
    /// The fan-out dropped a record that repeats an earlier one.
    fn duplicate_dropped(&self);
    /// The fan-out skipped a record that cannot be decoded.
    fn poison_skipped(&self);
    /// `rows` messages became durable in the history.
    fn projected(&self, rows: usize);
    /// A record that can have no effect was kept for an operator.
    fn dead_lettered(&self);
    /// A batch of `messages` is about to be delivered; `oldest_wait` is the time since the log appended the oldest of them.
    fn fan_out_batch(&self, messages: usize, oldest_wait: Duration);
}

/// Counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn sent(&self, _stage: Duration) {}
    fn joined(&self, _recovered: bool) {}
    fn refused(&self, _kind: ErrorKind) {}
    fn duplicate_dropped(&self) {}
    fn poison_skipped(&self) {}
    fn projected(&self, _rows: usize) {}
    fn dead_lettered(&self) {}
    fn fan_out_batch(&self, _messages: usize, _oldest_wait: Duration) {}
}
