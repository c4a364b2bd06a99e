//! What is known of the brokers without asking them.

use chatify_building_blocks::clock::Clock;
use rdkafka::error::RDKafkaErrorCode;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// The state of the log's client; taking it costs no I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KafkaHealth {
    /// Set while nothing can be appended.
    pub away: Option<Away>,
    /// Records that were accepted and are not durable yet.
    pub queued_records: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Partitions of the log to which nothing can be appended, because no broker leads them. With all of them the log is away.
    pub leaderless_partitions: u64,
    /// Errors that the clients reported since the start, without repetitions.
    pub client_errors: u64,
    /// How often the producer was made anew after an error that it could not survive.
    pub producer_rebuilds: u64,
}

/// Since when and why nothing can be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away {
    /// In the time of [`Clock::uptime`].
    pub since: Duration,
    /// In one clause.
    pub reason: &'static str,
}

pub(super) const STARTING: &str = "the Kafka producer has not reached the brokers yet";
pub(super) const REBUILDING: &str = "the Kafka producer is being rebuilt after a fatal error";
pub(super) const NO_BROKER: &str = "no Kafka broker is connected";
pub(super) const NO_LEADER: &str = "no partition of the log has a leader";
pub(super) const STALLED: &str = "records wait and no broker acknowledges any";
pub(super) const CLOSED: &str = "the log is closed";

/// Why nothing can be appended at the start.
#[derive(Debug)]
pub(super) enum NotThere {
    /// Nobody answers.
    Away(&'static str),
    /// Whoever answered did not let us in.
    Denied(RDKafkaErrorCode),
}

/// Gathers what the clients report; shared by all of them.
pub(super) struct HealthState {
    clock: Arc<dyn Clock>,
    away: watch::Sender<Option<Away>>,
    denied: Mutex<Option<RDKafkaErrorCode>>,
    queued_records: AtomicU64,
    queued_bytes: AtomicU64,
    leaderless_partitions: AtomicU64,
    acknowledged: AtomicU64,
    progress: Mutex<Progress>,
    client_errors: AtomicU64,
    producer_rebuilds: AtomicU64,
}

/// What the last statistics said of the records that wait.
#[derive(Default)]
struct Progress {
    acknowledged: u64,
    /// Since when some wait and none was acknowledged, in the time of [`Clock::uptime`].
    stalled_since: Option<Duration>,
}

/// Longer than brokers take that are well, shorter than it takes the client to give up a connection to one that is frozen.
const STALL: Duration = Duration::from_secs(3);

impl HealthState {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let away = watch::Sender::new(Some(Away { since: clock.uptime(), reason: STARTING }));
        Self {
            clock,
            away,
            denied: Mutex::default(),
            queued_records: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            leaderless_partitions: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            progress: Mutex::default(),
            client_errors: AtomicU64::new(0),
            producer_rebuilds: AtomicU64::new(0),
        }
    }

    pub(super) fn current(&self) -> KafkaHealth {
        KafkaHealth {
            away: *self.away.borrow(),
            queued_records: self.queued_records.load(Ordering::Relaxed),
            queued_bytes: self.queued_bytes.load(Ordering::Relaxed),
            leaderless_partitions: self.leaderless_partitions.load(Ordering::Relaxed),
            client_errors: self.client_errors.load(Ordering::Relaxed),
            producer_rebuilds: self.producer_rebuilds.load(Ordering::Relaxed),
        }
    }

    /// Nothing can be appended from now on; the moment stays that of the first reason.
    pub(super) fn is_away(&self, reason: &'static str) {
        let now = self.clock.uptime();
        self.away.send_modify(|away| {
            if away.is_none() && reason != CLOSED {
                tracing::warn!(reason, "the log is away");
            }
            let since = away.map_or(now, |away| away.since);
            *away = Some(Away { since, reason });
        });
    }

    /// Records can be appended.
    pub(super) fn is_there(&self) {
        if let Some(away) = self.away.send_replace(None) {
            tracing::info!(reason = away.reason, "the log is there");
        }
    }

    /// A broker does not let a client in.
    pub(super) fn is_denied(&self, code: RDKafkaErrorCode) {
        *self.denied.lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
    }

