//! The producer and the thread that owns it: polls it, makes it anew after an error that it cannot survive, flushes it at the end.

use super::client::{ClientEvents, Role, client_config, on_thread};
use super::delivery::{Deliveries, not_accepted};
use super::error::{KafkaStartError, client_error};
use super::health::{CLOSED, HealthState, NotThere, REBUILDING};
use super::options::KafkaOptions;
use super::topic;
use chatify_application::ports::log::{AppendError, DurableSender};
use chatify_building_blocks::backoff::Backoff;
use chatify_building_blocks::error::chain;
use chatify_building_blocks::random::SystemRandom;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{Partition, Position};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// Sends records to the log's topic. It is given up, with what is in its queue, when it is dropped without [`Producer::close`].
pub(super) struct Producer {
    inner: Arc<Inner>,
    ended: watch::Receiver<bool>,
}

/// A record on its way, and who waits for its outcome.
pub(super) struct ToSend<'a> {
    pub(super) partition: i32,
    pub(super) key: &'a str,
    pub(super) value: &'a [u8],
    pub(super) headers: OwnedHeaders,
    pub(super) reply: DurableSender,
}

pub(super) type Native = BaseProducer<Deliveries>;

/// What callers and the thread share.
struct Inner {
    options: KafkaOptions,
    config: ClientConfig,
    health: Arc<HealthState>,
    /// Senders hold the lock for reading while they hand over one record, so that after it was taken for writing nobody else has the producer.
    current: RwLock<Option<Arc<Native>>>,
    order: Mutex<Order>,
    ordered: Condvar,
}

/// What the thread is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    /// Waits this long for what is not acknowledged.
    End(Duration),
}

/// How long the thread polls before it looks for errors and orders. Reports are handed on at once, so this delays nothing else.
const POLL: Duration = Duration::from_millis(50);
const DRAIN_POLL: Duration = Duration::from_millis(5);
/// Purging needs no broker; this is for a machine that is busy.
const SETTLE: Duration = Duration::from_secs(10);
const REBUILD: Backoff = Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(5) };

impl Producer {
    /// Makes the producer and starts its thread. Connects in the background; [`Producer::connected`] waits for that.
    ///
    /// # Errors
    /// When the options make no producer.
    pub(super) fn start(
        options: &KafkaOptions,
        health: &Arc<HealthState>,
        supervisor: &Supervisor,
    ) -> Result<Self, KafkaStartError> {
        let config = client_config(options, Role::Producer)?;
        let inner = Arc::new(Inner {
            options: options.clone(),
            config,
            health: Arc::clone(health),
            current: RwLock::new(None),
            order: Mutex::new(Order::Run),
            ordered: Condvar::new(),
        });
        let first = inner.make().map_err(|source| client_error("connecting", options, source))?;
        let first = Arc::new(first);
        inner.offer(&first);
        let (ending, ended) = watch::channel(false);
        let thread = Arc::clone(&inner);
        let run = move || {
            let ending = Ending(ending);
            thread.run(first);
            drop(ending);
        };
        // When it panics the process ends, because nothing could be sent any more.
        supervisor.thread("kafka-producer", run).map_err(KafkaStartError::Thread)?;
        Ok(Self { inner, ended })
    }

    /// Hands a record over. Never waits.
    ///
    /// # Errors
    /// The record is in no queue.
    pub(super) fn send(&self, record: ToSend<'_>) -> Result<(), AppendError> {
        let current = self.inner.current.read().unwrap_or_else(PoisonError::into_inner);
        let Some(producer) = current.as_ref() else { return Err(self.inner.no_producer()) };
        let outgoing = BaseRecord::with_opaque_to(&self.inner.options.topic, Box::new(record.reply))
            .partition(record.partition)
            .key(record.key)
            .payload(record.value)
            .headers(record.headers);
        producer.send(outgoing).map_err(|(error, _)| not_accepted(error))
    }

    /// Waits until the brokers have let the producer in.
    ///
    /// # Errors
    /// When they do not, or do not answer within the deadline.
    pub(super) async fn connected(&self) -> Result<(), KafkaStartError> {
        let deadline = self.inner.options.start_deadline;
        self.inner.health.wait_until_there(deadline).await.map_err(|error| match error {
            NotThere::Away(doing) => {
                let servers = self.inner.options.bootstrap_servers.clone();
                KafkaStartError::Unreachable { servers, doing, source: KafkaError::Canceled }
            }
            NotThere::Denied(code) => {
                KafkaStartError::Denied { doing: "to let this client in", source: KafkaError::Global(code) }
            }
        })
    }

