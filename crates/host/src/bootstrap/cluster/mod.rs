//! The profile `cluster`: Kafka is the log, a CQL store has the history, Redis knows who is online.
//!
//! A service that is away keeps nobody from starting: without the log the process waits, alive and not ready; without the others it serves what it can
//! and connects in the background. Only a configuration that can never work ends it.

mod guard;
mod options;
mod outage;

use super::gate::Gate;
use super::{Adapters, Closing, Parts, send_limit};
use crate::config::ConfigError;
use crate::dependencies::{Dependencies, Dependency, Trouble};
use chatify_application::ports::HistoryStore;
use chatify_building_blocks::backoff::Backoff;
use chatify_building_blocks::error::{Classify, ErrorKind, chain};
use chatify_domain::Scope;
use chatify_infrastructure::kafka::{KafkaLog, KafkaOptions};
use chatify_infrastructure::redis::{RedisConnection, RedisPresence, RedisRateLimiter};
use chatify_infrastructure::scylla::{ScyllaHistory, ScyllaOptions};
use guard::GuardedHistory;
pub use options::ClusterOptions;
use outage::Outage;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Waits between tries to reach the log.
const RECONNECT: Backoff = Backoff { first: Duration::from_millis(500), cap: Duration::from_secs(5) };

/// What is to be closed at the end.
pub(super) struct Services {
    log: KafkaLog,
}

impl Services {
    /// Waits, within the log's own deadline, for what it has accepted.
    pub(super) async fn close(self) {
        self.log.close().await;
    }
}

/// The adapters; waits for the log for as long as it takes.
pub(super) async fn connect(parts: &Parts, gate: &Gate) -> anyhow::Result<Adapters> {
    let options = ClusterOptions::of(&parts.config)?;
    let append_deadline = options.kafka.message_timeout;
    let Parts { clock, random, supervisor, .. } = parts;
    let redis = RedisConnection::connect(options.redis, clock.clone(), random.clone(), supervisor);
    let redis = redis.await.map_err(ConfigError::refused)?;
    let (log, history) =
        tokio::try_join!(connect_log(parts, gate, &options.kafka), connect_history(parts, options.scylla))?;
    let guarded = GuardedHistory::start(history.clone(), log.clone(), &**random, supervisor).await?;
    let dependencies = watch(parts, &log, &history, &redis);
    Ok(Adapters {
        appender: log.appender(),
        tail: log.tail(),
        group: log.group(),
        history: guarded,
        presence: RedisPresence::start(redis.clone(), supervisor),
        limiter: RedisRateLimiter::start(redis, send_limit(&parts.config), clock.clone(), supervisor),
        append_deadline,
        dependencies,
        closing: Closing::Cluster(Services { log }),
    })
}

/// Tries until the brokers answer.
async fn connect_log(parts: &Parts, gate: &Gate, options: &KafkaOptions) -> anyhow::Result<KafkaLog> {
    let mut attempt = 0;
    loop {
        let failure = match KafkaLog::connect(options.clone(), parts.clock.clone(), &parts.supervisor).await {
            Ok(log) => return Ok(log),
            Err(failure) if failure.kind() == ErrorKind::Configuration => {
                return Err(ConfigError::refused(failure).into());
            }
            Err(failure) => failure,
        };
        tracing::warn!(error = chain(&failure), attempt, "the log cannot be reached; trying again");
        gate.waits_for(format!("the log is away: {failure}"));
        tokio::time::sleep(RECONNECT.wait(attempt, &*parts.random)).await;
        attempt = attempt.saturating_add(1);
    }
}

/// Comes back without a connection when the store is away; it is made in the background then.
async fn connect_history(parts: &Parts, options: ScyllaOptions) -> anyhow::Result<Arc<ScyllaHistory>> {
    let (clock, random) = (parts.clock.clone(), parts.random.clone());
    let history = ScyllaHistory::connect(options, clock, random, &parts.supervisor).await;
    Ok(history.map_err(ConfigError::refused)?)
}

/// How often the store is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// What readiness is told of the services.
fn watch(parts: &Parts, log: &KafkaLog, history: &Arc<ScyllaHistory>, redis: &Arc<RedisConnection>) -> Dependencies {
    let (clock, log) = (parts.clock.clone(), log.clone());
    let log = Dependency::new("the log", true, move || {
        let away = log.health().away?;
        Some(Trouble { for_: clock.uptime().saturating_sub(away.since), reason: away.reason.into() })
    });
    let (clock, redis) = (parts.clock.clone(), redis.clone());
    let redis = Dependency::new("Redis", false, move || {
        let away = redis.health()?;
        Some(Trouble { for_: clock.uptime().saturating_sub(away.since), reason: away.reason.to_string() })
    });
    let store = Outage::none(parts.clock.clone());
    let looking = look(history.clone(), store.clone());
    let ending = parts.supervisor.token();
    parts.supervisor.service("history-watch", async move {
        ending.run_until_cancelled(looking).await;
        Ok::<_, Infallible>(())
    });
    let store = Dependency::new("the history store", false, move || store.trouble());
    Dependencies::of_a_pod([log, store, redis])
}

/// Asks the store for something small, so that an idle pod knows too whether it could read.
async fn look(history: Arc<ScyllaHistory>, store: Outage) {
    let nowhere = Scope::parse("Channel:-").expect("the scope is valid");
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        store.observe(history.segments(&nowhere).await.err().map(|error| error.to_string()));
    }
}
