//! [`RateLimiter`] in the memory of the one process: GCRA by `governor`.

use async_trait::async_trait;
use chatify_application::ports::RateLimiter;
use chatify_application::ports::rate_limit::Decision;
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::SenderId;
use governor::Quota;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

type Limiter = governor::RateLimiter<SenderId, DashMapStateStore<SenderId>, Uptime, NoOpMiddleware<Duration>>;

/// How often a user may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Sends that may come at once.
    pub burst: NonZeroU32,
    /// The time in which the whole burst comes back, evenly; at least a nanosecond for each.
    pub window: Duration,
}

/// One budget for each user who sent lately; users who have their whole burst again take no memory.
pub struct EmbeddedRateLimiter {
    limiter: Limiter,
    clock: Uptime,
}

/// `governor` on our clock.
#[derive(Clone)]
struct Uptime(Arc<dyn Clock>);

impl governor::clock::Clock for Uptime {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.uptime()
    }
}

impl EmbeddedRateLimiter {
    /// A limiter where everyone has a whole burst. A service of `supervisor` forgets idle users once in each window.
    #[must_use]
    pub fn start(limit: RateLimit, clock: Arc<dyn Clock>, supervisor: &Supervisor) -> Arc<Self> {
        let this = Arc::new(Self::new(limit, clock));
        let (weak, cancelled) = (Arc::downgrade(&this), supervisor.token());
        supervisor.service("rate-limit-cleanup", async move {
            let mut ticks = tokio::time::interval(limit.window.max(Duration::from_secs(1)));
            loop {
                tokio::select! {
                    biased;
                    () = cancelled.cancelled() => return Ok::<_, Infallible>(()),
                    _ = ticks.tick() => weak.upgrade().into_iter().for_each(|limiter| limiter.forget_idle()),
                }
            }
        });
        this
    }

    fn new(limit: RateLimit, clock: Arc<dyn Clock>) -> Self {
        let period = (limit.window / limit.burst.get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(period).expect("the period is not zero").allow_burst(limit.burst);
        let clock = Uptime(clock);
        Self { limiter: Limiter::new(quota, DashMapStateStore::default(), clock.clone()), clock }
    }

    fn forget_idle(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

#[async_trait]
impl RateLimiter for EmbeddedRateLimiter {
    async fn check_send(&self, user: &SenderId) -> Decision {
        match self.limiter.check_key(user) {
            Ok(()) => Decision::Allowed,
            Err(until) => {
                Decision::Limited { retry_after: until.wait_time_from(governor::clock::Clock::now(&self.clock)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatify_building_blocks::clock::ManualClock;
    use chatify_domain::Timestamp;

    #[tokio::test]
    async fn idle_users_are_forgotten_and_busy_ones_are_not() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(0)));
        let limit = RateLimit { burst: NonZeroU32::new(2).expect("not zero"), window: Duration::from_secs(2) };
        let limiter = EmbeddedRateLimiter::new(limit, Arc::clone(&clock) as Arc<dyn Clock>);
        let user = |id| SenderId::parse(id).expect("a valid id");
        limiter.check_send(&user("idle")).await;
        clock.advance(Duration::from_secs(60));
        limiter.check_send(&user("busy")).await;
        limiter.check_send(&user("busy")).await;
        limiter.forget_idle();
        assert_eq!(limiter.limiter.len(), 1);
        assert!(matches!(limiter.check_send(&user("busy")).await, Decision::Limited { .. }));
    }
}
