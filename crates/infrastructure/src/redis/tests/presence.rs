//! Several pods, pods that die, and a Redis that forgets.

use super::fixture::{Fixture, Pod};
use super::proxy::Proxy;
use chatify_application::ports::PresenceStore;
use chatify_application::ports::contract::{user, within};
use chatify_application::ports::presence::{ConnectionId, Presence};
use chatify_building_blocks::clock::Clock;
use chatify_domain::SenderId;
use std::time::Duration;
use tokio::task::yield_now;

fn online(fixture: &Fixture, connections: usize) -> Presence {
    Presence::Online { since: fixture.clock.now(), connections }
}

/// Waits for a repair that nobody asked for.
async fn until(pod: &Pod, user: &SenderId, expected: Presence) {
    within("the expected presence", async {
        while pod.presence.presence(user).await != expected {
            yield_now().await;
        }
    })
    .await;
}

fn lease_of(fixture: &Fixture, pod: &str) -> String {
    format!("{}pod:{{{pod}}}", fixture.prefix)
}

async fn pods_see_each_others_users(fixture: Fixture) {
    let (one, other) = (fixture.pod("one").await, fixture.pod("other").await);
    let alice = user("a{l}ice:é");
    one.presence.connected(&alice, ConnectionId(1)).await;
    other.presence.connected(&alice, ConnectionId(1)).await;
    assert_eq!(one.presence.presence(&alice).await, online(&fixture, 2));
    assert_eq!(other.presence.presence(&alice).await, online(&fixture, 2));
    one.presence.withdraw().await;
    assert_eq!(other.presence.presence(&alice).await, online(&fixture, 1));
    other.presence.disconnected(&alice, ConnectionId(1)).await;
    assert_eq!(one.presence.presence(&alice).await, Presence::Offline);
}

#[tokio::test]
async fn two_pods_see_each_others_users() {
    pods_see_each_others_users(Fixture::single()).await;
}

#[tokio::test]
async fn two_pods_of_a_cluster_see_each_others_users() {
    pods_see_each_others_users(Fixture::cluster()).await;
}

