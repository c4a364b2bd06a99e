//! Subscribers that do not read cost no more than their outboxes, disturb nobody, and miss nothing when they come back.

use chatify_tests::hub::{Hub, HubError, HubOptions};
use chatify_tests::message::ChatMessage;
use chatify_tests::process::allow_open_files;
use chatify_tests::seeds::message_id;
use chatify_tests::server::{Options, Server};
use chatify_tests::waiting::{LONG, eventually, within};
use futures_util::stream::{self, StreamExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinSet;

const SILENT: usize = 1_000;
const READING: usize = 100;
/// Enough to overflow the kernel's buffers and the outbox of whoever does not read.
const MESSAGES: usize = 120;
const OUTBOX_BYTES: u64 = 64 << 10;
/// What each pod may need for everything else meanwhile: the tail, the log's cache, buffers of the readers.
const SLACK_BYTES: u64 = 24 << 20;
/// Messages that a reader may be behind: half of what its outbox holds.
const READER_BEHIND: usize = 8;
/// Whose connections they are.
const USERS: usize = 20;
/// Connections made at the same time.
const AT_ONCE: usize = 32;
const SCOPE: &str = "Channel:slow";

fn options() -> Options {
    Options::new()
        .with("LIMITS__OUTBOX_BYTES", "64KiB")
        // Silence alone must not be what ends them here.
        .with("LIMITS__CLIENT_TIMEOUT", "10m")
}

async fn connect(server: &Server, count: usize, small_buffers: bool) -> Vec<Hub> {
    let connecting = (0..count).map(|number| async move {
        let options = HubOptions { small_buffers, ..HubOptions::default() };
        // One user may not have all of them.
        let mut hub = server.try_hub(&format!("user-{}", number % USERS), options).await.expect("let in");
        hub.join(SCOPE, Some(0)).await.expect("joined");
        hub
    });
    stream::iter(connecting).buffer_unordered(AT_ONCE).collect().await
}

/// Four thousand characters that say which message it is.
fn text(number: usize) -> String {
    format!("{number:04}").repeat(1_000)
}

/// Reads everything, and says how far it is.
async fn read_all(mut hub: Hub, count: Arc<AtomicUsize>) -> Vec<ChatMessage> {
    let mut seen = Vec::new();
    while seen.len() < MESSAGES {
        seen.push(hub.message().await);
        count.store(seen.len(), Ordering::Relaxed);
    }
    seen
}

/// Sends everything, no faster than the slowest reader reads; gives it, and the most memory that the server had meanwhile.
async fn send_all(server: &Server, readers: &[Arc<AtomicUsize>]) -> (Vec<ChatMessage>, u64) {
    let mut sender = server.hub("bob").await;
    let (mut sent, mut peak) = (Vec::new(), 0);
    for number in 0..MESSAGES {
        let follow = || readers.iter().all(|seen| seen.load(Ordering::Relaxed) + READER_BEHIND >= number);
        eventually(LONG, "the readers follow", async || follow().then_some(())).await;
        sent.push(sender.send(SCOPE, &text(number), &message_id()).await.expect("accepted"));
        peak = peak.max(server.resident_bytes());
    }
    (sent, peak)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_silent_subscribers_cost_their_outboxes_and_disturb_nobody() {
    allow_open_files(4_096);
    let server = Server::start(options()).await;
    server.ready().await;
    let silent = connect(&server, SILENT, true).await;
    let mut reading = JoinSet::new();
    let mut readers = Vec::new();
    for hub in connect(&server, READING, false).await {
        let count = Arc::new(AtomicUsize::new(0));
        reading.spawn(read_all(hub, Arc::clone(&count)));
        readers.push(count);
    }
    let before = server.resident_bytes();
    let (sent, mut peak) = send_all(&server, &readers).await;
    for seen in within(LONG, "the readers have everything", reading.join_all()).await {
        assert_eq!(seen, sent);
    }
    let slow = "reason=\"slow_consumer\"";
    eventually(LONG, "every silent subscriber was given up", || async {
        let closed = server.metric("chatify_connections_closed_total", slow).await.unwrap_or_default();
        (closed >= SILENT as f64).then_some(())
    })
    .await;
    assert_eq!(server.metric("chatify_outbox_shed_total", slow).await, Some(SILENT as f64), "each is counted once");
    peak = peak.max(server.resident_bytes());
    let bound = SILENT as u64 * OUTBOX_BYTES + SLACK_BYTES * server.pods().len() as u64;
    assert!(peak - before <= bound, "memory grew by {} KiB of {} KiB", (peak - before) >> 10, bound >> 10);
    // They come back one after the other and have everything, without a gap and without a repeat.
    let resumed = silent.into_iter().map(|hub| resume(&server, hub, &sent));
    let resumed: Vec<usize> = stream::iter(resumed).buffer_unordered(AT_ONCE).collect().await;
    assert!(resumed.iter().all(|missed| *missed > 0), "whoever did not read has missed something");
    server.stop().await;
}

/// Reads what had still reached a silent subscriber, then what it missed; gives how much that was.
async fn resume(server: &Server, mut hub: Hub, sent: &[ChatMessage]) -> usize {
    let mut seen = Vec::new();
    let ending = loop {
        match hub.next_message().await {
            Ok(message) => seen.push(message),
            Err(HubError::Ended(ending)) => break ending,
            Err(other) => panic!("{other}"),
        }
    };
    if let Some((error, allow_reconnect)) = ending.close_record {
        assert!(error.is_some_and(|error| error.starts_with("SLOW_CONSUMER: ")) && allow_reconnect);
    }
    assert_eq!(seen, sent[..seen.len()], "what came is the beginning");
    let mut back = server.hub("alice").await;
    let joined = back.join(SCOPE, Some(seen.last().map_or(0, |message| message.position))).await.expect("joined");
    assert!(joined.recovered && !joined.has_more, "{:?}", joined.reason);
    assert_eq!(joined.messages, sent[seen.len()..], "the rest follows without a gap");
    joined.messages.len()
}

#[tokio::test]
async fn a_slow_subscriber_is_told_why_and_that_it_may_come_back() {
    // It may take its time to read that.
    let server = Server::start(options().with("LIMITS__CLOSE_TIMEOUT", "5m").with("SERVER__DRAIN_GRACE", "10m")).await;
    server.ready().await;
    let mut silent = connect(&server, 1, true).await.pop().expect("one");
    let mut sender = server.hub("bob").await;
    let mut sent = Vec::new();
    while server.metric("chatify_outbox_shed_total", "reason=\"slow_consumer\"").await != Some(1.0) {
        assert!(sent.len() < 2_000, "the outbox never overflows");
        sent.push(sender.send(SCOPE, &text(sent.len()), &message_id()).await.expect("accepted"));
    }
    let mut seen = Vec::new();
    let ending = loop {
        match silent.next_message().await {
            Ok(message) => seen.push(message),
            Err(HubError::Ended(ending)) => break ending,
            Err(other) => panic!("{other}"),
        }
    };
    drop((silent, sender));
    let (error, allow_reconnect) = ending.close_record.expect("a Close record");
    assert!(error.is_some_and(|error| error.starts_with("SLOW_CONSUMER: ")) && allow_reconnect);
    assert!(seen.len() < sent.len() && seen == sent[..seen.len()], "what came is the beginning");
    server.stop().await;
}
