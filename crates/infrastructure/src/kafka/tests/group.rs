//! The group under stress on a real Kafka: members come and go, die, and lose what they have.

use super::real_log::RealLog;
use crate::kafka::KafkaLog;
use chatify_application::ports::contract::log::LogFixture;
use chatify_application::ports::contract::{channel, correlation, event, within};
use chatify_application::ports::log::{GroupEvent, GroupMember, LogError, NewRecord};
use chatify_building_blocks::random::{Random, SeededRandom};
use chatify_domain::{Partition, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
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
    appended: usize,
    all_appended: bool,
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

    fn appended(&self) {
        self.with(|seen| seen.appended += 1);
    }

    fn all_appended(&self) {
        self.with(|seen| seen.all_appended = true);
    }

    /// Whether every record there will ever be has had its effect.
    fn is_over(&self) -> bool {
        self.with(|seen| seen.all_appended && seen.effects.len() >= seen.appended)
    }

    /// Whether every effect is committed, too.
    fn is_settled(&self) -> bool {
        self.with(|seen| {
            let last: BTreeMap<Partition, Position> = seen.effects.iter().copied().collect();
            last.iter().all(|(partition, last)| seen.committed.get(partition) == Some(&last.next()))
        })
    }

    /// Whether so few partitions have changed hands that the storm has to go on: how often they do depends on the machine.
    fn is_calm(&self) -> bool {
        self.with(|seen| seen.hand_overs <= 30)
    }
}

/// The member that settles what all the others have left.
const LAST: u32 = 10_000;

/// Works as the history writer does until it has seen `events` events or is idle at the end of the storm, then leaves in one of two ways.
async fn member(storm: &Storm, log: &KafkaLog, number: u32, events: u64, settles: bool) {
    let mut member = within("a member", log.group().join()).await.expect("a readable log");
    let mut owned: BTreeMap<Partition, Option<Position>> = BTreeMap::new();
    let mut seen = 0;
    while seen < events {
        // The records that are left may be another member's. Waiting is no event, so that every life contributes.
        let Ok(event) = tokio::time::timeout(Duration::from_millis(500), member.next()).await else {
            if storm.is_over() && (number != LAST || storm.is_settled()) {
                break;
            }
            continue;
        };
        seen += 1;
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
        let committing = async {
            // Refused while the group moves on, which it does by itself; each answer is the brokers' own.
            while let Err(refused) = member.commit(partition, next).await {
                assert!(matches!(refused, LogError::Rebalancing), "{partition:?} is still owned: {refused:?}");
            }
        };
        within("the commit", committing).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_members_loses_nothing_and_never_shares_a_partition() {
    const RECORDS: u32 = 6_000;
    const SCOPES: u32 = 30;
    const LIVES: usize = 5;
    let fixture = RealLog::new(6);
    fixture.open().await;
    let log = fixture.connect().await;
    let storm = Storm::default();
    let appender = log.appender();
    let (storm, log) = (&storm, &log);
    let producing = async {
        for number in (0u32..).take_while(|&number| number < RECORDS || storm.is_calm()) {
            let scope = channel(&format!("scope-{}", number % SCOPES));
            let record = NewRecord { event: event(&scope, "alice", number), correlation: correlation() };
            let durable = appender.append(record).expect("an idle log accepts");
            storm.appended();
            if number.is_multiple_of(20) {
                within("durability", durable).await.expect("a healthy log");
            }
        }
        storm.all_appended();
    };
    let lives = (0..5u32).map(|seat| async move {
        let random = SeededRandom::new(u64::from(seat));
        for (life, number) in (seat * 1_000..).enumerate().take_while(|&(life, _)| life < LIVES || storm.is_calm()) {
            let (events, settles) = (3 + random.u64() % 20, random.u64().is_multiple_of(2));
            member(storm, log, number, events, settles).await;
            assert!(life < 900, "a seat has a thousand numbers");
        }
    });
    let storming = futures_util::future::join_all(lives);
    let _ends = tokio::time::timeout(Duration::from_secs(300), async { tokio::join!(producing, storming) })
        .await
        .expect("the storm ends");
    // Whatever the storm left over is the last one's.
    within("the rest", member(storm, log, LAST, u64::MAX, true)).await;
    assert!(storm.is_over(), "every record had its effect");
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
