//! What the live path notices while the history store is frozen, and how fast the history catches up afterwards.
//!
//! `cargo run --release --workspace --features chatify-host/kafka-tls,chatify-application/contract-tests --locked --example store_away -- [seconds away] [messages a second]`
//!
//! 300 seconds and 300 messages a second unless given. The pods run `target/release/chatify` when the program was built with `--release` (build it
//! first with `make build`), or what `CHATIFY_BIN` names. The program starts services of its own on the ports from
//! `CHATIFY_TEST_FAULTS_PORT_BASE` (24000) on: three brokers, one store, one cache.
//!
//! 30 hub clients send to ten scopes through three pods, 100 others listen, ten in each scope. The store is frozen with SIGSTOP, which is
//! worse than an end: its kernel goes on accepting connections and requests that nobody answers.
//!
//! What the figures can say: whether sends fail, and whether deliveries wait for the store; latency is measured from the moment when a message
//! was due, so that a sender that is held up counts. What they cannot: how fast a real store drains. Here store, three brokers, three pods and
//! 130 clients share the cores of one machine, the live load goes on all the time, and a store that had been frozen has first to
//! work off what its kernel kept for it. The ratio is therefore a lower bound; and while the store is frozen its share of the machine
//! is free, so the latencies of that time compare kindly with those before.
//!
//! In the end the log, what listeners were shown, the rows of the store, and one scope's history through a pod are compared; the program fails
//! when they differ. Figures never make it fail.

use chatify_tests::faults::store;
use chatify_tests::faults::verdict::{Finding, judge_history};
use chatify_tests::faults::watch::{CommitWatcher, Watched};
use chatify_tests::measure::scene::{Cast, Scene};
use chatify_tests::measure::spread::Spread;
use chatify_tests::seeds::Seed;
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SCOPES: usize = 10;
const RECIPIENTS: usize = 10;
const SPEAKERS: usize = 30;
/// What is measured before and after.
const WINDOW: Duration = Duration::from_secs(30);
/// What is not measured: parts of this length until one has nearly the load that is asked for, because services that have just started are slow.
const WARM_UP: Duration = Duration::from_secs(5);
/// How many of them at most.
const WARM_UPS: usize = 18;
/// How often the writer's progress is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How much longer than the store was away the history may take, before it counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(300);
/// The scope whose history is read through a pod.
const READ_BACK: &str = "Channel:measured-0";

/// What people noticed in one part of the run.
struct Window {
    name: &'static str,
    took: Duration,
    accepted: usize,
    failures: Vec<String>,
    latencies: Spread,
}

/// What the writer did after the store was back.
struct Drain {
    backlog: i64,
    /// Until something was written again.
    first: Duration,
    /// Until the writer was less than a second behind.
    took: Duration,
    /// Records that were written meanwhile, those that came meanwhile included.
    written: i64,
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let away = Duration::from_secs(arguments.next().map_or(Ok(300), |text| text.parse())?);
    let rate: u32 = arguments.next().map_or(Ok(300), |text| text.parse())?;
    let seed = Seed::of_this_run();
    let pace = Duration::from_secs(1) * u32::try_from(SPEAKERS)? / rate;
    let listeners = SCOPES * RECIPIENTS;
    let cast = Cast { scopes: SCOPES, listeners, speakers: SPEAKERS, pace, seed: seed.number() };
    let mut scene = Scene::open(cast).await;
    let watcher = CommitWatcher::start(Watched::of(&scene.machines, &scene.fleet), Arc::clone(&scene.stage.world));
    warm_up(&scene, rate).await;
    let mut windows = vec![window(&scene, "before", sleep(WINDOW)).await?];
    let usual = lag(&scene, &watcher);
    let frozen = async {
        scene.machines.script("pause", "cassandra").await;
        sleep(away).await;
    };
    windows.push(window(&scene, "store frozen", frozen).await?);
    let mut drain = None;
    let draining = async { drain = catch_up(&scene, &watcher, i64::from(rate), away).await };
    windows.push(window(&scene, "history catches up", draining).await?);
    windows.push(window(&scene, "after", sleep(WINDOW)).await?);
    scene.settle().await;
    let late = scene.stage.take_failures();
    if let Some(last) = windows.last_mut() {
        // A send that was held up may fail later.
        last.failures.extend(late);
    }
    judge(&scene, &watcher).await;
    drop(watcher);
    let wrong = scene.close().await;
    report(&windows, drain.as_ref(), usual, f64::from(rate))?;
    if !wrong.is_empty() {
        let seed = seed.number();
        return Err(format!("{} findings (CHATIFY_SEED={seed}): {}", wrong.len(), wrong.join("\n")).into());
    }
    writeln!(std::io::stdout(), "\nnothing was lost, repeated or reordered; the history is the log, row by row")?;
    Ok(())
}

/// Waits until the load is what it is to be, or does not get there.
async fn warm_up(scene: &Scene, rate: u32) {
    let enough = WARM_UP.as_secs() * u64::from(rate) * 95 / 100;
    for _ in 0..WARM_UPS {
        scene.stage.forget();
        sleep(WARM_UP).await;
        if u64::try_from(scene.stage.accepted().len()).is_ok_and(|accepted| accepted >= enough) {
            break;
        }
    }
    drop(scene.stage.take_failures());
}

