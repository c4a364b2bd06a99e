//! What an [`crate::Application`] is made of: its ports, and its numbers.

use crate::ports::{HistoryStore, LogAppender, LogGroup, LogTail, Observer, PresenceStore, RateLimiter};
use chatify_building_blocks::backoff::Backoff;
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::random::Random;
use chatify_domain::{PodId, limits};
use std::sync::Arc;
use std::time::Duration;

/// The world, as the application sees it.
#[derive(Clone)]
pub struct Ports {
    /// Puts events into the log.
    pub appender: Arc<dyn LogAppender>,
    /// Reads the log for this pod.
    pub tail: Arc<dyn LogTail>,
    /// Reads the log together with the other pods, for the history.
    pub group: Arc<dyn LogGroup>,
    /// Keeps the history.
    pub history: Arc<dyn HistoryStore>,
    /// Knows who is online.
    pub presence: Arc<dyn PresenceStore>,
    /// Says how often somebody may send.
    pub limiter: Arc<dyn RateLimiter>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids, hash keys and jitter.
    pub random: Arc<dyn Random>,
    /// Counts what happens.
    pub observer: Arc<dyn Observer>,
}

/// The application's numbers. [`Options::new`] has the defaults of the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// This process.
    pub pod_id: PodId,
    /// How long a send waits for durability before its outcome is told to be unknown.
    pub send_timeout: Duration,
    /// How long a repeated message id is recognised. A property of the log: it MUST be the same on every pod.
    pub dedupe_window: Duration,
    /// How long after it was accepted a record may still enter the log: the longest that the [`crate::ports::LogAppender`] goes on trying. Less than what
    /// `dedupe_window` leaves beside two times [`limits::DEDUPE_MARGIN`].
    pub append_deadline: Duration,
    /// Memory for the newest messages, in bytes, over all partitions.
    pub tail_bytes: usize,
    /// Messages in one history segment before the next one is opened.
    pub segment_messages: u64,
    /// The most records that the history projection persists at once, per partition.
    pub projection_batch: usize,
    /// How often one write of the projection is tried in place before its partition is paused.
    pub database_tries: u32,
    /// The waits between those tries.
    pub database_retry: Backoff,
    /// The waits of a paused partition, and of a loop whose log does not answer.
    pub consumer_backoff: Backoff,
}

impl Options {
    /// The defaults, for this pod.
    #[must_use]
    pub fn new(pod_id: PodId) -> Self {
        Self {
            pod_id,
            send_timeout: Duration::from_secs(5),
            dedupe_window: limits::DEDUPE_WINDOW,
            append_deadline: Duration::ZERO,
            tail_bytes: 64 << 20,
            segment_messages: limits::SEGMENT_MESSAGES,
            projection_batch: 1_000,
            database_tries: 5,
            database_retry: Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(10) },
            consumer_backoff: Backoff { first: Duration::from_secs(1), cap: Duration::from_secs(16) },
        }
    }
}
