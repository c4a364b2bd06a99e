//! What an operator does with dead letters: list them, look at one, put one back into the log.
//!
//! Each call opens a client of its own and reads the topic as it is at that moment, so it works beside running pods and without any.

pub use super::letters::{NoOrigin, Origin};

use super::Shared;
use super::client::{ClientEvents, Role, client_config, on_thread};
use super::error::{KafkaOptionsError, KafkaStartError, client_error};
use super::health::HealthState;
use super::letters::{Letter, Letters};
use super::options::KafkaOptions;
use super::position::{kafka_partition, partition, partition_of, position};
use super::queries::add;
use crate::record;
use chatify_application::ports::log::Undecodable;
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::error::{Classify, ErrorKind};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{Partition, Position, Timestamp};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Message, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// No broker may be silent for longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// A record that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it was; its name in the other calls.
    pub origin: Origin,
    /// Why it was set aside: `malformed`, `unknown-kind` or `invalid`.
    pub class: String,
    /// When the log took it.
    pub appended_at: Option<Timestamp>,
    /// Its key, which is a scope if its writer knew what it did.
    pub key: Option<String>,
    /// The bytes of its value.
    pub size: usize,
    /// It was put back into the log.
    pub replayed: bool,
}

/// A record that was set aside, with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownLetter {
    /// What [`list`] says of it.
    pub letter: DeadLetter,
    /// Its value, or the beginning of it.
    pub value: Vec<u8>,
    /// There is more than `value`.
    pub cut: bool,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum DeadLettersError {
    /// The options make no client, the brokers do not answer, or they refuse us.
    #[error(transparent)]
    Client(#[from] KafkaStartError),
    /// There is no such topic, so nothing was ever set aside.
    #[error("there is no topic `{topic}`")]
    NoTopic {
        /// The dead-letter topic.
        topic: String,
    },
    /// No letter has this origin.
    #[error("no dead letter comes from {0}")]
    NotFound(Origin),
    /// It can still have no effect.
    #[error("the record from {origin} still cannot be read by this release")]
    StillUndecodable {
        /// Which.
        origin: Origin,
        /// Why.
        #[source]
        class: Undecodable,
    },
    /// It is back in the log since an earlier call.
    #[error("the record from {0} was put back into the log already")]
    AlreadyReplayed(Origin),
    /// The value was too large for the topic, and what is left of it is no event.
    #[error("the dead letter from {0} does not have all bytes of the record")]
    Cut(Origin),
}

impl Classify for DeadLettersError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Client(error) => error.kind(),
            Self::NoTopic { .. } | Self::NotFound(_) => ErrorKind::NotFound,
            Self::StillUndecodable { .. } | Self::Cut(_) => ErrorKind::Validation,
            Self::AlreadyReplayed(_) => ErrorKind::Conflict,
        }
    }
}

impl From<KafkaOptionsError> for DeadLettersError {
    fn from(error: KafkaOptionsError) -> Self {
        Self::Client(error.into())
    }
}

/// Every dead letter, one per origin, in the order of origins.
///
/// # Errors
/// When the topic cannot be read.
pub async fn list(options: &KafkaOptions, clock: Arc<dyn Clock>) -> Result<Vec<DeadLetter>, DeadLettersError> {
    let mut letters: BTreeMap<Origin, DeadLetter> = BTreeMap::new();
    let mut replayed = Vec::new();
    let desk = desk(options, clock);
    let (letters, replayed) = blocking(move || {
        each_letter(&desk, |letter| {
            if letter.replayed {
                replayed.push(letter.origin);
            } else {
                letters.entry(letter.origin.clone()).or_insert_with(|| summary(letter));
            }
        })?;
        Ok((letters, replayed))
    })
    .await?;
    let mut letters: BTreeMap<Origin, DeadLetter> = letters;
    for origin in replayed {
        if let Some(letter) = letters.get_mut(&origin) {
            letter.replayed = true;
        }
    }
    Ok(letters.into_values().collect())
}

/// One dead letter with at most `max_bytes` of its value.
///
/// # Errors
/// When there is none from `origin`, or the topic cannot be read.
pub async fn show(
    options: &KafkaOptions,
    clock: Arc<dyn Clock>,
    origin: Origin,
    max_bytes: usize,
) -> Result<ShownLetter, DeadLettersError> {
    let (mut letter, replayed) = find(desk(options, clock), origin).await?;
    letter.replayed = replayed;
    let mut value = letter.value.take().unwrap_or_default();
    value.truncate(max_bytes);
    let letter = summary(letter);
    Ok(ShownLetter { cut: value.len() < letter.size, letter, value })
}

/// Puts a dead letter back into the log, at its end, when this release can read it. Gives its new position.
///
/// # Errors
/// When it still cannot be read, was put back before, or a topic does not answer. After [`DeadLettersError::Client`] it may be in the log; trying
/// again is safe within the deduplication window.
pub async fn replay(
    options: &KafkaOptions,
    clock: Arc<dyn Clock>,
    origin: Origin,
) -> Result<(Partition, Position), DeadLettersError> {
    let desk = desk(options, clock);
    let (letter, replayed) = find(Arc::clone(&desk), origin).await?;
    let origin = letter.origin;
    if replayed {
        return Err(DeadLettersError::AlreadyReplayed(origin));
    }
    let value = letter.value.unwrap_or_default();
    if value.len() < letter.size {
        return Err(DeadLettersError::Cut(origin));
    }
    let event =
        record::decode(&value).map_err(|class| DeadLettersError::StillUndecodable { origin: origin.clone(), class })?;
    let key = event.scope().to_string();
    let partition = partition_of(event.scope(), options.partitions);
    let (kind, schema) = (event.kind(), record::schema(&event).to_string());
    let from = origin.to_string();
    let headers = OwnedHeaders::new_with_capacity(3)
        .insert(Header { key: "type", value: Some(kind) })
        .insert(Header { key: "schema", value: Some(schema.as_str()) })
        .insert(Header { key: "replayed-from", value: Some(from.as_str()) });
    let record = FutureRecord::to(&options.topic)
        .key(&key)
        .payload(&value)
        .headers(headers)
        .partition(kafka_partition(partition));
    let refused = |error| client_error("putting a record back into the log", options, error);
    let offset = produce(&desk, record).await.map_err(refused)?;
    Letters::new(Arc::clone(&desk)).note_replayed(&origin).await.map_err(refused)?;
    Ok((partition, position(options.epoch, offset).unwrap_or(Position::MAX)))
}

