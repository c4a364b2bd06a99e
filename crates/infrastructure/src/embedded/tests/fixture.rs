//! Data directories that vanish with their test, and clocks that the tests move.

use crate::embedded::{EmbeddedPresence, EmbeddedRateLimiter, EmbeddedStore, OpenError, Options, RateLimit, retention};
use async_trait::async_trait;
use chatify_application::ports::contract::history::HistoryFixture;
use chatify_application::ports::contract::log::{LogFixture, OpenLog};
use chatify_application::ports::contract::presence::PresenceFixture;
use chatify_application::ports::contract::rate_limit::{BURST, RateLimitFixture, WINDOW};
use chatify_application::ports::{HistoryStore, PresenceStore, RateLimiter};
use chatify_building_blocks::clock::{Clock, ManualClock};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{Position, Timestamp};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// The moment at which every test begins.
pub(super) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A millisecond passes whenever somebody looks at it; more when a test says so.
pub(super) struct TickingClock(AtomicI64);

impl TickingClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(START.as_millis())))
    }

    /// Moves it on, or back when negative.
    pub(super) fn step(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for TickingClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.fetch_add(1, Ordering::SeqCst))
    }

    fn uptime(&self) -> Duration {
        self.now().since(START)
    }
}

/// A data directory, and the one store that is open in it.
pub(super) struct Fixture {
    directory: TempDir,
    pub(super) clock: Arc<TickingClock>,
    pub(super) supervisor: Supervisor,
    current: Mutex<Option<EmbeddedStore>>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self {
            directory: TempDir::new().expect("a temporary directory"),
            clock: TickingClock::new(),
            supervisor: Supervisor::new(),
            current: Mutex::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn options(&self) -> Options {
        Options {
            reserved_bytes: 0,
            group_pause: Duration::ZERO,
            kept_before_committed: Duration::ZERO,
            // The disk may be busy.
            deadline: Duration::from_secs(60),
            ..Options::new(self.path())
        }
    }

    /// Closes what is open and opens with these options.
    pub(super) fn reopen(&self, options: &Options) -> Result<EmbeddedStore, OpenError> {
        self.close();
        let store = EmbeddedStore::open(options, Arc::clone(&self.clock) as Arc<dyn Clock>, &self.supervisor)?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(store.clone());
        Ok(store)
    }

    pub(super) fn close(&self) {
        if let Some(store) = self.current.lock().unwrap_or_else(PoisonError::into_inner).take() {
            store.close();
        }
    }

    /// A connection past all adapters, to look and to damage.
    pub(super) fn raw(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(self.path().join("chatify.db")).expect("the database");
        // The writer may be held up while it has the lock.
        connection.busy_timeout(Duration::from_secs(60)).expect("a connection");
        connection
    }
}

pub(super) fn open_log(store: &EmbeddedStore) -> OpenLog {
    OpenLog { appender: store.appender(), tail: store.tail(), group: store.group() }
}

#[async_trait]
impl LogFixture for Fixture {
    async fn open(&self) -> OpenLog {
        open_log(&self.reopen(&self.options()).expect("an intact directory"))
    }

    async fn remove_before(&self, position: Position) {
        let store = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone().expect("an open store");
        retention::trim(&store.0, position, Timestamp::from_millis(i64::MAX)).await.expect("a healthy disk");
    }
}

#[async_trait]
impl HistoryFixture for Fixture {
    async fn open(&self) -> Arc<dyn HistoryStore> {
        self.reopen(&self.options()).expect("an intact directory").history()
    }
}

/// Adapters that live in memory, on a clock that stands still.
pub(super) struct MemoryFixture(Arc<ManualClock>);

impl MemoryFixture {
    pub(super) fn new() -> Self {
        Self(Arc::new(ManualClock::at(START)))
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.0) as Arc<dyn Clock>
    }
}

#[async_trait]
impl PresenceFixture for MemoryFixture {
    async fn open(&self) -> Arc<dyn PresenceStore> {
        Arc::new(EmbeddedPresence::new(self.clock()))
    }

    fn now(&self) -> Timestamp {
        self.0.now()
    }

    async fn advance(&self, by: Duration) {
        self.0.advance(by);
    }
}

#[async_trait]
impl RateLimitFixture for MemoryFixture {
    async fn open(&self) -> Arc<dyn RateLimiter> {
        let burst = NonZeroU32::new(BURST).expect("not zero");
        EmbeddedRateLimiter::start(RateLimit { burst, window: WINDOW }, self.clock(), &Supervisor::new())
    }

    async fn advance(&self, by: Duration) {
        self.0.advance(by);
    }
}
