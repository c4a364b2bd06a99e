//! Epochs, retention, time, bounds, undecodable records, hand-over under load.

use super::fixture::{Fixture, open_log};
use crate::embedded::checksum::ValueDigest;
use crate::embedded::{EmbeddedStore, OpenError, Options};
use chatify_application::ports::contract::log::LogFixture;
use chatify_application::ports::contract::{channel, correlation, event, within};
use chatify_application::ports::log::{
    AppendError, Appended, GroupEvent, GroupMember, LogError, LogRecord, NewRecord, Undecodable,
};
use chatify_building_blocks::clock::Clock;
use chatify_domain::{ChatEvent, Epoch, MessageSent, Partition, Position, Text, Timestamp};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

const PARTITION: Partition = Partition(0);

async fn append(store: &EmbeddedStore, numbers: std::ops::Range<u32>) -> Vec<Appended> {
    open_log(store).append_all(&channel("general"), numbers).await
}

async fn read(store: &EmbeddedStore, from: Position, count: usize) -> Vec<LogRecord> {
    let mut reader = store.tail().open(&[(PARTITION, from)]).await.expect("not truncated");
    let mut records = Vec::new();
    while records.len() < count {
        records.extend(within("records", reader.next()).await.expect("readable"));
    }
    records
}

async fn commit_all(store: &EmbeddedStore) -> Box<dyn GroupMember> {
    let mut member = store.group().join().await.expect("a member");
    let end = store.tail().partitions().await.expect("readable")[0].end;
    assert!(matches!(within("it", member.next()).await, Ok(GroupEvent::Assigned { .. })));
    member.commit(PARTITION, end).await.expect("owned");
    member
}

fn epoch(number: u16) -> Epoch {
    Epoch::new(number).expect("in range")
}

#[tokio::test]
async fn a_higher_epoch_starts_again_at_offset_0_and_a_lower_one_is_refused() {
    let fixture = Fixture::new();
    let with_epoch = |number| Options { log_epoch: epoch(number), ..fixture.options() };
    let old = append(&fixture.reopen(&with_epoch(1)).expect("opens"), 0..3).await;
    let store = fixture.reopen(&with_epoch(4)).expect("opens");
    let new = append(&store, 3..5).await;
    assert_eq!((new[0].position.epoch_number(), new[0].position.offset().number()), (4, 0));
    let positions: Vec<Position> = read(&store, Position::ZERO, 5).await.iter().map(|record| record.position).collect();
    assert_eq!(positions, old.iter().chain(&new).map(|one| one.position).collect::<Vec<_>>());
    assert_eq!(store.tail().position_at(PARTITION, new[0].appended_at).await.ok(), Some(new[0].position));
    assert_eq!(store.group().committed().await.expect("readable")[0].1, old[0].position);
    drop(store);
    let refused = fixture.reopen(&with_epoch(3)).err().expect("an epoch never goes back");
    assert!(matches!(refused, OpenError::EpochWentBack { stored: 4, configured: 3 }), "{refused}");
    let store = fixture.reopen(&with_epoch(4)).expect("opens");
    assert_eq!(append(&store, 5..6).await[0].position.offset().number(), 2);
}

#[tokio::test]
async fn a_group_that_has_everything_moves_on_with_the_epoch() {
    let fixture = Fixture::new();
    let store = fixture.reopen(&fixture.options()).expect("opens");
    append(&store, 0..3).await;
    drop(commit_all(&store).await);
    let store = fixture.reopen(&Options { log_epoch: epoch(2), ..fixture.options() }).expect("opens");
    let end = store.tail().partitions().await.expect("readable")[0].end;
    let committed = store.group().committed().await.expect("readable")[0].1;
    assert!(committed >= end, "{committed} leaves something to do before {end}");
    assert_eq!(append(&store, 3..4).await[0].position, committed, "the first record of the new epoch is the next one");
}

#[tokio::test]
async fn retention_keeps_what_is_young_newest_or_not_committed() {
    let fixture = Fixture::new();
    let options = Options { retention_interval: Duration::from_secs(3600), ..fixture.options() };
    let store = fixture.reopen(&options).expect("opens");
    let old = append(&store, 0..2500).await;
    fixture.clock.step(1_000_000);
    let young = append(&store, 2500..2503).await;
    let trim = async |cutoff: Timestamp| {
        crate::embedded::retention::trim(&store.0, Position::MAX, cutoff).await.expect("a healthy disk");
        store.tail().partitions().await.expect("readable")[0].first
    };
    assert_eq!(trim(young[0].appended_at).await, old[0].position, "nothing is committed");
    let member = commit_all(&store).await;
    assert_eq!(trim(young[0].appended_at).await, young[0].position, "the young ones stay");
    assert_eq!(trim(Timestamp::from_millis(i64::MAX)).await, young[2].position, "the newest stays");
    drop(member);
    let store = fixture.reopen(&options).expect("opens");
    assert_eq!(append(&store, 2503..2504).await[0].position, young[2].position.next());
    let refused = store.tail().open(&[(PARTITION, old[0].position)]).await.err().expect("removed");
    assert!(matches!(refused, LogError::Truncated { first, .. } if first == young[2].position), "{refused}");
}

