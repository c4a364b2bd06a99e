//! Subscribers: hub clients that follow the rules of docs/PROTOCOL.md, reconnect, resume by position, and compare all that they are shown with the log.

use super::log::SharedReference;
use super::machines::Fleet;
use super::record::{Entry, Outcome, Recorder};
use super::senders::{InFlight, Outgoing};
use super::verdict::{Finding, Follower, Seen};
use crate::http::Http;
use crate::hub::{Ending, Hub, HubError, HubOptions, JoinAnswer};
use crate::message::ChatMessage;
use crate::records::{Format, Record};
use crate::tokens::{claims, signed};
use chatify_building_blocks::random::{Random, SeededRandom};
use hyper::Method;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// How long a client waits for an answer before it gives the connection up.
pub const ANSWER: Duration = Duration::from_secs(10);
/// How long a server may say nothing; it pings idle connections every two seconds.
const SILENCE: Duration = Duration::from_secs(12);
/// How often a client shows that it lives.
const PING: Duration = Duration::from_secs(5);
/// How often a client looks whether it has something to do.
const TICK: Duration = Duration::from_millis(100);
/// The wait that the protocol asks for before a part of the history is asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a client that stalls does not read.
const STALL: Duration = Duration::from_secs(4);

/// Where a run is.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Everybody talks.
    Running,
    /// Nobody says anything new; what was not answered is repeated.
    Settling,
    /// This is how many messages each scope has: whoever has seen them is done.
    Over(BTreeMap<String, usize>),
}

/// Figures that all clients of a run count together.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sends that were accepted.
    pub accepted: AtomicU64,
    /// Tries that repeated an earlier one.
    pub repeated: AtomicU64,
    /// Sends that were refused for good.
    pub refused: AtomicU64,
    /// Connections that were made.
    pub connections: AtomicU64,
    /// Connections that ended otherwise than their client wanted.
    pub broken: AtomicU64,
    /// Messages that clients were shown.
    pub shown: AtomicU64,
    /// Joins that were answered with `recovered: true`.
    pub recovered: AtomicU64,
    /// Joins that said that something may be missing.
    pub not_recovered: AtomicU64,
    /// Messages that were read back after they had been accepted.
    pub read_back: AtomicU64,
    /// Senders that still have something to repeat.
    pub unsettled: AtomicU64,
}

/// What clients do besides following the rules. Each is done once in so many ticks (of 100 ms).
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Leave, and come back.
    pub leaves_every: u64,
    /// One in so many of those who leave comes back as somebody who has seen nothing.
    pub newcomer_one_in: u64,
    /// Of every twentieth client: read nothing for a while.
    pub stalls_every: u64,
}

impl Default for Habits {
    fn default() -> Self {
        Self { leaves_every: 900, newcomer_one_in: 20, stalls_every: 300 }
    }
}

/// What all clients of a run share.
#[derive(Debug)]
pub struct World {
    /// The load balancer.
    pub address: SocketAddr,
    /// The secret of the run's tokens.
    pub key: String,
    /// The scopes in which people talk.
    pub scopes: Vec<String>,
    /// Where the run is.
    pub phase: watch::Receiver<Phase>,
    /// The log.
    pub reference: SharedReference,
    /// The history of the run.
    pub recorder: Recorder,
    /// What was found wrong.
    pub findings: Mutex<Vec<Finding>>,
    /// Figures.
    pub counters: Counters,
}

