//! Why the log in Kafka cannot be used from the start.

use super::options::KafkaOptions;
use chatify_building_blocks::error::{Classify, ErrorKind};
use chatify_domain::Position;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::path::PathBuf;

/// Why [`super::KafkaLog::connect`] gives no log.
///
/// [`Classify::kind`] parts what will never work as it is configured ([`ErrorKind::Configuration`]: somebody has to change something) from
/// what may work a moment later ([`ErrorKind::EventProduction`]: try again). No text of it holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum KafkaStartError {
    /// The configuration itself is wrong.
    #[error(transparent)]
    Options(#[from] KafkaOptionsError),
    /// No broker answers, or none in time.
    #[error("no broker of `{servers}` answers: {doing}")]
    Unreachable {
        /// The configured addresses.
        servers: String,
        /// What was tried.
        doing: &'static str,
        /// The client's own word for it.
        #[source]
        source: KafkaError,
    },
    /// The brokers refuse who we are or what we ask for.
    #[error("the brokers refuse {doing}; check `message_broker.security` and the rights of its user")]
    Denied {
        /// What was tried.
        doing: &'static str,
        /// The client's own word for it.
        #[source]
        source: KafkaError,
    },
    /// The topic can neither be found nor made.
    #[error("topic `{topic}` cannot be created")]
    NotCreated {
        /// Which.
        topic: String,
        /// The client's own word for it.
        #[source]
        source: KafkaError,
    },
    /// The topic exists and is not what the log needs.
    #[error(transparent)]
    Topic(#[from] TopicMismatch),
    /// The log is not the one that is known.
    #[error(transparent)]
    Epoch(#[from] EpochMismatch),
    /// There is no OAUTHBEARER token now.
    #[error("the Kafka client has no token to show to the brokers")]
    Token(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The operating system gives no thread.
    #[error("a thread of the Kafka client cannot be started")]
    Thread(#[source] std::io::Error),
}

/// A mistake in [`super::KafkaOptions`].
#[derive(Debug, thiserror::Error)]
pub enum KafkaOptionsError {
    /// The property belongs to Chatify.
    #[error("`message_broker.properties` must not set `{property}`: {reason}")]
    Protected {
        /// Which.
        property: String,
        /// Why, or what to set in its place.
        reason: &'static str,
    },
    /// librdkafka does not know the property or does not take its value.
    #[error("the Kafka client does not take `{property}`: {reason}")]
    Property {
        /// Which.
        property: String,
        /// What librdkafka says; never the value of a secret.
        reason: String,
    },
    /// This build lacks what the configuration asks for.
    #[error("{wanted} needs a build with the feature `kafka-tls`, which this one does not have")]
    NotBuiltIn {
        /// What was asked for.
        wanted: &'static str,
    },
    /// A setting is missing that another one asks for.
    #[error("`message_broker.security.{missing}` is needed with {with}")]
    Missing {
        /// The setting.
        missing: &'static str,
        /// What asks for it.
        with: &'static str,
    },
    /// A setting makes no sense beside another one.
    #[error("`message_broker.security.{setting}` has no effect with {with}; remove it or change the protocol")]
    NoEffect {
        /// The setting.
        setting: &'static str,
        /// What makes it useless.
        with: &'static str,
    },
    /// A value is out of range.
    #[error("`message_broker.{setting}` must be {rule}")]
    Range {
        /// The setting.
        setting: &'static str,
        /// What it has to be.
        rule: &'static str,
    },
    /// A file that the configuration names cannot be read.
    #[error("`message_broker.security.{setting}`: `{}` cannot be read", file.display())]
    File {
        /// The setting.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The topic exists with properties that the log cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicMismatch {
    /// Times have to be the broker's.
    #[error(
        "topic `{topic}` has message.timestamp.type={found}, the log needs LogAppendTime; alter the topic or name another one in `message_broker.topic_name`"
    )]
    TimestampType {
        /// Which topic.
        topic: String,
        /// What it has.
        found: String,
    },
    /// A scope's partition follows from their number.
    #[error(
        "topic `{topic}` has {found} partitions, `message_broker.partitions` says {configured}; set it to {found}, or take a new topic and raise `message_broker.log_epoch`"
    )]
    Partitions {
        /// Which topic.
        topic: String,
        /// What it has.
        found: usize,
        /// What is configured.
        configured: u32,
    },
    /// Compaction removes messages.
    #[error("topic `{topic}` has cleanup.policy={found}, which loses messages; the log needs `delete`")]
    CleanupPolicy {
        /// Which topic.
        topic: String,
        /// What it has.
        found: String,
    },
    /// The largest record would be refused.
    #[error("topic `{topic}` has max.message.bytes={found}, the log needs at least {needed}")]
    MessageBytes {
        /// Which topic.
        topic: String,
        /// What it has.
        found: usize,
        /// What is needed.
        needed: usize,
    },
}

/// What is already known of the log contradicts the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EpochMismatch {
    /// The log ends before something that was read from it.
    #[error(
        "partition {partition} of the log ends at {end:?}, but {known:?} of the same epoch is already known: the topic was made anew or lost records; name a new one in `message_broker.topic_name` and set `message_broker.log_epoch` to {}",
        known.epoch_number() + 1
    )]
    EndedBefore {
        /// The partition's number.
        partition: u32,
        /// The log's end.
        end: Position,
        /// What was read from it.
        known: Position,
    },
    /// An epoch never goes back.
    #[error(
        "`message_broker.log_epoch` is {configured}, but {known:?} of a later epoch is already known in partition {partition}; set it to {} or higher",
        known.epoch_number()
    )]
    WentBack {
        /// The partition's number.
        partition: u32,
        /// The configured epoch.
        configured: u16,
        /// What was read from the log.
        known: Position,
    },
}

