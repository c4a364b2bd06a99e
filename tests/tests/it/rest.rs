//! The REST surface: what it answers equals what was sent, at once, in documents of one form.

use chatify_tests::http::{Http, Page};
use chatify_tests::hub::HubError;
use chatify_tests::message::ChatMessage;
use chatify_tests::seeds::{Seed, message_id};
use chatify_tests::server::{Options, Server};
use chatify_tests::waiting::{LONG, SOON, eventually};
use hyper::Method;
use serde_json::json;

/// Sends `count` messages of three people, with messages of another scope in between.
async fn conversation(server: &Server, scope: &str, count: usize) -> Vec<ChatMessage> {
    let mut people = Vec::new();
    for name in ["alice", "bob", "carol"] {
        people.push(server.hub(name).await);
    }
    let mut sent = Vec::new();
    for n in 0..count {
        let person = &mut people[n * 7 % 3];
        sent.push(person.send(scope, &format!("message {n}"), &message_id()).await.expect("accepted"));
        if n % 5 == 0 {
            person.send("Channel:elsewhere", "noise", &message_id()).await.expect("accepted");
        }
    }
    sent
}

/// The messages that a page must hold, by the plainest reading of the documentation.
fn expected(all: &[ChatMessage], query: &Query, limit: usize) -> Vec<ChatMessage> {
    let keep = |message: &&ChatMessage| match query {
        Query::Latest => true,
        Query::Before(position) => message.position < *position,
        Query::After(position) => message.position > *position,
        Query::From(moment) => message.created_at_utc >= *moment,
        Query::To(moment) => message.created_at_utc < *moment,
        Query::Between(from, to) => message.created_at_utc >= *from && message.created_at_utc < *to,
        Query::Sender(sender) => message.sender_id == *sender,
    };
    let kept: Vec<ChatMessage> = all.iter().filter(keep).cloned().collect();
    let from_the_start = matches!(query, Query::After(_) | Query::From(_));
    let start = if from_the_start { 0 } else { kept.len().saturating_sub(limit) };
    kept[start..kept.len().min(start + limit)].to_vec()
}

#[derive(Debug)]
enum Query {
    Latest,
    Before(i64),
    After(i64),
    From(String),
    To(String),
    Between(String, String),
    Sender(String),
}

impl Query {
    fn text(&self) -> String {
        match self {
            Self::Latest => String::new(),
            Self::Before(position) => format!("&before={position}"),
            Self::After(position) => format!("&after={position}"),
            Self::From(moment) => format!("&from={moment}"),
            Self::To(moment) => format!("&to={moment}"),
            Self::Between(from, to) => format!("&from={from}&to={to}"),
            Self::Sender(sender) => format!("&sender={sender}"),
        }
    }

    fn random(seed: &Seed, all: &[ChatMessage]) -> Self {
        // Now and then a position between messages, where another scope has its own.
        let position = || seed.choose(all).position + i64::from(seed.pick(0..4) == 0);
        let moment = || seed.choose(all).created_at_utc.clone();
        match seed.pick(0..7) {
            0 => Self::Latest,
            1 => Self::Before(position()),
            2 => Self::After(position()),
            3 => Self::From(moment()),
            4 => Self::To(moment()),
            5 => match (moment(), moment()) {
                (from, to) if from < to => Self::Between(from, to),
                (_, to) => Self::To(to),
            },
            _ => Self::Sender(seed.choose(&["alice", "bob", "carol", "nobody"]).to_string()),
        }
    }
}

#[tokio::test]
async fn every_page_of_the_history_is_what_was_sent() {
    let seed = Seed::of_this_run();
    let server = Server::start(Options::new()).await;
    let sent = conversation(&server, "Channel:paging", 400).await;
    let http = server.http("reader").await;
    for round in 0..300 {
        let query = Query::random(&seed, &sent);
        let limit = *seed.choose(&[1, 2, 7, 50, 399, 400, 401, 500]);
        let page = http.page("Channel/paging", &format!("limit={limit}{}", query.text())).await;
        assert_eq!(page.items, expected(&sent, &query, limit), "round {round}: {query:?}, limit {limit}");
        assert!(page.complete, "round {round}: {query:?}");
        check_ends(&page, &sent, &query);
    }
    for limit in [3, 50, 500] {
        assert_eq!(http.history_forward("Channel/paging", limit).await, sent);
        assert_eq!(http.history_backward("Channel/paging", limit).await, sent);
    }
    let latest = http.page("Channel/paging", "").await;
    assert_eq!(latest.items, sent[350..], "the default is the newest 50");
    server.stop().await;
}

