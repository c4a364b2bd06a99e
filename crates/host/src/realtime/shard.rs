//! One part of the connections: who of them is subscribed to what, and the task that writes to many of them.
//!
//! New messages go into the outboxes first, in order, by the one task that has them; writing comes second and may be anybody's, because an outbox is
//! drained whole and in order whoever does it. So the busier a pod is, the more messages go into one write, and the cheaper each becomes.

use super::encode::ScopeBatch;
use super::peer::{CloseReason, Peer};
use crate::metrics::{Metrics, Stage};
use chatify_application::ports::presence::ConnectionId;
use chatify_building_blocks::clock::Clock;
use chatify_domain::{Position, Scope};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Lists of connections that may wait for a shard's writer; then the fan-out loop waits, and what it reads of the log meanwhile is delivered together.
pub const QUEUED_FLUSHES: usize = 64;
/// Connections written to before other tasks get their turn: about a millisecond of system calls.
const FLUSHES_PER_TURN: usize = 128;

/// Connections whose outboxes have something new.
pub struct Flush {
    /// Each once.
    pub peers: Vec<Arc<Peer>>,
    /// Uptime at which the hub got it.
    pub received: Duration,
}

/// The subscriptions and connections of one shard.
#[derive(Default)]
pub struct Shard {
    scopes: Mutex<HashMap<Scope, Vec<Entry>>>,
    peers: Mutex<HashMap<ConnectionId, Arc<Peer>>>,
}

/// One connection in one scope.
struct Entry {
    peer: Arc<Peer>,
    /// Messages up to here were given by the join.
    floor: Position,
    /// Kept back until the join is answered.
    held: Option<Held>,
}

#[derive(Debug, Default)]
struct Held {
    batches: Vec<Arc<ScopeBatch>>,
    messages: usize,
}

impl Shard {
    /// Takes a connection on.
    pub fn register(&self, peer: Arc<Peer>) {
        lock(&self.peers).insert(peer.id(), peer);
    }

    /// Forgets a connection.
    pub fn unregister(&self, id: ConnectionId) {
        lock(&self.peers).remove(&id);
    }

    /// All connections, in no order.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        lock(&self.peers).values().cloned().collect()
    }

    /// See [`chatify_application::ports::LiveSubscription::hold`]. `true` when the connection was not in the scope yet.
    pub fn hold(&self, scope: &Scope, peer: &Arc<Peer>) -> bool {
        let mut scopes = lock(&self.scopes);
        if !scopes.contains_key(scope) {
            scopes.insert(scope.clone(), Vec::new());
        }
        let entries = scopes.get_mut(scope).expect("it was just put there");
        match find(entries, peer.id()) {
            Ok(at) => {
                entries[at].held.get_or_insert_default();
                false
            }
            Err(at) => {
                entries.insert(at, Entry { peer: peer.clone(), floor: Position::ZERO, held: Some(Held::default()) });
                true
            }
        }
    }

    /// See [`chatify_application::ports::LiveSubscription::release`].
    pub fn release(&self, scope: &Scope, peer: &Peer, after: Position) {
        let mut scopes = lock(&self.scopes);
        let Some(entries) = scopes.get_mut(scope) else { return };
        let Ok(at) = find(entries, peer.id()) else { return };
        let entry = &mut entries[at];
        entry.floor = after;
        for batch in entry.held.take().unwrap_or_default().batches {
            if let Some(chunk) = batch.after(after, peer.format()) {
                peer.enqueue(chunk);
            }
        }
        // Still under the lock: a batch that comes next must find these in the outbox already.
        drop(scopes);
        peer.flush();
    }

    /// Ends a subscription. `true` when there was one.
    pub fn remove(&self, scope: &Scope, id: ConnectionId) -> bool {
        let mut scopes = lock(&self.scopes);
        let Some(entries) = scopes.get_mut(scope) else { return false };
        let Ok(at) = find(entries, id) else { return false };
        entries.remove(at);
        if entries.is_empty() {
            scopes.remove(scope);
        }
        true
    }

    /// Ends the connections that are in a scope for which `missed` is true, those whose join is under way included.
    pub fn interrupt(&self, missed: &(dyn Fn(&Scope) -> bool + Sync)) {
        for (_, entries) in lock(&self.scopes).iter().filter(|(scope, _)| missed(scope)) {
            entries.iter().for_each(|entry| entry.peer.close(CloseReason::Interrupted));
        }
    }

    /// Puts `batches` into the outboxes of their subscribers, writes nothing, and adds to `dirty` who has something new. How many messages that were,
    /// counted by subscriber.
    pub fn enqueue(&self, batches: &[Arc<ScopeBatch>], dirty: &mut Vec<Arc<Peer>>) -> usize {
        let mut scopes = lock(&self.scopes);
        let mut deliveries = 0;
        for batch in batches {
            let Some(entries) = scopes.get_mut(&batch.scope) else { continue };
            for entry in entries {
                if let Some(held) = &mut entry.held {
                    held.keep(batch, &entry.peer);
                } else if let Some(chunk) = batch.after(entry.floor, entry.peer.format()) {
                    deliveries += chunk.frames;
                    if entry.peer.enqueue(chunk) {
                        dirty.push(entry.peer.clone());
                    }
                }
            }
        }
        deliveries
    }
}

