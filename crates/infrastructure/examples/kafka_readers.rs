//! What reading the log costs: the group next to a bare consumer, the question for the log's end, and the way of one record from its append to a reader.
//!
//! `cargo run --release -p chatify-infrastructure --example kafka_readers -- [bootstrap servers] [records]`
//!
//! Rounds of the group and the bare consumer are interleaved, so that a slow moment of the machine hits both; compare the ratios, not the rates.

use chatify_application::ports::LogTail;
use chatify_application::ports::log::{GroupEvent, LogRecord, NewRecord};
use chatify_building_blocks::clock::{Clock, SystemClock};
use chatify_building_blocks::correlation::CorrelationId;
use chatify_building_blocks::random::{Random, SystemRandom};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{ChatEvent, MessageId, MessageSent, Partition, PodId, Position, Scope, SenderId, Text};
use chatify_infrastructure::kafka::{KafkaLog, KafkaOptions};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 3;
const PARTITIONS: u32 = 3;
const IN_FLIGHT: usize = 1024;
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and then says so in a chat.";

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let servers = arguments.next().unwrap_or_else(|| "127.0.0.1:19092".to_owned());
    let records: usize = arguments.next().map_or(Ok(200_000), |text| text.parse())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut options = KafkaOptions::new(servers, PodId::parse("readers")?);
    options.topic = format!("readers-{:x}", SystemRandom.u128());
    options.dead_letter_topic = format!("{}-dlt", options.topic);
    options.partitions = PARTITIONS;
    let supervisor = Supervisor::new();
    let mut output = std::io::stdout();
    let log = KafkaLog::connect(options.clone(), Arc::clone(&clock), &supervisor).await?;
    fill(&log, records).await?;
    writeln!(output, "{records} records; records/s, bare consumer and group with a commit per batch")?;
    for round in 0..ROUNDS {
        let bare = bare(&options, &*clock, records)?;
        let group_options = KafkaOptions { group_id: format!("{}-{round}", options.topic), ..options.clone() };
        let grouped = KafkaLog::connect(group_options, Arc::clone(&clock), &supervisor).await?;
        let group = group(&grouped, &*clock, records).await?;
        grouped.close().await;
        writeln!(output, "{bare:>12.0} {group:>12.0} {:>6.2}", group / bare)?;
    }
    ends(&mut output, &*log.tail(), &*clock).await?;
    way(&mut output, &log, &*clock).await?;
    log.close().await;
    drop(log);
    supervisor.cancel();
    supervisor.join().await?;
    Ok(())
}

fn record(number: usize) -> Outcome<NewRecord> {
    let event = ChatEvent::MessageSent(Arc::new(MessageSent {
        message_id: MessageId::from_u128(SystemRandom.u128()),
        scope: Scope::parse(&format!("Channel:room-{}", number % 64))?,
        sender_id: SenderId::parse("alice")?,
        text: Text::parse(TEXT)?,
        origin_pod_id: PodId::parse("readers")?,
    }));
    let correlation = CorrelationId::parse("corr_01890a5d-ac96-774b-bcce-b302099a8057").ok_or("a correlation id")?;
    Ok(NewRecord { event, correlation })
}

async fn fill(log: &KafkaLog, records: usize) -> Outcome<()> {
    let appender = log.appender();
    let mut waiting = FuturesUnordered::new();
    for number in 0..records {
        if waiting.len() >= IN_FLIGHT {
            waiting.next().await.transpose()?;
        }
        waiting.push(appender.append(record(number)?)?);
    }
    while waiting.next().await.transpose()?.is_some() {}
    Ok(())
}

