//! What a pod pays for a record that nobody on it wants: CPU time of a pod without connections while others are written to, beside its CPU time when
//! nothing happens.
//!
//! `CHATIFY_TEST_PROFILE=cluster CHATIFY_BIN=target/release/chatify cargo run --release -p chatify-tests --example discarded_records -- [seconds]`
//!
//! The services must run (`scripts/services.sh start kafka cassandra redis`). The topic has one partition, so one of the three pods writes the history;
//! clients send through the first. The pod that needed least CPU is one that does neither. Fetching, decoding, deduplicating and remembering are in the
//! figure, as is what the kernel does for the pod.

use chatify_building_blocks::clock::{Clock, SystemClock};
use chatify_tests::hub::{Hub, HubError, HubOptions};
use chatify_tests::process::cpu_time;
use chatify_tests::profile::Profile;
use chatify_tests::seeds::message_id;
use chatify_tests::server::{Options, Server};
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SENDERS: usize = 50;
const SCOPES: usize = 50;
/// Records a second, round by round.
const RATES: [usize; 4] = [100, 500, 1_000, 2_000];
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and then says so in a chat.";

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Outcome<()> {
    if Profile::of_this_run() != Profile::Cluster {
        return Err("set CHATIFY_TEST_PROFILE=cluster: with one process there is no other pod".into());
    }
    let seconds: usize = std::env::args().nth(1).map_or(Ok(15), |text| text.parse())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let server = Server::start(Options::new().with("MESSAGE_BROKER__PARTITIONS", "1")).await;
    server.ready().await;
    let mut output = std::io::stdout();
    // Connections, leaders, the brokers' compiler.
    load(&server, &clock, 500, seconds).await?;
    let idle = least_cpu(&server, async {
        tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
        Ok(())
    });
    let idle = idle.await?.as_secs_f64() / seconds as f64;
    writeln!(output, "a pod that does nothing: {:.2} % of a core", idle * 100.0)?;
    writeln!(output, "{:>10} {:>16} {:>14}", "records/s", "% of a core", "us a record")?;
    for rate in RATES {
        let before = clock.uptime();
        let busy = least_cpu(&server, load(&server, &clock, rate, seconds)).await?.as_secs_f64();
        let took = clock.uptime().saturating_sub(before).as_secs_f64();
        let each = (busy - idle * took) / (rate * seconds) as f64;
        writeln!(
            output,
            "{:>10.0} {:>16.2} {:>14.1}",
            (rate * seconds) as f64 / took,
            busy / took * 100.0,
            each * 1e6
        )?;
    }
    server.stop().await;
    Ok(())
}

/// The CPU time that the pod which had least to do needed for `work`.
async fn least_cpu(server: &Server, work: impl Future<Output = Outcome<()>>) -> Outcome<Duration> {
    let used = || server.pods().iter().map(|pod| cpu_time(pod.pid())).collect::<Vec<_>>();
    let before = used();
    work.await?;
    let least = used().into_iter().zip(before).map(|(after, before)| after.saturating_sub(before)).min();
    Ok(least.expect("a server has pods"))
}

/// Sends `rate` messages a second through the first pod to scopes that nobody has joined.
async fn load(server: &Server, clock: &Arc<dyn Clock>, rate: usize, seconds: usize) -> Outcome<()> {
    let token = server.token("writer").await;
    let address = server.pods()[0].address();
    let mut senders = JoinSet::new();
    let start = clock.uptime() + Duration::from_millis(200);
    for sender in 0..SENDERS {
        let mut hub = Hub::connect(address, &token, HubOptions::default()).await?;
        let clock = Arc::clone(clock);
        senders.spawn(async move {
            for number in (sender..rate * seconds).step_by(SENDERS) {
                let due = start + Duration::from_secs_f64(number as f64 / rate as f64);
                tokio::time::sleep(due.saturating_sub(clock.uptime())).await;
                hub.send(&format!("Channel:nobody-{}", number % SCOPES), TEXT, &message_id()).await?;
            }
            hub.close().await;
            Ok::<_, HubError>(())
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    Ok(())
}
