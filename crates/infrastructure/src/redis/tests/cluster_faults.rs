//! One node of a cluster in trouble.

use super::fixture::{Fixture, Pod, becomes, hourly};
use super::server::OwnServer;
use crate::redis::RedisOptions;
use crate::redis::keys::{SLOT_RANGES, slot_range};
use chatify_application::ports::contract::{user, within};
use chatify_application::ports::presence::{ConnectionId, Presence};
use chatify_application::ports::{PresenceStore, RateLimiter};
use chatify_building_blocks::clock::Clock;
use chatify_domain::SenderId;
use std::time::Duration;
use tokio::task::yield_now;

/// A cluster of the test's own, and a pod of a deployment on it.
async fn cluster(deadline: Duration) -> (Vec<OwnServer>, Fixture, Pod) {
    let nodes = OwnServer::start_nodes();
    let ask = async |node: usize, words: &[&str]| Fixture::at(nodes[node].0.url()).raw::<String>(words).await;
    for (node, slots) in ["0 5460", "5461 10922", "10923 16383"].into_iter().enumerate() {
        within("a node", nodes[node].0.answers()).await;
        let slots: Vec<_> = slots.split(' ').collect();
        ask(node, &["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]).await;
        ask(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(node + 1).to_string()]).await;
    }
    for (node, bus) in &nodes[1..] {
        ask(0, &["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), &bus.to_string()]).await;
    }
    for node in 0..nodes.len() {
        within("the cluster", async {
            loop {
                let state = ask(node, &["CLUSTER", "INFO"]).await;
                if state.contains("cluster_state:ok") && state.contains("cluster_slots_assigned:16384") {
                    break;
                }
                yield_now().await;
            }
        })
        .await;
    }
    let hosts: Vec<_> = nodes.iter().map(|(node, _)| format!("127.0.0.1:{}", node.port)).collect();
    let fixture = Fixture::at(format!("redis+cluster://{}", hosts.join(",")));
    let pod = fixture.pod_with(RedisOptions { deadline, ..fixture.options("pod") }, hourly(100)).await;
    assert!(pod.connection.is_available(), "a new cluster");
    (nodes.into_iter().map(|(node, _)| node).collect(), fixture, pod)
}

/// A user whose keys are on this node.
fn user_on(pod: &Pod, node: usize) -> SenderId {
    let range = node * SLOT_RANGES / 3 + 2;
    let mut users = (0..).map(|number| user(&format!("user {number}")));
    users.find(|user| slot_range(&pod.connection.keys().budget(user)) == range).expect("one of many")
}

/// The healthy nodes' answers do not hide it, so nobody waits for it again and again.
#[tokio::test]
async fn one_frozen_node_costs_a_few_deadlines_and_not_one_for_each_request() {
    // It holds while the nodes are well, too.
    let (nodes, _fixture, pod) = cluster(Duration::from_secs(6)).await;
    let users: Vec<_> = (0..3).map(|node| user_on(&pod, node)).collect();
    for user in &users {
        pod.limiter.check_send(user).await;
    }
    assert_eq!(pod.connection.counts().failures, 0);
    nodes[2].freeze(true);
    for user in users.iter().cycle().take(300) {
        pod.limiter.check_send(user).await;
    }
    assert_eq!(pod.connection.counts().failures, 3);
    assert!(!pod.connection.is_available());
    nodes[2].freeze(false);
    becomes(&pod.connection, true).await;
    let before = pod.connection.counts().local_limits;
    for user in &users {
        pod.limiter.check_send(user).await;
    }
    assert_eq!(pod.connection.counts().local_limits, before);
}

/// The pod's lease is on another node, and stays.
#[tokio::test]
async fn what_one_node_lost_comes_back_with_the_next_renewal() {
    let (nodes, fixture, pod) = cluster(Duration::from_secs(20)).await;
    let users: Vec<_> = (0..3).map(|node| user_on(&pod, node)).collect();
    for (number, user) in (0..).zip(&users) {
        pod.presence.connected(user, ConnectionId(number)).await;
    }
    for node in &nodes {
        Fixture::at(node.url()).raw::<()>(&["FLUSHALL"]).await;
        pod.presence.renew().await;
        for user in &users {
            let online = Presence::Online { since: fixture.clock.now(), connections: 1 };
            assert_eq!(pod.presence.presence(user).await, online);
        }
    }
}
