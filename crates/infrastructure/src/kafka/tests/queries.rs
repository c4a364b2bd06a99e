//! Questions about offsets while brokers die, on the mock cluster.

use super::fixture::{Mock, TOPIC, clock, mock, mock_options};
use crate::kafka::Shared;
use crate::kafka::health::HealthState;
use crate::kafka::queries::{Bounds, Queries};
use chatify_application::ports::contract::within;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{Partition, Timestamp};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::sync::Arc;

fn queries(mock: &Mock) -> Arc<Queries> {
    let shared = Shared {
        options: mock_options(mock),
        clock: clock(),
        supervisor: Supervisor::new(),
        health: Arc::new(HealthState::new(clock())),
    };
    Queries::start(Arc::new(shared)).expect("valid options")
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
