//! The cache is killed and comes back: how soon does every pod know again who is online?

use super::{Line, Outcome, steady, tell};
use chatify_tests::faults::clients::ANSWER;
use chatify_tests::http::Http;
use chatify_tests::measure::listeners::Listener;
use chatify_tests::measure::scene::Scene;
use chatify_tests::measure::spread::Spread;
use chatify_tests::profile::PODS;
use chatify_tests::waiting::{LONG, SOON, eventually};
use futures_util::future::join_all;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// How long the cache is away.
const AWAY: Duration = Duration::from_secs(3);
/// How often presence is asked for.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How long one ping may take.
const PONG_WITHIN: Duration = Duration::from_millis(200);

/// What one pod said, and when, after the cache answered again.
struct Recovered {
    /// Anything but `unknown`.
    knows: Duration,
    /// What is true: a user who has been connected all the time is online.
    knows_right: Duration,
}

/// Kills the cache again and again.
pub(super) async fn kill(scene: &Scene, kills: usize) -> Outcome<Vec<Line>> {
    let (mut knows, mut right, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    drop(scene.stage.take_failures());
    for number in 0..kills {
        let pods = kill_one(scene).await?;
        let slowest = |figure: fn(&Recovered) -> Duration| pods.iter().map(figure).max().unwrap_or_default();
        let (one, other) = (slowest(|pod| pod.knows), slowest(|pod| pod.knows_right));
        // A send that the cache held up fails later.
        steady(scene).await;
        let failed = scene.stage.take_failures();
        tell(&format!(
            "cache {}: known after {:.2} s, right after {:.2} s, {} sends failed",
            number + 1,
            one.as_secs_f64(),
            other.as_secs_f64(),
            failed.len()
        ))?;
        knows.push(one);
        right.push(other);
        failures.extend(failed);
    }
    if kills > 0 {
        sleep(ANSWER).await;
        failures.extend(scene.stage.take_failures());
    }
    let line = |figure, found, samples, wanted| Line {
        fault: "Redis killed, 3 s away",
        kills,
        figure,
        found,
        samples,
        wanted,
    };
    let (knows, right) = (Spread::of(knows), Spread::of(right));
    let sends =
        failures.first().map_or_else(|| "0".to_owned(), |first| format!("{}, such as: {first}", failures.len()));
    Ok(vec![
        line("every pod answers presence with another status than `unknown`", knows.seconds(), knows.count(), "2 s"),
        line("every pod says that a connected user is online", right.seconds(), right.count(), ""),
        line("sends that were not accepted at once", sends, kills, "0"),
    ])
}

async fn kill_one(scene: &Scene) -> Outcome<Vec<Recovered>> {
    let pods: Vec<Http> = (0..PODS).map(|pod| scene.http(pod, "watcher")).collect();
    scene.machines.script("kill", "redis").await;
    let killed = Instant::now();
    for pod in &pods {
        let unknown = async || (status(pod).await == "unknown").then_some(());
        eventually(SOON, "a pod notices that the cache is gone", unknown).await;
    }
    sleep(AWAY.saturating_sub(killed.elapsed())).await;
    let address = scene.machines.cache_direct();
    let measured = async {
        let answers = eventually(LONG, "the cache answers", async || pong(address).await.then(Instant::now)).await;
        join_all(pods.iter().map(|pod| recovers(pod, answers))).await
    };
    let ((), recovered) = tokio::join!(scene.machines.script("start", "redis"), measured);
    Ok(recovered)
}

async fn recovers(pod: &Http, answers: Instant) -> Recovered {
    let mut knows = None;
    loop {
        let status = status(pod).await;
        let now = answers.elapsed();
        if status != "unknown" {
            let knows = *knows.get_or_insert(now);
            if status == "online" {
                return Recovered { knows, knows_right: now };
            }
        }
        assert!(now < LONG, "a pod says `{status}` of a connected user, {now:?} after the cache was back");
        sleep(ASK_EVERY).await;
    }
}

/// What a pod says of a user who is connected all the time.
async fn status(pod: &Http) -> String {
    let answer = pod.get(&format!("/api/users/{}/presence", Listener::name_of(0))).await;
    answer.json()["status"].as_str().unwrap_or_default().to_owned()
}

/// Whether the cache answers a ping.
async fn pong(address: SocketAddr) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"PING\r\n").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(&answer == b"+PONG")
    };
    matches!(timeout(PONG_WITHIN, exchange).await, Ok(Ok(true)))
}
