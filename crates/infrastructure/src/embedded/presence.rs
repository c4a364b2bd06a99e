//! [`PresenceStore`] in the memory of the one process.

use async_trait::async_trait;
use chatify_application::ports::PresenceStore;
use chatify_application::ports::presence::{ConnectionId, Presence};
use chatify_building_blocks::clock::Clock;
use chatify_domain::{SenderId, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Knows this process's connections, which are all that there are. They end with the process, so no lease is needed.
pub struct EmbeddedPresence {
    clock: Arc<dyn Clock>,
    users: Mutex<HashMap<SenderId, Vec<Connection>>>,
}

#[derive(Clone, Copy)]
struct Connection {
    id: ConnectionId,
    since: Timestamp,
}

impl EmbeddedPresence {
    /// Nobody is online.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, users: Mutex::default() }
    }

    fn users(&self) -> MutexGuard<'_, HashMap<SenderId, Vec<Connection>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl PresenceStore for EmbeddedPresence {
    async fn connected(&self, user: &SenderId, connection: ConnectionId) {
        let since = self.clock.now();
        let mut users = self.users();
        let connections = users.entry(user.clone()).or_default();
        if connections.iter().all(|known| known.id != connection) {
            connections.push(Connection { id: connection, since });
        }
    }

    async fn disconnected(&self, user: &SenderId, connection: ConnectionId) {
        let mut users = self.users();
        let Some(connections) = users.get_mut(user) else {
            return;
        };
        connections.retain(|known| known.id != connection);
        if connections.is_empty() {
            users.remove(user);
        }
    }

    async fn presence(&self, user: &SenderId) -> Presence {
        let users = self.users();
        let connections = users.get(user).map_or(&[][..], Vec::as_slice);
        match connections.iter().map(|connection| connection.since).min() {
            Some(since) => Presence::Online { since, connections: connections.len() },
            None => Presence::Offline,
        }
    }

    async fn renew(&self) {}

    async fn withdraw(&self) {
        self.users().clear();
    }
}
