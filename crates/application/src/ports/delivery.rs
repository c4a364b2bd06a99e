//! The connections of this pod.

use async_trait::async_trait;
use chatify_domain::{LoggedMessage, Position, Scope};

/// Hands new messages to the subscribers that are connected to this pod.
///
/// * **Order.** Batches are handed over one after the other, each message once, ascending within its partition. Every subscriber MUST see
///   the messages of a scope in that order.
/// * **Bounds.** A subscriber that cannot keep up MUST lose its connection (it resumes by position), never a message, and MUST NOT slow the others.
/// * `deliver` MAY wait for room in a bounded queue of its own; what waits there reaches subscribers later, in order.
#[async_trait]
pub trait LocalDelivery: Send + Sync + 'static {
    /// Delivers a batch, not empty.
    async fn deliver(&self, batch: Vec<LoggedMessage>);

    /// Messages of every scope for which `missed` is true were removed from the log before this pod had read them. Whoever follows one MUST lose the
    /// connection, with leave to come back: the resume then gives what the history has, or says that something may be missing. Short, and does not block.
    fn interrupted(&self, missed: &(dyn Fn(&Scope) -> bool + Sync));
}

/// One connection's place in a scope, as a join needs it. Each call is short and does not block.
///
/// The life of a join: `hold` → (the application gathers what was said before) → the transport sends the answer → `release`.
pub trait LiveSubscription: Send + Sync {
    /// From now on keeps every message that is delivered in `scope`, in order, instead of sending it. A subscriber that is already there is held
    /// again.
    fn hold(&self, scope: &Scope);

    /// Sends what was kept and has a position after `after`, then goes live: later messages are sent as they come, except those not after `after`.
    fn release(&self, scope: &Scope, after: Position);

    /// Forgets the subscription.
    fn abandon(&self, scope: &Scope);
}
