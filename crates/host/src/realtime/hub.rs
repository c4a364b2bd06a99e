//! The registry of this pod's connections and subscriptions, and the inbound half of live delivery.
//!
//! Connections are spread over shards, one per core. A batch of new messages is cut by scope once; what is in it is encoded when the first subscriber of
//! a format is met, and shared from then on. A batch for few connections is written where it is; one for many by the shards' writers, side by side.

use super::encode::ScopeBatch;
use super::peer::{CoarseUptime, NewPeer, Peer};
use super::shard::{self, Flush, QUEUED_FLUSHES, Shard};
use crate::metrics::{Metrics, Stage};
use async_trait::async_trait;
use chatify_application::ports::presence::ConnectionId;
use chatify_application::ports::{LiveSubscription, LocalDelivery};
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{LoggedMessage, Position, Scope};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// All connections of this pod.
pub struct Hub {
    shards: Vec<(Shard, mpsc::Sender<Flush>)>,
    next_id: AtomicU64,
    open: AtomicUsize,
    uptime: Arc<CoarseUptime>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

impl Hub {
    /// A hub with `shards` parts (at least one), whose loops run on `supervisor`.
    #[must_use]
    pub fn start(shards: usize, supervisor: &Supervisor, clock: Arc<dyn Clock>, metrics: Metrics) -> Arc<Self> {
        let shards = (0..shards.max(1)).map(|_| {
            let (sender, receiver) = mpsc::channel(QUEUED_FLUSHES);
            let writer = shard::write(receiver, clock.clone(), metrics.clone(), supervisor.token());
            supervisor.service::<std::convert::Infallible>("hub-writer", async move {
                writer.await;
                Ok(())
            });
            (Shard::default(), sender)
        });
        let uptime = Arc::new(CoarseUptime::default());
        uptime.set(clock.uptime());
        Arc::new(Self {
            shards: shards.collect(),
            next_id: AtomicU64::new(1),
            open: AtomicUsize::new(0),
            uptime,
            clock,
            metrics,
        })
    }

    /// A number for a new connection.
    pub fn next_id(&self) -> ConnectionId {
        ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes a connection on; it is forgotten when the last clone of the answer is dropped.
    pub fn connect(self: &Arc<Self>, new: NewPeer) -> Subscriber {
        let peer = Arc::new(Peer::new(new, self.uptime.clone(), self.metrics.clone()));
        self.shard(peer.id()).register(peer.clone());
        self.open.fetch_add(1, Ordering::Relaxed);
        Subscriber { hub: self.clone(), peer, scopes: Mutex::default() }
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// All connections, in no order.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.shards.iter().flat_map(|(shard, _)| shard.peers()).collect()
    }

    /// The clock that connections look at; the sweep moves it.
    pub fn uptime(&self) -> &CoarseUptime {
        &self.uptime
    }

    fn shard(&self, id: ConnectionId) -> &Shard {
        let at = usize::try_from(id.0).unwrap_or(0) % self.shards.len();
        &self.shards[at].0
    }
}

/// Up to this many connections are written to by the task that has the messages: waking another would cost more than the writes.
const WRITTEN_AT_ONCE: usize = 64;

#[async_trait]
impl LocalDelivery for Hub {
    async fn deliver(&self, batch: Vec<LoggedMessage>) {
        let received = self.clock.uptime();
        let batches = by_scope(batch);
        let mut lists = Vec::with_capacity(self.shards.len());
        let mut deliveries = 0;
        for (shard, _) in &self.shards {
            let mut dirty = Vec::new();
            deliveries += shard.enqueue(&batches, &mut dirty);
            lists.push(dirty);
        }
        self.metrics.delivered(deliveries);
        if lists.iter().map(Vec::len).sum::<usize>() <= WRITTEN_AT_ONCE {
            lists.iter().flatten().for_each(|peer| peer.flush());
            if deliveries > 0 {
                self.metrics.delivery_stage(Stage::Socket, self.clock.uptime().saturating_sub(received));
            }
            return;
        }
        for ((_, writer), peers) in self.shards.iter().zip(lists) {
            if !peers.is_empty() {
                // A writer that is gone was cancelled: the process is ending.
                drop(writer.send(Flush { peers, received }).await);
            }
        }
    }

    fn interrupted(&self, missed: &(dyn Fn(&Scope) -> bool + Sync)) {
        self.shards.iter().for_each(|(shard, _)| shard.interrupt(missed));
    }
}

fn by_scope(batch: Vec<LoggedMessage>) -> Vec<Arc<ScopeBatch>> {
    let mut scopes: HashMap<Scope, Vec<LoggedMessage>> = HashMap::new();
    for message in batch {
        match scopes.get_mut(&message.sent.scope) {
            Some(messages) => messages.push(message),
            None => drop(scopes.insert(message.sent.scope.clone(), vec![message])),
        }
    }
    scopes.into_iter().map(|(scope, messages)| ScopeBatch::new(scope, messages)).collect()
}

/// One connection's subscriptions. Dropping it ends them all and the connection's place in the hub.
pub struct Subscriber {
    hub: Arc<Hub>,
    peer: Arc<Peer>,
    scopes: Mutex<HashSet<Scope>>,
}

impl Subscriber {
    /// The connection.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// How many scopes it is in.
    pub fn scopes(&self) -> usize {
        self.lock().len()
    }

    /// Whether it is in `scope`.
    pub fn is_in(&self, scope: &Scope) -> bool {
        self.lock().contains(scope)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Scope>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LiveSubscription for Subscriber {
    fn hold(&self, scope: &Scope) {
        if self.hub.shard(self.peer.id()).hold(scope, &self.peer) {
            self.lock().insert(scope.clone());
        }
    }

    fn release(&self, scope: &Scope, after: Position) {
        self.hub.shard(self.peer.id()).release(scope, &self.peer, after);
    }

    fn abandon(&self, scope: &Scope) {
        if self.hub.shard(self.peer.id()).remove(scope, self.peer.id()) {
            self.lock().remove(scope);
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let shard = self.hub.shard(self.peer.id());
        for scope in self.lock().drain() {
            shard.remove(&scope, self.peer.id());
        }
        shard.unregister(self.peer.id());
        self.hub.open.fetch_sub(1, Ordering::Relaxed);
    }
}
