//! Budgets that several pods share.

use super::fixture::{Fixture, Pod, hourly};
use chatify_application::ports::RateLimiter;
use chatify_application::ports::contract::user;
use chatify_application::ports::rate_limit::Decision;
use futures_util::future::join_all;
use std::time::Duration;

async fn allowed(pods: &[&Pod], tries: usize) -> usize {
    let alice = user("}{alice:é");
    let asks = pods.iter().flat_map(|pod| (0..tries).map(|_| pod.limiter.check_send(&alice)));
    join_all(asks).await.into_iter().filter(|decision| *decision == Decision::Allowed).count()
}

async fn pods_share_one_budget(fixture: Fixture) {
    let (one, other) = (fixture.pod("one").await, fixture.pod("other").await);
    assert_eq!(allowed(&[&one, &other], 200).await, 100);
    assert_eq!(one.connection.counts().local_limits + other.connection.counts().local_limits, 0);
}

#[tokio::test]
async fn two_pods_allow_one_budget_together() {
    pods_share_one_budget(Fixture::single()).await;
}

#[tokio::test]
async fn two_pods_of_a_cluster_allow_one_budget_together() {
    pods_share_one_budget(Fixture::cluster()).await;
}

/// Redis's own clock is used, and a budget that came from a clock ahead of it locks nobody out for longer than the window.
#[tokio::test]
async fn a_clock_that_stepped_back_locks_nobody_out() {
    let fixture = Fixture::single();
    let pod = fixture.pod_with(fixture.options("pod"), hourly(2)).await;
    let key = pod.connection.keys().budget(&user("alice"));
    fixture.raw::<()>(&["SET", &key, "99999999999999999"]).await;
    let Decision::Limited { retry_after } = pod.limiter.check_send(&user("alice")).await else {
        panic!("the budget is used up");
    };
    assert_eq!(retry_after, Duration::from_secs(3_600));
}

#[tokio::test]
async fn a_budget_that_is_whole_again_takes_no_memory() {
    let fixture = Fixture::single();
    let pod = fixture.pod_with(fixture.options("pod"), hourly(2)).await;
    assert_eq!(pod.limiter.check_send(&user("alice")).await, Decision::Allowed);
    let key = pod.connection.keys().budget(&user("alice"));
    let lifetime: u64 = fixture.raw(&["PTTL", &key]).await;
    assert!((3_500_000..3_700_000).contains(&lifetime), "{lifetime}");
}
