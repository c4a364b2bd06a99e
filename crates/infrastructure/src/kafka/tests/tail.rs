//! The tail on a real Kafka, where the contract says too little: epochs, ends that are no records, foreign records.

use super::fixture::bootstrap_servers;
use super::real_log::RealLog;
use crate::kafka::testing::{Poison, poisons};
use crate::kafka::{KafkaLog, KafkaOptions};
use chatify_application::ports::LogTail;
use chatify_application::ports::contract::log::LogFixture;
use chatify_application::ports::contract::{channel, within};
use chatify_application::ports::log::{LogError, LogRecord, PartitionState, TailReader};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{Epoch, Offset, Partition, Position};
use futures_util::FutureExt;
use futures_util::future::join_all;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::time::Duration;

async fn read(reader: &mut dyn TailReader, count: usize) -> Vec<LogRecord> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(within("records", reader.next()).await.expect("a readable log"));
    }
    all
}

async fn state(tail: &dyn LogTail) -> PartitionState {
    within("the partitions", tail.partitions()).await.expect("a readable log")[0]
}

fn at(epoch: u16, offset: i64) -> Position {
    Position::new(Epoch::new(epoch).expect("in range"), Offset::new(offset).expect("in range"))
}

#[tokio::test]
async fn places_of_older_epochs_are_before_this_log_and_those_of_later_ones_are_refused() {
    let mut fixture = RealLog::new(1);
    fixture.options.epoch = Epoch::new(3).expect("in range");
    let log = fixture.open().await;
    let appended = log.append_all(&channel("general"), 0..5).await;
    assert_eq!(appended[0].position, at(3, 0));
    for from in [Position::ZERO, at(1, 77), at(2, 4)] {
        let mut reader = within("a reader", log.tail.open(&[(Partition(0), from)])).await.expect("a readable log");
        assert_eq!(read(&mut *reader, 5).await[0].position, at(3, 0), "{from:?}");
    }
    let later = within("the refusal", log.tail.open(&[(Partition(0), at(4, 0))])).await;
    assert!(matches!(later, Err(LogError::Unavailable(_))));
    let missing = within("the refusal", log.tail.open(&[(Partition(1), at(3, 0))])).await;
    assert!(matches!(missing, Err(LogError::Unavailable(_))));
}

