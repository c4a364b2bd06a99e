//! How much of the brokers' own speed is left: durable appends next to a bare producer with the same settings, and reading a log next to a bare consumer.
//!
//! `cargo run --release -p chatify-infrastructure --example kafka_speed -- [bootstrap servers] [records to catch up with]`
//!
//! Rounds of both are interleaved, so that a slow moment of the machine hits both; compare the ratios, not the rates.

use chatify_application::ports::log::{AppendError, LogRecord, NewRecord};
use chatify_application::ports::{LogAppender, LogTail};
use chatify_building_blocks::clock::{Clock, SystemClock};
use chatify_building_blocks::correlation::CorrelationId;
use chatify_building_blocks::random::{Random, SystemRandom};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{ChatEvent, MessageId, MessageSent, PodId, Scope, SenderId, Text};
use chatify_infrastructure::kafka::{KafkaLog, KafkaOptions};
use chatify_infrastructure::record;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 5;
const SPAN: Duration = Duration::from_secs(3);
const OUTSTANDING: [usize; 3] = [1, 64, 1024];
/// Sends a second when both get the same, whatever they could do.
const RATES: [usize; 3] = [1_000, 5_000, 20_000];
const PARTITIONS: u32 = 3;
const LIVE_PER_SECOND: usize = 1_000;
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and then says so in a chat.";

/// What a round of sends did.
struct Round {
    rate: f64,
    /// Milliseconds from the call to the answer.
    p50: f64,
    p99: f64,
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let servers = arguments.next().unwrap_or_else(|| "127.0.0.1:19092".to_owned());
    let records: usize = arguments.next().map_or(Ok(200_000), |text| text.parse())?;
    let mut options = KafkaOptions::new(servers, PodId::parse("speed")?);
    options.topic = format!("speed-{:x}", SystemRandom.u128());
    options.dead_letter_topic = format!("{}-dlt", options.topic);
    options.partitions = PARTITIONS;
    let supervisor = Supervisor::new();
    let log = KafkaLog::connect(options.clone(), Arc::new(SystemClock::new()), &supervisor).await?;
    let mut output = std::io::stdout();
    sends(&mut output, &log, &options).await?;
    answers(&mut output, &log, &options).await?;
    log.close().await;
    // A topic of its own: the sends above have left millions.
    options.topic = format!("{}-caught-up", options.topic);
    let log = KafkaLog::connect(options.clone(), Arc::new(SystemClock::new()), &supervisor).await?;
    catch_up(&mut output, &log, &options, records).await?;
    log.close().await;
    supervisor.cancel();
    supervisor.join().await?;
    Ok(())
}

async fn sends(output: &mut impl Write, log: &KafkaLog, options: &KafkaOptions) -> Outcome<()> {
    let (appender, bare) = (log.appender(), bare_producer(options)?);
    writeln!(output, "sends: medians of {ROUNDS} interleaved rounds of {} s", SPAN.as_secs())?;
    writeln!(
        output,
        "{:>11} {:>10} {:>10} {:>6} {:>14} {:>14}",
        "outstanding", "log/s", "bare/s", "ratio", "log p50 p99", "bare p50 p99"
    )?;
    for outstanding in OUTSTANDING {
        let mut rounds = Vec::new();
        for round in 0..=ROUNDS {
            let ours = through_the_log(&*appender, outstanding).await?;
            let theirs = through_bare(&bare, &options.topic, outstanding).await?;
            // The first one warms up: connections, leaders, the brokers' compiler.
            if round > 0 {
                rounds.push([
                    ours.rate,
                    theirs.rate,
                    ours.rate / theirs.rate,
                    ours.p50,
                    ours.p99,
                    theirs.p50,
                    theirs.p99,
                ]);
            }
        }
        let [log, bare, ratio, p50, p99, bare_p50, bare_p99] =
            [0, 1, 2, 3, 4, 5, 6].map(|column| median(rounds.iter().map(|round| round[column])));
        writeln!(
            output,
            "{outstanding:>11} {log:>10.0} {bare:>10.0} {ratio:>6.2} {p50:>6.2} {p99:>7.2} {bare_p50:>6.2} {bare_p99:>7.2}"
        )?;
    }
    Ok(())
}

