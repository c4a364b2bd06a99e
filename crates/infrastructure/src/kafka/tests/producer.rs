//! The producer's life: start without brokers, a full queue, fatal errors, the end.

use super::fixture::{Writer, mock, mock_options};
use crate::kafka::KafkaOptions;
use crate::kafka::health::{CLOSED, NO_BROKER, STALLED};
use chatify_application::ports::contract::within;
use chatify_application::ports::log::{AppendError, Appended, Durable};
use futures_util::FutureExt;
use futures_util::future::join_all;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Code};
use std::time::Duration;

#[tokio::test]
async fn what_is_accepted_before_any_broker_is_there_is_written_when_one_comes() {
    let mock = mock();
    mock.broker_down(-1).expect("known brokers");
    let writer = Writer::start(&mock_options(&mock));
    let waiting: Vec<Durable> = (0..10).map(|number| writer.append(number).expect("room")).collect();
    writer.until("the brokers' absence", |health| health.away.is_some_and(|away| away.reason == NO_BROKER)).await;
    mock.broker_up(-1).expect("known brokers");
    let appended = within("durability", join_all(waiting)).await;
    let offsets: Vec<i64> =
        appended.iter().map(|one| one.as_ref().expect("written").position.offset().number()).collect();
    assert_eq!(offsets, (0..10).collect::<Vec<_>>());
    writer.there().await;
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_what_was_accepted_is_written() {
    let mock = mock();
    let options = KafkaOptions { queue_bytes: 1024 * 1024, ..mock_options(&mock) };
    let writer = Writer::started(&options).await;
    mock.broker_down(-1).expect("known brokers");
    let mut waiting = Vec::new();
    let refused = loop {
        match writer.append(0) {
            Ok(durable) => waiting.push(durable),
            Err(error) => break error,
        }
        assert!(waiting.len() < 100_000, "the queue has no bound");
    };
    assert!(matches!(refused, AppendError::Overloaded), "{refused}");
    writer.until("the queue in the statistics", |health| health.queued_records > 0).await;
    assert!(writer.health().queued_bytes <= 1024 * 1024, "{:?}", writer.health());
    mock.broker_up(-1).expect("known brokers");
    for outcome in within("durability", join_all(waiting.drain(..))).await {
        outcome.expect("accepted, so written");
    }
    writer.send(1).await.expect("there is room again");
}

#[tokio::test]
async fn brokers_that_keep_their_connections_and_answer_nothing_are_away() {
    let mock = mock();
    let writer = Writer::started(&mock_options(&mock)).await;
    mock.broker_round_trip_time(-1, Duration::from_secs(3600)).expect("known brokers");
    let waiting = writer.append(0).expect("room");
    writer.until("the stall", |health| health.away.is_some_and(|away| away.reason == STALLED)).await;
    mock.broker_round_trip_time(-1, Duration::ZERO).expect("known brokers");
    within("durability", waiting).await.expect("the connection is given up and the record sent again");
    writer.there().await;
}

#[tokio::test]
async fn a_producer_that_cannot_go_on_is_made_anew() {
    let mock = mock();
    let writer = Writer::started(&mock_options(&mock)).await;
    for round in 1..=3 {
        mock.request_errors(RDKafkaApiKey::Produce, &[Code::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
        assert!(matches!(writer.send(round).await, Err(AppendError::Unknown)));
        writer.until("the rebuild", |health| health.producer_rebuilds == u64::from(round)).await;
        writer.there().await;
        writer.send(round).await.expect("a new producer");
    }
    assert_eq!(writer.health().producer_rebuilds, 3);
    assert!(!writer.supervisor.token().is_cancelled(), "a rebuild is no crash");
}

#[tokio::test]
async fn while_it_is_made_anew_sends_are_refused_and_the_log_is_away() {
    let mock = mock();
    let writer = Writer::started(&mock_options(&mock)).await;
    // Without an identity no new producer can send, so the state lasts for as long as the test needs it.
    mock.request_errors(RDKafkaApiKey::InitProducerId, &[Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED; 1000]);
    mock.request_errors(RDKafkaApiKey::Produce, &[Code::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    assert!(matches!(writer.send(0).await, Err(AppendError::Unknown)));
    writer.until("two rebuilds", |health| health.producer_rebuilds >= 2).await;
    assert!(writer.health().away.is_some());
    let outcome = writer.send(1).await;
    assert!(matches!(outcome, Err(AppendError::Unavailable { .. } | AppendError::Unknown)), "{outcome:?}");
    mock.clear_request_errors(RDKafkaApiKey::InitProducerId);
    writer.there().await;
    let appended = writer.send(2).await.expect("a new producer");
    assert_eq!(appended.position.offset().number(), 0, "nothing that failed was written");
}

/// The outcome that has to be there already; many of them are more than a task may look at before it yields.
fn settled(outcome: Durable) -> Result<Appended, AppendError> {
    tokio::task::unconstrained(outcome).now_or_never().expect("settled when closing ends")
}

#[tokio::test]
async fn closing_waits_for_what_was_accepted_and_refuses_what_is_new() {
    let mock = mock();
    let writer = Writer::started(&KafkaOptions { linger: Duration::from_millis(200), ..mock_options(&mock) }).await;
    let waiting: Vec<Durable> = (0..1000).map(|number| writer.append(number).expect("room")).collect();
    within("the end", writer.producer.close()).await;
    for outcome in waiting {
        settled(outcome).expect("flushed");
    }
    let refused = writer.append(0).expect_err("closed");
    assert!(matches!(refused, AppendError::Unavailable { reason: CLOSED, .. }), "{refused}");
    assert_eq!(writer.health().away.expect("closed").reason, CLOSED);
    within("a second end", writer.producer.close()).await;
}

#[tokio::test]
async fn closing_without_brokers_ends_at_its_deadline_and_leaves_nobody_waiting() {
    let mock = mock();
    let options = KafkaOptions { close_deadline: Duration::from_millis(300), ..mock_options(&mock) };
    let writer = Writer::started(&options).await;
    mock.broker_down(-1).expect("known brokers");
    let waiting: Vec<Durable> = (0..100).map(|number| writer.append(number).expect("room")).collect();
    within("the end", writer.producer.close()).await;
    for outcome in waiting {
        let error = settled(outcome).expect_err("no broker took it");
        assert!(matches!(error, AppendError::Unavailable { .. } | AppendError::Unknown), "{error}");
    }
}

#[tokio::test]
async fn a_producer_that_is_dropped_leaves_nobody_waiting() {
    let mock = mock();
    mock.broker_down(-1).expect("known brokers");
    let writer = Writer::start(&mock_options(&mock));
    let waiting: Vec<Durable> = (0..100).map(|number| writer.append(number).expect("room")).collect();
    drop(writer);
    for outcome in within("the outcomes", join_all(waiting)).await {
        let error = outcome.expect_err("no broker took it");
        assert!(matches!(error, AppendError::Unavailable { .. }), "{error}");
    }
}

#[tokio::test]
async fn records_of_many_callers_keep_each_callers_order() {
    let mock = mock();
    let writer = Writer::started(&mock_options(&mock)).await;
    // Retries of requests in flight must not change the order.
    mock.request_errors(RDKafkaApiKey::Produce, &[Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT; 3]);
    let names: Vec<String> = (0..8).map(|caller| format!("caller-{caller}")).collect();
    let callers = names.iter().map(|name| {
        let writer = &writer;
        let waiting: Vec<Durable> = (0..200).map(|number| writer.append_to(name, number).expect("room")).collect();
        async move { join_all(waiting).await }
    });
    for appended in within("durability", join_all(callers)).await {
        let positions: Vec<_> = appended.into_iter().map(|one| one.expect("retried").position).collect();
        assert!(positions.is_sorted_by(|one, next| one < next));
    }
    assert_eq!(writer.records().await, 8 * 200);
}
