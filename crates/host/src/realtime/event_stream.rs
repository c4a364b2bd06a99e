//! A scope as Server-Sent Events: what was missed, then what comes, in one response body.
//!
//! The client may leave at any moment, and its request is then dropped wherever it waits, also inside of [`EventStream::open`]. Invariant: whenever
//! presence may know of the connection there is a `Connection`, whose end tells presence too. So it is made first, and presence is told after that.

use super::encode::{Format, server_sent_event, write_json};
use super::hub::{Hub, Subscriber};
use super::outbox::OutboxLimits;
use super::peer::{NewPeer, Sink};
use crate::auth::Identity;
use crate::http::admission::Admitted;
use crate::http::dto::MessageDto;
use crate::metrics::{Closed, Metrics, Transport};
use crate::realtime::CloseReason;
use bytes::Bytes;
use chatify_application::ports::LiveSubscription;
use chatify_application::{Application, HistoryQuery, JoinError, JoinScope, Joined, Page};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::limits::PAGE_LIMIT_MAX;
use chatify_domain::{LoggedMessage, Position, Scope};
use futures_util::stream::{Stream, unfold};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::Poll;

/// What a stream is made of.
pub struct EventStream {
    /// The use cases.
    pub application: Application,
    /// The registry of connections.
    pub hub: Arc<Hub>,
    /// What is counted.
    pub metrics: Metrics,
    /// Owner of what is left to do when the client leaves.
    pub supervisor: Supervisor,
    /// What may wait for the client.
    pub limits: OutboxLimits,
    /// The stream's place among the connections.
    pub admitted: Admitted,
}

/// How long a browser waits before it comes back, in milliseconds.
const RETRY: &[u8] = b"retry: 2000\n\n";

impl EventStream {
    /// Joins `scope` and gives the body: everything after `after` (or, without it, nothing that was said before), then everything new.
    ///
    /// Where nothing can be vouched for, an event `gap` says why and from where on.
    ///
    /// Cancel safe: a call that is dropped half way leaves nobody online and no connection counted, as does a body that is dropped later.
    ///
    /// # Errors
    /// When the caller may not join.
    pub async fn open(
        self,
        caller: Identity,
        scope: Scope,
        after: Option<Position>,
    ) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static, JoinError> {
        let subscriber = self.hub.connect(NewPeer {
            id: self.hub.next_id(),
            user: caller.user.clone(),
            expires_at: caller.expires_at,
            format: Format::EventStream,
            sink: Sink::Body(Default::default()),
            limits: self.limits,
        });
        let limit = Some(if after.is_some() { PAGE_LIMIT_MAX } else { 1 });
        let command = JoinScope { user: caller.user.clone(), scope: scope.clone(), after, limit };
        let joined = self.application.join(command, &subscriber).await?;
        let connection = Connection::begin(self, subscriber, scope);
        connection.parts.application.connected(&caller.user, connection.subscriber.peer().id()).await;
        let state = Phase::Joined { connection, joined, replay: after.is_some() };
        Ok(unfold(state, |phase| async {
            let (bytes, next) = Box::pin(phase.step()).await?;
            Some((Ok(bytes), next))
        }))
    }
}

/// An open stream; dropping it is the end of the connection: it is counted as closed, and presence is told, also when it was told of the beginning only
/// half way.
struct Connection {
    parts: EventStream,
    subscriber: Subscriber,
    scope: Scope,
}

enum Phase {
    /// The answer to the join is still to be given.
    Joined { connection: Connection, joined: Joined, replay: bool },
    /// More was missed than one answer holds: the rest comes from the history, page by page, as fast as the client reads.
    Paging { connection: Connection, cursor: Position, live_after: Position },
    /// Only what is new.
    Live { connection: Connection },
}

impl Phase {
    /// The next bytes and what comes behind them; `None` at the end.
    async fn step(self) -> Option<(Bytes, Self)> {
        match self {
            Self::Joined { connection, joined, replay } => Some(connection.greet(joined, replay)),
            Self::Paging { connection, cursor, live_after } => connection.page(cursor, live_after).await,
            Self::Live { connection } => {
                let bytes = connection.next().await?;
                Some((bytes, Self::Live { connection }))
            }
        }
    }
}

impl Connection {
    /// Counts the connection. To be had before presence is told of it.
    fn begin(parts: EventStream, subscriber: Subscriber, scope: Scope) -> Self {
        parts.metrics.connection_opened(Transport::EventStream);
        Self { parts, subscriber, scope }
    }

