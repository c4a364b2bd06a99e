//! What a well-behaved client can rely on: joins, sends, resumes and their answers, in both formats.

use chatify_tests::hub::{Hub, HubError, HubOptions, send_argument};
use chatify_tests::message::ChatMessage;
use chatify_tests::records::{Format, Record};
use chatify_tests::seeds::{Seed, message_id, message_id_of, unix_seconds};
use chatify_tests::server::{Options, Server};
use chatify_tests::waiting::SOON;
use chatify_tests::waiting::eventually;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

fn format(format: Format) -> HubOptions {
    HubOptions { format, ..HubOptions::default() }
}

fn code(error: HubError) -> String {
    match error {
        HubError::Call(error) => error.split(':').next().unwrap_or_default().to_owned(),
        other => panic!("not the error of a call: {other}"),
    }
}

async fn connect(server: &Server, user: &str, wanted: Format) -> Hub {
    server.try_hub(user, format(wanted)).await.unwrap_or_else(|error| panic!("{user}: {error}"))
}

#[tokio::test]
async fn everybody_in_a_scope_receives_a_message_once_in_every_format() {
    let server = Server::start(Options::new()).await;
    for (number, sending) in Format::ALL.into_iter().enumerate() {
        let scope = format!("Channel:room {number} ü");
        let mut sender = connect(&server, "alice", sending).await;
        let mut others = Vec::new();
        for receiving in Format::ALL {
            let mut other = connect(&server, "bob", receiving).await;
            other.join(&scope, None).await.expect("a channel is open to all");
            others.push(other);
        }
        sender.join(&scope, None).await.expect("a channel is open to all");
        let texts = ["plain", "", "Grüße 👋 \u{1e} \u{0} \n \"quoted\" \\", "<b>not markup</b>"];
        for text in texts {
            let id = message_id();
            let accepted = sender.send(&scope, text, &id).await.expect("accepted");
            assert_eq!((accepted.text.as_str(), accepted.message_id.as_str()), (text, id.as_str()));
            assert_eq!((accepted.sender_id.as_str(), accepted.scope.as_str()), ("alice", scope.as_str()));
            assert_eq!(sender.message().await, accepted, "the sender receives it too");
            for other in &mut others {
                assert_eq!(other.message().await, accepted);
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_bare_name_is_a_channel_and_leaving_ends_delivery() {
    let server = Server::start(Options::new()).await;
    let (mut alice, mut bob) = (server.hub("alice").await, server.hub("bob").await);
    assert_eq!(alice.join("general", None).await.expect("joined").scope, "Channel:general");
    // Joining again and again is not receiving again and again.
    for _ in 0..20 {
        alice.join("Channel:general", None).await.expect("joined");
    }
    let first = bob.send("Channel:general", "first", &message_id()).await.expect("accepted without being in the scope");
    assert_eq!(alice.message().await, first);
    alice.call("LeaveScope", vec![json!("general")]).await.expect("left");
    bob.send("Channel:general", "unheard", &message_id()).await.expect("accepted");
    let joined = alice.join("Channel:other", None).await.expect("joined");
    assert!(joined.messages.is_empty());
    let last = bob.send("Channel:other", "last", &message_id()).await.expect("accepted");
    assert_eq!(alice.message().await, last, "nothing else came in between");
    server.stop().await;
}

#[tokio::test]
async fn records_may_share_a_frame_and_may_be_split_over_frames() {
    let server = Server::start(Options::new()).await;
    for wanted in Format::ALL {
        let mut hub = connect(&server, "alice", wanted).await;
        let scope = format!("Channel:{}", wanted.name());
        let call = |id: &str, text: &str| Record::call(id, "Send", vec![send_argument(&scope, text, &message_id())]);
        let many: Vec<Record> = (0..20).map(|n| call(&format!("many-{n}"), &n.to_string())).collect();
        hub.write(wanted.frame(&many)).await.expect("written");
        let ids: Vec<String> = (0..20).map(|n| format!("many-{n}")).collect();
        let answers = hub.answers_to(&ids).await.expect("accepted");
        let positions: Vec<i64> =
            answers.iter().map(|answer| answer["position"].as_i64().expect("a position")).collect();
        assert!(positions.is_sorted(), "one connection's sends keep their order: {positions:?}");
        let bytes = wanted.frame(&[call("split-0", "a"), call("split-1", "b")]).into_data();
        for part in bytes.chunks(7) {
            let frame = match wanted {
                Format::Json => Message::text(std::str::from_utf8(part).expect("ASCII").to_owned()),
                Format::MessagePack => Message::binary(part.to_vec()),
            };
            hub.write(frame).await.expect("written");
        }
        hub.answers_to(&["split-0", "split-1"].map(str::to_owned)).await.expect("accepted");
    }
    server.stop().await;
}

#[tokio::test]
async fn calls_without_an_id_get_no_answer() {
    let server = Server::start(Options::new()).await;
    let mut hub = server.hub("alice").await;
    hub.join("Channel:quiet", None).await.expect("joined");
    let quiet = |target: &str, arguments| Record::Invocation { id: None, target: target.into(), arguments };
    hub.send_record(&quiet("NoSuchMethod", vec![])).await.expect("written");
    hub.send_record(&quiet("Send", vec![json!("not a message")])).await.expect("written");
    let good = send_argument("Channel:quiet", "heard", &message_id());
    hub.send_record(&quiet("Send", vec![good])).await.expect("written");
    assert_eq!(hub.message().await.text, "heard");
    assert_eq!(hub.call("Heartbeat", vec![]).await, Ok(Value::Null), "and nothing else came");
    server.stop().await;
}

#[tokio::test]
async fn a_repeated_send_has_one_place_and_a_changed_one_is_a_conflict() {
    let server = Server::start(Options::new()).await;
    let (mut alice, mut bob) = (server.hub("alice").await, server.hub("bob").await);
    bob.join("Channel:once", None).await.expect("joined");
    let id = message_id();
    let first = alice.send("Channel:once", "hello", &id).await.expect("accepted");
    assert_eq!(bob.message().await, first, "once it was received, the pod knows it");
    for _ in 0..3 {
        assert_eq!(alice.send("Channel:once", "hello", &id).await.expect("known").position, first.position);
    }
    assert_eq!(alice.send("Channel:once", "other", &id).await.map_err(code), Err("CONFLICT".to_owned()));
    // The same id from somebody else, or in another scope, is another message.
    let second = bob.send("Channel:once", "hello", &id).await.expect("accepted");
    assert!(second.position > first.position);
    assert_eq!(bob.message().await, second, "nothing of the repeats was shown");
    let third = alice.send("Channel:twice", "hello", &id).await.expect("accepted");
    assert_ne!((third.partition, third.position), (first.partition, first.position));
    server.remembers(&second).await;
    // Over HTTP it is the same message too.
    let repeated = server.http("alice").await.send("Channel/once", "hello", &id).await.expect("an answer");
    assert_eq!((repeated.status, repeated.json()["position"].as_i64()), (201, Some(first.position)));
    let history = server.http("bob").await.history_forward("Channel/once", 10).await;
    assert_eq!(history, [first, second]);
    server.stop().await;
}

#[tokio::test]
async fn a_repeat_right_behind_the_answer_is_recognised() {
    let server = Server::start(Options::new()).await;
    for format in Format::ALL {
        let mut alice = connect(&server, "alice", format).await;
        let scope = format!("Channel:again-{}", format.name());
        let mut sent = Vec::new();
        for n in 0..100 {
            let (text, id) = (n.to_string(), message_id());
            let first = alice.send(&scope, &text, &id).await.expect("accepted");
            assert_eq!(alice.send(&scope, &text, &id).await.as_ref(), Ok(&first), "a repeat has the first one's place");
            assert_eq!(alice.send(&scope, "changed", &id).await.map_err(code), Err("CONFLICT".to_owned()));
            sent.push(first);
        }
        let history = server.http("alice").await.history_forward(&scope.replace(':', "/"), 500).await;
        assert_eq!(history, sent);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_retry_from_before_the_window_is_found_in_the_history() {
    let server = Server::start(Options::new()).await;
    let mut alice = server.hub("alice").await;
    let a_week_ago = u64::try_from((unix_seconds() - 7 * 86_400) * 1000).expect("after 1970");
    let id = message_id_of(a_week_ago);
    let first = alice.send("Channel:late", "hello", &id).await.expect("accepted");
    assert_eq!(alice.send("Channel:late", "hello", &id).await.expect("found").position, first.position);
    let home = server.stop().await;
    let server = Server::start_in(&home, Options::new()).await;
    server.ready().await;
    let mut alice = server.hub("alice").await;
    assert_eq!(alice.send("Channel:late", "hello", &id).await.expect("found").position, first.position);
    assert_eq!(server.http("alice").await.history_forward("Channel/late", 10).await, [first]);
    server.stop().await;
}

#[tokio::test]
async fn direct_messages_belong_to_their_participants() {
    let server = Server::start(Options::new()).await;
    let scope = "DirectMessage:alice+bob";
    let (mut alice, mut bob, mut eve) = (server.hub("alice").await, server.hub("bob").await, server.hub("eve").await);
    bob.join(scope, None).await.expect("a participant joins");
    let sent = alice.send(scope, "just us", &message_id()).await.expect("a participant sends");
    assert_eq!(bob.message().await, sent);
    assert_eq!(eve.join(scope, None).await.map(|_| ()).map_err(code), Err("FORBIDDEN".to_owned()));
    assert_eq!(eve.send(scope, "me too", &message_id()).await.map_err(code), Err("FORBIDDEN".to_owned()));
    let http = server.http("eve").await;
    let path = "/api/scopes/DirectMessage/alice+bob/messages";
    let message = format!("{path}/{}", sent.message_id);
    for path in [path, message.as_str(), "/api/scopes/DirectMessage/alice+bob/events"] {
        let answer = http.get(path).await;
        assert_eq!((answer.status, answer.problem()), (403, "FORBIDDEN".to_owned()), "{path}");
    }
    let answer = http.send("DirectMessage/alice+bob", "me too", &message_id()).await.expect("an answer");
    assert_eq!((answer.status, answer.problem()), (403, "FORBIDDEN".to_owned()));
    // The same id as a channel is another conversation, and its history does not leak.
    assert!(http.history_forward("Channel/alice+bob", 10).await.is_empty());
    let elsewhere = http.get(&format!("/api/scopes/Channel/alice+bob/messages/{}", sent.message_id)).await;
    assert_eq!((elsewhere.status, elsewhere.problem()), (404, "NOT_FOUND".to_owned()));
    assert_eq!(server.http("bob").await.history_forward("DirectMessage/alice+bob", 10).await, [sent]);
    server.stop().await;
}

#[tokio::test]
async fn a_join_without_a_cursor_shows_the_newest_messages() {
    let server = Server::start(Options::new()).await;
    let mut alice = server.hub("alice").await;
    let mut sent = Vec::new();
    for n in 0..60 {
        sent.push(alice.send("Channel:new", &n.to_string(), &message_id()).await.expect("accepted"));
    }
    server.remembers(&sent[59]).await;
    let joined = alice.join("Channel:new", None).await.expect("joined");
    assert_eq!((joined.messages.as_slice(), joined.has_more), (&sent[10..], true));
    assert_eq!(joined.position, sent[59].position, "everything up to here was seen");
    let few = alice.call("JoinScope", vec![json!("Channel:new"), json!({"limit": 5})]).await.expect("joined");
    assert_eq!(ChatMessage::read_all(&few["messages"]).expect("messages"), sent[55..]);
    let whole = alice.call("JoinScope", vec![json!("Channel:new"), json!({"limit": 500})]).await.expect("joined");
    assert_eq!(ChatMessage::read_all(&whole["messages"]).expect("messages"), sent);
    server.stop().await;
}

#[tokio::test]
async fn a_resume_from_anywhere_is_whole() {
    let seed = Seed::of_this_run();
    let server = Server::start(Options::new()).await;
    let mut alice = server.hub("alice").await;
    let mut sent = Vec::new();
    for n in 0..40 {
        sent.push(alice.send("Channel:resume", &n.to_string(), &message_id()).await.expect("accepted"));
        // Positions of other scopes lie between.
        alice.send("Channel:noise", "noise", &message_id()).await.expect("accepted");
    }
    let home = server.stop().await;
    let server = Server::start_in(&home, Options::new()).await;
    server.ready().await;
    for round in 0..60 {
        let mut bob = connect(&server, "bob", *seed.choose(&Format::ALL)).await;
        let seen = usize::try_from(seed.pick(0..41)).expect("small");
        let after = seen.checked_sub(1).map_or(0, |index| sent[index].position);
        let joined = bob.join("Channel:resume", Some(after)).await.expect("joined");
        assert!(joined.recovered && !joined.has_more && joined.reason.is_none(), "{joined:?}");
        assert_eq!(joined.messages, sent[seen..], "round {round}, after {seen} messages");
        bob.close().await;
    }
    let mut bob = server.hub("bob").await;
    let future = sent[39].position + (1 << 20);
    let joined = bob.join("Channel:resume", Some(future)).await.expect("joined");
    assert!(!joined.recovered, "nobody can have seen that position: {joined:?}");
    assert_eq!(joined.reason.as_deref(), Some("positionUnknown"));
    server.stop().await;
}

#[tokio::test]
async fn a_resume_that_missed_too_much_says_so_and_pages() {
    let server = Server::start(Options::new()).await;
    let mut alice = server.hub("alice").await;
    let mut sent = Vec::new();
    for n in 0..30 {
        sent.push(alice.send("Channel:long", &n.to_string(), &message_id()).await.expect("accepted"));
    }
    server.remembers(&sent[29]).await;
    let options = json!({"after": sent[4].position, "limit": 10});
    let joined = alice.call("JoinScope", vec![json!("Channel:long"), options]).await.expect("joined");
    assert_eq!(ChatMessage::read_all(&joined["messages"]).expect("messages"), sent[5..15]);
    assert_eq!(
        (&joined["hasMore"], &joined["recovered"], &joined["reason"]),
        (&json!(true), &json!(false), &json!("limit"))
    );
    let position = joined["position"].as_i64().expect("a position");
    assert_eq!(position, sent[14].position, "the cursor is where the answer ends");
    let page = server.http("alice").await.page("Channel/long", &format!("after={position}&limit=500")).await;
    assert_eq!(page.items, sent[15..]);
    let live = alice.send("Channel:long", "live", &message_id()).await.expect("accepted");
    assert!(live.position > joined["liveAfter"].as_i64().expect("a position"));
    assert_eq!(alice.message().await, live);
    server.stop().await;
}

#[tokio::test]
async fn joins_under_traffic_leave_no_gap() {
    let server = Server::start(Options::new()).await;
    let mut sender = server.hub("alice").await;
    let sending = async {
        for n in 0..600 {
            sender.send("Channel:busy", &n.to_string(), &message_id()).await.expect("accepted");
        }
    };
    let joining = async {
        let mut seen: Vec<ChatMessage> = Vec::new();
        while seen.len() < 600 {
            let mut bob = server.hub("bob").await;
            let after = seen.last().map_or(0, |message| message.position);
            let joined = bob.join("Channel:busy", Some(after)).await.expect("joined");
            assert!(joined.recovered, "{joined:?}");
            seen.extend(joined.messages);
            for _ in 0..25.min(600 - seen.len()) {
                seen.push(bob.message().await);
            }
            bob.close().await;
        }
        seen
    };
    let ((), seen) = tokio::join!(sending, joining);
    let texts: Vec<&str> = seen.iter().map(|message| message.text.as_str()).collect();
    let expected: Vec<String> = (0..600).map(|n: i32| n.to_string()).collect();
    assert_eq!(texts, expected);
    server.stop().await;
}

#[tokio::test]
async fn negotiation_is_stateless_and_offers_websockets() {
    let server = Server::start(Options::new()).await;
    let http = server.http("alice").await;
    for (query, version) in [("", 0), ("?negotiateVersion=0", 0), ("?negotiateVersion=1", 1)] {
        let answer = http.must(hyper::Method::POST, &format!("/hubs/chat/negotiate{query}"), &[], None).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("cache-control"), "no-store");
        let body = answer.json();
        assert_eq!(body["negotiateVersion"].as_u64().unwrap_or(0), version, "{body}");
        assert!(body["connectionId"].as_str().is_some_and(|id| !id.is_empty()), "{body}");
        assert_eq!(body["connectionToken"].is_string(), version == 1, "{body}");
        let transports = body["availableTransports"].as_array().expect("a list");
        let websockets = transports.iter().find(|transport| transport["transport"] == "WebSockets").expect("offered");
        assert_eq!(websockets["transferFormats"], json!(["Text", "Binary"]));
    }
    server.stop().await;
}

#[tokio::test]
async fn browsers_send_the_token_in_the_query() {
    let server = Server::start(Options::new()).await;
    let options = HubOptions { token_in_query: true, ..HubOptions::default() };
    let mut hub = server.try_hub("alice", options).await.expect("let in");
    let sent = hub.send("Channel:query", "hello", &message_id()).await.expect("accepted");
    assert_eq!(sent.sender_id, "alice");
    let token = server.token("alice").await;
    let anonymous = chatify_tests::http::Http::new(server.address(), None);
    let answer = anonymous.get(&format!("/api/scopes/Channel/query/messages?access_token={token}")).await;
    assert_eq!(answer.status, 401, "only the hub takes a token from the query");
    server.stop().await;
}

#[tokio::test]
async fn closed_connections_are_forgotten() {
    let server = Server::start(Options::new()).await;
    let mut hubs = Vec::new();
    for number in 0..20 {
        let mut hub = connect(&server, "alice", Format::ALL[number % 2]).await;
        hub.join("Channel:crowd", None).await.expect("joined");
        hubs.push(hub);
    }
    active_connections(&server, 20.0).await;
    for (number, hub) in hubs.into_iter().enumerate() {
        if number % 2 == 0 {
            hub.close().await;
        } else {
            drop(hub);
        }
    }
    active_connections(&server, 0.0).await;
    server.stop().await;
}

async fn active_connections(server: &Server, expected: f64) {
    eventually(SOON, &format!("{expected} active connections"), || async {
        let active = server.metric("chatify_active_connections", "").await;
        (active.unwrap_or_default() == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_new_epoch_goes_on_behind_the_old_one() {
    let server = Server::start(Options::new()).await;
    let mut alice = server.hub("alice").await;
    let mut sent = Vec::new();
    for n in 0..5 {
        sent.push(alice.send("Channel:epochs", &n.to_string(), &message_id()).await.expect("accepted"));
    }
    server.remembers(&sent[4]).await;
    // The next epoch of a cluster has another topic, and nobody reads the old one any more.
    server.history_has(5).await;
    let home = server.stop().await;
    let server = Server::start_in(&home, Options::new().with("MESSAGE_BROKER__LOG_EPOCH", "2")).await;
    server.ready().await;
    let mut alice = server.hub("alice").await;
    for n in 5..10 {
        let message = alice.send("Channel:epochs", &n.to_string(), &message_id()).await.expect("accepted");
        assert_eq!(message.position >> 40, 2, "a position names its epoch");
        sent.push(message);
    }
    server.remembers(&sent[9]).await;
    assert_eq!(server.http("alice").await.history_forward("Channel/epochs", 3).await, sent);
    assert_eq!(server.http("alice").await.history_backward("Channel/epochs", 3).await, sent);
    let joined = alice.join("Channel:epochs", Some(sent[2].position)).await.expect("joined");
    assert_eq!(joined.messages, sent[3..], "a cursor of the old epoch is still good: {:?}", joined.reason);
    // What the history has of the epoch is how a pod knows of it.
    server.history_has(5).await;
    let home = server.stop().await;
    // Going back would give positions twice.
    let refused = home.run(&["serve"], &Options::new()).await;
    let sentence = String::from_utf8(refused.stderr).expect("text");
    assert!(!refused.status.success() && sentence.contains("epoch"), "{sentence}");
}
