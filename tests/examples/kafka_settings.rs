//! What the producer's settings cost and bring: compression and linger, each with one producer for itself, on the log's kind of records.
//!
//! `cargo run --release -p chatify-tests --example kafka_settings -- [bootstrap servers]`
//!
//! The rounds of all settings are interleaved. Two loads: sends that come evenly, and as many as a client gets that waits for the first of 64 answers. CPU
//! time is this process's, for producing alone; bytes are what the producer wrote to the brokers' connections, requests included, which is also what the
//! brokers keep and send to each pod, give or take their headers.

use chatify_building_blocks::clock::{Clock, SystemClock};
use chatify_building_blocks::random::{Random, SeededRandom, SystemRandom};
use chatify_tests::process::cpu_time;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::statistics::Statistics;
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const COMPRESSION: [&str; 4] = ["none", "snappy", "lz4", "zstd"];
const LINGER: [&str; 3] = ["0", "1", "5"];
const ROUNDS: usize = 3;
const SPAN: Duration = Duration::from_secs(2);
const PER_SECOND: usize = 1_000;
const OUTSTANDING: usize = 64;
/// How often the client tells what it has written.
const STATISTICS: Duration = Duration::from_millis(100);
const WORDS: [&str; 48] = [
    "the",
    "a",
    "to",
    "and",
    "of",
    "it",
    "is",
    "in",
    "that",
    "for",
    "we",
    "you",
    "on",
    "with",
    "this",
    "not",
    "are",
    "be",
    "can",
    "have",
    "build",
    "deploy",
    "meeting",
    "tomorrow",
    "thanks",
    "please",
    "review",
    "branch",
    "customer",
    "invoice",
    "server",
    "message",
    "later",
    "morning",
    "coffee",
    "question",
    "answer",
    "ticket",
    "release",
    "Friday",
    "photo",
    "train",
    "weather",
    "dinner",
    "idea",
    "problem",
    "solution",
    "yesterday",
];

/// What the client has written to the brokers so far.
#[derive(Clone, Default)]
struct Written(Arc<AtomicI64>);

impl ClientContext for Written {
    fn stats(&self, statistics: Statistics) {
        self.0.store(statistics.tx_bytes, Ordering::Relaxed);
    }
}

struct Setting {
    compression: &'static str,
    linger: &'static str,
    producer: FutureProducer<Written>,
    written: Written,
    /// Sends/s, p50, p99, CPU time and bytes of a send.
    even: Vec<[f64; 5]>,
    saturated: Vec<[f64; 5]>,
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Outcome<()> {
    let servers = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:19092".to_owned());
    let topic = format!("settings-{:x}", SystemRandom.u128());
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", &servers).create()?;
    let wanted = [NewTopic::new(&topic, 3, TopicReplication::Fixed(1))];
    let created = admin.create_topics(&wanted, &AdminOptions::new()).await?;
    created.into_iter().next().ok_or("the brokers say nothing of the topic")?.map_err(|(_, code)| code)?;
    let mut settings = Vec::new();
    for compression in COMPRESSION {
        for linger in LINGER {
            settings.push(Setting::new(&servers, compression, linger)?);
        }
    }
    for round in 0..=ROUNDS {
        for setting in &mut settings {
            let even = setting.measure(&topic, usize::MAX, Some(PER_SECOND)).await?;
            let saturated = setting.measure(&topic, OUTSTANDING, None).await?;
            // The first one warms up.
            if round > 0 {
                setting.even.push(even);
                setting.saturated.push(saturated);
            }
        }
    }
    let mut output = std::io::stdout();
    for (load, of) in [
        (format!("{PER_SECOND} sends/s"), Setting::even as fn(&Setting) -> &Vec<[f64; 5]>),
        (format!("{OUTSTANDING} outstanding"), Setting::saturated),
    ] {
        writeln!(output, "{load}: medians of {ROUNDS} rounds of {} s", SPAN.as_secs())?;
        writeln!(
            output,
            "{:>8} {:>6} {:>9} {:>8} {:>8} {:>8} {:>7}",
            "", "linger", "sends/s", "p50 ms", "p99 ms", "CPU us", "bytes"
        )?;
        for setting in &settings {
            let [rate, p50, p99, cpu, bytes] =
                [0, 1, 2, 3, 4].map(|column| median(of(setting).iter().map(|round| round[column])));
            let (compression, linger) = (setting.compression, setting.linger);
            writeln!(output, "{compression:>8} {linger:>6} {rate:>9.0} {p50:>8.2} {p99:>8.2} {cpu:>8.1} {bytes:>7.0}")?;
        }
    }
    admin.delete_topics(&[&topic], &AdminOptions::new()).await?;
    Ok(())
}

impl Setting {
    fn new(servers: &str, compression: &'static str, linger: &'static str) -> Outcome<Self> {
        let written = Written::default();
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", servers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", linger)
            .set("compression.type", compression)
            .set("statistics.interval.ms", STATISTICS.as_millis().to_string());
        let producer = config.create_with_context(written.clone())?;
        Ok(Self { compression, linger, producer, written, even: Vec::new(), saturated: Vec::new() })
    }

