//! [`HistoryStore`].

use super::{channel, message, within};
use crate::ports::HistoryStore;
use crate::ports::history::{HistoryError, HistoryRow, Order, PositionRange, Segment};
use async_trait::async_trait;
use chatify_domain::{Epoch, LoggedMessage, Offset, Partition, Position, Scope, Timestamp};
use std::sync::Arc;

/// Opens the history under test.
#[async_trait]
pub trait HistoryFixture: Send + Sync {
    /// Opens the history; the first time it is empty. Later calls end the one before, as a process ends, and open the same history again.
    async fn open(&self) -> Arc<dyn HistoryStore>;
}

/// Runs every case of this suite on fixtures that the expression makes.
#[macro_export]
macro_rules! history_contract {
    ($fixture:expr) => {
        $crate::contract_cases!(
            history,
            $fixture,
            an_unknown_scope_is_empty,
            segments_ascend_and_keep_their_first_time,
            writing_again_changes_nothing,
            written_rows_survive,
            slices_keep_to_their_range_order_and_limit,
            segments_and_scopes_do_not_mix,
            a_message_is_found_by_its_id_and_scope,
            a_late_repeat_does_not_hide_the_first,
        );
    };
}

fn at(offset: i64) -> Position {
    Position::new(Epoch::FIRST, Offset::new(offset).expect("a small offset"))
}

fn row(scope: &Scope, sender: &str, segment: i64, offset: i64) -> HistoryRow {
    let number = u32::try_from(offset).expect("a small offset");
    let logged = LoggedMessage {
        position: at(offset),
        partition: Partition(0),
        created_at: Timestamp::from_millis(1_700_000_000_000 + offset),
        sent: message(scope, sender, number),
    };
    HistoryRow { segment: at(segment), message: logged }
}

fn messages(rows: &[HistoryRow]) -> Vec<LoggedMessage> {
    rows.iter().map(|row| row.message.clone()).collect()
}

async fn done<T>(call: impl Future<Output = Result<T, HistoryError>>) -> T {
    within("the history", call).await.expect("a healthy history")
}

const ALL: PositionRange = PositionRange { from: Position::ZERO, to: Position::MAX, order: Order::Ascending };

/// Nothing is no error.
pub async fn an_unknown_scope_is_empty(fixture: &dyn HistoryFixture) {
    let store = fixture.open().await;
    let scope = channel("nobody-was-here");
    assert!(done(store.segments(&scope)).await.is_empty());
    assert_eq!(done(store.count(&scope, at(0), Position::MAX)).await, 0);
    assert!(done(store.slice(&scope, at(0), ALL, 10)).await.is_empty());
    assert!(done(store.find(&scope, message(&scope, "alice", 1).message_id)).await.is_empty());
    done(store.append(&[])).await;
}

/// Opening a segment again keeps what is there.
pub async fn segments_ascend_and_keep_their_first_time(fixture: &dyn HistoryFixture) {
    let store = fixture.open().await;
    let scope = channel("general");
    let segment = |start, millis| Segment { start: at(start), first_created_at: Timestamp::from_millis(millis) };
    for opened in [segment(50, 5), segment(0, 1), segment(90, 9), segment(0, 77)] {
        done(store.open_segment(&scope, opened)).await;
    }
    done(store.open_segment(&channel("other"), segment(3, 3))).await;
    let expected = [segment(0, 1), segment(50, 5), segment(90, 9)];
    assert_eq!(done(store.segments(&scope)).await, expected);
    assert_eq!(done(fixture.open().await.segments(&scope)).await, expected);
}

/// A redelivered batch is a no-op, whole or in parts.
pub async fn writing_again_changes_nothing(fixture: &dyn HistoryFixture) {
    let store = fixture.open().await;
    let scope = channel("general");
    let rows: Vec<HistoryRow> = (0..20).map(|offset| row(&scope, "alice", 0, offset)).collect();
    done(store.append(&rows[..15])).await;
    done(store.append(&rows)).await;
    done(store.append(&rows[5..10])).await;
    assert_eq!(done(store.count(&scope, at(0), Position::MAX)).await, 20);
    assert_eq!(done(store.count(&scope, at(0), at(7))).await, 7, "the one at the position itself is not before it");
    assert_eq!(done(store.slice(&scope, at(0), ALL, 100)).await, messages(&rows));
}