/// The writer of a shard, for batches with many subscribers; ends when `cancelled` is, or when the hub is gone. While it is at it, more can get into the
/// outboxes that it has not come to yet, which then goes out in the same write.
pub async fn write(
    mut flushes: mpsc::Receiver<Flush>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    cancelled: CancellationToken,
) {
    while let Some(Some(flush)) = cancelled.run_until_cancelled(flushes.recv()).await {
        for (turn, peer) in (1..).zip(&flush.peers) {
            peer.flush();
            if turn % FLUSHES_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        metrics.delivery_stage(Stage::Socket, clock.uptime().saturating_sub(flush.received));
    }
}

/// Messages that a join may keep back; a join that takes longer than this many messages loses its connection and resumes.
const HELD_MESSAGES: usize = 4096;

impl Held {
    fn keep(&mut self, batch: &Arc<ScopeBatch>, peer: &Peer) {
        self.messages += batch.len();
        if self.messages > HELD_MESSAGES {
            peer.close(CloseReason::SlowConsumer);
            self.batches.clear();
            return;
        }
        self.batches.push(batch.clone());
    }
}

/// Entries are sorted by connection: ids ascend, so most arrive at the end.
fn find(entries: &[Entry], id: ConnectionId) -> Result<usize, usize> {
    match entries.last() {
        Some(last) if last.peer.id() < id => Err(entries.len()),
        _ => entries.binary_search_by_key(&id, |entry| entry.peer.id()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::realtime::encode::Format;
    use crate::realtime::outbox::OutboxLimits;
    use crate::realtime::peer::{CoarseUptime, NewPeer, Sink};
    use chatify_domain::{
        Epoch, LoggedMessage, MessageId, MessageSent, Offset, Partition, PodId, SenderId, Text, Timestamp,
    };
    use proptest::prelude::*;

    const LIMITS: OutboxLimits = OutboxLimits { frames: 1 << 20, bytes: 1 << 30 };

    fn peer(id: u64, limits: OutboxLimits) -> Arc<Peer> {
        let new = NewPeer {
            id: ConnectionId(id),
            user: SenderId::parse("alice").expect("an id"),
            expires_at: Timestamp::from_millis(i64::MAX),
            format: Format::EventStream,
            sink: Sink::Body(Default::default()),
            limits,
        };
        Arc::new(Peer::new(new, Arc::new(CoarseUptime::default()), Metrics::new().expect("metrics")))
    }

    fn scope() -> Scope {
        Scope::parse("general").expect("a scope")
    }

    fn at(offset: i64) -> Position {
        Position::new(Epoch::FIRST, Offset::new(offset).expect("in range"))
    }

    fn dispatch(offsets: std::ops::Range<i64>) -> Arc<ScopeBatch> {
        let messages = offsets.map(|offset| LoggedMessage {
            position: at(offset),
            partition: Partition(0),
            created_at: Timestamp::from_millis(0),
            sent: Arc::new(MessageSent {
                message_id: MessageId::from_u128(1),
                scope: scope(),
                sender_id: SenderId::parse("bob").expect("an id"),
                text: Text::parse("hello").expect("a text"),
                origin_pod_id: PodId::parse("pod").expect("an id"),
            }),
        });
        ScopeBatch::new(scope(), messages.collect())
    }

    /// The offsets that the connection was sent, in order.
    fn received(peer: &Peer) -> Vec<i64> {
        let context = std::task::Context::from_waker(std::task::Waker::noop());
        let bytes = peer.poll_take(&context).unwrap_or_default();
        let text = std::str::from_utf8(&bytes).expect("UTF-8");
        let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
        ids.map(|id| Position::from_number(id.parse().expect("a number")).expect("in range").offset().number())
            .collect()
    }

    fn deliver(shard: &Shard, batches: &[Arc<ScopeBatch>]) {
        let mut dirty = Vec::new();
        shard.enqueue(batches, &mut dirty);
        dirty.iter().for_each(|peer| peer.flush());
    }

    proptest! {
        /// Whatever batches come while a join is held, and wherever its answer ended, everything after it arrives once and in order.
        #[test]
        fn a_join_leaves_no_gap(
            before in prop::collection::vec(1i64..5, 0..4),
            during in prop::collection::vec(1i64..5, 0..6),
            after in prop::collection::vec(1i64..5, 0..6),
            answered in 0i64..30,
        ) {
            let (shard, peer) = (Shard::default(), peer(1, LIMITS));
            let mut next = 0i64;
            let mut send = |sizes: &[i64]| {
                let dispatches: Vec<_> = sizes.iter().map(|size| { next += size; dispatch(next - size..next) }).collect();
                deliver(&shard, &dispatches);
                next
            };
            send(&before);
            prop_assert!(shard.hold(&scope(), &peer));
            let seen = send(&during);
            prop_assert!(received(&peer).is_empty());
            // A join's answer covers everything that was delivered before it was held, at least.
            let floor = answered.clamp(before.iter().sum::<i64>(), seen.max(1));
            shard.release(&scope(), &peer, at(floor).previous());
            let end = send(&after);
            prop_assert_eq!(received(&peer), (floor..end).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_connection_that_does_not_read_is_closed_and_its_memory_freed() {
        let (shard, slow, quick) =
            (Shard::default(), peer(1, OutboxLimits { frames: 10, bytes: 1 << 20 }), peer(2, LIMITS));
        for peer in [&slow, &quick] {
            shard.hold(&scope(), peer);
            shard.release(&scope(), peer, Position::ZERO);
        }
        for offset in 0..20 {
            deliver(&shard, &[dispatch(offset..offset + 1)]);
        }
        assert_eq!(slow.closing(), Some(CloseReason::SlowConsumer));
        assert!(received(&slow).is_empty());
        assert_eq!(received(&quick), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_connection_that_ends_gets_its_answers_and_no_more_deliveries() {
        let (shard, peer) = (Shard::default(), peer(1, LIMITS));
        shard.hold(&scope(), &peer);
        shard.release(&scope(), &peer, Position::ZERO);
        peer.close(CloseReason::Draining);
        deliver(&shard, &[dispatch(1..3)]);
        peer.queue_answer(crate::realtime::encode::Chunk { bytes: "id: 9\n".into(), frames: 1 });
        peer.flush();
        assert_eq!(received(&peer), vec![9]);
    }

    #[test]
    fn those_who_missed_something_lose_their_connection_and_no_others() {
        let (shard, following, joining, elsewhere) =
            (Shard::default(), peer(1, LIMITS), peer(2, LIMITS), peer(3, LIMITS));
        let other = Scope::parse("other").expect("a scope");
        shard.hold(&scope(), &following);
        shard.release(&scope(), &following, Position::ZERO);
        shard.hold(&scope(), &joining);
        shard.hold(&other, &elsewhere);
        shard.release(&other, &elsewhere, Position::ZERO);
        shard.interrupt(&|missed| *missed == scope());
        deliver(&shard, &[dispatch(40..41)]);
        let closing = [&following, &joining, &elsewhere].map(|peer| peer.closing());
        assert_eq!(closing, [Some(CloseReason::Interrupted), Some(CloseReason::Interrupted), None]);
        assert!(received(&following).is_empty(), "nothing is sent behind the gap");
    }

    #[test]
    fn one_connection_leaves_and_the_other_stays() {
        let (shard, one, two) = (Shard::default(), peer(1, LIMITS), peer(2, LIMITS));
        for peer in [&one, &two] {
            assert!(shard.hold(&scope(), peer));
            shard.release(&scope(), peer, Position::ZERO);
            assert!(!shard.hold(&scope(), peer), "a second join is no second subscription");
            shard.release(&scope(), peer, Position::ZERO);
        }
        assert!(shard.remove(&scope(), one.id()) && !shard.remove(&scope(), one.id()));
        deliver(&shard, &[dispatch(1..3)]);
        assert_eq!((received(&one), received(&two)), (vec![], vec![1, 2]));
    }
}
