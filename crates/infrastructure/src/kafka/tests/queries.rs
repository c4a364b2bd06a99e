//! Questions about offsets while brokers die, on the mock cluster.

use super::fixture::{TOPIC, clock, mock, mock_options};
use crate::kafka::Shared;
use crate::kafka::health::HealthState;
use crate::kafka::queries::{Bounds, Queries};
use chatify_application::ports::contract::within;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{Partition, Timestamp};
use std::sync::Arc;

#[tokio::test]
async fn whoever_leads_now_is_asked_when_the_leader_that_was_known_is_dead() {
    let mock = mock();
    let lead = |broker| (0..3).for_each(|number| mock.partition_leader(TOPIC, number, Some(broker)).expect("known"));
    lead(1);
    let shared = Shared {
        options: mock_options(&mock),
        clock: clock(),
        supervisor: Supervisor::new(),
        health: Arc::new(HealthState::new(clock())),
    };
    let queries = Queries::start(Arc::new(shared)).expect("valid options");
    let empty = vec![Bounds { first: 0, end: 0 }; 3];
    assert_eq!(within("the first answer", queries.bounds()).await.expect("healthy brokers"), empty);
    mock.broker_down(1).expect("a known broker");
    lead(2);
    assert_eq!(within("the ends", queries.bounds()).await.expect("a living leader"), empty);
    let found = within("a position", queries.offset_at(Partition(1), Timestamp::from_millis(1))).await;
    assert_eq!(found.expect("a living leader"), 0);
}
