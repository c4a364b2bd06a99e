//! Dead letters: how a record that can have no effect is written into its topic, and read back.
//!
//! A letter keeps the record's value and headers as they were; its own headers say where it came from and why. Its key is its origin, so letters of
//! one origin are in one partition, and compaction, if an operator wants it, keeps the newest. A crash may write a letter twice; readers show one.

use super::Shared;
use super::client::{ClientEvents, Role, client_config};
use super::closing::close_on_thread;
use chatify_application::ports::log::{LogError, Undecodable};
use chatify_domain::{Partition, Timestamp};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const KIND: &str = "chatify-letter";
const KEPT: &str = "kept";
const REPLAYED: &str = "replayed";
const SOURCE_TOPIC: &str = "source-topic";
const SOURCE_PARTITION: &str = "source-partition";
const SOURCE_OFFSET: &str = "source-offset";
const SOURCE_TIME: &str = "source-appended-at";
const SOURCE_KEY: &str = "source-key";
const SOURCE_SIZE: &str = "source-size";
const ERROR_CLASS: &str = "error-class";

/// A letter that no broker has acknowledged by then has failed; the history writer tries again.
const DEADLINE: Duration = Duration::from_secs(10);
/// What is kept of a value that does not fit into the topic together with the headers. The log itself has all of it for its retention time.
const CUT_TO: usize = 512 * 1024;
/// A longer key is left out of a letter that is cut; a scope's has some 200 bytes at most.
const CUT_KEY: usize = 1024;

/// Where a record came from: `topic/partition/offset`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The log's topic.
    pub topic: String,
    /// Its partition.
    pub partition: Partition,
    /// Its offset there.
    pub offset: i64,
}

/// The text names no record: it is not `topic/partition/offset`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a dead letter is named by `topic/partition/offset`")]
pub struct NoOrigin;

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition.0, self.offset)
    }
}

impl FromStr for Origin {
    type Err = NoOrigin;

    fn from_str(text: &str) -> Result<Self, NoOrigin> {
        let parts: Vec<&str> = text.split('/').collect();
        let [topic, partition, offset] = parts[..] else { return Err(NoOrigin) };
        let partition = partition.parse().map(Partition).map_err(|_| NoOrigin)?;
        let offset = offset.parse().ok().filter(|offset| *offset >= 0).ok_or(NoOrigin)?;
        if topic.is_empty() { Err(NoOrigin) } else { Ok(Self { topic: topic.to_owned(), partition, offset }) }
    }
}

/// A letter as it is in its topic.
pub(super) struct Letter {
    pub(super) origin: Origin,
    /// It was put back into the log.
    pub(super) replayed: bool,
    pub(super) class: String,
    /// When the log took the record.
    pub(super) appended_at: Option<Timestamp>,
    /// The record's key.
    pub(super) key: Option<Vec<u8>>,
    /// The bytes of its value. A letter may have fewer of them.
    pub(super) size: usize,
    pub(super) value: Option<Vec<u8>>,
}

impl Letter {
    /// None for what is no letter.
    pub(super) fn read<M: Message>(message: &M) -> Option<Self> {
        let headers = message.headers()?;
        // The letter's own headers come after the record's, which may have been a letter itself.
        let value =
            |name: &str| headers.iter().filter(|header| header.key == name).last().and_then(|header| header.value);
        let text = |name: &str| value(name).and_then(|value| std::str::from_utf8(value).ok());
        Some(Self {
            replayed: text(KIND)? == REPLAYED,
            origin: Origin {
                topic: text(SOURCE_TOPIC)?.to_owned(),
                partition: Partition(text(SOURCE_PARTITION)?.parse().ok()?),
                offset: text(SOURCE_OFFSET)?.parse().ok()?,
            },
            class: text(ERROR_CLASS).unwrap_or_default().to_owned(),
            appended_at: text(SOURCE_TIME).and_then(|millis| millis.parse().ok()).map(Timestamp::from_millis),
            key: value(SOURCE_KEY).map(<[u8]>::to_vec),
            size: text(SOURCE_SIZE)
                .and_then(|size| size.parse().ok())
                .unwrap_or_else(|| message.payload().map_or(0, <[u8]>::len)),
            value: message.payload().map(<[u8]>::to_vec),
        })
    }
}

/// Writes letters. Its producer is made when the first one is written.
pub(super) struct Letters {
    shared: Arc<Shared>,
    producer: Mutex<Option<FutureProducer<ClientEvents>>>,
}

