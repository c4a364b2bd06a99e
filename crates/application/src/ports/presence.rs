//! Who is online.

use async_trait::async_trait;
use chatify_domain::{SenderId, Timestamp};

/// Number of one connection of this pod; never reused while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Keeps which connections a user has, over all pods.
///
/// * A user is online while at least one connection on a living pod is recorded. Two connections are two entries: the end of one MUST NOT
///   end the other. Recording the same connection again changes nothing; ending an unknown one is no error.
/// * Connections of a pod that stopped calling [`PresenceStore::renew`] MUST count as gone within 60 s.
/// * When the store cannot be asked the answer is [`Presence::Unknown`], never a stale one.
/// * Best effort: failures are counted and logged by the adapter, they never fail a connection.
#[async_trait]
pub trait PresenceStore: Send + Sync + 'static {
    /// A connection of this pod is open.
    async fn connected(&self, user: &SenderId, connection: ConnectionId);

    /// A connection of this pod is closed.
    async fn disconnected(&self, user: &SenderId, connection: ConnectionId);

    /// Whether `user` is online.
    async fn presence(&self, user: &SenderId) -> Presence;

    /// Keeps this pod's connections alive; called every 15 s.
    async fn renew(&self);

    /// Ends all of this pod's connections; called once, at shutdown.
    async fn withdraw(&self);
}

/// What is known of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// At least one connection.
    Online {
        /// When the oldest of them came.
        since: Timestamp,
        /// How many there are.
        connections: usize,
    },
    /// No connection.
    Offline,
    /// The store cannot be asked.
    Unknown,
}
