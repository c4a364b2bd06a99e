//! An appender over a mock cluster, and the address of the real Kafka.

use crate::kafka::appender::KafkaAppender;
use crate::kafka::health::HealthState;
use crate::kafka::producer::Producer;
use crate::kafka::{KafkaHealth, KafkaOptions};
use chatify_application::ports::LogAppender;
use chatify_application::ports::contract::{channel, correlation, event, within};
use chatify_application::ports::log::{AppendError, Appended, Durable, NewRecord};
use chatify_building_blocks::clock::{Clock, SystemClock};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::PodId;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::RDKafkaApiKey;
use std::sync::Arc;
use std::time::Duration;

pub(super) type Mock = MockCluster<'static, DefaultProducerContext>;

/// The log's topic of every mock cluster.
pub(super) const TOPIC: &str = "chat-events";

/// Three mock brokers with the log's topic.
pub(super) fn mock() -> Mock {
    let mock = MockCluster::new(3).expect("a mock cluster");
    // From version 10 on the mock's answer names the partition's leader, and it crashes when there is none.
    mock.apiversion(RDKafkaApiKey::Produce, Some(3), Some(9)).expect("known versions");
    mock.create_topic(TOPIC, 3, 3).expect("a topic");
    mock
}

pub(super) fn pod() -> PodId {
    PodId::parse("pod-under-test").expect("a valid pod")
}

/// Options that give up no record while a test goes on: healthy brokers may be slow.
pub(super) fn mock_options(mock: &Mock) -> KafkaOptions {
    KafkaOptions {
        message_timeout: Duration::from_secs(120),
        start_deadline: Duration::from_secs(30),
        ..KafkaOptions::new(mock.bootstrap_servers(), pod())
    }
}

pub(super) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// The writing end alone: the mock cluster knows no topic settings, so that the whole of `connect` does not run on it.
pub(super) struct Writer {
    pub(super) producer: Arc<Producer>,
    pub(super) supervisor: Supervisor,
    appender: KafkaAppender,
    health: Arc<HealthState>,
}

impl Writer {
    pub(super) fn start(options: &KafkaOptions) -> Self {
        let health = Arc::new(HealthState::new(clock()));
        let supervisor = Supervisor::new();
        let producer = Arc::new(Producer::start(options, &health, &supervisor).expect("valid options"));
        let appender = KafkaAppender { producer: Arc::clone(&producer), partitions: options.partitions };
        Self { producer, supervisor, appender, health }
    }

    pub(super) async fn started(options: &KafkaOptions) -> Self {
        let writer = Self::start(options);
        writer.producer.connected().await.expect("healthy brokers");
        writer.producer.ends().await.expect("healthy brokers");
        writer
    }

    pub(super) fn append(&self, number: u32) -> Result<Durable, AppendError> {
        self.append_to("general", number)
    }

    pub(super) fn append_to(&self, name: &str, number: u32) -> Result<Durable, AppendError> {
        self.appender.append(NewRecord { event: event(&channel(name), "alice", number), correlation: correlation() })
    }

    /// The outcome of one record.
    pub(super) async fn send(&self, number: u32) -> Result<Appended, AppendError> {
        within("the record's outcome", self.append(number)?).await
    }

    pub(super) fn health(&self) -> KafkaHealth {
        self.health.current()
    }

    /// Waits until the log is there again.
    pub(super) async fn there(&self) {
        self.health.wait_until_there(Duration::from_secs(60)).await.expect("healthy brokers");
    }

    /// Waits until `holds` says so.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(KafkaHealth) -> bool) {
        within(what, async {
            while !holds(self.health()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// How many records the log has.
    pub(super) async fn records(&self) -> i64 {
        let ends = self.producer.ends().await.expect("healthy brokers");
        ends.iter().map(|(_, end)| end.offset().number()).sum()
    }
}

/// The real Kafka of the tests.
pub(super) fn bootstrap_servers() -> String {
    std::env::var("CHATIFY_TEST_KAFKA").unwrap_or_else(|_| "127.0.0.1:19092".into())
}

/// Says what to do when it is not there.
pub(super) const MISSING: &str = "Kafka answers; start it with `scripts/services.sh start kafka`";
