//! Pods of one deployment over a Redis that other tests use too.

use crate::embedded::RateLimit;
use crate::redis::connection::Availability;
use crate::redis::{RedisConnection, RedisOptions, RedisPresence, RedisRateLimiter};
use async_trait::async_trait;
use chatify_application::ports::contract::presence::PresenceFixture;
use chatify_application::ports::contract::rate_limit::{BURST, RateLimitFixture, WINDOW};
use chatify_application::ports::contract::within;
use chatify_application::ports::{PresenceStore, RateLimiter};
use chatify_building_blocks::clock::{Clock, ManualClock};
use chatify_building_blocks::random::{Random, SystemRandom};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{PodId, Timestamp};
use redis::{AsyncConnectionConfig, Client, FromRedisValue};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

const START: Timestamp = Timestamp::from_millis(1_760_000_000_000);
/// How long an answer is waited for: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);
const HINT: &str = "run `scripts/services.sh start redis redis-cluster`";

/// One deployment: a key prefix that nobody else has.
pub(super) struct Fixture {
    pub(super) url: String,
    pub(super) prefix: String,
    pub(super) clock: Arc<ManualClock>,
    pub(super) supervisor: Supervisor,
}

/// A pod of it.
pub(super) struct Pod {
    pub(super) connection: Arc<RedisConnection>,
    pub(super) presence: Arc<RedisPresence>,
    pub(super) limiter: Arc<RedisRateLimiter>,
}

impl Fixture {
    pub(super) fn single() -> Self {
        Self::at(std::env::var("CHATIFY_TEST_REDIS").unwrap_or_else(|_| "redis://127.0.0.1:16379".into()))
    }

    /// Where the shared single server listens.
    pub(super) fn address(&self) -> &str {
        self.url.rsplit(['/', '@']).next().expect("a part at least")
    }

    pub(super) fn cluster() -> Self {
        let nodes = "127.0.0.1:16479,127.0.0.1:16480,127.0.0.1:16481";
        let url = std::env::var("CHATIFY_TEST_REDIS_CLUSTER").unwrap_or_else(|_| nodes.into());
        Self::at(if url.contains("://") { url } else { format!("redis+cluster://{url}") })
    }

    pub(super) fn at(url: String) -> Self {
        let prefix = format!("test:{:016x}:", SystemRandom.u64());
        Self { url, prefix, clock: Arc::new(ManualClock::at(START)), supervisor: Supervisor::new() }
    }

    /// Patient, and quiet, so that every command on the wire is one that the test asked for.
    pub(super) fn options(&self, pod: &str) -> RedisOptions {
        RedisOptions {
            deadline: PATIENCE,
            connect_timeout: PATIENCE,
            health_interval: Duration::from_secs(3_600),
            key_prefix: self.prefix.clone(),
            ..RedisOptions::new(self.url.clone().into(), PodId::parse(pod).expect("a pod"))
        }
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as _
    }

    pub(super) async fn pod_with(&self, options: RedisOptions, limit: RateLimit) -> Pod {
        let connection = RedisConnection::connect(options, self.clock(), Arc::new(SystemRandom), &self.supervisor);
        let connection = connection.await.expect("valid options");
        Pod {
            presence: RedisPresence::start(Arc::clone(&connection), &self.supervisor),
            limiter: RedisRateLimiter::start(Arc::clone(&connection), limit, self.clock(), &self.supervisor),
            connection,
        }
    }

    /// A pod that found Redis at its start.
    pub(super) async fn pod(&self, name: &str) -> Pod {
        let pod = self.pod_with(self.options(name), hourly(100)).await;
        assert!(pod.connection.is_available(), "no Redis at {}: {HINT}", self.url);
        pod
    }

    /// Asks one server past the adapters.
    pub(super) async fn raw<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        self.raw_command(&command).await
    }

    async fn raw_command<T: FromRedisValue>(&self, command: &redis::Cmd) -> T {
        let client = Client::open(&*self.url).expect("a single server");
        // The driver's own second to connect and half a second to answer are too short for a busy machine.
        let patient = AsyncConnectionConfig::new();
        let patient = patient.set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
        let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await.expect(HINT);
        command.query_async(&mut connection).await.expect("an answer")
    }

    /// Forgets every key of this deployment whose name goes on with `rest`.
    pub(super) async fn forget(&self, rest: &str) {
        let keys: Vec<String> = self.raw(&["KEYS", &format!("{}{rest}*", self.prefix)]).await;
        for key in keys {
            self.raw::<()>(&["DEL", &key]).await;
        }
    }
}

/// `burst` sends, which come back so slowly that none does during a test.
pub(super) fn hourly(burst: u32) -> RateLimit {
    let burst = NonZeroU32::new(burst).expect("not zero");
    RateLimit { burst, window: Duration::from_secs(3_600) * burst.get() }
}

/// Waits until Redis is away, or is back after it was.
pub(super) async fn becomes(connection: &RedisConnection, available: bool) {
    let mut states = connection.watch();
    let reached = |state: &Availability| match state {
        Availability::Available(since) => available && since.is_some(),
        Availability::Away => !available,
    };
    within("the change", states.wait_for(reached)).await.expect("the connection lives");
}

#[async_trait]
impl PresenceFixture for Fixture {
    async fn open(&self) -> Arc<dyn PresenceStore> {
        self.pod("pod {1}:é").await.presence
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
}

#[async_trait]
impl RateLimitFixture for Fixture {
    async fn open(&self) -> Arc<dyn RateLimiter> {
        let limit = RateLimit { burst: NonZeroU32::new(BURST).expect("not zero"), window: WINDOW };
        let connection = self.pod("pod").await.connection;
        RedisRateLimiter::start_timed(connection, limit, &self.clock(), &self.supervisor)
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
}
