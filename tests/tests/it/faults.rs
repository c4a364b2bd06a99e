//! A disk that is full, fails or loses its power, below the real binary and under load: nothing that was acknowledged may be missing afterwards,
//! nothing may be there twice, and what was refused must never appear.

mod disk;

use chatify_tests::checker::{Answer, Attempt, ScopeViews, View, Violation, violations};
use chatify_tests::http::Http;
use chatify_tests::hub::{Hub, HubError, HubOptions};
use chatify_tests::message::ChatMessage;
use chatify_tests::profile::embedded_only;
use chatify_tests::records::Record;
use chatify_tests::seeds::{Seed, message_id};
use chatify_tests::server::{Home, Options, Server};
use chatify_tests::waiting::{LONG, SOON, eventually, within};
use disk::{Disk, Fault};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::watch;
use tokio::task::JoinSet;

const SCOPE: &str = "Channel:disk";
const SCOPE_PATH: &str = "Channel/disk";
const SENDERS: usize = 8;
const LISTENERS: usize = 2;
const FULL_DISKS: u64 = 6;
const POWER_CUTS: u64 = 20;

/// What all clients of a run share.
struct World {
    home: Arc<Home>,
    /// Where the server of this generation listens.
    server: watch::Receiver<Option<(u64, SocketAddr)>>,
    /// The last position of the scope, once nobody sends any more.
    last: watch::Receiver<Option<i64>>,
    stopping: AtomicBool,
    accepted: AtomicU64,
    refused: AtomicU64,
    repeated: AtomicU64,
    /// Counts events, so that "answered before it was sent" can be told across clients.
    ticks: AtomicU64,
}

/// The story's side of a world, and its clients.
struct Run {
    world: Arc<World>,
    publish: watch::Sender<Option<(u64, SocketAddr)>>,
    publish_last: watch::Sender<Option<i64>>,
    senders: JoinSet<Vec<Attempt>>,
    listeners: JoinSet<Vec<ChatMessage>>,
}

impl World {
    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    async fn server_after(&self, generation: u64) -> (u64, SocketAddr) {
        let mut server = self.server.clone();
        let newer = |known: &Option<(u64, SocketAddr)>| known.is_some_and(|(number, _)| number > generation);
        let found = within(LONG, "a newer server", server.wait_for(newer)).await.expect("the run goes on");
        found.expect("checked")
    }
}

impl Run {
    /// Clients that wait for their first server.
    async fn new(home: &Arc<Home>, listeners_wanted: usize) -> Self {
        let ((publish, server), (publish_last, last)) = (watch::channel(None), watch::channel(None));
        let world = Arc::new(World {
            home: Arc::clone(home),
            server,
            last,
            stopping: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
        });
        let (mut senders, mut listeners) = (JoinSet::new(), JoinSet::new());
        for number in 0..SENDERS {
            let token = home.token(&format!("sender-{number}")).await;
            // Half of them take a refusal for an answer, the others try again with the same id.
            senders.spawn(send_on(Arc::clone(&world), token, number % 2 == 0));
        }
        for number in 0..listeners_wanted {
            let token = home.token(&format!("listener-{number}")).await;
            listeners.spawn(listen_on(Arc::clone(&world), token));
        }
        Self { world, publish, publish_last, senders, listeners }
    }

    /// Waits until `count` grew by `by` at least.
    async fn more(count: &AtomicU64, by: u64, what: &str) {
        let enough = count.load(Ordering::SeqCst) + by;
        eventually(LONG, what, || async { (count.load(Ordering::SeqCst) >= enough).then_some(()) }).await;
    }

    /// Starts the next server and sends the clients there.
    async fn start(&self, generation: u64, options: &Options) -> Server {
        let server = Server::start_in(&self.world.home, options.clone()).await;
        server.ready().await;
        self.publish.send_replace(Some((generation, server.address())));
        server
    }

    /// Lets every send be answered, and gives what is broken.
    async fn end(self, server: &Server, seed: &Seed) -> Vec<Violation> {
        self.world.stopping.store(true, Ordering::SeqCst);
        let attempts = within(LONG, "every send is answered", self.senders.join_all()).await.concat();
        let http = server.http("reader").await;
        let (forward, backward) =
            (http.history_forward(SCOPE_PATH, 500).await, http.history_backward(SCOPE_PATH, 333).await);
        self.publish_last.send_replace(Some(forward.last().map_or(0, |item| item.position)));
        let seen = within(LONG, "the listeners have everything", self.listeners.join_all()).await;
        let mut views = vec![View::new("history forward", &forward), View::new("history backward", &backward)];
        views.extend(seen.iter().map(|seen| View::new("a listener", seen)));
        let mut found = violations(&attempts, &ScopeViews { scope: SCOPE.into(), views });
        found.truncate(10);
        assert!(attempts.iter().all(|attempt| attempt.answer != Answer::Unknown), "every unknown one was repeated");
        if !found.is_empty() {
            tell(seed, &found);
        }
        found
    }
}

