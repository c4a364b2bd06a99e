//! Senders: they know the ids of what they send, and repeat what was not answered, with the same id, on any pod.

use super::clients::{ANSWER, Phase, World, place_in};
use super::record::{Entry, Outcome};
use super::verdict::{Answer, Attempt, Finding};
use crate::http::{Answer as HttpAnswer, Http};
use crate::hub::send_argument;
use crate::message::ChatMessage;
use crate::seeds::message_id;
use chatify_building_blocks::random::{Random, SeededRandom};
use hyper::Method;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Sends that one client leaves unanswered at the same time.
const WINDOW: usize = 4;
/// One in so many of its own messages is sent again after it was delivered.
const REPEATS_ONE_IN: u64 = 12;
/// One in so many accepted messages is read back.
const READS_ONE_IN: u64 = 10;
/// Messages that may wait to be read back; more are not.
const READS_WAITING: usize = 64;
/// How long a sender waits before it repeats what could not be taken.
const REPEAT_AFTER: Duration = Duration::from_millis(300);

/// A try that waits for its answer.
#[derive(Clone, Debug)]
pub enum InFlight {
    /// The attempt of this number.
    Attempt(usize),
    /// A repeat of what this connection was already shown, at this position.
    Delivered {
        /// Its id.
        message_id: String,
        /// Where it was shown.
        position: i64,
    },
}

/// One message with all its tries.
#[derive(Debug)]
struct Sent {
    attempt: Attempt,
    text: String,
    tries: u32,
    /// Some try may have got into the log.
    perhaps: bool,
}

/// A message that was accepted, to be read back.
#[derive(Debug)]
pub struct Accepted {
    scope: String,
    message_id: String,
    position: i64,
    /// Whether no other try can be in front of it in the log.
    only: bool,
}

/// A bounded way to the one who reads back.
pub type Samples = mpsc::Sender<Accepted>;

/// One client's sends, from the first try to the answer.
#[derive(Debug)]
pub struct Outgoing {
    world: Arc<World>,
    name: String,
    scopes: Vec<String>,
    pace: Duration,
    /// Characters that each message has besides its number.
    padding: usize,
    due: Instant,
    sent: Vec<Sent>,
    /// Numbers of attempts without an answer that are not on their way, oldest first.
    waiting: VecDeque<usize>,
    again: Option<(String, String, String, i64)>,
    repeat_at: Instant,
    samples: Samples,
    settled: bool,
}

impl Outgoing {
    /// A client that says something new about every `pace`, with so much `padding`, in each of its scopes in turn.
    #[must_use]
    pub fn new(
        world: &Arc<World>,
        name: &str,
        scopes: &[String],
        (pace, padding): (Duration, usize),
        samples: Samples,
    ) -> Self {
        World::count(&world.counters.unsettled);
        Self {
            world: Arc::clone(world),
            name: name.to_owned(),
            scopes: scopes.to_vec(),
            pace,
            padding,
            due: Instant::now() + pace,
            sent: Vec::new(),
            waiting: VecDeque::new(),
            again: None,
            repeat_at: Instant::now(),
            samples,
            settled: false,
        }
    }

    /// What to send next, if anything: what was not answered, then, until the run settles, something new.
    pub fn next(&mut self, in_flight: usize) -> Option<(InFlight, Value)> {
        if in_flight >= WINDOW {
            return None;
        }
        if let Some((scope, text, message_id, position)) = self.again.take() {
            let argument = send_argument(&scope, &text, &message_id);
            return Some((InFlight::Delivered { message_id, position }, argument));
        }
        let number = self.next_number(in_flight)?;
        let sent = &self.sent[number];
        let argument = send_argument(&sent.attempt.scope, &sent.text, &sent.attempt.message_id);
        Some((InFlight::Attempt(number), argument))
    }

    fn next_number(&mut self, in_flight: usize) -> Option<usize> {
        let now = Instant::now();
        let number = if self.waiting.is_empty() {
            match self.world.phase() {
                Phase::Running if now >= self.due => self.something_new(now),
                Phase::Running => return None,
                Phase::Settling | Phase::Over(_) => {
                    self.settle(in_flight);
                    return None;
                }
            }
        } else {
            if now < self.repeat_at {
                return None;
            }
            self.waiting.pop_front()?
        };
        let sent = &mut self.sent[number];
        sent.tries += 1;
        if sent.tries > 1 {
            World::count(&self.world.counters.repeated);
        }
        Some(number)
    }

