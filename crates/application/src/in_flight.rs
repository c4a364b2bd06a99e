//! The sends whose outcome is not known yet, or not yet in the pod's memory, so that a repeat shares it instead of being sent again.

use crate::fingerprint::{Fingerprint, FingerprintHasher};
use crate::ports::log::{AppendError, Appended, Durable};
use chatify_domain::{LoggedMessage, MessageSent, Partition, Position};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Notify;

/// More sends than this at once are refused. The log's own queue is expected to be full long before.
const MAX_IN_FLIGHT: usize = 65_536;

/// What a flight comes to.
pub(crate) type Outcome = Shared<BoxFuture<'static, Result<Appended, Arc<AppendError>>>>;

/// All flights of this pod.
#[derive(Clone, Default)]
pub(crate) struct InFlight(Arc<Flights>);

#[derive(Default)]
struct Flights {
    table: Mutex<Table>,
    /// Notified whenever the last flight has landed.
    idle: Notify,
}

#[derive(Default)]
struct Table {
    by_name: HashMap<Fingerprint, Weak<Flight>, FingerprintHasher>,
    count: usize,
    /// Answered, but perhaps not yet taken into the pod's memory by its own fan-out.
    landed: HashMap<Fingerprint, LoggedMessage, FingerprintHasher>,
    /// The names in `landed`, in the order in which they came.
    landings: VecDeque<Fingerprint>,
}

/// What the beginning of a flight comes to.
pub(crate) enum Began<K> {
    /// It flies.
    Flight(Arc<Flight>),
    /// A flight of the same message has landed.
    Landed(LoggedMessage),
    /// The caller knew something about the message.
    Known(K),
}

/// One accepted record. It is in flight for as long as somebody waits for its outcome.
pub(crate) struct Flight {
    pub(crate) sent: Arc<MessageSent>,
    pub(crate) outcome: Outcome,
    /// `None` when the id is the server's own: nobody can repeat it.
    pub(crate) name: Option<Fingerprint>,
    flights: Arc<Flights>,
}

impl InFlight {
    /// The flight of the same message, if there is one.
    pub(crate) fn find(&self, name: Fingerprint) -> Option<Arc<Flight>> {
        self.0.lock().by_name.get(&name).and_then(Weak::upgrade)
    }

    /// The message of a flight that has landed, for as long as memory may not know it: until `applied` has reached it.
    pub(crate) fn landed(
        &self,
        name: Fingerprint,
        applied: impl Fn(Partition) -> Option<Position>,
    ) -> Option<LoggedMessage> {
        let mut table = self.0.lock();
        table.forget_applied(applied);
        table.landed.get(&name).cloned()
    }

    /// Remembers where a flight landed. To be called before anybody is told.
    pub(crate) fn land(
        &self,
        name: Fingerprint,
        message: &LoggedMessage,
        applied: impl Fn(Partition) -> Option<Position>,
    ) {
        let mut table = self.0.lock();
        if table.landed.insert(name, message.clone()).is_none() {
            table.landings.push_back(name);
        }
        table.forget_applied(applied);
    }

    /// The flight of the same message, what is known of it since it landed, or a new flight for what `append` accepts. Of several callers at once, one
    /// appends.
    pub(crate) fn begin<K>(
        &self,
        name: Option<Fingerprint>,
        sent: &Arc<MessageSent>,
        known: impl FnOnce() -> Option<K>,
        append: impl FnOnce() -> Result<Durable, AppendError>,
    ) -> Result<Began<K>, AppendError> {
        let mut table = self.0.lock();
        // A flight must never be dropped under the lock, which its drop takes: it leaves here by `return` in every case.
        if let Some(flight) = name.and_then(|name| table.by_name.get(&name)).and_then(Weak::upgrade) {
            return Ok(Began::Flight(flight));
        }
        if let Some(message) = name.and_then(|name| table.landed.get(&name)) {
            return Ok(Began::Landed(message.clone()));
        }
        // Asked last: what has left `landed` is in memory.
        if let (Some(_), Some(known)) = (name, known()) {
            return Ok(Began::Known(known));
        }
        if table.count >= MAX_IN_FLIGHT {
            return Err(AppendError::Overloaded);
        }
        let durable = append()?;
        let outcome = durable.map(|appended| appended.map_err(Arc::new)).boxed().shared();
        let flight = Arc::new(Flight { sent: Arc::clone(sent), outcome, name, flights: Arc::clone(&self.0) });
        table.count += 1;
        if let Some(name) = name {
            table.by_name.insert(name, Arc::downgrade(&flight));
        }
        Ok(Began::Flight(flight))
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn idle(&self) {
        loop {
            let landed = self.0.idle.notified();
            tokio::pin!(landed);
            // Registered before the count is read, so that no landing is missed.
            landed.as_mut().enable();
            if self.0.lock().count == 0 {
                return;
            }
            landed.await;
        }
    }
}

impl Table {
    fn forget_applied(&mut self, applied: impl Fn(Partition) -> Option<Position>) {
        while let Some(oldest) = self.landings.front() {
            let in_memory = self
                .landed
                .get(oldest)
                .is_none_or(|landed| applied(landed.partition).is_some_and(|applied| applied >= landed.position));
            // A pod whose own fan-out is that far behind forgets the oldest: a repeat of it enters the log, where every consumer drops it.
            if !in_memory && self.landings.len() <= MAX_IN_FLIGHT {
                return;
            }
            self.landed.remove(oldest);
            self.landings.pop_front();
        }
    }
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut table = self.flights.lock();
        table.count -= 1;
        if let Some(name) = self.name {
            // Another flight of the same name can have begun when this one had nobody left.
            if table.by_name.get(&name).is_some_and(|flight| flight.strong_count() == 0) {
                table.by_name.remove(&name);
            }
        }
        if table.count == 0 {
            self.flights.idle.notify_waiters();
        }
    }
}

/// The same failure for each of several senders.
pub(crate) fn share(error: &Arc<AppendError>) -> AppendError {
    match &**error {
        AppendError::Overloaded => AppendError::Overloaded,
        AppendError::Unavailable { reason, .. } => {
            AppendError::Unavailable { reason, source: Box::new(Arc::clone(error)) }
        }
        AppendError::TooLarge => AppendError::TooLarge,
        AppendError::Unknown => AppendError::Unknown,
    }
}
