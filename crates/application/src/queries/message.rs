//! One message by its id.

use crate::application::Core;
use crate::history_reader::HistoryBehind;
use crate::ports::history::HistoryError;
use crate::read_barrier;
use chatify_building_blocks::error::{Classify, ErrorKind};
use chatify_domain::policy::{Action, Denied, authorize};
use chatify_domain::{LoggedMessage, MessageId, Position, Scope, SenderId};
use std::time::Duration;

/// A message that somebody wants to read.
#[derive(Clone, Debug)]
pub struct MessageQuery {
    /// Who.
    pub user: SenderId,
    /// Of which scope.
    pub scope: Scope,
    /// Which message. When several senders used the same id, it is the oldest one that is still in memory, or else the oldest one.
    pub message_id: MessageId,
}

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageQueryError {
    /// The user may not read this scope.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The scope has no message with this id.
    #[error("there is no such message")]
    NotFound,
    /// This pod's memory does not have it, and the history cannot be asked or is behind.
    #[error("the history cannot be read")]
    Unavailable(#[source] HistoryError),
}

impl Classify for MessageQueryError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied(_) => ErrorKind::Forbidden,
            Self::NotFound => ErrorKind::NotFound,
            Self::Unavailable(error) => error.kind(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Denied(_) | Self::NotFound => None,
            Self::Unavailable(error) => error.retry_after(),
        }
    }
}

pub(crate) async fn message(core: &Core, query: MessageQuery) -> Result<LoggedMessage, MessageQueryError> {
    authorize(&query.user, Action::Read, &query.scope)?;
    let partition = core.ports.tail.partition_of(&query.scope);
    let look = || core.recent.by_id(partition, &query.scope, query.message_id);
    if let Some(message) = look().messages.into_iter().next() {
        return Ok(message);
    }
    let current = read_barrier::passed(core, partition).await;
    let recent = look();
    if let Some(message) = recent.messages.into_iter().next() {
        return Ok(message);
    }
    if !current {
        return Err(behind());
    }
    if recent.floor == Position::ZERO {
        return Err(MessageQueryError::NotFound);
    }
    let need = recent.floor.next();
    let stored = core.reader.find(&query.scope, partition, query.message_id, need).await;
    let stored = stored.map_err(MessageQueryError::Unavailable)?;
    match stored.messages.into_iter().next() {
        Some(message) => Ok(message),
        None if stored.complete_before >= need => Err(MessageQueryError::NotFound),
        None => Err(behind()),
    }
}

fn behind() -> MessageQueryError {
    MessageQueryError::Unavailable(HistoryError::Unavailable(Box::new(HistoryBehind)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pod, Shared, channel, user};

    fn query(message_id: MessageId) -> MessageQuery {
        MessageQuery { user: user("alice"), scope: channel("a"), message_id }
    }

    #[tokio::test(start_paused = true)]
    async fn found_in_memory_or_in_the_history_or_certainly_not_there() {
        for tail_bytes in [1 << 20, 0] {
            let shared = Shared::new(1);
            let pod = Pod::live(&shared, |options| options.tail_bytes = tail_bytes).await;
            let said = pod.say(&shared, "bob", "a", "hi").await;
            shared.pass(Duration::from_secs(1)).await;
            let found = pod.application.message(query(said.sent.message_id)).await;
            assert_eq!(found.expect("it is there"), said);
            let unknown = query(MessageId::from_u128(7));
            let missing = pod.application.message(unknown.clone()).await.expect_err("it is not there");
            assert_eq!(missing.kind(), ErrorKind::NotFound);
            let elsewhere = MessageQuery { scope: channel("b"), ..query(said.sent.message_id) };
            assert!(matches!(pod.application.message(elsewhere).await, Err(MessageQueryError::NotFound)));
            let scope = Scope::parse("DirectMessage:bob+carol").expect("a scope");
            let foreign = MessageQuery { scope, ..query(said.sent.message_id) };
            assert!(matches!(pod.application.message(foreign).await, Err(MessageQueryError::Denied(_))));
            shared.store.tear_appends(usize::MAX);
            pod.say(&shared, "bob", "a", "not stored").await;
            shared.pass(Duration::from_secs(1)).await;
            let outcome = pod.application.message(unknown.clone()).await;
            let knows = tail_bytes > 0;
            assert_eq!(matches!(outcome, Err(MessageQueryError::NotFound)), knows, "{outcome:?}");
            shared.store.set_available(false);
            let outcome = pod.application.message(unknown).await;
            assert_eq!(matches!(outcome, Err(MessageQueryError::Unavailable(_))), !knows, "{outcome:?}");
        }
    }
}
