//! [`LogGroup`](crate::ports::LogGroup). Run by [`log_contract`](crate::log_contract).

use super::log::{LogFixture, OpenLog, check_ascending, of_scope};
use super::{channel, event, within};
use crate::ports::log::{GroupEvent, GroupMember, LogError, LogRecord, Undecodable};
use chatify_domain::{ChatEvent, Partition, Position, Scope};
use futures_util::FutureExt;
use std::collections::BTreeSet;

async fn join(log: &OpenLog) -> Box<dyn GroupMember> {
    within("a member", log.group.join()).await.expect("a readable log")
}

async fn next(member: &mut dyn GroupMember) -> GroupEvent {
    within("an event of the group", member.next()).await.expect("a readable log")
}

/// Reads until `count` records are there; nothing is revoked meanwhile.
async fn records(member: &mut dyn GroupMember, count: usize) -> Vec<LogRecord> {
    let mut all = Vec::new();
    while all.len() < count {
        match next(member).await {
            GroupEvent::Assigned { .. } => {}
            GroupEvent::Records { partition, records } => {
                assert!(!records.is_empty() && records.iter().all(|record| record.partition == partition));
                all.extend(records);
            }
            GroupEvent::Revoking { .. } => panic!("there is no other member"),
        }
    }
    assert_eq!(all.len(), count, "there are more records than were appended");
    check_ascending(&all);
    all
}

async fn committed(log: &OpenLog, partition: Partition) -> Position {
    let all = within("the committed positions", log.group.committed()).await.expect("a readable log");
    all.into_iter().find(|(other, _)| *other == partition).expect("every partition has one").1
}

fn events(scope: &Scope, numbers: std::ops::Range<u32>) -> Vec<ChatEvent> {
    numbers.map(|number| event(scope, "alice", number)).collect()
}

fn events_of(records: &[LogRecord], scope: &Scope) -> Vec<ChatEvent> {
    of_scope(records, scope).into_iter().map(|(_, event)| event).collect()
}

/// The group's very first member starts at the very first record, also at those from before it joined.
pub async fn a_member_gets_every_record_from_the_very_first(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    log.append_all(&scope, 0..30).await;
    let mut member = join(&log).await;
    let mut all = records(&mut *member, 30).await;
    log.append_all(&scope, 30..60).await;
    all.extend(records(&mut *member, 30).await);
    assert_eq!(events_of(&all, &scope), events(&scope, 0..60));
}

/// At least once: a member that ends, and a process that ends.
pub async fn what_is_not_committed_comes_again(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    let appended = log.append_all(&scope, 0..30).await;
    let partition = appended[0].partition;
    let mut member = join(&log).await;
    records(&mut *member, 30).await;
    within("the commit", member.commit(partition, appended[10].position)).await.expect("an owned partition");
    drop(member);
    let mut member = join(&log).await;
    assert_eq!(events_of(&records(&mut *member, 20).await, &scope), events(&scope, 10..30));
    drop(member);
    let log = fixture.open().await;
    assert_eq!(committed(&log, partition).await, appended[10].position);
    let mut member = join(&log).await;
    assert_eq!(events_of(&records(&mut *member, 20).await, &scope), events(&scope, 10..30));
}

/// Durable when it returns, monotonic for ever.
pub async fn a_commit_survives_and_never_goes_back(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    let appended = log.append_all(&scope, 0..30).await;
    let partition = appended[0].partition;
    let mut member = join(&log).await;
    records(&mut *member, 30).await;
    for (index, expected) in [(5, 5), (20, 20), (10, 20), (20, 20), (25, 25)] {
        // Going back may be refused or ignored; it must not happen.
        let outcome = within("the commit", member.commit(partition, appended[index].position)).await;
        assert!(outcome.is_ok() || index < expected, "{outcome:?}");
        assert_eq!(committed(&log, partition).await, appended[expected].position);
    }
    let log = fixture.open().await;
    assert_eq!(committed(&log, partition).await, appended[25].position);
}

