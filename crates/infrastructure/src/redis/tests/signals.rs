//! Signals between pods.

use super::fixture::{Fixture, becomes, hourly};
use super::proxy::{Link, Proxy};
use crate::redis::{RedisOptions, RedisSignalBus};
use async_trait::async_trait;
use chatify_application::ports::SignalBus;
use chatify_application::ports::contract::signal::SignalFixture;
use chatify_application::ports::contract::{user, within};
use chatify_application::ports::signal::{Signal, Topic};
use std::sync::Arc;
use std::time::Duration;

async fn listens(bus: &RedisSignalBus, listening: bool) {
    within("the bus", bus.watch().wait_for(|now| *now == listening)).await.expect("the bus lives");
}

async fn open(fixture: &Fixture, options: RedisOptions) -> Arc<RedisSignalBus> {
    let pod = fixture.pod_with(options, hourly(1)).await;
    RedisSignalBus::start(pod.connection, &fixture.supervisor)
}

#[async_trait]
impl SignalFixture for Fixture {
    async fn open(&self) -> Vec<Arc<dyn SignalBus>> {
        let mut pods = Vec::<Arc<dyn SignalBus>>::new();
        for name in ["one", "two", "three"] {
            let bus = RedisSignalBus::start(self.pod(name).await.connection, &self.supervisor);
            listens(&bus, true).await;
            pods.push(bus);
        }
        pods
    }
}

fn typing(text: &str) -> Signal {
    Signal { topic: Topic::User(user("alice")), payload: text.as_bytes().into() }
}

#[tokio::test]
async fn a_cut_bus_goes_on_and_own_signals_need_no_redis() {
    let direct = Fixture::single();
    let proxy = Proxy::start(direct.address(), &direct.supervisor).await;
    let fixture = Fixture { prefix: direct.prefix.clone(), ..Fixture::at(proxy.url()) };
    let options = RedisOptions { health_interval: Duration::from_millis(10), ..fixture.options("behind the proxy") };
    let pod = fixture.pod_with(options, hourly(1)).await;
    let bus = RedisSignalBus::start(Arc::clone(&pod.connection), &fixture.supervisor);
    let other = open(&direct, direct.options("other")).await;
    let (mut own, mut others) = (bus.subscribe(), other.subscribe());
    listens(&bus, true).await;
    listens(&other, true).await;

    proxy.set(Link::Refusing);
    proxy.cut();
    listens(&bus, false).await;
    becomes(&pod.connection, false).await;
    bus.publish(typing("alone"));
    other.publish(typing("unheard"));
    assert_eq!(within("the signal", own.next()).await, Some(typing("alone")));
    assert_eq!(within("the signal", others.next()).await, Some(typing("unheard")));
    within("the drop", async {
        while bus.counts().dropped == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    proxy.set(Link::Healthy);
    becomes(&pod.connection, true).await;
    listens(&bus, true).await;
    other.publish(typing("heard"));
    bus.publish(typing("again"));
    assert_eq!(within("the signal", others.next()).await, Some(typing("heard")));
    assert_eq!(within("the signal", others.next()).await, Some(typing("again")));
    let mut got = vec![within("a signal", own.next()).await, within("a signal", own.next()).await];
    got.sort_by_key(|signal| signal.as_ref().map(|signal| signal.payload.clone()));
    assert_eq!(got, [Some(typing("again")), Some(typing("heard"))]);
    assert_eq!((bus.counts().published, bus.counts().received, bus.counts().dropped), (2, 1, 1));
}

/// A link that is cut without a word, as by a firewall, is noticed although nothing is said.
#[tokio::test]
async fn a_silent_link_is_noticed() {
    let direct = Fixture::single();
    let proxy = Proxy::start(direct.address(), &direct.supervisor).await;
    let fixture = Fixture::at(proxy.url());
    let options = RedisOptions {
        connect_timeout: Duration::from_millis(300),
        health_interval: Duration::from_millis(10),
        ..fixture.options("pod")
    };
    let bus = open(&fixture, options).await;
    listens(&bus, true).await;
    proxy.set(Link::Frozen);
    listens(&bus, false).await;
    proxy.set(Link::Healthy);
    listens(&bus, true).await;
}

#[tokio::test]
async fn what_is_no_signal_is_counted_and_skipped() {
    let fixture = Fixture::single();
    let bus = open(&fixture, fixture.options("pod")).await;
    let other = open(&fixture, fixture.options("other")).await;
    listens(&bus, true).await;
    let mut signals = bus.subscribe();
    let heard: usize = fixture.raw(&["PUBLISH", &format!("{}signals", fixture.prefix), "nonsense"]).await;
    assert!(heard >= 1);
    other.publish(typing("sense"));
    assert_eq!(within("the signal", signals.next()).await, Some(typing("sense")));
    assert_eq!(bus.counts().malformed, 1);
}