#[tokio::test]
async fn retention_keeps_the_window_before_what_the_history_has_not_got() {
    let fixture = Fixture::new();
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let options = Options {
        retention_interval: Duration::from_secs(3600),
        kept_before_committed: minutes(6),
        ..fixture.options()
    };
    let store = fixture.reopen(&options).expect("opens");
    let old = append(&store, 0..10).await;
    fixture.clock.step(300_000);
    let within_the_window = append(&store, 10..13).await;
    fixture.clock.step(120_000);
    // The history stops here, for weeks.
    let mut member = store.group().join().await.expect("a member");
    assert!(matches!(within("it", member.next()).await, Ok(GroupEvent::Assigned { .. })));
    let next = append(&store, 13..15).await;
    member.commit(PARTITION, next[0].position).await.expect("owned");
    fixture.clock.step(21 * 24 * 3_600_000);
    let newest = append(&store, 15..16).await;
    let trim = async || {
        crate::embedded::retention::trim(&store.0, Position::MAX, fixture.clock.now()).await.expect("a healthy disk");
        store.tail().partitions().await.expect("readable")[0].first
    };
    assert!(old[9].appended_at < next[0].appended_at.minus(minutes(6)), "older than the window");
    assert_eq!(trim().await, within_the_window[0].position);
    // It has caught up: nothing before the newest record is of use to anybody.
    member.commit(PARTITION, newest[0].position.next()).await.expect("owned");
    assert_eq!(trim().await, newest[0].position);
}

#[tokio::test]
async fn a_group_with_a_pause_gets_lots_and_every_record_once() {
    let fixture = Fixture::new();
    let options = Options { group_pause: Duration::from_millis(200), ..fixture.options() };
    let store = fixture.reopen(&options).expect("opens");
    let mut member = store.group().join().await.expect("a member");
    assert!(matches!(within("it", member.next()).await, Ok(GroupEvent::Assigned { .. })));
    let mut next_lot = async || match within("a lot", member.next()).await {
        Ok(GroupEvent::Records { records, .. }) => records,
        other => panic!("{other:?}"),
    };
    let first = append(&store, 0..1).await;
    let mut given: Vec<Position> = next_lot().await.iter().map(|record| record.position).collect();
    assert_eq!(given, [first[0].position], "the first one has no pause before it");
    let mut appended = vec![first[0].position];
    let mut lots = 0;
    // Each is durable before the next one is sent: without the pause, each would be a lot of its own.
    for numbers in [1..20, 20..40] {
        for number in numbers {
            appended.push(append(&store, number..number + 1).await[0].position);
            let mut tail = store.tail().open(&[(PARTITION, appended[appended.len() - 1])]).await.expect("there");
            assert_eq!(
                within("it", tail.next()).await.expect("readable").len(),
                1,
                "whoever is connected gets it at once"
            );
        }
        while given.len() < appended.len() {
            given.extend(next_lot().await.iter().map(|record| record.position));
            lots += 1;
        }
    }
    assert_eq!(given, appended);
    assert!(lots < 10, "39 records came in {lots} lots");
}

#[tokio::test]
async fn the_logs_time_never_steps_back() {
    let fixture = Fixture::new();
    let store = fixture.reopen(&fixture.options()).expect("opens");
    let before = append(&store, 0..1).await[0].appended_at;
    fixture.clock.step(-3_600_000);
    assert_eq!(append(&store, 1..2).await[0].appended_at, before);
    let store = fixture.reopen(&fixture.options()).expect("opens");
    assert_eq!(append(&store, 2..3).await[0].appended_at, before);
}

