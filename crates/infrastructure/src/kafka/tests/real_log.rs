//! A log of its own on the real Kafka, for one test.

use super::fixture::{MISSING, bootstrap_servers, clock, pod};
use crate::kafka::{KafkaLog, KafkaOptions};
use async_trait::async_trait;
use chatify_application::ports::contract::log::{LogFixture, OpenLog};
use chatify_application::ports::contract::within;
use chatify_building_blocks::random::{Random, SystemRandom};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::Position;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Removes its topics when it is dropped.
pub(super) struct RealLog {
    pub(super) options: KafkaOptions,
    open: Mutex<Option<KafkaLog>>,
}

impl RealLog {
    pub(super) fn new(partitions: u32) -> Self {
        let name = format!("test-{:032x}", SystemRandom.u128());
        let options = KafkaOptions {
            partitions,
            dead_letter_topic: format!("{name}-dlt"),
            group_id: format!("{name}-group"),
            topic: name,
            start_deadline: Duration::from_secs(30),
            ..KafkaOptions::new(bootstrap_servers(), pod())
        };
        Self { options, open: Mutex::new(None) }
    }

    /// Another process of the fleet.
    pub(super) async fn connect(&self) -> KafkaLog {
        KafkaLog::connect(self.options.clone(), clock(), &Supervisor::new()).await.expect(MISSING)
    }

    /// Appends a record as a foreign program might write it.
    pub(super) async fn append_raw(&self, partition: i32, key: Option<&[u8]>, payload: Option<&[u8]>) -> i64 {
        self.append_with_headers(partition, key, payload, OwnedHeaders::new()).await
    }

    /// The same, with headers.
    pub(super) async fn append_with_headers(
        &self,
        partition: i32,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: OwnedHeaders,
    ) -> i64 {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap_servers()).set("linger.ms", "0");
        config.set("message.max.bytes", "2000000");
        let producer: FutureProducer = config.create().expect("a client");
        let mut record = FutureRecord::<[u8], [u8]>::to(&self.options.topic).partition(partition).headers(headers);
        (record.key, record.payload) = (key, payload);
        producer.send(record, Duration::from_secs(30)).await.expect(MISSING).offset
    }

    fn admin() -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", bootstrap_servers()).create().expect("a client")
    }
}

#[async_trait]
impl LogFixture for RealLog {
    async fn open(&self) -> OpenLog {
        let before = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(before) = before {
            before.close().await;
        }
        let log = self.connect().await;
        let open = OpenLog { appender: log.appender(), tail: log.tail(), group: log.group() };
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(log);
        open
    }

    async fn remove_before(&self, position: Position) {
        let log = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone().expect("an open log");
        let states = within("the partitions", log.tail().partitions()).await.expect("a readable log");
        let mut before = TopicPartitionList::new();
        for state in states.iter().filter(|state| state.end > position) {
            let partition = i32::try_from(state.partition.0).expect("few partitions");
            let offset = Offset::Offset(position.offset().number());
            before.add_partition_offset(&self.options.topic, partition, offset).expect("an offset");
        }
        let removed = Self::admin().delete_records(&before, &AdminOptions::new()).await.expect(MISSING);
        assert!(removed.elements().iter().all(|element| element.error().is_ok()), "{removed:?}");
    }
}

impl Drop for RealLog {
    fn drop(&mut self) {
        let names = [self.options.topic.clone(), self.options.dead_letter_topic.clone()];
        let remove = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            // A test that failed may have made none of them.
            drop(runtime.block_on(RealLog::admin().delete_topics(&names, &AdminOptions::new())));
        };
        let thread = std::thread::Builder::new().name("remove-topics".into()).spawn(remove).expect("a thread");
        drop(thread.join());
    }
}
