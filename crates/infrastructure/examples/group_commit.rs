//! How much of the disk's own speed is left: durable appends through the log, next to a bare loop that commits batches of the same sizes to the same tables.
//!
//! `cargo run --release -p chatify-infrastructure --example group_commit -- [directory] [seconds per round]`
//!
//! Rounds of both are interleaved, so that a slow moment of the machine hits both; compare the ratios, not the rates.

use chatify_application::ports::LogAppender;
use chatify_application::ports::log::{Appended, NewRecord};
use chatify_building_blocks::clock::{Clock, SystemClock, Timestamp};
use chatify_building_blocks::correlation::CorrelationId;
use chatify_building_blocks::random::{Random, SystemRandom};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{ChatEvent, MessageId, MessageSent, PodId, Scope, SenderId, Text};
use chatify_infrastructure::embedded::{EmbeddedStore, Options};
use chatify_infrastructure::record;
use rusqlite::{Connection, params};
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 15;
const OUTSTANDING: [usize; 3] = [1, 64, 1024];
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and then says so in a chat.";
/// The bare loop's own; the log's writer copies its write-ahead log back at about the same size.
const CHECKPOINT_PAGES: u32 = 4096;

/// What a round did.
struct Round {
    records: u64,
    seconds: f64,
    /// How many records each commit had, in the order of the commits.
    batches: Vec<u32>,
}

impl Round {
    fn rate(&self) -> f64 {
        self.records as f64 / self.seconds
    }

    fn mean_batch(&self) -> f64 {
        self.records as f64 / self.batches.len().max(1) as f64
    }
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let base = arguments.next().map_or_else(|| PathBuf::from("target/group-commit"), PathBuf::from);
    let seconds = arguments.next().map_or(Ok(2.0), |text| text.parse())?;
    let span = Duration::from_secs_f64(seconds);
    let mut output = std::io::stdout();
    writeln!(output, "medians of {ROUNDS} interleaved rounds of {seconds} s")?;
    writeln!(
        output,
        "{:>11} {:>10} {:>10} {:>6} {:>18}",
        "outstanding", "log/s", "bare/s", "ratio", "records per commit"
    )?;
    for outstanding in OUTSTANDING {
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            let directory = base.join(format!("{outstanding}-{round}"));
            let log = through_the_log(&directory.join("log"), outstanding, span).await?;
            let bare = bare_loop(&directory.join("bare"), &log.batches, span)?;
            rounds.push([log.rate(), bare.rate(), log.rate() / bare.rate(), log.mean_batch()]);
        }
        let [log, bare, ratio, batch] = [0, 1, 2, 3].map(|column| median(rounds.iter().map(|round| round[column])));
        writeln!(output, "{outstanding:>11} {log:>10.0} {bare:>10.0} {ratio:>6.2} {batch:>18.1}")?;
    }
    std::fs::remove_dir_all(&base)?;
    Ok(())
}

/// The writer asks for the time once for each commit, so a clock that moves on whenever it is asked gives every commit a time of its own.
struct CommitCounter(AtomicI64);

impl Clock for CommitCounter {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn uptime(&self) -> Duration {
        Duration::ZERO
    }
}

/// `outstanding` callers, each waiting for one record before it hands over the next.
async fn through_the_log(directory: &Path, outstanding: usize, span: Duration) -> Outcome<Round> {
    let supervisor = Supervisor::new();
    let clock = Arc::new(CommitCounter(AtomicI64::new(1))) as Arc<dyn Clock>;
    let store = EmbeddedStore::open(&Options::new(directory), clock, &supervisor)?;
    let stop = Arc::new(AtomicBool::new(false));
    let answers: Arc<Mutex<Vec<Appended>>> = Arc::default();
    let callers = Supervisor::new();
    let watch = SystemClock::new();
    for caller in 0..outstanding {
        let (appender, stop, answers) = (store.appender(), Arc::clone(&stop), Arc::clone(&answers));
        callers.work("caller", async move {
            let mine = call(&*appender, caller, &stop).await;
            answers.lock().unwrap_or_else(PoisonError::into_inner).extend(mine);
        });
    }
    tokio::time::sleep(span).await;
    stop.store(true, Ordering::Relaxed);
    callers.join().await?;
    let seconds = watch.uptime().as_secs_f64();
    store.close();
    supervisor.cancel();
    supervisor.join().await?;
    let mut answers = std::mem::take(&mut *answers.lock().unwrap_or_else(PoisonError::into_inner));
    answers.sort_by_key(|answer| answer.position);
    let batches = answers.chunk_by(|a, b| a.appended_at == b.appended_at);
    let batches = batches.map(|batch| u32::try_from(batch.len())).collect::<Result<_, _>>()?;
    Ok(Round { records: answers.len() as u64, seconds, batches })
}

async fn call(appender: &dyn LogAppender, caller: usize, stop: &AtomicBool) -> Vec<Appended> {
    let mut answers = Vec::new();
    let correlation = CorrelationId::generate(&SystemRandom);
    let event = event(caller);
    while !stop.load(Ordering::Relaxed) {
        match appender.append(NewRecord { event: event.clone(), correlation }) {
            Ok(durable) => answers.extend(durable.await.ok()),
            Err(_) => break,
        }
    }
    answers
}

fn event(caller: usize) -> ChatEvent {
    ChatEvent::MessageSent(Arc::new(MessageSent {
        message_id: MessageId::from_u128(SystemRandom.u128()),
        scope: Scope::parse(&format!("Channel:{}", caller % 200)).expect("a valid scope"),
        sender_id: SenderId::parse(&format!("user-{caller}")).expect("a valid id"),
        text: Text::parse(TEXT).expect("a short text"),
        origin_pod_id: PodId::parse("pod-1").expect("a valid id"),
    }))
}

/// The least that has to be done: the same rows in the same batches, from one loop that waits for nobody.
fn bare_loop(directory: &Path, batches: &[u32], span: Duration) -> Outcome<Round> {
    std::fs::create_dir_all(directory)?;
    let connection = Connection::open(directory.join("bare.db"))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.execute_batch(
        "CREATE TABLE log_records (position INTEGER PRIMARY KEY, appended_at INTEGER NOT NULL, scope TEXT NOT NULL, \
         correlation_id TEXT NOT NULL, value BLOB NOT NULL) STRICT",
    )?;
    reserve(&directory.join("bare.db-wal"))?;
    let correlation = CorrelationId::generate(&SystemRandom).to_string();
    let (event, clock) = (event(0), SystemClock::new());
    let (scope, value) = (event.scope().to_string(), record::encode(&event)?);
    let mut insert = connection.prepare("INSERT INTO log_records VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut position = 0i64;
    let mut done = Vec::new();
    for size in batches.iter().cycle() {
        if clock.uptime() >= span {
            break;
        }
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for _ in 0..*size {
            insert.execute(params![position, position, scope, correlation, value])?;
            position += 1;
        }
        connection.execute_batch("COMMIT")?;
        done.push(*size);
    }
    Ok(Round { records: position.unsigned_abs(), seconds: clock.uptime().as_secs_f64(), batches: done })
}

/// The log makes its write-ahead log as long as it will be, so that commits need not; the bare loop gets the same help. Without it, it is half as fast.
fn reserve(write_ahead_log: &Path) -> Outcome<()> {
    let mut file = std::fs::OpenOptions::new().append(true).open(write_ahead_log)?;
    file.write_all(&vec![0; usize::try_from(Options::new("").reserved_bytes)?])?;
    Ok(file.sync_all()?)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
