//! What one user, one connection and the whole server may use, and what happens at each limit.

use chatify_tests::hub::{HubError, HubOptions, send_argument};
use chatify_tests::records::{Format, Record};
use chatify_tests::seeds::message_id;
use chatify_tests::server::{Options, Server};
use chatify_tests::waiting::{SOON, eventually};

#[tokio::test]
async fn a_full_server_turns_new_connections_away_until_somebody_leaves() {
    let server = Server::start(Options::new().with("LIMITS__CONNECTIONS", "5").on_one_pod("limits")).await;
    let mut hubs = Vec::new();
    for number in 0..4 {
        hubs.push(server.hub(&format!("user-{number}")).await);
    }
    // A stream takes a place as a hub connection does.
    let stream = server.http("streamer").await.events("Channel/full", None).await;
    let refused = server.try_hub("late", HubOptions::default()).await.expect_err("it is full");
    assert!(matches!(&refused, HubError::Refused(429, body) if body.contains("RATE_LIMIT_EXCEEDED")), "{refused}");
    let refused = server.http("late").await.get("/api/scopes/Channel/full/events").await;
    assert_eq!((refused.status, refused.problem()), (429, "RATE_LIMIT_EXCEEDED".to_owned()));
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0), "{:?}", refused.headers);
    // Plain requests need no place.
    assert_eq!(server.http("late").await.get("/api/users/late/presence").await.status, 200);
    drop(stream);
    eventually(SOON, "there is room again", || async { server.try_hub("late", HubOptions::default()).await.ok() })
        .await;
    server.stop().await;
}

#[tokio::test]
async fn one_user_may_have_so_many_connections_and_others_theirs() {
    let server = Server::start(Options::new().with("LIMITS__CONNECTIONS_PER_USER", "2").on_one_pod("limits")).await;
    let first = server.hub("alice").await;
    let stream = server.http("alice").await.events("Channel/own", None).await;
    let refused = server.try_hub("alice", HubOptions::default()).await.expect_err("two are enough");
    assert!(matches!(&refused, HubError::Refused(429, body) if body.contains("RATE_LIMIT_EXCEEDED")), "{refused}");
    assert_eq!(server.http("alice").await.get("/api/scopes/Channel/own/events").await.status, 429);
    server.hub("bob").await.close().await;
    first.close().await;
    eventually(SOON, "alice has room again", || async { server.try_hub("alice", HubOptions::default()).await.ok() })
        .await;
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn a_connection_may_be_in_so_many_scopes() {
    let server = Server::start(Options::new().with("LIMITS__SCOPES_PER_CONNECTION", "3")).await;
    let mut hub = server.hub("alice").await;
    for scope in ["one", "two", "three", "one"] {
        hub.join(scope, None).await.expect("there is room");
    }
    let refused = hub.join("four", None).await.expect_err("three are enough");
    assert!(matches!(&refused, HubError::Call(error) if error.starts_with("RATE_LIMIT_EXCEEDED: ")), "{refused}");
    hub.call("LeaveScope", vec!["two".into()]).await.expect("left");
    hub.join("four", None).await.expect("there is room again");
    let sent = hub.send("Channel:four", "hello", &message_id()).await.expect("accepted");
    assert_eq!(hub.message().await, sent);
    server.stop().await;
}

#[tokio::test]
async fn more_sends_than_may_wait_for_the_log_wait_in_the_socket() {
    let server = Server::start(Options::new().with("LIMITS__SENDS_IN_FLIGHT", "1")).await;
    let mut hub = server.hub("alice").await;
    let calls: Vec<Record> = (0..200)
        .map(|n: i32| {
            let argument = send_argument("Channel:waiting", &n.to_string(), &message_id());
            Record::call(&n.to_string(), "Send", vec![argument])
        })
        .collect();
    for part in calls.chunks(50) {
        hub.write(Format::Json.frame(part)).await.expect("written");
    }
    for n in 0..200 {
        hub.answer_to(&n.to_string()).await.expect("accepted, and answered in its turn");
    }
    let history = server.http("alice").await.history_forward("Channel/waiting", 500).await;
    let texts: Vec<&str> = history.iter().map(|message| message.text.as_str()).collect();
    let expected: Vec<String> = (0..200).map(|n: i32| n.to_string()).collect();
    assert_eq!(texts, expected, "in the order in which they were sent");
    server.stop().await;
}

#[tokio::test]
async fn a_resume_reaches_further_back_than_the_memory_of_the_pod() {
    let server = Server::start(Options::new().with("LIMITS__TAIL_BYTES", "1MiB").on_one_pod("limits")).await;
    let mut alice = server.hub("alice").await;
    // Three times what the tail holds.
    let (count, long) = (800usize, "x".repeat(4_000));
    let mut sent = Vec::new();
    for n in 0..count {
        let text = format!("{n} {long}");
        sent.push(alice.send("Channel:far", &text, &message_id()).await.expect("accepted"));
    }
    server.remembers(&sent[count - 1]).await;
    let http = server.http("bob").await;
    // What memory dropped and the history has not got yet cannot be answered; here the question is what is answered afterwards.
    for part in [sent[0].position, sent[count / 2].position] {
        let query = format!("after={part}&limit=500");
        let path = format!("/api/scopes/Channel/far/messages?{query}");
        let stored = async || {
            let page = http.get(&path).await;
            // A store that is late refuses.
            (page.status == 200 && page.json()["complete"] == true).then_some(())
        };
        eventually(SOON, "the history has caught up", stored).await;
    }
    for seen in [1, 300, 500, count - 3] {
        let after = sent[seen - 1].position;
        let mut bob = server.hub("bob").await;
        let joined = bob.join("Channel:far", Some(after)).await.expect("joined");
        let reached = seen + joined.messages.len();
        assert_eq!(joined.messages, sent[seen..reached], "after {seen}");
        assert_eq!(joined.recovered, reached == count, "{:?} after {seen}", joined.reason);
        if joined.has_more {
            assert_eq!(joined.position, sent[reached - 1].position, "the cursor is where the answer ends");
            let page = http.page("Channel/far", &format!("after={}&limit=500", joined.position)).await;
            assert_eq!(page.items, sent[reached..], "the rest is in the history");
        }
        bob.close().await;
    }
    assert_eq!(http.history_forward("Channel/far", 111).await, sent);
    let tail = server.metric("chatify_tail_bytes", "").await.expect("measured");
    assert!(tail <= 1_200_000.0, "the tail keeps to its budget: {tail}");
    server.stop().await;
}
