//! Bytes for the wire, made once per message and format and then shared by every subscriber.

use crate::http::dto::MessageDto;
use bytes::Bytes;
use chatify_domain::{LoggedMessage, Position, Scope};
use std::sync::{Arc, OnceLock};

/// The end of a JSON record in the SignalR hub protocol.
pub const RECORD_SEPARATOR: u8 = 0x1e;

/// What a connection speaks. The number is the index of its chunk in a [`ScopeBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// SignalR records as JSON, in WebSocket text frames.
    Json = 0,
    /// SignalR records as MessagePack, in WebSocket binary frames.
    MessagePack = 1,
    /// Server-Sent Events, raw.
    EventStream = 2,
}

const FORMATS: usize = 3;

/// New messages of one scope, in order, ready for every format that somebody asks for.
#[derive(Debug)]
pub struct ScopeBatch {
    /// Where they were said.
    pub scope: Scope,
    /// They, ascending; never empty.
    messages: Vec<LoggedMessage>,
    encoded: [OnceLock<Encoded>; FORMATS],
}

/// All frames of a batch one behind the other, and where each ends.
#[derive(Debug)]
struct Encoded {
    bytes: Bytes,
    ends: Vec<usize>,
}

/// Whole frames for a socket.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The frames.
    pub bytes: Bytes,
    /// How many they are.
    pub frames: usize,
}

impl ScopeBatch {
    /// A batch of `messages`, which are of `scope`, ascending and not empty.
    #[must_use]
    pub fn new(scope: Scope, messages: Vec<LoggedMessage>) -> Arc<Self> {
        debug_assert!(!messages.is_empty() && messages.is_sorted_by_key(|message| message.position));
        Arc::new(Self { scope, messages, encoded: Default::default() })
    }

    /// The frames of the messages after `floor`; `None` when there are none.
    pub fn after(&self, floor: Position, format: Format) -> Option<Chunk> {
        let first = self.messages.partition_point(|message| message.position <= floor);
        if first == self.messages.len() {
            return None;
        }
        let encoded = self.encoded[format as usize].get_or_init(|| encode(&self.messages, format));
        let start = if first == 0 { 0 } else { encoded.ends[first - 1] };
        Some(Chunk { bytes: encoded.bytes.slice(start..), frames: self.messages.len() - first })
    }

    /// How many messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Never, but clippy and readers expect the question.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

fn encode(messages: &[LoggedMessage], format: Format) -> Encoded {
    let mut out = Vec::with_capacity(messages.len() * 512);
    let mut ends = Vec::with_capacity(messages.len());
    let mut record = Vec::with_capacity(512);
    for message in messages {
        let dto = MessageDto::from(message);
        record.clear();
        match format {
            Format::Json => {
                receive_message_json(&dto, &mut record);
                websocket_frame(Opcode::Text, &record, &mut out);
            }
            Format::MessagePack => {
                crate::signalr::messagepack::receive_message(&dto, &mut record);
                websocket_frame(Opcode::Binary, &record, &mut out);
            }
            Format::EventStream => server_sent_event(&dto, &mut out),
        }
        ends.push(out.len());
    }
    Encoded { bytes: out.into(), ends }
}

fn receive_message_json(dto: &MessageDto<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"type":1,"target":"ReceiveMessage","arguments":["#);
    write_json(dto, out);
    out.extend_from_slice(b"]}");
    out.push(RECORD_SEPARATOR);
}

/// One event of the stream; its id is the position, so that `Last-Event-ID` resumes.
pub fn server_sent_event(dto: &MessageDto<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"id: ");
    write_json(&dto.position, out);
    out.extend_from_slice(b"\nevent: message\ndata: ");
    write_json(dto, out);
    out.extend_from_slice(b"\n\n");
}

/// Appends `value` as JSON.
pub fn write_json(value: &impl serde::Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("our own types are serialisable, and a vector takes every byte");
}

/// The WebSocket opcodes that this server sends itself (RFC 6455, section 5.2).
#[derive(Clone, Copy, Debug)]
pub enum Opcode {
    /// A text message.
    Text = 0x1,
    /// A binary message.
    Binary = 0x2,
    /// The end of the connection.
    Close = 0x8,
}

/// Appends one whole, unmasked frame (RFC 6455, section 5.2).
pub fn websocket_frame(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    const FINAL: u8 = 0x80;
    out.push(FINAL | opcode as u8);
    let length = payload.len();
    if let Ok(short) = u8::try_from(length)
        && short < 126
    {
        out.push(short);
    } else if let Ok(medium) = u16::try_from(length) {
        out.push(126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatify_domain::{Epoch, MessageId, MessageSent, Offset, Partition, PodId, SenderId, Text, Timestamp};

    fn message(offset: i64) -> LoggedMessage {
        let sent = MessageSent {
            message_id: MessageId::from_u128(u128::try_from(offset).expect("not negative")),
            scope: Scope::parse("general").expect("a scope"),
            sender_id: SenderId::parse("alice").expect("an id"),
            text: Text::parse("hello").expect("a text"),
            origin_pod_id: PodId::parse("pod").expect("an id"),
        };
        LoggedMessage {
            position: Position::new(Epoch::FIRST, Offset::new(offset).expect("in range")),
            partition: Partition(0),
            created_at: Timestamp::from_millis(0),
            sent: Arc::new(sent),
        }
    }

    #[test]
    fn a_floor_cuts_at_a_frame() {
        let batch = ScopeBatch::new(Scope::parse("general").expect("a scope"), (1..=3).map(message).collect());
        let all = batch.after(Position::ZERO, Format::Json).expect("three");
        let last = batch.after(message(2).position, Format::Json).expect("one");
        assert_eq!((all.frames, last.frames), (3, 1));
        assert!(all.bytes.ends_with(&last.bytes) && last.bytes[0] == 0x81);
        assert!(batch.after(message(3).position, Format::Json).is_none());
    }

    #[test]
    fn frame_headers_grow_with_the_payload() {
        for (length, header) in [(125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let mut out = Vec::new();
            websocket_frame(Opcode::Binary, &vec![7; length], &mut out);
            assert_eq!(out.len(), length + header);
        }
    }
}
