//! [`LogAppender`] and [`LogTail`].

use super::{channel, correlation, event, within};
use crate::ports::log::{Appended, Durable, LogError, LogRecord, NewRecord, TailReader};
use crate::ports::{LogAppender, LogGroup, LogTail};
use async_trait::async_trait;
use chatify_domain::{ChatEvent, Partition, Position, Scope, Timestamp};
use futures_util::FutureExt;
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Opens the log under test.
#[async_trait]
pub trait LogFixture: Send + Sync {
    /// Opens the log; the first time it is empty. Later calls end the one before, as a process ends, and open the same log again.
    async fn open(&self) -> OpenLog;

    /// Removes every record before `position` as retention would; the group has committed them and there are newer ones.
    async fn remove_before(&self, position: Position);
}

/// An open log.
#[derive(Clone)]
pub struct OpenLog {
    /// Its writing end.
    pub appender: Arc<dyn LogAppender>,
    /// Its reading end.
    pub tail: Arc<dyn LogTail>,
    /// Its group.
    pub group: Arc<dyn LogGroup>,
}

/// Runs every case of this suite and of [`super::group`] on fixtures that the expression makes.
#[macro_export]
macro_rules! log_contract {
    ($fixture:expr) => {
        $crate::contract_cases!(
            log,
            $fixture,
            positions_ascend_in_the_order_of_each_scope,
            concurrent_callers_each_keep_their_order,
            a_reader_gets_every_record_once_from_any_position,
            a_reader_waits_for_what_is_new,
            a_dropped_read_loses_nothing,
            a_dropped_answer_does_not_take_the_record_back,
            durable_records_survive_and_positions_go_on,
            the_ends_are_told,
            a_position_is_found_by_its_time,
            removed_records_are_reported_and_not_skipped,
        );
        $crate::contract_cases!(
            group,
            $fixture,
            a_member_gets_every_record_from_the_very_first,
            what_is_not_committed_comes_again,
            a_commit_survives_and_never_goes_back,
            a_partition_changes_hands_only_after_its_release,
            a_member_that_is_gone_leaves_its_partitions,
            a_paused_partition_gives_nothing,
            a_dropped_wait_loses_nothing,
            a_dead_letter_may_be_kept_twice,
        );
    };
}

impl OpenLog {
    /// Hands over message `number`.
    ///
    /// # Panics
    /// When it is refused.
    pub fn append(&self, scope: &Scope, number: u32) -> Durable {
        let record = NewRecord { event: event(scope, "alice", number), correlation: correlation() };
        self.appender.append(record).expect("an idle log accepts")
    }

    /// Hands over messages and waits until all are durable.
    ///
    /// # Panics
    /// When one is not.
    pub async fn append_all(&self, scope: &Scope, numbers: std::ops::Range<u32>) -> Vec<Appended> {
        let waiting: Vec<Durable> = numbers.map(|number| self.append(scope, number)).collect();
        durable(waiting).await
    }

    /// The positions at which all partitions begin.
    pub async fn starts(&self) -> Vec<(Partition, Position)> {
        let partitions = within("the partitions", self.tail.partitions()).await.expect("a readable log");
        partitions.iter().map(|state| (state.partition, state.first)).collect()
    }

    async fn reader(&self, from: &[(Partition, Position)]) -> Box<dyn TailReader> {
        within("a reader", self.tail.open(from)).await.expect("a readable log")
    }
}

async fn durable(waiting: Vec<Durable>) -> Vec<Appended> {
    let outcomes = within("durability", join_all(waiting)).await;
    outcomes.into_iter().map(|outcome| outcome.expect("a healthy log makes it durable")).collect()
}

/// Reads until `count` records are there, and no more than these.
async fn read(reader: &mut dyn TailReader, count: usize) -> Vec<LogRecord> {
    let mut records = Vec::new();
    while records.len() < count {
        let more = within("records", reader.next()).await.expect("a readable log");
        assert!(!more.is_empty(), "a read gives at least one record");
        records.extend(more);
    }
    assert_eq!(records.len(), count, "there are more records than were appended");
    check_ascending(&records);
    records
}

/// Every record once and ascending within its partition.
pub(super) fn check_ascending(records: &[LogRecord]) {
    let mut last: BTreeMap<Partition, Position> = BTreeMap::new();
    for record in records {
        if let Some(before) = last.insert(record.partition, record.position) {
            assert!(before < record.position, "{before:?} is followed by {:?}", record.position);
        }
    }
}

/// Position and event of the records of one scope.
pub(super) fn of_scope(records: &[LogRecord], scope: &Scope) -> Vec<(Position, ChatEvent)> {
    let events = records.iter().map(|record| (record.position, record.content.clone().expect("a readable record")));
    events.filter(|(_, event)| event.scope() == scope).collect()
}

