//! Watches what the history writer commits: never back, and never past what the store has.

use super::clients::World;
use super::log::consumer;
use super::machines::{Fleet, Machines, PARTITIONS};
use super::store;
use super::verdict::{Commits, Finding, LogRecord};
use rdkafka::consumer::Consumer;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often it looks.
const EVERY: Duration = Duration::from_millis(500);
/// How long the brokers may take to say what is committed.
const ASK: Duration = Duration::from_secs(5);
/// A position is the epoch above this many bits of offset.
const FIRST_EPOCH: i64 = 1 << 40;

/// What is watched.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The brokers, past every link.
    pub bootstrap: String,
    /// The log.
    pub topic: String,
    /// Its partitions.
    pub partitions: i32,
    /// The group that writes the history.
    pub group: String,
    /// The store, past every link.
    pub store: String,
    /// The history.
    pub keyspace: String,
}

impl Watched {
    /// What the pods of `fleet` write.
    #[must_use]
    pub fn of(machines: &Machines, fleet: &Fleet) -> Self {
        Self {
            bootstrap: machines.brokers_direct(),
            topic: fleet.names().topic("1"),
            partitions: PARTITIONS,
            group: fleet.names().group(),
            store: machines.store_direct(),
            keyspace: fleet.names().keyspace(),
        }
    }
}

/// Watches for as long as it lives.
#[derive(Debug)]
pub struct CommitWatcher {
    committed: Arc<Mutex<BTreeMap<i32, i64>>>,
    ended: Arc<(Mutex<bool>, Condvar)>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl CommitWatcher {
    /// Starts to watch; what is wrong is told to `world`.
    ///
    /// # Panics
    /// When the client library refuses.
    #[must_use]
    pub fn start(watched: Watched, world: Arc<World>) -> Self {
        let committed = Arc::new(Mutex::new(BTreeMap::new()));
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, end, stopped) = (Arc::clone(&committed), Arc::clone(&ended), Arc::clone(&stop));
        let body = move || watch(&watched, &world, &kept, &end, &stopped);
        let thread = std::thread::Builder::new().name("commit-watcher".into()).spawn(body).expect("a thread");
        Self { committed, ended, stop, thread: Some(thread) }
    }

    /// Whether everything before these offsets is committed.
    #[must_use]
    pub fn has_committed(&self, ends: &BTreeMap<i32, i64>) -> bool {
        let committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        ends.iter().all(|(partition, end)| *end == 0 || committed.get(partition).is_some_and(|offset| offset >= end))
    }

    /// What was committed when it was last looked at.
    #[must_use]
    pub fn committed(&self) -> BTreeMap<i32, i64> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for CommitWatcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        *self.ended.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ended.1.notify_all();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn watch(
    watched: &Watched,
    world: &World,
    kept: &Mutex<BTreeMap<i32, i64>>,
    ended: &(Mutex<bool>, Condvar),
    stop: &AtomicBool,
) {
    let consumer = consumer(&watched.bootstrap, &watched.group);
    let mut list = TopicPartitionList::new();
    for partition in 0..watched.partitions {
        list.add_partition(&watched.topic, partition);
    }
    let (mut commits, mut checked) = (Commits::default(), BTreeMap::new());
    while !stop.load(Ordering::SeqCst) {
        // While brokers come and go there is no answer; the next look has one.
        if let Ok(answer) = consumer.committed_offsets(list.clone(), ASK) {
            for element in answer.elements() {
                let Offset::Offset(offset) = element.offset() else { continue };
                if let Some(finding) = commits.take(element.partition(), offset) {
                    world.found(finding);
                }
                kept.lock().unwrap_or_else(PoisonError::into_inner).insert(element.partition(), offset);
                look_up(watched, world, element.partition(), offset, &mut checked);
            }
        }
        let guard = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(ended.1.wait_timeout_while(guard, EVERY, |ended| !*ended));
    }
}

/// Everything before a committed offset must be in the store; the newest message before it is looked up.
fn look_up(watched: &Watched, world: &World, partition: i32, offset: i64, checked: &mut BTreeMap<i32, i64>) {
    let newest: Option<LogRecord> = {
        let reference = world.reference.read();
        let before = |record: &&LogRecord| record.partition == partition && record.position < FIRST_EPOCH + offset;
        reference.shown.iter().rev().find(before).cloned()
    };
    let Some(newest) = newest.filter(|record| checked.get(&partition) != Some(&record.position)) else { return };
    match store::has(&watched.store, &watched.keyspace, &newest) {
        Ok(true) => drop(checked.insert(partition, newest.position)),
        Ok(false) => world.found(Finding::CommittedTooEarly { message_id: newest.message_id }),
        // A store that is frozen cannot be asked.
        Err(_) => {}
    }
}
