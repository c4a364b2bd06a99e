//! From a Kafka message to a record of the log.

use super::position;
use crate::record;
use chatify_application::ports::log::{LogRecord, Undecodable};
use chatify_domain::{ChatEvent, Epoch, Timestamp};
use rdkafka::Message;
use rdkafka::message::Headers;

/// The message has a place that the log cannot name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "partition {partition} of the topic has reached offset {offset}, which positions cannot express; take a new topic and raise the epoch"
)]
pub(super) struct BeyondPositions {
    partition: i32,
    offset: i64,
}

/// The record in `message`, of a log with this many partitions.
///
/// # Errors
/// When its offset does not fit into a position.
pub(super) fn log_record<M: Message>(message: &M, epoch: Epoch, partitions: u32) -> Result<LogRecord, BeyondPositions> {
    let beyond = BeyondPositions { partition: message.partition(), offset: message.offset() };
    Ok(LogRecord {
        partition: position::partition(message.partition()).ok_or(beyond)?,
        position: position::position(epoch, message.offset()).ok_or(beyond)?,
        // Every record has a time: the topic is refused at the start when its brokers do not stamp records.
        appended_at: Timestamp::from_millis(message.timestamp().to_millis().unwrap_or(0)),
        size: size(message),
        content: content(message, partitions),
    })
}

/// The bytes of its key and value.
fn size<M: Message>(message: &M) -> usize {
    message.key().map_or(0, <[u8]>::len) + message.payload().map_or(0, <[u8]>::len)
}

/// The bytes of its key, value and headers: what a copy of it takes.
pub(super) fn whole_size<M: Message>(message: &M) -> usize {
    let headers = message
        .headers()
        .map_or(0, |headers| headers.iter().map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len)).sum());
    size(message) + headers
}

/// The event, or why there is none.
///
/// A scope lives in one partition, where its positions are compared. A record that a foreign writer put elsewhere would break the scope's one
/// order, so it is as invalid as one whose values are.
pub(super) fn content<M: Message>(message: &M, partitions: u32) -> Result<ChatEvent, Undecodable> {
    let event = record::decode(message.payload().unwrap_or_default())?;
    let key = event.scope().to_string();
    let place = position::kafka_partition(position::partition_of_key(key.as_bytes(), partitions));
    if message.key() == Some(key.as_bytes()) && message.partition() == place {
        Ok(event)
    } else {
        Err(Undecodable::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Poison, poisons, sent};
    use super::*;
    use rdkafka::message::{OwnedMessage, Timestamp as KafkaTime};

    fn message(payload: Option<Vec<u8>>, key: Option<Vec<u8>>, partition: i32, offset: i64) -> OwnedMessage {
        OwnedMessage::new(payload, key, "log".into(), KafkaTime::LogAppendTime(77), partition, offset, None)
    }

    #[test]
    fn a_record_keeps_its_place_time_size_and_event() {
        let event = sent("Channel:general", "alice", "hi");
        let bytes = record::encode(&event).expect("small");
        let size = bytes.len() + "Channel:general".len();
        let epoch = Epoch::new(3).expect("in range");
        let place = position::kafka_partition(position::partition_of(event.scope(), 7));
        let record = log_record(&message(Some(bytes), Some(b"Channel:general".to_vec()), place, 42), epoch, 7);
        let record = record.expect("a possible place");
        assert_eq!((record.position.epoch_number(), record.position.offset().number()), (3, 42));
        assert_eq!((record.partition.0, record.appended_at.as_millis(), record.size), (place.unsigned_abs(), 77, size));
        assert_eq!(record.content, Ok(event));
    }

    #[test]
    fn each_kind_of_poison_is_named() {
        for Poison { name, key, payload, expected } in poisons() {
            assert_eq!(content(&message(payload, key, 0, 0), 1), Err(expected), "{name}");
        }
    }

    #[test]
    fn a_record_in_another_partition_than_its_scope_is_invalid() {
        let event = sent("Channel:general", "alice", "hi");
        let place = position::kafka_partition(position::partition_of(event.scope(), 3));
        for partition in 0..3 {
            let bytes = record::encode(&event).expect("small");
            let content = content(&message(Some(bytes), Some(b"Channel:general".to_vec()), partition, 0), 3);
            assert_eq!(content.is_ok(), partition == place, "{partition}");
        }
    }

    #[test]
    fn an_offset_that_no_position_can_name_is_refused() {
        let far = message(None, None, 0, 1 << 40);
        assert_eq!(log_record(&far, Epoch::FIRST, 1).err(), Some(BeyondPositions { partition: 0, offset: 1 << 40 }));
    }
}
