//! The end of the process, wanted and unwanted: a drain under load, a second signal, a start that must be refused.

use chatify_tests::checker::{Answer, Attempt, ScopeViews, View, violations};
use chatify_tests::http::Http;
use chatify_tests::hub::{Ending, Hub, HubError, HubOptions, send_argument};
use chatify_tests::message::ChatMessage;
use chatify_tests::profile::embedded_only;
use chatify_tests::raw::{CLOSE, Frame, Raw};
use chatify_tests::records::{Format, Record};
use chatify_tests::seeds::message_id;
use chatify_tests::server::{Home, Options, Server};
use chatify_tests::waiting::{LONG, SOON, eventually, within};
use hyper::Method;
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const SENDERS: usize = 6;
const LISTENERS: usize = 40;

/// Sends until the server says goodbye; gives what was sent and how the connection ended.
async fn send_until_goodbye(mut hub: Hub, name: String, answered: Arc<AtomicU64>) -> (Vec<Attempt>, Ending) {
    let mut attempts: Vec<Attempt> = Vec::new();
    loop {
        let (scope, message_id) = ("Channel:drain".to_owned(), message_id());
        let text = format!("{name} says {}", attempts.len());
        let argument = send_argument(&scope, &text, &message_id);
        attempts.push(Attempt { scope, message_id, issued: 0, answer: Answer::Unknown });
        match hub.call("Send", vec![argument]).await {
            Ok(answer) => {
                let position = answer["position"].as_i64().expect("a position");
                attempts.last_mut().expect("just pushed").answer = Answer::Accepted { position, at: 0 };
                answered.fetch_add(1, Ordering::SeqCst);
            }
            Err(HubError::Ended(ending)) => return (attempts, ending),
            Err(other) => panic!("{name}: {other}"),
        }
    }
}

