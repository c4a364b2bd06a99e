//! The world in memory: ports for tests and simulations, with faults on demand. Deterministic on a single-threaded runtime with paused time.

mod connections;
mod group;
mod history;
mod log;
mod pod;

pub use connections::{Connections, Subscriber};
pub use history::MemoryHistory;
pub use log::{AppendFault, MemoryLog};
pub use pod::{Pod, Shared};

use crate::SendMessage;
use crate::ports::presence::{ConnectionId, Presence};
use crate::ports::rate_limit::Decision;
use crate::ports::{PresenceStore, RateLimiter};
use async_trait::async_trait;
use chatify_building_blocks::correlation::CorrelationId;
use chatify_domain::{ChatEvent, MessageId, MessageSent, PodId, Scope, SenderId, Text};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The channel of this name.
///
/// # Panics
/// When there can be none.
#[must_use]
pub fn channel(name: &str) -> Scope {
    Scope::parse(name).expect("a channel's name")
}

/// The user of this name.
///
/// # Panics
/// When there can be none.
#[must_use]
pub fn user(name: &str) -> SenderId {
    SenderId::parse(name).expect("a user's name")
}

/// A message to be sent.
///
/// # Panics
/// When `text` is too long.
#[must_use]
pub fn send(sender: &str, scope: &str, text: &str, message_id: Option<MessageId>) -> SendMessage {
    SendMessage {
        sender: user(sender),
        scope: channel(scope),
        text: Text::parse(text).expect("a short text"),
        message_id,
        correlation: CorrelationId::parse("corr_01890a5d-ac96-774b-bcce-b302099a8057").expect("a correlation id"),
    }
}

/// What the log has of a message that somebody has sent through another pod.
///
/// # Panics
/// When the scope has no such name.
#[must_use]
pub fn said(scope: &str, number: u128) -> ChatEvent {
    ChatEvent::MessageSent(Arc::new(MessageSent {
        message_id: MessageId::from_u128(number),
        scope: channel(scope),
        sender_id: user("bob"),
        text: Text::parse("hi").expect("short"),
        origin_pod_id: PodId::parse("elsewhere").expect("a pod"),
    }))
}

/// Runs `check` for every seed; a failing one names its seed. `CHATIFY_SEEDS` overrides how many there are.
///
/// # Panics
/// When `check` does.
pub fn for_seeds(seeds: Range<u64>, check: impl Fn(u64)) {
    let count = std::env::var("CHATIFY_SEEDS").ok().and_then(|count| count.parse().ok());
    let end = count.map_or(seeds.end, |count: u64| seeds.start + count);
    for seed in seeds.start..end {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(seed))) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
            panic!("seed {seed} fails: {text}");
        }
    }
}

/// Lets everybody send as often as they like.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLimits;

#[async_trait]
impl RateLimiter for NoLimits {
    async fn check_send(&self, _user: &SenderId) -> Decision {
        Decision::Allowed
    }
}

/// Knows nothing about anybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnknownPresence;

#[async_trait]
impl PresenceStore for UnknownPresence {
    async fn connected(&self, _user: &SenderId, _connection: ConnectionId) {}
    async fn disconnected(&self, _user: &SenderId, _connection: ConnectionId) {}
    async fn presence(&self, _user: &SenderId) -> Presence {
        Presence::Unknown
    }
    async fn renew(&self) {}
    async fn withdraw(&self) {}
}

#[cfg(all(test, feature = "contract-tests"))]
mod tests;
