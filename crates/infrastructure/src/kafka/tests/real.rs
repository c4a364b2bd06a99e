//! On a real Kafka: topics, times, what a record looks like, which log it is.

use super::fixture::{MISSING, bootstrap_servers, clock, pod};
use crate::kafka::{EpochMismatch, KafkaLog, KafkaOptions, KafkaStartError, TopicMismatch};
use chatify_application::ports::contract::{channel, correlation, event, within};
use chatify_application::ports::log::{Appended, NewRecord};
use chatify_building_blocks::error::{Classify, ErrorKind};
use chatify_building_blocks::random::{Random, SystemRandom};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{ChatEvent, Epoch, Offset, Partition, Position};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message, Timestamp};
use rdkafka::{ClientConfig, TopicPartitionList};
use std::sync::Arc;
use std::time::Duration;

/// Topics of one test, which it removes at its end.
struct Topics {
    options: KafkaOptions,
    admin: AdminClient<DefaultClientContext>,
}

impl Topics {
    fn new() -> Self {
        let name = format!("test-{:032x}", SystemRandom.u128());
        let options = KafkaOptions {
            dead_letter_topic: format!("{name}-dlt"),
            topic: name,
            start_deadline: Duration::from_secs(30),
            ..KafkaOptions::new(bootstrap_servers(), pod())
        };
        let admin = ClientConfig::new().set("bootstrap.servers", bootstrap_servers()).create().expect("a client");
        Self { options, admin }
    }

    async fn connect(&self) -> Result<KafkaLog, KafkaStartError> {
        KafkaLog::connect(self.options.clone(), clock(), &Supervisor::new()).await
    }

    async fn refused(&self) -> KafkaStartError {
        self.connect().await.err().expect("a topic that cannot be the log")
    }

    /// Makes the log's topic as somebody else would have.
    async fn create(&self, partitions: i32, settings: &[(&str, &str)]) {
        let topic = NewTopic::new(&self.options.topic, partitions, TopicReplication::Fixed(1));
        let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        let timeouts = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let created = self.admin.create_topics([&topic], &timeouts).await.expect(MISSING);
        created[0].as_ref().expect("a new name");
    }

    async fn setting(&self, topic: &str, name: &str) -> String {
        let described = self.admin.describe_configs([&ResourceSpecifier::Topic(topic)], &AdminOptions::new()).await;
        let settings = described.expect(MISSING).remove(0).expect("a topic");
        settings.get(name).and_then(|entry| entry.value.clone()).expect("a known setting")
    }

    async fn remove(self) {
        let names = [self.options.topic.as_str(), self.options.dead_letter_topic.as_str()];
        self.admin.delete_topics(&names, &AdminOptions::new()).await.expect(MISSING);
    }
}

async fn send(log: &KafkaLog, number: u32) -> Appended {
    let record = NewRecord { event: event(&channel("general"), "alice", number), correlation: correlation() };
    let durable = log.appender().append(record).expect("an idle log accepts");
    within("durability", durable).await.expect("a healthy log")
}

#[tokio::test]
async fn missing_topics_are_made_as_the_log_needs_them() {
    let topics = Topics::new();
    let log = topics.connect().await.expect(MISSING);
    let options = &topics.options;
    for topic in [&options.topic, &options.dead_letter_topic] {
        assert_eq!(topics.setting(topic, "message.timestamp.type").await, "LogAppendTime");
        assert_eq!(topics.setting(topic, "cleanup.policy").await, "delete");
    }
    assert_eq!(topics.setting(&options.topic, "retention.ms").await, "604800000");
    assert_eq!(log.health().away, None);
    log.close().await;
    topics.connect().await.expect("the topics are right").close().await;
    topics.remove().await;
}

#[tokio::test]
async fn pods_that_start_together_agree_on_the_topics() {
    let topics = Topics::new();
    let logs = futures_util::future::join_all((0..4).map(|_| topics.connect())).await;
    let mut positions = Vec::new();
    for log in logs {
        let log = log.expect(MISSING);
        positions.push(send(&log, 0).await.position.offset().number());
        log.close().await;
    }
    assert_eq!(positions, [0, 1, 2, 3], "one log");
    topics.remove().await;
}

#[tokio::test]
async fn a_topic_that_cannot_be_the_log_is_refused() {
    type Settings = &'static [(&'static str, &'static str)];
    type Expected = fn(&TopicMismatch) -> bool;
    const LOG: (&str, &str) = ("message.timestamp.type", "LogAppendTime");
    let cases: [(i32, Settings, Expected); 4] = [
        (3, &[], |found| matches!(found, TopicMismatch::TimestampType { found, .. } if found == "CreateTime")),
        (5, &[LOG], |found| matches!(found, TopicMismatch::Partitions { found: 5, configured: 3, .. })),
        (3, &[LOG, ("cleanup.policy", "compact")], |found| matches!(found, TopicMismatch::CleanupPolicy { .. })),
        (3, &[LOG, ("max.message.bytes", "100000")], |found| {
            matches!(found, TopicMismatch::MessageBytes { found: 100_000, needed: 1_000_000, .. })
        }),
    ];
    for (partitions, settings, expected) in cases {
        let topics = Topics::new();
        topics.create(partitions, settings).await;
        let refused = topics.refused().await;
        assert_eq!(refused.kind(), ErrorKind::Configuration);
        assert!(matches!(&refused, KafkaStartError::Topic(found) if expected(found)), "{refused}");
        topics.remove().await;
    }
}