/// Ends the partition with what is no record: the marker of a transaction.
async fn append_in_a_transaction(options: &KafkaOptions, records: u32, commits: bool) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap_servers()).set("transactional.id", format!("{}-foreign", options.topic));
    let producer: BaseProducer = config.create().expect("a client");
    let patience = Duration::from_secs(60);
    producer.init_transactions(patience).expect("a transactional broker");
    let end = || producer.client().fetch_watermarks(&options.topic, 0, patience).expect("a readable log").1;
    let marker = end() + i64::from(records);
    producer.begin_transaction().expect("a transaction");
    for _ in 0..records {
        producer.send(BaseRecord::<(), str>::to(&options.topic).partition(0).payload("foreign")).expect("a free queue");
    }
    if commits {
        producer.commit_transaction(patience).expect("committed");
    } else {
        producer.flush(patience).expect("acknowledged");
        producer.abort_transaction(patience).expect("aborted");
    }
    // The brokers answer before the marker is in the partition.
    within("the marker", async {
        while end() <= marker {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_end_is_behind_the_newest_record_also_when_the_last_offsets_are_none() {
    let fixture = RealLog::new(1);
    let log = fixture.open().await;
    let appended = log.append_all(&channel("general"), 0..3).await;
    // Offsets 3 to 5 are aborted records and the marker; then 6 is a record, 7 its marker.
    append_in_a_transaction(&fixture.options, 2, false).await;
    let options = fixture.options.clone();
    let fresh = fixture.connect().await.tail();
    let found = state(&*fresh).await;
    assert_eq!((found.end, found.last_appended_at), (at(1, 3), Some(appended[2].appended_at)));
    assert_eq!(within("the end", fresh.end(Partition(0))).await.expect("a readable log"), at(1, 3));
    append_in_a_transaction(&options, 1, true).await;
    let mut reader = within("a reader", fresh.open(&[(Partition(0), at(1, 0))])).await.expect("a readable log");
    let newest = read(&mut *reader, 4).await[3].clone();
    assert_eq!(newest.position, at(1, 6));
    let found = state(&*fresh).await;
    assert_eq!((found.end, found.last_appended_at), (at(1, 7), Some(newest.appended_at)));
}

#[tokio::test]
async fn a_reader_gives_poison_with_its_class_and_goes_on() {
    let fixture = RealLog::new(1);
    let log = fixture.open().await;
    for Poison { key, payload, .. } in poisons() {
        fixture.append_raw(0, key.as_deref(), payload.as_deref()).await;
    }
    log.append_all(&channel("general"), 0..1).await;
    let mut reader =
        within("a reader", log.tail.open(&[(Partition(0), Position::ZERO)])).await.expect("a readable log");
    let records = read(&mut *reader, poisons().len() + 1).await;
    for (record, poison) in records.iter().zip(poisons()) {
        assert_eq!(record.content.clone().err(), Some(poison.expected), "{}", poison.name);
    }
    assert!(records.last().expect("records").content.is_ok());
}

#[tokio::test]
async fn whatever_many_ask_at_once_gets_an_end_that_was_there_when_they_asked() {
    let fixture = RealLog::new(3);
    let log = fixture.open().await;
    let scope = channel("general");
    let partition = log.tail.partition_of(&scope);
    for round in 0..20 {
        let appended = log.append_all(&scope, round..round + 1).await;
        let asked = join_all((0..100).map(|_| log.tail.end(partition)));
        for end in within("the ends", asked).await {
            assert!(end.expect("a readable log") > appended[0].position, "an answer from before the question");
        }
    }
}

#[tokio::test]
async fn an_emptied_log_is_empty_and_goes_on() {
    let fixture = RealLog::new(1);
    let log = fixture.open().await;
    let appended = log.append_all(&channel("general"), 0..10).await;
    let end = appended[9].position.next();
    // Everything but the newest record, for a log's end must be kept by something.
    fixture.remove_before(appended[9].position).await;
    let found = state(&*log.tail).await;
    assert_eq!((found.first, found.end), (appended[9].position, end));
    let mut reader = within("a reader", log.tail.open(&[(Partition(0), end)])).await.expect("a readable log");
    assert!(reader.next().now_or_never().is_none(), "there is nothing yet");
    let next = log.append_all(&channel("general"), 10..11).await;
    assert_eq!(read(&mut *reader, 1).await[0].position, next[0].position);
}

#[tokio::test]
async fn a_reader_that_hangs_holds_up_neither_another_one_nor_its_own_end() {
    let fixture = RealLog::new(1);
    let log = fixture.open().await;
    log.append_all(&channel("general"), 0..5).await;
    let from = [(Partition(0), Position::ZERO)];
    let mut hanging = within("a reader", log.tail.open(&from)).await.expect("a readable log");
    read(&mut *hanging, 5).await;
    // Nobody polls it any more, as if its task were stuck; whoever watches opens the log anew.
    let mut anew = within("a reader", log.tail.open(&from)).await.expect("a readable log");
    assert_eq!(read(&mut *anew, 5).await.len(), 5);
    drop(hanging);
    log.append_all(&channel("general"), 5..6).await;
    read(&mut *anew, 1).await;
}

#[tokio::test]
async fn without_brokers_a_question_ends_with_an_error() {
    let fixture = RealLog::new(1);
    let log: KafkaLog = fixture.connect().await;
    let away = KafkaOptions { bootstrap_servers: "127.0.0.1:1".into(), ..fixture.options.clone() };
    let health = std::sync::Arc::clone(&log.shared.health);
    let shared =
        crate::kafka::Shared { options: away, clock: super::fixture::clock(), supervisor: Supervisor::new(), health };
    let queries = crate::kafka::queries::Queries::start(std::sync::Arc::new(shared)).expect("valid options");
    let outcome = within("an error", queries.ends()).await;
    assert!(outcome.is_err(), "{outcome:?}");
}