    /// The positions behind the newest records of all partitions. Connects to all their leaders, so that the first send does not pay for it.
    ///
    /// # Errors
    /// When the brokers do not answer within the deadline.
    pub(super) async fn ends(&self) -> Result<Vec<(Partition, Position)>, KafkaStartError> {
        let inner = Arc::clone(&self.inner);
        let asked = on_thread("kafka-ends", move || inner.ends()).await.map_err(KafkaStartError::Thread)?;
        asked.map_err(|source| client_error("asking for the log's ends", &self.inner.options, source))
    }

    /// Refuses new records, waits for those that were accepted for as long as the options say, and ends the thread.
    pub(super) async fn close(&self) {
        self.inner.end(self.inner.options.close_deadline);
        // An error means that the thread is gone already.
        drop(self.ended.clone().wait_for(|ended| *ended).await);
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.inner.end(Duration::ZERO);
    }
}

impl Inner {
    fn make(&self) -> KafkaResult<Native> {
        let events = ClientEvents::new(&self.options, Role::Producer, &self.health);
        self.config.create_with_context(Deliveries { events, epoch: self.options.epoch })
    }

    /// The life of the thread.
    fn run(&self, first: Arc<Native>) {
        let mut next = Some(first);
        let mut failures = 0;
        while let Order::Run = self.order() {
            match next.take().map_or_else(|| self.make().map(Arc::new), Ok) {
                Ok(producer) => failures = self.serve(&producer, failures),
                Err(error) => {
                    tracing::error!(error = chain(&error), "the Kafka producer cannot be made");
                    failures += 1;
                }
            }
            self.pause(REBUILD.wait(failures, &SystemRandom));
        }
        self.health.is_away(CLOSED);
    }

    /// Polls `producer` until it is to end or has a fatal error. Gives the number of failures in a row.
    fn serve(&self, producer: &Arc<Native>, failures: u32) -> u32 {
        self.offer(producer);
        let mut failures = failures;
        loop {
            producer.poll(POLL);
            if self.health.current().away.is_none() {
                failures = 0;
            }
            if let Some((code, reason)) = producer.client().fatal_error() {
                tracing::error!(%code, reason, "the Kafka producer has a fatal error and is made anew");
                self.withdraw();
                settle(producer);
                // Away first: who sees the count must not take the old state for the new producer's.
                self.health.is_away(REBUILDING);
                self.health.count_rebuild();
                return failures + 1;
            }
            if let Order::End(deadline) = self.order() {
                self.withdraw();
                if !drained(producer, deadline) {
                    let records = producer.in_flight_count();
                    tracing::warn!(records, "the log ends with records that no broker has acknowledged");
                }
                settle(producer);
                return failures;
            }
        }
    }

    /// From here on records go to this producer.
    fn offer(&self, producer: &Arc<Native>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(producer));
    }

    /// From here on nobody hands anything to the producer.
    fn withdraw(&self) {
        drop(self.current.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Where the partitions end, which takes a connection to each of their leaders.
    fn ends(&self) -> KafkaResult<Vec<(Partition, Position)>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let producer = current.ok_or(KafkaError::Canceled)?;
        producer.client().fetch_metadata(Some(&self.options.topic), self.options.start_deadline)?;
        topic::ends(producer.client(), &self.options)
    }

    fn order(&self) -> Order {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, deadline: Duration) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if *order == Order::Run {
            *order = Order::End(deadline);
        }
        self.ordered.notify_all();
    }

    fn pause(&self, wait: Duration) {
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.ordered.wait_timeout_while(order, wait, |order| *order == Order::Run));
    }

    fn no_producer(&self) -> AppendError {
        let reason = match self.order() {
            Order::Run => REBUILDING,
            Order::End(_) => CLOSED,
        };
        AppendError::Unavailable { reason, source: Box::new(KafkaError::Canceled) }
    }
}

/// Polls until every record has its outcome, at most for `deadline`. librdkafka's own flush does not wait for reports that are queued here.
pub(super) fn drained(producer: &Native, deadline: Duration) -> bool {
    let mut left = deadline;
    while producer.in_flight_count() > 0 && !left.is_zero() {
        // Takes the whole of its time.
        producer.poll(DRAIN_POLL);
        left = left.saturating_sub(DRAIN_POLL);
    }
    producer.in_flight_count() == 0
}

/// Gives every record that is left an outcome, before the producer's destructor would forget them.
fn settle(producer: &Native) {
    producer.purge(PurgeConfig::default().queue().inflight());
    if !drained(producer, SETTLE) {
        tracing::error!(records = producer.in_flight_count(), "the Kafka client does not give up its records");
    }
}

/// Tells of the thread's end, however it ends.
struct Ending(watch::Sender<bool>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}
