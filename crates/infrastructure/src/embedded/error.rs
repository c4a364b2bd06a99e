//! What can go wrong, and what it means.

use chatify_application::ports::history::HistoryError;
use chatify_application::ports::log::{AppendError, LogError};
use chatify_domain::Epoch;
use rusqlite::ErrorCode;
use std::path::PathBuf;
use std::sync::Arc;

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or used.
    #[error("the data directory `{}` cannot be used", directory.display())]
    Directory {
        /// Which.
        directory: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("the data directory `{}` is in use by another chatify process; stop it, or choose another directory", directory.display())]
    Locked {
        /// Which.
        directory: PathBuf,
    },
    /// The database is damaged, or is none.
    #[error("`{}` is damaged or not a Chatify database; restore it from a backup, or move it away to start empty", file.display())]
    Corrupt {
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The database does not open.
    #[error("`{}` cannot be opened", file.display())]
    Database {
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A later release wrote it.
    #[error(
        "the database has schema version {found}, this release knows versions up to {known}; start a release at least as new as the one that wrote it"
    )]
    NewerSchema {
        /// The database's version.
        found: u32,
        /// The newest version that this release knows.
        known: u32,
    },
    /// A migration that was applied is not the one that this release has under that number.
    #[error(
        "migration {version} of the database is not the one of this release; the database belongs to another build"
    )]
    OtherMigration {
        /// Its number.
        version: u32,
    },
    /// The configuration names an epoch that is over.
    #[error(
        "the log is in epoch {stored}, the configuration says {configured}; an epoch never goes back: set `log_epoch` to {stored} or higher"
    )]
    EpochWentBack {
        /// The log's.
        stored: u16,
        /// The configuration's.
        configured: u16,
    },
    /// The log's last position is the last one that there is in its epoch.
    #[error("epoch {} of the log is full; set `log_epoch` to a higher number", epoch.number())]
    EpochFull {
        /// Which.
        epoch: Epoch,
    },
    /// The operating system gives no thread.
    #[error("the thread that writes the database cannot be started")]
    Thread(#[source] std::io::Error),
}

/// Why a write has no effect, or none that is known. Cheap to clone, because one failure ends all jobs of a transaction.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The queue is full.
    #[error("too much is waiting for the disk")]
    Overloaded,
    /// Nothing was written.
    #[error("nothing was written: {reason}")]
    Refused {
        reason: &'static str,
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The store has ended.
    #[error("the store is closed")]
    Closed,
    /// It may have been written.
    #[error("it is not known whether it was written")]
    Unknown,
}

impl WriteError {
    /// Twice the same: errors with a source cannot be cloned into the ports' own types.
    pub(super) fn into_append(self) -> AppendError {
        match self {
            Self::Overloaded => AppendError::Overloaded,
            Self::Refused { reason, source } => AppendError::Unavailable { reason, source: Box::new(source) },
            Self::Closed => AppendError::Unavailable { reason: "the log is closed", source: Box::new(self) },
            Self::Unknown => AppendError::Unknown,
        }
    }

    pub(super) fn into_history(self) -> HistoryError {
        HistoryError::Unavailable(Box::new(self))
    }

    pub(super) fn into_log(self) -> LogError {
        LogError::Unavailable(Box::new(self))
    }
}

/// What a failed transaction means for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Rolled back as a whole; the next one may succeed.
    Refused(&'static str),
    /// Whether it is on the disk cannot be known, and trying the sync again would only seem to help: the kernel may have dropped the pages
    /// that it could not write. The process has to end and read what is really there.
    Fatal,
}

/// Judges an error of a statement, or of `COMMIT` itself when `committing`.
pub(super) fn judge(error: &rusqlite::Error, committing: bool) -> Verdict {
    let Some(failure) = error.sqlite_error() else {
        return Verdict::Refused("the record cannot be stored");
    };
    match failure.code {
        ErrorCode::DiskFull => Verdict::Refused("disk full"),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            Verdict::Refused("the database is locked by another program")
        }
        ErrorCode::OutOfMemory => Verdict::Refused("out of memory"),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => Verdict::Refused("the database is read-only"),
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Verdict::Fatal,
        ErrorCode::SystemIoFailure if committing || is_sync(failure.extended_code) => Verdict::Fatal,
        ErrorCode::SystemIoFailure => Verdict::Refused("the disk reports an error"),
        _ if committing => Verdict::Fatal,
        _ => Verdict::Refused("the database refuses the write"),
    }
}

fn is_sync(extended_code: i32) -> bool {
    matches!(extended_code, rusqlite::ffi::SQLITE_IOERR_FSYNC | rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    #[test]
    fn a_failed_sync_is_never_survived_and_a_full_disk_always() {
        let cases = [
            (ffi::SQLITE_FULL, false, Verdict::Refused("disk full")),
            (ffi::SQLITE_FULL, true, Verdict::Refused("disk full")),
            (ffi::SQLITE_IOERR_FSYNC, false, Verdict::Fatal),
            (ffi::SQLITE_IOERR_FSYNC, true, Verdict::Fatal),
            (ffi::SQLITE_IOERR_DIR_FSYNC, false, Verdict::Fatal),
            (ffi::SQLITE_IOERR_WRITE, false, Verdict::Refused("the disk reports an error")),
            (ffi::SQLITE_IOERR_WRITE, true, Verdict::Fatal),
            (ffi::SQLITE_CORRUPT, false, Verdict::Fatal),
            (ffi::SQLITE_BUSY, false, Verdict::Refused("the database is locked by another program")),
            (ffi::SQLITE_INTERNAL, true, Verdict::Fatal),
        ];
        for (code, committing, expected) in cases {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            assert_eq!(judge(&error, committing), expected, "code {code}, committing {committing}");
        }
    }
}