#[expect(clippy::print_stderr, reason = "what a failing test found is shown to whoever reads its output")]
fn tell(seed: &Seed, found: &[Violation]) {
    eprintln!("seed {}: {found:#?}", seed.number());
}

/// Sends one message after the other until the run stops, wherever the server is.
async fn send_on(world: Arc<World>, token: String, takes_no: bool) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut client: Option<(u64, Http)> = None;
    while !world.stopping.load(Ordering::SeqCst) {
        let (scope, message_id, issued) = (SCOPE.into(), message_id(), world.tick());
        let mut unknown = false;
        let answer = loop {
            let (number, address) = world.server_after(0).await;
            let known = client.take().filter(|(known, _)| *known == number);
            let (_, http) = client.insert(known.unwrap_or_else(|| (number, Http::new(address, Some(token.clone())))));
            let answered = http.send(SCOPE_PATH, "kept, whatever comes", &message_id).await;
            if let Some(answer) = settled(&world, answered, &mut unknown, takes_no) {
                break answer;
            }
            world.repeated.fetch_add(1, Ordering::SeqCst);
        };
        attempts.push(Attempt { scope, message_id, issued, answer });
    }
    attempts
}

/// What the answer means; `None` when the send has to be repeated.
fn settled(
    world: &World,
    answered: Result<chatify_tests::http::Answer, String>,
    unknown: &mut bool,
    takes_no: bool,
) -> Option<Answer> {
    match answered {
        Ok(answer) if answer.status == 201 => {
            world.accepted.fetch_add(1, Ordering::SeqCst);
            let position = answer.json()["position"].as_i64().expect("an accepted send has a position");
            Some(Answer::Accepted { position, at: world.tick() })
        }
        Ok(answer) if is_no(&answer.json(), answer.status) => {
            assert_eq!(answer.problem(), "EVENT_PRODUCTION_FAILED", "{}", answer.text());
            assert_eq!(answer.header("retry-after"), "1", "{}", answer.text());
            world.refused.fetch_add(1, Ordering::SeqCst);
            (takes_no && !*unknown).then_some(Answer::Refused)
        }
        // An answer that says so, or none.
        Ok(_) | Err(_) => {
            *unknown = true;
            None
        }
    }
}

/// Whether the message was refused for sure.
fn is_no(body: &Value, status: u16) -> bool {
    assert_eq!(status, 503, "{body}");
    body["outcome"] != "unknown"
}

/// Follows the scope from its beginning to its end, over every server.
async fn listen_on(world: Arc<World>, token: String) -> Vec<ChatMessage> {
    let (mut seen, mut generation) = (Vec::new(), 0);
    loop {
        let (number, address) = world.server_after(generation).await;
        match follow(&world, address, &token, &mut seen).await {
            Ok(()) => return seen,
            // It only listens, so a server that hears nothing from it for long says goodbye, and may be asked again.
            Err(HubError::Ended(ending)) if ending.close_record.is_some() => {
                assert_eq!(ending.close_record.map(|(_, again)| again), Some(true), "goodbye for ever");
            }
            // One that is about to end answers so to whoever comes until it has ended.
            Err(HubError::Ended(_) | HubError::Connect(_) | HubError::Refused(503, _)) => generation = number,
            Err(HubError::Call(error)) if error.starts_with("STORE_UNAVAILABLE") => generation = number,
            Err(other) => panic!("a listener: {other}"),
        }
    }
}