impl Letters {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, producer: Mutex::new(None) }
    }

    /// Keeps the record at `origin`; `message` is missing when not even the log has it any more. Durable when it returns.
    ///
    /// # Errors
    /// When no broker has acknowledged it in time. It may have been written nevertheless; writing it again is safe.
    pub(super) async fn keep(
        &self,
        origin: &Origin,
        message: Option<&OwnedMessage>,
        class: &Undecodable,
    ) -> Result<(), LogError> {
        let value = message.and_then(|message| message.payload());
        match self.send(origin, value, headers(origin, message, class, Extent::Whole)).await {
            Err(error) if is_too_large(&error) => {
                tracing::error!(%origin, "a dead letter is larger than its topic takes and is cut");
                let value = value.map(|value| &value[..value.len().min(CUT_TO)]);
                self.send(origin, value, headers(origin, message, class, Extent::Cut)).await
            }
            outcome => outcome,
        }
        .map_err(|error| LogError::Unavailable(Box::new(error)))
    }

    /// Notes that the record at `origin` was put back into the log.
    ///
    /// # Errors
    /// When no broker has acknowledged it in time.
    pub(super) async fn note_replayed(&self, origin: &Origin) -> Result<(), KafkaError> {
        self.send(origin, None, origin_headers(origin, REPLAYED, OwnedHeaders::new())).await
    }

    async fn send(&self, origin: &Origin, value: Option<&[u8]>, headers: OwnedHeaders) -> Result<(), KafkaError> {
        let producer = self.producer()?;
        let key = origin.to_string();
        let mut record = FutureRecord::to(&self.shared.options.dead_letter_topic).key(&key).headers(headers);
        record.payload = value;
        // A full queue is an answer: `send` would wait in steps of 100 ms, and the caller tries again as it sees fit.
        let outcome = match producer.send_result(record) {
            Ok(delivery) => match delivery.await {
                Ok(delivered) => delivered.map(|_| ()).map_err(|(error, _)| error),
                // The client was given up before it knew.
                Err(_) => Err(KafkaError::Canceled),
            },
            Err((error, _)) => Err(error),
        };
        if outcome.as_ref().is_err_and(|error| error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal)) {
            // It will never send again; the next letter makes a new one.
            close_on_thread(self.producer.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        outcome
    }

    fn producer(&self) -> Result<FutureProducer<ClientEvents>, KafkaError> {
        let mut producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = &*producer {
            return Ok(producer.clone());
        }
        let events = ClientEvents::new(&self.shared.options, Role::Producer, &self.shared.health);
        let made: FutureProducer<ClientEvents> = self.config()?.create_with_context(events)?;
        Ok(producer.insert(made).clone())
    }

    fn config(&self) -> Result<ClientConfig, KafkaError> {
        let mut config = client_config(&self.shared.options, Role::Producer)
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        config
            // Its state is not the log's.
            .set("statistics.interval.ms", "0")
            // Letters are sent one by one, and a linger may not be longer than the timeout.
            .set("linger.ms", "0")
            .set("message.timeout.ms", DEADLINE.as_millis().to_string())
            .set("request.timeout.ms", "5000")
            .set("queue.buffering.max.kbytes", "8192");
        Ok(config)
    }
}

impl Drop for Letters {
    fn drop(&mut self) {
        close_on_thread(self.producer.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// How much of a record is in its letter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    /// What makes a record too large is not its place: its own headers stay behind, and a key that nobody could have meant.
    Cut,
}

fn headers(origin: &Origin, message: Option<&OwnedMessage>, class: &Undecodable, extent: Extent) -> OwnedHeaders {
    let whole = extent == Extent::Whole;
    let original = message.and_then(|message| message.headers()).filter(|_| whole).cloned();
    let mut headers = origin_headers(origin, KEPT, original.unwrap_or_else(OwnedHeaders::new))
        .insert(Header { key: ERROR_CLASS, value: Some(class_name(class)) });
    if let Some(message) = message {
        let size = message.payload().map_or(0, <[u8]>::len).to_string();
        headers = headers.insert(Header { key: SOURCE_SIZE, value: Some(&size) });
        if let Some(millis) = message.timestamp().to_millis() {
            headers = headers.insert(Header { key: SOURCE_TIME, value: Some(&millis.to_string()) });
        }
        if let Some(key) = message.key().filter(|key| whole || key.len() <= CUT_KEY) {
            headers = headers.insert(Header { key: SOURCE_KEY, value: Some(key) });
        }
    }
    headers
}

fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

fn origin_headers(origin: &Origin, kind: &str, headers: OwnedHeaders) -> OwnedHeaders {
    headers
        .insert(Header { key: KIND, value: Some(kind) })
        .insert(Header { key: SOURCE_TOPIC, value: Some(origin.topic.as_str()) })
        .insert(Header { key: SOURCE_PARTITION, value: Some(origin.partition.0.to_string().as_str()) })
        .insert(Header { key: SOURCE_OFFSET, value: Some(origin.offset.to_string().as_str()) })
}

/// The class as a word for tables and headers.
pub(super) fn class_name(class: &Undecodable) -> &'static str {
    match class {
        Undecodable::Malformed => "malformed",
        Undecodable::UnknownKind => "unknown-kind",
        Undecodable::Invalid => "invalid",
    }
}