/// What a page says about its ends must be true where it can be told from outside.
fn check_ends(page: &Page, all: &[ChatMessage], query: &Query) {
    let (Some(first), Some(last)) = (page.items.first(), page.items.last()) else { return };
    match query {
        Query::Latest | Query::Before(_) | Query::After(_) => {
            assert_eq!(page.oldest_reached, first.position == all[0].position, "{query:?}");
            assert_eq!(page.newest_reached, last.position == all[all.len() - 1].position, "{query:?}");
        }
        Query::From(_) | Query::To(_) | Query::Between(..) | Query::Sender(_) => {}
    }
}

#[tokio::test]
async fn a_page_around_a_message_shows_both_sides() {
    let seed = Seed::of_this_run();
    let server = Server::start(Options::new()).await;
    let sent = conversation(&server, "Channel:around", 120).await;
    let http = server.http("reader").await;
    for _ in 0..60 {
        let middle = usize::try_from(seed.pick(0..120)).expect("small");
        let limit = usize::try_from(seed.pick(2..60)).expect("small");
        let page = http.page("Channel/around", &format!("around={}&limit={limit}", sent[middle].position)).await;
        let start = sent.iter().position(|message| Some(message) == page.items.first()).expect("a page of this scope");
        assert_eq!(page.items, sent[start..start + page.items.len()], "nothing is missing inside the page");
        let range = start..start + page.items.len();
        assert!(range.contains(&middle), "{middle} is in {range:?}");
        let (older, newer) = (middle + 1 - start, range.end - middle - 1);
        assert!(page.items.len() <= limit, "{range:?} with limit {limit}");
        assert!(older + 1 >= limit / 2 || start == 0, "{older} of {limit} are older");
        assert!(newer + 1 >= limit / 2 || range.end == 120, "{newer} of {limit} are newer");
        assert_eq!((page.oldest_reached, page.newest_reached), (start == 0, range.end == 120));
    }
    server.stop().await;
}

#[tokio::test]
async fn what_was_sent_is_in_the_history_that_is_read_next() {
    let server = Server::start(Options::new()).await;
    let http = server.http("alice").await;
    for n in 0..1_000 {
        let text = n.to_string();
        let answer = http.send("Channel/own", &text, &message_id()).await.expect("an answer");
        assert_eq!(answer.status, 201, "{}", answer.text());
        let message = ChatMessage::read(&answer.json()["chatEvent"]).expect("a message");
        let page = http.newest_page("Channel/own", "limit=1").await;
        assert_eq!(page.items, std::slice::from_ref(&message), "the newest message is the one just sent");
        let path = format!("/api/scopes/Channel/own/messages/{}", message.message_id);
        let found = async || Some(http.get(&path).await).filter(|found| found.status != 503);
        let found = eventually(LONG, "a pod that is as new as the log", found).await;
        assert_eq!((found.status, ChatMessage::read(&found.json())), (200, Ok(message)));
    }
    server.stop().await;
}

#[tokio::test]
async fn the_history_survives_a_restart() {
    let server = Server::start(Options::new()).await;
    let sent = conversation(&server, "Channel:kept", 150).await;
    let home = server.stop().await;
    let server = Server::start_in(&home, Options::new()).await;
    server.ready().await;
    let http = server.http("reader").await;
    assert_eq!(http.history_forward("Channel/kept", 40).await, sent);
    assert_eq!(http.history_backward("Channel/kept", 40).await, sent);
    let found = http.get(&format!("/api/scopes/Channel/kept/messages/{}", sent[3].message_id)).await;
    assert_eq!(ChatMessage::read(&found.json()), Ok(sent[3].clone()));
    server.stop().await;
}