/// Listens until the server says goodbye.
async fn listen_until_goodbye(mut hub: Hub) -> (Vec<ChatMessage>, Ending) {
    let mut seen = Vec::new();
    loop {
        match hub.next_message().await {
            Ok(message) => seen.push(message),
            Err(HubError::Ended(ending)) => return (seen, ending),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_says_goodbye_to_all_and_loses_nothing() {
    // The listeners never ping.
    let options = Options::new().with("SERVER__DRAIN_WINDOW", "2s").with("LIMITS__CLIENT_TIMEOUT", "10m");
    let server = Server::start(options).await;
    server.ready().await;
    let answered = Arc::new(AtomicU64::new(0));
    let (mut senders, mut listeners) = (JoinSet::new(), JoinSet::new());
    for number in 0..LISTENERS {
        let options = HubOptions { format: Format::ALL[number % 2], ..HubOptions::default() };
        let mut hub = server.try_hub("listener", options).await.expect("let in");
        hub.join("Channel:drain", Some(0)).await.expect("joined");
        listeners.spawn(listen_until_goodbye(hub));
    }
    for number in 0..SENDERS {
        let name = format!("sender-{number}");
        let hub = server.hub(&name).await;
        senders.spawn(send_until_goodbye(hub, name, Arc::clone(&answered)));
    }
    eventually(LONG, "there is load", || async { (answered.load(Ordering::SeqCst) > 200).then_some(()) }).await;
    let home = server.stop().await;
    let senders = within(SOON, "the senders' ends", senders.join_all()).await;
    let listeners = within(SOON, "the listeners' ends", listeners.join_all()).await;
    let endings = senders.iter().map(|(_, ending)| ending).chain(listeners.iter().map(|(_, ending)| ending));
    for ending in endings {
        assert_eq!(ending, &Ending { close_record: Some((None, true)), code: Some(1012) }, "reconnect, please");
    }
    let server = Server::start_in(&home, Options::new()).await;
    server.ready().await;
    let history = server.http("reader").await.history_forward("Channel/drain", 500).await;
    let backward = server.http("reader").await.history_backward("Channel/drain", 500).await;
    let attempts: Vec<Attempt> = senders.into_iter().flat_map(|(attempts, _)| attempts).collect();
    let unknown = attempts.iter().filter(|attempt| attempt.answer == Answer::Unknown).count();
    assert!(unknown <= SENDERS, "one send of each connection can be without an answer");
    let views = vec![View::new("history", &history), View::new("backward", &backward)];
    let found = violations(&attempts, &ScopeViews { scope: "Channel:drain".into(), views });
    assert!(found.is_empty(), "{found:#?}");
    for (seen, _) in listeners {
        assert_eq!(seen, history[..seen.len()], "a listener saw the beginning of the history");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_draining_server_tells_probes_takes_nobody_in_and_sends_everybody_away() {
    let server = Server::start(patient()).await;
    server.ready().await;
    let mut hubs = Vec::new();
    for number in 0..50 {
        let options = HubOptions { format: Format::ALL[number % 2], ..HubOptions::default() };
        hubs.push(server.try_hub("alice", options).await.expect("let in"));
    }
    // It does not end its side, so the server waits for it: the drain is not over before this test has looked.
    let mut last = upgraded(&server).await;
    let (probe, alice) = (Http::new(server.address(), None), server.http("alice").await);
    server.signal(Signal::TERM);
    while last.frame().await.expect("a goodbye").opcode != CLOSE {}
    for pod in server.pods() {
        let ready = Http::new(pod.address(), None);
        let drains = async || (ready.get("/health/ready").await.status == 503).then_some(());
        eventually(SOON, "each pod has heard the signal", drains).await;
    }
    let ready = probe.get("/health/ready").await;
    assert_eq!((ready.status, ready.json()["reasons"][0].as_str()), (503, Some("draining")));
    assert_eq!(ready.header("connection"), "close", "the next request goes elsewhere");
    assert_eq!(probe.get("/health/live").await.status, 200, "leaving is no reason to be killed");
    for (method, path) in [(Method::POST, "/hubs/chat/negotiate"), (Method::GET, "/api/scopes/Channel/general/events")]
    {
        let refused = alice.must(method, path, &[], None).await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, "1"), "{path}: {}", refused.text());
        assert_eq!(refused.problem(), "STORE_UNAVAILABLE");
    }
    let refused = server.try_hub("alice", HubOptions::default()).await.err();
    assert!(matches!(refused, Some(HubError::Refused(503, _))), "{refused:?}");
    let read = alice.get("/api/scopes/Channel/general/messages").await;
    assert_eq!(read.status, 200, "a short request is still answered: {}", read.text());
    drop(last);
    for mut hub in hubs {
        assert_eq!(hub.ending().await, Ending { close_record: Some((None, true)), code: Some(1012) });
    }
    eventually(SOON, "new connections are refused", || async {
        TcpStream::connect(server.address()).await.is_err().then_some(())
    })
    .await;
    let mut server = server;
    assert_eq!(server.ended().await.code(), Some(0));
    server.check_log();
}

/// Waits for clients that do not close their side for longer than these tests last.
fn patient() -> Options {
    Options::new().with("LIMITS__CLOSE_TIMEOUT", "5m").with("SERVER__DRAIN_GRACE", "10m")
}

/// A hub connection of a client that only does what it is told to.
async fn upgraded(server: &Server) -> Raw {
    let mut raw = Raw::connect(server.address()).await;
    let authorization = format!("Bearer {}", server.token("alice").await);
    let answer = raw.upgrade("/hubs/chat", &[("Authorization", &authorization)]).await.expect("an answer");
    assert_eq!(answer.status, 101);
    raw.write_frame(&Frame::text("{\"protocol\":\"json\",\"version\":1}\u{1e}")).await;
    assert_eq!(raw.frame().await.expect("the answer to the handshake").payload, b"{}\x1e");
    raw
}

#[tokio::test]
async fn event_streams_end_with_the_drain() {
    let server = Server::start(Options::new().with("SERVER__DRAIN_WINDOW", "1s")).await;
    let mut stream = server.http("alice").await.events("Channel/stream", None).await;
    let sent = server.hub("bob").await.send("Channel:stream", "hello", &message_id()).await.expect("accepted");
    assert_eq!(stream.next().await.expect("an event").id, Some(sent.position.to_string()));
    server.signal(Signal::TERM);
    assert_eq!(stream.next().await, None);
    let mut server = server;
    assert_eq!(server.ended().await.code(), Some(0));
    server.check_log();
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let mut server = Server::start(patient()).await;
    let sent = server.hub("alice").await.send("Channel:hard", "kept", &message_id()).await.expect("accepted");
    // It does not end its side, so the drain waits for it.
    let mut last = upgraded(&server).await;
    server.signal(Signal::TERM);
    while last.frame().await.expect("a goodbye").opcode != CLOSE {}
    server.signal(Signal::TERM);
    assert_eq!(server.ended().await.code(), Some(1));
    let server = Server::start_in(&Arc::clone(server.home()), Options::new()).await;
    server.ready().await;
    assert_eq!(server.http("alice").await.history_forward("Channel/hard", 10).await, [sent]);
    server.stop().await;
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_refused() {
    if embedded_only("a_second_process_on_the_same_data_is_refused") {
        return;
    }
    let server = Server::start(Options::new()).await;
    let refused = server.home().run(&["serve"], &Options::new()).await;
    assert_eq!(refused.status.code(), Some(1));
    let sentence = String::from_utf8(refused.stderr).expect("text");
    let directory = server.home().data_dir();
    assert!(sentence.contains(directory.to_str().expect("text")), "it names the directory: {sentence}");
    assert!(sentence.contains("another") || sentence.contains("already"), "it says why: {sentence}");
    assert!(!sentence.contains("panicked"), "{sentence}");
    // The first one was not disturbed, neither its data nor its announcement.
    let mut hub = server.hub("alice").await;
    hub.send("Channel:still", "here", &message_id()).await.expect("accepted");
    assert!(directory.join("listening").exists());
    server.stop().await;
}

#[tokio::test]
async fn data_that_cannot_be_kept_is_refused_at_the_start() {
    if embedded_only("data_that_cannot_be_kept_is_refused_at_the_start") {
        return;
    }
    let home = Home::new();
    std::fs::create_dir_all(home.data_dir()).expect("a directory");
    let file = home.data_dir().join("file");
    std::fs::write(&file, "no directory").expect("a file");
    let below = file.join("data");
    for place in [file.to_str().expect("text"), below.to_str().expect("text"), "/proc/chatify"] {
        let refused = home.run(&["serve"], &Options::new().with("SERVER__DATA_DIR", place)).await;
        let sentence = String::from_utf8(refused.stderr).expect("text");
        // Whether the key or the store misses its place first, it is the setting or the machine that is wrong.
        assert!(matches!(refused.status.code(), Some(1 | 78)), "{place}: {sentence}");
        assert!(sentence.contains(place) && !sentence.contains("panicked"), "it names the place: {sentence}");
    }
    let occupied = Server::start(Options::new()).await;
    let address = occupied.address().to_string();
    let refused = home.run(&["serve"], &Options::new().with("SERVER__LISTEN", &address)).await;
    let sentence = String::from_utf8(refused.stderr).expect("text");
    assert_eq!(refused.status.code(), Some(1), "{sentence}");
    assert!(sentence.contains(&address), "it names the address: {sentence}");
    occupied.stop().await;
}

#[tokio::test]
async fn a_bad_configuration_is_refused_with_the_name_of_the_field() {
    let home = Home::new();
    let cases = [
        ("SERVER__LISTEN", "nowhere", "server.listen"),
        ("SERVER__LISTEN", "127.0.0.1:99999", "server.listen"),
        ("SERVER__DRAIN_WINDOW", "10", "server.drain_window"),
        ("SERVER__DRAIN_WINDOW", "-1s", "server.drain_window"),
        ("SERVER__MAX_BODY_BYTES", "1TiB", "server.max_body_bytes"),
        ("SERVER__ORIGINS", "https://example.org/path", "server.origins"),
        ("SERVER__PLAYGROUND", "perhaps", "server.playground"),
        ("SERVER__POD_ID", " ", "server.pod_id"),
        ("AUTH__ALGORITHM", "none", "auth.algorithm"),
        ("AUTH__ALGORITHM", "RS256", "auth.key"),
        ("AUTH__KEY", "too short", "auth.key"),
        ("AUTH__KEY_FILE", "missing.key", "missing.key"),
        ("AUTH__KEY_FILE", "missing.key", "auth.key_file"),
        ("LIMITS__SEND_MESSAGES", "0", "limits.send_messages"),
        ("LIMITS__SEND_MESSAGES", "many", "limits.send_messages"),
        ("LIMITS__OUTBOX_BYTES", "1KiB", "limits.outbox_bytes"),
        ("LIMITS__CLIENT_TIMEOUT", "5s", "limits.client_timeout"),
        ("MESSAGE_BROKER__LOG_EPOCH", "0", "message_broker.log_epoch"),
        ("TELEMETRY__LOG_FILTER", "a=b=c", "telemetry.log_filter"),
        ("PROFILE", "galactic", "profile"),
        ("SERVER__LISTNE", "127.0.0.1:0", "LISTNE"),
        ("SEVRER__LISTEN", "127.0.0.1:0", "SEVRER"),
    ];
    for (key, value, field) in cases {
        for command in ["serve", "check-config"] {
            // Whether a key can be used is only seen when it is read.
            if command == "check-config" && matches!((key, value), ("AUTH__KEY" | "AUTH__KEY_FILE", _)) {
                continue;
            }
            let refused = home.run(&[command], &Options::new().with(key, value)).await;
            let sentence = String::from_utf8(refused.stderr).expect("text");
            assert_eq!(refused.status.code(), Some(78), "{command} with {key}={value}: {sentence}");
            let named = sentence.to_lowercase().contains(&field.to_lowercase());
            assert!(named && !sentence.contains("panicked"), "{key}={value} names {field}: {sentence}");
        }
    }
    assert!(home.run(&["check-config"], &Options::new()).await.status.success());
    assert!(!home.pod_dir(0).join("listening").exists(), "nothing was started");
}

#[tokio::test]
async fn a_connection_that_is_told_to_leave_may_still_finish_its_send() {
    let server = Server::start(Options::new().with("SERVER__DRAIN_WINDOW", "1s")).await;
    let mut hub = server.hub("alice").await;
    let ids: Vec<String> = (0..30).map(|_| message_id()).collect();
    let calls = ids
        .iter()
        .enumerate()
        .map(|(n, id)| Record::call(&n.to_string(), "Send", vec![send_argument("Channel:last", &n.to_string(), id)]));
    let calls: Vec<Record> = calls.collect();
    hub.write(Format::Json.frame(&calls)).await.expect("written");
    let mut accepted = Vec::new();
    let ending = loop {
        match hub.record().await {
            Ok(Record::Completion { outcome, .. }) => {
                if accepted.is_empty() {
                    // The first answer shows that the calls have been taken up.
                    server.signal(Signal::TERM);
                }
                accepted.push(outcome.expect("accepted")["position"].as_i64().expect("a position"));
            }
            Ok(other) => panic!("{other:?}"),
            Err(HubError::Ended(ending)) => break ending,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(ending, Ending { close_record: Some((None, true)), code: Some(1012) });
    let mut server = server;
    assert_eq!(server.ended().await.code(), Some(0));
    let server = Server::start_in(&Arc::clone(server.home()), Options::new()).await;
    server.ready().await;
    let history = server.http("alice").await.history_forward("Channel/last", 100).await;
    let positions: Vec<i64> = history.iter().map(|message| message.position).collect();
    // Answers come as sends become durable, which need not be the order of the log.
    accepted.sort_unstable();
    assert_eq!(accepted, positions, "what is in the log was answered, and what was answered is in the log");
    server.stop().await;
}

#[tokio::test]
async fn a_signal_that_comes_as_soon_as_the_server_listens_is_a_drain_too() {
    let home = Home::new();
    for _ in 0..25 {
        // `stop` checks the exit code, and that nothing was left behind.
        Server::start_in(&home, Options::new()).await.stop().await;
    }
    assert!(!home.pod_dir(0).join("listening").exists(), "nobody listens any more");
}
