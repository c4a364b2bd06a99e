//! Questions to the brokers: where the log begins and ends, what the group has committed, single records.
//!
//! librdkafka answers these by waiting, so one thread with a client of its own asks. The client fetches nothing meanwhile, because a connection
//! answers one request after the other and a waiting fetch would hold the others up.
//!
//! Every read of the history asks for the log's end, so whoever asks while a request is under way shares the **next** one: an answer was always
//! requested after its caller asked, and however many ask, the brokers see one request at a time.

use super::Shared;
use super::client::{ClientEvents, Role, client_config};
use super::closing::close_on_thread;
use super::error::KafkaStartError;
use super::insist::{Patience, insist};
use super::position::kafka_partition;
use chatify_application::ports::log::LogError;
use chatify_domain::{Partition, Timestamp};
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, OwnedMessage};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// No answer within this is an answer: the brokers are away.
const DEADLINE: Duration = Duration::from_secs(5);
/// A partition that moves holds up the questions about all others, so it is given up sooner.
const PATIENCE: Patience = Patience { deadline: DEADLINE, moving: Duration::from_secs(2) };
/// The client's own events are looked at this often while nobody asks.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// So many callers wait at most; only a log that is away lets them gather.
const WAITING_MAX: usize = 10_000;
/// A client whose requests time out this often in a row is replaced, for it may be the client that hangs and not the brokers.
const TIMEOUTS_BEFORE_RENEWAL: u32 = 6;

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

/// Where questions wait for the thread.
#[derive(Default)]
struct Desk {
    waiting: Mutex<Waiting>,
    called: Condvar,
}