/// What the clients of one call share.
fn desk(options: &KafkaOptions, clock: Arc<dyn Clock>) -> Arc<Shared> {
    let health = Arc::new(HealthState::new(Arc::clone(&clock)));
    Arc::new(Shared { options: options.clone(), clock, supervisor: Supervisor::new(), health })
}

async fn produce(desk: &Arc<Shared>, record: FutureRecord<'_, String, Vec<u8>>) -> Result<i64, KafkaError> {
    let mut config =
        client_config(&desk.options, Role::Producer).map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    config.set("message.timeout.ms", DEADLINE.as_millis().to_string()).set("request.timeout.ms", "5000");
    let events = ClientEvents::new(&desk.options, Role::Producer, &desk.health);
    let producer: FutureProducer<ClientEvents> = config.create_with_context(events)?;
    let sent = producer.send(record, DEADLINE).await;
    super::closing::close_on_thread(producer);
    sent.map(|delivery| delivery.offset).map_err(|(error, _)| error)
}

/// The letter from `origin`, and whether it was put back into the log.
async fn find(desk: Arc<Shared>, origin: Origin) -> Result<(Letter, bool), DeadLettersError> {
    blocking(move || {
        let (mut found, mut replayed) = (None, false);
        each_letter(&desk, |letter| {
            if letter.origin == origin {
                replayed |= letter.replayed;
                found = found.take().or((!letter.replayed).then_some(letter));
            }
        })?;
        Ok((found.ok_or(DeadLettersError::NotFound(origin))?, replayed))
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DeadLettersError> + Send + 'static,
) -> Result<T, DeadLettersError> {
    on_thread("kafka-dead-letters", work).await.map_err(KafkaStartError::Thread)?
}

fn summary(letter: Letter) -> DeadLetter {
    DeadLetter {
        origin: letter.origin,
        class: letter.class,
        appended_at: letter.appended_at,
        key: letter.key.map(|key| String::from_utf8_lossy(&key).into_owned()),
        size: letter.size,
        replayed: letter.replayed,
    }
}

/// Shows every letter that the topic has now. Waits for brokers.
fn each_letter(desk: &Shared, mut visit: impl FnMut(Letter)) -> Result<(), DeadLettersError> {
    let (options, topic) = (&desk.options, &desk.options.dead_letter_topic);
    let refused = |error| client_error("reading the dead letters", options, error);
    let mut config = client_config(options, Role::Broadcast)?;
    config.set("enable.partition.eof", "true");
    let events = ClientEvents::new(options, Role::Broadcast, &desk.health);
    let client: BaseConsumer<ClientEvents> = config.create_with_context(events).map_err(refused)?;
    let mut ends = ends(&client, topic).map_err(refused)?;
    if ends.is_empty() {
        return Err(DeadLettersError::NoTopic { topic: topic.clone() });
    }
    ends.retain(|_, (first, end)| first < end);
    let mut assignment = TopicPartitionList::with_capacity(ends.len());
    for (partition, (first, _)) in &ends {
        add(&mut assignment, topic, *partition, Offset::Offset(*first));
    }
    client.assign(&assignment).map_err(refused)?;
    let mut silent_since = desk.clock.uptime();
    while !ends.is_empty() {
        match client.poll(DEADLINE) {
            Some(Ok(message)) => {
                silent_since = desk.clock.uptime();
                let number = partition(message.partition()).unwrap_or_default();
                if ends.get(&number).is_some_and(|(_, end)| message.offset() + 1 >= *end) {
                    ends.remove(&number);
                }
                Letter::read(&message).into_iter().for_each(&mut visit);
            }
            Some(Err(KafkaError::PartitionEOF(number))) => {
                ends.remove(&partition(number).unwrap_or_default());
            }
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(refused(error).into()),
            Some(Err(_)) | None if desk.clock.uptime().saturating_sub(silent_since) >= DEADLINE => {
                return Err(refused(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)).into());
            }
            // Connections break and come back.
            Some(Err(_)) | None => {}
        }
    }
    Ok(())
}

/// First offset and end of each partition; nothing when there is no such topic.
fn ends(client: &BaseConsumer<ClientEvents>, topic: &str) -> KafkaResult<BTreeMap<Partition, (i64, i64)>> {
    let metadata = client.fetch_metadata(Some(topic), DEADLINE)?;
    let mut ends = BTreeMap::new();
    for found in metadata.topics().iter().filter(|found| found.name() == topic).flat_map(|found| found.partitions()) {
        if let Some(number) = partition(found.id()) {
            ends.insert(number, client.fetch_watermarks(topic, found.id(), DEADLINE)?);
        }
    }
    Ok(ends)
}
