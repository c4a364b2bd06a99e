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
pub(super) const NO_LEADER: &str = "a partition of the log has no leader";
pub(super) const STALLED: &str = "records wait and no broker acknowledges any";
pub(super) const CLOSED: &str = "the log is closed";

/// Why nothing can be appended at the start.
#[derive(Debug)]
pub(super) enum NotThere {
    /// Nobody answers.
    Away(&'static str),
    /// Somebody answers, and does not let us in.
    Denied(RDKafkaErrorCode),
}

/// Gathers what the clients report; shared by all of them.
pub(super) struct HealthState {
    clock: Arc<dyn Clock>,
    away: watch::Sender<Option<Away>>,
    denied: watch::Sender<Option<RDKafkaErrorCode>>,
    queued_records: AtomicU64,
    queued_bytes: AtomicU64,
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
            denied: watch::Sender::new(None),
            queued_records: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
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

    /// The brokers do not let a client in.
    pub(super) fn is_denied(&self, code: RDKafkaErrorCode) {
        self.denied.send_replace(Some(code));
    }

    /// Waits until records can be appended.
    ///
    /// # Errors
    /// As soon as it is clear that waiting does not help, or when the deadline has passed.
    pub(super) async fn wait_until_there(&self, deadline: Duration) -> Result<(), NotThere> {
        let (mut away, mut denied) = (self.away.subscribe(), self.denied.subscribe());
        tokio::select! {
            biased;
            _ = away.wait_for(Option::is_none) => Ok(()),
            Ok(code) = denied.wait_for(Option::is_some) => Err(NotThere::Denied(code.unwrap_or(RDKafkaErrorCode::Authentication))),
            () = tokio::time::sleep(deadline) => {
                Err(NotThere::Away(self.current().away.map_or(STARTING, |away| away.reason)))
            }
        }
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
        let stalled = self.is_stalled(statistics.queued_records).then_some(STALLED);
        match statistics.away(topic).or(stalled) {
            Some(reason) => self.is_away(reason),
            None => self.is_there(),
        }
    }
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
}

#[derive(Debug, Deserialize)]
struct IdempotenceStatistics {
    idemp_state: String,
}

impl ProducerStatistics {
    /// Why nothing can be appended, if so.
    fn away(&self, topic: &str) -> Option<&'static str> {
        if !self.brokers.values().any(|broker| broker.state == "UP") {
            return Some(NO_BROKER);
        }
        if !self.is_identified() {
            return Some(STARTING);
        }
        let mut partitions = self.topics.get(topic).into_iter().flat_map(|topic| &topic.partitions);
        // The partition -1 holds records whose partition is not known yet; it never has a leader.
        partitions.any(|(number, partition)| *number >= 0 && partition.leader < 0).then_some(NO_LEADER)
    }

    /// Whether the brokers gave the producer the identity by which they recognise repeated requests; without it nothing is sent.
    fn is_identified(&self) -> bool {
        self.idempotence.as_ref().is_none_or(|idempotence| idempotence.idemp_state == "Assigned")
    }
}
