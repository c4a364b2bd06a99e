//! [`RateLimiter`] over Redis: one budget over all pods.

use super::connection::{LoadedScript, RedisConnection};
use crate::embedded::{EmbeddedRateLimiter, RateLimit};
use async_trait::async_trait;
use chatify_application::ports::RateLimiter;
use chatify_application::ports::rate_limit::Decision;
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::SenderId;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// GCRA in one script, by Redis's clock. While Redis is away, slow or overloaded the pod decides alone, by a budget of its own; the users' shared
/// budgets go on from where they were when Redis is back.
pub struct RedisRateLimiter {
    connection: Arc<RedisConnection>,
    script: LoadedScript,
    cost: String,
    burst: String,
    time: TimeSource,
    alone: Arc<EmbeddedRateLimiter>,
}

/// Whose time decides.
enum TimeSource {
    /// Redis's: the same for all pods.
    Redis,
    /// A test's.
    #[cfg(test)]
    Given(Arc<dyn Clock>),
}

impl RedisRateLimiter {
    /// A limiter over `connection`. `clock` and a service of `supervisor` are for the budgets that count while Redis is away.
    #[must_use]
    pub fn start(
        connection: Arc<RedisConnection>,
        limit: RateLimit,
        clock: Arc<dyn Clock>,
        supervisor: &Supervisor,
    ) -> Arc<Self> {
        Arc::new(Self::new(connection, limit, TimeSource::Redis, EmbeddedRateLimiter::start(limit, clock, supervisor)))
    }

    /// A limiter whose shared budgets follow `clock` too, because Redis's cannot be moved.
    #[cfg(test)]
    pub(super) fn start_timed(
        connection: Arc<RedisConnection>,
        limit: RateLimit,
        clock: &Arc<dyn Clock>,
        supervisor: &Supervisor,
    ) -> Arc<Self> {
        let alone = EmbeddedRateLimiter::start(limit, Arc::clone(clock), supervisor);
        Arc::new(Self::new(connection, limit, TimeSource::Given(Arc::clone(clock)), alone))
    }

    fn new(
        connection: Arc<RedisConnection>,
        limit: RateLimit,
        time: TimeSource,
        alone: Arc<EmbeddedRateLimiter>,
    ) -> Self {
        let cost = (limit.window / limit.burst.get()).as_micros().max(1);
        let script = LoadedScript::new(include_str!("scripts/gcra.lua"));
        Self { connection, script, cost: cost.to_string(), burst: limit.burst.to_string(), time, alone }
    }

    fn given_time(&self) -> String {
        match &self.time {
            TimeSource::Redis => String::new(),
            #[cfg(test)]
            TimeSource::Given(clock) => (clock.uptime() + Duration::from_secs(1)).as_micros().to_string(),
        }
    }
}

#[async_trait]
impl RateLimiter for RedisRateLimiter {
    async fn check_send(&self, user: &SenderId) -> Decision {
        let key = self.connection.keys().budget(user);
        let arguments = [&*self.cost, &*self.burst, &*self.given_time()];
        match self.connection.run_script::<u64>(&self.script, &[&key], &arguments).await {
            Ok(0) => Decision::Allowed,
            Ok(wait) => Decision::Limited { retry_after: Duration::from_micros(wait) },
            // The connection has logged and counted why, once for each outage.
            Err(_) => {
                self.connection.counters().local_limits.fetch_add(1, Ordering::Relaxed);
                self.alone.check_send(user).await
            }
        }
    }
}
