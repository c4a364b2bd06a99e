//! Identical reads that happen at the same time are one read.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Entries of callers that went away are swept when there are more than this.
const SWEEP_ABOVE: usize = 1_024;

/// Runs one future per key at a time; whoever asks meanwhile gets the same outcome. Any of the callers drives it, so one that goes away
/// does not end it for the others.
pub(crate) struct SingleFlight<K, V: Clone> {
    flights: Mutex<Flights<K, V>>,
}

struct Flights<K, V: Clone> {
    by_key: HashMap<K, (u64, WeakShared<BoxFuture<'static, V>>)>,
    started: u64,
}

impl<K: Eq + Hash + Clone, V: Clone> SingleFlight<K, V> {
    pub(crate) fn new() -> Self {
        Self { flights: Mutex::new(Flights { by_key: HashMap::new(), started: 0 }) }
    }

    /// The outcome of the flight for `key`; `start` makes it when there is none.
    pub(crate) async fn run(&self, key: K, start: impl FnOnce() -> BoxFuture<'static, V>) -> V {
        let (number, flight) = self.board(&key, start);
        let outcome = flight.await;
        let mut flights = self.lock();
        // A later flight for the same key may have begun already.
        if flights.by_key.get(&key).is_some_and(|(current, _)| *current == number) {
            flights.by_key.remove(&key);
        }
        outcome
    }

    fn board(&self, key: &K, start: impl FnOnce() -> BoxFuture<'static, V>) -> (u64, Shared<BoxFuture<'static, V>>) {
        let mut flights = self.lock();
        if let Some((number, flight)) = flights.by_key.get(key)
            && let Some(flight) = flight.upgrade()
        {
            return (*number, flight);
        }
        if flights.by_key.len() > SWEEP_ABOVE {
            flights.by_key.retain(|_, (_, flight)| flight.upgrade().is_some());
        }
        flights.started += 1;
        let number = flights.started;
        let flight = start().shared();
        if let Some(weak) = flight.downgrade() {
            flights.by_key.insert(key.clone(), (number, weak));
        }
        (number, flight)
    }

    fn lock(&self) -> MutexGuard<'_, Flights<K, V>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::task::Poll;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn callers_share_a_flight_that_survives_the_one_who_began_it() {
        let flights: SingleFlight<u8, u32> = SingleFlight::new();
        let (answer, question) = oneshot::channel::<u32>();
        let started = Cell::new(0);
        let start = || {
            started.set(started.get() + 1);
            async move { question.await.expect("an answer") }.boxed()
        };
        let never = || panic!("there is a flight already");
        let mut first = Box::pin(flights.run(1, start));
        assert!(first.as_mut().now_or_never().is_none());
        let mut second = Box::pin(flights.run(1, never));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        let mut third = Box::pin(flights.run(1, never));
        assert!(poll_fn(|context| Poll::Ready(third.as_mut().poll(context).is_pending())).await);
        answer.send(7).expect("somebody waits");
        assert_eq!((second.await, third.await, started.get()), (7, 7, 1));
        // The next one is a flight of its own, and another key always is.
        assert_eq!(flights.run(1, || async { 8 }.boxed()).await, 8);
        assert_eq!(flights.lock().by_key.len(), 0);
    }

    #[tokio::test]
    async fn flights_that_everyone_left_are_swept() {
        let flights: SingleFlight<usize, ()> = SingleFlight::new();
        for key in 0..SWEEP_ABOVE * 3 {
            let left = flights.run(key, || std::future::pending().boxed()).now_or_never();
            assert!(left.is_none() && flights.lock().by_key.len() <= SWEEP_ABOVE + 1);
        }
    }
}