/// Durable when it returned, every value as it was.
pub async fn written_rows_survive(fixture: &dyn HistoryFixture) {
    let scope = channel("general");
    let rows: Vec<HistoryRow> = (0..20).map(|offset| row(&scope, "alice", 0, offset)).collect();
    done(fixture.open().await.append(&rows)).await;
    let store = fixture.open().await;
    assert_eq!(done(store.slice(&scope, at(0), ALL, 100)).await, messages(&rows));
    assert_eq!(done(store.find(&scope, rows[7].message.sent.message_id)).await, messages(&rows[7..8]));
}

/// Every combination of ends, orders and limits, against the rows themselves.
pub async fn slices_keep_to_their_range_order_and_limit(fixture: &dyn HistoryFixture) {
    let store = fixture.open().await;
    let scope = channel("general");
    // With gaps: other scopes and duplicates take positions too.
    let rows: Vec<HistoryRow> = (0..12).map(|index| row(&scope, "alice", 0, 2 + index * 3)).collect();
    done(store.append(&rows)).await;
    for from in [0, 2, 3, 17, 35, 36, 40] {
        for to in [0, 2, 3, 17, 18, 35, 36, 40] {
            for order in [Order::Ascending, Order::Descending] {
                for limit in [0, 1, 5, 500] {
                    let range = PositionRange { from: at(from), to: at(to), order };
                    let mut expected = messages(&rows);
                    expected.retain(|message| (range.from..range.to).contains(&message.position));
                    if order == Order::Descending {
                        expected.reverse();
                    }
                    expected.truncate(limit);
                    assert_eq!(done(store.slice(&scope, at(0), range, limit)).await, expected, "{range:?} {limit}");
                }
            }
        }
    }
}

/// A row belongs to its scope and its segment alone.
pub async fn segments_and_scopes_do_not_mix(fixture: &dyn HistoryFixture) {
    let store = fixture.open().await;
    let (scope, other) = (channel("general"), channel("general2"));
    let rows = [row(&scope, "alice", 0, 1), row(&scope, "alice", 5, 5), row(&other, "alice", 0, 3)];
    done(store.append(&rows)).await;
    for (scope, segment, expected) in [(&scope, 0, &rows[..1]), (&scope, 5, &rows[1..2]), (&other, 0, &rows[2..])] {
        assert_eq!(done(store.slice(scope, at(segment), ALL, 10)).await, messages(expected));
        assert_eq!(done(store.count(scope, at(segment), Position::MAX)).await, 1);
    }
}

/// Two senders may use the same id; another scope's message is never found.
pub async fn a_message_is_found_by_its_id_and_scope(fixture: &dyn HistoryFixture) {
    let store = fixture.open().await;
    let (scope, other) = (channel("general"), channel("other"));
    let named = |mut row: HistoryRow, sender: &str| {
        row.message.sent = message(&row.message.sent.scope, sender, 1000);
        row
    };
    let rows = [
        named(row(&scope, "bob", 0, 9), "bob"),
        named(row(&scope, "alice", 0, 4), "alice"),
        named(row(&other, "carol", 0, 6), "carol"),
    ];
    done(store.append(&rows)).await;
    let id = rows[0].message.sent.message_id;
    let found = [rows[1].message.clone(), rows[0].message.clone()];
    assert_eq!(done(store.find(&scope, id)).await, found, "ascending by position");
    assert_eq!(done(store.find(&other, id)).await, messages(&rows[2..]));
    assert!(done(store.find(&channel("third"), id)).await.is_empty());
}

/// Should the same message be written at two positions, the first one stays findable.
pub async fn a_late_repeat_does_not_hide_the_first(fixture: &dyn HistoryFixture) {
    let store = fixture.open().await;
    let scope = channel("general");
    let first = row(&scope, "alice", 0, 1);
    let mut repeat = row(&scope, "alice", 0, 8);
    repeat.message.sent = Arc::clone(&first.message.sent);
    done(store.append(std::slice::from_ref(&first))).await;
    done(store.append(&[repeat])).await;
    let found = done(store.find(&scope, first.message.sent.message_id)).await;
    assert_eq!(found.first(), Some(&first.message));
}