impl World {
    /// The world of the clients of `fleet`, who talk in the channels `NAME-0` and so on. Its history lies in `target/faults`, under `history`.
    #[must_use]
    pub fn new(
        fleet: &Fleet,
        channels: (&str, usize),
        phase: watch::Receiver<Phase>,
        reference: SharedReference,
        history: &str,
    ) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/faults");
        let (name, count) = channels;
        Self {
            address: fleet.address(),
            key: fleet.names().key().to_owned(),
            scopes: (0..count).map(|number| format!("Channel:{name}-{number}")).collect(),
            phase,
            reference,
            recorder: Recorder::create(&directory, &format!("{history}-{}", fleet.names().group())),
            findings: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// A token for `user` that is good for the whole run.
    #[must_use]
    pub fn token(&self, user: &str) -> String {
        let mut claims = claims("chatify", "chatify", user);
        claims["exp"] = json!(claims["exp"].as_i64().expect("a time") + 86_400);
        signed(&claims, Algorithm::HS256, self.key.as_bytes())
    }

    /// Adds to the findings of the run.
    pub fn found(&self, finding: Finding) {
        self.recorder.record(&Entry {
            actor: "checker",
            operation: "finding",
            id: finding.kind(),
            cause: &format!("{finding:?}"),
            ..Entry::EMPTY
        });
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
    }

    /// Where the run is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// One client's place in one scope.
#[derive(Debug)]
struct Place {
    scope: String,
    cursor: i64,
    follower: Follower,
    /// Something was wrong; one finding is enough.
    broken: bool,
}

/// A hub client, which may send too.
#[derive(Debug)]
pub struct Client {
    world: Arc<World>,
    name: String,
    token: String,
    format: Format,
    random: SeededRandom,
    places: Vec<Place>,
    /// What it sends, if it does.
    pub outgoing: Option<Outgoing>,
    in_flight: HashMap<String, InFlight>,
    habits: Habits,
    stalls: bool,
}

impl Client {
    /// A client that follows these scopes.
    #[must_use]
    pub fn new(world: &Arc<World>, name: &str, seed: u64, scopes: &[String], outgoing: Option<Outgoing>) -> Self {
        let place =
            |scope: &String| Place { scope: scope.clone(), cursor: 0, follower: Follower::default(), broken: false };
        let random = SeededRandom::new(seed);
        Self {
            world: Arc::clone(world),
            name: name.to_owned(),
            token: world.token(name),
            format: Format::ALL[usize::from(random.u64().is_multiple_of(4))],
            random,
            places: scopes.iter().map(place).collect(),
            outgoing,
            in_flight: HashMap::new(),
            habits: Habits::default(),
            stalls: false,
        }
    }

    /// The client with these habits; `number` says whether it is one that stalls.
    #[must_use]
    pub fn with(mut self, habits: Habits, number: usize) -> Self {
        self.habits = habits;
        self.stalls = number % 20 == 19;
        self
    }

    /// Lives until it has seen everything.
    pub async fn run(mut self) -> Self {
        loop {
            let ended = self.session().await;
            if let Some(outgoing) = &mut self.outgoing {
                outgoing.unanswered(self.in_flight.drain().map(|(_, sent)| sent));
            }
            self.in_flight.clear();
            match ended {
                Ok(true) => return self,
                // It left by itself.
                Ok(false) => self.come_back_new(),
                Err(HubError::Ended(_) | HubError::Connect(_) | HubError::Refused(429 | 503, _)) => {
                    World::count(&self.world.counters.broken);
                }
                Err(other) => self.wrong_answer(&other.to_string()),
            }
            sleep(Duration::from_millis(50 + self.random.u64() % 450)).await;
        }
    }

    /// Some of those who leave come back on another device, which has nothing yet.
    fn come_back_new(&mut self) {
        if !self.random.u64().is_multiple_of(self.habits.newcomer_one_in) {
            return;
        }
        for place in self.places.iter_mut().filter(|place| !place.broken) {
            place.cursor = 0;
            place.follower = Follower::default();
        }
    }

    /// One connection; whether there is nothing more to do.
    async fn session(&mut self) -> Result<bool, HubError> {
        let options = HubOptions { format: self.format, small_buffers: self.stalls, ..HubOptions::default() };
        let mut hub = Hub::connect_within(ANSWER, self.world.address, &self.token, options).await?;
        World::count(&self.world.counters.connections);
        for index in 0..self.places.len() {
            self.join(&mut hub, index).await?;
        }
        self.converse(&mut hub).await
    }

    /// Joins as rules 3 to 5 of the protocol ask for.
    async fn join(&mut self, hub: &mut Hub, index: usize) -> Result<(), HubError> {
        loop {
            let after = self.places[index].cursor;
            // Now and then it wants so little at once that it has to page the rest.
            let limit = if self.random.u64().is_multiple_of(4) { 1 + self.random.u64() % 20 } else { 500 };
            let arguments = vec![json!(self.places[index].scope), json!({ "after": after, "limit": limit })];
            let call = in_time(hub.start_call("JoinScope", arguments)).await?;
            let joined = self.joined(hub, &call, index).await?;
            let place = &mut self.places[index];
            place.follower.recovered = joined.recovered;
            let counters = &self.world.counters;
            World::count(if joined.recovered { &counters.recovered } else { &counters.not_recovered });
            self.world.recorder.record(&Entry {
                actor: &self.name,
                operation: "join",
                scope: &place.scope,
                position: Some(after),
                outcome: if joined.recovered { Outcome::Ok } else { Outcome::Unknown },
                cause: joined.reason.as_deref().unwrap_or_default(),
                ..Entry::EMPTY
            });
            match joined.reason.as_deref() {
                None | Some("limit") => {
                    self.show(index, joined.messages);
                    self.places[index].cursor = self.places[index].cursor.max(joined.position);
                    return if joined.has_more { self.page(index, joined.live_after).await } else { Ok(()) };
                }
                Some("historyBehind" | "historyUnavailable") => {
                    let provable = joined.messages.into_iter().filter(|message| message.position <= joined.position);
                    self.show(index, provable.collect());
                    self.places[index].cursor = self.places[index].cursor.max(joined.position);
                    sleep(AGAIN).await;
                }
                Some(_) => {
                    let observer = self.name.clone();
                    self.world.found(Finding::CursorForgotten { observer, cursor: after });
                    self.places[index].broken = true;
                    return Ok(());
                }
            }
        }
    }

    /// Waits for the answer to a join. Live messages of the scope that come before it are in it as well.
    async fn joined(&mut self, hub: &mut Hub, call: &str, index: usize) -> Result<JoinAnswer, HubError> {
        let end = Instant::now() + ANSWER;
        loop {
            let Ok(record) = tokio::time::timeout_at(end, hub.record_whenever()).await else { return Err(silence()) };
            match record? {
                Record::Completion { id, outcome: Ok(answer) } if id == call => {
                    return Ok(
                        JoinAnswer::read(&answer).unwrap_or_else(|error| panic!("a join's answer: {error}: {answer}"))
                    );
                }
                Record::Completion { id, outcome: Err(error) } if id == call => {
                    // The pod cannot say now; another one may.
                    let codes = ["STORE_UNAVAILABLE", "TIMEOUT", "EVENT_PRODUCTION_FAILED"];
                    if !codes.iter().any(|code| error.starts_with(code)) {
                        self.wrong_answer(&format!("a join ended with {error}"));
                    }
                    return Err(silence());
                }
                Record::Invocation { arguments, .. } => {
                    let message = received(&arguments);
                    if message.scope != self.places[index].scope {
                        self.take_message(message);
                    }
                }
                other => self.take(other),
            }
        }
    }

    /// Reads the rest of a resume that was too long for one answer.
    async fn page(&mut self, index: usize, live_after: i64) -> Result<(), HubError> {
        let http = Http::new(self.world.address, Some(self.token.clone()));
        let end = Instant::now() + 6 * ANSWER;
        while self.places[index].cursor < live_after {
            if Instant::now() > end {
                return Err(silence());
            }
            let (place, before) = (&self.places[index], self.places[index].cursor);
            let scope = place.scope.replacen(':', "/", 1);
            let path = format!("/api/scopes/{scope}/messages?after={}&limit=500", place.cursor);
            let answer = timeout(ANSWER, http.request(Method::GET, &path, &[], None)).await;
            let page = match answer {
                Ok(Ok(answer)) if answer.status == 200 => answer.json(),
                _ => Value::Null,
            };
            if page["complete"] != Value::Bool(true) {
                sleep(AGAIN).await;
                continue;
            }
            let items = ChatMessage::read_all(&page["items"]).expect("a page's items are messages");
            self.show(index, items.into_iter().filter(|item| item.position <= live_after).collect());
            if page["newestReached"] == Value::Bool(true) {
                break;
            }
            if self.places[index].cursor == before {
                // The pod is a moment behind the log.
                sleep(TICK).await;
            }
        }
        self.places[index].cursor = self.places[index].cursor.max(live_after);
        Ok(())
    }

    async fn converse(&mut self, hub: &mut Hub) -> Result<bool, HubError> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut heard, mut pinged) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                record = hub.record_whenever() => {
                    heard = Instant::now();
                    self.take(record?);
                }
                _ = ticks.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(silence());
                    }
                    if pinged.elapsed() > PING {
                        pinged = Instant::now();
                        in_time(hub.send_record(&Record::Ping)).await?;
                    }
                    self.send(hub).await?;
                    self.compare();
                    match self.world.phase() {
                        Phase::Over(counts) if self.has_everything(&counts) => return Ok(true),
                        Phase::Running if self.random.u64().is_multiple_of(self.habits.leaves_every) => return Ok(false),
                        Phase::Running if self.stalls && self.random.u64().is_multiple_of(self.habits.stalls_every) => {
                            sleep(STALL).await;
                            heard = Instant::now();
                        }
                        Phase::Running | Phase::Settling | Phase::Over(_) => {}
                    }
                }
            }
        }
    }

    async fn send(&mut self, hub: &mut Hub) -> Result<(), HubError> {
        let Some(outgoing) = &mut self.outgoing else { return Ok(()) };
        while let Some((sent, argument)) = outgoing.next(self.in_flight.len()) {
            match in_time(hub.start_call("Send", vec![argument])).await {
                Ok(call) => drop(self.in_flight.insert(call, sent)),
                Err(error) => {
                    outgoing.unanswered([sent]);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Invocation { arguments, .. } => self.take_message(received(&arguments)),
            Record::Completion { id, outcome } => {
                let (Some(sent), Some(outgoing)) = (self.in_flight.remove(&id), &mut self.outgoing) else { return };
                outgoing.answered(sent, outcome.map(|result| place_in(&result)));
            }
            _ => {}
        }
    }

    fn take_message(&mut self, message: ChatMessage) {
        if let Some(index) = self.places.iter().position(|place| place.scope == message.scope) {
            self.show(index, vec![message]);
        }
    }

    fn show(&mut self, index: usize, messages: Vec<ChatMessage>) {
        let place = &mut self.places[index];
        for message in messages {
            World::count(&self.world.counters.shown);
            if let Some(outgoing) = self.outgoing.as_mut().filter(|_| message.sender_id == self.name) {
                outgoing.delivered(&message, &self.random);
            }
            place.cursor = place.cursor.max(message.position);
            place.follower.show(Seen { position: message.position, message_id: message.message_id });
        }
    }

    fn compare(&mut self) {
        let reference = self.world.reference.read();
        for place in self.places.iter_mut().filter(|place| !place.broken) {
            let log = reference.projection.scope(&place.scope);
            if let Some(finding) = place.follower.compare(&self.name, log) {
                place.broken = true;
                self.world.found(finding);
            }
        }
    }

    fn has_everything(&self, counts: &BTreeMap<String, usize>) -> bool {
        let count = |scope: &str| counts.get(scope).copied().unwrap_or(0);
        self.in_flight.is_empty()
            && self.places.iter().all(|place| place.broken || place.follower.count() >= count(&place.scope))
    }

    /// What it has not seen in the end.
    #[must_use]
    pub fn missing(&self, counts: &BTreeMap<String, usize>) -> Vec<String> {
        let count = |scope: &str| counts.get(scope).copied().unwrap_or(0);
        let behind = self.places.iter().filter(|place| !place.broken && place.follower.count() < count(&place.scope));
        behind.map(|place| format!("{} saw {} of {}", self.name, place.follower.count(), place.scope)).collect()
    }

    fn wrong_answer(&self, answer: &str) {
        self.world.found(Finding::WrongAnswer { observer: self.name.clone(), answer: answer.to_owned() });
    }
}

fn received(arguments: &[Value]) -> ChatMessage {
    ChatMessage::read(&arguments[0]).expect("ReceiveMessage carries a message")
}

/// Where an accepted send is, and which pod took it.
pub(super) fn place_in(result: &Value) -> (i64, String) {
    let position = result["position"].as_i64().unwrap_or_else(|| panic!("an accepted send has a position: {result}"));
    (position, result["chatEvent"]["originPodId"].as_str().unwrap_or_default().to_owned())
}

/// What a frozen pod looks like.
fn silence() -> HubError {
    HubError::Ended(Ending { close_record: None, code: None })
}

async fn in_time<T>(work: impl Future<Output = Result<T, HubError>>) -> Result<T, HubError> {
    timeout(ANSWER, work).await.unwrap_or_else(|_| Err(silence()))
}
