//! How long it takes until everything is well again after a pod, the cache or a broker was killed with -9, under a steady load.
//!
//! `cargo run --release --workspace --features chatify-host/kafka-tls,chatify-application/contract-tests --locked --example recovery -- [pods] [caches] [brokers]`
//!
//! The arguments are numbers of kills, 20 of each unless given, which takes about half an hour. The pods run `target/release/chatify` when
//! the program was built with `--release` (build it first with `make build`), or what `CHATIFY_BIN` names. The program starts services of its
//! own on the ports from `CHATIFY_TEST_FAULTS_PORT_BASE` (24000) on: three brokers, one store, one cache.
//!
//! The load: 90 hub clients, each in one of six scopes, come through a load balancer that picks a random pod; 18 others, one a scope
//! and pod, send three messages a second each (54 in all) and repeat what was not accepted, with the same id. A client whose connection
//! breaks tries again at once, then after 100 ms, twice as long each time up to 2 s, up to half of it left out by chance. Brokers, store, cache,
//! pods and people share one machine; nothing here shows what a slow network adds.
//!
//! In the end everything is compared with the log: the program fails when an accepted message is not there once and where its
//! answer said, or when a client was shown something twice, not at all, or in another order. Figures never make it fail.

mod brokers;
mod caches;
mod pods;

use chatify_building_blocks::clock::{Clock, SystemClock};
use chatify_tests::measure::scene::{Cast, Scene};
use chatify_tests::seeds::Seed;
use std::error::Error;
use std::io::Write;
use std::time::Duration;
use tokio::time::sleep;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SCOPES: usize = 6;
const LISTENERS: usize = 90;
const SPEAKERS: usize = 18;
const PACE: Duration = Duration::from_millis(333);
/// How long everything is well before each fault.
const STEADY: Duration = Duration::from_secs(2);
/// Kills of pods of which users do not come back: their leases take most of a minute to end.
const ABANDONED: usize = 5;

/// One line of the table.
struct Line {
    fault: &'static str,
    kills: usize,
    figure: &'static str,
    /// Percentiles, or how many of how many.
    found: String,
    samples: usize,
    wanted: &'static str,
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = || arguments.next().map_or(Ok(20), |text| text.parse::<usize>());
    let (pods, caches, brokers) = (number()?, number()?, number()?);
    let clock = SystemClock::new();
    let seed = Seed::of_this_run();
    let cast = Cast { scopes: SCOPES, listeners: LISTENERS, speakers: SPEAKERS, pace: PACE, seed: seed.number() };
    let mut scene = Scene::open(cast).await;
    let lines = break_things(&mut scene, [pods, caches, brokers]).await;
    if lines.is_ok() {
        scene.settle().await;
    }
    let sent = scene.log.read().shown.len();
    let wrong = scene.close().await;
    let lines = lines?;
    let mut output = std::io::stdout();
    writeln!(output, "\n{LISTENERS} clients, {sent} messages, {:.1} min\n", clock.uptime().as_secs_f64() / 60.0)?;
    writeln!(
        output,
        "| fault | times | what | p50 / p95 / greatest | samples | asked for |\n|---|---|---|---|---|---|"
    )?;
    for Line { fault, kills, figure, found, samples, wanted } in lines.into_iter().filter(|line| line.kills > 0) {
        writeln!(output, "| {fault} | {kills} | {figure} | {found} | {samples} | {wanted} |")?;
    }
    if !wrong.is_empty() {
        let seed = seed.number();
        return Err(format!("{} findings (CHATIFY_SEED={seed}): {}", wrong.len(), wrong.join("\n")).into());
    }
    writeln!(output, "\nnothing was lost, repeated or reordered")?;
    Ok(())
}

async fn break_things(scene: &mut Scene, [pods, caches, brokers]: [usize; 3]) -> Outcome<Vec<Line>> {
    let mut lines = pods::kill(scene, pods, ABANDONED).await?;
    lines.extend(caches::kill(scene, caches).await?);
    lines.extend(brokers::kill(scene, brokers).await?);
    Ok(lines)
}

/// Tells how far the run is; the table comes in the end.
fn tell(what: &str) -> Outcome<()> {
    writeln!(std::io::stdout(), "{what}")?;
    Ok(())
}

/// Lets everything be well for a while, and forgets what was measured so far.
async fn steady(scene: &Scene) {
    sleep(STEADY).await;
    scene.stage.forget();
}
