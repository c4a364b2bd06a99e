//! `MessageSent`, schema 1.

use chatify_application::ports::log::Undecodable;
use chatify_domain::{ChatEvent, MessageId, MessageSent, PodId, Scope, ScopeType, SenderId, Text};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

/// The fields in the order in which they are written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MessageSentV1<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    schema: u32,
    #[serde(borrow)]
    message_id: Cow<'a, str>,
    #[serde(borrow)]
    scope_type: Cow<'a, str>,
    #[serde(borrow)]
    scope_id: Cow<'a, str>,
    #[serde(borrow)]
    sender_id: Cow<'a, str>,
    #[serde(borrow)]
    text: Cow<'a, str>,
    #[serde(borrow)]
    origin_pod_id: Cow<'a, str>,
}

impl<'a> MessageSentV1<'a> {
    pub(super) const TYPE: &'static str = "MessageSent";
    pub(super) const SCHEMA: u32 = 1;
    /// Bytes of names, quotes, the id and the scope's type, rounded up.
    const FRAME_BYTES: usize = 192;

    pub(super) fn from_event(sent: &'a MessageSent) -> Self {
        Self {
            kind: Self::TYPE.into(),
            schema: Self::SCHEMA,
            message_id: sent.message_id.to_string().into(),
            scope_type: sent.scope.kind().as_str().into(),
            scope_id: sent.scope.id().as_str().into(),
            sender_id: sent.sender_id.as_str().into(),
            text: sent.text.as_str().into(),
            origin_pod_id: sent.origin_pod_id.as_str().into(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let contents = self.scope_id.len() + self.sender_id.len() + self.text.len() + self.origin_pod_id.len();
        let mut bytes = Vec::with_capacity(Self::FRAME_BYTES + contents);
        serde_json::to_writer(&mut bytes, self).expect("text fields written to memory cannot fail");
        bytes
    }

    pub(super) fn is_own_kind(&self) -> bool {
        self.kind == Self::TYPE && self.schema == Self::SCHEMA
    }

    pub(super) fn into_event(self) -> Result<ChatEvent, Undecodable> {
        let kind = ScopeType::parse(&self.scope_type).ok_or(Undecodable::Invalid)?;
        Ok(ChatEvent::MessageSent(Arc::new(MessageSent {
            message_id: MessageId::parse(&self.message_id).map_err(|_| Undecodable::Invalid)?,
            scope: Scope::new(kind, &self.scope_id).map_err(|_| Undecodable::Invalid)?,
            sender_id: SenderId::parse(&self.sender_id).map_err(|_| Undecodable::Invalid)?,
            text: Text::parse(&self.text).map_err(|_| Undecodable::Invalid)?,
            origin_pod_id: PodId::parse(&self.origin_pod_id).map_err(|_| Undecodable::Invalid)?,
        })))
    }
}