    /// Waits until records can be appended. One broker's refusal ends nothing: a broker that starts refuses users whom it has not read yet, and another
    /// one may let us in.
    ///
    /// # Errors
    /// When the deadline has passed, with the last refusal if there was one.
    pub(super) async fn wait_until_there(&self, deadline: Duration) -> Result<(), NotThere> {
        let mut away = self.away.subscribe();
        if tokio::time::timeout(deadline, away.wait_for(Option::is_none)).await.is_ok() {
            return Ok(());
        }
        let denied = *self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        Err(match denied {
            Some(code) => NotThere::Denied(code),
            None => NotThere::Away(self.current().away.map_or(STARTING, |away| away.reason)),
        })
    }

    /// [`Clock::uptime`].
    pub(super) fn uptime(&self) -> Duration {
        self.clock.uptime()
    }

    pub(super) fn count_error(&self) {
        self.client_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_rebuild(&self) {
        self.producer_rebuilds.fetch_add(1, Ordering::Relaxed);
    }

    /// A broker has a record.
    pub(super) fn count_acknowledged(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether records have been waiting for a while without any acknowledgement: a frozen broker keeps its connections.
    fn is_stalled(&self, queued: u64) -> bool {
        let (now, acknowledged) = (self.clock.uptime(), self.acknowledged.load(Ordering::Relaxed));
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if queued == 0 || acknowledged != progress.acknowledged {
            *progress = Progress { acknowledged, stalled_since: None };
            return false;
        }
        let since = *progress.stalled_since.get_or_insert(now);
        now.saturating_sub(since) >= STALL
    }

    /// Takes over what the producer's statistics say; `topic` is the log's.
    pub(super) fn observe(&self, statistics: &ProducerStatistics, topic: &str) {
        self.queued_records.store(statistics.queued_records, Ordering::Relaxed);
        self.queued_bytes.store(statistics.queued_bytes, Ordering::Relaxed);
        let leaders = statistics.leaders(topic);
        self.tell_of_leaders(leaders);
        // What waits for a leader says nothing of the brokers that are there.
        let waiting = statistics.queued_records.saturating_sub(leaders.waiting);
        let stalled = self.is_stalled(waiting).then_some(STALLED);
        match statistics.away(leaders).or(stalled) {
            Some(reason) => self.is_away(reason),
            None => self.is_there(),
        }
    }

    /// One partition without a leader is a part of the log only: taking every pod out for it would take the rest as well.
    fn tell_of_leaders(&self, leaders: Leaders) {
        let before = self.leaderless_partitions.swap(leaders.missing, Ordering::Relaxed);
        if before == 0 && leaders.missing > 0 {
            let Leaders { missing, partitions, .. } = leaders;
            tracing::warn!(
                missing,
                partitions,
                "partitions of the log have no leader: nothing can be appended to them"
            );
        } else if before > 0 && leaders.missing == 0 {
            tracing::info!("every partition of the log has a leader again");
        }
    }
}

/// Who leads the log's partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Leaders {
    partitions: u64,
    /// Those that nobody leads.
    missing: u64,
    /// Records that wait for these.
    waiting: u64,
}

/// The few of librdkafka's statistics that are looked at.
#[derive(Debug, Deserialize)]
pub(super) struct ProducerStatistics {
    #[serde(rename = "msg_cnt")]
    queued_records: u64,
    #[serde(rename = "msg_size")]
    queued_bytes: u64,
    #[serde(default)]
    brokers: BTreeMap<String, BrokerStatistics>,
    #[serde(default)]
    topics: BTreeMap<String, TopicStatistics>,
    #[serde(rename = "eos")]
    idempotence: Option<IdempotenceStatistics>,
}

#[derive(Debug, Deserialize)]
struct BrokerStatistics {
    state: String,
}

#[derive(Debug, Deserialize)]
struct TopicStatistics {
    partitions: BTreeMap<i32, PartitionStatistics>,
}

#[derive(Debug, Deserialize)]
struct PartitionStatistics {
    leader: i32,
    #[serde(default, rename = "msgq_cnt")]
    queued: u64,
    #[serde(default, rename = "xmit_msgq_cnt")]
    ready: u64,
}

#[derive(Debug, Deserialize)]
struct IdempotenceStatistics {
    idemp_state: String,
}

impl ProducerStatistics {
    /// Why nothing can be appended, if so.
    fn away(&self, leaders: Leaders) -> Option<&'static str> {
        if !self.brokers.values().any(|broker| broker.state == "UP") {
            return Some(NO_BROKER);
        }
        if !self.is_identified() {
            return Some(STARTING);
        }
        (leaders.missing > 0 && leaders.missing == leaders.partitions).then_some(NO_LEADER)
    }

