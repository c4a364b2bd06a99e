//! `kill -9` in the middle of a load: what was acknowledged is there, once and in order.

use chatify_application::ports::contract::{channel, correlation, event, within};
use chatify_application::ports::log::{Durable, NewRecord};
use chatify_building_blocks::clock::{Clock, SystemClock};
use chatify_building_blocks::random::{Random, SeededRandom};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{ChatEvent, Partition, Position};
use chatify_infrastructure::embedded::{EmbeddedStore, Options};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

const KILLS: u64 = 20;
/// Set for the process that is killed: the data directory and the number of its first message.
const DIRECTORY: &str = "KILL_TEST_DIRECTORY";
const FIRST: &str = "KILL_TEST_FIRST";
/// Messages that the process has in flight.
const IN_FLIGHT: usize = 64;

/// The test starts itself again as the process to be killed.
#[tokio::test]
async fn acknowledged_messages_survive_kill_9() {
    if let Ok(directory) = std::env::var(DIRECTORY) {
        let first = std::env::var(FIRST).expect("given with the directory").parse().expect("a number");
        return append_for_ever(Path::new(&directory), first).await;
    }
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let random = SeededRandom::new(7);
    let mut acknowledged: BTreeMap<Position, u32> = BTreeMap::new();
    for round in 0..KILLS {
        // Every process numbers its messages from another million on.
        let first = u32::try_from(round * 1_000_000).expect("few rounds");
        let survives = 1 + random.u64() % 400;
        acknowledged.extend(kill_after(directory.path(), first, survives));
        check(directory.path(), &acknowledged).await;
    }
    assert!(acknowledged.len() as u64 >= KILLS, "every process got answers before it was killed");
}

/// Reads `count` answers of a process, kills it, and reads what else it had answered.
fn kill_after(directory: &Path, first: u32, count: u64) -> Vec<(Position, u32)> {
    let mut process = start(directory, first);
    let output = BufReader::new(process.stdout.take().expect("piped"));
    let mut answers = Vec::new();
    for line in output.lines() {
        answers.extend(line.ok().and_then(|line| parse(&line)));
        if answers.len() as u64 == count {
            process.kill().expect("it runs until it is killed");
        }
    }
    let status = process.wait().expect("it was started");
    assert_eq!(status.code(), None, "it was killed by a signal");
    answers
}

fn start(directory: &Path, first: u32) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["acknowledged_messages_survive_kill_9", "--exact", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts")
}

/// `@position number`; the last line may be cut, and the test runner writes lines of its own.
fn parse(line: &str) -> Option<(Position, u32)> {
    let (position, number) = line.strip_prefix('@')?.strip_suffix(';')?.split_once(' ')?;
    Some((Position::from_number(position.parse().ok()?).ok()?, number.parse().ok()?))
}

async fn append_for_ever(directory: &Path, first: u32) {
    let store = open(directory, &Supervisor::new());
    let appender = store.appender();
    let mut in_flight: VecDeque<(u32, Durable)> = VecDeque::new();
    let mut output = std::io::stdout().lock();
    for number in first.. {
        let record = NewRecord { event: event(&channel("general"), "alice", number), correlation: correlation() };
        in_flight.push_back((number, appender.append(record).expect("few are in flight")));
        if in_flight.len() == IN_FLIGHT {
            let (number, durable) = in_flight.pop_front().expect("the queue is full");
            let position = durable.await.expect("a healthy disk").position;
            writeln!(output, "@{position} {number};").and_then(|()| output.flush()).expect("the test listens");
        }
    }
}

fn open(directory: &Path, supervisor: &Supervisor) -> EmbeddedStore {
    let clock = Arc::new(SystemClock::new()) as Arc<dyn Clock>;
    EmbeddedStore::open(&Options::new(directory), clock, supervisor).expect("the kernel let go of the lock")
}

/// The whole log: dense positions, each process's messages in their order, and every acknowledged one at its position.
async fn check(directory: &Path, acknowledged: &BTreeMap<Position, u32>) {
    let supervisor = Supervisor::new();
    let store = open(directory, &supervisor);
    let state = store.tail().partitions().await.expect("readable")[0];
    let mut reader = store.tail().open(&[(Partition(0), state.first)]).await.expect("readable");
    let mut stored: BTreeMap<Position, u32> = BTreeMap::new();
    while stored.last_key_value().is_none_or(|(last, _)| last.next() < state.end) {
        for record in within("records", reader.next()).await.expect("readable") {
            let expected = stored.last_key_value().map_or(state.first, |(last, _)| last.next());
            assert_eq!(record.position, expected, "positions are dense");
            let ChatEvent::MessageSent(sent) = record.content.expect("a whole record");
            let number = u32::try_from(sent.message_id.as_u128() & u128::from(u32::MAX)).expect("32 bits");
            assert_eq!(*sent, *chatify_application::ports::contract::message(&channel("general"), "alice", number));
            stored.insert(record.position, number);
        }
    }
    assert!(stored.values().is_sorted(), "messages are out of order or twice");
    for (position, number) in acknowledged {
        assert_eq!(stored.get(position), Some(number), "an acknowledged message is lost");
    }
    store.close();
}