async fn follow(world: &World, address: SocketAddr, token: &str, seen: &mut Vec<ChatMessage>) -> Result<(), HubError> {
    let mut hub = Hub::connect(address, token, HubOptions::default()).await?;
    let cursor = |seen: &[ChatMessage]| seen.last().map_or(0, |message| message.position);
    let joined = hub.join(SCOPE, Some(cursor(seen))).await?;
    assert!(joined.recovered || joined.reason.as_deref() == Some("limit"), "{joined:?}");
    seen.extend(joined.messages);
    let http = Http::new(address, Some(token.to_owned()));
    while joined.has_more && cursor(seen) < joined.live_after {
        let path = format!("/api/scopes/{SCOPE_PATH}/messages?after={}&limit=500", cursor(seen));
        let page = http.request(hyper::Method::GET, &path, &[], None).await.map_err(HubError::Connect)?;
        if page.status != 200 {
            return Err(HubError::Refused(page.status, page.text()));
        }
        let page = ChatMessage::read_all(&page.json()["items"]).expect("messages");
        let missed: Vec<_> = page.into_iter().filter(|item| item.position <= joined.live_after).collect();
        if missed.is_empty() {
            break;
        }
        seen.extend(missed);
    }
    let mut last = world.last.clone();
    loop {
        seen.extend(hub.kept_messages());
        if last.borrow_and_update().is_some_and(|last| cursor(seen) >= last) {
            return Ok(());
        }
        tokio::select! {
            record = hub.record() => match record? {
                Record::Invocation { arguments, .. } => seen.push(ChatMessage::read(&arguments[0]).expect("a message")),
                Record::Ping => {}
                other => panic!("{other:?}"),
            },
            changed = last.changed() => changed.expect("the run goes on"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_goes_on_reading_and_recovers_each_time() {
    if embedded_only("disk faults") {
        return;
    }
    let (seed, disk, home) = (Seed::of_this_run(), Disk::new(), Home::new());
    let run = Run::new(&home, LISTENERS).await;
    let options = disk.below(Options::new()).expecting_error("writes are refused");
    let server = run.start(1, &options).await;
    for cycle in 0..FULL_DISKS {
        Run::more(&run.world.accepted, seed.pick(100..400), "sends are accepted").await;
        // Some file systems need room for overwriting too; with the others it ends when the write-ahead log has to grow.
        disk.fail(if cycle % 2 == 0 { Fault::NoRoom } else { Fault::NoRoomToGrow });
        let injected = disk.injected();
        Run::more(&run.world.refused, 50, "sends are refused").await;
        assert!(disk.injected() > injected, "the disk was full");
        let page = server.http("reader").await.page(SCOPE_PATH, "limit=500").await;
        assert!(page.complete && !page.items.is_empty(), "reading goes on");
        let mut joined = server.hub("reader").await;
        assert!(joined.join(SCOPE, None).await.expect("joining goes on").recovered);
        disk.heal();
    }
    Run::more(&run.world.accepted, 100, "sends are accepted again").await;
    assert_eq!(run.end(&server, &seed).await, []);
    let refusal = server.log();
    assert!(
        refusal.contains("disk full") && refusal.contains("writes are accepted again"),
        "the log tells the operator"
    );
    let home = server.stop().await;
    // What was read from memory is on the disk too.
    let server = Server::start_in(&home, Options::new()).await;
    server.ready().await;
    assert!(!server.http("reader").await.history_forward(SCOPE_PATH, 500).await.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_ends_the_process_and_loses_nothing() {
    if embedded_only("disk faults") {
        return;
    }
    let (seed, disk, home) = (Seed::of_this_run(), Disk::new(), Home::new());
    let run = Run::new(&home, LISTENERS).await;
    let options = disk.below(Options::new());
    let faults =
        [Fault::Sync, Fault::SyncOnce, Fault::SyncOfDatabase, Fault::Sync, Fault::SyncOnce, Fault::SyncOfDatabase];
    for (generation, fault) in (1..).zip(faults) {
        let mut server = run.start(generation, &options).await;
        Run::more(&run.world.accepted, seed.pick(50..300), "sends are accepted").await;
        let injected = disk.injected();
        disk.fail(fault);
        // A checkpoint comes only now and then.
        eventually(LONG, "a sync fails", || async { (disk.injected() > injected).then_some(()) }).await;
        let status = within(SOON, "the end of the process", server.ended()).await;
        run.publish.send_replace(None);
        assert_eq!(status.code(), Some(1), "{fault:?} ends the process, and says that it was no wish of the operator");
        let log = server.log();
        let told = log.contains("task `log-writer` crashed") || log.contains("task `log-checkpoint` crashed");
        assert!(told && !log.contains("panicked"), "{fault:?} is told: {log}");
        disk.heal();
        disk.cut_power(&home, &seed);
    }
    assert!(disk.injected() >= 6, "every fault was met");
    let server = run.start(100, &options).await;
    Run::more(&run.world.accepted, 100, "sends are accepted again").await;
    assert!(run.world.repeated.load(Ordering::SeqCst) > 0, "some sends had no answer");
    assert_eq!(run.end(&server, &seed).await, []);
    server.stop().await;
}

/// Kills servers under load, each with a power cut, and gives how many writes were not on the disk.
async fn cut_again_and_again(run: &Run, disk: &Disk, seed: &Seed, cuts: u64) -> usize {
    let mut missing = 0;
    for generation in 1..=cuts {
        let server = run.start(generation, &disk.below(Options::new())).await;
        Run::more(&run.world.accepted, seed.pick(1..300), "sends are accepted").await;
        run.publish.send_replace(None);
        server.check_log();
        let home = server.kill().await;
        missing += disk.cut_power(&home, seed);
    }
    missing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_power_cuts_under_load_take_nothing_that_was_acknowledged() {
    if embedded_only("disk faults") {
        return;
    }
    let (seed, disk, home) = (Seed::of_this_run(), Disk::new(), Home::new());
    let run = Run::new(&home, LISTENERS).await;
    let missing = cut_again_and_again(&run, &disk, &seed, POWER_CUTS).await;
    assert!(missing > 0, "every write was on the disk: the cuts hit nothing");
    let server = run.start(POWER_CUTS + 1, &disk.below(Options::new())).await;
    Run::more(&run.world.accepted, 100, "sends are accepted again").await;
    assert_eq!(run.end(&server, &seed).await, []);
    server.stop().await;
}

/// A server whose syncs do nothing breaks the promise at the first power cut, and this suite has to see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_sees_a_server_that_does_not_sync() {
    if embedded_only("disk faults") {
        return;
    }
    let (seed, disk, home) = (Seed::of_this_run(), Disk::new(), Home::new());
    let run = Run::new(&home, 0).await;
    let server = run.start(1, &disk.below(Options::new())).await;
    disk.fail(Fault::Lie);
    Run::more(&run.world.accepted, 200, "sends are accepted").await;
    run.publish.send_replace(None);
    let home = server.kill().await;
    disk.heal();
    disk.cut_power(&home, &seed);
    let server = run.start(2, &Options::new()).await;
    let found = run.end(&server, &seed).await;
    assert!(found.iter().any(|violation| matches!(violation, Violation::Lost { .. })), "{found:?}");
    server.stop().await;
}

/// SQLite takes a page that cannot be read for damage, so the writer ends the process when it meets one. Until then the truth is told, or nothing.
#[tokio::test]
async fn a_disk_that_cannot_be_read_is_no_empty_history() {
    if embedded_only("disk faults") {
        return;
    }
    let (disk, home) = (Disk::new(), Home::new());
    let server = Server::start_in(&home, Options::new()).await;
    let mut alice = server.hub("alice").await;
    let mut sent = Vec::new();
    // More than memory and a connection's cache hold, so that old pages have to be read.
    let long = "long ".repeat(800);
    for number in 0..1200 {
        sent.push(alice.send(SCOPE, &format!("{long}{number}"), &message_id()).await.expect("accepted"));
    }
    alice.close().await;
    server.stop().await;
    let options = disk.below(Options::new()).with("LIMITS__TAIL_BYTES", "1MiB");
    let mut server = Server::start_in(&home, options).await;
    server.ready().await;
    let http = server.http("alice").await;
    disk.fail(Fault::Read);
    let (page, one) = (format!("messages?limit=20&before={}", sent[20].position), &sent[3].message_id);
    for path in [page, format!("messages/{one}")] {
        let path = format!("/api/scopes/{SCOPE_PATH}/{path}");
        match http.request(hyper::Method::GET, &path, &[], None).await {
            Ok(answer) if answer.status == 200 => assert!(answer.text().contains(one), "{path}: {}", answer.text()),
            Ok(answer) => assert_eq!((answer.status, answer.problem().as_str()), (503, "STORE_UNAVAILABLE"), "{path}"),
            Err(_) => assert_eq!(server.ended().await.code(), Some(1), "it ended, and said that it was no wish"),
        }
    }
    assert!(disk.injected() > 0, "the disk was read");
    disk.heal();
    let home = server.kill().await;
    let server = Server::start_in(&home, Options::new()).await;
    server.ready().await;
    assert_eq!(server.http("alice").await.history_forward(SCOPE_PATH, 500).await, sent);
    server.stop().await;
}
