//! Connections for reading: few, reused, and never in the writer's way.

use super::database;
use super::write_ahead::Index;
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The database refuses.
    #[error("the database cannot be read")]
    Database(#[from] rusqlite::Error),
    /// The read panicked, or the process is ending.
    #[error("the read was cut off")]
    CutOff,
}

/// A bounded number of reads at the same time, each on a connection of its own.
#[derive(Clone)]
pub(super) struct ReadPool(Arc<Shared>);

struct Shared {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    // Let go of after the connections: a read has this for as long as it has its connection, and the store drops its writer first.
    _index: Index,
}

impl ReadPool {
    /// Connections are opened when they are needed first, `size` at most.
    pub(super) fn new(file: PathBuf, size: usize, index: Index) -> Self {
        let permits = Arc::new(Semaphore::new(size.max(1)));
        Self(Arc::new(Shared { file, idle: Mutex::default(), permits, _index: index }))
    }

    /// Runs `read` in one transaction, so that everything in it sees the same state, away from the runtime's own threads.
    #[expect(clippy::disallowed_methods, reason = "a read ends by itself, and the permits bound how many there are")]
    pub(super) async fn read<T, F>(&self, read: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    {
        let permit = Arc::clone(&self.0.permits).acquire_owned().await.map_err(|_| ReadError::CutOff)?;
        let shared = Arc::clone(&self.0);
        let work = move || {
            // Dropped at the end of the work and not of the waiting, which may be cancelled earlier.
            let _permit = permit;
            let mut connection = shared.connection()?;
            let transaction = connection.transaction()?;
            let outcome = read(&transaction);
            transaction.finish()?;
            if outcome.is_ok() {
                shared.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            }
            outcome.map_err(ReadError::from)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| ReadError::CutOff)?
    }
}

impl Shared {
    fn connection(&self) -> Result<Connection, rusqlite::Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| database::open_reader(&self.file), Ok)
    }
}
