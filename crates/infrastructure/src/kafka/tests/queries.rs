//! Questions about offsets while brokers die, on the mock cluster.

use super::fixture::{Mock, TOPIC, clock, mock, mock_options};
use crate::kafka::Shared;
use crate::kafka::health::HealthState;
use crate::kafka::lag::{self, LagError};
use crate::kafka::queries::{Bounds, Queries};
use crate::kafka::tail::KafkaTail;
use chatify_application::ports::LogTail;
use chatify_application::ports::contract::within;
use chatify_building_blocks::clock::{Clock, ManualClock};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{Partition, Timestamp};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::sync::Arc;

fn shared(mock: &Mock, clock: Arc<dyn Clock>) -> Arc<Shared> {
    Arc::new(Shared {
        options: mock_options(mock),
        supervisor: Supervisor::new(),
        health: Arc::new(HealthState::new(Arc::clone(&clock))),
        clock,
    })
}

/// Their time stands still, so that a slow machine does not end their patience.
fn queries(mock: &Mock) -> Arc<Queries> {
    let still = Arc::new(ManualClock::at(Timestamp::from_millis(0)));
    Queries::start(shared(mock, still)).expect("valid options")
}

#[tokio::test]
async fn a_group_that_moves_to_another_coordinator_is_asked_again() {
    let mock = mock();
    let queries = queries(&mock);
    let nothing = vec![None; 3];
    assert_eq!(within("the first answer", queries.committed()).await.expect("healthy brokers"), nothing);
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
    ] {
        mock.request_errors(RDKafkaApiKey::OffsetFetch, &[error, error]);
        let found = within("the next answer", queries.committed()).await;
        assert_eq!(found.expect("it is there a moment later"), nothing, "{error:?}");
    }
}

#[tokio::test]
async fn whoever_leads_now_is_asked_when_the_leader_that_was_known_is_dead() {
    let mock = mock();
    let lead = |broker| (0..3).for_each(|number| mock.partition_leader(TOPIC, number, Some(broker)).expect("known"));
    lead(1);
    let queries = queries(&mock);
    let empty = vec![Bounds { first: 0, end: 0 }; 3];
    assert_eq!(within("the first answer", queries.bounds()).await.expect("healthy brokers"), empty);
    mock.broker_down(1).expect("a known broker");
    lead(2);
    assert_eq!(within("the ends", queries.bounds()).await.expect("a living leader"), empty);
    let found = within("a position", queries.offset_at(Partition(1), Timestamp::from_millis(1))).await;
    assert_eq!(found.expect("a living leader"), 0);
}

#[tokio::test]
async fn a_partition_without_a_leader_keeps_its_own_end_to_itself_and_no_other() {
    let mock = mock();
    let shared = shared(&mock, clock());
    let tail = KafkaTail::new(Arc::clone(&shared), Queries::start(shared).expect("valid options"));
    let end = |number| within("an end", tail.end(Partition(number)));
    let start = end(1).await.expect("healthy brokers");
    mock.partition_leader(TOPIC, 1, None).expect("a known partition");
    within("the loss of the leader", async { while end(1).await.is_ok() {} }).await;
    for number in [0, 2] {
        assert_eq!(end(number).await.expect("a leader"), start, "{number}");
    }
    mock.partition_leader(TOPIC, 1, Some(2)).expect("a known partition");
    within("the new leader", async { while end(1).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_log_that_nobody_leads_is_not_taken_for_one_that_is_not_there() {
    let mock = mock();
    (0..3).for_each(|number| mock.partition_leader(TOPIC, number, None).expect("a known partition"));
    let lag = within("an answer", lag::read(&mock_options(&mock), clock())).await;
    assert!(matches!(&lag, Err(LagError::Brokers(_))), "{lag:?}");
}