    const fn even(&self) -> &Vec<[f64; 5]> {
        &self.even
    }

    const fn saturated(&self) -> &Vec<[f64; 5]> {
        &self.saturated
    }

    /// Sends for [`SPAN`], at most `outstanding` at a time, and evenly when there is a rate.
    async fn measure(&mut self, topic: &str, outstanding: usize, per_second: Option<usize>) -> Outcome<[f64; 5]> {
        let random = SeededRandom::new(7);
        let (pid, clock) = (std::process::id(), SystemClock::new());
        let (cpu, bytes) = (cpu_time(pid), self.bytes().await);
        let due = |number: usize| {
            per_second.map_or(Duration::ZERO, |rate| Duration::from_secs(1) * number as u32 / rate as u32)
        };
        let (mut flying, mut latencies, mut next) = (FuturesUnordered::new(), Vec::new(), 0);
        while clock.uptime() < SPAN || !flying.is_empty() {
            while clock.uptime() < SPAN && flying.len() < outstanding && due(next) <= clock.uptime() {
                next += 1;
                let (key, value) = (format!("Channel:{}", random.u64() % 200), message(&random));
                let began = clock.uptime();
                let delivery = self.producer.send_result(FutureRecord::to(topic).key(&key).payload(&value));
                let delivery = delivery.map_err(|(error, _)| error)?;
                flying.push(async move { delivery.await.map(|outcome| (began, outcome)) });
            }
            tokio::select! {
                biased;
                Some(answered) = flying.next(), if !flying.is_empty() => {
                    let (began, outcome) = answered?;
                    outcome.map_err(|(error, _)| error)?;
                    latencies.push(clock.uptime().saturating_sub(began));
                }
                () = tokio::time::sleep(due(next).min(SPAN).saturating_sub(clock.uptime())), if flying.len() < outstanding => {}
            }
        }
        let (took, cpu) = (clock.uptime(), cpu_time(pid).saturating_sub(cpu));
        let bytes = self.bytes().await - bytes;
        latencies.sort();
        let at = |share: usize| latencies[(latencies.len() - 1) * share / 100].as_secs_f64() * 1e3;
        let sends = latencies.len() as f64;
        Ok([sends / took.as_secs_f64(), at(50), at(99), cpu.as_secs_f64() * 1e6 / sends, bytes as f64 / sends])
    }

    /// What was written, told anew.
    async fn bytes(&self) -> i64 {
        self.producer.poll(Duration::ZERO);
        tokio::time::sleep(STATISTICS * 3).await;
        self.written.0.load(Ordering::Relaxed)
    }
}

/// A record of the log as the server writes it, with a text of three to thirty words.
fn message(random: &SeededRandom) -> String {
    let words: Vec<&str> = (0..3 + random.u64() % 28).map(|_| WORDS[random.u64() as usize % WORDS.len()]).collect();
    let (id, sender) = (uuid::Uuid::from_u128(SystemRandom.u128()), random.u64() % 1_000);
    format!(
        r#"{{"type":"MessageSent","schema":1,"messageId":"{id}","scope":"Channel:{}","senderId":"user-{sender}","text":"{}","originPodId":"pod-1"}}"#,
        random.u64() % 200,
        words.join(" ")
    )
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
