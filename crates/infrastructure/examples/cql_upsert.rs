//! What a plain upsert costs next to `IF NOT EXISTS`, and how much of the store's own speed the history keeps.
//!
//! `cargo run --release -p chatify-infrastructure --example cql_upsert -- [contact point] [messages per round]`
//!
//! Rounds of each pair are interleaved, so that a slow moment of the machine hits both; compare the ratios, not the rates.

use chatify_application::ports::HistoryStore;
use chatify_application::ports::history::HistoryRow;
use chatify_building_blocks::clock::{Clock, SystemClock, Timestamp};
use chatify_building_blocks::random::{Random, SystemRandom};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{
    Epoch, LoggedMessage, MessageId, MessageSent, Offset, Partition, PodId, Position, Scope, SenderId, Text,
};
use chatify_infrastructure::scylla::{ScyllaHistory, ScyllaOptions};
use futures_util::{StreamExt, TryStreamExt, stream};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 5;
/// As many as the history has on their way in one `append`.
const IN_FLIGHT: usize = 64;
/// Messages of one `append`: what the history's writer persists before it commits.
const APPEND: usize = 1_000;
/// An ordinary message is not longer.
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and then says so in a chat. \
    The quick brown fox jumps over the lazy dog, and then says so in a chat. The quick brown fox jumps over the lazy dog, \
    and then says so in a chat. The quick brown fox jumps over the lazy dog, and then says so in a chat. Twice, indeed.";

/// What a round did.
struct Round {
    rate: f64,
    /// Milliseconds from a request to its answer.
    p50: f64,
    p99: f64,
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let point = arguments.next().unwrap_or_else(|| "127.0.0.1:19042".to_owned());
    let messages: usize = arguments.next().map_or(Ok(5_000), |text| text.parse())?;
    let supervisor = Supervisor::new();
    let options = ScyllaOptions {
        keyspace: format!("upsert_{:016x}", SystemRandom.u64()),
        replication_factor: 1,
        request_timeout: Duration::from_secs(60),
        ..ScyllaOptions::new([&point])
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let history =
        ScyllaHistory::connect(options.clone(), Arc::clone(&clock), Arc::new(SystemRandom), &supervisor).await?;
    history.connected().await;
    let session = SessionBuilder::new().known_node(point).build().await?;
    let bench = Bench { statements: Statements::prepare(&session, &options.keyspace).await?, session, clock, messages };
    let mut output = std::io::stdout();
    let outcome = bench.run(&mut output, &history).await;
    bench.session.query_unpaged(format!("DROP KEYSPACE {}", options.keyspace), ()).await?;
    supervisor.cancel();
    supervisor.join().await?;
    outcome
}

struct Statements {
    plain: PreparedStatement,
    conditional: PreparedStatement,
    name: PreparedStatement,
}

impl Statements {
    async fn prepare(session: &Session, keyspace: &str) -> Outcome<Self> {
        let insert = format!(
            "INSERT INTO {keyspace}.chat_messages (scope, segment, position, message_id, sender_id, text, created_at_utc, \
             origin_pod_id, broker_partition) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        );
        let name = format!(
            "INSERT INTO {keyspace}.messages_by_id (message_id, scope, sender_id, position, segment) VALUES (?, ?, ?, ?, ?) \
             USING TIMESTAMP ?"
        );
        Ok(Self {
            plain: session.prepare(format!("{insert} USING TIMESTAMP ?")).await?,
            conditional: session.prepare(format!("{insert} IF NOT EXISTS")).await?,
            name: session.prepare(name).await?,
        })
    }
}

struct Bench {
    session: Session,
    statements: Statements,
    clock: Arc<dyn Clock>,
    messages: usize,
}

impl Bench {
    async fn run(&self, output: &mut impl Write, history: &ScyllaHistory) -> Outcome<()> {
        let count = self.messages;
        // What has never run is slow, in the store above all.
        self.inserts(&self.rows(1, count)?, IN_FLIGHT, false).await?;
        self.inserts(&self.rows(1, count / 5)?, IN_FLIGHT, true).await?;
        writeln!(output, "medians of {ROUNDS} interleaved rounds of {count} messages of {} bytes", TEXT.len())?;
        writeln!(output, "{:<46} {:>22} {:>22} {:>7}", "", "upsert /s (p50, p99 ms)", "if not exists", "ratio")?;
        let cases = [
            ("64 in flight, one row a partition", count, IN_FLIGHT, count),
            ("64 in flight, all in one partition", 1, IN_FLIGHT, count),
            ("one at a time, one row a partition", count, 1, count / 5),
        ];
        for (name, partitions, in_flight, count) in cases {
            let (mut plain, mut conditional) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                plain.push(self.inserts(&self.rows(partitions, count)?, in_flight, false).await?);
                conditional.push(self.inserts(&self.rows(partitions, count)?, in_flight, true).await?);
            }
            line(output, name, &median(plain), &median(conditional))?;
        }
        writeln!(output, "\n{:<46} {:>22} {:>22} {:>7}", "", "append: messages /s", "bare inserts", "ratio")?;
        for (name, scopes) in [("history, one scope", 1), ("history, 50 scopes", 50), ("history, a scope each", count)]
        {
            let (mut ours, mut bare) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                ours.push(self.appends(history, &self.rows(scopes, count)?).await?);
                bare.push(self.bare(&self.rows(scopes, count)?).await?);
            }
            line(output, name, &median(ours), &median(bare))?;
        }
        Ok(())
    }

