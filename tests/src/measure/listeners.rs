//! Who receives: clients that come back when their connection breaks, resume by position, and compare all that they are shown with the log.

use super::speakers::due_of;
use super::stage::{Return, Stage};
use crate::faults::clients::{ANSWER, Phase};
use crate::faults::verdict::{Finding, Follower, Seen};
use crate::hub::{Ending, Hub, HubError, HubOptions, JoinAnswer};
use crate::message::ChatMessage;
use crate::records::Record;
use chatify_building_blocks::random::{Random, SeededRandom};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

/// How long a server may say nothing, and how often a client shows that it lives: as the official clients have it.
const SILENCE: Duration = Duration::from_secs(30);
const PING: Duration = Duration::from_secs(15);
/// How often a client looks whether it has something to do.
const TICK: Duration = Duration::from_millis(200);
/// The wait that the protocol asks for before a part of the history is asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// The waits between tries to connect; the first one comes at once.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Messages that a join may bring.
const JOIN_LIMIT: u32 = 500;

/// A connection that broke, and what was done about it so far.
#[derive(Clone, Copy, Debug, Default)]
struct Broken {
    unproven: u32,
}

/// A hub client in one scope.
///
/// A client that loses its connection tries to connect at once, then after 100 ms, and after twice as long each time up to 2 s, of which up
/// to a half is left out by chance: what `withAutomaticReconnect` of the official JavaScript client does with such a policy.
#[derive(Debug)]
pub struct Listener {
    stage: Arc<Stage>,
    name: String,
    token: String,
    random: SeededRandom,
    scope: usize,
    cursor: i64,
    follower: Follower,
    broken: Option<Broken>,
    tries: u32,
    /// Something was wrong; one finding is enough.
    disproved: bool,
}

impl Listener {
    /// The listener of this number, in this scope.
    #[must_use]
    pub fn new(stage: &Arc<Stage>, number: usize, scope: usize, seed: u64) -> Self {
        let name = Self::name_of(number);
        let token = stage.world.token(&name);
        Self {
            stage: Arc::clone(stage),
            name,
            token,
            random: SeededRandom::new(seed),
            scope,
            cursor: 0,
            follower: Follower::default(),
            broken: Some(Broken::default()),
            tries: 0,
            disproved: false,
        }
    }

    /// The user's name of the listener of this number.
    #[must_use]
    pub fn name_of(number: usize) -> String {
        format!("listener-{number}")
    }

    /// Listens until it has seen everything. Until its first join it counts as one whose connection is broken.
    pub async fn run(mut self) -> Self {
        self.stage.leave();
        loop {
            match self.session().await {
                Ok(()) => return self,
                Err(HubError::Ended(_) | HubError::Connect(_) | HubError::Refused(429 | 503, _)) => {}
                Err(other) => {
                    let (observer, answer) = (self.name.clone(), other.to_string());
                    self.stage.world.found(Finding::WrongAnswer { observer, answer });
                }
            }
            if self.broken.is_none() {
                self.broken = Some(Broken::default());
                self.tries = 0;
                self.stage.leave();
            }
            sleep(self.wait()).await;
            self.tries += 1;
        }
    }

    fn wait(&self) -> Duration {
        let Some(doublings) = self.tries.checked_sub(1) else { return Duration::ZERO };
        let longest = WAITS.0.saturating_mul(1 << doublings.min(8)).min(WAITS.1);
        let half = u64::try_from(longest.as_micros()).expect("short") / 2;
        Duration::from_micros(half + self.random.u64() % half)
    }

    /// One connection, until it breaks or there is nothing more to see.
    async fn session(&mut self) -> Result<(), HubError> {
        let address = self.stage.world.address;
        let mut hub = Hub::connect_within(ANSWER, address, &self.token, HubOptions::default()).await?;
        while !self.join(&mut hub).await? {}
        // What was accepted up to here must be there before it counts as back.
        let goal = self.stage.newest(self.scope);
        self.listen(&mut hub, goal).await
    }

