//! The write-ahead log: keeping its place on the disk, and copying it back into the database without holding commits up.

use super::database;
use super::error::{OpenError, Verdict, judge};
use super::options::Options;
use chatify_building_blocks::error::chain;
use chatify_building_blocks::tasks::Supervisor;
use rusqlite::Connection;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

const THREAD: &str = "log-checkpoint";
/// Pages in the write-ahead log before it is copied back: about 16 MiB.
const CHECKPOINT_FRAMES: u32 = 4096;
/// When a reader keeps it from starting again, it is copied back after each so many pages more.
const CHECKPOINT_STEP: u32 = 1024;
/// The log's index grows by this much at a time.
const INDEX_BYTES: u64 = 32 * 1024;
/// So many bytes of the log, and a few more, are indexed by that: 4,062 pages of 4 KiB, each with its header.
const LEAST_INDEXED_BYTES: u64 = 4062 * (4096 + 24);

/// The log's index, opened past SQLite, if it could be. It has to stay open for as long as any connection is: closing one descriptor of a file gives up all locks that
/// the process has on it (fcntl(2)), also SQLite's own, by which the next process to open the database sees that the index is in use. It would cut
/// it short under this one.
#[derive(Debug, Default)]
pub(super) struct Index(Option<File>);

/// Makes the file as long as it is going to be, with real zeros: overwriting a block needs one write to the disk, a file that grows needs its metadata
/// written too, which costs several times as much for each commit. SQLite takes bytes behind the last frame for leftovers of a longer log.
pub(super) fn reserve(connection: &Connection, options: &Options) -> Result<Index, OpenError> {
    let file = database::file(options);
    // Nobody else can append while the lock on writing is held.
    let lock = |sql| connection.execute_batch(sql).map_err(|source| database::classify(&file, source));
    lock("BEGIN IMMEDIATE")?;
    let mut index = Index::default();
    let reserved = extend(&file, options.reserved_bytes, &mut index);
    lock("ROLLBACK")?;
    if let Err(error) = reserved {
        // A full disk is no reason not to start: reading has to go on.
        tracing::warn!(error = chain(&error), "no room could be reserved for the write-ahead log");
    }
    Ok(index)
}

fn extend(file: &Path, bytes: u64, index: &mut Index) -> std::io::Result<()> {
    let open = |extension| OpenOptions::new().write(true).open(file.with_extension(extension));
    let index = index.0.insert(open("db-shm")?);
    let length = lengthen(&mut open("db-wal")?, bytes)?;
    // A commit whose pages are in the log already must not fail because its index cannot grow: that could only be mended by a new start.
    lengthen(index, (length / LEAST_INDEXED_BYTES + 2) * INDEX_BYTES).map(drop)
}

/// Makes the file this long at least, and gives its length.
fn lengthen(file: &mut File, bytes: u64) -> std::io::Result<u64> {
    let length = file.seek(SeekFrom::End(0))?;
    let filled = fill(file, bytes.saturating_sub(length));
    if filled.is_err() {
        // The last room of a disk is for messages.
        file.set_len(length)?;
    }
    filled.map(|()| length.max(bytes))
}

fn fill(file: &mut File, bytes: u64) -> std::io::Result<()> {
    std::io::copy(&mut std::io::repeat(0).take(bytes), file)?;
    file.sync_all()
}

/// Copies the write-ahead log back on a thread of its own, which leaves only a short rest to the writer. The rest has to be the writer's: only when
/// everything is copied at a moment between two commits can the log start again from its beginning.
pub(super) struct Checkpointer {
    /// Pages in the write-ahead log, after each commit.
    frames: Arc<AtomicU32>,
    /// What `frames` was when the last one ended.
    copied_at: u32,
    running: bool,
    finished: Arc<AtomicBool>,
    /// A sync failed: nothing may be copied again, because the kernel may have dropped what it could not write.
    failed: Arc<AtomicBool>,
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Counts the pages that `writer` commits, and starts the thread.
    pub(super) fn start(writer: &mut Connection, options: &Options, supervisor: Supervisor) -> Result<Self, OpenError> {
        let file = database::file(options);
        let frames = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&frames);
        let hook = move |_: &mut rusqlite::hooks::Wal, pages: i32| {
            counter.store(pages.unsigned_abs(), Ordering::Relaxed);
            Ok(())
        };
        writer.wal_hook(Some(hook)).map_err(|source| database::classify(&file, source))?;
        let connection = database::open_checkpointer(&file).map_err(|source| database::classify(&file, source))?;
        let (finished, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (wake, woken) = sync_channel(1);
        let copying = Copying { connection, finished: Arc::clone(&finished), failed: Arc::clone(&failed), supervisor };
        let thread = std::thread::Builder::new()
            .name(THREAD.into())
            .spawn(move || copying.run(&woken))
            .map_err(OpenError::Thread)?;
        Ok(Self { frames, copied_at: 0, running: false, finished, failed, wake: Some(wake), thread: Some(thread) })
    }

    /// Called by the writer between two commits.
    ///
    /// # Errors
    /// What makes it impossible to go on.
    pub(super) fn step(&mut self, writer: &Connection) -> Result<(), String> {
        if self.failed.load(Ordering::Acquire) {
            return Err("the database could not be synced".into());
        }
        let frames = self.frames.load(Ordering::Relaxed);
        if frames < self.copied_at {
            self.copied_at = 0;
        }
        if self.running {
            if self.finished.swap(false, Ordering::Acquire) {
                self.running = false;
                self.copied_at = frames;
                return checkpoint(writer);
            }
        } else if frames >= CHECKPOINT_FRAMES.max(self.copied_at + CHECKPOINT_STEP)
            && let Some(wake) = &self.wake
        {
            // It cannot be full, because one is asked for only when none is running; were the thread gone, the supervisor would know.
            self.running = wake.try_send(()).is_ok();
        }
        Ok(())
    }

    /// Ends the thread and copies everything, unless copying has failed before.
    pub(super) fn finish(&mut self, writer: &Connection) -> Result<(), String> {
        self.end();
        if self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        checkpoint(writer)?;
        database::allow_checkpoint_on_close(writer).map_err(|error| error.to_string())
    }

    fn end(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            drop(thread.join());
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the thread is given.
struct Copying {
    connection: Connection,
    finished: Arc<AtomicBool>,
    failed: Arc<AtomicBool>,
    supervisor: Supervisor,
}

impl Copying {
    fn run(self, woken: &Receiver<()>) {
        let _guard = PanicGuard(self.supervisor.clone());
        while woken.recv().is_ok() {
            if let Err(cause) = checkpoint(&self.connection) {
                self.failed.store(true, Ordering::Release);
                self.supervisor.crashed(THREAD, cause);
                return;
            }
            self.finished.store(true, Ordering::Release);
        }
    }
}

/// Copies as much as the readers allow; never waits for them. A full disk is no harm, everything is durable where it is; a failed sync ends the process.
fn checkpoint(connection: &Connection) -> Result<(), String> {
    let outcome = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    match outcome.as_ref().map_err(|error| judge(error, true)) {
        Ok(()) | Err(Verdict::Refused(_)) => Ok(()),
        Err(Verdict::Fatal) => Err(format!("the database cannot be synced: {outcome:?}")),
    }
}

struct PanicGuard(Supervisor);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.crashed(THREAD, "panicked".into());
        }
    }
}
