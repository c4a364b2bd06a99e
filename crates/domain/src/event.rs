//! Facts: what the log holds. Immutable, versioned where they are stored, and open to more kinds.

use crate::{MessageId, Partition, PodId, Position, Scope, SenderId, Text, Timestamp};
use std::sync::Arc;

/// A fact about one scope; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatEvent {
    /// Somebody wrote something.
    MessageSent(Arc<MessageSent>),
}

impl ChatEvent {
    /// The scope it belongs to: the log's key.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        match self {
            Self::MessageSent(sent) => &sent.scope,
        }
    }

    /// The kind's name in the log.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::MessageSent(_) => "MessageSent",
        }
    }
}

/// Somebody wrote something. Its time and place in the order are given by the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageSent {
    /// The sender's name for it: (scope, sender, id) is one message, however often it was sent.
    pub message_id: MessageId,
    /// Where it was written.
    pub scope: Scope,
    /// Who wrote it.
    pub sender_id: SenderId,
    /// What was written.
    pub text: Text,
    /// The pod that took it from the sender.
    pub origin_pod_id: PodId,
}

/// A message together with its place in the log: what everyone sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedMessage {
    /// Place in the scope's one order.
    pub position: Position,
    /// The partition it stands in.
    pub partition: Partition,
    /// When the log appended it.
    pub created_at: Timestamp,
    /// What was said; shared, because many hold it at once.
    pub sent: Arc<MessageSent>,
}
