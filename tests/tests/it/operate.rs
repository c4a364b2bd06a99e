//! What an operator of a cluster does and sees: schema, lag, dead letters, starts that wait and starts that are refused. Always with real services,
//! whatever the profile of the run.

use chatify_tests::cluster::{ClusterNames, Services};
use chatify_tests::home::{Home, Options};
use chatify_tests::http::Http;
use chatify_tests::pod::Pod;
use chatify_tests::seeds::message_id;
use chatify_tests::waiting::{LONG, eventually};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rustix::process::Signal;
use serde_json::Value;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

const SCOPE: &str = "Channel/operations";

/// `EX_CONFIG` of `sysexits.h`: nothing but another configuration will help.
const EXIT_CONFIGURATION: i32 = 78;

fn cluster() -> Arc<Home> {
    Home::with_cluster(Some(ClusterNames::new(Services::of_this_run())))
}

/// One pod that listens; it may not be ready.
async fn pod(home: &Arc<Home>, options: &Options) -> Pod {
    let announcement = home.pod_dir(0).join("listening");
    let mut pod = Pod::spawn(home.command(&["serve"], options, 0), home.next_log(), &announcement);
    pod.listening(&announcement).await;
    pod
}

async fn stop(mut pod: Pod) {
    pod.signal(Signal::TERM);
    assert!(pod.ended().await.success(), "it ends well when it is asked to");
}

async fn send(home: &Home, pod: &Pod, texts: &[&str]) {
    let http = Http::new(pod.address(), Some(home.token("alice").await));
    for text in texts {
        assert_eq!(http.send(SCOPE, text, &message_id()).await.expect("an answer").status, 201, "{text}");
    }
}

