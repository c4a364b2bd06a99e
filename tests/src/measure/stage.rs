//! What the people of a measurement tell each other and the one who measures.

use crate::faults::clients::World;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A send that was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Acceptance {
    /// The number of its scope.
    pub scope: usize,
    /// The pod that its sender likes best.
    pub pod: usize,
    /// The partition in the answer.
    pub partition: i64,
    /// When it was tried first.
    pub began: Instant,
    /// When the answer came.
    pub at: Instant,
}

/// A connection that broke, and its client's return.
#[derive(Clone, Copy, Debug)]
pub struct Return {
    /// When it had all that had been accepted when its join was answered.
    pub at: Instant,
    /// Joins on the way that could not prove that nothing is missing.
    pub unproven: u32,
}

/// Shared by all people of one measurement.
#[derive(Debug)]
pub struct Stage {
    /// Where to connect, what the log has, and what was found wrong.
    pub world: Arc<World>,
    began: Instant,
    pods: Mutex<Vec<Option<SocketAddr>>>,
    /// The newest accepted position of each scope.
    newest: Vec<AtomicI64>,
    accepted: Mutex<Vec<Acceptance>>,
    failures: Mutex<Vec<String>>,
    away: AtomicUsize,
    returns: Mutex<Vec<Return>>,
    latencies: Mutex<Vec<Duration>>,
}

impl Stage {
    /// A stage on which nothing has happened yet.
    #[must_use]
    pub fn new(world: Arc<World>) -> Self {
        let newest = world.scopes.iter().map(|_| AtomicI64::new(0)).collect();
        Self {
            world,
            began: Instant::now(),
            pods: Mutex::default(),
            newest,
            accepted: Mutex::default(),
            failures: Mutex::default(),
            away: AtomicUsize::new(0),
            returns: Mutex::default(),
            latencies: Mutex::default(),
        }
    }

    /// The time since the beginning, on the one clock of all people.
    #[must_use]
    pub fn uptime_at(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.began)
    }

    /// Says where each pod listens, if it runs.
    pub fn set_pods(&self, pods: Vec<Option<SocketAddr>>) {
        *lock(&self.pods) = pods;
    }

    /// Where this pod listens, or the load balancer while it does not.
    #[must_use]
    pub fn pod(&self, number: usize) -> SocketAddr {
        lock(&self.pods).get(number).copied().flatten().unwrap_or(self.world.address)
    }

    /// A send was accepted at `position`.
    pub fn accept(&self, acceptance: Acceptance, position: i64) {
        self.newest[acceptance.scope].fetch_max(position, Ordering::SeqCst);
        lock(&self.accepted).push(acceptance);
    }

    /// The newest position of a scope that was accepted so far.
    #[must_use]
    pub fn newest(&self, scope: usize) -> i64 {
        self.newest[scope].load(Ordering::SeqCst)
    }

    /// What was accepted so far, and not forgotten.
    #[must_use]
    pub fn accepted(&self) -> Vec<Acceptance> {
        lock(&self.accepted).clone()
    }

    /// Forgets what was accepted and measured so far. Failures stay until somebody takes them: a send may fail long after what made it fail.
    pub fn forget(&self) {
        lock(&self.accepted).clear();
        lock(&self.returns).clear();
        lock(&self.latencies).clear();
    }

    /// A try to send was not accepted.
    pub fn fail(&self, what: String) {
        lock(&self.failures).push(what);
    }

    /// Tries to send that were not accepted, since that was asked last.
    #[must_use]
    pub fn take_failures(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.failures))
    }

    /// Somebody's connection broke.
    pub fn leave(&self) {
        self.away.fetch_add(1, Ordering::SeqCst);
    }

    /// Somebody whose connection broke is back and has everything.
    pub fn come_back(&self, back: Return) {
        lock(&self.returns).push(back);
        self.away.fetch_sub(1, Ordering::SeqCst);
    }

    /// How many have lost their connection and are not back.
    #[must_use]
    pub fn away(&self) -> usize {
        self.away.load(Ordering::SeqCst)
    }

    /// Who came back, since that was asked last.
    #[must_use]
    pub fn take_returns(&self) -> Vec<Return> {
        std::mem::take(&mut lock(&self.returns))
    }

    /// A message was delivered live, so long after it was due to be sent.
    pub fn delivered(&self, after: Duration) {
        lock(&self.latencies).push(after);
    }

    /// How long live deliveries took, since that was asked last.
    #[must_use]
    pub fn take_latencies(&self) -> Vec<Duration> {
        std::mem::take(&mut lock(&self.latencies))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