    /// Joins; whether the answer proves that nothing is missing.
    async fn join(&mut self, hub: &mut Hub) -> Result<bool, HubError> {
        let scope = &self.stage.world.scopes[self.scope];
        let arguments = vec![json!(scope), json!({ "after": self.cursor, "limit": JOIN_LIMIT })];
        let end = Instant::now() + ANSWER;
        let call = timeout_at(end, hub.start_call("JoinScope", arguments)).await.unwrap_or_else(|_| Err(silence()))?;
        let joined = timeout_at(end, answer_to(hub, &call)).await.unwrap_or_else(|_| Err(silence()))?;
        self.follower.recovered = joined.recovered;
        if let (false, Some(broken)) = (joined.recovered, &mut self.broken) {
            broken.unproven += 1;
        }
        let behind = matches!(joined.reason.as_deref(), Some("historyBehind" | "historyUnavailable"));
        match joined.reason.as_deref() {
            None | Some("limit" | "historyBehind" | "historyUnavailable") => {
                // What comes behind `position` may have holes while the history is behind; the next answer has it.
                let provable = |message: &ChatMessage| !behind || message.position <= joined.position;
                joined.messages.into_iter().filter(provable).for_each(|message| self.show(message));
                self.cursor = self.cursor.max(joined.position);
            }
            Some(_) => {
                let observer = self.name.clone();
                self.stage.world.found(Finding::CursorForgotten { observer, cursor: self.cursor });
                self.disproved = true;
            }
        }
        if behind {
            sleep(AGAIN).await;
        }
        Ok(joined.recovered || self.disproved)
    }

    async fn listen(&mut self, hub: &mut Hub, goal: i64) -> Result<(), HubError> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut heard, mut pinged) = (Instant::now(), Instant::now());
        loop {
            if let Some(broken) = self.broken.take_if(|_| self.cursor >= goal) {
                self.stage.come_back(Return { at: Instant::now(), unproven: broken.unproven });
            }
            tokio::select! {
                record = hub.record_whenever() => {
                    heard = Instant::now();
                    if let Record::Invocation { arguments, .. } = record? {
                        self.take(&arguments, heard);
                    }
                }
                _ = ticks.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(silence());
                    }
                    if pinged.elapsed() > PING {
                        pinged = Instant::now();
                        let ping = timeout(ANSWER, hub.send_record(&Record::Ping)).await;
                        ping.unwrap_or_else(|_| Err(silence()))?;
                    }
                    if self.has_everything() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn take(&mut self, arguments: &[serde_json::Value], arrived: Instant) {
        let message = ChatMessage::read(&arguments[0]).expect("ReceiveMessage carries a message");
        if let Some(due) = due_of(&message.text) {
            self.stage.delivered(self.stage.uptime_at(arrived).saturating_sub(due));
        }
        self.show(message);
    }

    fn show(&mut self, message: ChatMessage) {
        self.cursor = self.cursor.max(message.position);
        self.follower.show(Seen { position: message.position, message_id: message.message_id });
    }

    /// Compares what it was shown with the log; whether the run is over and it has seen all of its scope.
    fn has_everything(&mut self) -> bool {
        let world = &self.stage.world;
        let scope = &world.scopes[self.scope];
        if !self.disproved {
            let found = self.follower.compare(&self.name, world.reference.read().projection.scope(scope));
            if let Some(finding) = found {
                self.disproved = true;
                world.found(finding);
            }
        }
        let Phase::Over(counts) = world.phase() else { return false };
        self.disproved || self.follower.count() >= counts.get(scope).copied().unwrap_or(0)
    }
}

/// Waits for the answer to a join. Messages that come before it are in it as well.
async fn answer_to(hub: &mut Hub, call: &str) -> Result<JoinAnswer, HubError> {
    loop {
        match hub.record_whenever().await? {
            Record::Completion { id, outcome: Ok(answer) } if id == call => {
                return Ok(
                    JoinAnswer::read(&answer).unwrap_or_else(|error| panic!("a join's answer: {error}: {answer}"))
                );
            }
            // The pod cannot say now; another one may.
            Record::Completion { id, outcome: Err(_) } if id == call => return Err(silence()),
            _ => {}
        }
    }
}

/// What a client takes for a broken connection though nobody closed it.
fn silence() -> HubError {
    HubError::Ended(Ending { close_record: None, code: None })
}