async fn texts(home: &Home, pod: &Pod) -> Vec<String> {
    let http = Http::new(pod.address(), Some(home.token("alice").await));
    http.history_forward(SCOPE, 100).await.into_iter().map(|message| message.text).collect()
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn the_schema_is_checked_and_brought_up_to_date() {
    let home = cluster();
    let check = async || home.run(&["migrate", "--check"], &Options::new()).await;
    let missing = check().await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(printed(&missing).contains("not applied: 0001_history"), "{}", printed(&missing));
    let applied = home.run(&["migrate"], &Options::new()).await;
    assert!(applied.status.success() && printed(&applied).contains("applied 0001_history\n"), "{}", printed(&applied));
    let again = home.run(&["migrate"], &Options::new()).await;
    assert!(again.status.success() && printed(&again).contains("nothing to apply"), "{}", printed(&again));
    assert!(check().await.status.success());
}

#[tokio::test]
async fn another_log_than_the_historys_is_refused_until_the_epoch_is_raised() {
    let home = cluster();
    let first = pod(&home, &Options::new()).await;
    first.ready().await;
    send(&home, &first, &["one", "two", "three"]).await;
    home.caught_up(&Options::new(), 3).await;
    stop(first).await;

    // The topic is made anew, as after the loss of all brokers' disks: the history has what this log has not.
    let other = home.cluster().expect("a cluster").topic("lost");
    let lost = Options::new().with("MESSAGE_BROKER__TOPIC_NAME", &other);
    let refused = home.run(&["serve"], &lost).await;
    assert_eq!(refused.status.code(), Some(EXIT_CONFIGURATION), "{}", printed(&refused));
    assert!(printed(&refused).contains("set `message_broker.log_epoch` to 2"), "{}", printed(&refused));

    let raised = lost.with("MESSAGE_BROKER__LOG_EPOCH", "2");
    let second = pod(&home, &raised).await;
    second.ready().await;
    send(&home, &second, &["four"]).await;
    eventually(LONG, "old and new in one order", || async {
        (texts(&home, &second).await == ["one", "two", "three", "four"]).then_some(())
    })
    .await;
    stop(second).await;
}

#[tokio::test]
async fn a_pod_without_its_services_lives_says_what_it_waits_for_and_ends_well() {
    let home = cluster();
    // Nobody listens on the discard port.
    let nobody = Options::new()
        .with("MESSAGE_BROKER__BOOTSTRAP_SERVERS", "127.0.0.1:9")
        .with("SCYLLA__CONTACT_POINTS", "127.0.0.1:9")
        .with("CACHING__CONNECTION_STRING", "redis://127.0.0.1:9");
    let alone = pod(&home, &nobody).await;
    let http = Http::new(alone.address(), Some(home.token("alice").await));
    assert_eq!(http.get("/health/live").await.status, 200);
    eventually(LONG, "the reason", || async {
        let ready = http.get("/health/ready").await;
        assert_eq!(ready.status, 503);
        ready.text().contains("no broker of `127.0.0.1:9` answers").then_some(())
    })
    .await;
    let refused = http.send(SCOPE, "too early", &message_id()).await.expect("an answer");
    assert_eq!((refused.status, refused.header("retry-after")), (503, "2"));
    stop(alone).await;
}

#[tokio::test]
async fn a_pod_serves_without_history_store_and_redis_and_says_so() {
    let home = cluster();
    let options = Options::new()
        .with("SCYLLA__CONTACT_POINTS", "127.0.0.1:9")
        .with("CACHING__CONNECTION_STRING", "redis://127.0.0.1:9");
    let degraded = pod(&home, &options).await;
    degraded.ready().await;
    send(&home, &degraded, &["all the same"]).await;
    let http = Http::new(degraded.address(), Some(home.token("alice").await));
    eventually(LONG, "both reasons", || async {
        let ready = http.get("/health/ready").await;
        assert_eq!(ready.status, 200);
        let text = ready.text();
        (text.contains("the history store is away") && text.contains("Redis is away")).then_some(())
    })
    .await;
    assert_eq!(http.get("/api/users/alice/presence").await.json()["status"], "unknown");
    stop(degraded).await;
}

#[tokio::test]
async fn what_a_service_cannot_take_is_refused_by_name() {
    let home = cluster();
    let cases = [
        ("MESSAGE_BROKER__PROPERTIES", "acks=0", "acks"),
        ("MESSAGE_BROKER__PROPERTIES", "no.such.property=1", "no.such.property"),
        ("MESSAGE_BROKER__SECURITY__PROTOCOL", "sasl_plaintext", "message_broker.security.sasl_mechanism"),
        ("MESSAGE_BROKER__SECURITY__PASSWORD_FILE", "missing", "message_broker.security.password_file"),
        ("SCYLLA__REPLICATION_FACTOR", "0", "scylla.replication_factor"),
        ("CACHING__CONNECTION_STRING", "redis://:hunter2@host:port", "connection string"),
        ("CACHING__CA_FILE", "missing", "caching.ca_file"),
    ];
    for (key, value, named) in cases {
        for command in ["check-config", "serve"] {
            let refused = home.run(&[command], &Options::new().with(key, value)).await;
            let told = printed(&refused);
            assert_eq!(refused.status.code(), Some(EXIT_CONFIGURATION), "{command} with {key}={value}: {told}");
            assert!(told.contains(named) && !told.contains("hunter2"), "{command} with {key}={value}: {told}");
        }
    }
    assert!(home.run(&["check-config"], &Options::new()).await.status.success());
}

#[tokio::test]
async fn poison_is_listed_shown_and_not_put_back_as_it_is() {
    let home = cluster();
    let running = pod(&home, &Options::new()).await;
    running.ready().await;
    let names = home.cluster().expect("a cluster");
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", names.services().kafka[0].as_str()).create().expect("a producer");
    let topic = names.topic("1");
    let record = FutureRecord::to(&topic).partition(1).key("Channel:operations").payload("no record of ours");
    producer.send(record, Duration::from_secs(30)).await.expect("written past the server");
    let origin = format!("{topic}/1/0");
    let listed = eventually(LONG, "the dead letter", || async {
        let listed = home.run(&["dead-letters", "list", "--json"], &Options::new()).await;
        // Brokers that do not answer in time are asked again.
        let listed = Some(listed).filter(|listed| listed.status.success())?;
        String::from_utf8(listed.stdout).ok().filter(|lines| !lines.is_empty())
    })
    .await;
    let letter: Value = serde_json::from_str(listed.trim()).expect("one line of JSON");
    assert_eq!((&letter["origin"], &letter["class"]), (&Value::from(origin.as_str()), &Value::from("malformed")));
    let shown = home.run(&["dead-letters", "show", &origin], &Options::new()).await;
    assert!(printed(&shown).contains("no record of ours"), "{}", printed(&shown));
    let replayed = home.run(&["dead-letters", "replay", &origin], &Options::new()).await;
    assert_eq!(replayed.status.code(), Some(1));
    assert!(printed(&replayed).contains("still cannot be read"), "{}", printed(&replayed));
    let unknown = home.run(&["dead-letters", "show", &format!("{topic}/1/7")], &Options::new()).await;
    assert_eq!(unknown.status.code(), Some(1));
    // The partition goes on.
    home.caught_up(&Options::new(), 1).await;
    stop(running).await;
}
