//! The error table: whatever the brokers do, the outcome of a record says no more than what is certain, and afterwards the appender works.

use super::fixture::{Mock, TOPIC, Writer, mock, mock_options};
use crate::kafka::KafkaOptions;
use chatify_application::ports::contract::{channel, within};
use chatify_application::ports::log::{AppendError, Appended};
use futures_util::future::join_all;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Code};
use std::time::Duration;

/// What one row expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Accepted,
    TooLarge,
    Refused(&'static str),
    Unknown,
}

struct Row {
    name: &'static str,
    harm: fn(&Mock),
    heal: fn(&Mock),
    outcome: Outcome,
    /// How many records the broken cluster may have taken.
    written: std::ops::RangeInclusive<i64>,
    /// Whether the outcome comes only when the record is given up.
    given_up: bool,
}

/// When a record is given up in the rows that wait for it. The healthy records before and after it have no more time.
const GIVEN_UP: Duration = Duration::from_secs(10);

impl Row {
    fn given_up(self) -> Self {
        Self { given_up: true, ..self }
    }
}

#[tokio::test]
async fn an_outcome_says_no_more_than_what_is_certain_and_the_appender_goes_on() {
    join_all(rows().into_iter().map(check)).await;
}

async fn check(row: Row) {
    let mock = mock();
    let patient = mock_options(&mock);
    let message_timeout = if row.given_up { GIVEN_UP } else { patient.message_timeout };
    let writer = Writer::started(&KafkaOptions { message_timeout, ..patient }).await;
    writer.send(0).await.expect("healthy brokers");
    (row.harm)(&mock);
    let outcome = outcome_of(writer.send(1).await);
    assert_eq!(outcome, row.outcome, "{}", row.name);
    (row.heal)(&mock);
    let after = accepted_again(&writer, &row).await;
    let written = writer.records().await - 2;
    assert!(row.written.contains(&written), "{}: the log has {written} of the record", row.name);
    assert_eq!(after.position.offset().number(), 1 + written, "{}: the records after it", row.name);
}

