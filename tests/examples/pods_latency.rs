//! How long a message takes from a client of one pod to clients of another, next to the brokers alone: produce to consume with one bare client each.
//!
//! `CHATIFY_TEST_PROFILE=cluster CHATIFY_BIN=target/release/chatify cargo run --release -p chatify-tests --example pods_latency -- [rounds] [seconds]
//! [messages a second] [pods]`, 5, 10, 1,000 and 3 unless given.
//!
//! The services must run (`scripts/services.sh start kafka cassandra redis`). Rounds are interleaved, so that a slow moment of the machine hits all;
//! compare the differences within one run. On a machine with few cores the pods' rounds also share them with the store, three pods and a hundred and
//! fifty clients, which the brokers alone do not. So a bare probe of little load runs beside the pods and is told apart; and each round is done once
//! more with the store frozen, which leaves the live path its share of the cores, as a store with a machine of its own does. The history then catches
//! up before the brokers' turn.

use chatify_building_blocks::clock::{Clock, SystemClock};
use chatify_tests::cluster::Services;
use chatify_tests::hub::{Hub, HubOptions};
use chatify_tests::measure::spread::Spread;
use chatify_tests::profile::Profile;
use chatify_tests::seeds::message_id;
use chatify_tests::server::{Options, Server};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};
use std::error::Error;
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SCOPES: usize = 10;
const RECIPIENTS: usize = 10;
const SENDERS: usize = 50;
const PROBES_PER_SECOND: usize = 100;
/// Of a message, so that both carry about the same.
const FILLER: &str = "The quick brown fox jumps over the lazy dog, and then says so in a chat.";
/// Said last in every scope, so that recipients know when they have everything.
const LAST: &str = "last";

/// What is measured in a round.
const WHAT: [&str; 5] =
    ["between pods", "a probe beside them", "between pods, store frozen", "a probe beside them", "the broker alone"];

/// Latencies of one round, in milliseconds.
#[derive(Clone, Copy)]
struct Round {
    p50: f64,
    p99: f64,
}

impl fmt::Display for Round {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.1}, {:.1}", self.p50, self.p99)
    }
}

/// The shared store, frozen for as long as this lives.
struct FrozenStore;

impl FrozenStore {
    fn freeze() -> Outcome<Self> {
        services("pause").map(|()| Self)
    }
}

impl Drop for FrozenStore {
    fn drop(&mut self) {
        services("resume").expect("the store goes on");
    }
}

/// Runs `scripts/services.sh COMMAND cassandra`.
fn services(command: &str) -> Outcome<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/services.sh");
    let status = Command::new(script).args([command, "cassandra"]).status()?;
    if status.success() { Ok(()) } else { Err(format!("scripts/services.sh {command} cassandra: {status}").into()) }
}