#[tokio::test]
async fn a_sent_message_is_created_and_can_be_found() {
    let server = Server::start(Options::new()).await;
    let http = server.http("alice").await;
    let path = "/api/scopes/Channel/general/messages";
    let answer = http.post(path, &json!({"text": "hello"})).await;
    assert_eq!((answer.status, answer.header("cache-control")), (201, "no-store"), "{}", answer.text());
    let message = ChatMessage::read(&answer.json()["chatEvent"]).expect("a message");
    assert_eq!(message.message_id.as_bytes()[14], b'7', "the server makes UUIDs of version 7");
    let location = answer.header("location").to_owned();
    if !location.is_empty() {
        assert_eq!(http.get(&location).await.json(), answer.json()["chatEvent"], "{location}");
    }
    let time = &message.created_at_utc;
    assert!(
        time.len() == 24 && time.ends_with('Z') && time.as_bytes()[19] == b'.',
        "RFC 3339 with milliseconds: {time}"
    );
    let missing = http.get(&format!("{path}/{}", message_id())).await;
    assert_eq!((missing.status, missing.problem()), (404, "NOT_FOUND".to_owned()));
    let known = http.send("Channel/general", "hello", &message.message_id).await.expect("an answer");
    assert_eq!((known.status, &known.json()["position"]), (201, &answer.json()["position"]));
    let conflict = http.send("Channel/general", "another text", &message.message_id).await.expect("an answer");
    assert_eq!((conflict.status, conflict.problem()), (409, "CONFLICT".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn presence_follows_the_connections_of_a_user() {
    let server = Server::start(Options::new()).await;
    let http = server.http("watcher").await;
    let status = async |expected: &str| {
        eventually(SOON, &format!("bob is {expected}"), || async {
            let answer = http.get("/api/users/bob/presence").await;
            assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"), "{}", answer.text());
            (answer.json()["status"] == expected).then_some(())
        })
        .await;
    };
    status("offline").await;
    let (first, second) = (server.hub("bob").await, server.hub("bob").await);
    status("online").await;
    first.close().await;
    server_forgets_all_but(&server, 1.0).await;
    status("online").await;
    drop(second);
    status("offline").await;
    let stream = server.http("bob").await.events("Channel/general", None).await;
    status("online").await;
    drop(stream);
    status("offline").await;
    server.stop().await;
}

async fn server_forgets_all_but(server: &Server, count: f64) {
    eventually(SOON, "the closed connection is forgotten", || async {
        (server.metric("chatify_active_connections", "").await == Some(count)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_event_stream_goes_on_where_it_ended() {
    let server = Server::start(Options::new()).await;
    let http = server.http("alice").await;
    let send = async |n: usize| {
        let answer =
            http.send("Channel/stream", &format!("line one\nline {n}"), &message_id()).await.expect("an answer");
        ChatMessage::read(&answer.json()["chatEvent"]).expect("a message")
    };
    let early = send(0).await;
    server.remembers(&early).await;
    let mut stream = http.events("Channel/stream", None).await;
    let content_type = stream.headers["content-type"].to_str().expect("text").to_owned();
    assert!(content_type.starts_with("text/event-stream"), "{content_type}");
    assert_eq!(stream.headers["cache-control"], "no-store");
    let mut sent = Vec::new();
    for n in 1..=20 {
        sent.push(send(n).await);
    }
    for message in &sent {
        let event = stream.next().await.expect("an event");
        assert_eq!(event.id, Some(message.position.to_string()));
        let body = serde_json::from_str(&event.data).expect("JSON");
        assert_eq!(ChatMessage::read(&body).as_ref(), Ok(message), "without a cursor only what is new comes");
    }
    drop(stream);
    // More than one join can hold, so that the stream has to page.
    for n in 21..=1_200 {
        sent.push(send(n).await);
    }
    for (cursor, missed) in [("0", 0), (sent[4].position.to_string().as_str(), 5)] {
        let mut stream = http.events("Channel/stream", Some(cursor)).await;
        let early = (missed == 0).then_some(&early);
        for message in early.into_iter().chain(&sent[missed..]) {
            let event = stream.next().await.expect("an event");
            let body = serde_json::from_str(&event.data).expect("JSON");
            assert_eq!(ChatMessage::read(&body).as_ref(), Ok(message), "after {cursor}");
        }
        let live = send(9_999).await;
        let event = stream.next().await.expect("an event");
        assert_eq!(event.id, Some(live.position.to_string()));
        sent.push(live);
    }
    server.stop().await;
}

#[tokio::test]
async fn everybody_may_send_so_much_and_no_more() {
    let options = Options::new().with("LIMITS__SEND_MESSAGES", "10").with("LIMITS__SEND_WINDOW", "1h");
    // A pod whose Redis is late decides alone, which this test is not about.
    let server = Server::start(options.with("CACHING__DEADLINE", "5s")).await;
    let http = server.http("alice").await;
    for n in 0..10 {
        let answer = http.send("Channel/limit", &n.to_string(), &message_id()).await.expect("an answer");
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    let answer = http.send("Channel/limit", "too much", &message_id()).await.expect("an answer");
    assert_eq!((answer.status, answer.problem()), (429, "RATE_LIMIT_EXCEEDED".to_owned()));
    let wait: u64 = answer.header("retry-after").parse().expect("Retry-After in seconds");
    assert!((1..=360).contains(&wait), "a tenth of an hour at most: {wait}");
    // The limit is the user's, whatever way and scope the message takes; others have their own.
    let mut hub = server.hub("alice").await;
    let refused = hub.send("Channel:other", "too much", &message_id()).await.expect_err("refused");
    assert!(matches!(&refused, HubError::Call(error) if error.starts_with("RATE_LIMIT_EXCEEDED: ")), "{refused}");
    server.hub("bob").await.send("Channel:limit", "mine", &message_id()).await.expect("accepted");
    let history = http.history_forward("Channel/limit", 100).await;
    assert_eq!(history.len(), 11, "what was refused never appears");
    assert!(server.metric("chatify_messages_refused_total", "RATE_LIMIT_EXCEEDED").await >= Some(2.0));
    server.stop().await;
}

#[tokio::test]
async fn problems_correlation_and_caching_are_the_same_everywhere() {
    let server = Server::start(Options::new()).await;
    let (http, anonymous) = (server.http("alice").await, Http::new(server.address(), None));
    let own = "corr_01890a5d-ac96-774b-bcce-b302099a8057";
    let cases = [
        (Method::GET, "/api/nothing", 404, "NOT_FOUND"),
        (Method::GET, "/nothing/at/all", 404, "NOT_FOUND"),
        (Method::DELETE, "/api/scopes/Channel/a/messages", 405, "METHOD_NOT_ALLOWED"),
        (Method::POST, "/health/live", 405, "METHOD_NOT_ALLOWED"),
        (Method::GET, "/api/scopes/Nothing/a/messages", 400, "VALIDATION_ERROR"),
        (Method::GET, "/api/scopes/Channel/a/messages?limit=0", 400, "VALIDATION_ERROR"),
    ];
    for (method, path, status, code) in cases {
        let answer = http.must(method.clone(), path, &[("X-Correlation-ID", own)], None).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{method} {path}");
        assert_eq!(answer.header("x-correlation-id"), own, "a valid id is kept");
        if status == 405 {
            assert!(!answer.header("allow").is_empty(), "{method} {path} says what is allowed");
        }
    }
    let refused = anonymous.get("/api/scopes/Channel/a/messages").await;
    assert_eq!((refused.status, refused.problem()), (401, "UNAUTHENTICATED".to_owned()));
    assert!(refused.header("www-authenticate").starts_with("Bearer"), "{:?}", refused.headers);
    for path in ["/api/scopes/Channel/a/messages", "/api/users/bob/presence", "/api/scopes/Channel/a/messages?limit=0"]
    {
        assert_eq!(http.get(path).await.header("cache-control"), "no-store", "{path}");
    }
    let invalid = http.get("/api/scopes/Channel/a/messages?limit=0&before=x").await.json();
    let fields: Vec<&str> =
        invalid["errors"].as_array().expect("a list").iter().filter_map(|e| e["field"].as_str()).collect();
    assert!(fields.contains(&"limit") || fields.contains(&"before"), "{invalid}");
    server.stop().await;
}

#[tokio::test]
async fn what_operators_ask_is_answered_without_a_token() {
    let server = Server::start(Options::new()).await;
    server.ready().await;
    let anonymous = Http::new(server.address(), None);
    for path in ["/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"] {
        let answer = anonymous.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let openapi = anonymous.get("/openapi.json").await.json();
    for path in ["/api/scopes/{scopeType}/{scopeId}/messages", "/api/users/{userId}/presence"] {
        assert!(openapi["paths"][path].is_object(), "{path} is documented");
    }
    let url = format!("http://{}/health/ready", server.address());
    let healthcheck = server.home().run(&["healthcheck", "--url", &url], &Options::new()).await;
    assert!(healthcheck.status.success());
    server.hub("alice").await.send("Channel:count", "one", &message_id()).await.expect("accepted");
    for (metric, least) in [("chatify_messages_accepted_total", 1.0), ("chatify_connections_opened_total", 1.0)] {
        assert!(server.metric(metric, "").await >= Some(least), "{metric}");
    }
    server.stop().await;
}
