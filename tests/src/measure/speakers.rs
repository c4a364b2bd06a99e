//! Who sends: one message at a time at a steady pace, each repeated with its id until it is accepted.

use super::stage::{Acceptance, Stage};
use crate::faults::clients::{ANSWER, Phase};
use crate::faults::verdict::{Answer, Attempt, Finding};
use crate::hub::{Hub, HubError, HubOptions};
use crate::message::ChatMessage;
use crate::seeds::message_id;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long a speaker waits before it repeats what was not accepted.
const REPEAT_AFTER: Duration = Duration::from_millis(200);
/// What a message says besides when it was due.
const FILLER: &str = "The quick brown fox jumps over the lazy dog, and then says so in a chat.";
/// Answers that leave open whether the message is in the log, or that may be another one a little later.
const REPEATED: [&str; 4] = ["EVENT_PRODUCTION_FAILED", "STORE_UNAVAILABLE", "TIMEOUT", "RATE_LIMIT_EXCEEDED"];

/// A hub client that sends to one scope, on its own pod while that runs and on any other one otherwise.
#[derive(Debug)]
pub struct Speaker {
    stage: Arc<Stage>,
    name: String,
    token: String,
    pod: usize,
    scope: usize,
    pace: Duration,
    due: Instant,
    hub: Option<(SocketAddr, Hub)>,
    attempts: Vec<Attempt>,
}

impl Speaker {
    /// The speaker of this number, who says something every `pace` from `first` on.
    #[must_use]
    pub fn new(
        stage: &Arc<Stage>,
        number: usize,
        (pod, scope): (usize, usize),
        pace: Duration,
        first: Instant,
    ) -> Self {
        let name = format!("speaker-{number}");
        let token = stage.world.token(&name);
        Self { stage: Arc::clone(stage), name, token, pod, scope, pace, due: first, hub: None, attempts: Vec::new() }
    }

    /// Speaks until the run settles; what came of everything.
    pub async fn run(mut self) -> Vec<Attempt> {
        loop {
            sleep_until(self.due).await;
            if !matches!(self.stage.world.phase(), Phase::Running) {
                break;
            }
            self.say().await;
            self.due += self.pace;
            // Whoever was held up does not hurry afterwards.
            if self.due + self.pace < Instant::now() {
                self.due = Instant::now();
            }
        }
        if let Some((_, hub)) = self.hub.take() {
            hub.close().await;
        }
        self.attempts
    }

    async fn say(&mut self) {
        let began = Instant::now();
        let scope = self.stage.world.scopes[self.scope].clone();
        // Whoever receives it measures from the moment when it was due, so that a late send counts as a late delivery.
        let text = format!("{} {FILLER}", self.stage.uptime_at(self.due).as_nanos());
        let id = message_id();
        let number = self.attempts.len();
        self.attempts.push(Attempt {
            scope: scope.clone(),
            sender_id: self.name.clone(),
            message_id: id.clone(),
            answer: Answer::Unknown,
        });
        loop {
            match self.try_once(&scope, &text, &id).await {
                Ok(message) => {
                    let (pod, partition) = (self.pod, message.partition);
                    let acceptance = Acceptance { scope: self.scope, pod, partition, began, at: Instant::now() };
                    self.stage.accept(acceptance, message.position);
                    self.attempts[number].answer = Answer::Accepted(message.position);
                    return;
                }
                Err(HubError::Call(error)) if !REPEATED.iter().any(|code| error.starts_with(code)) => {
                    let observer = self.name.clone();
                    self.stage.world.found(Finding::WrongAnswer { observer, answer: error });
                    return;
                }
                Err(error) => {
                    self.stage.fail(format!("{}: {error}", self.name));
                    if !matches!(error, HubError::Call(_)) {
                        self.hub = None;
                    }
                }
            }
            sleep(REPEAT_AFTER).await;
        }
    }

    async fn try_once(&mut self, scope: &str, text: &str, id: &str) -> Result<ChatMessage, HubError> {
        let address = self.stage.pod(self.pod);
        if self.hub.as_ref().is_some_and(|(connected, _)| *connected != address) {
            // Its own pod is back, or gone.
            self.hub = None;
        }
        if self.hub.is_none() {
            let options = HubOptions::default();
            self.hub = Some((address, Hub::connect_within(ANSWER, address, &self.token, options).await?));
        }
        let (_, hub) = self.hub.as_mut().expect("it was just put there");
        let answer = timeout(ANSWER, hub.send(scope, text, id)).await;
        answer.unwrap_or_else(|_| Err(HubError::Connect(format!("no answer within {ANSWER:?}"))))
    }
}

/// When a message was due, on the stage's clock, by its text.
#[must_use]
pub fn due_of(text: &str) -> Option<Duration> {
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
