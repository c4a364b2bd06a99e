//! The log as a plain consumer reads it, past the pods: the reference that everything else is compared with.

use super::verdict::{LogRecord, Projection};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long one look at the brokers may take.
const LOOK: Duration = Duration::from_millis(100);
/// How long a question about offsets may take, while brokers come and go.
const ASK: Duration = Duration::from_secs(10);
/// A position is the epoch (here always the first) above this many bits of offset.
const OFFSET_BITS: u32 = 40;

/// What was read so far.
#[derive(Debug, Default)]
pub struct Reference {
    /// Every record, in the order in which it was read: ascending within a partition.
    pub records: Vec<LogRecord>,
    /// Those that everybody must see.
    pub shown: Vec<LogRecord>,
    /// What everybody must see, by scope.
    pub projection: Projection,
    /// Records that are no message.
    pub poison: usize,
    /// The next offset of each partition.
    next: BTreeMap<i32, i64>,
}

/// Reads one topic from its beginning for as long as it lives.
#[derive(Debug)]
pub struct LogReader {
    reference: Arc<Mutex<Reference>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    bootstrap: String,
    topic: String,
    partitions: i32,
}

impl LogReader {
    /// A reader of all partitions of `topic`.
    ///
    /// # Panics
    /// When the client library refuses.
    #[must_use]
    pub fn start(bootstrap: &str, topic: &str, partitions: i32) -> Self {
        let (reference, ended) = (Arc::new(Mutex::new(Reference::default())), Arc::new(AtomicBool::new(false)));
        let consumer = consumer(bootstrap, "reference");
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning).expect("a valid offset");
        }
        consumer.assign(&list).expect("partitions can be assigned");
        let (kept, stop) = (Arc::clone(&reference), Arc::clone(&ended));
        let body = move || {
            while !stop.load(Ordering::SeqCst) {
                // Errors are told by librdkafka while brokers are away; it goes on by itself.
                if let Some(Ok(message)) = consumer.poll(LOOK) {
                    lock(&kept).take(&message);
                }
            }
        };
        let thread = std::thread::Builder::new().name("log-reader".into()).spawn(body).expect("a thread");
        let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
        Self { reference, ended, thread: Some(thread), bootstrap, topic, partitions }
    }

    /// What was read so far.
    pub fn read(&self) -> MutexGuard<'_, Reference> {
        lock(&self.reference)
    }

    /// Another handle to what was read.
    #[must_use]
    pub fn reference(&self) -> SharedReference {
        SharedReference(Arc::clone(&self.reference))
    }

    /// The end of each partition.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub fn ends(&self) -> Result<BTreeMap<i32, i64>, String> {
        let consumer = consumer(&self.bootstrap, "ends");
        let end = |partition: i32| {
            let marks = consumer.fetch_watermarks(&self.topic, partition, ASK).map_err(|error| error.to_string())?;
            Ok((partition, marks.1))
        };
        (0..self.partitions).map(end).collect()
    }

    /// Whether every partition has all its replicas in sync.
    #[must_use]
    pub fn in_sync(&self) -> bool {
        let consumer = consumer(&self.bootstrap, "in-sync");
        let metadata = consumer.fetch_metadata(Some(&self.topic), ASK);
        metadata.is_ok_and(|metadata| {
            let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            partitions.all(|partition| partition.isr().len() == partition.replicas().len())
        })
    }

    /// Whether everything before these ends was read.
    #[must_use]
    pub fn has_read(&self, ends: &BTreeMap<i32, i64>) -> bool {
        let reference = self.read();
        ends.iter().all(|(partition, end)| reference.next.get(partition).copied().unwrap_or(0) >= *end)
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What was read, for whoever compares with it.
#[derive(Clone, Debug, Default)]
pub struct SharedReference(Arc<Mutex<Reference>>);

impl SharedReference {
    /// What was read so far.
    pub fn read(&self) -> MutexGuard<'_, Reference> {
        lock(&self.0)
    }
}

fn lock(reference: &Mutex<Reference>) -> MutexGuard<'_, Reference> {
    reference.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A consumer that belongs to no group, or only asks about one.
///
/// # Panics
/// When the client library refuses.
#[must_use]
pub fn consumer(bootstrap: &str, group: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", group);
    config.set("enable.auto.commit", "false").set("auto.offset.reset", "earliest").set("fetch.wait.max.ms", "50");
    config.set("reconnect.backoff.max.ms", "500");
    config.create().expect("a valid configuration")
}

impl Reference {
    fn take(&mut self, message: &impl Message) {
        self.next.insert(message.partition(), message.offset() + 1);
        let Some(record) = record(message) else {
            self.poison += 1;
            return;
        };
        if self.projection.take(&record) {
            self.shown.push(record.clone());
        }
        self.records.push(record);
    }
}

/// The message in a record; nothing of the code under test reads it.
fn record(message: &impl Message) -> Option<LogRecord> {
    let body: Value = serde_json::from_slice(message.payload()?).ok()?;
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    Some(LogRecord {
        partition: message.partition(),
        position: 1 << OFFSET_BITS | message.offset(),
        appended_at: message.timestamp().to_millis()?,
        scope: format!("{}:{}", text("scopeType")?, text("scopeId")?),
        sender_id: text("senderId")?,
        message_id: text("messageId")?,
        text: text("text")?,
        origin_pod_id: text("originPodId")?,
    })
}
