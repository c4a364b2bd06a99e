//! Stored rows as the domain's values, and back.

use super::error::InvalidColumn;
use chatify_application::ports::history::{HistoryError, HistoryRow};
use chatify_domain::{
    LoggedMessage, MessageId, MessageSent, Partition, PodId, Position, Scope, SenderId, Text, Timestamp,
};
use scylla::value::CqlTimestamp;
use std::sync::Arc;
use uuid::Uuid;

/// The columns of a read message: position, id, sender, text, time, pod, partition.
pub(super) type MessageColumns<'row> = (i64, Uuid, &'row str, &'row str, CqlTimestamp, &'row str, i64);

/// The values of a written message: scope, segment, the columns above, and the position once more as the timestamp.
pub(super) type MessageValues<'row> =
    (&'row str, i64, i64, Uuid, &'row str, &'row str, CqlTimestamp, &'row str, i64, i64);

/// The values of a message's name: id, scope, sender, position, segment, and the position once more as the timestamp.
pub(super) type NameValues<'row> = (Uuid, &'row str, &'row str, i64, i64, i64);

pub(super) fn message_values<'row>(scope: &'row str, row: &'row HistoryRow) -> MessageValues<'row> {
    let (message, sent) = (&row.message, &row.message.sent);
    let position = message.position.number();
    (
        scope,
        row.segment.number(),
        position,
        Uuid::from_u128(sent.message_id.as_u128()),
        sent.sender_id.as_str(),
        sent.text.as_str(),
        CqlTimestamp(message.created_at.as_millis()),
        sent.origin_pod_id.as_str(),
        i64::from(message.partition.0),
        position,
    )
}

pub(super) fn name_values<'row>(scope: &'row str, row: &'row HistoryRow) -> NameValues<'row> {
    let sent = &row.message.sent;
    let position = row.message.position.number();
    let id = Uuid::from_u128(sent.message_id.as_u128());
    (id, scope, sent.sender_id.as_str(), position, row.segment.number(), position)
}

/// A stored partition.
pub(super) fn partition(number: i64) -> Result<Partition, HistoryError> {
    Ok(Partition(valid("broker_partition", u32::try_from(number))?))
}

/// The message of a row of `scope`.
pub(super) fn message(scope: &Scope, columns: MessageColumns<'_>) -> Result<LoggedMessage, HistoryError> {
    let (number, id, sender, text, CqlTimestamp(created_at), pod, partition) = columns;
    Ok(LoggedMessage {
        position: position(number)?,
        partition: self::partition(partition)?,
        created_at: Timestamp::from_millis(created_at),
        sent: Arc::new(MessageSent {
            message_id: MessageId::from_u128(id.as_u128()),
            scope: scope.clone(),
            sender_id: valid("sender_id", SenderId::parse(sender))?,
            text: valid("text", Text::parse(text))?,
            origin_pod_id: valid("origin_pod_id", PodId::parse(pod))?,
        }),
    })
}

pub(super) fn position(number: i64) -> Result<Position, HistoryError> {
    valid("position", Position::from_number(number))
}

fn valid<T, E>(column: &'static str, parsed: Result<T, E>) -> Result<T, HistoryError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    parsed.map_err(|source| HistoryError::Corrupt(Box::new(InvalidColumn { column, source: Box::new(source) })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatify_domain::{Epoch, Offset};

    /// The start of 2026 in microseconds, which is what a store's own write timestamps count.
    const NOW: i64 = 1_767_225_600_000_000;

    #[test]
    fn a_position_as_a_timestamp_is_in_the_past_up_to_epoch_1600() {
        let last = Offset::new((1 << 40) - 1).expect("the last offset");
        let at = |epoch| Position::new(Epoch::new(epoch).expect("an epoch"), last).number();
        assert!(at(1) > 0 && at(1600) < NOW);
    }
}