#[derive(Default)]
struct Waiting {
    ends: Vec<Reply<Vec<i64>>>,
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
        let clerk = Clerk { desk: Arc::clone(&desk), asker: Asker { shared, config, client: None, timeouts: 0 } };
        supervisor.thread("kafka-queries", move || clerk.run()).map_err(KafkaStartError::Thread)?;
        Ok(Arc::new(Self(desk)))
    }

    /// For every partition the offset behind its last record.
    pub(super) async fn ends(&self) -> Result<Vec<i64>, QueryError> {
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
            answer(waiting.ends, || self.asker.offsets(Offset::End));
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
            self.asker.serve(Duration::ZERO);
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
                self.asker.serve(Duration::ZERO);
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

/// The client, and how it is asked.
struct Asker {
    shared: Arc<Shared>,
    config: ClientConfig,
    client: Option<BaseConsumer<ClientEvents>>,
    timeouts: u32,
}

impl Asker {
    fn bounds(&mut self) -> Result<Vec<Bounds>, QueryError> {
        // The beginning first: it only grows, so it cannot be behind the end.
        let firsts = self.offsets(Offset::Beginning)?;
        let ends = self.offsets(Offset::End)?;
        Ok(firsts.into_iter().zip(ends).map(|(first, end)| Bounds { first, end: end.max(first) }).collect())
    }

    /// The offsets of this end of every partition. One request per broker, because the protocol takes the two ends for times.
    fn offsets(&mut self, end: Offset) -> Result<Vec<i64>, QueryError> {
        const WHAT: &str = "the ends of the log";
        let wanted = self.every_partition(end);
        let found = self.insist(WHAT, |client, patience| client.offsets_for_times(wanted.clone(), patience))?;
        found.into_iter().map(|offset| offset.ok_or(QueryError::Late { what: WHAT })).collect()
    }

    fn committed(&mut self) -> Result<Vec<Option<i64>>, QueryError> {
        let wanted = self.every_partition(Offset::Invalid);
        self.insist("what is committed", |client, patience| client.committed_offsets(wanted.clone(), patience))
    }

    fn offset_at(&mut self, partition: Partition, at: Timestamp) -> Result<i64, QueryError> {
        const WHAT: &str = "a position by its time";
        for place in [Offset::Offset(at.as_millis().max(0)), Offset::End] {
            let wanted = self.one_partition(partition, place);
            let found = self.insist(WHAT, |client, patience| client.offsets_for_times(wanted.clone(), patience))?;
            if let Some(Some(offset)) = found.first() {
                return Ok(*offset);
            }
        }
        Err(QueryError::Late { what: WHAT })
    }

    /// The last offsets need not be records: a transaction's marker takes one as well. So steps back grow until there is a record.
    fn newest(&mut self, partition: Partition, bounds: Bounds) -> Result<Option<Newest>, QueryError> {
        let mut back = 1i64;
        loop {
            let from = bounds.end.saturating_sub(back).max(bounds.first);
            let mut newest = None;
            if from < bounds.end {
                self.scan(partition, from, |message| {
                    if message.offset() < bounds.end {
                        let appended_at = Timestamp::from_millis(message.timestamp().to_millis().unwrap_or(0));
                        newest = Some(Newest { offset: message.offset(), appended_at });
                    }
                    if message.offset() + 1 < bounds.end { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })?;
            }
            if newest.is_some() || from <= bounds.first {
                return Ok(newest);
            }
            back = back.saturating_mul(16);
        }
    }

    fn record(&mut self, partition: Partition, offset: i64) -> Result<Option<OwnedMessage>, QueryError> {
        let mut found = None;
        self.scan(partition, offset, |message| {
            found = (message.offset() == offset).then(|| message.detach());
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Shows the records from `from` on until `visit` has seen enough or there are no more.
    fn scan(
        &mut self,
        partition: Partition,
        from: i64,
        visit: impl FnMut(&BorrowedMessage<'_>) -> ControlFlow<()>,
    ) -> Result<(), QueryError> {
        const WHAT: &str = "a record";
        let place = self.one_partition(partition, Offset::Offset(from));
        let clock = Arc::clone(&self.shared.clock);
        self.request(WHAT, |client| {
            client.assign(&place)?;
            let until = clock.uptime() + DEADLINE;
            let seen = read(client, visit, || until.saturating_sub(clock.uptime()));
            client.unassign()?;
            seen
        })
    }

    /// Lets the client do what it does only when it is asked for news: write log lines, fetch tokens.
    fn serve(&self, wait: Duration) {
        if let Some(client) = &self.client {
            drop(client.poll(wait));
        }
    }

    /// Asks about partitions until somebody answers; the offsets in the order of the partitions.
    fn insist(
        &mut self,
        what: &'static str,
        ask: impl Fn(&BaseConsumer<ClientEvents>, Duration) -> KafkaResult<TopicPartitionList>,
    ) -> Result<Vec<Option<i64>>, QueryError> {
        let shared = Arc::clone(&self.shared);
        self.request(what, |client| {
            insist(client, &shared.options.topic, &*shared.clock, PATIENCE, |patience| {
                by_partition(&ask(client, patience)?)
            })
        })
    }

    fn request<T>(
        &mut self,
        what: &'static str,
        ask: impl FnOnce(&BaseConsumer<ClientEvents>) -> KafkaResult<T>,
    ) -> Result<T, QueryError> {
        let answer = self.client().and_then(ask);
        match &answer {
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut) => self.timeouts += 1,
            Ok(_) | Err(_) => self.timeouts = 0,
        }
        if self.timeouts >= TIMEOUTS_BEFORE_RENEWAL {
            self.timeouts = 0;
            tracing::warn!("the brokers have not answered for long; asking with a new client");
            close_on_thread(self.client.take());
        }
        answer.map_err(|source| QueryError::Refused { what, source })
    }

    fn client(&mut self) -> KafkaResult<&BaseConsumer<ClientEvents>> {
        if self.client.is_none() {
            let events = ClientEvents::new(&self.shared.options, Role::Group, &self.shared.health);
            self.client = Some(self.config.create_with_context(events)?);
        }
        Ok(self.client.as_ref().expect("it was made above"))
    }

    fn every_partition(&self, offset: Offset) -> TopicPartitionList {
        let options = &self.shared.options;
        let mut list = TopicPartitionList::with_capacity(options.partitions as usize);
        for number in 0..options.partitions {
            add(&mut list, &options.topic, Partition(number), offset);
        }
        list
    }

    fn one_partition(&self, partition: Partition, offset: Offset) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(1);
        add(&mut list, &self.shared.options.topic, partition, offset);
        list
    }
}

/// Adds one partition.
pub(super) fn add(list: &mut TopicPartitionList, topic: &str, partition: Partition, offset: Offset) {
    list.add_partition_offset(topic, kafka_partition(partition), offset)
        .expect("every offset that is used here has a number in the protocol");
}

/// The offsets in the order of their partitions; none where the answer is "no such offset".
fn by_partition(found: &TopicPartitionList) -> KafkaResult<Vec<Option<i64>>> {
    let mut elements = found.elements();
    elements.sort_unstable_by_key(|element| element.partition());
    elements
        .iter()
        .map(|element| {
            element.error()?;
            Ok(match element.offset() {
                Offset::Offset(offset) => Some(offset),
                Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => None,
            })
        })
        .collect()
}

/// Reads what is assigned until `visit` has seen enough, the partition ends, or no time is left.
fn read(
    client: &BaseConsumer<ClientEvents>,
    mut visit: impl FnMut(&BorrowedMessage<'_>) -> ControlFlow<()>,
    left: impl Fn() -> Duration,
) -> KafkaResult<()> {
    loop {
        let left = left();
        if left.is_zero() {
            return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
        }
        match client.poll(left) {
            Some(Ok(message)) if visit(&message).is_break() => return Ok(()),
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            // Retention was faster.
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => return Ok(()),
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(error),
            // Connections break and come back; the time decides.
            Some(Ok(_) | Err(_)) | None => {}
        }
    }
}