impl Classify for KafkaStartError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } | Self::Token(_) | Self::Thread(_) => ErrorKind::EventProduction,
            Self::NotCreated { source, .. } if is_passing(source) => ErrorKind::EventProduction,
            Self::Options(_) | Self::Denied { .. } | Self::NotCreated { .. } | Self::Topic(_) | Self::Epoch(_) => {
                ErrorKind::Configuration
            }
        }
    }
}

/// Sorts what a client of librdkafka says while it starts into what will never work and what may work later.
pub(super) fn client_error(doing: &'static str, options: &KafkaOptions, source: KafkaError) -> KafkaStartError {
    match &source {
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => {
            KafkaStartError::Options(property_error(source))
        }
        other if is_denied(other) => KafkaStartError::Denied { doing, source },
        _ => KafkaStartError::Unreachable { servers: options.bootstrap_servers.clone(), doing, source },
    }
}

/// Whether brokers that are still starting, or are too few just now, say so.
fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code(error),
        Some(
            Code::InvalidReplicationFactor
                | Code::RequestTimedOut
                | Code::OperationTimedOut
                | Code::NotController
                | Code::BrokerNotAvailable
                | Code::LeaderNotAvailable
                | Code::NotEnoughReplicas
                | Code::ThrottlingQuotaExceeded
        )
    )
}

fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// Whether the brokers answered, and the answer was no.
fn is_denied(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code(error),
        Some(
            Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
        )
    )
}

/// librdkafka's answer to a property, without the value.
pub(super) fn property_error(error: KafkaError) -> KafkaOptionsError {
    match error {
        KafkaError::ClientConfig(_, _, property, _) if is_secret(&property) => {
            KafkaOptionsError::Property { property, reason: "the value is not valid".into() }
        }
        KafkaError::ClientConfig(_, reason, property, _) => KafkaOptionsError::Property { property, reason },
        KafkaError::ClientCreation(reason) => KafkaOptionsError::Property { property: TOGETHER.into(), reason },
        other => KafkaOptionsError::Property { property: TOGETHER.into(), reason: other.to_string() },
    }
}

/// Stands for the property when each of them is good by itself.
const TOGETHER: &str = "the properties together";

fn is_secret(property: &str) -> bool {
    ["password", "secret", "pem", "token", "config"].iter().any(|part| property.contains(part))
}
