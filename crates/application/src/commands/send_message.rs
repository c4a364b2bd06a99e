//! Send: from a parsed message to its place in the log.

use crate::application::Core;
use crate::dedupe::Known;
use crate::history_reader::HistoryBehind;
use crate::in_flight::{self, Began, Flight, InFlight, Outcome};
use crate::ports::Observer;
use crate::ports::history::HistoryError;
use crate::ports::log::{AppendError, NewRecord};
use crate::ports::rate_limit::Decision;
use crate::recent::Recent;
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::correlation::CorrelationId;
use chatify_building_blocks::error::{Classify, ErrorKind};
use chatify_building_blocks::seeded_bugs::{Bug, seeded_bug};
use chatify_domain::limits::DEDUPE_MARGIN;
use chatify_domain::policy::{Action, Denied, authorize};
use chatify_domain::{ChatEvent, LoggedMessage, MessageId, MessageSent, Partition, Position, Scope, SenderId, Text};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Timeout;

/// Somebody wants to say something.
#[derive(Clone, Debug)]
pub struct SendMessage {
    /// Who; from the token, never from the frame.
    pub sender: SenderId,
    /// Where.
    pub scope: Scope,
    /// What.
    pub text: Text,
    /// The sender's name for the message, so that it may be repeated; without one the server makes a UUIDv7.
    pub message_id: Option<MessageId>,
    /// The request.
    pub correlation: CorrelationId,
}

/// An accepted send whose durability is still to come. Dropping it does not take the message back.
#[derive(Debug)]
pub struct Sending(State);

enum State {
    /// A repeat of a message that has its place already.
    Known(LoggedMessage),
    /// In the log's hands.
    Flying(Box<Flying>),
}

struct Flying {
    /// Also keeps the flight in sight of repeats.
    flight: Arc<Flight>,
    outcome: Timeout<Outcome>,
    accepted_at: Duration,
    in_flight: InFlight,
    recent: Arc<Recent>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Known(_) => "Known",
            Self::Flying(_) => "Flying",
        })
    }
}

impl Sending {
    /// Waits until the message is durable.
    ///
    /// # Errors
    /// [`SendError::Unknown`] when that is not known within the send timeout after acceptance; [`SendError::Append`] as the log says.
    pub async fn outcome(self) -> Result<Accepted, SendError> {
        let flying = match self.0 {
            State::Known(message) => return Ok(Accepted { message }),
            State::Flying(flying) => *flying,
        };
        let outcome = match flying.outcome.await {
            Err(_deadline) => Err(SendError::Unknown),
            Ok(Err(error)) => Err(match in_flight::share(&error) {
                AppendError::Unknown => SendError::Unknown,
                refused => SendError::Append(refused),
            }),
            Ok(Ok(appended)) => Ok(LoggedMessage {
                position: appended.position,
                partition: appended.partition,
                created_at: appended.appended_at,
                sent: Arc::clone(&flying.flight.sent),
            }),
        };
        match outcome {
            Ok(message) => {
                if let Some(name) = flying.flight.name {
                    flying.in_flight.land(name, &message, |partition| flying.recent.applied(partition));
                }
                flying.observer.sent(flying.clock.uptime().saturating_sub(flying.accepted_at));
                Ok(Accepted { message })
            }
            Err(error) => {
                flying.observer.refused(error.kind());
                Err(error)
            }
        }
    }
}

/// The message is in the log, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// It, with its place. For a repeat that was recognised: the first one's place.
    pub message: LoggedMessage,
}

/// Why a message has no place.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The sender may not post there.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The sender sends too often.
    #[error("too many messages; the next one is possible in {} s", retry_after.as_secs_f64().ceil().max(1.0))]
    RateLimited {
        /// When the next one will be allowed.
        retry_after: Duration,
    },
    /// The sender used this id in this scope for another text.
    #[error("the message id was already used for another text")]
    Conflict,
    /// The log refused it, or does not know.
    #[error("the log did not take the message")]
    Append(#[source] AppendError),
    /// The log did not answer in time: the message may be there or not. Repeating it with the same id is safe.
    #[error("it is not known whether the message was accepted")]
    Unknown,
    /// The id is old, so the message may be a late repeat, and the history cannot say whether it is.
    #[error("the history cannot say whether this old message id was already used")]
    HistoryUnavailable(#[source] HistoryError),
    /// The pod has not read the newest part of the log yet.
    #[error("the server is starting")]
    Starting,
}

impl Classify for SendError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied(_) => ErrorKind::Forbidden,
            Self::RateLimited { .. } => ErrorKind::RateLimited,
            Self::Conflict => ErrorKind::Conflict,
            Self::Append(error) => error.kind(),
            Self::Unknown | Self::Starting => ErrorKind::EventProduction,
            Self::HistoryUnavailable(error) => error.kind(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } => Some(*retry_after),
            Self::Append(error) => error.retry_after(),
            Self::HistoryUnavailable(error) => error.retry_after(),
            Self::Starting => Some(Duration::from_secs(1)),
            Self::Denied(_) | Self::Conflict | Self::Unknown => None,
        }
    }
}