fn expected(appended: &[Appended], scope: &Scope) -> Vec<(Position, ChatEvent)> {
    (0..).zip(appended).map(|(number, one)| (one.position, event(scope, "alice", number))).collect()
}

/// Records of one scope that are handed over without waiting get ascending positions.
pub async fn positions_ascend_in_the_order_of_each_scope(fixture: &dyn LogFixture) {
    let log = fixture.open().await;
    let scopes = ["one", "two", "three"].map(channel);
    let mut waiting: [Vec<Durable>; 3] = Default::default();
    for number in 0..200 {
        for (scope, waiting) in scopes.iter().zip(&mut waiting) {
            waiting.push(log.append(scope, number));
        }
    }
    let mut appended = Vec::new();
    for waiting in waiting {
        appended.push(durable(waiting).await);
    }
    let records = read(&mut *log.reader(&log.starts().await).await, 600).await;
    for (scope, appended) in scopes.iter().zip(&appended) {
        assert!(appended.is_sorted_by(|a, b| a.position < b.position), "{scope}: not ascending");
        assert!(appended.iter().all(|one| one.partition == log.tail.partition_of(scope)), "{scope}: other partition");
        assert_eq!(of_scope(&records, scope), expected(appended, scope), "{scope}");
    }
}

/// Many callers at the same time, each waiting for one record before it hands over the next.
pub async fn concurrent_callers_each_keep_their_order(fixture: &dyn LogFixture) {
    let log = fixture.open().await;
    let scopes: Vec<Scope> = (0..16).map(|caller| channel(&format!("caller-{caller}"))).collect();
    let callers = scopes.iter().map(|scope| async {
        let mut appended = Vec::new();
        for number in 0..20 {
            appended.extend(durable(vec![log.append(scope, number)]).await);
        }
        appended
    });
    let appended = join_all(callers).await;
    let records = read(&mut *log.reader(&log.starts().await).await, 16 * 20).await;
    for (scope, appended) in scopes.iter().zip(&appended) {
        assert_eq!(of_scope(&records, scope), expected(appended, scope), "{scope}");
    }
}

/// Complete from each position on, while the process lives and after it was started again.
pub async fn a_reader_gets_every_record_once_from_any_position(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    let mut appended = log.append_all(&scope, 0..60).await;
    let log = fixture.open().await;
    appended.extend(log.append_all(&scope, 60..120).await);
    let expected = expected(&appended, &scope);
    for (index, one) in appended.iter().enumerate().step_by(7) {
        let mut reader = log.reader(&[(one.partition, one.position)]).await;
        assert_eq!(of_scope(&read(&mut *reader, expected.len() - index).await, &scope), expected[index..]);
    }
    let mut reader = log.reader(&[(appended[0].partition, Position::ZERO)]).await;
    assert_eq!(of_scope(&read(&mut *reader, expected.len()).await, &scope), expected, "from before the first");
}

/// A reader at the end gives nothing, then exactly what is new; two readers do not share.
pub async fn a_reader_waits_for_what_is_new(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    let starts = log.starts().await;
    let (mut first, mut second) = (log.reader(&starts).await, log.reader(&starts).await);
    for number in 0..20 {
        assert!(first.next().now_or_never().is_none(), "there is nothing yet");
        let appended = durable(vec![log.append(&scope, number)]).await;
        for reader in [&mut first, &mut second] {
            let records = read(&mut **reader, 1).await;
            assert_eq!(of_scope(&records, &scope), [(appended[0].position, event(&scope, "alice", number))]);
            assert_eq!(records[0].appended_at, appended[0].appended_at);
        }
    }
}

/// A `next` that is polled and then dropped gives its records to the following one.
pub async fn a_dropped_read_loses_nothing(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    let mut appended = log.append_all(&scope, 0..50).await;
    let log = fixture.open().await;
    let mut reader = log.reader(&[(appended[0].partition, appended[0].position)]).await;
    let mut records = Vec::new();
    for number in 50..100 {
        if let Some(read) = reader.next().now_or_never() {
            records.extend(read.expect("a readable log"));
        }
        appended.extend(durable(vec![log.append(&scope, number)]).await);
    }
    let missing = 100 - records.len();
    records.extend(read(&mut *reader, missing).await);
    check_ascending(&records);
    assert_eq!(of_scope(&records, &scope), expected(&appended, &scope));
}

/// Nobody waits for the answer; the record is there all the same.
pub async fn a_dropped_answer_does_not_take_the_record_back(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    let starts = log.starts().await;
    drop(log.append(&scope, 0));
    let records = read(&mut *log.reader(&starts).await, 1).await;
    assert_eq!(of_scope(&records, &scope)[0].1, event(&scope, "alice", 0));
}

