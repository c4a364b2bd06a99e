//! What a fleet promises that one process cannot show: reads on one pod of what was sent on another, and nobody left online by a dead pod. Over the shared
//! services, without a nemesis.

use chatify_tests::cluster::{ClusterNames, Services};
use chatify_tests::home::{Home, Options};
use chatify_tests::http::Http;
use chatify_tests::hub::{Hub, HubOptions};
use chatify_tests::process::allow_open_files;
use chatify_tests::seeds::message_id;
use chatify_tests::server::Server;
use chatify_tests::waiting::eventually;
use rustix::process::Signal;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Three pods over the shared services, whatever profile the other suites run with.
async fn fleet() -> Server {
    allow_open_files(8_192);
    let home = Home::with_cluster(Some(ClusterNames::new(Services::of_this_run())));
    // Clients here never ping, and a Redis that is late on a busy machine is not away.
    let options = Options::new().with("LIMITS__CLIENT_TIMEOUT", "10m").with("CACHING__DEADLINE", "5s");
    let server = Server::start_in(&home, options).await;
    server.ready().await;
    server
}

const WRITERS: usize = 20;
const SENDS_EACH: usize = 500;

/// One user's turn: says something on one pod and reads the history on the next one, again and again.
async fn say_and_read(writer: usize, pods: Vec<std::net::SocketAddr>, token: String) {
    let scope = format!("Channel/own-words-{writer}");
    let clients: Vec<Http> = pods.into_iter().map(|pod| Http::new(pod, Some(token.clone()))).collect();
    for number in 0..SENDS_EACH {
        let said = clients[number % clients.len()].send(&scope, &number.to_string(), &message_id()).await;
        let said = said.expect("an answer");
        assert_eq!(said.status, 201, "{}", said.text());
        // A pod that cannot ask the log in time says that its page is not the newest: then nothing is promised yet.
        let page = clients[(number + 1) % clients.len()].newest_page(&scope, "limit=1").await;
        let newest = page.items.last().map(|message| message.text.clone());
        assert_eq!(newest, Some(number.to_string()), "what was accepted is in the next read, on any pod");
        assert!(page.complete, "nothing was away");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_on_one_pod_is_read_on_another_ten_thousand_times() {
    let server = fleet().await;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let pods = server.pods().iter().map(chatify_tests::pod::Pod::address).collect();
        let token = server.token(&format!("writer-{writer}")).await;
        writers.spawn(say_and_read(writer, pods, token));
    }
    while let Some(written) = writers.join_next().await {
        written.expect("every read has what was said before");
    }
    server.stop().await;
}

const USERS: usize = 50;
/// docs/OPERATIONS.md's promise for users of a pod that is gone.
const GONE_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_of_a_killed_pod_is_online_a_minute_later() {
    let server = fleet().await;
    let (doomed, other) = (server.pods()[0].address(), server.pods()[1].address());
    let mut connections = Vec::new();
    for user in 0..USERS {
        let token = server.token(&format!("user-{user}")).await;
        connections.push(Hub::connect(doomed, &token, HubOptions::default()).await.expect("it connects"));
    }
    let http = Http::new(other, Some(server.token("watcher").await));
    let status = async |user: &str| http.get(&format!("/api/users/{user}/presence")).await.json()["status"].clone();
    for user in (0..USERS).map(|user| format!("user-{user}")) {
        eventually(GONE_WITHIN, "everybody is online", async || (status(&user).await == "online").then_some(())).await;
    }
    server.pods()[0].signal(Signal::KILL);
    let end = Instant::now() + GONE_WITHIN;
    // Who is offline does not come back, so one after the other may be looked at.
    for user in (0..USERS).map(|user| format!("user-{user}")) {
        let left = end.saturating_duration_since(Instant::now());
        eventually(left, "who was on the killed pod is offline", async || {
            (status(&user).await == "offline").then_some(())
        })
        .await;
    }
    drop(connections);
    server.kill().await;
}