    fn something_new(&mut self, now: Instant) -> usize {
        self.due = now + self.pace;
        let number = self.sent.len();
        let attempt = Attempt {
            scope: self.scopes[number % self.scopes.len()].clone(),
            sender_id: self.name.clone(),
            message_id: message_id(),
            answer: Answer::Unknown,
        };
        let text = format!("{} says {number}{}", self.name, ".".repeat(self.padding));
        self.sent.push(Sent { attempt, text, tries: 0, perhaps: false });
        number
    }

    /// The connection is gone, and nobody answered these.
    pub fn unanswered(&mut self, tries: impl IntoIterator<Item = InFlight>) {
        // What came back on this connection cannot be repeated on it any more.
        self.again = None;
        for sent in tries {
            if let InFlight::Attempt(number) = sent {
                self.record(number, Outcome::Unknown, None, "", "no answer");
                self.sent[number].perhaps = true;
                self.repeat(number);
            }
        }
    }

    /// The answer to a try on the hub: position and pod, or the error's text.
    pub fn answered(&mut self, sent: InFlight, outcome: Result<(i64, String), String>) {
        let number = match sent {
            InFlight::Attempt(number) => number,
            InFlight::Delivered { message_id, position } => {
                if let Ok((answered, _)) = outcome
                    && answered != position
                {
                    self.world.found(Finding::AnsweredElsewhere { message_id, delivered: position, answered });
                }
                return;
            }
        };
        match outcome {
            Ok((position, pod)) => self.accepted(number, position, &pod),
            Err(error) => {
                let code = error.split(':').next().unwrap_or_default().to_owned();
                match code.as_str() {
                    "RATE_LIMIT_EXCEEDED" => self.refused(number, &code),
                    // The hub does not tell a refusal from a send whose outcome is not known.
                    "EVENT_PRODUCTION_FAILED" | "STORE_UNAVAILABLE" | "TIMEOUT" => self.perhaps(number, &code),
                    _ => self.wrong(number, &error),
                }
            }
        }
    }

    fn accepted(&mut self, number: usize, position: i64, pod: &str) {
        World::count(&self.world.counters.accepted);
        self.record(number, Outcome::Ok, Some(position), pod, "");
        let sent = &mut self.sent[number];
        sent.attempt.answer = Answer::Accepted(position);
        if self.world.counters.accepted.load(Ordering::Relaxed).is_multiple_of(READS_ONE_IN) {
            let (scope, message_id) = (sent.attempt.scope.clone(), sent.attempt.message_id.clone());
            // Whoever reads back may be behind; this one is not read then.
            drop(self.samples.try_send(Accepted { scope, message_id, position, only: sent.tries == 1 }));
        }
    }

    fn refused(&mut self, number: usize, code: &str) {
        self.record(number, Outcome::Refused, None, "", code);
        let sent = &mut self.sent[number];
        if sent.perhaps {
            // An earlier try may be in the log, so only a repeat can settle it.
            self.repeat(number);
        } else {
            sent.attempt.answer = Answer::Refused;
            World::count(&self.world.counters.refused);
        }
    }

    fn perhaps(&mut self, number: usize, code: &str) {
        self.record(number, Outcome::Unknown, None, "", code);
        self.sent[number].perhaps = true;
        self.repeat(number);
    }

    fn wrong(&mut self, number: usize, answer: &str) {
        self.record(number, Outcome::Unknown, None, "", answer);
        let message_id = &self.sent[number].attempt.message_id;
        let answer = format!("{message_id}: {answer}");
        self.world.found(Finding::WrongAnswer { observer: self.name.clone(), answer });
    }

    fn repeat(&mut self, number: usize) {
        self.repeat_at = Instant::now() + REPEAT_AFTER;
        self.waiting.push_back(number);
        self.waiting.make_contiguous().sort_unstable();
    }

    /// Its own message came back to it: now and then it sends it again on the same connection. Only one that was tried once: of another,
    /// a second record may be on its way into the log, and whoever repeats it then shares the answer to that one.
    pub fn delivered(&mut self, message: &ChatMessage, random: &SeededRandom) {
        let own = self.sent.iter().rev().find(|sent| sent.attempt.message_id == message.message_id);
        let once = own.is_some_and(|own| own.tries == 1 && own.attempt.answer == Answer::Accepted(message.position));
        if once && random.u64().is_multiple_of(REPEATS_ONE_IN) {
            let ChatMessage { scope, text, message_id, position, .. } = message.clone();
            self.again = Some((scope, text, message_id, position));
        }
    }

