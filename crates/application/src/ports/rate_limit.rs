//! How often somebody may do something.

use async_trait::async_trait;
use chatify_domain::SenderId;
use std::time::Duration;

/// The generic cell rate algorithm (GCRA): `burst` actions at once, then one for each `window / burst` that passes.
///
/// * Each user has a budget of their own. A limited action takes nothing from it.
/// * The answer MUST come within 50 ms: an adapter that cannot reach its store decides locally.
/// * In the cluster the budget is one over all pods; while its store is away it is one per pod.
#[async_trait]
pub trait RateLimiter: Send + Sync + 'static {
    /// May `user` send one more message now?
    async fn check_send(&self, user: &SenderId) -> Decision;
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allowed,
    /// Not now.
    Limited {
        /// When the next one will be allowed.
        retry_after: Duration,
    },
}
