//! [`RateLimiter`].

use super::user;
use crate::ports::RateLimiter;
use crate::ports::rate_limit::Decision;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

/// Opens the limiter under test.
#[async_trait]
pub trait RateLimitFixture: Send + Sync {
    /// A limiter of [`BURST`] sends in [`WINDOW`] where everyone has the whole burst.
    async fn open(&self) -> Arc<dyn RateLimiter>;

    /// Lets time pass; none passes otherwise.
    async fn advance(&self, by: Duration);
}

/// The burst of every limiter of the suite.
pub const BURST: u32 = 5;
/// The window of every limiter of the suite: one send comes back each second.
pub const WINDOW: Duration = Duration::from_secs(5);

/// Runs every case of this suite on fixtures that the expression makes.
#[macro_export]
macro_rules! rate_limit_contract {
    ($fixture:expr) => {
        $crate::contract_cases!(
            rate_limit,
            $fixture,
            a_burst_is_allowed_and_no_more,
            the_budget_comes_back_evenly,
            the_answered_wait_is_exact_and_costs_nothing,
            everyone_has_a_budget_of_their_own,
        );
    };
}

async fn allowed(limiter: &dyn RateLimiter, name: &str, tries: u32) -> u32 {
    let mut count = 0;
    for _ in 0..tries {
        count += u32::from(limiter.check_send(&user(name)).await == Decision::Allowed);
    }
    count
}

/// The whole burst at once, then nothing.
pub async fn a_burst_is_allowed_and_no_more(fixture: &dyn RateLimitFixture) {
    let limiter = fixture.open().await;
    assert_eq!(allowed(&*limiter, "alice", 50).await, BURST);
}

/// One for each share of the window, up to the burst and not beyond.
pub async fn the_budget_comes_back_evenly(fixture: &dyn RateLimitFixture) {
    let limiter = fixture.open().await;
    assert_eq!(allowed(&*limiter, "alice", 50).await, BURST);
    for (passed, expected) in [(WINDOW / BURST, 1), (WINDOW / BURST, 1), (WINDOW / BURST * 3, 3), (WINDOW * 100, BURST)]
    {
        fixture.advance(passed).await;
        assert_eq!(allowed(&*limiter, "alice", 50).await, expected, "after {passed:?}");
    }
}

/// Coming back a moment too early is refused and moves nothing; coming back in time is allowed.
pub async fn the_answered_wait_is_exact_and_costs_nothing(fixture: &dyn RateLimitFixture) {
    let limiter = fixture.open().await;
    assert_eq!(allowed(&*limiter, "alice", BURST).await, BURST);
    for _ in 0..3 {
        let Decision::Limited { retry_after } = limiter.check_send(&user("alice")).await else {
            panic!("the burst is used up");
        };
        assert!(retry_after > Duration::ZERO && retry_after <= WINDOW / BURST, "{retry_after:?}");
        let early = retry_after - Duration::from_millis(1).min(retry_after);
        fixture.advance(early).await;
        assert_eq!(allowed(&*limiter, "alice", 20).await, 0, "a millisecond too early");
        fixture.advance(retry_after - early).await;
        assert_eq!(allowed(&*limiter, "alice", 20).await, 1);
    }
}

/// One user's flood limits nobody else.
pub async fn everyone_has_a_budget_of_their_own(fixture: &dyn RateLimitFixture) {
    let limiter = fixture.open().await;
    assert_eq!(allowed(&*limiter, "alice", 50).await, BURST);
    assert_eq!(allowed(&*limiter, "bob", 50).await, BURST);
}
