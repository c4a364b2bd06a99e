//! The record format: how an event is written into the log, in every profile.
//!
//! A record is one JSON object that says its `type` and the `schema` (version) of that type; the rest depends on the two. Rules for changing it:
//! fields are only ever added, readers ignore fields that they do not know, and a change that an old reader would misunderstand is a new
//! `schema`. What a release cannot read it reports as [`Undecodable::UnknownKind`], so that no record is lost by a roll-back.

mod message_sent;

use chatify_application::ports::log::Undecodable;
use chatify_domain::ChatEvent;
use message_sent::MessageSentV1;
use serde::Deserialize;
use std::borrow::Cow;

/// No record is larger, in bytes. The largest valid event, with every character escaped, takes about half of it.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;

/// The encoded event would be larger than [`MAX_RECORD_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record would have {actual} bytes, the limit is {MAX_RECORD_BYTES}")]
pub struct RecordTooLarge {
    /// How many bytes it would have.
    pub actual: usize,
}

/// The bytes of `event`. The same event always gives the same bytes.
///
/// # Errors
/// When they are more than [`MAX_RECORD_BYTES`].
pub fn encode(event: &ChatEvent) -> Result<Vec<u8>, RecordTooLarge> {
    let bytes = match event {
        ChatEvent::MessageSent(sent) => MessageSentV1::from_event(sent).encode(),
    };
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(RecordTooLarge { actual: bytes.len() });
    }
    Ok(bytes)
}

/// The version of the form in which [`encode`] writes `event`'s kind.
#[must_use]
pub const fn schema(event: &ChatEvent) -> u32 {
    match event {
        ChatEvent::MessageSent(_) => MessageSentV1::SCHEMA,
    }
}

/// The event in `bytes`, which may come from anywhere: it takes time and memory linear in their length, at most [`MAX_RECORD_BYTES`].
///
/// # Errors
/// Why there is none.
pub fn decode(bytes: &[u8]) -> Result<ChatEvent, Undecodable> {
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(Undecodable::Malformed);
    }
    // Almost every record is of the newest kind, so that one is tried first and the head alone is read only when it does not fit.
    if let Ok(record) = serde_json::from_slice::<MessageSentV1<'_>>(bytes)
        && record.is_own_kind()
    {
        return record.into_event();
    }
    let head: Head<'_> = serde_json::from_slice(bytes).map_err(|_| Undecodable::Malformed)?;
    match (head.kind.as_ref(), head.schema) {
        (MessageSentV1::TYPE, MessageSentV1::SCHEMA) => Err(Undecodable::Invalid),
        _ => Err(Undecodable::UnknownKind),
    }
}

/// What every record of every release has.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    schema: u32,
}

/// The body of a fuzz target: whatever `bytes` are, decoding ends without a panic, and what decodes is the same after another round.
///
/// # Panics
/// When a record that was read does not survive being written and read again.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(event) = decode(bytes) {
        let encoded = encode(&event).expect("an event that was read within the limits of the domain fits");
        assert_eq!(decode(&encoded).as_ref(), Ok(&event), "a record changed between two readings");
    }
}

#[cfg(test)]
mod tests;
