//! [`PresenceStore`].

use super::user;
use crate::ports::PresenceStore;
use crate::ports::presence::{ConnectionId, Presence};
use async_trait::async_trait;
use chatify_domain::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// Opens the store under test.
#[async_trait]
pub trait PresenceFixture: Send + Sync {
    /// An empty store, as one pod sees it.
    async fn open(&self) -> Arc<dyn PresenceStore>;

    /// The time by which the store stamps.
    fn now(&self) -> Timestamp;

    /// Lets time pass.
    async fn advance(&self, by: Duration);
}

/// Runs every case of this suite on fixtures that the expression makes.
#[macro_export]
macro_rules! presence_contract {
    ($fixture:expr) => {
        $crate::contract_cases!(
            presence,
            $fixture,
            two_connections_are_two_entries,
            saying_it_again_changes_nothing,
            users_do_not_share_connections,
            a_pod_that_withdraws_leaves_nobody_behind,
            a_renewed_pod_stays,
        );
    };
}

const FIRST: ConnectionId = ConnectionId(1);
const SECOND: ConnectionId = ConnectionId(2);

/// The end of one does not end the other, and the user is online since the oldest that is left.
pub async fn two_connections_are_two_entries(fixture: &dyn PresenceFixture) {
    let store = fixture.open().await;
    let alice = user("alice");
    assert_eq!(store.presence(&alice).await, Presence::Offline);
    let first_came = fixture.now();
    store.connected(&alice, FIRST).await;
    fixture.advance(Duration::from_secs(5)).await;
    let second_came = fixture.now();
    store.connected(&alice, SECOND).await;
    assert_eq!(store.presence(&alice).await, Presence::Online { since: first_came, connections: 2 });
    store.disconnected(&alice, FIRST).await;
    assert_eq!(store.presence(&alice).await, Presence::Online { since: second_came, connections: 1 });
    store.disconnected(&alice, SECOND).await;
    assert_eq!(store.presence(&alice).await, Presence::Offline);
}

/// The same connection again, and the end of one that is not there.
pub async fn saying_it_again_changes_nothing(fixture: &dyn PresenceFixture) {
    let store = fixture.open().await;
    let alice = user("alice");
    store.disconnected(&alice, SECOND).await;
    let since = fixture.now();
    store.connected(&alice, FIRST).await;
    fixture.advance(Duration::from_secs(5)).await;
    store.connected(&alice, FIRST).await;
    store.disconnected(&alice, SECOND).await;
    assert_eq!(store.presence(&alice).await, Presence::Online { since, connections: 1 });
    store.disconnected(&alice, FIRST).await;
    store.disconnected(&alice, FIRST).await;
    assert_eq!(store.presence(&alice).await, Presence::Offline);
}

/// One user's end is not another's, also with the same number.
pub async fn users_do_not_share_connections(fixture: &dyn PresenceFixture) {
    let store = fixture.open().await;
    let since = fixture.now();
    store.connected(&user("alice"), FIRST).await;
    store.connected(&user("bob"), SECOND).await;
    store.disconnected(&user("alice"), SECOND).await;
    store.disconnected(&user("bob"), SECOND).await;
    assert_eq!(store.presence(&user("alice")).await, Presence::Online { since, connections: 1 });
    assert_eq!(store.presence(&user("bob")).await, Presence::Offline);
}

/// At shutdown.
pub async fn a_pod_that_withdraws_leaves_nobody_behind(fixture: &dyn PresenceFixture) {
    let store = fixture.open().await;
    store.connected(&user("alice"), FIRST).await;
    store.connected(&user("bob"), SECOND).await;
    store.withdraw().await;
    assert_eq!(store.presence(&user("alice")).await, Presence::Offline);
    assert_eq!(store.presence(&user("bob")).await, Presence::Offline);
}

/// Connections live for as long as their pod renews.
pub async fn a_renewed_pod_stays(fixture: &dyn PresenceFixture) {
    let store = fixture.open().await;
    let since = fixture.now();
    store.connected(&user("alice"), FIRST).await;
    for _ in 0..8 {
        store.renew().await;
        fixture.advance(Duration::from_secs(15)).await;
    }
    assert_eq!(store.presence(&user("alice")).await, Presence::Online { since, connections: 1 });
}