#[tokio::test]
async fn a_killed_pods_users_are_offline_and_pruned() {
    let fixture = Fixture::single();
    let (killed, other) = (fixture.pod("killed").await, fixture.pod("other").await);
    let alice = user("alice");
    killed.presence.connected(&alice, ConnectionId(1)).await;
    other.presence.renew().await;
    assert_eq!(other.presence.presence(&alice).await, online(&fixture, 1));
    // As if it had not renewed for the time of its lease.
    fixture.raw::<()>(&["PEXPIRE", &lease_of(&fixture, "killed"), "0"]).await;
    assert_eq!(other.presence.presence(&alice).await, Presence::Offline);
    let left: Vec<String> = fixture.raw(&["KEYS", &format!("{}*{{alice}}*", fixture.prefix)]).await;
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_lease_ends_by_itself() {
    let fixture = Fixture::single();
    let pod = fixture.pod("pod").await;
    pod.presence.renew().await;
    let lifetime: u64 = fixture.raw(&["PTTL", &lease_of(&fixture, "pod")]).await;
    assert!((1..=45_000).contains(&lifetime), "{lifetime}");
}

#[tokio::test]
async fn a_restarted_pod_does_not_revive_its_predecessors_users() {
    let fixture = Fixture::single();
    let (killed, other) = (fixture.pod("pod").await, fixture.pod("other").await);
    let (alice, bob) = (user("alice"), user("bob"));
    killed.presence.connected(&alice, ConnectionId(1)).await;
    let restarted = fixture.pod("pod").await;
    restarted.presence.renew().await;
    restarted.presence.connected(&bob, ConnectionId(1)).await;
    assert_eq!(other.presence.presence(&alice).await, Presence::Offline);
    assert_eq!(other.presence.presence(&bob).await, online(&fixture, 1));
    // What the predecessor still does on its way out hurts nobody.
    killed.presence.withdraw().await;
    assert_eq!(other.presence.presence(&bob).await, online(&fixture, 1));
}

#[tokio::test]
async fn a_pod_that_was_frozen_for_longer_than_its_lease_comes_back_whole() {
    let fixture = Fixture::single();
    let (frozen, other) = (fixture.pod("frozen").await, fixture.pod("other").await);
    let alice = user("alice");
    frozen.presence.connected(&alice, ConnectionId(1)).await;
    fixture.raw::<()>(&["DEL", &lease_of(&fixture, "frozen")]).await;
    assert_eq!(other.presence.presence(&alice).await, Presence::Offline);
    frozen.presence.renew().await;
    assert_eq!(other.presence.presence(&alice).await, online(&fixture, 1));
}

#[tokio::test]
async fn an_emptied_redis_is_filled_by_the_next_renewal() {
    let fixture = Fixture::single();
    let (one, other) = (fixture.pod("one").await, fixture.pod("other").await);
    let users: Vec<_> = (0..200).map(|number| user(&format!("user {number}"))).collect();
    for (number, user) in (0..).zip(&users) {
        one.presence.connected(user, ConnectionId(number)).await;
    }
    fixture.forget("").await;
    one.presence.renew().await;
    for user in &users {
        assert_eq!(other.presence.presence(user).await, online(&fixture, 1));
    }
}

/// In a cluster, one node can lose its part while the lease is on another.
#[tokio::test]
async fn entries_that_got_lost_without_the_lease_come_back_too() {
    let fixture = Fixture::single();
    let (one, other) = (fixture.pod("one").await, fixture.pod("other").await);
    let users: Vec<_> = (0..100).map(|number| user(&format!("user {number}"))).collect();
    for (number, user) in (0..).zip(&users) {
        one.presence.connected(user, ConnectionId(number)).await;
    }
    fixture.forget("presence:user:{user%201").await;
    one.presence.renew().await;
    for user in &users {
        assert_eq!(other.presence.presence(user).await, online(&fixture, 1));
    }
}

#[tokio::test]
async fn what_an_emptied_redis_forgot_is_unknown_and_repaired_by_whoever_notices() {
    let fixture = Fixture::single();
    let (one, other) = (fixture.pod("one").await, fixture.pod("other").await);
    let (alice, bob) = (user("alice"), user("bob"));
    one.presence.connected(&alice, ConnectionId(1)).await;
    other.presence.connected(&bob, ConnectionId(1)).await;
    fixture.forget("").await;
    // The first pod lost its own lease, so it cannot say that somebody is gone.
    assert_eq!(one.presence.presence(&bob).await, Presence::Unknown);
    until(&one, &alice, online(&fixture, 1)).await;
    assert_eq!(one.presence.presence(&bob).await, Presence::Unknown, "the other pod has not noticed yet");
    other.presence.renew().await;
    assert_eq!(one.presence.presence(&bob).await, online(&fixture, 1));
    // After a time in which every pod renewed, an absent entry counts again.
    assert_eq!(one.presence.presence(&user("nobody")).await, Presence::Unknown);
    fixture.clock.advance(Duration::from_secs(15));
    assert_eq!(one.presence.presence(&user("nobody")).await, Presence::Offline);
}

#[tokio::test]
async fn idle_connections_cost_redis_nothing_however_many_they_are() {
    let direct = Fixture::single();
    let proxy = Proxy::start(direct.address(), &direct.supervisor).await;
    let fixture = Fixture::at(proxy.url());
    let pod = fixture.pod("pod").await;
    for number in 0..500 {
        pod.presence.connected(&user(&format!("user {number}")), ConnectionId(number)).await;
    }
    let before = proxy.count("EVALSHA");
    for _ in 0..4 {
        pod.presence.renew().await;
    }
    assert_eq!(proxy.count("EVALSHA") - before, 4 * (1 + 32));
}

#[tokio::test]
async fn nothing_is_recorded_after_the_pod_withdrew() {
    let fixture = Fixture::single();
    let (ending, other) = (fixture.pod("ending").await, fixture.pod("other").await);
    ending.presence.withdraw().await;
    ending.presence.connected(&user("alice"), ConnectionId(1)).await;
    ending.presence.renew().await;
    assert_eq!(other.presence.presence(&user("alice")).await, Presence::Offline);
    let lease: Option<String> = fixture.raw(&["GET", &lease_of(&fixture, "ending")]).await;
    assert_eq!(lease, None);
}
