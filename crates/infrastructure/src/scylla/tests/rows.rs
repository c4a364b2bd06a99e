//! Replays, reads over pages and segments, and rows that cannot be read.

use super::{connect, options, run, session, unique};
use crate::scylla::ScyllaHistory;
use chatify_application::ports::HistoryStore;
use chatify_application::ports::contract::{channel, message};
use chatify_application::ports::history::{HistoryError, HistoryRow, Order, PositionRange, Segment};
use chatify_domain::{Epoch, LoggedMessage, Offset, Partition, Position, Scope, Timestamp};
use scylla::client::session::Session;

const ALL: PositionRange = PositionRange { from: Position::ZERO, to: Position::MAX, order: Order::Ascending };

fn at(offset: i64) -> Position {
    Position::new(Epoch::FIRST, Offset::new(offset).expect("a small offset"))
}

pub(super) fn row(scope: &Scope, segment: i64, offset: i64) -> HistoryRow {
    let number = u32::try_from(offset).expect("a small offset");
    let logged = LoggedMessage {
        position: at(offset),
        partition: Partition(2),
        created_at: Timestamp::from_millis(1_700_000_000_000 + offset),
        sent: message(scope, "alice", number),
    };
    HistoryRow { segment: at(segment), message: logged }
}

async fn texts(history: &ScyllaHistory, scope: &Scope) -> Vec<String> {
    let found = history.slice(scope, at(0), ALL, 100).await.expect("a healthy store");
    found.iter().map(|message| message.sent.text.as_str().to_owned()).collect()
}

/// What a later record of the log does to an earlier message.
async fn edit(session: &Session, keyspace: &str, row: &HistoryRow, text: &str, later: Position) {
    let cql = format!(
        "UPDATE {keyspace}.chat_messages USING TIMESTAMP ? SET text = ? WHERE scope = ? AND segment = ? AND position = ?"
    );
    let scope = row.message.sent.scope.to_string();
    run(session, cql, (later.number(), text, scope, row.segment.number(), row.message.position.number())).await;
}

#[tokio::test]
async fn a_replay_cannot_undo_a_later_edit() {
    let (history, _supervisor) = connect(options().await).await;
    let (session, options) = session().await;
    let scope = channel(&unique());
    let rows = [row(&scope, 0, 1), row(&scope, 0, 2)];
    history.append(&rows).await.expect("written");
    edit(&session, &options.keyspace, &rows[0], "edited", at(7)).await;
    for replayed in [&rows[..], &rows[..1]] {
        history.append(replayed).await.expect("written again, alone and with its neighbour");
        assert_eq!(texts(&history, &scope).await, ["edited", rows[1].message.sent.text.as_str()]);
    }
    // An edit is a record as well, and may be replayed after a later one.
    edit(&session, &options.keyspace, &rows[0], "edited again", at(9)).await;
    edit(&session, &options.keyspace, &rows[0], "edited", at(7)).await;
    assert_eq!(texts(&history, &scope).await[0], "edited again");
}

#[tokio::test]
async fn a_replay_cannot_bring_back_what_a_later_record_removed() {
    let (history, _supervisor) = connect(options().await).await;
    let (session, options) = session().await;
    let scope = channel(&unique());
    let rows = [row(&scope, 0, 1), row(&scope, 0, 2)];
    history.append(&rows).await.expect("written");
    let cql = format!(
        "DELETE FROM {}.chat_messages USING TIMESTAMP ? WHERE scope = ? AND segment = ? AND position = ?",
        options.keyspace
    );
    run(&session, cql, (at(7).number(), scope.to_string(), at(0).number(), at(1).number())).await;
    history.append(&rows).await.expect("written again");
    assert_eq!(texts(&history, &scope).await, [rows[1].message.sent.text.as_str()]);
}

/// Shows that the two tests above can fail: the same replay without the position as its timestamp does undo the edit.
#[tokio::test]
async fn without_the_timestamp_a_replay_would_undo_the_edit() {
    let (history, _supervisor) = connect(options().await).await;
    let (session, options) = session().await;
    let scope = channel(&unique());
    let first = row(&scope, 0, 1);
    history.append(std::slice::from_ref(&first)).await.expect("written");
    edit(&session, &options.keyspace, &first, "edited", at(7)).await;
    let cql =
        format!("INSERT INTO {}.chat_messages (scope, segment, position, text) VALUES (?, ?, ?, ?)", options.keyspace);
    run(&session, cql, (scope.to_string(), at(0).number(), at(1).number(), "as it was")).await;
    assert_eq!(texts(&history, &scope).await, ["as it was"]);
}