/// A record of the same scope. Until the client has asked the brokers again it may go on refusing, which never enters the log.
async fn accepted_again(writer: &Writer, row: &Row) -> Appended {
    writer.there().await;
    within(row.name, async {
        loop {
            match writer.send(2).await {
                Ok(appended) => return appended,
                Err(AppendError::Unavailable { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{}: {error} after the brokers are healthy again", row.name),
            }
        }
    })
    .await
}

fn outcome_of(outcome: Result<Appended, AppendError>) -> Outcome {
    match outcome {
        Ok(_) => Outcome::Accepted,
        Err(AppendError::TooLarge) => Outcome::TooLarge,
        Err(AppendError::Unavailable { reason, .. }) => Outcome::Refused(reason),
        Err(AppendError::Unknown) => Outcome::Unknown,
        Err(AppendError::Overloaded) => panic!("the queue is empty"),
    }
}

/// A row whose errors come from the brokers' answers to produce requests.
fn answers(name: &'static str, harm: fn(&Mock), outcome: Outcome) -> Row {
    let written = if outcome == Outcome::Accepted { 1..=1 } else { 0..=0 };
    let heal: fn(&Mock) = |mock| mock.clear_request_errors(RDKafkaApiKey::Produce);
    Row { name, harm, heal, outcome, written, given_up: false }
}

fn once(mock: &Mock, code: Code) {
    mock.request_errors(RDKafkaApiKey::Produce, &[code]);
}

fn always(mock: &Mock, code: Code) {
    mock.request_errors(RDKafkaApiKey::Produce, &[code; 1000]);
}

const NOTHING: fn(&Mock) = |_| ();
const IN_TIME: Outcome = Outcome::Refused("no broker took it in time");

fn rows() -> Vec<Row> {
    let mut rows = passing();
    rows.extend(refusals());
    rows.extend(unknown());
    rows.extend(unreachable());
    rows
}

fn passing() -> Vec<Row> {
    use Outcome::Accepted;
    vec![
        answers("too few replicas, once", |mock| once(mock, Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS), Accepted),
        answers(
            "too few replicas after the append, once",
            |mock| once(mock, Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND),
            Accepted,
        ),
        answers("the leader moved", |mock| once(mock, Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION), Accepted),
        answers("the broker timed out, once", |mock| once(mock, Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT), Accepted),
        answers("a storage error, once", |mock| once(mock, Code::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR), Accepted),
        answers("the connection breaks, once", |mock| once(mock, Code::RD_KAFKA_RESP_ERR__TRANSPORT), Accepted),
    ]
}

fn refusals() -> Vec<Row> {
    use Outcome::{Refused, TooLarge};
    let denied = Refused("the brokers do not let this user write");
    let record = Refused("the brokers do not take such records");
    vec![
        answers("too large", |mock| once(mock, Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE), TooLarge),
        answers("no right to write", |mock| once(mock, Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED), denied),
        answers("against a policy", |mock| once(mock, Code::RD_KAFKA_RESP_ERR_POLICY_VIOLATION), record),
        answers("too few replicas, always", |mock| always(mock, Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS), IN_TIME)
            .given_up(),
    ]
}

/// The mock cluster writes nothing when it answers with an error; a real broker may have.
fn unknown() -> Vec<Row> {
    use Outcome::Unknown;
    vec![
        answers("an error that nobody knows", |mock| once(mock, Code::RD_KAFKA_RESP_ERR_UNKNOWN), Unknown),
        answers(
            "the broker times out, always",
            |mock| always(mock, Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT),
            Unknown,
        )
        .given_up(),
        answers("the connection breaks, always", |mock| always(mock, Code::RD_KAFKA_RESP_ERR__TRANSPORT), Unknown)
            .given_up(),
        answers(
            "too few replicas after the append, always",
            |mock| always(mock, Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND),
            Unknown,
        )
        .given_up(),
        answers(
            "the connection breaks, then no right to write",
            |mock| {
                let then = Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
                mock.request_errors(RDKafkaApiKey::Produce, &[Code::RD_KAFKA_RESP_ERR__TRANSPORT, then]);
            },
            Unknown,
        ),
        Row {
            name: "the answer comes too late",
            // However late the client looks at its timers, no answer comes before that.
            harm: |mock| mock.broker_round_trip_time(-1, Duration::from_secs(3600)).expect("known brokers"),
            heal: |mock| mock.broker_round_trip_time(-1, Duration::ZERO).expect("known brokers"),
            outcome: Unknown,
            written: 0..=1,
            given_up: true,
        },
        answers(
            "the sequence is out of order, which is fatal",
            |mock| once(mock, Code::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER),
            Unknown,
        ),
    ]
}

fn unreachable() -> Vec<Row> {
    vec![
        Row {
            name: "all brokers are down",
            harm: |mock| mock.broker_down(-1).expect("known brokers"),
            heal: |mock| mock.broker_up(-1).expect("known brokers"),
            outcome: IN_TIME,
            written: 0..=0,
            given_up: true,
        },
        Row {
            name: "the partition has no leader",
            harm: |mock| lead(mock, None),
            heal: |mock| lead(mock, Some(1)),
            outcome: IN_TIME,
            written: 0..=0,
            given_up: true,
        },
        Row {
            name: "the partition's leader changes",
            harm: |mock| (1..=3).for_each(|broker| lead(mock, Some(broker))),
            heal: NOTHING,
            outcome: Outcome::Accepted,
            written: 1..=1,
            given_up: false,
        },
    ]
}

/// Gives the partition of the tests' scope to `broker`.
fn lead(mock: &Mock, broker: Option<i32>) {
    let partition = crate::kafka::position::partition_of(&channel("general"), 3);
    let number = crate::kafka::position::kafka_partition(partition);
    mock.partition_leader(TOPIC, number, broker).expect("a known partition");
}
