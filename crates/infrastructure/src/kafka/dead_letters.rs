//! What an operator does with dead letters: list them, look at one, put one back into the log.
//!
//! Each call opens a client of its own and reads the topic as it is at that moment, so it works beside running pods and without any.

pub use super::letters::{NoOrigin, Origin};

use super::Shared;
use super::client::{ClientEvents, Role, client_config, on_thread};
use super::delivery::{Deliveries, not_accepted};
use super::error::{KafkaOptionsError, KafkaStartError, client_error};
use super::health::HealthState;
use super::letters::{Letter, Letters};
use super::options::KafkaOptions;
use super::position::{kafka_partition, partition, partition_of};
use super::producer::{Native, drained};
use super::queries::add;
use super::token;
use crate::record;
use chatify_application::ports::log::{AppendError, Appended, Durable, Undecodable};
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::error::{Classify, ErrorKind};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{Partition, Position, Timestamp};
use futures_util::FutureExt;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use rdkafka::types::RDKafkaRespErr;
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

/// Why nothing was done, or not all of it.
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
    /// The log refused it: it is not there.
    #[error("the log does not take the record from {origin}")]
    Refused {
        /// Which.
        origin: Origin,
        /// Why.
        #[source]
        source: AppendError,
    },
    /// It may be in the log, once. Trying again is safe within the deduplication window.
    #[error("the brokers did not say whether the record from {0} is in the log")]
    Unsure(Origin),
    /// It is in the log, and the dead letters do not say so. Trying again is safe within the deduplication window.
    #[error("that the record from {origin} is in the log again could not be noted")]
    NotNoted {
        /// Which.
        origin: Origin,
        /// The client's own word for it.
        #[source]
        source: KafkaError,
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
            Self::Refused { source, .. } => source.kind(),
            Self::Unsure(_) | Self::NotNoted { .. } => ErrorKind::EventProduction,
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
/// When it still cannot be read, was put back before, or a topic does not answer. It may be in the log after [`DeadLettersError::Unsure`], and is after
/// [`DeadLettersError::NotNoted`]; it is not after the others.
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
    let (kind, schema, from) = (event.kind(), record::schema(&event).to_string(), origin.to_string());
    let headers = OwnedHeaders::new_with_capacity(3)
        .insert(Header { key: "type", value: Some(kind) })
        .insert(Header { key: "schema", value: Some(schema.as_str()) })
        .insert(Header { key: "replayed-from", value: Some(from.as_str()) });
    let replay = Replay { partition, key, value, headers };
    let sender = Arc::clone(&desk);
    let appended = match blocking(move || produce(&sender, replay)).await? {
        Ok(appended) => appended,
        Err(AppendError::Unknown) => return Err(DeadLettersError::Unsure(origin)),
        Err(source) => return Err(DeadLettersError::Refused { origin, source }),
    };
    match Letters::new(desk).note_replayed(&origin).await {
        Ok(()) => Ok((appended.partition, appended.position)),
        Err(source) => Err(DeadLettersError::NotNoted { origin, source }),
    }
}

/// A record on its way back.
struct Replay {
    partition: Partition,
    key: String,
    value: Vec<u8>,
    headers: OwnedHeaders,
}

/// What the clients of one call share.
fn desk(options: &KafkaOptions, clock: Arc<dyn Clock>) -> Arc<Shared> {
    let health = Arc::new(HealthState::new(Arc::clone(&clock)));
    Arc::new(Shared { options: options.clone(), clock, supervisor: Supervisor::new(), health })
}

/// Appends as the log's own producer does, so that the outcome says as much as is certain. Waits for brokers.
fn produce(desk: &Shared, replay: Replay) -> Result<Result<Appended, AppendError>, DeadLettersError> {
    let options = &desk.options;
    let mut config = client_config(options, Role::Producer)?;
    config
        .set("linger.ms", "0")
        .set("message.timeout.ms", DEADLINE.as_millis().to_string())
        .set("request.timeout.ms", "5000");
    let deliveries =
        Deliveries { events: ClientEvents::new(options, Role::Producer, &desk.health), epoch: options.epoch };
    let producer: Native = config
        .create_with_context(deliveries)
        .map_err(|error| client_error("putting a record back into the log", options, error))?;
    let (reply, durable) = Durable::pair();
    let record = BaseRecord::with_opaque_to(&options.topic, Box::new(reply))
        .partition(kafka_partition(replay.partition))
        .key(&replay.key)
        .payload(&replay.value)
        .headers(replay.headers);
    if let Err((error, _)) = producer.send(record) {
        return Ok(Err(not_accepted(error)));
    }
    // The client gives the record up after the first half of this.
    drained(&producer, DEADLINE * 2);
    Ok(durable.now_or_never().unwrap_or(Err(AppendError::Unknown)))
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
    // The first questions come before the first poll.
    let file = options.security.token_file.as_deref();
    token::give(client.client(), file).map_err(|error| KafkaStartError::Token(error.into()))?;
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
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(ends) };
    match found.error() {
        None => {}
        Some(
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
        ) => return Ok(ends),
        // Somebody who may not look must not be told that there is nothing to see.
        Some(code) => return Err(KafkaError::MetadataFetch(code.into())),
    }
    for found in found.partitions() {
        if let Some(number) = partition(found.id()) {
            ends.insert(number, client.fetch_watermarks(topic, found.id(), DEADLINE)?);
        }
    }
    Ok(ends)
}