/// What is said in a round.
#[derive(Clone, Copy)]
struct Load {
    seconds: usize,
    per_second: usize,
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Outcome<()> {
    if Profile::of_this_run() != Profile::Cluster {
        return Err("set CHATIFY_TEST_PROFILE=cluster: with one process there is no other pod".into());
    }
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let seconds: usize = arguments.next().map_or(Ok(10), |text| text.parse())?;
    let per_second: usize = arguments.next().map_or(Ok(1_000), |text| text.parse())?;
    let pods: usize = arguments.next().map_or(Ok(3), |text| text.parse())?;
    if pods < 2 {
        return Err("there must be another pod to deliver to".into());
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let server = Server::start(Options::new().with_pods(pods)).await;
    server.ready().await;
    let bare = Bare::prepare(&Services::of_this_run().kafka[0]).await?;
    let mut output = std::io::stdout();
    writeln!(
        output,
        "{pods} pods, {per_second} messages/s to {RECIPIENTS} recipients each on another pod; {seconds} s a round"
    )?;
    writeln!(output, "p50 and p99 in ms, of each round and their medians\n")?;
    writeln!(output, "| round | {} |\n|---|---|---|---|---|---|", WHAT.join(" | "))?;
    let load = Load { seconds, per_second };
    let mut figures: [Vec<Round>; WHAT.len()] = Default::default();
    for round in 0..=rounds {
        let probing = || bare.round(Arc::clone(&clock), seconds * PROBES_PER_SECOND, PROBES_PER_SECOND);
        let (pods, beside) = tokio::try_join!(between_pods(&server, &clock, round.to_string(), load), probing())?;
        let frozen = FrozenStore::freeze()?;
        let (live, beside_live) =
            tokio::try_join!(between_pods(&server, &clock, format!("{round}-live"), load), probing())?;
        drop(frozen);
        let records = 2 * (round + 1) * (seconds * per_second + SCOPES);
        server.history_has(i64::try_from(records)?).await;
        let alone = bare.round(Arc::clone(&clock), seconds * per_second, per_second).await?;
        // The first one warms up.
        if round > 0 {
            let all = [pods, beside, live, beside_live, alone];
            writeln!(output, "| {round} | {} |", all.map(|round| round.to_string()).join(" | "))?;
            figures.iter_mut().zip(all).for_each(|(figures, round)| figures.push(round));
        }
    }
    writeln!(output, "| medians | {} |", figures.map(|rounds| median(&rounds).to_string()).join(" | "))?;
    server.stop().await;
    Ok(())
}

/// Senders on the first pod, recipients on the second.
async fn between_pods(server: &Server, clock: &Arc<dyn Clock>, round: String, load: Load) -> Outcome<Round> {
    let messages = load.seconds * load.per_second;
    let [from, to] = [0, 1].map(|pod| server.pods()[pod].address());
    let token = server.token("latency").await;
    let prefix = format!("Channel:latency-{round}");
    let scope = move |number: usize| format!("{prefix}-{}", number % SCOPES);
    let mut recipients = JoinSet::new();
    for number in 0..SCOPES * RECIPIENTS {
        let mut hub = Hub::connect(to, &token, HubOptions::default()).await?;
        hub.join(&scope(number), None).await?;
        let clock = Arc::clone(clock);
        recipients.spawn(async move {
            let mut latencies = Vec::with_capacity(messages / SCOPES);
            loop {
                let message = hub.next_message().await?;
                let arrived = clock.uptime();
                let Some(due) = due_of(&message.text) else { break };
                latencies.push(arrived.saturating_sub(due));
            }
            hub.close().await;
            Ok::<_, chatify_tests::hub::HubError>(latencies)
        });
    }
    let mut senders = JoinSet::new();
    let start = clock.uptime() + Duration::from_millis(200);
    for sender in 0..SENDERS {
        let mut hub = Hub::connect(from, &token, HubOptions::default()).await?;
        let (clock, scope) = (Arc::clone(clock), scope.clone());
        senders.spawn(async move {
            for number in (sender..messages).step_by(SENDERS) {
                let due = start + Duration::from_secs_f64(number as f64 / load.per_second as f64);
                tokio::time::sleep(due.saturating_sub(clock.uptime())).await;
                let text = format!("{} {FILLER}", clock.uptime().as_nanos());
                hub.send(&scope(number), &text, &message_id()).await?;
            }
            Ok::<_, chatify_tests::hub::HubError>(())
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    let mut hub = Hub::connect(from, &token, HubOptions::default()).await?;
    for number in 0..SCOPES {
        hub.send(&scope(number), LAST, &message_id()).await?;
    }
    hub.close().await;
    let mut latencies = Vec::new();
    while let Some(recipient) = recipients.join_next().await {
        latencies.extend(recipient??);
    }
    assert_eq!(latencies.len(), messages * RECIPIENTS, "every recipient has every message");
    Ok(round_of(latencies))
}

/// The brokers with nothing around them.
struct Bare {
    servers: String,
    topic: String,
    producer: BaseProducer,
}

impl Bare {
    async fn prepare(servers: &str) -> Outcome<Self> {
        let topic = format!("latency-{}", message_id());
        let config = |more: &[(&str, &str)]| {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", servers);
            for (name, value) in more {
                config.set(*name, *value);
            }
            config
        };
        let admin: AdminClient<DefaultClientContext> = config(&[]).create()?;
        let new = NewTopic::new(&topic, 3, TopicReplication::Fixed(-1)).set("message.timestamp.type", "LogAppendTime");
        for created in admin.create_topics([&new], &AdminOptions::new()).await? {
            created.map_err(|(_, error)| error.to_string())?;
        }
        let producer =
            config(&[("acks", "all"), ("enable.idempotence", "true"), ("linger.ms", "1"), ("compression.type", "lz4")])
                .create()?;
        Ok(Self { servers: servers.to_owned(), topic, producer })
    }

    async fn round(&self, clock: Arc<dyn Clock>, messages: usize, per_second: usize) -> Outcome<Round> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.servers)
            .set("group.id", "latency-bare")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "50")
            .create()?;
        let mut assignment = TopicPartitionList::new();
        for partition in 0..3 {
            let (_, end) = consumer.fetch_watermarks(&self.topic, partition, Duration::from_secs(10))?;
            assignment.add_partition_offset(&self.topic, partition, Offset::Offset(end))?;
        }
        consumer.assign(&assignment)?;
        let theirs = Arc::clone(&clock);
        let (done, consumed) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("bare-consumer".into())
            .spawn(move || done.send(consume(&consumer, &*theirs, messages)))?;
        let start = clock.uptime() + Duration::from_millis(200);
        for number in 0..messages {
            let due = start + Duration::from_secs(1) * u32::try_from(number)? / u32::try_from(per_second)?;
            tokio::time::sleep(due.saturating_sub(clock.uptime())).await;
            let (key, text) =
                (format!("Channel:{}", number % SCOPES), format!("{} {FILLER}", clock.uptime().as_nanos()));
            self.producer.send(BaseRecord::to(&self.topic).key(&key).payload(&text)).map_err(|(error, _)| error)?;
            self.producer.poll(Duration::ZERO);
        }
        self.producer.flush(Duration::from_secs(10))?;
        Ok(round_of(consumed.await??))
    }
}

fn consume(consumer: &BaseConsumer, clock: &dyn Clock, messages: usize) -> Outcome<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(messages);
    while latencies.len() < messages {
        let Some(message) = consumer.poll(Duration::from_secs(10)) else { return Err("nothing came for 10 s".into()) };
        let arrived = clock.uptime();
        let text = String::from_utf8_lossy(message?.payload().unwrap_or_default()).into_owned();
        latencies.extend(due_of(&text).map(|due| arrived.saturating_sub(due)));
    }
    Ok(latencies)
}

/// When a message was sent, by its text; the last one says something else.
fn due_of(text: &str) -> Option<Duration> {
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

fn round_of(latencies: Vec<Duration>) -> Round {
    let spread = Spread::of(latencies);
    let [p50, p99] = [50, 99].map(|percent| spread.at(percent).as_secs_f64() * 1e3);
    Round { p50, p99 }
}

fn median(rounds: &[Round]) -> Round {
    let middle = |figure: fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Round { p50: middle(|round| round.p50), p99: middle(|round| round.p99) }
}
