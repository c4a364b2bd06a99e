//! [`SignalBus`].

use super::{channel, user, within};
use crate::ports::SignalBus;
use crate::ports::signal::{SIGNAL_MAX_BYTES, SIGNALS_BEHIND_MAX, Signal, Topic};
use async_trait::async_trait;
use std::sync::Arc;

/// Opens the bus under test.
#[async_trait]
pub trait SignalFixture: Send + Sync {
    /// The bus as each pod of a deployment sees it: one pod at least. What one of them publishes from now on reaches all of them while nothing fails.
    async fn open(&self) -> Vec<Arc<dyn SignalBus>>;
}

/// Runs every case of this suite on fixtures that the expression makes.
#[macro_export]
macro_rules! signal_contract {
    ($fixture:expr) => {
        $crate::contract_cases!(
            signal,
            $fixture,
            every_subscriber_of_every_pod_gets_a_signal_once,
            signals_of_one_pod_keep_their_order,
            a_subscriber_gets_nothing_from_before,
            a_subscriber_far_behind_loses_the_oldest,
            what_is_too_long_is_dropped_and_counted,
        );
    };
}

fn typing(number: usize) -> Signal {
    Signal { topic: Topic::Scope(channel("a:b{c} é")), payload: number.to_string().into_bytes().into() }
}

/// The publisher's own subscribers included; topics and payloads are what they were.
pub async fn every_subscriber_of_every_pod_gets_a_signal_once(fixture: &dyn SignalFixture) {
    let pods = fixture.open().await;
    let mut subscribers: Vec<_> = pods.iter().flat_map(|pod| [pod.subscribe(), pod.subscribe()]).collect();
    let signals = [
        typing(0),
        Signal { topic: Topic::User(user("}{alice:é")), payload: [0, 255, b'\r', b'\n'].into() },
        Signal { topic: Topic::User(user("bob")), payload: [].into() },
    ];
    signals.iter().for_each(|signal| pods[0].publish(signal.clone()));
    for subscriber in &mut subscribers {
        for signal in &signals {
            assert_eq!(within("the signal", subscriber.next()).await.as_ref(), Some(signal));
        }
    }
    assert_eq!(pods[0].counts().published, 3);
    for other in &pods[1..] {
        assert_eq!((other.counts().published, other.counts().received), (0, 3));
    }
}

/// Whatever other pods publish in between.
pub async fn signals_of_one_pod_keep_their_order(fixture: &dyn SignalFixture) {
    let pods = fixture.open().await;
    let mut subscribers: Vec<_> = pods.iter().map(|pod| pod.subscribe()).collect();
    for number in 0..200 {
        pods[0].publish(typing(number));
        let bob = Signal { topic: Topic::User(user("bob")), payload: [].into() };
        pods.iter().skip(1).for_each(|pod| pod.publish(bob.clone()));
    }
    for subscriber in &mut subscribers {
        let mut expected = 0;
        while expected < 200 {
            let signal = within("the signal", subscriber.next()).await.expect("an open bus");
            if signal.topic == typing(0).topic {
                assert_eq!(signal, typing(expected));
                expected += 1;
            }
        }
    }
}

/// Signals are for those who are there.
pub async fn a_subscriber_gets_nothing_from_before(fixture: &dyn SignalFixture) {
    let pods = fixture.open().await;
    let mut early = pods[0].subscribe();
    pods[0].publish(typing(0));
    assert_eq!(within("the signal", early.next()).await, Some(typing(0)));
    let mut late = pods[0].subscribe();
    pods[0].publish(typing(1));
    assert_eq!(within("the signal", late.next()).await, Some(typing(1)));
}

/// It goes on with the newest, and what it missed is counted.
pub async fn a_subscriber_far_behind_loses_the_oldest(fixture: &dyn SignalFixture) {
    let pods = fixture.open().await;
    let mut subscriber = pods[0].subscribe();
    for number in 0..SIGNALS_BEHIND_MAX + 10 {
        pods[0].publish(typing(number));
    }
    for number in 10..SIGNALS_BEHIND_MAX + 10 {
        assert_eq!(within("the signal", subscriber.next()).await, Some(typing(number)));
    }
    assert_eq!(pods[0].counts().missed, 10);
}

/// The limit itself is allowed.
pub async fn what_is_too_long_is_dropped_and_counted(fixture: &dyn SignalFixture) {
    let pods = fixture.open().await;
    let mut subscribers: Vec<_> = pods.iter().map(|pod| pod.subscribe()).collect();
    let long = |length| Signal { topic: Topic::User(user("alice")), payload: vec![7; length].into() };
    pods[0].publish(long(SIGNAL_MAX_BYTES + 1));
    pods[0].publish(long(SIGNAL_MAX_BYTES));
    for subscriber in &mut subscribers {
        assert_eq!(within("the signal", subscriber.next()).await, Some(long(SIGNAL_MAX_BYTES)));
    }
    assert_eq!(pods[0].counts().dropped, 1);
}
