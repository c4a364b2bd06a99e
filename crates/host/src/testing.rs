//! What tests of connections stand on: the application over embedded adapters, with a port or two of the test's own.

use crate::metrics::Metrics;
use crate::realtime::Hub;
use async_trait::async_trait;
use chatify_application::ports::PresenceStore;
use chatify_application::ports::presence::{ConnectionId, Presence};
use chatify_application::{Application, LoopState, Options, Ports};
use chatify_building_blocks::clock::{Clock, SystemClock};
use chatify_building_blocks::random::SystemRandom;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{PodId, SenderId};
use chatify_infrastructure::embedded::{self, EmbeddedRateLimiter, EmbeddedStore, RateLimit};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A running application whose presence is [`Noted`].
pub(crate) struct Stand {
    pub(crate) application: Application,
    pub(crate) hub: Arc<Hub>,
    pub(crate) metrics: Metrics,
    pub(crate) supervisor: Supervisor,
    pub(crate) presence: Arc<Noted>,
    store: EmbeddedStore,
    _directory: tempfile::TempDir,
}

impl Stand {
    /// Starts it, with the ports as `change` leaves them, and waits until its fan-out is live.
    pub(crate) async fn start(presence: Noted, change: impl FnOnce(&mut Ports)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (supervisor, presence) = (Supervisor::new(), Arc::new(presence));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let options = embedded::Options { reserved_bytes: 0, ..embedded::Options::new(directory.path()) };
        let store = EmbeddedStore::open(&options, clock.clone(), &supervisor);
        let store = store.expect("opens");
        let metrics = Metrics::new().expect("good buckets");
        let limit = RateLimit { burst: NonZeroU32::MIN, window: Duration::from_secs(1) };
        let mut ports = Ports {
            appender: store.appender(),
            tail: store.tail(),
            group: store.group(),
            history: store.history(),
            presence: presence.clone(),
            limiter: EmbeddedRateLimiter::start(limit, clock.clone(), &supervisor),
            clock: clock.clone(),
            random: Arc::new(SystemRandom),
            observer: Arc::new(metrics.clone()),
        };
        change(&mut ports);
        let application = Application::new(ports, Options::new(PodId::parse("pod").expect("an id")));
        let hub = Hub::start(1, &supervisor, clock, metrics.clone());
        application.start(&supervisor, hub.clone());
        until("the loop is live", || application.status().fan_out == LoopState::Live).await;
        Self { application, hub, metrics, supervisor, presence, store, _directory: directory }
    }

    /// Ends it.
    ///
    /// # Panics
    /// When one of its services crashed.
    pub(crate) async fn end(self) {
        self.supervisor.cancel();
        self.supervisor.join().await.expect("no task crashed");
        self.store.close();
    }
}

/// Presence that takes a note of what it is told.
#[derive(Default)]
pub(crate) struct Noted {
    /// Never says that it has heard of a connection.
    pub(crate) hangs: bool,
    pub(crate) notes: Mutex<Vec<&'static str>>,
}

impl Noted {
    fn note(&self, event: &'static str) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    pub(crate) fn noted(&self) -> Vec<&'static str> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl PresenceStore for Noted {
    async fn connected(&self, _user: &SenderId, _connection: ConnectionId) {
        self.note("connected");
        if self.hangs {
            std::future::pending().await
        }
    }

    async fn disconnected(&self, _user: &SenderId, _connection: ConnectionId) {
        self.note("disconnected");
    }

    async fn presence(&self, _user: &SenderId) -> Presence {
        Presence::Unknown
    }

    async fn renew(&self) {}

    async fn withdraw(&self) {}
}

/// Lets others work until `condition` holds.
///
/// # Panics
/// When it does not come to that; the panic says `what` did not happen.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect(what);
}