pub(crate) async fn send(core: &Core, command: SendMessage) -> Result<Sending, SendError> {
    authorize(&command.sender, Action::Post, &command.scope)?;
    if !core.fan_out.has_been_live() {
        // Without the window a repeat would not be recognised.
        return Err(SendError::Starting);
    }
    if let Decision::Limited { retry_after } = core.ports.limiter.check_send(&command.sender).await {
        return Err(SendError::RateLimited { retry_after });
    }
    let repeatable = command.message_id.is_some() && !seeded_bug(Bug::NewPositionForRepeat);
    let sent = Arc::new(MessageSent {
        message_id: command
            .message_id
            .unwrap_or_else(|| MessageId::new_v7(core.ports.clock.now(), core.ports.random.u128())),
        scope: command.scope,
        sender_id: command.sender,
        text: command.text,
        origin_pod_id: core.options.pod_id.clone(),
    });
    if repeatable && let Some(first) = earlier(core, &sent).await? {
        return repeat_of(first, &sent);
    }
    append(core, &sent, repeatable, command.correlation)
}

fn repeat_of(first: LoggedMessage, sent: &MessageSent) -> Result<Sending, SendError> {
    if first.sent.text == sent.text { Ok(Sending(State::Known(first))) } else { Err(SendError::Conflict) }
}

/// What memory knows of a message whose flight landed a moment ago.
fn since_landed(core: &Core, sent: &Arc<MessageSent>) -> Option<Result<LoggedMessage, SendError>> {
    let partition = core.ports.tail.partition_of(&sent.scope);
    let (known, message) = core.recent.known(partition, sent)?;
    if known.body != core.recent.fingerprints().body(&sent.text) {
        return Some(Err(SendError::Conflict));
    }
    Some(Ok(message.unwrap_or_else(|| at_known_place(&known, partition, Arc::clone(sent)))))
}

/// Hands the message to the log, or joins the flight of the same message. Nothing is awaited, so a connection's order is kept.
fn append(
    core: &Core,
    sent: &Arc<MessageSent>,
    repeatable: bool,
    correlation: CorrelationId,
) -> Result<Sending, SendError> {
    let name = repeatable.then(|| core.recent.fingerprints().message(sent));
    let record = || NewRecord { event: ChatEvent::MessageSent(Arc::clone(sent)), correlation };
    let known = || since_landed(core, sent);
    let began = core.in_flight.begin(name, sent, known, || core.ports.appender.append(record()));
    let flight = match began.map_err(SendError::Append)? {
        Began::Flight(flight) => flight,
        Began::Landed(first) => return repeat_of(first, sent),
        Began::Known(known) => return known.map(|message| Sending(State::Known(message))),
    };
    if flight.sent.text != sent.text {
        return Err(SendError::Conflict);
    }
    if seeded_bug(Bug::AckBeforeDurable) {
        return Ok(Sending(State::Known(at_likely_place(core, sent))));
    }
    let outcome = tokio::time::timeout(core.options.send_timeout, flight.outcome.clone());
    Ok(Sending(State::Flying(Box::new(Flying {
        flight,
        outcome,
        accepted_at: core.ports.clock.uptime(),
        in_flight: core.in_flight.clone(),
        recent: Arc::clone(&core.recent),
        clock: Arc::clone(&core.ports.clock),
        observer: Arc::clone(&core.ports.observer),
    }))))
}

/// Where the message will be if nobody else says anything: what a server would answer that does not wait for the log.
fn at_likely_place(core: &Core, sent: &Arc<MessageSent>) -> LoggedMessage {
    let partition = core.ports.tail.partition_of(&sent.scope);
    let position = core.recent.applied(partition).unwrap_or(Position::ZERO).next();
    LoggedMessage { position, partition, created_at: core.ports.clock.now(), sent: Arc::clone(sent) }
}