/// A second member joins: what it gets was released by the first one, with everything committed until then.
pub async fn a_partition_changes_hands_only_after_its_release(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    let appended = log.append_all(&scope, 0..20).await;
    let mut old = join(&log).await;
    records(&mut *old, 20).await;
    let mut new = join(&log).await;
    let mut released = BTreeSet::new();
    let (moved, from) = within("the hand-over", async {
        loop {
            tokio::select! {
                event = old.next() => if let GroupEvent::Revoking { partition } = event.expect("a readable log") {
                    assert!(new.next().now_or_never().is_none(), "{partition:?} has an owner");
                    if partition == appended[0].partition {
                        old.commit(partition, appended[15].position).await.expect("still owned");
                    }
                    old.release(partition).await.expect("still owned");
                    assert!(matches!(old.commit(partition, appended[16].position).await, Err(LogError::NotAssigned)));
                    released.insert(partition);
                },
                event = new.next() => match event.expect("a readable log") {
                    GroupEvent::Assigned { partition, from } => break (partition, from),
                    other => panic!("expected an assignment, got {other:?}"),
                },
            }
        }
    })
    .await;
    assert!(released.contains(&moved), "{moved:?} was not released");
    if moved == appended[0].partition {
        assert_eq!(from, appended[15].position);
        assert_eq!(events_of(&records(&mut *new, 5).await, &scope), events(&scope, 15..20));
    }
}

/// Its partitions go to the others, with nothing lost.
pub async fn a_member_that_is_gone_leaves_its_partitions(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    let appended = log.append_all(&scope, 0..20).await;
    let partition = appended[0].partition;
    let mut gone = join(&log).await;
    records(&mut *gone, 20).await;
    within("the commit", gone.commit(partition, appended[5].position)).await.expect("an owned partition");
    let mut left = join(&log).await;
    drop(gone);
    assert_eq!(events_of(&records(&mut *left, 15).await, &scope), events(&scope, 5..20));
    within("the commit", left.commit(partition, appended[19].position)).await.expect("an owned partition");
}

/// Paused is still owned: it can be committed, and goes on where it stopped.
pub async fn a_paused_partition_gives_nothing(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    let appended = log.append_all(&scope, 0..10).await;
    let partition = appended[0].partition;
    let mut member = join(&log).await;
    records(&mut *member, 10).await;
    member.pause(partition);
    log.append_all(&scope, 10..20).await;
    assert!(member.next().now_or_never().is_none(), "the partition is paused");
    within("the commit", member.commit(partition, appended[9].position)).await.expect("an owned partition");
    member.resume(partition);
    assert_eq!(events_of(&records(&mut *member, 10).await, &scope), events(&scope, 10..20));
}

/// A `next` that is polled and then dropped gives its event to the following one.
pub async fn a_dropped_wait_loses_nothing(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    let mut member = join(&log).await;
    let mut all = Vec::new();
    let mut assigned = false;
    let mut take = |event: GroupEvent, all: &mut Vec<LogRecord>| match event {
        GroupEvent::Assigned { .. } => assigned = true,
        GroupEvent::Records { records, .. } => all.extend(records),
        GroupEvent::Revoking { .. } => panic!("there is no other member"),
    };
    for number in 0..50 {
        if let Some(event) = member.next().now_or_never() {
            take(event.expect("a readable log"), &mut all);
        }
        log.append_all(&scope, number..number + 1).await;
    }
    while all.len() < 50 {
        take(next(&mut *member).await, &mut all);
    }
    assert!(assigned, "records come after the assignment");
    check_ascending(&all);
    assert_eq!(events_of(&all, &scope), events(&scope, 0..50));
}

/// A record that can have no effect is kept, again and again, and the group goes on.
pub async fn a_dead_letter_may_be_kept_twice(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    log.append_all(&scope, 0..2).await;
    let mut member = join(&log).await;
    let all = records(&mut *member, 2).await;
    for _ in 0..2 {
        within("the dead letter", member.dead_letter(&all[0], &Undecodable::UnknownKind)).await.expect("it is kept");
    }
    within("the commit", member.commit(all[0].partition, all[0].position.next())).await.expect("an owned partition");
    assert_eq!(committed(&log, all[0].partition).await, all[0].position.next());
}
