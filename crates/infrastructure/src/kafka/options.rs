//! What the Kafka adapters can be told.

use super::client::{Role, try_out};
use super::error::KafkaOptionsError;
use super::security::Security;
use chatify_domain::{Epoch, PodId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Options of [`super::KafkaLog`]. Every pod of a fleet has the same, but for `pod`.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// `host:port` of some brokers, separated by commas.
    pub bootstrap_servers: String,
    /// The log's topic; created when it is missing.
    pub topic: String,
    /// Where records go that can have no effect; created when it is missing.
    pub dead_letter_topic: String,
    /// How many partitions the topic has. Never changed within an epoch.
    pub partitions: u32,
    /// Replicas of a topic that is created; the brokers' own default when not set.
    pub replication_factor: Option<u16>,
    /// How long a topic that is created keeps records: longer than the history store can be away.
    pub retention: Duration,
    /// How long a dead-letter topic that is created keeps records: longer than an operator is away.
    pub dead_letter_retention: Duration,
    /// The group of all history writers.
    pub group_id: String,
    /// A pod's fan-out consumer is labelled `{prefix}-{pod}`; it joins no group.
    pub broadcast_group_prefix: String,
    /// This process.
    pub pod: PodId,
    /// The generation of the log. Raised together with a new topic, never lowered.
    pub epoch: Epoch,
    /// How long a send may wait for others to share its request with.
    pub linger: Duration,
    /// `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// The most bytes of records that wait for the brokers before sends are refused.
    pub queue_bytes: usize,
    /// How long the client tries to deliver a record that it has taken. Longer than the deadline of a send, whose outcome is unknown by then.
    pub message_timeout: Duration,
    /// How long [`super::KafkaLog::connect`] waits for the brokers' answer to one request.
    pub start_deadline: Duration,
    /// How long [`super::KafkaLog::close`] waits for records that the brokers have not acknowledged.
    pub close_deadline: Duration,
    /// Encryption and who we are.
    pub security: Security,
    /// Any property of librdkafka. Wins over the options above, but for those which the promises rest on: these are refused.
    pub properties: BTreeMap<String, String>,
}

impl KafkaOptions {
    /// The defaults.
    #[must_use]
    pub fn new(bootstrap_servers: impl Into<String>, pod: PodId) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            topic: "chat-events".into(),
            dead_letter_topic: "chat-events-dlt".into(),
            partitions: 3,
            replication_factor: None,
            retention: Duration::from_secs(7 * 24 * 60 * 60),
            dead_letter_retention: Duration::from_secs(30 * 24 * 60 * 60),
            group_id: "chatify-chat-history-writer".into(),
            broadcast_group_prefix: "chatify-broadcast".into(),
            pod,
            epoch: Epoch::FIRST,
            linger: Duration::from_millis(1),
            compression: "lz4".into(),
            queue_bytes: 64 * 1024 * 1024,
            message_timeout: Duration::from_secs(120),
            start_deadline: Duration::from_secs(10),
            close_deadline: Duration::from_secs(10),
            security: Security::default(),
            properties: BTreeMap::new(),
        }
    }

    /// Refuses what no client can be made of: ranges, security, properties that librdkafka does not know or that contradict each other. Makes a client of
    /// each kind, which takes some milliseconds, and connects to nothing.
    ///
    /// # Errors
    /// Names the setting.
    pub fn validate(&self) -> Result<(), KafkaOptionsError> {
        [Role::Producer, Role::Broadcast, Role::Group, Role::Admin].into_iter().try_for_each(|role| try_out(self, role))
    }

    /// The rules that need no librdkafka.
    ///
    /// # Errors
    /// Names the setting.
    pub(super) fn check(&self) -> Result<(), KafkaOptionsError> {
        let range = |setting, rule| Err(KafkaOptionsError::Range { setting, rule });
        if self.bootstrap_servers.trim().is_empty() {
            return range("bootstrap_servers", "`host:port`, or several of these separated by commas");
        }
        if !is_topic_name(&self.topic) {
            return range("topic_name", TOPIC_RULE);
        }
        if !is_topic_name(&self.dead_letter_topic) || self.dead_letter_topic == self.topic {
            return range(
                "dead_letter_topic_name",
                "another topic than the log's, of 1 to 249 letters, digits, `.`, `_` or `-`",
            );
        }
        if !(1..=PARTITIONS_MAX).contains(&self.partitions) {
            return range("partitions", "between 1 and 100000");
        }
        if self.replication_factor.is_some_and(|factor| !(1..=REPLICATION_MAX).contains(&factor)) {
            return range("replication_factor", "between 1 and 32767");
        }
        if self.queue_bytes < QUEUE_BYTES_MIN {
            return range("queue_bytes", "at least 1 MiB");
        }
        if self.message_timeout < MESSAGE_TIMEOUT_MIN {
            return range("message_timeout", "at least 1 s");
        }
        if self.retention < RETENTION_MIN || self.dead_letter_retention < RETENTION_MIN {
            return range("retention", "at least 1 h");
        }
        check_properties(&self.properties)
    }
}