/// The message that this one repeats, as far as the pod can know; a repeat of something that is in flight is none.
async fn earlier(core: &Core, sent: &MessageSent) -> Result<Option<LoggedMessage>, SendError> {
    let name = core.recent.fingerprints().message(sent);
    if core.in_flight.find(name).is_some() {
        return Ok(None);
    }
    // After the flight and before memory: what has left here is in memory.
    if let Some(message) = core.in_flight.landed(name, |partition| core.recent.applied(partition)) {
        return Ok(Some(message));
    }
    let partition = core.ports.tail.partition_of(&sent.scope);
    if let Some((known, message)) = core.recent.known(partition, sent) {
        if known.body != core.recent.fingerprints().body(&sent.text) {
            return Err(SendError::Conflict);
        }
        return Ok(Some(match message {
            Some(message) => message,
            None => from_history(core, partition, sent, &known).await,
        }));
    }
    // The window sees sends of the last minutes, so only an id that is older can belong to a message that it has forgotten. The repeat itself may enter the
    // log a while after this moment.
    let late = DEDUPE_MARGIN + core.options.append_deadline;
    let seen_by_window = core.options.dedupe_window.saturating_sub(late);
    let oldest = core.ports.clock.now().minus(seen_by_window);
    if sent.message_id.made_at().is_some_and(|made_at| made_at < oldest) {
        return late_repeat(core, partition, sent).await;
    }
    Ok(None)
}

/// A message that deduplication knows and memory has evicted. The history only adds its time and origin, so its failure is none.
async fn from_history(core: &Core, partition: Partition, sent: &MessageSent, known: &Known) -> LoggedMessage {
    let found = core.reader.find(&sent.scope, partition, sent.message_id, known.position).await;
    let stored = found.ok().and_then(|stored| stored.messages.into_iter().find(|m| m.position == known.position));
    stored.unwrap_or_else(|| at_known_place(known, partition, Arc::new(sent.clone())))
}

/// The first message as far as deduplication remembers it; the repeat says the same, so it lends its text.
fn at_known_place(known: &Known, partition: Partition, sent: Arc<MessageSent>) -> LoggedMessage {
    LoggedMessage { position: known.position, partition, created_at: known.seen_at, sent }
}

/// Looks an old id up in memory and history, so that a device that slept for a week does not post twice.
async fn late_repeat(
    core: &Core,
    partition: Partition,
    sent: &MessageSent,
) -> Result<Option<LoggedMessage>, SendError> {
    let by_sender = |message: &LoggedMessage| message.sent.sender_id == sent.sender_id;
    // Asked before memory is looked into, so that it holds for what is seen there.
    let is_recent = memory_is_recent(core, partition).await;
    let recent = core.recent.by_id(partition, &sent.scope, sent.message_id);
    if let Some(message) = recent.messages.into_iter().find(by_sender) {
        return Ok(Some(message));
    }
    if !is_recent? {
        return Err(behind());
    }
    if recent.floor == Position::ZERO {
        return Ok(None);
    }
    let need = recent.floor.next();
    let stored = core.reader.find(&sent.scope, partition, sent.message_id, need).await;
    let stored = stored.map_err(SendError::HistoryUnavailable)?;
    match stored.messages.into_iter().find(by_sender) {
        None if stored.complete_before < need => Err(behind()),
        found => Ok(found),
    }
}

/// Whether memory has every record that a record accepted now would not be recognised as a repeat of. What comes after those, every consumer
/// drops by itself.
async fn memory_is_recent(core: &Core, partition: Partition) -> Result<bool, SendError> {
    // One margin for append times that step back, one for the difference between this pod's clock and the log's.
    let late = DEDUPE_MARGIN * 2 + core.options.append_deadline;
    let forgotten = core.options.dedupe_window.saturating_sub(late);
    let at = core.ports.clock.now().minus(forgotten);
    let needed = core.ports.tail.position_at(partition, at).await;
    let needed = needed.map_err(|error| SendError::HistoryUnavailable(HistoryError::Unavailable(Box::new(error))))?;
    Ok(core.recent.applied(partition).is_some_and(|applied| applied.next() >= needed))
}

