//! A disk that returns other bytes than it was given.

use super::fixture::{Fixture, open_log};
use crate::embedded::EmbeddedStore;
use chatify_application::ports::contract::{channel, event, within};
use chatify_application::ports::history::{HistoryError, HistoryRow, Order, PositionRange, Segment};
use chatify_application::ports::log::{LogError, Undecodable};
use chatify_building_blocks::random::{Random, SeededRandom};
use chatify_domain::{ChatEvent, LoggedMessage, MessageSent, Partition, Position, Scope};
use std::collections::BTreeMap;
use std::sync::Arc;

const PARTITION: Partition = Partition(0);
const SCOPES: [&str; 3] = ["general", "random", "support"];
const MESSAGES: u32 = 120;
const FLIPS: u64 = 1000;
const THREADS: usize = 8;

/// What the log and the history are to show, by position.
type Written = BTreeMap<Position, Arc<MessageSent>>;

fn scope_of(number: u32) -> Scope {
    channel(SCOPES[number as usize % SCOPES.len()])
}

/// Fills log and history alike, each scope in one segment.
async fn fill(store: &EmbeddedStore) -> Written {
    let log = open_log(store);
    let mut written = Written::new();
    for number in 0..MESSAGES {
        let appended = within("durability", log.append(&scope_of(number), number)).await.expect("accepted");
        let ChatEvent::MessageSent(sent) = event(&scope_of(number), "alice", number);
        written.insert(appended.position, Arc::clone(&sent));
    }
    let start = *written.keys().next().expect("not empty");
    let created_at = super::fixture::START;
    for scope in SCOPES {
        let segment = Segment { start, first_created_at: created_at };
        store.history().open_segment(&channel(scope), segment).await.expect("healthy");
    }
    let rows = written.iter().map(|(position, sent)| HistoryRow {
        segment: start,
        message: LoggedMessage { position: *position, partition: PARTITION, created_at, sent: Arc::clone(sent) },
    });
    store.history().append(&rows.collect::<Vec<_>>()).await.expect("healthy");
    written
}

/// The file as it is after a clean end, and what it holds.
async fn filled() -> (Vec<u8>, Written) {
    let fixture = Fixture::new();
    let written = fill(&fixture.reopen(&fixture.options()).expect("opens")).await;
    fixture.close();
    fixture.raw().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("nobody else is there");
    (std::fs::read(fixture.path().join("chatify.db")).expect("the database"), written)
}

/// What one look at a damaged store gave.
#[derive(Debug, Default)]
struct Seen {
    /// Something said that it was damaged.
    detected: bool,
    log: Vec<(Position, Arc<MessageSent>)>,
    history: Vec<(Position, Arc<MessageSent>)>,
}

async fn look(file: &[u8]) -> Seen {
    let fixture = Fixture::new();
    std::fs::write(fixture.path().join("chatify.db"), file).expect("a file");
    let mut seen = Seen::default();
    let Ok(store) = fixture.reopen(&fixture.options()) else { return Seen { detected: true, ..seen } };
    seen.detected |= look_at_log(&store, &mut seen.log).await.is_err();
    for scope in SCOPES {
        seen.detected |= look_at_history(&store, &channel(scope), &mut seen.history).await.is_err();
    }
    seen.detected |= fixture.supervisor.token().is_cancelled();
    seen
}

#[derive(Debug)]
struct Damage;

async fn look_at_log(store: &EmbeddedStore, seen: &mut Vec<(Position, Arc<MessageSent>)>) -> Result<(), Damage> {
    let state = store.tail().partitions().await.map_err(|_| Damage)?[0];
    let mut damaged = false;
    let mut reader = store.tail().open(&[(PARTITION, Position::ZERO)]).await.map_err(|_| Damage)?;
    let mut next = state.first;
    while next < state.end {
        for record in within("records or an error", reader.next()).await.map_err(|_: LogError| Damage)? {
            next = record.position.next();
            match record.content {
                Ok(ChatEvent::MessageSent(sent)) => seen.push((record.position, sent)),
                Err(_) => damaged = true,
            }
        }
    }
    if damaged { Err(Damage) } else { Ok(()) }
}

async fn look_at_history(
    store: &EmbeddedStore,
    scope: &Scope,
    seen: &mut Vec<(Position, Arc<MessageSent>)>,
) -> Result<(), Damage> {
    let history = store.history();
    let damage = |_: HistoryError| Damage;
    for segment in history.segments(scope).await.map_err(damage)? {
        let range = PositionRange { from: Position::ZERO, to: Position::MAX, order: Order::Ascending };
        let messages = history.slice(scope, segment.start, range, 10_000).await.map_err(damage)?;
        for message in &messages {
            let found = history.find(scope, message.sent.message_id).await.map_err(damage)?;
            seen.extend(found.into_iter().map(|message| (message.position, message.sent)));
        }
        seen.extend(messages.into_iter().map(|message| (message.position, message.sent)));
    }
    Ok(())
}

/// What a flipped bit did.
#[derive(Debug, Default)]
struct Tally {
    /// Something said so.
    detected: usize,
    /// Nothing that anybody is shown.
    harmless: usize,
    /// A row of the history is not found any more; the log still has the message.
    hidden: usize,
}

