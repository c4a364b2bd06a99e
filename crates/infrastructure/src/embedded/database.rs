//! Connections to the one database file.

use super::error::OpenError;
use super::options::Options;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;

const FILE: &str = "chatify.db";
/// Another program (a shell, a backup) may hold the database for a moment.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Statements that a connection keeps prepared; there are fewer.
const STATEMENTS: usize = 64;

/// Where the database of `options` is.
pub(super) fn file(options: &Options) -> PathBuf {
    options.data_dir.join(FILE)
}

/// The connection of the one writer.
///
/// `synchronous = FULL` in WAL mode means one sync for each commit, before the commit returns. Checkpoints are asked for by the writer itself, because an
/// error of their sync must not go unnoticed. Memory mapping stays off: a failing disk would end the process by a signal in place of an error.
pub(super) fn open_writer(options: &Options) -> Result<Connection, OpenError> {
    let file = file(options);
    let configure = |connection: &Connection| {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "cache_size", -16_384)?;
        connection.pragma_update(None, "foreign_keys", "OFF")?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        if let Some(bytes) = options.max_database_bytes {
            let page_size: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            connection.pragma_update(None, "max_page_count", bytes / page_size.max(1))?;
        }
        Ok(())
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    connect(&file, flags, configure).map_err(|source| classify(&file, source))
}

/// A connection that only reads; it sees what was committed when its transaction began and never makes the writer wait.
pub(super) fn open_reader(file: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    connect(file, flags, |connection| {
        connection.pragma_update(None, "query_only", true)?;
        connection.pragma_update(None, "cache_size", -4096)
    })
}

/// A connection that copies the write-ahead log back. The copy is synced before the log may start again.
pub(super) fn open_checkpointer(file: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    connect(file, flags, |connection| {
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)
    })
}

/// Lets `connection` tidy up when it is closed.
pub(super) fn allow_checkpoint_on_close(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(drop)
}

fn connect(
    file: &Path,
    flags: OpenFlags,
    configure: impl FnOnce(&Connection) -> Result<(), rusqlite::Error>,
) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // The last connection would copy the write-ahead log back and remove it when it is closed, also after a sync that failed: the pages that the
    // kernel has dropped are then nowhere. Only the writer may, once it knows that all is well.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Pages whose cells overlap are damage, and not half a record; looked at once, when a page is read from the disk.
    connection.pragma_update(None, "cell_size_check", true)?;
    configure(&connection)?;
    Ok(connection)
}

/// Tells damage from everything else.
pub(super) fn classify(file: &Path, source: rusqlite::Error) -> OpenError {
    let file = file.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => OpenError::Corrupt { file, source },
        _ => OpenError::Database { file, source },
    }
}
