//! What became of a record: librdkafka's reports as the outcomes of [`chatify_application::ports::LogAppender`].

use super::client::ClientEvents;
use super::health::REBUILDING;
use super::position::{partition, position};
use chatify_application::ports::log::{AppendError, Appended, DurableSender};
use chatify_domain::{Epoch, Timestamp};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message};
use rdkafka::producer::ProducerContext;
use std::error::Error;

/// The producer's callbacks; librdkafka calls them on the thread that polls it.
pub(super) struct Deliveries {
    pub(super) events: ClientEvents,
    pub(super) epoch: Epoch,
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<DurableSender>;

    fn delivery(&self, report: &DeliveryResult<'_>, reply: Self::DeliveryOpaque) {
        reply.resolve(match report {
            Ok(message) => {
                self.events.count_acknowledged();
                appended(message, self.epoch)
            }
            Err((error, message)) => Err(failed(error, was_never_written(message))),
        });
    }
}

/// A record that the brokers took. After some repeated requests they say only that they have it, not where.
fn appended(message: &BorrowedMessage<'_>, epoch: Epoch) -> Result<Appended, AppendError> {
    let place = (partition(message.partition()), position(epoch, message.offset()), message.timestamp().to_millis());
    match place {
        (Some(partition), Some(position), Some(millis)) => {
            Ok(Appended { partition, position, appended_at: Timestamp::from_millis(millis) })
        }
        _ => Err(AppendError::Unknown),
    }
}

/// Whether librdkafka vouches that no attempt to send the record can have put it into the log.
#[expect(
    unsafe_code,
    reason = "rdkafka has no safe call for the one fact that parts a refusal from an unknown outcome"
)]
fn was_never_written(message: &BorrowedMessage<'_>) -> bool {
    use rdkafka::bindings::{rd_kafka_message_status, rd_kafka_msg_status_t};
    // SAFETY: the pointer is the message's own and valid for as long as it is borrowed; the call reads one field of it.
    let status = unsafe { rd_kafka_message_status(message.ptr()) };
    status == rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED
}

/// The outcome of a record that was accepted and then failed. Only what is certain is a refusal: librdkafka says that the record was never
/// written, *and* the error is one whose meaning is known. librdkafka takes errors that it does not know for refusals, too.
fn failed(error: &KafkaError, never_written: bool) -> AppendError {
    let Some(reason) = error.rdkafka_error_code().filter(|_| never_written).and_then(refusal) else {
        tracing::warn!(%error, never_written, "it is not known whether the log has a record");
        return AppendError::Unknown;
    };
    tracing::warn!(%error, "the log refused a record");
    match reason {
        Refusal::TooLarge => AppendError::TooLarge,
        Refusal::Unavailable(reason) => AppendError::Unavailable { reason, source: Box::new(error.clone()) },
    }
}

/// The outcome of a record that librdkafka did not accept: it is in no queue, whatever the error.
pub(super) fn not_accepted(error: KafkaError) -> AppendError {
    let code = error.rdkafka_error_code();
    if code == Some(RDKafkaErrorCode::QueueFull) {
        return AppendError::Overloaded;
    }
    let reason = match code.and_then(refusal) {
        Some(Refusal::TooLarge) => return AppendError::TooLarge,
        Some(Refusal::Unavailable(reason)) => reason,
        None if code == Some(RDKafkaErrorCode::Fatal) => REBUILDING,
        None => "the Kafka client does not take it",
    };
    AppendError::Unavailable { reason, source: Box::new(error) }
}

enum Refusal {
    TooLarge,
    Unavailable(&'static str),
}

/// The errors that mean a refusal of a record which was never written. The list of librdkafka's codes is open; a new one is no refusal.
fn refusal(code: RDKafkaErrorCode) -> Option<Refusal> {
    use RDKafkaErrorCode as Code;
    match code {
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => Some(Refusal::TooLarge),
        Code::MessageTimedOut => Some(Refusal::Unavailable("no broker took it in time")),
        Code::PurgeQueue => Some(Refusal::Unavailable("the producer ended before it was sent")),
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            Some(Refusal::Unavailable("the brokers do not let this user write"))
        }
        Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition => {
            Some(Refusal::Unavailable("the log's topic is gone"))
        }
        Code::InvalidTimestamp | Code::PolicyViolation | Code::InvalidRecord => {
            Some(Refusal::Unavailable("the brokers do not take such records"))
        }
        _ => None,
    }
}

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = ClientEvents::ENABLE_REFRESH_OAUTH_TOKEN;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.events.log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.events.stats_raw(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.events.error(error, reason);
    }

    fn generate_oauth_token(&self, configuration: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.events.generate_oauth_token(configuration)
    }
}
