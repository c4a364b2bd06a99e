//! What the tests of the readers share.

use crate::record;
use chatify_application::ports::log::Undecodable;
use chatify_domain::{ChatEvent, MessageId, MessageSent, PodId, Scope, SenderId, Text};
use std::sync::Arc;

/// A message.
pub(super) fn sent(scope: &str, sender: &str, text: &str) -> ChatEvent {
    ChatEvent::MessageSent(Arc::new(MessageSent {
        message_id: MessageId::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001),
        scope: Scope::parse(scope).expect("a scope"),
        sender_id: SenderId::parse(sender).expect("a sender"),
        text: Text::parse(text).expect("a text"),
        origin_pod_id: PodId::parse("pod").expect("a pod"),
    }))
}

/// A record that can have no effect.
pub(super) struct Poison {
    pub(super) name: &'static str,
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) expected: Undecodable,
}

/// Eight kinds of them, for a log with one partition.
pub(super) fn poisons() -> Vec<Poison> {
    let good =
        String::from_utf8(record::encode(&sent("Channel:general", "alice", "hi")).expect("small")).expect("JSON");
    let key = || Some(b"Channel:general".to_vec());
    let poison = |name, key, payload: Option<&str>, expected| Poison {
        name,
        key,
        payload: payload.map(|payload| payload.as_bytes().to_vec()),
        expected,
    };
    vec![
        poison("no value", key(), None, Undecodable::Malformed),
        poison("an empty value", key(), Some(""), Undecodable::Malformed),
        poison("no JSON", key(), Some("\u{0}\u{1}binary"), Undecodable::Malformed),
        poison("too long", key(), Some(&" ".repeat(record::MAX_RECORD_BYTES + 1)), Undecodable::Malformed),
        poison("another type", key(), Some(&good.replace("MessageSent", "Exploded")), Undecodable::UnknownKind),
        poison("a later schema", key(), Some(&good.replace("\"schema\":1", "\"schema\":9")), Undecodable::UnknownKind),
        poison("a blank sender", key(), Some(&good.replace("alice", " ")), Undecodable::Invalid),
        poison("another key", Some(b"Channel:other".to_vec()), Some(&good), Undecodable::Invalid),
    ]
}