/// Keeps `outstanding` sends under way for [`SPAN`]; a full queue is waited out.
async fn through_the_log(appender: &dyn LogAppender, outstanding: usize) -> Outcome<Round> {
    let clock = SystemClock::new();
    let correlation = CorrelationId::generate(&SystemRandom);
    let (mut flying, mut latencies, mut next) = (FuturesUnordered::new(), Vec::new(), 0);
    while clock.uptime() < SPAN || !flying.is_empty() {
        while flying.len() < outstanding && clock.uptime() < SPAN {
            next += 1;
            let event = event(next);
            let began = clock.uptime();
            match appender.append(NewRecord { event, correlation }) {
                Ok(durable) => flying.push(async move { (began, durable.await) }),
                Err(AppendError::Overloaded) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if let Some((began, outcome)) = flying.next().await {
            outcome?;
            latencies.push(clock.uptime().saturating_sub(began));
        }
    }
    Ok(round(latencies, clock.uptime()))
}

/// The same with the client library alone: the same settings, key, bytes and headers, and nothing done with the answer.
async fn through_bare(producer: &FutureProducer, topic: &str, outstanding: usize) -> Outcome<Round> {
    let clock = SystemClock::new();
    let (mut flying, mut latencies, mut next) = (FuturesUnordered::new(), Vec::new(), 0);
    while clock.uptime() < SPAN || !flying.is_empty() {
        while flying.len() < outstanding && clock.uptime() < SPAN {
            next += 1;
            let event = event(next);
            let began = clock.uptime();
            let (key, value) = (event.scope().to_string(), record::encode(&event)?);
            let record = FutureRecord::to(topic).key(&key).payload(&value).headers(headers());
            match producer.send_result(record) {
                Ok(delivery) => flying.push(async move { (began, delivery.await) }),
                Err(_) => break,
            }
        }
        if let Some((began, outcome)) = flying.next().await {
            outcome?.map_err(|(error, _)| error)?;
            latencies.push(clock.uptime().saturating_sub(began));
        }
    }
    Ok(round(latencies, clock.uptime()))
}

/// How long answers take at the same rate: with so many outstanding as above, whoever is slower also waits for more of its own.
async fn answers(output: &mut impl Write, log: &KafkaLog, options: &KafkaOptions) -> Outcome<()> {
    let (appender, bare) = (log.appender(), bare_producer(options)?);
    let correlation = CorrelationId::generate(&SystemRandom);
    writeln!(output, "answers: medians of {ROUNDS} interleaved rounds of {} s", SPAN.as_secs())?;
    writeln!(output, "{:>11} {:>14} {:>14} {:>10}", "sends/s", "log p50 p99", "bare p50 p99", "p99 more")?;
    for rate in RATES {
        let mut rounds = Vec::new();
        for round in 0..=ROUNDS {
            let ours = paced(rate, |number| {
                let durable = appender.append(NewRecord { event: event(number), correlation })?;
                Ok(async move { Ok(durable.await.map(|_appended| ())?) })
            });
            let ours = ours.await?;
            let theirs = paced(rate, |number| {
                let event = event(number);
                let (key, value) = (event.scope().to_string(), record::encode(&event)?);
                let record = FutureRecord::to(&options.topic).key(&key).payload(&value).headers(headers());
                let sent = bare.send_result(record);
                let delivery = sent.map_err(|(error, _)| error)?;
                Ok(async move { Ok(delivery.await?.map(|_delivery| ()).map_err(|(error, _)| error)?) })
            });
            let theirs = theirs.await?;
            if round > 0 {
                rounds.push([ours.p50, ours.p99, theirs.p50, theirs.p99, ours.p99 - theirs.p99]);
            }
        }
        let [p50, p99, bare_p50, bare_p99, more] =
            [0, 1, 2, 3, 4].map(|column| median(rounds.iter().map(|round| round[column])));
        writeln!(output, "{rate:>11} {p50:>6.2} {p99:>7.2} {bare_p50:>6.2} {bare_p99:>7.2} {more:>+10.2}")?;
    }
    Ok(())
}

/// Sends `rate` times a second for [`SPAN`], whether the answers come or not.
async fn paced<F>(rate: usize, mut send: impl FnMut(usize) -> Outcome<F>) -> Outcome<Round>
where
    F: Future<Output = Outcome<()>>,
{
    let clock = SystemClock::new();
    let count = SPAN.as_secs() as usize * rate;
    let due = |number: usize| Duration::from_secs_f64(number as f64 / rate as f64);
    let (mut flying, mut latencies, mut next) = (FuturesUnordered::new(), Vec::with_capacity(count), 0);
    while latencies.len() < count {
        while next < count && due(next) <= clock.uptime() {
            let began = clock.uptime();
            let sent = send(next)?;
            flying.push(async move { sent.await.map(|()| began) });
            next += 1;
        }
        tokio::select! {
            biased;
            Some(began) = flying.next(), if !flying.is_empty() => latencies.push(clock.uptime().saturating_sub(began?)),
            () = tokio::time::sleep(due(next).saturating_sub(clock.uptime())), if next < count => {}
        }
    }
    Ok(round(latencies, clock.uptime()))
}

fn bare_producer(options: &KafkaOptions) -> Outcome<FutureProducer> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &options.bootstrap_servers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", options.linger.as_millis().to_string())
        .set("compression.type", &options.compression)
        .set("queue.buffering.max.kbytes", (options.queue_bytes / 1024).to_string());
    Ok(config.create()?)
}

/// As many as the log's records have, and as long, but always the same ones.
fn headers() -> OwnedHeaders {
    OwnedHeaders::new_with_capacity(4)
        .insert(Header { key: "type", value: Some("MessageSent") })
        .insert(Header { key: "schema", value: Some("1") })
        .insert(Header { key: "correlation-id", value: Some("corr_01890a5d-ac96-774b-bcce-b302099a8057") })
        .insert(Header { key: "traceparent", value: Some("00-01890a5dac96774bbcceb302099a8057-bcceb302099a8057-01") })
}

/// How long a pod takes to read a log from its first record on, and what those who are up to date notice of it.
async fn catch_up(output: &mut impl Write, log: &KafkaLog, options: &KafkaOptions, records: usize) -> Outcome<()> {
    fill(&*log.appender(), records).await?;
    let tail = log.tail();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let clock = SystemClock::new();
        read_whole(&*tail, records).await?;
        let ours = records as f64 / clock.uptime().as_secs_f64();
        let theirs = bare_consumer(options, records)?;
        rounds.push([ours, theirs, ours / theirs]);
    }
    let [ours, theirs, ratio] = [0, 1, 2].map(|column| median(rounds.iter().map(|round| round[column])));
    writeln!(output, "catch-up with {records} records: log {ours:.0}/s, bare {theirs:.0}/s, ratio {ratio:.2}")?;
    let mut pairs = Vec::new();
    for _ in 0..ROUNDS {
        let alone = live(log.appender(), log.tail()).await?;
        let mut beside = JoinSet::new();
        beside.spawn(live(log.appender(), log.tail()));
        let mut caught_up = 0;
        let beside = loop {
            tokio::select! {
                biased;
                Some(round) = beside.join_next() => break round??,
                read = read_whole(&*tail, records) => read?,
            }
            caught_up += 1;
        };
        pairs.push([alone.p50, alone.p99, beside.p50, beside.p99, f64::from(caught_up)]);
    }
    let [p50, p99, beside_p50, beside_p99, caught_up] =
        [0, 1, 2, 3, 4].map(|column| median(pairs.iter().map(|pair| pair[column])));
    writeln!(
        output,
        "append to reader at {LIVE_PER_SECOND}/s: p50 {p50:.2} ms, p99 {p99:.2} ms; while another catches up ({caught_up:.0} times in {} s): p50 \
         {beside_p50:.2} ms, p99 {beside_p99:.2} ms, {:.1} times",
        SPAN.as_secs(),
        beside_p99 / p99
    )?;
    Ok(())
}

