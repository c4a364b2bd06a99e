//! A pod's connections in memory: what a transport does with live messages, without a transport.

use crate::ports::{LiveSubscription, LocalDelivery};
use async_trait::async_trait;
use chatify_domain::{LoggedMessage, Position, Scope};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Implements [`LocalDelivery`] for its [`Subscriber`]s.
#[derive(Clone, Default)]
pub struct Connections(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    subscriptions: BTreeMap<(u64, Scope), Subscription>,
    connected: u64,
    latency: Duration,
}

#[derive(Default)]
struct Subscription {
    /// While held: what came meanwhile.
    held: Option<Vec<LoggedMessage>>,
    after: Option<Position>,
    received: Vec<LoggedMessage>,
}

/// One connection.
#[derive(Clone)]
pub struct Subscriber {
    connections: Connections,
    number: u64,
}

impl Connections {
    /// A new connection.
    #[must_use]
    pub fn connect(&self) -> Subscriber {
        let mut state = self.lock();
        state.connected += 1;
        Subscriber { connections: self.clone(), number: state.connected }
    }

    /// Every delivery takes this long.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LocalDelivery for Connections {
    async fn deliver(&self, batch: Vec<LoggedMessage>) {
        let latency = self.lock().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let mut state = self.lock();
        for message in batch {
            for ((_, scope), subscription) in &mut state.subscriptions {
                if *scope == message.sent.scope {
                    subscription.take(&message);
                }
            }
        }
    }

    /// A connection is as good as gone for the scopes that it followed.
    fn interrupted(&self, missed: &(dyn Fn(&Scope) -> bool + Sync)) {
        self.lock().subscriptions.retain(|(_, scope), _| !missed(scope));
    }
}

impl Subscription {
    fn take(&mut self, message: &LoggedMessage) {
        match &mut self.held {
            Some(held) => held.push(message.clone()),
            None if self.after.is_some_and(|after| message.position <= after) => {}
            None => self.received.push(message.clone()),
        }
    }
}

impl Subscriber {
    /// What came live in `scope` since the last call.
    #[must_use]
    pub fn received(&self, scope: &Scope) -> Vec<LoggedMessage> {
        let mut state = self.connections.lock();
        let subscription = state.subscriptions.get_mut(&(self.number, scope.clone()));
        subscription.map(|subscription| std::mem::take(&mut subscription.received)).unwrap_or_default()
    }

    /// Whether it is, or is about to be, subscribed.
    #[must_use]
    pub fn follows(&self, scope: &Scope) -> bool {
        self.connections.lock().subscriptions.contains_key(&(self.number, scope.clone()))
    }
}

impl LiveSubscription for Subscriber {
    fn hold(&self, scope: &Scope) {
        let mut state = self.connections.lock();
        let subscription = state.subscriptions.entry((self.number, scope.clone())).or_default();
        subscription.held.get_or_insert_default();
    }

    fn release(&self, scope: &Scope, after: Position) {
        let mut state = self.connections.lock();
        let Some(subscription) = state.subscriptions.get_mut(&(self.number, scope.clone())) else { return };
        subscription.after = Some(after);
        for message in subscription.held.take().unwrap_or_default() {
            subscription.take(&message);
        }
    }

    fn abandon(&self, scope: &Scope) {
        self.connections.lock().subscriptions.remove(&(self.number, scope.clone()));
    }
}
