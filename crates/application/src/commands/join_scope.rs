//! Join: what was said before, then everything that is said, with no gap between.

use crate::application::Core;
use crate::ports::LiveSubscription;
use crate::ports::log::LogError;
use crate::timeline::{Gap, Timeline};
use chatify_building_blocks::error::{Classify, ErrorKind};
use chatify_building_blocks::seeded_bugs::{Bug, seeded_bug};
use chatify_domain::limits::{PAGE_LIMIT_DEFAULT, PAGE_LIMIT_MAX};
use chatify_domain::policy::{Action, Denied, authorize};
use chatify_domain::{LoggedMessage, Partition, Position, Scope, SenderId};
use std::time::Duration;

/// Somebody wants to follow a scope.
#[derive(Clone, Debug)]
pub struct JoinScope {
    /// Who.
    pub user: SenderId,
    /// What.
    pub scope: Scope,
    /// The position up to which the client has everything; without one it gets the newest messages.
    pub after: Option<Position>,
    /// The most messages to answer with, 0 to [`chatify_domain::limits::PAGE_LIMIT_MAX`]; by default 50, or 500 with `after`.
    pub limit: Option<usize>,
}

/// The state of the scope at the moment from which its messages come live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Where a later join can go on: everything up to here is in `messages` or was seen before.
    pub position: Position,
    /// What the caller gives to [`LiveSubscription::release`] after it sent the answer.
    pub live_after: Position,
    /// Messages, ascending by position.
    pub messages: Vec<LoggedMessage>,
    /// Nothing between the client's `after` and `live_after` is missing, provably. Without `after`: `messages` are provably the newest.
    pub recovered: bool,
    /// Why not; the client can read the range from `position` to `live_after` from the history.
    pub reason: Option<NotRecovered>,
    /// There are messages that were not sent: newer ones with `after`, older ones without.
    pub has_more: bool,
}

/// Why it is not proven that nothing is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRecovered {
    /// More was missed than one answer holds.
    Limit,
    /// The history has not got the missed messages yet.
    HistoryBehind,
    /// The history could not be asked.
    HistoryUnavailable,
    /// The log has never been as far as the client says.
    PositionUnknown,
}

impl NotRecovered {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::HistoryBehind => "historyBehind",
            Self::HistoryUnavailable => "historyUnavailable",
            Self::PositionUnknown => "positionUnknown",
        }
    }
}

/// Why nobody joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The user may not follow this scope.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The pod has not read the newest part of the log yet.
    #[error("the server is starting")]
    Starting,
    /// The client knows more than this pod, and the log cannot say whether it is right.
    #[error("the log cannot say whether the position is known")]
    Log(#[source] LogError),
}

impl Classify for JoinError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied(_) => ErrorKind::Forbidden,
            Self::Starting | Self::Log(_) => ErrorKind::StoreUnavailable,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Denied(_) => None,
            Self::Starting | Self::Log(_) => Some(Duration::from_secs(1)),
        }
    }
}

pub(crate) async fn join(
    core: &Core,
    command: JoinScope,
    subscription: &dyn LiveSubscription,
) -> Result<Joined, JoinError> {
    authorize(&command.user, Action::Join, &command.scope)?;
    if !core.fan_out.has_been_live() {
        return Err(JoinError::Starting);
    }
    let held = Held::new(subscription, &command.scope);
    // Read after the hold. The fan-out takes a message into memory before it delivers it, so each message is either at or before this
    // position, or is delivered after the hold and kept.
    let partition = core.ports.tail.partition_of(&command.scope);
    let applied = core.recent.applied(partition).ok_or(JoinError::Starting)?;
    let timeline = Timeline::new(core, &command.scope);
    let joined = match command.after {
        None => newest(&timeline, applied, command.limit.unwrap_or(PAGE_LIMIT_DEFAULT)).await,
        Some(after) => {
            let limit = command.limit.unwrap_or(PAGE_LIMIT_MAX);
            if after <= applied {
                missed(&timeline, after, applied, limit).await
            } else if after < end_of_log(core, partition).await? {
                ahead(after)
            } else {
                let newest = newest(&timeline, applied, limit).await;
                Joined { recovered: false, reason: Some(NotRecovered::PositionUnknown), ..newest }
            }
        }
    };
    if seeded_bug(Bug::HistoryBeforeLive) {
        subscription.abandon(&command.scope);
        tokio::time::sleep(Duration::from_millis(20)).await;
        subscription.hold(&command.scope);
    }
    held.keep();
    Ok(joined)
}

/// The newest messages, for a client that has none.
async fn newest(timeline: &Timeline<'_>, applied: Position, limit: usize) -> Joined {
    let stretch = timeline.backward(applied.next(), limit + 1).await;
    let mut messages = stretch.messages;
    let has_more = messages.len() > limit || stretch.gap.is_some();
    messages.truncate(limit);
    messages.reverse();
    let reason = stretch.gap.as_ref().map(NotRecovered::from_gap);
    Joined { position: applied, live_after: applied, messages, recovered: reason.is_none(), reason, has_more }
}

