//! What the embedded adapters can be told.

use chatify_domain::Epoch;
use chatify_domain::limits::{DEDUPE_MARGIN, DEDUPE_WINDOW};
use std::path::PathBuf;
use std::time::Duration;

/// Options of [`super::EmbeddedStore`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory that holds everything; made, readable by its owner alone, when it is not there.
    pub data_dir: PathBuf,
    /// The generation of the log. A higher one than last time starts again at offset 0; a lower one is refused.
    pub log_epoch: Epoch,
    /// How long the log keeps records. History is not touched, and what it has not got yet stays longer.
    pub retention: Duration,
    /// How much of the log before the first record that history has not got stays, by the log's own times, however old it is: with it the history
    /// recognises repeats when it goes on after a long time. The deduplication window and its margin.
    pub kept_before_committed: Duration,
    /// How often records that may go are looked for.
    pub retention_interval: Duration,
    /// The most records that wait for the disk before sends are refused.
    pub queue_records: usize,
    /// The most bytes of records that wait for the disk before sends are refused.
    pub queue_bytes: usize,
    /// Bytes of the newest records that are kept in memory, so that readers which keep up never touch the disk.
    pub memory_bytes: usize,
    /// How many reads go on at the same time; each has a connection of its own.
    pub read_connections: usize,
    /// How long a call on the history may take.
    pub deadline: Duration,
    /// How long the file of the write-ahead log is made at the start, so that commits overwrite and do not lengthen it. It is used again and again.
    pub reserved_bytes: u64,
    /// How long the history's reader lets records gather after it was given some; memory answers for them meanwhile. None with a backlog.
    pub group_pause: Duration,
    /// The size at which the database file stops growing as if the disk were full; `None` leaves it to the disk.
    pub max_database_bytes: Option<u64>,
}

impl Options {
    /// The defaults, for data in `data_dir`.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            log_epoch: Epoch::FIRST,
            retention: Duration::from_secs(7 * 24 * 60 * 60),
            kept_before_committed: DEDUPE_WINDOW + DEDUPE_MARGIN,
            retention_interval: Duration::from_secs(5 * 60),
            queue_records: 4096,
            queue_bytes: 16 * 1024 * 1024,
            memory_bytes: 16 * 1024 * 1024,
            read_connections: 4,
            deadline: Duration::from_secs(5),
            reserved_bytes: 17 * 1024 * 1024,
            group_pause: Duration::from_millis(500),
            max_database_bytes: None,
        }
    }
}
