//! Redis slow, gone, forgetful and in trouble.

use super::fake_server::FakeServer;
use super::fixture::{Fixture, Pod, becomes, hourly};
use super::proxy::{Link, Proxy};
use super::server::OwnServer;
use crate::redis::connection::Availability;
use crate::redis::{RedisOptions, RedisSignalBus};
use chatify_application::ports::contract::{user, within};
use chatify_application::ports::presence::{ConnectionId, Presence};
use chatify_application::ports::rate_limit::Decision;
use chatify_application::ports::{PresenceStore, RateLimiter};
use chatify_building_blocks::clock::Clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::yield_now;

/// A pod behind a proxy, with a deadline that passes.
async fn proxied(deadline: Duration) -> (Proxy, Fixture, Pod) {
    let direct = Fixture::single();
    let proxy = Proxy::start(direct.address(), &direct.supervisor).await;
    let fixture = Fixture::at(proxy.url());
    let options = RedisOptions { deadline, ..fixture.options("pod") };
    let pod = fixture.pod_with(options, hourly(100)).await;
    (proxy, fixture, pod)
}

async fn allowed(pod: &Pod, tries: usize) -> usize {
    let mut count = 0;
    for _ in 0..tries {
        count += usize::from(pod.limiter.check_send(&user("alice")).await == Decision::Allowed);
    }
    count
}

#[tokio::test]
async fn a_frozen_redis_costs_a_few_deadlines_and_not_one_for_each_request() {
    // It holds while Redis is well, too.
    let (proxy, _fixture, pod) = proxied(Duration::from_secs(6)).await;
    assert_eq!(allowed(&pod, 60).await, 60);
    assert_eq!(pod.connection.counts().local_limits, 0);
    let before = proxy.count("EVALSHA");
    proxy.set(Link::Frozen);
    // The keys of many users are all over the slots, and yet it is one server that does not answer.
    for number in 0..200 {
        let decision = pod.limiter.check_send(&user(&format!("user {number}"))).await;
        assert_eq!(decision, Decision::Allowed);
    }
    // The pod's own budget is another one, and whole.
    assert_eq!(allowed(&pod, 1_000).await, 100);
    assert_eq!(pod.presence.presence(&user("alice")).await, Presence::Unknown);
    assert_eq!(proxy.count("EVALSHA") - before, 3, "only what it took to see that Redis is away");
    assert_eq!(pod.connection.counts().local_limits, 1_200);
    assert_eq!(pod.connection.counts().outages, 1);
    assert!(!pod.connection.is_available());

    proxy.set(Link::Healthy);
    becomes(&pod.connection, true).await;
    // The shared budget went on: 60 are used. The requests that were frozen were other users'.
    assert_eq!(allowed(&pod, 100).await, 40);
    assert_eq!(pod.connection.counts().local_limits, 1_200);
}

#[tokio::test]
async fn a_cut_connection_is_made_again_without_anybody_asking() {
    let (proxy, fixture, _) = proxied(Duration::from_secs(20)).await;
    let options = RedisOptions { health_interval: Duration::from_millis(10), ..fixture.options("other pod") };
    let pod = fixture.pod_with(options, hourly(100)).await;
    pod.presence.connected(&user("alice"), ConnectionId(1)).await;
    for _ in 0..10 {
        let outages = pod.connection.counts().outages;
        proxy.cut();
        within("the outage", async {
            while pod.connection.counts().outages == outages {
                yield_now().await;
            }
        })
        .await;
        becomes(&pod.connection, true).await;
        let online = Presence::Online { since: fixture.clock.now(), connections: 1 };
        assert_eq!(pod.presence.presence(&user("alice")).await, online);
    }
}

