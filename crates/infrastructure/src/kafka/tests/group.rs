//! The group under stress on a real Kafka: members come and go, die, and lose what they have.

use super::real_log::RealLog;
use crate::kafka::KafkaLog;
use chatify_application::ports::contract::log::LogFixture;
use chatify_application::ports::contract::{channel, correlation, event, within};
use chatify_application::ports::log::{GroupEvent, GroupMember, LogError, NewRecord};
use chatify_building_blocks::random::{Random, SeededRandom};
use chatify_domain::{Partition, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What all members of a storm have seen and done.
#[derive(Default)]
struct Storm(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    owners: BTreeMap<Partition, u32>,
    committed: BTreeMap<Partition, Position>,
    effects: BTreeSet<(Partition, Position)>,
    hand_overs: u32,
}

impl Storm {
    fn with<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn assigned(&self, member: u32, partition: Partition, from: Position) {
        self.with(|seen| {
            assert_eq!(seen.owners.insert(partition, member), None, "{partition:?} has two owners");
            let committed = seen.committed.get(&partition).copied().unwrap_or(from);
            assert_eq!(from, committed, "{partition:?} goes on elsewhere than at what is committed");
            seen.hand_overs += 1;
        });
    }

    fn let_go(&self, member: u32, partition: Partition) {
        self.with(|seen| assert_eq!(seen.owners.remove(&partition), Some(member), "{partition:?} had another owner"));
    }

    fn effect(&self, partition: Partition, positions: impl Iterator<Item = Position>) {
        self.with(|seen| seen.effects.extend(positions.map(|position| (partition, position))));
    }

    /// Called before the commit is handed over: it may be durable from then on.
    fn committing(&self, partition: Partition, next: Position) {
        self.with(|seen| {
            let before = seen.committed.insert(partition, next);
            assert!(before.is_none_or(|before| before <= next), "{partition:?} went back");
        });
    }

    fn count(&self) -> usize {
        self.with(|seen| seen.effects.len())
    }
}

/// Works as the history writer does until it has seen `events` events or the group is idle, then leaves in one of two ways.
async fn member(storm: &Storm, log: &KafkaLog, number: u32, events: u64, total: usize, settles: bool) {
    let mut member = within("a member", log.group().join()).await.expect("a readable log");
    let mut owned: BTreeMap<Partition, Option<Position>> = BTreeMap::new();
    for _ in 0..events {
        // The records that are left may be another member's.
        let Ok(event) = tokio::time::timeout(Duration::from_millis(500), member.next()).await else {
            if storm.count() >= total {
                break;
            }
            continue;
        };
        match event.expect("a readable log") {
            GroupEvent::Assigned { partition, from } => {
                storm.assigned(number, partition, from);
                owned.insert(partition, None);
            }
            GroupEvent::Records { partition, records } => {
                storm.effect(partition, records.iter().map(|record| record.position));
                let next = records[records.len() - 1].position.next();
                owned.insert(partition, Some(next));
                if number.is_multiple_of(2) {
                    commit(storm, &mut *member, &mut owned, partition).await;
                }
            }
            GroupEvent::Revoking { partition } => {
                commit(storm, &mut *member, &mut owned, partition).await;
                owned.remove(&partition);
                storm.let_go(number, partition);
                within("the release", member.release(partition)).await.expect("still owned");
            }
        }
    }
    let last: Vec<Partition> = owned.keys().copied().collect();
    for partition in last {
        if settles {
            commit(storm, &mut *member, &mut owned, partition).await;
        }
        storm.let_go(number, partition);
    }
}

async fn commit(
    storm: &Storm,
    member: &mut dyn GroupMember,
    owned: &mut BTreeMap<Partition, Option<Position>>,
    partition: Partition,
) {
    if let Some(next) = owned.get_mut(&partition).and_then(Option::take) {
        storm.committing(partition, next);
        within("the commit", member.commit(partition, next)).await.expect("still owned");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_members_loses_nothing_and_never_shares_a_partition() {
    const RECORDS: u32 = 6_000;
    const SCOPES: u32 = 30;
    let fixture = RealLog::new(6);
    fixture.open().await;
    let log = fixture.connect().await;
    let storm = Arc::new(Storm::default());
    let random = SeededRandom::new(4);
    let appender = log.appender();
    let producing = async {
        for number in 0..RECORDS {
            let scope = channel(&format!("scope-{}", number % SCOPES));
            let record = NewRecord { event: event(&scope, "alice", number), correlation: correlation() };
            let durable = appender.append(record).expect("an idle log accepts");
            if number.is_multiple_of(20) {
                within("durability", durable).await.expect("a healthy log");
            }
        }
    };
    let (storm_seen, log_seen) = (&storm, &log);
    let lives = (0..5u32).map(|seat| {
        let lives: Vec<(u64, bool)> = (0..5).map(|_| (3 + random.u64() % 20, random.u64().is_multiple_of(2))).collect();
        async move {
            for (life, (events, settles)) in (0u32..).zip(lives) {
                member(storm_seen, log_seen, seat * 100 + life, events, RECORDS as usize, settles).await;
            }
        }
    });
    let storming = futures_util::future::join_all(lives);
    let _ends = tokio::time::timeout(Duration::from_secs(180), async { tokio::join!(producing, storming) })
        .await
        .expect("the storm ends");
    // Whatever the storm left over is the last one's.
    within("the rest", member(&storm, &log, 1_000, u64::MAX, RECORDS as usize, true)).await;
    assert_eq!(storm.count(), RECORDS as usize, "every record had its effect");
    let hand_overs = storm.with(|seen| seen.hand_overs);
    assert!(hand_overs > 30, "{hand_overs} assignments are no storm");
    let committed = within("what is committed", log.group().committed()).await.expect("a readable log");
    let states = within("the ends", log.tail().partitions()).await.expect("a readable log");
    for ((partition, committed), state) in committed.into_iter().zip(states) {
        assert_eq!((partition, committed), (state.partition, state.end));
    }
}

async fn next_records(member: &mut dyn GroupMember) -> (Partition, Vec<Position>) {
    loop {
        if let GroupEvent::Records { partition, records } =
            within("records", member.next()).await.expect("a readable log")
        {
            return (partition, records.iter().map(|record| record.position).collect());
        }
    }
}

#[tokio::test]
async fn a_new_client_goes_on_where_retention_left_off() {
    let fixture = RealLog::new(1);
    let log = fixture.open().await;
    let appended = log.append_all(&channel("general"), 0..30).await;
    let mut member = within("a member", log.group.join()).await.expect("a readable log");
    next_records(&mut *member).await;
    within("the commit", member.commit(Partition(0), appended[5].position)).await.expect("an owned partition");
    drop(member);
    fixture.remove_before(appended[20].position).await;
    // The loss is in the log lines; the history goes on with what is left.
    let mut member = within("a member", log.group.join()).await.expect("a readable log");
    let event = within("the assignment", member.next()).await.expect("a readable log");
    assert!(matches!(event, GroupEvent::Assigned { from, .. } if from == appended[20].position), "{event:?}");
    let (_, positions) = next_records(&mut *member).await;
    assert_eq!(positions, appended[20..].iter().map(|one| one.position).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_partition_that_is_not_owned_is_neither_committed_nor_released() {
    let fixture = RealLog::new(1);
    let log = fixture.open().await;
    let appended = log.append_all(&channel("general"), 0..5).await;
    let mut member = within("a member", log.group.join()).await.expect("a readable log");
    let too_early = within("the commit", member.commit(Partition(0), appended[3].position)).await;
    assert!(matches!(too_early, Err(LogError::NotAssigned)), "{too_early:?}");
    next_records(&mut *member).await;
    let elsewhere = within("the commit", member.commit(Partition(1), appended[3].position)).await;
    assert!(matches!(elsewhere, Err(LogError::NotAssigned)), "{elsewhere:?}");
    let not_revoked = within("the release", member.release(Partition(0))).await;
    assert!(matches!(not_revoked, Err(LogError::NotAssigned)), "{not_revoked:?}");
    within("the commit", member.commit(Partition(0), appended[3].position)).await.expect("an owned partition");
}
