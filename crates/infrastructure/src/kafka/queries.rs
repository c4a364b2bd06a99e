//! Questions to the brokers: where the log begins and ends, what the group has committed, single records.
//!
//! librdkafka answers these by waiting, so one thread with a client of its own asks (`asker`).
//!
//! Every read of the history asks for the log's end, so whoever asks while a request is under way shares the **next** one: an answer was always
//! requested after its caller asked, and however many ask, the brokers see one request at a time.

use super::Shared;
use super::asker::Asker;
use super::client::{Role, client_config};
use super::error::KafkaStartError;
use super::position::kafka_partition;
use super::token::TokenError;
use chatify_application::ports::log::LogError;
use chatify_domain::{Partition, Timestamp};
use rdkafka::error::KafkaError;
use rdkafka::message::OwnedMessage;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// The client's own events are looked at this often while nobody asks.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// So many callers wait at most; only a log that is away lets them gather.
const WAITING_MAX: usize = 10_000;

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum QueryError {
    /// The brokers do not answer, or refuse.
    #[error("the brokers do not tell {what}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The client's own word for it.
        #[source]
        source: KafkaError,
    },
    /// Nothing came in time.
    #[error("the brokers did not send {what} in time")]
    Late {
        /// What was asked.
        what: &'static str,
    },
    /// There is no token to show to the brokers.
    #[error("the Kafka client has no token to show to the brokers")]
    Token(#[source] Arc<TokenError>),
    /// Too many wait already.
    #[error("too many requests wait for the brokers")]
    Overloaded,
    /// The log is closed.
    #[error("the log is closed")]
    Closed,
}

impl From<QueryError> for LogError {
    fn from(error: QueryError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

/// The first offset of a partition and the one behind its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) first: i64,
    pub(super) end: i64,
}

/// The newest record of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Newest {
    pub(super) offset: i64,
    pub(super) appended_at: Timestamp,
}

/// Asks. Dropping it ends its thread.
pub(super) struct Queries(Arc<Desk>);

type Reply<T> = oneshot::Sender<Result<T, QueryError>>;

/// An answer in the order of the partitions, in which each has its own trouble.
pub(super) type Each<T> = Vec<Result<T, QueryError>>;

/// Where questions wait for the thread.
#[derive(Default)]
struct Desk {
    waiting: Mutex<Waiting>,
    called: Condvar,
}

#[derive(Default)]
struct Waiting {
    ends: Vec<Reply<Each<i64>>>,
    bounds: Vec<Reply<Vec<Bounds>>>,
    committed: Vec<Reply<Vec<Option<i64>>>>,
    singles: VecDeque<Single>,
    closed: bool,
}

/// A question that only its caller has.
enum Single {
    OffsetAt(Partition, Timestamp, Reply<i64>),
    Newest(Partition, Bounds, Reply<Option<Newest>>),
    Record(Partition, i64, Reply<Option<OwnedMessage>>),
}

impl Queries {
    /// Starts the thread; the client connects when somebody asks.
    ///
    /// # Errors
    /// When the options make no client, or the operating system gives no thread.
    pub(super) fn start(shared: Arc<Shared>) -> Result<Arc<Self>, KafkaStartError> {
        let mut config = client_config(&shared.options, Role::Group)?;
        config.set("enable.partition.eof", "true").set("fetch.wait.max.ms", "10");
        let desk = Arc::new(Desk::default());
        let supervisor = shared.supervisor.clone();
        let clerk = Clerk { desk: Arc::clone(&desk), asker: Asker::new(shared, config) };
        supervisor.thread("kafka-queries", move || clerk.run()).map_err(KafkaStartError::Thread)?;
        Ok(Arc::new(Self(desk)))
    }

    /// For every partition the offset behind its last record. A partition without a leader has an error of its own and holds up the others only once,
    /// when its leader went.
    pub(super) async fn ends(&self) -> Result<Each<i64>, QueryError> {
        self.ask(|waiting, reply| waiting.ends.push(reply)).await
    }

    /// For every partition its ends.
    pub(super) async fn bounds(&self) -> Result<Vec<Bounds>, QueryError> {
        self.ask(|waiting, reply| waiting.bounds.push(reply)).await
    }