const TOPIC_RULE: &str = "1 to 249 letters, digits, `.`, `_` or `-`";
const PARTITIONS_MAX: u32 = 100_000;
/// Kafka writes it as a signed 16-bit number.
const REPLICATION_MAX: u16 = i16::MAX as u16;
const QUEUE_BYTES_MIN: usize = 1024 * 1024;
const MESSAGE_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// Less than this and a short trouble of the history store would lose messages.
const RETENTION_MIN: Duration = Duration::from_secs(60 * 60);

/// The rule of Kafka's `Topic.validate`.
fn is_topic_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(legal)
}

/// Properties that the promises of the adapters rest on, or that have a setting of their own, with what to say about them.
const PROTECTED: [(&[&str], &str); 9] = [
    (
        &["acks", "request.required.acks", "enable.idempotence", "enable.gapless.guarantee", "transactional.id"],
        "an accepted message must be on every in-sync replica, once",
    ),
    (
        &["max.in.flight", "max.in.flight.requests.per.connection", "partitioner", "partitioner_cb"],
        "the order of a scope depends on it",
    ),
    (&["delivery.report.only.error", "dr_cb", "dr_msg_cb", "produce.offset.report"], "every send has to be answered"),
    (
        &[
            "enable.auto.commit",
            "auto.commit.enable",
            "enable.auto.offset.store",
            "auto.offset.reset",
            "isolation.level",
        ],
        "a position is committed only when its effect is durable",
    ),
    (
        &["group.id", "group.protocol", "partition.assignment.strategy", "enable.partition.eof", "log.queue"],
        "the readers of the log are built on it; groups have names of their own in the configuration",
    ),
    (
        &["message.timeout.ms", "delivery.timeout.ms"],
        "how late a message may enter the log decides which repeats are recognised",
    ),
    (&["statistics.interval.ms"], "the state of the client is read from its statistics"),
    (&["bootstrap.servers", "metadata.broker.list"], "set `message_broker.bootstrap_servers`"),
    (
        &[
            "security.protocol",
            "sasl.mechanism",
            "sasl.mechanisms",
            "sasl.username",
            "sasl.password",
            "ssl.key.password",
            "ssl.keystore.password",
            "ssl.key.pem",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.client.credentials.client.secret",
        ],
        "set it in `message_broker.security`, where secrets are kept out of logs",
    ),
];

fn check_properties(properties: &BTreeMap<String, String>) -> Result<(), KafkaOptionsError> {
    for property in properties.keys() {
        if let Some((_, reason)) = PROTECTED.iter().find(|(names, _)| names.contains(&property.as_str())) {
            return Err(KafkaOptionsError::Protected { property: property.clone(), reason });
        }
        let own = own_name(property);
        if own != property && properties.contains_key(own) {
            let reason = format!("it is another name for `{own}`, which is set as well");
            return Err(KafkaOptionsError::Property { property: property.clone(), reason });
        }
    }
    Ok(())
}

/// Second names of properties in librdkafka 2.12, with the names that are used here, but for those that nobody may set.
const ALIASES: [(&str, &str); 5] = [
    ("queue.buffering.max.ms", "linger.ms"),
    ("compression.codec", "compression.type"),
    ("retries", "message.send.max.retries"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
    ("sasl.oauthbearer.client.credentials.client.id", "sasl.oauthbearer.client.id"),
];

/// The name under which a property is set here: properties are kept in no order, so that of two names for one of them any could win.
pub(super) fn own_name(property: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == property).map_or(property, |(_, own)| own)
}