/// What was said after `after`, for a client that comes back.
async fn missed(timeline: &Timeline<'_>, after: Position, applied: Position, limit: usize) -> Joined {
    let stretch = timeline.forward(after, applied, limit + 1).await;
    let mut messages = stretch.messages;
    let more = messages.len() > limit;
    messages.truncate(limit);
    // Answered up to here, if the history has everything that it should have.
    let answered = if more { messages.last().map_or(after, |last| last.position) } else { applied };
    let proven = match &stretch.gap {
        None => answered,
        Some(Gap::Behind { complete_before }) => answered.min(complete_before.previous()).max(after),
        Some(Gap::Unavailable(_)) => after,
    };
    let reason = match &stretch.gap {
        Some(gap) if proven < answered || messages.is_empty() => Some(NotRecovered::from_gap(gap)),
        _ => more.then_some(NotRecovered::Limit),
    };
    if seeded_bug(Bug::RecoveredAlways) {
        return Joined {
            position: applied,
            live_after: applied,
            messages,
            recovered: true,
            reason: None,
            has_more: false,
        };
    }
    let has_more = more || reason.is_some();
    Joined { position: proven, live_after: applied, messages, recovered: reason.is_none(), reason, has_more }
}

/// Another pod was ahead of this one: nothing is missing, and what this pod has yet to deliver up to there was seen.
fn ahead(after: Position) -> Joined {
    Joined { position: after, live_after: after, messages: Vec::new(), recovered: true, reason: None, has_more: false }
}

async fn end_of_log(core: &Core, partition: Partition) -> Result<Position, JoinError> {
    let states = core.ports.tail.partitions().await.map_err(JoinError::Log)?;
    Ok(states.iter().find(|state| state.partition == partition).map_or(Position::ZERO, |state| state.end))
}

impl NotRecovered {
    const fn from_gap(gap: &Gap) -> Self {
        match gap {
            Gap::Behind { .. } => Self::HistoryBehind,
            Gap::Unavailable(_) => Self::HistoryUnavailable,
        }
    }
}

/// A held subscription that is abandoned when the join fails or is dropped halfway.
struct Held<'a> {
    subscription: &'a dyn LiveSubscription,
    scope: &'a Scope,
    keep: bool,
}

