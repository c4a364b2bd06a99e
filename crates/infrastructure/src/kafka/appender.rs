//! [`LogAppender`] over the producer.

use super::position::{kafka_partition, partition_of_key};
use super::producer::{Producer, ToSend};
use crate::record;
use chatify_application::ports::LogAppender;
use chatify_application::ports::log::{AppendError, Durable, NewRecord};
use chatify_domain::ChatEvent;
use rdkafka::message::{Header, OwnedHeaders};
use std::sync::Arc;

/// Encodes on the caller's thread and hands over to librdkafka's queue, which never waits.
pub(super) struct KafkaAppender {
    pub(super) producer: Arc<Producer>,
    pub(super) partitions: u32,
}

impl LogAppender for KafkaAppender {
    fn append(&self, new: NewRecord) -> Result<Durable, AppendError> {
        let value = record::encode(&new.event).map_err(|_| AppendError::TooLarge)?;
        let key = new.event.scope().to_string();
        let partition = kafka_partition(partition_of_key(key.as_bytes(), self.partitions));
        let (reply, durable) = Durable::pair();
        self.producer.send(ToSend { partition, key: &key, value: &value, headers: headers(&new), reply })?;
        Ok(durable)
    }
}

/// What an operator or another program may want to know without reading the value.
fn headers(new: &NewRecord) -> OwnedHeaders {
    let schema = record::schema(&new.event).to_string();
    let correlation = new.correlation.to_string();
    let ChatEvent::MessageSent(sent) = &new.event;
    // The low half of an id is random also when its high half is a time.
    let traceparent = new.correlation.traceparent(sent.message_id.as_u128() as u64);
    OwnedHeaders::new_with_capacity(4)
        .insert(Header { key: "type", value: Some(new.event.kind()) })
        .insert(Header { key: "schema", value: Some(schema.as_str()) })
        .insert(Header { key: "correlation-id", value: Some(correlation.as_str()) })
        .insert(Header { key: "traceparent", value: Some(traceparent.as_str()) })
}