#[tokio::test]
async fn a_topic_of_another_number_of_partitions_says_what_to_do() {
    let topics = Topics::new();
    topics.create(5, &[("message.timestamp.type", "LogAppendTime")]).await;
    let text = topics.refused().await.to_string();
    let expected = format!(
        "topic `{}` has 5 partitions, `message_broker.partitions` says 3; set it to 5, or take a new topic and raise `message_broker.log_epoch`",
        topics.options.topic
    );
    assert_eq!(text, expected);
    topics.remove().await;
}

#[tokio::test]
async fn a_log_that_ended_before_what_is_known_is_refused() {
    let topics = Topics::new();
    let log = topics.connect().await.expect(MISSING);
    let appended = [send(&log, 0).await, send(&log, 1).await];
    let known = |position| [(appended[1].partition, position)];
    log.check_against(&[]).await.expect("nothing is known");
    log.check_against(&known(appended[1].position)).await.expect("the newest record is there");
    let refused = log.check_against(&known(appended[1].position.next())).await.expect_err("one more is known");
    assert!(
        refused
            .to_string()
            .ends_with("name a new one in `message_broker.topic_name` and set `message_broker.log_epoch` to 2"),
        "{refused}"
    );
    let later = Position::new(Epoch::new(7).expect("in range"), Offset::default());
    let refused = log.check_against(&known(later)).await.expect_err("a later epoch is known");
    assert!(matches!(refused, KafkaStartError::Epoch(EpochMismatch::WentBack { configured: 1, .. })), "{refused}");
    log.check_against(&[(Partition(9), appended[0].position)]).await.expect_err("there is no such partition");
    log.close().await;
    topics.remove().await;
}

#[tokio::test]
async fn a_topic_made_anew_goes_on_in_the_next_epoch() {
    let old = Topics::new();
    let log = old.connect().await.expect(MISSING);
    let known = send(&log, 0).await;
    log.close().await;
    let mut new = Topics::new();
    let same_epoch = new.connect().await.expect(MISSING);
    same_epoch.check_against(&[(known.partition, known.position)]).await.expect_err("the new topic is empty");
    same_epoch.close().await;
    new.options.epoch = Epoch::new(2).expect("in range");
    let log = new.connect().await.expect(MISSING);
    log.check_against(&[(known.partition, known.position)]).await.expect("the epoch says so");
    let first = send(&log, 1).await;
    assert_eq!((first.position.epoch_number(), first.position.offset().number()), (2, 0));
    assert!(first.position > known.position);
    log.close().await;
    old.remove().await;
    new.remove().await;
}

#[tokio::test]
async fn a_record_says_what_it_is_and_has_the_brokers_time() {
    let topics = Topics::new();
    let log = topics.connect().await.expect(MISSING);
    let appended = send(&log, 0).await;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers())
        .set("group.id", &topics.options.topic)
        .create()
        .expect("a client");
    let mut place = TopicPartitionList::new();
    let partition = i32::try_from(appended.partition.0).expect("a small number");
    let offset = rdkafka::Offset::Offset(appended.position.offset().number());
    place.add_partition_offset(&topics.options.topic, partition, offset).expect("a valid offset");
    consumer.assign(&place).expect("an assignment");
    let message = consumer.poll(Duration::from_secs(60)).expect("a record").expect("readable");
    assert_eq!(message.key(), Some("Channel:general".as_bytes()));
    assert_eq!(message.timestamp(), Timestamp::LogAppendTime(appended.appended_at.as_millis()));
    let value = crate::record::decode(message.payload().expect("a value"));
    let Ok(ChatEvent::MessageSent(sent)) = &value else { panic!("{value:?}") };
    let sent = Arc::clone(sent);
    assert_eq!(value, Ok(event(&channel("general"), "alice", 0)));
    assert_eq!(
        headers(&message),
        [
            ("type", "MessageSent"),
            ("schema", "1"),
            ("correlation-id", &correlation().to_string()),
            ("traceparent", &correlation().traceparent(sent.message_id.as_u128() as u64)),
        ]
    );
    log.close().await;
    topics.remove().await;
}

fn headers<'a>(message: &'a BorrowedMessage<'_>) -> Vec<(&'a str, &'a str)> {
    let headers = message.headers().expect("headers");
    let text = |value: Option<&'a [u8]>| std::str::from_utf8(value.expect("a value")).expect("text");
    headers.iter().map(|header| (header.key, text(header.value))).collect()
}

#[tokio::test]
async fn brokers_that_do_not_answer_are_worth_another_try() {
    let options = KafkaOptions {
        start_deadline: Duration::from_millis(300),
        // Nobody listens on the discard port of a loopback address that no service of the tests has.
        ..KafkaOptions::new("127.9.9.9:9", pod())
    };
    let error = KafkaLog::connect(options, clock(), &Supervisor::new()).await.err().expect("nobody is there");
    assert!(matches!(error, KafkaStartError::Unreachable { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::EventProduction);
}
