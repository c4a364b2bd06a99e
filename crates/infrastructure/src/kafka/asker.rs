//! How the queries' client asks the brokers. It fetches nothing meanwhile, because a connection answers one request after the other and a waiting fetch
//! would hold the others up.

use super::Shared;
use super::client::{ClientEvents, Role};
use super::closing::close_on_thread;
use super::insist::{Patience, insist};
use super::options::KafkaOptions;
use super::queries::{Bounds, Each, Newest, QueryError, add};
use super::token;
use chatify_domain::{Partition, Timestamp};
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, OwnedMessage};
use rdkafka::{Offset, TopicPartitionList};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// No answer within this is an answer: the brokers are away.
const DEADLINE: Duration = Duration::from_secs(5);
/// A partition that moves holds up the questions about all others, so it is given up sooner.
const PATIENCE: Patience = Patience { deadline: DEADLINE, moving: Duration::from_secs(2) };
/// So many of them are taken at once: brokers that are away make several a second, and the next question waits meanwhile.
const EVENTS_AT_ONCE: usize = 1_000;
/// While a partition has no leader, the client is told to learn of a new one this often.
const LEARN_EVERY: Duration = Duration::from_millis(250);
/// That may take so long, because questions wait meanwhile.
const LEARN_DEADLINE: Duration = Duration::from_secs(1);
/// A client whose requests time out this often in a row is replaced, for it may be the client that hangs and not the brokers.
const TIMEOUTS_BEFORE_RENEWAL: u32 = 6;

/// The client, and how it is asked. Every call waits for brokers.
pub(super) struct Asker {
    shared: Arc<Shared>,
    config: ClientConfig,
    client: Option<Client>,
    timeouts: u32,
    /// Set while a partition has no leader: when the client was last told to learn of one, in the time of the clock's uptime.
    leaderless: Option<Duration>,
}

type Client = BaseConsumer<ClientEvents>;

impl Asker {
    pub(super) fn new(shared: Arc<Shared>, config: ClientConfig) -> Self {
        Self { shared, config, client: None, timeouts: 0, leaderless: None }
    }

    pub(super) fn ends(&mut self) -> Result<Each<i64>, QueryError> {
        self.offsets(Offset::End)
    }

    pub(super) fn bounds(&mut self) -> Result<Vec<Bounds>, QueryError> {
        // The beginning first: it only grows, so it cannot be behind the end.
        let firsts = self.offsets(Offset::Beginning)?.into_iter().collect::<Result<Vec<_>, _>>()?;
        let ends = self.offsets(Offset::End)?.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(firsts.into_iter().zip(ends).map(|(first, end)| Bounds { first, end: end.max(first) }).collect())
    }

    /// The offsets of this end of every partition. One request per broker, because the protocol takes the two ends for times.
    fn offsets(&mut self, end: Offset) -> Result<Each<i64>, QueryError> {
        const WHAT: &str = "the ends of the log";
        let wanted = self.every_partition(end);
        // Whoever leads next needs a moment, which the first answer waits for. After that the partitions that can answer do not wait for those that cannot.
        let whole = self.leaderless.is_none();
        self.learn_leaders();
        let found = self.each(WHAT, whole, |client, time| client.offsets_for_times(wanted.clone(), time))?;
        let missing = found.iter().any(Result::is_err);
        self.leaderless = missing.then(|| self.leaderless.unwrap_or_else(|| self.shared.clock.uptime()));
        let told = |found: KafkaResult<Option<i64>>| match found {
            Ok(offset) => offset.ok_or(QueryError::Late { what: WHAT }),
            Err(source) => Err(QueryError::Refused { what: WHAT, source }),
        };
        Ok(found.into_iter().map(told).collect())
    }

    /// librdkafka takes "nobody leads" for an answer and does not look again by itself for a minute.
    fn learn_leaders(&mut self) {
        let now = self.shared.clock.uptime();
        if let Some(learned) = self.leaderless
            && now.saturating_sub(learned) >= LEARN_EVERY
            && let Some(client) = &self.client
        {
            self.leaderless = Some(now);
            // Only for what it leaves in the client's memory.
            drop(client.fetch_metadata(Some(&self.shared.options.topic), LEARN_DEADLINE));
        }
    }

    pub(super) fn committed(&mut self) -> Result<Vec<Option<i64>>, QueryError> {
        let wanted = self.every_partition(Offset::Invalid);
        self.insist("what is committed", |client, patience| client.committed_offsets(wanted.clone(), patience))
    }