    fn leaders(&self, topic: &str) -> Leaders {
        let partitions = self.topics.get(topic).into_iter().flat_map(|topic| &topic.partitions);
        // The partition -1 holds records whose partition is not known yet; it never has a leader.
        partitions.filter(|(number, _)| **number >= 0).fold(Leaders::default(), |leaders, (_, partition)| {
            let missing = partition.leader < 0;
            Leaders {
                partitions: leaders.partitions + 1,
                missing: leaders.missing + u64::from(missing),
                waiting: leaders.waiting + if missing { partition.queued + partition.ready } else { 0 },
            }
        })
    }

    /// Whether the brokers gave the producer the identity by which they recognise repeated requests; without it nothing is sent.
    fn is_identified(&self) -> bool {
        self.idempotence.as_ref().is_none_or(|idempotence| idempotence.idemp_state == "Assigned")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatify_building_blocks::clock::ManualClock;
    use chatify_domain::Timestamp;
    use serde_json::json;

    fn state() -> (Arc<ManualClock>, HealthState) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(0)));
        let state = HealthState::new(Arc::clone(&clock) as Arc<dyn Clock>);
        (clock, state)
    }

    /// Two partitions with these leaders, of which the first has `queued` records.
    fn observe(state: &HealthState, leaders: [i32; 2], queued: u64) -> KafkaHealth {
        let statistics = json!({
            "msg_cnt": queued,
            "msg_size": queued,
            "brokers": { "a:1/1": { "state": "UP" } },
            "topics": { "log": { "partitions": {
                "-1": { "leader": -1 },
                "0": { "leader": leaders[0], "msgq_cnt": queued, "xmit_msgq_cnt": 0 },
                "1": { "leader": leaders[1], "msgq_cnt": 0, "xmit_msgq_cnt": 0 },
            } } },
        });
        state.observe(&serde_json::from_value(statistics).expect("statistics"), "log");
        state.current()
    }

    #[test]
    fn the_log_is_away_when_all_partitions_lost_their_leaders_and_not_before() {
        let (_, state) = state();
        for (leaders, leaderless, reason) in [
            ([1, 1], 0, None),
            ([-1, 1], 1, None),
            ([-1, -1], 2, Some(NO_LEADER)),
            ([1, -1], 1, None),
            ([1, 2], 0, None),
        ] {
            let health = observe(&state, leaders, 0);
            assert_eq!((health.leaderless_partitions, health.away.map(|away| away.reason)), (leaderless, reason));
        }
    }

    #[test]
    fn records_that_wait_for_a_leader_do_not_make_the_log_stall() {
        let (clock, state) = state();
        for (leader, reason) in [(-1, None), (1, Some(STALLED))] {
            observe(&state, [leader, 1], 5);
            clock.advance(STALL);
            assert_eq!(observe(&state, [leader, 1], 5).away.map(|away| away.reason), reason);
        }
    }

    #[tokio::test]
    async fn a_refusal_counts_only_when_nobody_lets_us_in_before_the_deadline() {
        let soon = Duration::from_millis(10);
        let (_, state) = state();
        assert!(matches!(state.wait_until_there(soon).await, Err(NotThere::Away(STARTING))));
        state.is_denied(RDKafkaErrorCode::SaslAuthenticationFailed);
        let denied = state.wait_until_there(soon).await;
        assert!(matches!(denied, Err(NotThere::Denied(RDKafkaErrorCode::SaslAuthenticationFailed))), "{denied:?}");
        let (there, ()) = tokio::join!(state.wait_until_there(Duration::from_secs(60)), async { state.is_there() });
        there.expect("another broker lets us in");
    }
}