#[tokio::test]
async fn a_reader_far_behind_catches_up_through_the_disk() {
    let fixture = Fixture::new();
    // Memory for a handful of records, so that almost everything is read back.
    let store = fixture.reopen(&Options { memory_bytes: 4096, ..fixture.options() }).expect("opens");
    let appended = append(&store, 0..3000).await;
    let records = read(&store, Position::ZERO, 3000).await;
    for (number, (record, one)) in (0..).zip(records.iter().zip(&appended)) {
        assert_eq!((record.position, record.appended_at), (one.position, one.appended_at));
        assert_eq!(record.content, Ok(event(&channel("general"), "alice", number)));
    }
    assert_eq!(records.len(), 3000);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_what_was_accepted_is_written() {
    let fixture = Fixture::new();
    let store = fixture.reopen(&Options { queue_records: 8, ..fixture.options() }).expect("opens");
    // While another program holds the database the writer cannot take the queue away.
    let raw = fixture.raw();
    raw.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let record = || NewRecord { event: event(&channel("general"), "alice", 1), correlation: correlation() };
    let mut accepted = Vec::new();
    let refused = loop {
        match store.appender().append(record()) {
            Ok(durable) => accepted.push(durable),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::Overloaded), "{refused}");
    assert!((8..=17).contains(&accepted.len()), "{} were accepted", accepted.len());
    raw.execute_batch("ROLLBACK").expect("the lock is given back");
    for durable in accepted {
        within("durability", durable).await.expect("accepted, so written");
    }
}

#[tokio::test]
async fn unreadable_records_are_reported_and_kept_for_an_operator() {
    let fixture = Fixture::new();
    drop(LogFixture::open(&fixture).await);
    fixture.close();
    let start = Position::new(Epoch::FIRST, chatify_domain::Offset::default());
    let (at, checksum) = (start.number(), ValueDigest::of(&[0, 0xff]).at(start, Timestamp::from_millis(1)));
    fixture
        .raw()
        .execute(
            "INSERT INTO log_records (position, appended_at, scope, correlation_id, value, checksum) \
             VALUES (?1, 1, 'Channel:x', 'c', x'00ff', ?2)",
            [at, checksum],
        )
        .expect("a row");
    let store = fixture.reopen(&fixture.options()).expect("opens");
    let records = read(&store, start, 1).await;
    assert_eq!((records[0].position, records[0].content.clone()), (start, Err(Undecodable::Malformed)));
    let mut member = store.group().join().await.expect("a member");
    for _ in 0..2 {
        member.dead_letter(&records[0], &Undecodable::Malformed).await.expect("kept");
    }
    let kept: (i64, String, Vec<u8>) = fixture
        .raw()
        .query_row("SELECT position, error_class, value FROM dead_letters", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .expect("one row");
    assert_eq!(kept, (start.number(), "malformed".into(), vec![0, 0xff]));
}

#[tokio::test]
async fn the_write_ahead_log_starts_again_while_writing_goes_on() {
    let fixture = Fixture::new();
    let store = fixture.reopen(&Options { reserved_bytes: 1024 * 1024, ..fixture.options() }).expect("opens");
    let path = fixture.path().join("chatify.db-wal");
    assert!(std::fs::metadata(&path).expect("there").len() >= 1024 * 1024, "its room is reserved");
    // The number of its restarts stands in the file's header, in bytes 12 to 15.
    let restarts = || std::fs::read(&path).expect("there")[12..16].to_vec();
    let before = restarts();
    let text = Text::parse(&"x".repeat(4000)).expect("a valid text");
    let ChatEvent::MessageSent(short) = event(&channel("general"), "alice", 1);
    let long = ChatEvent::MessageSent(Arc::new(MessageSent { text, ..(*short).clone() }));
    within("a restart", async {
        while restarts() == before {
            let record = || NewRecord { event: long.clone(), correlation: correlation() };
            let waiting: Vec<_> = (0..500).map(|_| store.appender().append(record()).expect("room")).collect();
            for durable in waiting {
                durable.await.expect("a healthy disk");
            }
        }
    })
    .await;
    let end = store.tail().partitions().await.expect("readable")[0].end;
    assert_eq!(read(&store, Position::ZERO, 500).await[0].content, Ok(long));
    let state = fixture.reopen(&fixture.options()).expect("opens").tail().partitions().await.expect("readable")[0];
    assert_eq!(state.end, end);
}

/// The byte that SQLite holds so that no other process, a backup for example, takes the index for a dead one's and cuts it short.
#[tokio::test]
async fn the_index_of_the_write_ahead_log_stays_locked_while_anybody_has_it_open() {
    let fixture = Fixture::new();
    let store = fixture.reopen(&fixture.options()).expect("opens");
    let index = std::fs::metadata(fixture.path().join("chatify.db-shm")).expect("there").ino();
    let is_locked = || {
        let locks = std::fs::read_to_string("/proc/locks").expect("readable");
        locks.lines().any(|lock| lock.contains(&format!(":{index} ")) && lock.ends_with(" 128 128"))
    };
    assert!(is_locked(), "by the writer");
    store.0.reads.read(|_| Ok(())).await.expect("a reader's connection");
    store.close();
    assert!(is_locked(), "by those who still read");
}

#[tokio::test]
async fn the_retention_service_removes_what_is_old() {
    let fixture = Fixture::new();
    let hour = Duration::from_secs(3600);
    let options = Options { retention: hour, retention_interval: Duration::from_millis(5), ..fixture.options() };
    let store = fixture.reopen(&options).expect("opens");
    append(&store, 0..5).await;
    fixture.clock.step(2 * 3_600_000);
    let young = append(&store, 5..7).await;
    drop(commit_all(&store).await);
    within("retention", async {
        while store.tail().partitions().await.expect("readable")[0].first != young[0].position {
            tokio::task::yield_now().await;
        }
    })
    .await;
    fixture.supervisor.cancel();
    within("the service's end", fixture.supervisor.join()).await.expect("no crash");
}
