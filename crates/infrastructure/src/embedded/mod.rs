//! The embedded profile: everything in one process and one data directory.
//!
//! Log and history are tables of one SQLite file. One thread writes it (`writer`), in batches that are as large as what arrived during the last
//! sync; it then tells the readers through memory (`recent`). Readers that are further behind, and the history's queries, use connections of their own
//! (`read_pool`) and never hold the writer up. The ports are in `log_appender`, `log_tail`, `log_group`, `history_store`, [`presence`], [`rate_limiter`] and [`signal_bus`].

mod backfill;
mod checksum;
mod database;
mod error;
mod history_store;
mod lock;
mod log_appender;
mod log_group;
mod log_state;
mod log_tail;
mod migrations;
mod operations;
mod options;
pub mod presence;
mod queue;
pub mod rate_limiter;
mod read_pool;
mod recent;
mod retention;
pub mod signal_bus;
mod write_ahead;
mod writer;

pub use error::OpenError;
pub use options::Options;
pub use presence::EmbeddedPresence;
pub use rate_limiter::{EmbeddedRateLimiter, RateLimit};
pub use signal_bus::EmbeddedSignalBus;

use chatify_application::ports::{HistoryStore, LogAppender, LogGroup, LogTail};
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::tasks::Supervisor;
use log_group::Membership;
use queue::Queue;
use read_pool::ReadPool;
use recent::Recent;
use std::sync::Arc;
use std::time::Duration;
use write_ahead::Checkpointer;
use writer::{Writer, WriterParts};

/// The data directory of this process, and the ports over it.
///
/// The directory is released when this, all ports made from it and all their readers are dropped, or by [`EmbeddedStore::close`].
#[derive(Clone)]
pub struct EmbeddedStore(Arc<Store>);

/// What the ports share.
struct Store {
    writer: Writer,
    recent: Arc<Recent>,
    reads: ReadPool,
    membership: Membership,
    deadline: Duration,
    group_pause: Duration,
    kept_before_committed: Duration,
}

impl EmbeddedStore {
    /// Takes the data directory, brings its schema up to date and starts the writer. Blocks for a few syncs of the disk. A writer that cannot
    /// go on crashes `supervisor`, which also runs the log's retention; call this within its runtime.
    ///
    /// # Errors
    /// When the directory is in use, damaged, of a later release or not usable, or when the epoch went back. Each says what to do.
    pub fn open(options: &Options, clock: Arc<dyn Clock>, supervisor: &Supervisor) -> Result<Self, OpenError> {
        let lock = lock::DirectoryLock::take(&options.data_dir)?;
        let file = database::file(options);
        lock::create_private(&file)
            .map_err(|source| OpenError::Directory { directory: options.data_dir.clone(), source })?;
        let mut connection = database::open_writer(options)?;
        migrations::apply(&mut connection, &file, clock.now())?;
        let log = log_state::load(&mut connection, &file, options.log_epoch)?;
        lock::sync_directory(&options.data_dir)?;
        let index = write_ahead::reserve(&connection, options)?;
        let checkpointer = Checkpointer::start(&mut connection, options, supervisor.clone())?;
        let recent = Arc::new(Recent::new(&log, options.memory_bytes));
        let writer = Writer::start(WriterParts {
            connection,
            checkpointer,
            lock,
            log,
            queue: Queue::new(options.queue_records, options.queue_bytes),
            recent: Arc::clone(&recent),
            clock: Arc::clone(&clock),
            supervisor: supervisor.clone(),
        })?;
        let store = Arc::new(Store {
            writer,
            recent,
            reads: ReadPool::new(file, options.read_connections, index),
            membership: Membership::new(log.committed),
            deadline: options.deadline,
            group_pause: options.group_pause,
            kept_before_committed: options.kept_before_committed,
        });
        retention::start(&store, clock, options.retention, options.retention_interval, supervisor);
        Ok(Self(store))
    }

    /// Puts events into the log.
    #[must_use]
    pub fn appender(&self) -> Arc<dyn LogAppender> {
        Arc::new(log_appender::EmbeddedAppender(Arc::clone(&self.0)))
    }

    /// Reads the log for this process.
    #[must_use]
    pub fn tail(&self) -> Arc<dyn LogTail> {
        Arc::new(log_tail::EmbeddedTail(Arc::clone(&self.0)))
    }

    /// Reads the log for the history.
    #[must_use]
    pub fn group(&self) -> Arc<dyn LogGroup> {
        Arc::new(log_group::EmbeddedGroup(Arc::clone(&self.0)))
    }

    /// The history.
    #[must_use]
    pub fn history(&self) -> Arc<dyn HistoryStore> {
        Arc::new(history_store::EmbeddedHistory(Arc::clone(&self.0)))
    }

    /// Writes what was accepted, refuses everything after it and releases the data directory. Blocks for about one sync; reading goes on.
    pub fn close(&self) {
        self.0.writer.close();
    }
}

#[cfg(test)]
mod tests;