    /// For every partition the offset that the group has committed, if it has.
    pub(super) async fn committed(&self) -> Result<Vec<Option<i64>>, QueryError> {
        self.ask(|waiting, reply| waiting.committed.push(reply)).await
    }

    /// The offset of the first record appended at `at` or later, or the partition's end.
    pub(super) async fn offset_at(&self, partition: Partition, at: Timestamp) -> Result<i64, QueryError> {
        self.ask(|waiting, reply| waiting.singles.push_back(Single::OffsetAt(partition, at, reply))).await
    }

    /// The newest record within `bounds`; none when there is no record.
    pub(super) async fn newest(&self, partition: Partition, bounds: Bounds) -> Result<Option<Newest>, QueryError> {
        self.ask(|waiting, reply| waiting.singles.push_back(Single::Newest(partition, bounds, reply))).await
    }

    /// The record at this offset, if it is still there.
    pub(super) async fn record(&self, partition: Partition, offset: i64) -> Result<Option<OwnedMessage>, QueryError> {
        self.ask(|waiting, reply| waiting.singles.push_back(Single::Record(partition, offset, reply))).await
    }

    async fn ask<T>(&self, enqueue: impl FnOnce(&mut Waiting, Reply<T>)) -> Result<T, QueryError> {
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.0.lock();
            if waiting.count() >= WAITING_MAX {
                return Err(QueryError::Overloaded);
            }
            enqueue(&mut waiting, reply);
        }
        self.0.called.notify_one();
        answer.await.unwrap_or(Err(QueryError::Closed))
    }
}

impl Drop for Queries {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.called.notify_one();
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn count(&self) -> usize {
        self.ends.len() + self.bounds.len() + self.committed.len() + self.singles.len()
    }
}

/// The thread: takes what waits, asks, answers.
struct Clerk {
    desk: Arc<Desk>,
    asker: Asker,
}

impl Clerk {
    fn run(mut self) {
        while let Some(waiting) = self.next() {
            answer(waiting.ends, || self.asker.ends());
            answer(waiting.bounds, || self.asker.bounds());
            answer(waiting.committed, || self.asker.committed());
            for single in waiting.singles {
                match single {
                    Single::OffsetAt(partition, at, reply) => {
                        answer(vec![reply], || self.asker.offset_at(partition, at))
                    }
                    Single::Newest(partition, bounds, reply) => {
                        answer(vec![reply], || self.asker.newest(partition, bounds))
                    }
                    Single::Record(partition, offset, reply) => {
                        answer(vec![reply], || self.asker.record(partition, offset))
                    }
                }
            }
            self.asker.serve();
        }
    }

    /// What waits, once something does; none when the log was closed.
    fn next(&mut self) -> Option<Waiting> {
        let desk = Arc::clone(&self.desk);
        let mut waiting = desk.lock();
        loop {
            if waiting.closed {
                return None;
            }
            if waiting.count() > 0 {
                return Some(std::mem::take(&mut *waiting));
            }
            let (woken, timeout) = desk.called.wait_timeout(waiting, IDLE_POLL).unwrap_or_else(PoisonError::into_inner);
            waiting = woken;
            if timeout.timed_out() {
                drop(waiting);
                self.asker.serve();
                waiting = desk.lock();
            }
        }
    }
}

/// Asks once for everyone who still waits.
fn answer<T: Clone>(mut replies: Vec<Reply<T>>, ask: impl FnOnce() -> Result<T, QueryError>) {
    replies.retain(|reply| !reply.is_closed());
    let Some(last) = replies.pop() else { return };
    let outcome = ask();
    for reply in replies {
        drop(reply.send(outcome.clone()));
    }
    // Whoever went away meanwhile needs no answer.
    drop(last.send(outcome));
}

/// Adds one partition.
pub(super) fn add(list: &mut TopicPartitionList, topic: &str, partition: Partition, offset: Offset) {
    list.add_partition_offset(topic, kafka_partition(partition), offset)
        .expect("every offset that is used here has a number in the protocol");
}