fn behind() -> SendError {
    SendError::HistoryUnavailable(HistoryError::Unavailable(Box::new(HistoryBehind)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::RateLimiter;
    use crate::testing::{AppendFault, Pod, Shared, send};
    use crate::{Application, LoopState, Options};
    use async_trait::async_trait;
    use chatify_domain::PodId;
    use futures_util::FutureExt;

    struct Never;

    #[async_trait]
    impl RateLimiter for Never {
        async fn check_send(&self, _user: &SenderId) -> Decision {
            Decision::Limited { retry_after: Duration::from_secs(7) }
        }
    }

    fn id(shared: &Shared, age: Duration) -> Option<MessageId> {
        Some(MessageId::new_v7(shared.clock.now().minus(age), 42))
    }

    async fn deliver(pod: &Pod, command: SendMessage) -> Result<LoggedMessage, SendError> {
        pod.application.send(command).await?.outcome().await.map(|accepted| accepted.message)
    }

    fn in_log(shared: &Shared) -> usize {
        shared.log.records().values().map(Vec::len).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeat_in_flight_shares_the_outcome() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |_| {}).await;
        let id = id(&shared, Duration::ZERO);
        shared.log.hold_appends();
        let first = pod.application.send(send("alice", "a", "hi", id)).await.expect("accepted");
        let again = pod.application.send(send("alice", "a", "hi", id)).await.expect("shared");
        assert!(matches!(pod.application.send(send("alice", "a", "other", id)).await, Err(SendError::Conflict)));
        // Another sender's message of the same id is another message.
        let other = pod.application.send(send("bob", "a", "other", id)).await.expect("accepted");
        // The one who started the flight goes away; the one who shares it does not notice.
        drop(first);
        shared.log.release_appends();
        let place = again.outcome().await.expect("durable").message.position;
        assert!(other.outcome().await.expect("durable").message.position > place);
        assert_eq!(in_log(&shared), 2);
    }

    /// The answer is given before this pod's own fan-out has the message in its memory.
    #[tokio::test(start_paused = true)]
    async fn a_repeat_right_after_the_answer_is_recognised() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |_| {}).await;
        for round in 0..20u128 {
            let id = Some(MessageId::new_v7(shared.clock.now(), round << 64));
            let first = deliver(&pod, send("alice", "a", "hi", id)).await.expect("durable");
            assert_eq!(deliver(&pod, send("alice", "a", "hi", id)).await.expect("known"), first, "round {round}");
            assert!(matches!(deliver(&pod, send("alice", "a", "ho", id)).await, Err(SendError::Conflict)));
        }
        assert_eq!(in_log(&shared), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_repeat_is_answered_with_the_first_ones_place() {
        for tail_bytes in [1 << 20, 0] {
            let shared = Shared::new(1);
            let pods = [
                Pod::live(&shared, |options| options.tail_bytes = tail_bytes).await,
                Pod::live(&shared, |options| options.tail_bytes = tail_bytes).await,
            ];
            let id = id(&shared, Duration::ZERO);
            let first = deliver(&pods[0], send("alice", "a", "hi", id)).await.expect("durable");
            shared.pass(Duration::from_secs(60)).await;
            for pod in &pods {
                assert_eq!(deliver(pod, send("alice", "a", "hi", id)).await.expect("known"), first);
                assert!(matches!(deliver(pod, send("alice", "a", "ho", id)).await, Err(SendError::Conflict)));
            }
            // What the history would add is not worth a refusal.
            shared.store.set_available(false);
            assert_eq!(deliver(&pods[1], send("alice", "a", "hi", id)).await.expect("known"), first);
            assert_eq!(in_log(&shared), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_repeat_is_looked_up_before_it_may_enter_the_log() {
        for tail_bytes in [1 << 20, 0] {
            let shared = Shared::new(1);
            let pod = Pod::live(&shared, |options| options.tail_bytes = tail_bytes).await;
            let id = id(&shared, Duration::ZERO);
            let first = deliver(&pod, send("alice", "a", "hi", id)).await.expect("durable");
            shared.pass(Duration::from_secs(3_600)).await;
            pod.say(&shared, "bob", "a", "an hour later").await;
            let in_memory = tail_bytes > 0;
            shared.store.set_available(in_memory);
            let calls = shared.store.calls();
            let outcome = deliver(&pod, send("alice", "a", "hi", id)).await;
            if in_memory {
                assert_eq!(outcome.expect("found"), first);
                assert_eq!(shared.store.calls(), calls, "memory has all of it");
            } else {
                let error = outcome.expect_err("nobody can know");
                assert_eq!(error.kind(), ErrorKind::StoreUnavailable);
                assert!(matches!(error, SendError::HistoryUnavailable(_)));
            }
            shared.store.set_available(true);
            assert_eq!(deliver(&pod, send("alice", "a", "hi", id)).await.expect("found"), first);
            assert!(matches!(deliver(&pod, send("alice", "a", "ho", id)).await, Err(SendError::Conflict)));
            assert_eq!(in_log(&shared), 2);
            // An old id that was never used is as good as a new one.
            deliver(&pod, send("carol", "a", "slept", id)).await.expect("durable");
            assert_eq!(in_log(&shared), 3);
        }
    }

    /// A record may wait in the log's client for a while, so that deduplication sees it later than it was said.
    #[tokio::test(start_paused = true)]
    async fn a_repeat_that_may_wait_for_the_log_counts_as_late_sooner() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        for (waits, age, accepted) in [(0, 3, true), (2, 1, true), (2, 3, false)] {
            let shared = Shared::new(1);
            let pod = Pod::live(&shared, |options| options.append_deadline = minutes(waits)).await;
            let id = id(&shared, minutes(age));
            // Somebody else's pod has said it, and this one is cut off from what the log says.
            shared.log.set_readable(false);
            let outcome = deliver(&pod, send("alice", "a", "hi", id)).await;
            assert_eq!(outcome.is_ok(), accepted, "{waits} {age} {outcome:?}");
            assert_eq!(in_log(&shared), usize::from(accepted));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_history_that_is_behind_cannot_clear_an_old_id() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |options| options.tail_bytes = 0).await;
        shared.store.tear_appends(usize::MAX);
        pod.say(&shared, "bob", "a", "not in the history").await;
        let old = id(&shared, Duration::from_secs(3_600));
        let outcome = deliver(&pod, send("alice", "a", "hi", old)).await;
        assert!(matches!(outcome, Err(SendError::HistoryUnavailable(HistoryError::Unavailable(_)))));
        assert_eq!(in_log(&shared), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_never_reach_the_log() {
        let shared = Shared::new(1);
        let options = || Options::new(PodId::parse("pod-0").expect("a pod"));
        let idle = Application::new(shared.ports(1), options());
        let error = idle.send(send("alice", "a", "hi", None)).await.expect_err("not started");
        assert_eq!((error.kind(), error.retry_after()), (ErrorKind::EventProduction, Some(Duration::from_secs(1))));
        let mut ports = shared.ports(1);
        ports.limiter = Arc::new(Never);
        let pod = Pod::start(ports, options());
        shared.pass(Duration::from_millis(10)).await;
        assert_eq!(pod.application.status().fan_out, LoopState::Live);
        let error = deliver(&pod, send("alice", "a", "hi", None)).await.expect_err("limited");
        assert_eq!((error.kind(), error.retry_after()), (ErrorKind::RateLimited, Some(Duration::from_secs(7))));
        // Who may not post learns that first.
        let error = deliver(&pod, send("eve", "DirectMessage:alice+bob", "hi", None)).await.expect_err("denied");
        assert_eq!(error.kind(), ErrorKind::Forbidden);
        let pod = Pod::live(&shared, |_| {}).await;
        shared.log.fail_next_append(AppendFault::Refused);
        let error = deliver(&pod, send("alice", "a", "hi", None)).await.expect_err("refused");
        assert!(matches!(error, SendError::Append(AppendError::Overloaded)));
        assert_eq!(in_log(&shared), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_outcome_may_be_repeated() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |_| {}).await;
        let id = id(&shared, Duration::ZERO);
        shared.log.fail_next_append(AppendFault::AnswerLost);
        assert!(matches!(deliver(&pod, send("alice", "a", "hi", id)).await, Err(SendError::Unknown)));
        shared.pass(Duration::from_millis(10)).await;
        let place = deliver(&pod, send("alice", "a", "hi", id)).await.expect("it was there").position;
        assert_eq!((place.offset().number(), in_log(&shared)), (0, 1));
        shared.log.hold_appends();
        let sending = pod.application.send(send("alice", "a", "slow", None)).await.expect("accepted");
        assert!(matches!(sending.outcome().await, Err(SendError::Unknown)), "the deadline passes");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_what_is_in_flight() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |_| {}).await;
        pod.application.drained().now_or_never().expect("nothing is in flight");
        shared.log.hold_appends();
        let sending = pod.application.send(send("alice", "a", "hi", None)).await.expect("accepted");
        let drained = pod.application.drained();
        tokio::pin!(drained);
        assert!(drained.as_mut().now_or_never().is_none(), "one is in flight");
        shared.log.release_appends();
        sending.outcome().await.expect("durable");
        drained.now_or_never().expect("it has landed");
    }
}
