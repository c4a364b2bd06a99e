//! The process is killed again and again under load. Clients do what the protocol asks of them (reconnect, resume by position,
//! repeat unanswered sends with the same id), and afterwards everybody must have seen the same, whole, single sequence.

use chatify_tests::checker::{Answer, Attempt, ScopeViews, View, violations};
use chatify_tests::http::Http;
use chatify_tests::hub::{Hub, HubError, HubOptions, send_argument};
use chatify_tests::message::ChatMessage;
use chatify_tests::profile::embedded_only;
use chatify_tests::records::{Format, Record};
use chatify_tests::seeds::{Seed, message_id};
use chatify_tests::server::{Home, Options, Server};
use chatify_tests::waiting::{LONG, SOON, eventually, within};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::watch;
use tokio::task::JoinSet;

const CYCLES: u64 = 50;
const SCOPES: [&str; 2] = ["Channel:one", "Channel:two"];
const HUB_CLIENTS: u64 = 4;
const REST_CLIENTS: u64 = 2;
/// Sends that one hub client leaves unanswered at the same time.
const WINDOW: usize = 4;

/// What all clients of the run share.
struct World {
    home: Arc<Home>,
    /// Where the server of this generation listens.
    server: watch::Receiver<Option<(u64, SocketAddr)>>,
    /// The last position of each scope, once nobody sends any more.
    last: watch::Receiver<Option<BTreeMap<String, i64>>>,
    stopping: AtomicBool,
    accepted: AtomicU64,
    repeated: AtomicU64,
    unsettled: AtomicUsize,
    /// Counts events, so that "answered before it was sent" can be told across clients.
    ticks: AtomicU64,
}

impl World {
    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    async fn server_after(&self, generation: u64) -> (u64, SocketAddr) {
        let mut server = self.server.clone();
        let newer = |known: &Option<(u64, SocketAddr)>| known.is_some_and(|(number, _)| number > generation);
        let found = within(LONG, "a newer server", server.wait_for(newer)).await.expect("the run goes on");
        found.expect("checked")
    }
}

/// One client's sends, from the first try to the answer.
struct Outgoing {
    name: String,
    world: Arc<World>,
    attempts: Vec<Attempt>,
    /// Indices of attempts without an answer that are not on their way, oldest first.
    waiting: VecDeque<usize>,
    settled: bool,
}

impl Outgoing {
    fn new(name: String, world: Arc<World>) -> Self {
        Self { name, world, attempts: Vec::new(), waiting: VecDeque::new(), settled: false }
    }

    /// What to send next: what was not answered, then, until the run stops, something new.
    fn next(&mut self) -> Option<usize> {
        if let Some(index) = self.waiting.pop_front() {
            self.world.repeated.fetch_add(1, Ordering::SeqCst);
            return Some(index);
        }
        if self.world.stopping() {
            return None;
        }
        let index = self.attempts.len();
        let (scope, message_id) = (SCOPES[index % SCOPES.len()].to_owned(), message_id());
        self.attempts.push(Attempt { scope, message_id, issued: self.world.tick(), answer: Answer::Unknown });
        Some(index)
    }

    fn text(&self, index: usize) -> String {
        format!("{} says {index}", self.name)
    }

    fn accepted(&mut self, index: usize, position: i64) {
        self.attempts[index].answer = Answer::Accepted { position, at: self.world.tick() };
        self.world.accepted.fetch_add(1, Ordering::SeqCst);
    }

    /// Puts attempts that got no answer back into their old order, before anything newer.
    fn repeat_later(&mut self, indices: impl IntoIterator<Item = usize>) {
        self.waiting.extend(indices);
        self.waiting.make_contiguous().sort_unstable();
    }

