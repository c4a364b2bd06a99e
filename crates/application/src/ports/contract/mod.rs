//! What every adapter of a port has to show: the contracts of the ports as tests.
//!
//! Each suite takes a fixture, which opens the adapter under test, empty at first. A crate runs a suite by one line, which makes a test of every case:
//!
//! ```text
//! chatify_application::log_contract!(EmbeddedFixture::new());
//! ```
//!
//! The cases wait for what they expect with a generous watchdog and never measure time, so that a slow machine changes nothing. They panic when the
//! adapter breaks its contract.

pub mod group;
pub mod history;
pub mod log;
pub mod presence;
pub mod rate_limit;
pub mod signal;

use chatify_building_blocks::correlation::CorrelationId;
use chatify_domain::{ChatEvent, MessageId, MessageSent, PodId, Scope, SenderId, Text};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Longer than any healthy adapter takes for anything.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Makes one test of each case of a suite.
#[doc(hidden)]
#[macro_export]
macro_rules! contract_cases {
    ($suite:ident, $fixture:expr, $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::ports::contract::$suite::$case(&$fixture).await;
            }
        )+
    };
}

/// The outcome of `future`, which has to come.
///
/// # Panics
/// When it does not.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WATCHDOG, future).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what} did not come within {WATCHDOG:?}"),
    }
}

/// A channel.
///
/// # Panics
/// When `name` is no channel's name.
#[must_use]
pub fn channel(name: &str) -> Scope {
    Scope::parse(&format!("Channel:{name}")).expect("a channel's name")
}

/// A user.
///
/// # Panics
/// When `name` is no user's id.
#[must_use]
pub fn user(name: &str) -> SenderId {
    SenderId::parse(name).expect("a user's id")
}

/// The message of `sender` with the number `number` in `scope`; every part of it follows from these.
///
/// # Panics
/// Never: all parts are valid.
#[must_use]
pub fn message(scope: &Scope, sender: &str, number: u32) -> Arc<MessageSent> {
    Arc::new(MessageSent {
        message_id: MessageId::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + u128::from(number)),
        scope: scope.clone(),
        sender_id: user(sender),
        text: Text::parse(&format!("message {number} of {sender}: \"ä\u{0}\n\"")).expect("a short text"),
        origin_pod_id: PodId::parse("contract-pod").expect("a valid pod"),
    })
}

/// The same as an event of the log.
#[must_use]
pub fn event(scope: &Scope, sender: &str, number: u32) -> ChatEvent {
    ChatEvent::MessageSent(message(scope, sender, number))
}

/// The correlation id of every request of the suites.
///
/// # Panics
/// Never: it is valid.
#[must_use]
pub fn correlation() -> CorrelationId {
    CorrelationId::parse("corr_01890a5d-ac96-774b-bcce-b302099a8057").expect("a correlation id")
}