fn flip_bits(file: &[u8], written: &Written, seeds: impl Iterator<Item = u64>) -> Tally {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut tally = Tally::default();
    for seed in seeds {
        let bit = usize::try_from(SeededRandom::new(seed).u64() % (file.len() as u64 * 8)).expect("within the file");
        let mut flipped = file.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let seen = runtime.block_on(look(&flipped));
        for (position, sent) in seen.log.iter().chain(&seen.history) {
            assert_eq!(written.get(position), Some(sent), "seed {seed}: another message is shown");
        }
        assert!(seen.detected || seen.log.len() == written.len(), "seed {seed}: the log misses something");
        match (seen.detected, seen.history.len() == 2 * written.len()) {
            (true, _) => tally.detected += 1,
            (false, true) => tally.harmless += 1,
            (false, false) => tally.hidden += 1,
        }
    }
    tally
}

#[tokio::test]
async fn of_a_thousand_flipped_bits_none_changes_what_is_shown() {
    let (file, written) = filled().await;
    let tallies = std::thread::scope(|scope| {
        let (file, written) = (&file, &written);
        let flip = |first| scope.spawn(move || flip_bits(file, written, (first..FLIPS).step_by(THREADS)));
        let threads: Vec<_> = (0..THREADS as u64).map(flip).collect();
        threads.into_iter().map(|thread| thread.join().expect("no assertion failed")).collect::<Vec<_>>()
    });
    let sum = |part: fn(&Tally) -> usize| tallies.iter().map(part).sum::<usize>();
    let (detected, harmless, hidden) = (sum(|t| t.detected), sum(|t| t.harmless), sum(|t| t.hidden));
    assert_eq!((detected + harmless + hidden) as u64, FLIPS);
    // The rest of the file is room that no row uses, indexes by id, and keys that nobody asks for any more.
    assert!(detected > 400 && hidden < 100, "{detected} detected, {harmless} harmless, {hidden} hidden");
}

#[tokio::test]
async fn a_changed_text_is_reported_by_log_and_history() {
    let fixture = Fixture::new();
    let written = fill(&fixture.reopen(&fixture.options()).expect("opens")).await;
    fixture.close();
    let (position, sent) = written.iter().nth(5).expect("there are more");
    let raw = fixture.raw();
    // The same length, valid JSON, a valid text: only the checksum can tell.
    let changed = raw.execute(
        "UPDATE log_records SET value = CAST(replace(CAST(value AS TEXT), 'alice', 'mabel') AS BLOB) WHERE position = ?1",
        [position.number()],
    );
    assert_eq!(changed.expect("a row"), 1);
    let changed = raw.execute("UPDATE chat_messages SET sender_id = 'mabel' WHERE position = ?1", [position.number()]);
    assert_eq!(changed.expect("a row"), 1);
    let store = fixture.reopen(&fixture.options()).expect("opens");
    let mut reader = store.tail().open(&[(PARTITION, *position)]).await.expect("there");
    let records = within("records", reader.next()).await.expect("readable");
    assert_eq!((records[0].position, &records[0].content), (*position, &Err(Undecodable::Malformed)));
    assert!(records[1].content.is_ok(), "the others are as they were");
    let history = store.history();
    let found = history.find(&sent.scope, sent.message_id).await;
    assert!(matches!(found, Err(HistoryError::Corrupt(_))), "{found:?}");
    let start = *written.keys().next().expect("not empty");
    let range = PositionRange { from: *position, to: position.next(), order: Order::Ascending };
    let page = history.slice(&sent.scope, start, range, 10).await;
    assert!(matches!(page, Err(HistoryError::Corrupt(_))), "{page:?}");
}

#[tokio::test]
async fn a_hole_in_the_log_is_no_end_of_it() {
    for hole in
        ["position = (SELECT min(position) + 7 FROM log_records)", "position < (SELECT max(position) FROM log_records)"]
    {
        let fixture = Fixture::new();
        let written = fill(&fixture.reopen(&fixture.options()).expect("opens")).await;
        fixture.close();
        fixture.raw().execute(&format!("DELETE FROM log_records WHERE {hole}"), []).expect("rows");
        let store = fixture.reopen(&fixture.options()).expect("opens");
        let first = *written.keys().next().expect("not empty");
        let mut reader = store.tail().open(&[(PARTITION, first)]).await.expect("nothing was trimmed");
        let outcome = within("an error", reader.next()).await;
        assert!(matches!(outcome, Err(LogError::Unavailable(_))), "{hole}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_database_from_before_checksums_gets_them() {
    let fixture = Fixture::new();
    let written = fill(&fixture.reopen(&fixture.options()).expect("opens")).await;
    fixture.close();
    let back = "DELETE FROM schema_migrations WHERE version = 2; ALTER TABLE log_records DROP COLUMN checksum; \
                ALTER TABLE chat_messages DROP COLUMN checksum; ALTER TABLE scope_segments DROP COLUMN checksum";
    fixture.raw().execute_batch(back).expect("the schema of version 1");
    let store = fixture.reopen(&fixture.options()).expect("migrates");
    let mut seen = Seen::default();
    look_at_log(&store, &mut seen.log).await.expect("intact");
    for scope in SCOPES {
        look_at_history(&store, &channel(scope), &mut seen.history).await.expect("intact");
    }
    assert_eq!((seen.log.len(), seen.history.len()), (written.len(), 2 * written.len()));
}