#[tokio::test]
async fn a_pod_starts_while_redis_is_away_and_finds_it_later() {
    let (proxy, fixture, _) = proxied(Duration::from_secs(20)).await;
    proxy.set(Link::Refusing);
    let pod = fixture.pod_with(fixture.options("late"), hourly(2)).await;
    assert!(!pod.connection.is_available());
    let alice = user("alice");
    pod.presence.connected(&alice, ConnectionId(1)).await;
    assert_eq!(pod.presence.presence(&alice).await, Presence::Unknown);
    assert_eq!(allowed(&pod, 5).await, 2);
    proxy.set(Link::Healthy);
    becomes(&pod.connection, true).await;
    let online = Presence::Online { since: fixture.clock.now(), connections: 1 };
    within("the repair", async {
        while pod.presence.presence(&alice).await != online {
            yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_end_that_redis_was_not_told_is_no_stale_presence() {
    let (proxy, fixture, pod) = proxied(Duration::from_millis(200)).await;
    let direct = Fixture { prefix: fixture.prefix.clone(), ..Fixture::single() };
    let other = direct.pod("other").await;
    let (alice, bob) = (user("alice"), user("bob"));
    pod.presence.connected(&alice, ConnectionId(1)).await;
    pod.presence.connected(&bob, ConnectionId(2)).await;
    proxy.set(Link::Frozen);
    while pod.connection.is_available() {
        pod.presence.renew().await;
    }
    pod.presence.disconnected(&alice, ConnectionId(1)).await;
    assert_eq!(pod.presence.presence(&alice).await, Presence::Unknown);
    proxy.set(Link::Healthy);
    becomes(&pod.connection, true).await;
    within("the repair", async {
        while other.presence.presence(&alice).await != Presence::Offline {
            yield_now().await;
        }
    })
    .await;
    let since = direct.clock.now();
    within("the other user", async {
        while other.presence.presence(&bob).await != (Presence::Online { since, connections: 1 }) {
            yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn after_an_outage_absence_proves_nothing_until_the_pods_have_come_back() {
    let (proxy, fixture, pod) = proxied(Duration::from_millis(200)).await;
    proxy.set(Link::Frozen);
    while pod.connection.is_available() {
        pod.presence.renew().await;
    }
    proxy.set(Link::Healthy);
    becomes(&pod.connection, true).await;
    assert_eq!(pod.presence.presence(&user("alice")).await, Presence::Unknown);
    within("certainty", async {
        while pod.presence.presence(&user("alice")).await != Presence::Offline {
            // Each time, because on a slow machine Redis may go away and come back once more.
            fixture.clock.advance(Duration::from_secs(2));
            yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_in_trouble_is_as_good_as_none_until_it_recovers() {
    for trouble in [
        "LOADING Redis is loading the dataset in memory",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "READONLY You can't write against a read only replica.",
        "MISCONF Redis is configured to save RDB snapshots",
        "NOAUTH Authentication required.",
        "CLUSTERDOWN The cluster is down",
    ] {
        let supervisor = chatify_building_blocks::tasks::Supervisor::new();
        let server = FakeServer::start(&supervisor).await;
        let fixture = Fixture::at(server.url());
        let pod = fixture.pod_with(fixture.options("pod"), hourly(5)).await;
        assert!(pod.connection.is_available(), "{trouble}");
        server.set_trouble(Some(trouble));
        assert_eq!(allowed(&pod, 20).await, 5, "{trouble}");
        assert_eq!(pod.presence.presence(&user("alice")).await, Presence::Unknown, "{trouble}");
        assert!(!pod.connection.is_available(), "{trouble}");
        assert_eq!(pod.connection.counts().outages, 1, "{trouble}");
        let (_code, detail) = trouble.split_once(' ').expect("several words");
        let reason = pod.connection.health().expect("an outage").reason;
        assert!(reason.contains(detail), "{reason}");
        let started_late = fixture.pod_with(fixture.options("late"), hourly(5)).await;
        assert!(!started_late.connection.is_available(), "{trouble}");
        server.set_trouble(None);
        becomes(&pod.connection, true).await;
        becomes(&started_late.connection, true).await;
        assert_eq!(pod.connection.health(), None, "{trouble}");
    }
}

/// Killed and back, empty, with nobody asking for anything: everything is recorded again.
#[tokio::test]
async fn a_restarted_redis_is_found_and_filled_again() {
    let mut server = OwnServer::start(&[]);
    let fixture = Fixture::at(server.url());
    let options = |pod| RedisOptions { health_interval: Duration::from_millis(50), ..fixture.options(pod) };
    let one = fixture.pod_with(options("one"), hourly(100)).await;
    let other = fixture.pod_with(options("other"), hourly(100)).await;
    for pod in [&one, &other] {
        within("redis", pod.connection.watch().wait_for(|state| *state != Availability::Away)).await.expect("redis");
    }
    let users: Vec<_> = (0..100).map(|number| user(&format!("user {number}"))).collect();
    for (number, user) in (0..).zip(&users) {
        one.presence.connected(user, ConnectionId(number)).await;
    }
    for _ in 0..3 {
        let outages = [&one, &other].map(|pod| pod.connection.counts().outages);
        server.restart();
        for (pod, before) in [&one, &other].into_iter().zip(outages) {
            within("the outage", async {
                while pod.connection.counts().outages == before {
                    yield_now().await;
                }
            })
            .await;
            becomes(&pod.connection, true).await;
        }
        let online = Presence::Online { since: fixture.clock.now(), connections: 1 };
        for user in &users {
            within("the user", async {
                loop {
                    match other.presence.presence(user).await {
                        Presence::Offline => panic!("it is not known that {user} is gone"),
                        Presence::Unknown => yield_now().await,
                        presence => return assert_eq!(presence, online),
                    }
                }
            })
            .await;
        }
    }
}

#[tokio::test]
async fn tls_and_a_password_come_from_the_connection_string() {
    let (server, certificate) = OwnServer::start_secret("pass:word@");
    let fixture = Fixture::at(format!("rediss://:pass%3Aword%40@127.0.0.1:{}", server.port));
    let options = RedisOptions { certificate_authorities: Some(certificate), ..fixture.options("pod") };
    let pod = fixture.pod_with(options.clone(), hourly(100)).await;
    within("redis", pod.connection.watch().wait_for(|state| *state != Availability::Away)).await.expect("a connection");
    assert_eq!(allowed(&pod, 5).await, 5);
    assert_eq!(pod.connection.counts().local_limits, 0);
    let bus = RedisSignalBus::start(Arc::clone(&pod.connection), &fixture.supervisor);
    within("the bus", bus.watch().wait_for(|listening| *listening)).await.expect("a bus");

    let wrong = format!("rediss://:wrong@127.0.0.1:{}", server.port);
    let refused = RedisOptions { connection_string: wrong.into(), ..options.clone() };
    assert!(!fixture.pod_with(refused, hourly(100)).await.connection.is_available());
    let distrusting = RedisOptions { certificate_authorities: None, ..options };
    assert!(!fixture.pod_with(distrusting, hourly(100)).await.connection.is_available());
}

/// A mistake of one command is not Redis's: the others go on.
#[tokio::test]
async fn a_wrong_command_does_not_make_redis_away() {
    let fixture = Fixture::single();
    let pod = fixture.pod("pod").await;
    let alice = user("alice");
    fixture.raw::<()>(&["SET", &pod.connection.keys().entries(&alice), "not a sorted set"]).await;
    for _ in 0..10 {
        assert_eq!(pod.presence.presence(&alice).await, Presence::Unknown);
    }
    assert!(pod.connection.is_available());
    assert_eq!(pod.presence.presence(&user("bob")).await, Presence::Offline);
}

#[tokio::test]
async fn redis_knows_the_pod_by_its_name() {
    let fixture = Fixture::single();
    let name = format!("pod {}", fixture.prefix);
    let _pod = fixture.pod(&name).await;
    let clients: String = fixture.raw(&["CLIENT", "LIST"]).await;
    let expected = format!(
        "name=chatify:{} ",
        crate::redis::keys::encoded_pod(&chatify_domain::PodId::parse(&name).expect("a pod"))
    );
    assert!(clients.contains(&expected), "{expected}");
}