    fn settle(&mut self, in_flight: usize) {
        if in_flight == 0 && !self.settled {
            self.settled = true;
            self.world.counters.unsettled.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn record(&self, number: usize, outcome: Outcome, position: Option<i64>, pod: &str, cause: &str) {
        let sent = &self.sent[number];
        self.world.recorder.record(&Entry {
            actor: &self.name,
            operation: "send",
            scope: &sent.attempt.scope,
            id: &sent.attempt.message_id,
            position,
            outcome,
            pod,
            cause,
        });
    }

    /// What came of everything.
    pub fn attempts(&self) -> impl Iterator<Item = Attempt> {
        self.sent.iter().map(|sent| sent.attempt.clone())
    }
}

/// A client that only posts, one message after the other.
pub async fn post(world: Arc<World>, mut outgoing: Outgoing) -> Outgoing {
    let http = Http::new(world.address, Some(world.token(&outgoing.name)));
    let mut ticks = interval(outgoing.pace.min(REPEAT_AFTER));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        while let Some((sent, _)) = outgoing.next(0) {
            let InFlight::Attempt(number) = sent else { continue };
            let (scope, text, id) = {
                let sent = &outgoing.sent[number];
                (sent.attempt.scope.replacen(':', "/", 1), sent.text.clone(), sent.attempt.message_id.clone())
            };
            match timeout(ANSWER, http.send(&scope, &text, &id)).await {
                Ok(Ok(answer)) => take_post(&mut outgoing, number, &answer),
                Ok(Err(_)) | Err(_) => outgoing.unanswered([InFlight::Attempt(number)]),
            }
        }
        if outgoing.settled {
            return outgoing;
        }
    }
}

fn take_post(outgoing: &mut Outgoing, number: usize, answer: &HttpAnswer) {
    match answer.status {
        200 | 201 => {
            let (position, pod) = place_in(&answer.json());
            outgoing.accepted(number, position, &pod);
        }
        429 => outgoing.refused(number, answer.header("x-correlation-id")),
        503 | 504 => {
            let problem = answer.json();
            let refused = answer.status == 503 && problem["outcome"] != "unknown";
            let cause = format!("{} {}", answer.status, answer.header("x-correlation-id"));
            if refused { outgoing.refused(number, &cause) } else { outgoing.perhaps(number, &cause) }
        }
        status => outgoing.wrong(number, &format!("{status} {}", answer.text())),
    }
}

/// A way to the one who reads back, and its end.
#[must_use]
pub fn samples() -> (Samples, mpsc::Receiver<Accepted>) {
    mpsc::channel(READS_WAITING)
}

/// Reads accepted messages back, each on whatever pod the load balancer picks, until nobody sends any more.
pub async fn read_back(world: Arc<World>, mut samples: mpsc::Receiver<Accepted>) {
    let token = world.token("reader");
    while let Some(accepted) = samples.recv().await {
        // A new client each time: its connection goes to any pod.
        let http = Http::new(world.address, Some(token.clone()));
        let scope = accepted.scope.replacen(':', "/", 1);
        let paths = [
            format!("/api/scopes/{scope}/messages/{}", accepted.message_id),
            format!("/api/scopes/{scope}/messages?after={}&limit=1", accepted.position - 1),
        ];
        for path in paths.iter().take(if accepted.only { 2 } else { 1 }) {
            let Ok(Ok(answer)) = timeout(ANSWER, http.request(Method::GET, path, &[], None)).await else { continue };
            let there = match answer.status {
                200 => shows(&answer.json(), &accepted.message_id),
                404 => false,
                _ => continue,
            };
            World::count(&world.counters.read_back);
            world.recorder.record(&Entry {
                actor: "reader",
                operation: "read",
                scope: &accepted.scope,
                id: &accepted.message_id,
                position: Some(accepted.position),
                outcome: if there { Outcome::Ok } else { Outcome::Refused },
                cause: path,
                ..Entry::EMPTY
            });
            if !there {
                world.found(Finding::NotRead { message_id: accepted.message_id.clone() });
            }
        }
    }
}

/// Whether an answer shows the message, or says that it may lack something.
fn shows(answer: &Value, message_id: &str) -> bool {
    match answer["items"].as_array() {
        None => answer["messageId"] == message_id,
        // A pod that is behind says that there may be more.
        Some(items) if items.is_empty() => answer["complete"] == false || answer["newestReached"] == false,
        Some(items) => answer["complete"] == false || items.first().is_some_and(|item| item["messageId"] == message_id),
    }
}