/// Records per second of a consumer that looks at nothing.
fn bare(options: &KafkaOptions, clock: &dyn Clock, records: usize) -> Outcome<f64> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &options.bootstrap_servers)
        .set("group.id", "bare")
        .set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(&options.topic, i32::try_from(partition)?, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let started = clock.uptime();
    let mut read = 0;
    while read < records {
        if let Some(message) = consumer.poll(Duration::from_secs(1)) {
            message?;
            read += 1;
        }
    }
    Ok(records as f64 / (clock.uptime() - started).as_secs_f64())
}

/// The same for a member of the group, which decodes each record and commits what it was given.
async fn group(log: &KafkaLog, clock: &dyn Clock, records: usize) -> Outcome<f64> {
    let mut member = log.group().join().await?;
    // Joining takes a while and is not what is measured.
    let mut started = None;
    let mut read = 0;
    while read < records {
        match member.next().await? {
            GroupEvent::Assigned { .. } => started = started.or_else(|| Some(clock.uptime())),
            GroupEvent::Revoking { partition } => member.release(partition).await?,
            GroupEvent::Records { partition, records } => {
                read += records.len();
                if let Some(last) = records.last() {
                    member.commit(partition, last.position.next()).await?;
                }
            }
        }
    }
    Ok(records as f64 / (clock.uptime() - started.unwrap_or_default()).as_secs_f64())
}

fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let index = ((sorted.len() as f64 - 1.0) * share).round() as usize;
    sorted.get(index).map_or(0.0, |took| took.as_secs_f64() * 1e3)
}

async fn ends(output: &mut impl Write, tail: &dyn LogTail, clock: &dyn Clock) -> Outcome<()> {
    for callers in [1usize, 16, 256] {
        let mut took = Vec::new();
        let started = clock.uptime();
        let asking = join_all((0..callers).map(|_| async {
            let mut took = Vec::new();
            for _ in 0..4096 / callers {
                let asked = clock.uptime();
                tail.end(Partition(0)).await?;
                took.push(clock.uptime() - asked);
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(took)
        }));
        for times in asking.await {
            took.extend(times?);
        }
        let rate = took.len() as f64 / (clock.uptime() - started).as_secs_f64();
        took.sort_unstable();
        let (p50, p99) = (percentile(&took, 0.5), percentile(&took, 0.99));
        writeln!(output, "the log's end, {callers:>4} ask at once: {rate:>8.0}/s, p50 {p50:.2} ms, p99 {p99:.2} ms")?;
    }
    let asked = clock.uptime();
    for _ in 0..256 {
        tail.partitions().await?;
    }
    let each = (clock.uptime() - asked).as_secs_f64() * 1e3 / 256.0;
    writeln!(output, "all partitions with their newest times: {each:.2} ms")?;
    Ok(())
}

/// From the call of `append` until the record is acknowledged, and until a reader has it.
async fn way(output: &mut impl Write, log: &KafkaLog, clock: &dyn Clock) -> Outcome<()> {
    let tail = log.tail();
    let from: Vec<(Partition, Position)> =
        tail.partitions().await?.iter().map(|state| (state.partition, state.end)).collect();
    let mut reader = tail.open(&from).await?;
    let appender = log.appender();
    let (mut acknowledged, mut read) = (Vec::new(), Vec::new());
    for number in 0..1_000 {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let sent = clock.uptime();
        let durable = appender.append(record(number)?)?;
        let durable = async { durable.await.map(|_| clock.uptime() - sent) };
        let arrived = async {
            let records: Result<Vec<LogRecord>, _> = reader.next().await;
            records.map(|_| clock.uptime() - sent)
        };
        let (durable, arrived) = tokio::join!(durable, arrived);
        acknowledged.push(durable?);
        read.push(arrived?);
    }
    for (name, times) in [("acknowledged", &mut acknowledged), ("read", &mut read)] {
        times.sort_unstable();
        let (p50, p99) = (percentile(times, 0.5), percentile(times, 0.99));
        writeln!(output, "one record every 3 ms, {name:>12}: p50 {p50:.2} ms, p99 {p99:.2} ms")?;
    }
    Ok(())
}