/// Reads from the first record on until there were `wanted`, as a pod that starts.
async fn read_whole(tail: &dyn LogTail, wanted: usize) -> Outcome<()> {
    let from: Vec<_> = tail.partitions().await?.iter().map(|state| (state.partition, state.first)).collect();
    let mut reader = tail.open(&from).await?;
    let mut seen = 0;
    while seen < wanted {
        seen += reader.next().await?.len();
    }
    Ok(())
}

/// What a pod that is up to date notices: from the append of a record until its own reader has it, for [`SPAN`].
async fn live(appender: Arc<dyn LogAppender>, tail: Arc<dyn LogTail>) -> Outcome<Round> {
    let clock = Arc::new(SystemClock::new());
    let from: Vec<_> = tail.partitions().await?.iter().map(|state| (state.partition, state.end)).collect();
    let mut reader = tail.open(&from).await?;
    let count = SPAN.as_secs() as usize * LIVE_PER_SECOND;
    let (theirs, correlation) = (Arc::clone(&clock), CorrelationId::generate(&SystemRandom));
    let mut sending = JoinSet::new();
    sending.spawn(async move {
        let mut flying = FuturesUnordered::new();
        for number in 0..count {
            let due = Duration::from_secs(1) * u32::try_from(number)? / LIVE_PER_SECOND as u32;
            tokio::time::sleep(due.saturating_sub(theirs.uptime())).await;
            let event = said(number, &theirs.uptime().as_nanos().to_string());
            flying.push(appender.append(NewRecord { event, correlation })?);
        }
        while let Some(outcome) = flying.next().await {
            outcome?;
        }
        Outcome::Ok(())
    });
    let mut latencies = Vec::with_capacity(count);
    while latencies.len() < count {
        for record in reader.next().await? {
            let arrived = clock.uptime();
            if let LogRecord { content: Ok(ChatEvent::MessageSent(message)), .. } = &record {
                let began = message.text.as_str().parse().map_or(arrived, Duration::from_nanos);
                latencies.push(arrived.saturating_sub(began));
            }
        }
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    Ok(round(latencies, clock.uptime()))
}

async fn fill(appender: &dyn LogAppender, records: usize) -> Outcome<()> {
    let correlation = CorrelationId::generate(&SystemRandom);
    let mut flying = FuturesUnordered::new();
    for number in 0..records {
        flying.push(appender.append(NewRecord { event: event(number), correlation })?);
        if flying.len() >= 4096
            && let Some(outcome) = flying.next().await
        {
            outcome?;
        }
    }
    while let Some(outcome) = flying.next().await {
        outcome?;
    }
    Ok(())
}

fn bare_consumer(options: &KafkaOptions, wanted: usize) -> Outcome<f64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &options.bootstrap_servers)
        .set("group.id", "speed-bare")
        .set("enable.auto.commit", "false")
        .create()?;
    let clock = SystemClock::new();
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(&options.topic, i32::try_from(partition)?, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut seen = 0;
    while seen < wanted {
        if let Some(message) = consumer.poll(Duration::from_secs(10)) {
            message?;
            seen += 1;
        }
    }
    Ok(wanted as f64 / clock.uptime().as_secs_f64())
}

fn event(number: usize) -> ChatEvent {
    said(number, TEXT)
}

fn said(number: usize, text: &str) -> ChatEvent {
    ChatEvent::MessageSent(Arc::new(MessageSent {
        message_id: MessageId::from_u128(SystemRandom.u128()),
        scope: Scope::parse(&format!("Channel:{}", number % 200)).expect("a valid scope"),
        sender_id: SenderId::parse(&format!("user-{}", number % 1000)).expect("a valid id"),
        text: Text::parse(text).expect("a short text"),
        origin_pod_id: PodId::parse("speed").expect("a valid id"),
    }))
}

fn round(mut latencies: Vec<Duration>, took: Duration) -> Round {
    latencies.sort();
    let at = |share: usize| latencies.get(latencies.len() * share / 100).map_or(0.0, |found| found.as_secs_f64() * 1e3);
    Round { rate: latencies.len() as f64 / took.as_secs_f64(), p50: at(50), p99: at(99) }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
