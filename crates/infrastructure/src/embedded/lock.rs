//! One process per data directory.

use super::error::OpenError;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

const LOCK_FILE: &str = "chatify.lock";

/// Holds the data directory for this process; the operating system lets go of it at the latest when the process ends.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: File,
}

impl DirectoryLock {
    /// Makes the directory when it is not there, and takes it.
    pub(super) fn take(directory: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Directory { directory: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(directory.join(LOCK_FILE))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked { directory: directory.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

impl Drop for DirectoryLock {
    /// Unlocks, which closing alone does not: a child process that is being started has a copy of the descriptor for a moment.
    fn drop(&mut self) {
        // What cannot be unlocked is let go of by closing it.
        drop(self.file.unlock());
    }
}

/// Makes an empty file that its owner alone can read, when there is none: SQLite gives its other files the same rights.
pub(super) fn create_private(file: &Path) -> std::io::Result<()> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(file).map(drop)
}

/// Makes the names of new files in `directory` durable; the files' own contents are synced by whoever writes them.
pub(super) fn sync_directory(directory: &Path) -> Result<(), OpenError> {
    File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(|source| OpenError::Directory { directory: directory.to_owned(), source })
}