impl<'a> Held<'a> {
    fn new(subscription: &'a dyn LiveSubscription, scope: &'a Scope) -> Self {
        subscription.hold(scope);
        Self { subscription, scope, keep: false }
    }

    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.keep {
            self.subscription.abandon(self.scope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pod, Shared, Subscriber, channel, user};
    use std::sync::Arc;

    fn command(after: Option<Position>, limit: Option<usize>) -> JoinScope {
        JoinScope { user: user("alice"), scope: channel("a"), after, limit }
    }

    async fn joined(pod: &Pod, after: Option<Position>, limit: Option<usize>) -> Joined {
        let subscriber = pod.connections.connect();
        let joined = pod.application.join(command(after, limit), &subscriber).await.expect("it joins");
        assert!(subscriber.follows(&channel("a")));
        joined
    }

    async fn ten_messages(shared: &Shared, pod: &Pod) -> Vec<LoggedMessage> {
        let mut messages = Vec::new();
        for number in 0..10 {
            messages.push(pod.say(shared, "bob", "a", &number.to_string()).await);
        }
        messages
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_answered_and_where_to_go_on() {
        for tail_bytes in [1 << 20, 1_500, 0] {
            let shared = Shared::new(1);
            let pod = Pod::live(&shared, |options| options.tail_bytes = tail_bytes).await;
            let all = ten_messages(&shared, &pod).await;
            let at = |index: usize| all[index].position;
            let check = async |after, limit, range: std::ops::Range<usize>, position, has_more, reason| {
                let expected = Joined {
                    position,
                    live_after: at(9),
                    messages: all[range].to_vec(),
                    recovered: Option::is_none(&reason),
                    reason,
                    has_more,
                };
                assert_eq!(joined(&pod, after, limit).await, expected, "after {after:?}, limit {limit:?}");
            };
            check(None, None, 0..10, at(9), false, None).await;
            check(None, Some(3), 7..10, at(9), true, None).await;
            check(None, Some(0), 0..0, at(9), true, None).await;
            check(Some(at(9)), None, 0..0, at(9), false, None).await;
            check(Some(at(5)), None, 6..10, at(9), false, None).await;
            check(Some(at(5)), Some(4), 6..10, at(9), false, None).await;
            check(Some(at(5)), Some(3), 6..9, at(8), true, Some(NotRecovered::Limit)).await;
            check(Some(at(5)), Some(0), 0..0, at(5), true, Some(NotRecovered::Limit)).await;
            check(Some(Position::ZERO), None, 0..10, at(9), false, None).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_proven_is_said() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |options| options.tail_bytes = 1_500).await;
        let all = ten_messages(&shared, &pod).await;
        // The history loses its writer; memory holds the last few.
        shared.store.tear_appends(usize::MAX);
        for number in 0..10 {
            pod.say(&shared, "bob", "a", &number.to_string()).await;
        }
        shared.pass(Duration::from_secs(1)).await;
        let behind = joined(&pod, Some(all[5].position), None).await;
        assert_eq!((behind.recovered, behind.reason), (false, Some(NotRecovered::HistoryBehind)));
        assert_eq!(behind.position, all[9].position, "so far it is complete");
        assert_eq!(behind.messages[..4], all[6..]);
        let limited = joined(&pod, Some(all[2].position), Some(3)).await;
        assert_eq!((limited.position, limited.reason), (all[5].position, Some(NotRecovered::Limit)));
        let newest = joined(&pod, None, Some(10)).await;
        assert_eq!((newest.reason, newest.has_more), (Some(NotRecovered::HistoryBehind), true));
        shared.store.set_available(false);
        let away = joined(&pod, Some(all[5].position), None).await;
        assert_eq!((away.reason, away.position), (Some(NotRecovered::HistoryUnavailable), all[5].position));
        let newest = joined(&pod, None, Some(1)).await;
        assert!(newest.recovered && newest.has_more, "memory alone proves it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_ahead_of_the_pod_is_believed_if_the_log_is_too() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |_| {}).await;
        let first = pod.say(&shared, "bob", "a", "one").await;
        // This pod's fan-out hangs in a delivery, so that it falls behind.
        pod.connections.set_latency(Duration::from_secs(3_600));
        pod.say(&shared, "bob", "a", "two").await;
        let ahead = pod.say(&shared, "bob", "a", "three").await;
        let here = joined(&pod, Some(ahead.position), None).await;
        assert_eq!((here.recovered, here.position, here.live_after), (true, ahead.position, ahead.position));
        let unknown = joined(&pod, Some(ahead.position.next()), None).await;
        assert_eq!((unknown.recovered, unknown.reason), (false, Some(NotRecovered::PositionUnknown)));
        assert_eq!((unknown.messages.first(), unknown.live_after), (Some(&first), unknown.position));
        shared.log.set_readable(false);
        let subscriber = pod.connections.connect();
        let outcome = pod.application.join(command(Some(ahead.position), None), &subscriber).await;
        assert!(matches!(outcome, Err(JoinError::Log(_))));
        assert!(!subscriber.follows(&channel("a")), "a failed join is abandoned");
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_join_or_goes_away_is_not_subscribed() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |options| options.tail_bytes = 0).await;
        ten_messages(&shared, &pod).await;
        let scope = Scope::parse("DirectMessage:alice+bob").expect("a scope");
        let subscriber = pod.connections.connect();
        let foreign = JoinScope { user: user("eve"), scope: scope.clone(), after: None, limit: None };
        let error = pod.application.join(foreign, &subscriber).await.expect_err("denied");
        assert_eq!(error.kind(), ErrorKind::Forbidden);
        assert!(!subscriber.follows(&scope));
        shared.store.set_latency(Duration::from_secs(1));
        let joining = pod.application.join(command(None, None), &subscriber);
        assert!(tokio::time::timeout(Duration::from_millis(1), joining).await.is_err());
        assert!(!subscriber.follows(&channel("a")), "its connection went away");
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_joins_reads_the_history_once() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |options| options.tail_bytes = 0).await;
        let all = ten_messages(&shared, &pod).await;
        shared.store.set_latency(Duration::from_millis(5));
        let before = shared.store.calls();
        let storm = (0..500).map(|_| joined(&pod, Some(all[2].position), None));
        for joined in futures_util::future::join_all(storm).await {
            assert_eq!((joined.recovered, joined.messages), (true, all[3..].to_vec()));
        }
        assert!(shared.store.calls() - before <= 4, "{} calls", shared.store.calls() - before);
    }

    /// Another thread's fan-out takes in and delivers a message at the very moment of the hold.
    struct Racing<'a> {
        core: &'a Core,
        shared: &'a Shared,
        subscriber: &'a Subscriber,
    }

    impl LiveSubscription for Racing<'_> {
        fn hold(&self, scope: &Scope) {
            let records = self.shared.log.records().into_values().flatten().collect();
            // Delivered to everyone who was subscribed before: not to this one.
            self.core.recent.apply(records, &*self.core.ports.observer);
            self.subscriber.hold(scope);
        }

        fn release(&self, scope: &Scope, after: Position) {
            self.subscriber.release(scope, after);
        }

        fn abandon(&self, scope: &Scope) {
            self.subscriber.abandon(scope);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_delivered_just_before_the_hold_is_in_the_answer() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |_| {}).await;
        let before = pod.say(&shared, "bob", "a", "before").await;
        pod.stop().await;
        let sending = pod.application.send(crate::testing::send("bob", "a", "at the moment", None)).await;
        let racing = sending.expect("accepted").outcome().await.expect("durable").message;
        let core = Arc::clone(pod.application.core());
        let subscriber = pod.connections.connect();
        let subscription = Racing { core: &core, shared: &shared, subscriber: &subscriber };
        let joined = pod.application.join(command(Some(before.position), None), &subscription).await.expect("joined");
        assert_eq!((joined.messages, joined.live_after), (vec![racing.clone()], racing.position));
    }
}
