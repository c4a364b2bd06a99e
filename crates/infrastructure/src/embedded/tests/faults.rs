//! Full disks, damaged files, second processes.

use super::fixture::{Fixture, open_log};
use crate::embedded::{EmbeddedStore, OpenError, Options};
use chatify_application::ports::contract::history::HistoryFixture;
use chatify_application::ports::contract::{channel, correlation, event, message, within};
use chatify_application::ports::history::{HistoryError, HistoryRow};
use chatify_application::ports::log::{AppendError, GroupEvent, NewRecord};
use chatify_building_blocks::clock::{Clock, SystemClock};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{LoggedMessage, Partition, Position, Timestamp};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

const PARTITION: Partition = Partition(0);

async fn append_one(store: &EmbeddedStore, number: u32) -> Result<Position, AppendError> {
    let record = NewRecord { event: event(&channel("general"), "alice", number), correlation: correlation() };
    within("an answer", store.appender().append(record)?).await.map(|appended| appended.position)
}

#[tokio::test]
async fn a_full_disk_refuses_and_room_heals_it() {
    let fixture = Fixture::new();
    let options = Options { max_database_bytes: Some(256 * 1024), ..fixture.options() };
    let store = fixture.reopen(&options).expect("opens");
    let mut accepted = Vec::new();
    let refused = loop {
        match append_one(&store, u32::try_from(accepted.len()).expect("few")).await {
            Ok(position) => accepted.push(position),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::Unavailable { reason: "disk full", .. }), "{refused:?}");
    assert!(accepted.len() > 100, "only {} fitted", accepted.len());
    let history = history_row(accepted[0]);
    let unavailable = store.history().append(&[history]).await;
    assert!(unavailable.is_ok() || matches!(unavailable, Err(HistoryError::Unavailable(_))), "{unavailable:?}");

    // Reading goes on, and gives exactly what was accepted.
    let mut reader = store.tail().open(&[(PARTITION, Position::ZERO)]).await.expect("readable");
    let mut positions = Vec::new();
    while positions.len() < accepted.len() {
        let records = within("records", reader.next()).await.expect("readable");
        positions.extend(records.iter().map(|record| record.position));
    }
    assert_eq!(positions, accepted);

    let mut member = store.group().join().await.expect("a member");
    assert!(matches!(within("it", member.next()).await, Ok(GroupEvent::Assigned { .. })));
    let newest = accepted[accepted.len() - 1];
    member.commit(PARTITION, newest).await.expect("it needs no room");
    crate::embedded::retention::trim(&store.0, newest, Timestamp::from_millis(i64::MAX))
        .await
        .expect("it needs no room");
    assert_eq!(
        append_one(&store, 9999).await.expect("there is room again"),
        newest.next(),
        "refused ones took no position"
    );
    assert!(!fixture.supervisor.token().is_cancelled(), "the process goes on");
}

fn history_row(position: Position) -> HistoryRow {
    let sent = message(&channel("general"), "alice", 1);
    let created_at = Timestamp::from_millis(1);
    HistoryRow { segment: position, message: LoggedMessage { position, partition: PARTITION, created_at, sent } }
}

#[tokio::test]
async fn a_second_process_is_refused_by_name() {
    let fixture = Fixture::new();
    let store = fixture.reopen(&fixture.options()).expect("opens");
    let clock = || Arc::new(SystemClock::new()) as Arc<dyn Clock>;
    let refused = EmbeddedStore::open(&fixture.options(), clock(), &Supervisor::new()).err().expect("in use");
    assert!(refused.to_string().contains(&fixture.path().display().to_string()), "{refused}");
    assert!(matches!(refused, OpenError::Locked { .. }));
    store.close();
    EmbeddedStore::open(&fixture.options(), clock(), &Supervisor::new()).map(drop).expect("free again");
}

#[tokio::test]
async fn a_closed_store_refuses_and_has_written_what_it_accepted() {
    let fixture = Fixture::new();
    let store = fixture.reopen(&fixture.options()).expect("opens");
    let log = open_log(&store);
    let waiting: Vec<_> = (0..100).map(|number| log.append(&channel("general"), number)).collect();
    store.close();
    for durable in waiting {
        within("durability", durable).await.expect("accepted, so written");
    }
    let refused = append_one(&store, 1).await.expect_err("closed");
    assert!(matches!(refused, AppendError::Unavailable { .. }), "{refused}");
    assert!(!fixture.supervisor.token().is_cancelled(), "closing is no crash");
}

#[tokio::test]
async fn a_damaged_database_is_refused_by_name() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path().join("chatify.db"), vec![b'x'; 8192]).expect("a file");
    let refused = fixture.reopen(&fixture.options()).err().expect("no database");
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused:?}");
    assert!(refused.to_string().contains("chatify.db"), "{refused}");
}

#[tokio::test]
async fn damage_that_shows_while_it_runs_ends_the_process() {
    let fixture = Fixture::new();
    let store = fixture.reopen(&fixture.options()).expect("opens");
    append_one(&store, 0).await.expect("healthy");
    // The table that the writer is about to use points into nothing: as a damaged page would have it.
    fixture
        .raw()
        .execute_batch(
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = 99999 WHERE name = 'log_records'; \
             PRAGMA schema_version = 1000; PRAGMA writable_schema = RESET",
        )
        .expect("damaged");
    let outcome = append_one(&store, 1).await;
    // The writer meets the damage with the record in its hands, or before that, when it tidies up behind the first one.
    let refused = matches!(outcome, Err(AppendError::Unknown | AppendError::Unavailable { .. }));
    assert!(refused, "{outcome:?}");
    within("the end", fixture.supervisor.token().cancelled()).await;
    let after = append_one(&store, 2).await;
    assert!(matches!(after, Err(AppendError::Unavailable { .. })), "{after:?}");
}

#[tokio::test]
async fn the_directory_belongs_to_its_owner_alone() {
    let fixture = Fixture::new();
    let directory = fixture.path().join("new").join("deeper");
    fixture.reopen(&Options::new(&directory)).expect("made");
    let mode = std::fs::metadata(&directory).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    for file in std::fs::read_dir(&directory).expect("there") {
        let file = file.expect("there");
        assert_eq!(file.metadata().expect("there").permissions().mode() & 0o077, 0, "{:?}", file.file_name());
    }
    drop(HistoryFixture::open(&fixture).await);
}
