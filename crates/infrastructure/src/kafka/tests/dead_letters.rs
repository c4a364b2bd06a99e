//! Dead letters on a real Kafka, from the poison to its replay.

use super::real_log::RealLog;
use crate::kafka::dead_letters::{DeadLettersError, Origin, list, replay, show};
use crate::kafka::lag;
use crate::kafka::testing::{Poison, poisons, sent};
use crate::record;
use chatify_application::ports::contract::log::LogFixture;
use chatify_application::ports::contract::within;
use chatify_application::ports::log::{GroupEvent, GroupMember, LogRecord, Undecodable};
use chatify_domain::Partition;
use rdkafka::message::{Header, OwnedHeaders};

async fn records(member: &mut dyn GroupMember, count: usize) -> Vec<LogRecord> {
    let mut all = Vec::new();
    while all.len() < count {
        if let GroupEvent::Records { records, .. } = within("records", member.next()).await.expect("a readable log") {
            all.extend(records);
        }
    }
    all
}

#[tokio::test]
async fn every_kind_of_poison_is_kept_once_as_it_was_and_found_again() {
    let log = RealLog::new(1);
    let open = log.open().await;
    let poisons = poisons();
    for Poison { key, payload, .. } in &poisons {
        log.append_raw(0, key.as_deref(), payload.as_deref()).await;
    }
    let mut member = within("a member", open.group.join()).await.expect("a readable log");
    let all = records(&mut *member, poisons.len()).await;
    for (record, poison) in all.iter().zip(&poisons) {
        let class = record.content.clone().expect_err("poison");
        assert_eq!(class, poison.expected, "{}", poison.name);
        // A second time, as after a crash between the letter and the commit.
        for _ in 0..2 {
            within("the letter", member.dead_letter(record, &class)).await.expect("it is kept");
        }
    }
    drop(member);
    let letters = within("the letters", list(&log.options, super::fixture::clock())).await.expect("a readable topic");
    assert_eq!(letters.len(), poisons.len(), "one per origin");
    for ((letter, record), poison) in letters.iter().zip(&all).zip(&poisons) {
        let origin = Origin {
            topic: log.options.topic.clone(),
            partition: Partition(0),
            offset: record.position.offset().number(),
        };
        assert_eq!((&letter.origin, letter.replayed), (&origin, false), "{}", poison.name);
        assert_eq!(letter.class, crate::kafka::letters::class_name(&poison.expected));
        assert_eq!(letter.appended_at, Some(record.appended_at));
        assert_eq!(letter.key.as_deref().map(str::as_bytes), poison.key.as_deref());
        let bytes = poison.payload.clone().unwrap_or_default();
        assert_eq!(letter.size, bytes.len());
        let shown = show(&log.options, super::fixture::clock(), origin.clone(), usize::MAX).await.expect("it is there");
        assert_eq!((shown.value.as_slice(), shown.cut), (bytes.as_slice(), false), "{}", poison.name);
        let cut = show(&log.options, super::fixture::clock(), origin, 4).await.expect("it is there");
        assert_eq!((cut.value.as_slice(), cut.cut), (&bytes[..bytes.len().min(4)], bytes.len() > 4), "{}", poison.name);
    }
}

#[tokio::test]
async fn a_record_that_fills_its_topic_with_headers_is_kept_without_them() {
    let log = RealLog::new(1);
    let open = log.open().await;
    // A topic takes a little more than a producer sends unless it is told to.
    let filler = vec![b'x'; 512_000];
    let headers = OwnedHeaders::new().insert(Header { key: "filler", value: Some(&filler) });
    let value = vec![b'{'; 500_000];
    log.append_with_headers(0, Some(b"Channel:general"), Some(&value), headers).await;
    let mut member = within("a member", open.group.join()).await.expect("a readable log");
    let record = records(&mut *member, 1).await.remove(0);
    let class = record.content.clone().expect_err("poison");
    within("the letter", member.dead_letter(&record, &class)).await.expect("it is kept");
    let origin = Origin { topic: log.options.topic.clone(), partition: Partition(0), offset: 0 };
    let shown = show(&log.options, super::fixture::clock(), origin, usize::MAX).await.expect("it is there");
    assert_eq!((shown.value.len(), shown.cut), (value.len(), false));
}

#[tokio::test]
async fn only_what_can_be_read_now_goes_back_into_the_log_and_only_once() {
    let log = RealLog::new(1);
    let open = log.open().await;
    let good = record::encode(&sent("Channel:general", "alice", "hi")).expect("small");
    // As an older release would have set aside what this one can read.
    log.append_raw(0, Some(b"Channel:general"), Some(&good)).await;
    log.append_raw(0, Some(b"Channel:general"), Some(b"{}")).await;
    let mut member = within("a member", open.group.join()).await.expect("a readable log");
    let all = records(&mut *member, 2).await;
    for record in &all {
        within("the letter", member.dead_letter(record, &Undecodable::UnknownKind)).await.expect("it is kept");
    }
    within("the commit", member.commit(Partition(0), all[1].position.next())).await.expect("an owned partition");
    let origin = |offset| Origin { topic: log.options.topic.clone(), partition: Partition(0), offset };
    let clock = super::fixture::clock;
    let (partition, position) = replay(&log.options, clock(), origin(0)).await.expect("it can be read");
    assert_eq!((partition, position), (Partition(0), all[1].position.next()));
    let replayed = records(&mut *member, 1).await.remove(0);
    assert_eq!((replayed.position, &replayed.content), (position, &all[0].content));
    let again = replay(&log.options, clock(), origin(0)).await;
    assert!(matches!(again, Err(DeadLettersError::AlreadyReplayed(_))), "{again:?}");
    let poison = replay(&log.options, clock(), origin(1)).await;
    assert!(matches!(poison, Err(DeadLettersError::StillUndecodable { .. })), "{poison:?}");
    let missing = replay(&log.options, clock(), origin(7)).await;
    assert!(matches!(missing, Err(DeadLettersError::NotFound(_))), "{missing:?}");
    let letters = list(&log.options, clock()).await.expect("a readable topic");
    assert_eq!(letters.iter().map(|letter| letter.replayed).collect::<Vec<_>>(), [true, false]);
    let lag = lag::read(&log.options, clock()).await.expect("a readable log");
    let expected = lag::PartitionLag { partition: Partition(0), first: 0, end: 3, committed: Some(2), lag: 1 };
    assert_eq!(lag, [expected]);
}

#[tokio::test]
async fn without_topics_an_operator_is_told_so() {
    let log = RealLog::new(2);
    let clock = super::fixture::clock;
    let lag = lag::read(&log.options, clock()).await;
    assert!(matches!(&lag, Err(lag::LagError::NoTopic { partitions: 2, .. })), "{lag:?}");
    let letters = list(&log.options, clock()).await;
    assert!(matches!(&letters, Err(DeadLettersError::NoTopic { .. })), "{letters:?}");
}

#[test]
fn an_origin_is_read_back_from_its_text() {
    let origin = Origin { topic: "chat-events".into(), partition: Partition(2), offset: 17 };
    assert_eq!(origin.to_string().parse(), Ok(origin));
    for wrong in ["", "a", "a/1", "a/1/2/3", "a/x/2", "a/1/-2", "/1/2", "a/-1/2"] {
        assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
    }
}