/// What was durable is there after the process ended, and no position is given twice.
pub async fn durable_records_survive_and_positions_go_on(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let mut appended: Vec<Appended> = Vec::new();
    for round in 0..4 {
        let log = fixture.open().await;
        appended.extend(log.append_all(&scope, round * 10..round * 10 + 10).await);
    }
    assert!(appended.is_sorted_by(|a, b| a.position < b.position && a.appended_at <= b.appended_at));
    let log = fixture.open().await;
    let records = read(&mut *log.reader(&log.starts().await).await, 40).await;
    assert_eq!(of_scope(&records, &scope), expected(&appended, &scope));
    let times: Vec<Timestamp> = records.iter().map(|record| record.appended_at).collect();
    assert_eq!(times, appended.iter().map(|one| one.appended_at).collect::<Vec<_>>());
}

/// First, end and newest time of each partition.
pub async fn the_ends_are_told(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    for state in log.tail.partitions().await.expect("a readable log") {
        assert_eq!((state.first, state.last_appended_at), (state.end, None), "an empty log");
    }
    let appended = log.append_all(&scope, 0..10).await;
    check_ends(&log, &appended).await;
    check_ends(&fixture.open().await, &appended).await;
}

async fn check_ends(log: &OpenLog, appended: &[Appended]) {
    let (first, last) = (&appended[0], &appended[appended.len() - 1]);
    let states = within("the partitions", log.tail.partitions()).await.expect("a readable log");
    let state = states.iter().find(|state| state.partition == first.partition).expect("its partition");
    assert_eq!(state.first, first.position);
    assert!(state.end > last.position);
    assert_eq!(state.last_appended_at, Some(last.appended_at));
    let end = within("the end", log.tail.end(state.partition)).await.expect("a readable log");
    assert_eq!(end, state.end);
}

/// The first record at or after a moment, or the end.
pub async fn a_position_is_found_by_its_time(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    let partition = log.tail.partition_of(&scope);
    let at =
        async |moment| within("a position", log.tail.position_at(partition, moment)).await.expect("a readable log");
    let empty_end = at(Timestamp::from_millis(0)).await;
    let mut appended = Vec::new();
    for number in 0..20 {
        appended.extend(durable(vec![log.append(&scope, number)]).await);
    }
    assert!(empty_end <= appended[0].position, "an empty log answers with its end");
    for one in &appended {
        let first = appended.iter().find(|other| other.appended_at >= one.appended_at).expect("itself at the latest");
        assert_eq!(at(one.appended_at).await, first.position);
    }
    assert_eq!(at(Timestamp::from_millis(0)).await, appended[0].position);
    let later = at(appended[19].appended_at.plus(std::time::Duration::from_secs(60))).await;
    assert!(later > appended[19].position, "nothing was appended later than the newest");
}

/// Retention leaves no silent gap.
pub async fn removed_records_are_reported_and_not_skipped(fixture: &dyn LogFixture) {
    let scope = channel("general");
    let log = fixture.open().await;
    let appended = log.append_all(&scope, 0..30).await;
    let partition = appended[0].partition;
    let mut member = within("a member", log.group.join()).await.expect("a readable log");
    while !matches!(
        within("records", member.next()).await.expect("a readable log"),
        crate::ports::log::GroupEvent::Records { .. }
    ) {}
    within("the commit", member.commit(partition, appended[20].position)).await.expect("an owned partition");
    let mut behind = log.reader(&[(partition, appended[0].position)]).await;
    fixture.remove_before(appended[10].position).await;
    check_removed(&log, &appended, 10).await;
    // A reader that was opened before may have what it still needs in memory; then it must have all of it.
    match within("the reader's next", behind.next()).await {
        Ok(records) => assert_eq!(records[0].position, appended[0].position),
        refused => check_truncated(refused, appended[10].position),
    }
    check_removed(&fixture.open().await, &appended, 10).await;
}

/// Everything from `first` on is there, and what was before it is reported.
async fn check_removed(log: &OpenLog, appended: &[Appended], first: usize) {
    let scope = channel("general");
    let partition = appended[0].partition;
    match within("a reader", log.tail.open(&[(partition, appended[first - 1].position)])).await {
        Ok(mut reader) => check_truncated(within("the refusal", reader.next()).await, appended[first].position),
        Err(error) => check_truncated(Err(error), appended[first].position),
    }
    let mut reader = log.reader(&[(partition, appended[first].position)]).await;
    let records = read(&mut *reader, appended.len() - first).await;
    assert_eq!(of_scope(&records, &scope), expected(appended, &scope)[first..]);
}

fn check_truncated(read: Result<Vec<LogRecord>, LogError>, expected: Position) {
    match read {
        Err(LogError::Truncated { first, .. }) => assert_eq!(first, expected),
        other => panic!("expected a refusal, got {other:?}"),
    }
}