#[tokio::test]
async fn reads_go_over_pages_and_segments() {
    let (history, _supervisor) = connect(options().await).await;
    let scope = channel(&unique());
    let starts = [0, 1_200, 1_210];
    let mut rows = Vec::new();
    for offset in 0..1_500 {
        let segment = starts.into_iter().rfind(|start| *start <= offset).expect("the first starts at 0");
        rows.push(row(&scope, segment, offset));
    }
    for start in starts {
        let segment = Segment { start: at(start), first_created_at: Timestamp::from_millis(start) };
        history.open_segment(&scope, segment).await.expect("opened");
    }
    history.append(&rows).await.expect("written");
    let segments = history.segments(&scope).await.expect("the segments");
    assert_eq!(segments.iter().map(|segment| segment.start).collect::<Vec<_>>(), starts.map(at));
    for order in [Order::Ascending, Order::Descending] {
        let mut found = Vec::new();
        for segment in &segments {
            let part =
                history.slice(&scope, segment.start, PositionRange { order, ..ALL }, 5_000).await.expect("a slice");
            assert_eq!(history.count(&scope, segment.start, Position::MAX).await.expect("a count"), part.len() as u64);
            found.push(part);
        }
        if order == Order::Descending {
            found.iter_mut().for_each(|part| part.reverse());
        }
        assert!(found.concat().iter().eq(rows.iter().map(|row| &row.message)), "{order:?}");
    }
    let limited = history.slice(&scope, at(0), ALL, 700).await.expect("more than one page");
    assert!(limited.iter().eq(rows[..700].iter().map(|row| &row.message)));
}

#[tokio::test]
async fn many_scopes_and_large_texts_are_written_by_one_append() {
    let (history, _supervisor) = connect(options().await).await;
    let prefix = unique();
    let mut rows = Vec::new();
    for number in 0..200u32 {
        let scope = channel(&format!("{prefix}-{}", number % 7));
        let mut row = row(&scope, 0, i64::from(number));
        let length = if number % 3 == 0 { 4096 } else { number as usize % 5 };
        let sent = std::sync::Arc::make_mut(&mut row.message.sent);
        sent.text = chatify_domain::Text::parse(&"ä".repeat(length)).expect("at most 4096 characters");
        rows.push(row);
    }
    history.append(&rows).await.expect("written");
    for index in 0..7 {
        let scope = channel(&format!("{prefix}-{index}"));
        let found = history.slice(&scope, at(0), ALL, 500).await.expect("a slice");
        let expected = rows.iter().filter(|row| row.message.sent.scope == scope).map(|row| &row.message);
        assert!(found.iter().eq(expected));
    }
    for row in &rows {
        let sent = &row.message.sent;
        let found = history.find(&sent.scope, sent.message_id).await.expect("found");
        assert_eq!(found, std::slice::from_ref(&row.message));
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_corrupt_and_its_text_is_not_told() {
    let (history, _supervisor) = connect(options().await).await;
    let (session, options) = session().await;
    let broken: [(&str, String); 4] = [
        ("sender_id", "null".into()),
        ("sender_id", "' '".into()),
        ("text", format!("'{}'", "confidential ".repeat(400))),
        ("broker_partition", "-1".into()),
    ];
    for (column, value) in broken {
        let scope = channel(&unique());
        let rows = [row(&scope, 0, 1), row(&scope, 0, 2)];
        history.append(&rows).await.expect("written");
        let cql = format!(
            "UPDATE {}.chat_messages USING TIMESTAMP ? SET {column} = {value} WHERE scope = ? AND segment = ? AND position = ?",
            options.keyspace
        );
        run(&session, cql, (at(7).number(), scope.to_string(), at(0).number(), at(1).number())).await;
        let error = history.slice(&scope, at(0), ALL, 10).await.expect_err("a row that cannot be read");
        assert!(matches!(error, HistoryError::Corrupt(_)), "{column} = {value}: {error:?}");
        let told = format!("{error:?}");
        assert!(!told.contains("confidential") && !told.contains("of alice"), "{told}");
        let error = history.find(&scope, rows[0].message.sent.message_id).await.expect_err("the same row");
        assert!(matches!(error, HistoryError::Corrupt(_)), "{error:?}");
        let good = PositionRange { from: at(2), ..ALL };
        assert_eq!(history.slice(&scope, at(0), good, 10).await.expect("the others"), [rows[1].message.clone()]);
    }
}

#[tokio::test]
async fn progress_is_the_newest_position_of_each_partition_and_never_goes_back() {
    let (history, _supervisor) = connect(options().await).await;
    let scope = channel(&unique());
    // Other tests write into the same table: these partitions are this test's own.
    let first = Partition(u32::from_str_radix(&unique()[..7], 16).expect("seven digits") | 1 << 31);
    let second = Partition(first.0 ^ 1);
    let of = |partition, offset| {
        let mut row = row(&scope, 0, offset);
        row.message.partition = partition;
        row
    };
    let newest = async || {
        let progress = history.progress().await.expect("a healthy store");
        let find = |wanted| progress.iter().find(|(partition, _)| *partition == wanted).map(|(_, position)| *position);
        (find(first), find(second))
    };
    assert_eq!(newest().await, (None, None));
    history.append(&[of(first, 7), of(second, 3), of(first, 9), of(first, 8)]).await.expect("written");
    assert_eq!(newest().await, (Some(at(9)), Some(at(3))));
    history.append(&[of(first, 1)]).await.expect("an old record again");
    assert_eq!(newest().await, (Some(at(9)), Some(at(3))));
}