    /// Fresh messages of fresh scopes.
    fn rows(&self, scopes: usize, count: usize) -> Outcome<Vec<HistoryRow>> {
        let run = SystemRandom.u64();
        let (sender_id, origin_pod_id, text) = (SenderId::parse("alice")?, PodId::parse("bench")?, Text::parse(TEXT)?);
        let mut rows = Vec::with_capacity(count);
        for number in 0..count {
            let sent = MessageSent {
                message_id: MessageId::from_u128(SystemRandom.u128()),
                scope: Scope::parse(&format!("Channel:{run:016x}-{}", number % scopes))?,
                sender_id: sender_id.clone(),
                text: text.clone(),
                origin_pod_id: origin_pod_id.clone(),
            };
            let position = Position::new(Epoch::FIRST, Offset::new(i64::try_from(number)?)?);
            let created_at = Timestamp::from_millis(1_700_000_000_000);
            let message = LoggedMessage { position, partition: Partition(0), created_at, sent: Arc::new(sent) };
            rows.push(HistoryRow { segment: Position::ZERO, message });
        }
        Ok(rows)
    }

    /// One statement for each message.
    async fn inserts(&self, rows: &[HistoryRow], in_flight: usize, conditional: bool) -> Outcome<Round> {
        let requests = rows.iter().map(|row| async move {
            let scope = row.message.sent.scope.to_string();
            let values = message_values(&scope, row);
            if !conditional {
                return self.timed(&self.statements.plain, values).await;
            }
            // A condition and a timestamp exclude each other.
            let (scope, segment, position, id, sender, text, created_at, pod, partition, _) = values;
            let values = (scope, segment, position, id, sender, text, created_at, pod, partition);
            self.timed(&self.statements.conditional, values).await
        });
        let began = self.clock.uptime();
        let times: Vec<Duration> = stream::iter(requests).buffer_unordered(in_flight).try_collect().await?;
        Ok(self.round(rows.len(), began, times))
    }

    /// What `append` has to write, by single prepared inserts: the message and its name.
    async fn bare(&self, rows: &[HistoryRow]) -> Outcome<Round> {
        let requests = rows.iter().flat_map(|row| [(row, true), (row, false)]).map(|(row, message)| async move {
            let (scope, sent) = (row.message.sent.scope.to_string(), &row.message.sent);
            let position = row.message.position.number();
            if message {
                return self.timed(&self.statements.plain, message_values(&scope, row)).await;
            }
            let id = Uuid::from_u128(sent.message_id.as_u128());
            let values = (id, &scope, sent.sender_id.as_str(), position, row.segment.number(), position);
            self.timed(&self.statements.name, values).await
        });
        let began = self.clock.uptime();
        let times: Vec<Duration> = stream::iter(requests).buffer_unordered(IN_FLIGHT).try_collect().await?;
        Ok(self.round(rows.len(), began, times))
    }

    async fn appends(&self, history: &ScyllaHistory, rows: &[HistoryRow]) -> Outcome<Round> {
        let mut times = Vec::new();
        let began = self.clock.uptime();
        for some in rows.chunks(APPEND) {
            let start = self.clock.uptime();
            history.append(some).await?;
            times.push(self.clock.uptime() - start);
        }
        Ok(self.round(rows.len(), began, times))
    }

    async fn timed(&self, statement: &PreparedStatement, values: impl SerializeRow) -> Outcome<Duration> {
        let start = self.clock.uptime();
        self.session.execute_unpaged(statement, values).await?;
        Ok(self.clock.uptime() - start)
    }

    fn round(&self, messages: usize, began: Duration, mut times: Vec<Duration>) -> Round {
        let seconds = (self.clock.uptime() - began).as_secs_f64();
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        Round { rate: messages as f64 / seconds, p50: at(0.5), p99: at(0.99) }
    }
}

type MessageValues<'row> = (&'row str, i64, i64, Uuid, &'row str, &'row str, CqlTimestamp, &'row str, i64, i64);

fn message_values<'row>(scope: &'row str, row: &'row HistoryRow) -> MessageValues<'row> {
    let (message, sent) = (&row.message, &row.message.sent);
    (
        scope,
        row.segment.number(),
        message.position.number(),
        Uuid::from_u128(sent.message_id.as_u128()),
        sent.sender_id.as_str(),
        sent.text.as_str(),
        CqlTimestamp(message.created_at.as_millis()),
        sent.origin_pod_id.as_str(),
        i64::from(message.partition.0),
        message.position.number(),
    )
}

fn median(mut rounds: Vec<Round>) -> Round {
    rounds.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    rounds.swap_remove(rounds.len() / 2)
}

fn line(output: &mut impl Write, name: &str, first: &Round, second: &Round) -> Outcome<()> {
    let shown = |round: &Round| format!("{:.0} ({:.1}, {:.1})", round.rate, round.p50, round.p99);
    let ratio = first.rate / second.rate;
    writeln!(output, "{name:<46} {:>22} {:>22} {ratio:>6.1}x", shown(first), shown(second))?;
    Ok(())
}