/// Lets `part` happen, and says what people noticed meanwhile.
async fn window(scene: &Scene, name: &'static str, part: impl Future<Output = ()>) -> Outcome<Window> {
    scene.stage.forget();
    let began = Instant::now();
    part.await;
    let stage = &scene.stage;
    let (accepted, failures) = (stage.accepted().len(), stage.take_failures());
    let latencies = Spread::of(stage.take_latencies());
    writeln!(std::io::stdout(), "{name}: {accepted} accepted, {} tries failed", failures.len())?;
    Ok(Window { name, took: began.elapsed(), accepted, failures, latencies })
}

/// How many records of the log the writer has not committed. The log is read all the time, and its offsets begin at zero.
fn lag(scene: &Scene, watcher: &CommitWatcher) -> i64 {
    let committed: i64 = watcher.committed().values().sum();
    let records = scene.log.read().records.len();
    i64::try_from(records).expect("a run is short") - committed
}

/// Wakes the store and waits until the writer is less than a second of the live load behind. None when it is stuck.
async fn catch_up(scene: &Scene, watcher: &CommitWatcher, rate: i64, away: Duration) -> Option<Drain> {
    let (backlog, before) = (lag(scene, watcher), watcher.committed().values().sum::<i64>());
    let began = Instant::now();
    scene.machines.script("resume", "cassandra").await;
    let mut first = None;
    while began.elapsed() < away + STUCK_AFTER {
        let written = watcher.committed().values().sum::<i64>() - before;
        if written > 0 {
            first.get_or_insert(began.elapsed());
        }
        if let (Some(first), true) = (first, lag(scene, watcher) <= rate) {
            return Some(Drain { backlog, first, took: began.elapsed(), written });
        }
        sleep(LOOK).await;
    }
    let what =
        format!("the history is {} records behind {:?} after the store was back", lag(scene, watcher), began.elapsed());
    scene.stage.world.found(Finding::NotRecovered { what });
    None
}

/// Compares the history with the log: the rows of the store, and one scope through a pod.
async fn judge(scene: &Scene, watcher: &CommitWatcher) {
    let world = &scene.stage.world;
    let end = Instant::now() + STUCK_AFTER;
    while lag(scene, watcher) > 0 && Instant::now() < end {
        sleep(LOOK).await;
    }
    let shown = scene.log.read().shown.clone();
    match store::messages(&scene.machines.store_direct(), &scene.fleet.names().keyspace()) {
        Ok(rows) => judge_history(&shown, &rows).into_iter().for_each(|finding| world.found(finding)),
        Err(error) => world.found(Finding::NotRecovered { what: format!("the store: {error}") }),
    }
    let history = scene.http(0, "auditor").history_forward(&READ_BACK.replacen(':', "/", 1), 500).await;
    let expected: Vec<_> = shown.iter().filter(|record| record.scope == READ_BACK).collect();
    let same = history.len() == expected.len()
        && history.iter().zip(&expected).all(|(item, record)| {
            (item.position, &item.message_id, &item.sender_id, &item.text)
                == (record.position, &record.message_id, &record.sender_id, &record.text)
        });
    if !same {
        let answer = format!("{} messages that are not the {} of the log", history.len(), expected.len());
        world.found(Finding::WrongAnswer { observer: format!("the history of {READ_BACK} through a pod"), answer });
    }
}

fn report(windows: &[Window], drain: Option<&Drain>, usual: i64, rate: f64) -> Outcome<()> {
    let mut output = std::io::stdout();
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    writeln!(output, "\n{rate} messages/s to {RECIPIENTS} recipients each\n")?;
    writeln!(
        output,
        "| | seconds | accepted, messages/s | sends that failed | delivered, p50 / p99 / greatest | deliveries |"
    )?;
    writeln!(output, "|---|---|---|---|---|---|")?;
    for Window { name, took, accepted, failures, latencies } in windows {
        let [p50, p99, most] = [latencies.at(50), latencies.at(99), latencies.greatest()].map(milliseconds);
        let (seconds, failed, count) = (took.as_secs_f64(), failures.len(), latencies.count());
        let per_second = f64::from(u32::try_from(*accepted)?) / seconds;
        writeln!(
            output,
            "| {name} | {seconds:.1} | {per_second:.0} | {failed} | {p50:.1} / {p99:.1} / {most:.1} ms | {count} |"
        )?;
    }
    for failure in windows.iter().filter_map(|window| window.failures.first()) {
        writeln!(output, "\nfailed, for example: {failure}")?;
    }
    let Some(Drain { backlog, first, took, written }) = drain else { return Ok(()) };
    let per_second =
        |records: i64, time: Duration| f64::from(i32::try_from(records).unwrap_or(i32::MAX)) / time.as_secs_f64();
    let (whole, working) = (per_second(*written, *took), per_second(*written, took.saturating_sub(*first)));
    writeln!(output, "\n| history | |\n|---|---|")?;
    writeln!(output, "| records behind before | {usual} |")?;
    writeln!(output, "| records behind when the store was back | {backlog} |")?;
    writeln!(output, "| seconds until something was written again | {:.1} |", first.as_secs_f64())?;
    writeln!(output, "| seconds until less than a second behind | {:.1} |", took.as_secs_f64())?;
    writeln!(output, "| records written meanwhile | {written} |")?;
    writeln!(output, "| records/s, from the store's return on | {whole:.0} |")?;
    writeln!(output, "| records/s, from the first write on | {working:.0} |")?;
    writeln!(output, "| the former as a multiple of the live rate (asked for: 5) | {:.1} |", whole / rate)?;
    Ok(())
}