    fn settle(&mut self) {
        if !self.settled {
            self.settled = true;
            self.world.unsettled.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

struct HubClient {
    outgoing: Outgoing,
    token: String,
    format: Format,
    seen: BTreeMap<String, Vec<ChatMessage>>,
}

impl HubClient {
    async fn run(mut self) -> Self {
        let mut generation = 0;
        loop {
            let (number, address) = self.outgoing.world.server_after(generation).await;
            match self.session(address).await {
                Ok(()) => return self,
                // A server that says goodbye lives on and may be asked again; silence means that it was killed.
                Err(HubError::Ended(ending)) if ending.close_record.is_some() => {
                    assert_eq!(ending.close_record.map(|(_, again)| again), Some(true), "goodbye for ever");
                }
                Err(HubError::Ended(_) | HubError::Connect(_)) => generation = number,
                Err(other) => panic!("{}: {other}", self.outgoing.name),
            }
        }
    }

    async fn session(&mut self, address: SocketAddr) -> Result<(), HubError> {
        let options = HubOptions { format: self.format, ..HubOptions::default() };
        let mut hub = Hub::connect(address, &self.token, options).await?;
        for scope in SCOPES {
            self.resume(&mut hub, address, scope).await?;
        }
        let mut in_flight = HashMap::new();
        let ended = self.converse(&mut hub, &mut in_flight).await;
        self.outgoing.repeat_later(in_flight.into_values());
        ended
    }

    /// Joins behind the last message that this client saw, and pages what the answer could not hold.
    async fn resume(&mut self, hub: &mut Hub, address: SocketAddr, scope: &str) -> Result<(), HubError> {
        let cursor = self.cursor(scope);
        let joined = hub.join(scope, Some(cursor)).await?;
        assert!(joined.recovered || joined.reason.as_deref() == Some("limit"), "{scope} after {cursor}: {joined:?}");
        let (mut position, live_after) = (joined.position, joined.live_after);
        self.show(scope, joined.messages);
        let http = Http::new(address, Some(self.token.clone()));
        while joined.has_more && position < live_after {
            let path = format!("/api/scopes/{}/messages?after={position}&limit=500", scope.replace(':', "/"));
            let answer = http.request(hyper::Method::GET, &path, &[], None).await.map_err(HubError::Connect)?;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            let page = ChatMessage::read_all(&answer.json()["items"]).expect("messages");
            let page: Vec<ChatMessage> = page.into_iter().filter(|item| item.position <= live_after).collect();
            let Some(newest) = page.last() else { break };
            position = newest.position;
            self.show(scope, page);
        }
        Ok(())
    }

    async fn converse(&mut self, hub: &mut Hub, in_flight: &mut HashMap<String, usize>) -> Result<(), HubError> {
        let world = Arc::clone(&self.outgoing.world);
        let mut last = world.last.clone();
        loop {
            for message in hub.kept_messages() {
                self.show(&message.scope.clone(), vec![message]);
            }
            while in_flight.len() < WINDOW {
                let Some(index) = self.outgoing.next() else { break };
                let attempt = &self.outgoing.attempts[index];
                let argument = send_argument(&attempt.scope, &self.outgoing.text(index), &attempt.message_id);
                match hub.start_call("Send", vec![argument]).await {
                    Ok(id) => drop(in_flight.insert(id, index)),
                    Err(error) => {
                        self.outgoing.repeat_later([index]);
                        return Err(error);
                    }
                }
            }
            if in_flight.is_empty() && world.stopping() {
                self.outgoing.settle();
                if self.has_everything(&last.borrow()) {
                    return Ok(());
                }
            }
            tokio::select! {
                record = hub.record() => self.take(record?, in_flight),
                changed = last.changed() => changed.expect("the run goes on"),
            }
        }
    }

    fn take(&mut self, record: Record, in_flight: &mut HashMap<String, usize>) {
        match record {
            Record::Invocation { arguments, .. } => {
                let message = ChatMessage::read(&arguments[0]).expect("a message");
                self.show(&message.scope.clone(), vec![message]);
            }
            Record::Completion { id, outcome } => {
                let index = in_flight.remove(&id).expect("an answer to a call that waits for one");
                match outcome {
                    Ok(result) => self.outgoing.accepted(index, position_of(&result)),
                    Err(error) => {
                        assert!(error.starts_with("EVENT_PRODUCTION_FAILED"), "a send ended with {error}");
                        self.outgoing.repeat_later([index]);
                    }
                }
            }
            Record::Ping => {}
            other => panic!("{other:?}"),
        }
    }

    fn show(&mut self, scope: &str, messages: Vec<ChatMessage>) {
        assert!(messages.iter().all(|message| message.scope == scope), "messages of another scope than {scope}");
        self.seen.entry(scope.to_owned()).or_default().extend(messages);
    }

    fn cursor(&self, scope: &str) -> i64 {
        self.seen.get(scope).and_then(|seen| seen.last()).map_or(0, |message| message.position)
    }

    fn has_everything(&self, last: &Option<BTreeMap<String, i64>>) -> bool {
        last.as_ref().is_some_and(|last| last.iter().all(|(scope, position)| self.cursor(scope) >= *position))
    }
}

async fn rest_client(mut outgoing: Outgoing, token: String) -> Outgoing {
    let mut generation = 0;
    loop {
        let (number, address) = outgoing.world.server_after(generation).await;
        let http = Http::new(address, Some(token.clone()));
        while let Some(index) = outgoing.next() {
            let attempt = &outgoing.attempts[index];
            let (scope, id) = (attempt.scope.replace(':', "/"), attempt.message_id.clone());
            match http.send(&scope, &outgoing.text(index), &id).await {
                Ok(answer) if answer.status == 201 => outgoing.accepted(index, position_of(&answer.json())),
                Ok(answer) => {
                    assert_eq!(answer.status, 503, "{}", answer.text());
                    outgoing.repeat_later([index]);
                }
                Err(_) => {
                    outgoing.repeat_later([index]);
                    generation = number;
                    break;
                }
            }
        }
        if outgoing.world.stopping() && outgoing.waiting.is_empty() {
            outgoing.settle();
            return outgoing;
        }
    }
}

fn position_of(result: &Value) -> i64 {
    result["position"].as_i64().unwrap_or_else(|| panic!("an accepted send has a position: {result}"))
}

/// Runs the server through its deaths and leaves the last one running.
async fn live_and_die(world: &World, seed: &Seed, publish: &watch::Sender<Option<(u64, SocketAddr)>>) -> Server {
    for generation in 1..=CYCLES {
        let server = Server::start_in(&world.home, Options::new()).await;
        // Now and then it dies while it recovers from the death before.
        if seed.pick(0..8) > 0 {
            server.ready().await;
            publish.send_replace(Some((generation, server.address())));
            let enough = world.accepted.load(Ordering::SeqCst) + seed.pick(1..300);
            eventually(LONG, "the clients' sends are accepted", || async {
                (world.accepted.load(Ordering::SeqCst) >= enough).then_some(())
            })
            .await;
        }
        publish.send_replace(None);
        server.check_log();
        server.kill().await;
    }
    let server = Server::start_in(&world.home, Options::new()).await;
    server.ready().await;
    publish.send_replace(Some((CYCLES + 1, server.address())));
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_under_load_lose_repeat_and_reorder_nothing() {
    if embedded_only("fifty_kills_under_load_lose_repeat_and_reorder_nothing") {
        return;
    }
    let seed = Seed::of_this_run();
    let (publish, server) = watch::channel(None);
    let (publish_last, last) = watch::channel(None);
    let world = Arc::new(World {
        home: Home::new(),
        server,
        last,
        stopping: AtomicBool::new(false),
        accepted: AtomicU64::new(0),
        repeated: AtomicU64::new(0),
        unsettled: AtomicUsize::new(usize::try_from(HUB_CLIENTS + REST_CLIENTS).expect("few")),
        ticks: AtomicU64::new(0),
    });
    let (mut hub_clients, mut rest_clients) = (JoinSet::new(), JoinSet::new());
    for number in 0..HUB_CLIENTS {
        let name = format!("hub-{number}");
        let token = world.home.token(&name).await;
        let format = Format::ALL[usize::try_from(number % 2).expect("0 or 1")];
        let outgoing = Outgoing::new(name, Arc::clone(&world));
        hub_clients.spawn(HubClient { outgoing, token, format, seen: BTreeMap::new() }.run());
    }
    for number in 0..REST_CLIENTS {
        let name = format!("rest-{number}");
        let token = world.home.token(&name).await;
        rest_clients.spawn(rest_client(Outgoing::new(name, Arc::clone(&world)), token));
    }
    let story = async {
        let server = live_and_die(&world, &seed, &publish).await;
        world.stopping.store(true, Ordering::SeqCst);
        // Whoever only listens at this moment looks again.
        publish_last.send_replace(None);
        eventually(LONG, "every send is answered", || async {
            (world.unsettled.load(Ordering::SeqCst) == 0).then_some(())
        })
        .await;
        server
    };
    let server = tokio::select! {
        server = story => server,
        // No hub client ends before it knows where the scopes end, unless it found something wrong.
        ended = hub_clients.join_next() => panic!("a client ended early: {:?}", ended.map(|client| client.err())),
    };
    let histories = read_histories(&server).await;
    let ends = histories.iter().map(|(scope, views)| (scope.clone(), views.0.last().map_or(0, |item| item.position)));
    publish_last.send_replace(Some(ends.collect()));
    let hub_clients = within(LONG, "the clients have everything", hub_clients.join_all()).await;
    let rest_clients = within(SOON, "the senders end", rest_clients.join_all()).await;
    check(histories, &hub_clients, &rest_clients, &seed);
    let repeated = world.repeated.load(Ordering::SeqCst);
    assert!(repeated >= CYCLES / 2, "only {repeated} sends had to be repeated: the kills hit nothing");
    server.stop().await;
}

type Histories = BTreeMap<String, (Vec<ChatMessage>, Vec<ChatMessage>)>;

async fn read_histories(server: &Server) -> Histories {
    let http = server.http("reader").await;
    let mut histories = BTreeMap::new();
    for scope in SCOPES {
        let path = scope.replace(':', "/");
        let both = (http.history_forward(&path, 500).await, http.history_backward(&path, 333).await);
        histories.insert(scope.to_owned(), both);
    }
    histories
}

fn check(histories: Histories, hub_clients: &[HubClient], rest_clients: &[Outgoing], seed: &Seed) {
    let outgoing = hub_clients.iter().map(|client| &client.outgoing).chain(rest_clients);
    let attempts: Vec<Attempt> = outgoing.flat_map(|outgoing| outgoing.attempts.iter().cloned()).collect();
    let unanswered = attempts.iter().filter(|attempt| attempt.answer == Answer::Unknown).count();
    assert_eq!(unanswered, 0, "every send was repeated until it was answered");
    for (scope, (forward, backward)) in histories {
        let mut views = vec![View::new("history forward", &forward), View::new("history backward", &backward)];
        views.extend(hub_clients.iter().map(|client| View::new(&client.outgoing.name, &client.seen[&scope])));
        let found = violations(&attempts, &ScopeViews { scope: scope.clone(), views });
        let shown = &found[..found.len().min(10)];
        assert!(found.is_empty(), "{scope}, seed {}: {} violations, such as {shown:#?}", seed.number(), found.len());
        assert_eq!(forward.len(), attempts.iter().filter(|attempt| attempt.scope == scope).count(), "{scope}");
    }
}