    pub(super) fn offset_at(&mut self, partition: Partition, at: Timestamp) -> Result<i64, QueryError> {
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
    pub(super) fn newest(&mut self, partition: Partition, bounds: Bounds) -> Result<Option<Newest>, QueryError> {
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

    pub(super) fn record(&mut self, partition: Partition, offset: i64) -> Result<Option<OwnedMessage>, QueryError> {
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
    pub(super) fn serve(&self) {
        let Some(client) = &self.client else { return };
        for _ in 0..EVENTS_AT_ONCE {
            if events_waiting(client) == 0 {
                return;
            }
            drop(client.poll(Duration::ZERO));
        }
    }

    /// Asks about partitions until all of them are answered for; the offsets in the order of the partitions.
    fn insist(
        &mut self,
        what: &'static str,
        ask: impl Fn(&Client, Duration) -> KafkaResult<TopicPartitionList>,
    ) -> Result<Vec<Option<i64>>, QueryError> {
        let found = self.each(what, true, ask)?;
        found.into_iter().collect::<KafkaResult<_>>().map_err(|source| QueryError::Refused { what, source })
    }

    /// Asks about partitions until somebody answers: for all of them, if `whole`, as long as there is patience.
    fn each(
        &mut self,
        what: &'static str,
        whole: bool,
        ask: impl Fn(&Client, Duration) -> KafkaResult<TopicPartitionList>,
    ) -> Result<Vec<KafkaResult<Option<i64>>>, QueryError> {
        let shared = Arc::clone(&self.shared);
        self.request(what, |client| {
            let mut partly = None;
            let outcome = insist(client, &shared.options.topic, &*shared.clock, PATIENCE, |time| {
                partly = None;
                let found = by_partition(&ask(client, time)?);
                let missing = found.iter().find_map(|one| one.as_ref().err().cloned());
                match missing.filter(|_| whole) {
                    None => Ok(found),
                    Some(error) => {
                        partly = Some(found);
                        Err(error)
                    }
                }
            });
            outcome.or_else(|error| partly.ok_or_else(|| told_apart(client, &shared.options, error)))
        })
    }

    fn request<T>(&mut self, what: &'static str, ask: impl FnOnce(&Client) -> KafkaResult<T>) -> Result<T, QueryError> {
        let answer = ask(self.client(what)?);
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

    fn client(&mut self, what: &'static str) -> Result<&Client, QueryError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => self.make(what)?,
        };
        Ok(self.client.insert(client))
    }

    /// A client that can be asked at once: it is polled only afterwards, so it gets its first token here.
    fn make(&self, what: &'static str) -> Result<Client, QueryError> {
        let options = &self.shared.options;
        let events = ClientEvents::new(options, Role::Group, &self.shared.health);
        let refused = |source| QueryError::Refused { what, source };
        let client: Client = self.config.create_with_context(events).map_err(refused)?;
        match token::give(client.client(), options.security.token_file.as_deref()) {
            Ok(()) => Ok(client),
            Err(error) => {
                close_on_thread(client);
                Err(QueryError::Token(Arc::new(error)))
            }
        }
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

/// How many events the client has for whoever polls it. A poll does not tell: it gives nothing for most of them, and nothing when there is none.
#[expect(unsafe_code, reason = "rdkafka has this call for producers only")]
fn events_waiting(client: &Client) -> i32 {
    // SAFETY: the client lives as long as it is borrowed; the call reads the length of its queue under the queue's own lock.
    unsafe { rdkafka::bindings::rd_kafka_outq_len(client.client().native_ptr()) }
}

/// librdkafka has one error for a topic that is not there and for one that nobody leads. The brokers tell which it is.
fn told_apart(client: &Client, options: &KafkaOptions, error: KafkaError) -> KafkaError {
    if error.rdkafka_error_code() != Some(RDKafkaErrorCode::UnknownPartition) {
        return error;
    }
    let Ok(metadata) = client.fetch_metadata(Some(&options.topic), LEARN_DEADLINE) else { return error };
    let found = metadata.topics().iter().find(|found| found.name() == options.topic);
    KafkaError::MetadataFetch(match found.map(|found| (found.error(), found.partitions().len())) {
        Some((Some(code), _)) => code.into(),
        Some((None, count)) if count >= options.partitions as usize => RDKafkaErrorCode::LeaderNotAvailable,
        Some((None, _)) | None => RDKafkaErrorCode::UnknownTopicOrPartition,
    })
}

/// The offsets in the order of their partitions; none where the answer is "no such offset".
fn by_partition(found: &TopicPartitionList) -> Vec<KafkaResult<Option<i64>>> {
    let mut elements = found.elements();
    elements.sort_unstable_by_key(|element| element.partition());
    elements
        .iter()
        .map(|element| {
            element.error().map_err(no_such_partition)?;
            Ok(match element.offset() {
                Offset::Offset(offset) => Some(offset),
                Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => None,
            })
        })
        .collect()
}

/// Said of one of several partitions, librdkafka's own code means that the topic has fewer. Said of a whole question it does not ([`told_apart`]).
fn no_such_partition(error: KafkaError) -> KafkaError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::UnknownPartition) => KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownTopicOrPartition),
        Some(_) | None => error,
    }
}

/// Reads what is assigned until `visit` has seen enough, the partition ends, or no time is left.
fn read(
    client: &Client,
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