    fn greet(self, joined: Joined, replay: bool) -> (Bytes, Phase) {
        let mut out = RETRY.to_vec();
        let paged = replay && joined.has_more;
        if let (true, false, Some(reason)) = (replay, paged, joined.reason) {
            gap(reason.as_str(), joined.live_after, &mut out);
        }
        if replay {
            // With more to come, only what leaves no gap behind the cursor: the pages go on from there.
            let upto = if paged { joined.position } else { Position::MAX };
            let whole = joined.messages.partition_point(|message| message.position <= upto);
            write_events(&joined.messages[..whole], &mut out);
        }
        let next = if paged {
            Phase::Paging { connection: self, cursor: joined.position, live_after: joined.live_after }
        } else {
            self.go_live(joined.live_after)
        };
        (out.into(), next)
    }

    async fn page(self, cursor: Position, live_after: Position) -> Option<(Bytes, Phase)> {
        let query = HistoryQuery {
            user: self.subscriber.peer().user().clone(),
            scope: self.scope.clone(),
            page: Page::After(cursor),
            sender: None,
            from: None,
            to: None,
            limit: PAGE_LIMIT_MAX,
        };
        // The client comes back by itself, with the last id that it has.
        let page = self.parts.application.history(query).await.ok()?;
        let mut out = Vec::new();
        if !page.complete {
            gap("historyBehind", live_after, &mut out);
        }
        let missed: Vec<LoggedMessage> = page.items.into_iter().filter(|item| item.position <= live_after).collect();
        write_events(&missed, &mut out);
        let next = match missed.last() {
            Some(last) if missed.len() == PAGE_LIMIT_MAX => {
                Phase::Paging { cursor: last.position, connection: self, live_after }
            }
            _ => self.go_live(live_after),
        };
        // An empty chunk would end the body's encoding.
        out.extend_from_slice(b": live\n\n");
        Some((out.into(), next))
    }

    fn go_live(self, live_after: Position) -> Phase {
        self.subscriber.release(&self.scope, live_after);
        Phase::Live { connection: self }
    }

    /// What waits; `None` when the connection is to end.
    async fn next(&self) -> Option<Bytes> {
        let peer = self.subscriber.peer();
        std::future::poll_fn(|context| match peer.poll_take(context) {
            Some(bytes) => Poll::Ready(Some(bytes)),
            None if peer.closing().is_some() => Poll::Ready(None),
            None => Poll::Pending,
        })
        .await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let peer = self.subscriber.peer();
        let reason = match peer.closing() {
            None => Closed::ClientLeft,
            Some(CloseReason::SlowConsumer) => Closed::SlowConsumer,
            Some(CloseReason::Draining) => Closed::Draining,
            Some(CloseReason::ClientTimeout) => Closed::ClientTimeout,
            Some(CloseReason::TokenExpired) => Closed::TokenExpired,
            Some(CloseReason::Interrupted) => Closed::Interrupted,
        };
        self.parts.metrics.connection_closed(Transport::EventStream, reason);
        let (application, user, id) = (self.parts.application.clone(), peer.user().clone(), peer.id());
        self.parts.supervisor.work("stream-goodbye", async move { application.disconnected(&user, id).await });
    }
}

fn write_events(messages: &[LoggedMessage], out: &mut Vec<u8>) {
    for message in messages {
        server_sent_event(&MessageDto::from(message), out);
    }
}

/// Says that messages may be missing between the client's last id and `live_after`.
fn gap(reason: &str, live_after: Position, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: gap\ndata: ");
    write_json(&serde_json::json!({ "reason": reason, "liveAfter": live_after.number() }), out);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::admission::Admission;
    use crate::testing::{Noted, Stand, until};
    use chatify_domain::{SenderId, Timestamp};

    #[tokio::test]
    async fn a_client_that_leaves_while_presence_is_told_of_it_does_not_stay_online() {
        let stand = Stand::start(Noted { hangs: true, ..Noted::default() }, |_| {}).await;
        let user = SenderId::parse("alice").expect("an id");
        let stream = EventStream {
            application: stand.application.clone(),
            hub: stand.hub.clone(),
            metrics: stand.metrics.clone(),
            supervisor: stand.supervisor.clone(),
            limits: OutboxLimits { frames: 1, bytes: 1 },
            admitted: Admission::new(1, None).admit(&user).expect("the first"),
        };
        let scope = Scope::parse("Channel:general").expect("a scope");
        let caller = Identity { user, expires_at: Timestamp::from_millis(i64::MAX) };
        let presence = stand.presence.clone();
        tokio::select! {
            _ = stream.open(caller, scope, None) => panic!("presence has not answered"),
            () = until("presence is told", || !presence.noted().is_empty()) => {}
        }
        until("presence is told of the end", || presence.noted() == ["connected", "disconnected"]).await;
        assert_eq!(stand.hub.open(), 0);
        stand.end().await;
    }
}
