//! What is not worth keeping: typing, changes of presence.

use chatify_domain::{Scope, SenderId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Bytes in a signal's payload. A longer one is dropped.
pub const SIGNAL_MAX_BYTES: usize = 4_096;
/// Signals that a subscriber may be behind; the oldest beyond it are dropped.
pub const SIGNALS_BEHIND_MAX: usize = 1_024;

/// Passes signals on to every pod, as well as it can.
///
/// * **Best effort.** A signal MAY be lost at any time; it MUST NOT be delivered twice to one subscriber. Signals of one pod come in the order in which
///   they were published. There is no order between pods.
/// * **Own signals.** Subscribers get the signals of their own pod too, at once and whatever the state of the network: there is one path for all.
/// * **Never waits.** [`SignalBus::publish`] MUST NOT block or wait, and MUST NOT fail: what does not fit is dropped and counted.
/// * **Bounds.** A payload has at most [`SIGNAL_MAX_BYTES`]; a subscriber is at most [`SIGNALS_BEHIND_MAX`] behind and then loses the oldest.
pub trait SignalBus: Send + Sync + 'static {
    /// Sends `signal` to the subscribers on all pods.
    fn publish(&self, signal: Signal);

    /// All signals that are published from now on.
    fn subscribe(&self) -> Signals;

    /// What happened so far.
    fn counts(&self) -> SignalCounts;
}

/// Something that happens now and is of no interest later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Whom it concerns.
    pub topic: Topic,
    /// What it says; the bus does not look into it.
    pub payload: Arc<[u8]>,
}

/// Whom a signal concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Those who follow a scope.
    Scope(Scope),
    /// Those who watch a user.
    User(SenderId),
}

/// What happened to signals, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalCounts {
    /// Published on this pod.
    pub published: u64,
    /// Came from other pods.
    pub received: u64,
    /// Not sent to other pods: too long, too many were waiting, or the other pods cannot be reached.
    pub dropped: u64,
    /// Not given to a subscriber that was too far behind.
    pub missed: u64,
    /// Came from other pods and could not be understood.
    pub malformed: u64,
}

/// A subscriber's end. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Signals {
    receiver: broadcast::Receiver<Signal>,
    counters: Arc<Counters>,
}

impl Signals {
    /// The next signal; none when the bus is gone. What was missed in between is counted, not told. Cancel safe.
    pub async fn next(&mut self) -> Option<Signal> {
        loop {
            match self.receiver.recv().await {
                Ok(signal) => return Some(signal),
                Err(RecvError::Lagged(missed)) => {
                    self.counters.missed.fetch_add(missed, Ordering::Relaxed);
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// The part of every adapter that is in the process: subscribers and counters.
#[derive(Debug)]
pub struct LocalSignals {
    sender: broadcast::Sender<Signal>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    published: AtomicU64,
    received: AtomicU64,
    dropped: AtomicU64,
    missed: AtomicU64,
    malformed: AtomicU64,
}

impl LocalSignals {
    /// Nobody subscribes.
    #[must_use]
    pub fn new() -> Self {
        Self { sender: broadcast::Sender::new(SIGNALS_BEHIND_MAX), counters: Arc::default() }
    }

    /// As [`SignalBus::subscribe`].
    #[must_use]
    pub fn subscribe(&self) -> Signals {
        Signals { receiver: self.sender.subscribe(), counters: Arc::clone(&self.counters) }
    }

    /// Gives a signal of this pod to its subscribers. False when it is too long for anybody, and counted as dropped.
    #[must_use]
    pub fn publish(&self, signal: Signal) -> bool {
        if signal.payload.len() > SIGNAL_MAX_BYTES {
            self.count_dropped();
            return false;
        }
        self.counters.published.fetch_add(1, Ordering::Relaxed);
        // Without subscribers there is nobody to tell.
        drop(self.sender.send(signal));
        true
    }

    /// Gives a signal of another pod to the subscribers.
    pub fn receive(&self, signal: Signal) {
        self.counters.received.fetch_add(1, Ordering::Relaxed);
        drop(self.sender.send(signal));
    }

    /// A signal did not get to other pods.
    pub fn count_dropped(&self) {
        self.counters.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Something came from another pod that is no signal.
    pub fn count_malformed(&self) {
        self.counters.malformed.fetch_add(1, Ordering::Relaxed);
    }

    /// As [`SignalBus::counts`].
    #[must_use]
    pub fn counts(&self) -> SignalCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SignalCounts {
            published: read(&self.counters.published),
            received: read(&self.counters.received),
            dropped: read(&self.counters.dropped),
            missed: read(&self.counters.missed),
            malformed: read(&self.counters.malformed),
        }
    }
}

impl Default for LocalSignals {
    fn default() -> Self {
        Self::new()
    }
}
