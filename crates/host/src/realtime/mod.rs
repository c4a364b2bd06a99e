//! Live delivery: from a batch of new messages to the sockets of this pod.
//!
//! Read [`hub`] first (who is subscribed to what, and the way of a batch), then [`shard`] (one part of the connections and its loop), [`peer`]
//! (one connection as the hub sees it), [`outbox`] (what waits for its socket), [`encode`] (once per wire format) and [`sweep`] (pings, timeouts,
//! expired tokens).
//!
//! Invariants: a message is encoded once per wire format, whatever the number of subscribers; no lock is held across an `await` or a system
//! call of another connection; every queue is bounded, and a full one closes its connection with `SLOW_CONSUMER`, never drops silently.

pub mod encode;
pub mod event_stream;
pub mod hub;
pub mod outbox;
pub mod peer;
pub mod shard;
pub mod sweep;

pub use hub::{Hub, Subscriber};
pub use peer::{CloseReason, Peer};
