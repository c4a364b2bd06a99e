//! The façade: everything that a transport can ask of Chatify.

use crate::commands::join_scope::{self, JoinError, JoinScope, Joined};
use crate::commands::leave_scope;
use crate::commands::send_message::{self, SendError, SendMessage, Sending};
use crate::fingerprint::Fingerprints;
use crate::history_reader::HistoryReader;
use crate::in_flight::InFlight;
use crate::options::{Options, Ports};
use crate::ports::presence::{ConnectionId, Presence};
use crate::ports::{LiveSubscription, LocalDelivery};
use crate::queries::history::{self, HistoryPage, HistoryQuery, HistoryQueryError};
use crate::queries::message::{self, MessageQuery, MessageQueryError};
use crate::recent::Recent;
use crate::services::fanout::FanOut;
use crate::services::history_projection::HistoryProjection;
use crate::services::{history_lag, presence_lease};
use crate::status::{LoopStatus, Status};
use chatify_building_blocks::error::Classify;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{LoggedMessage, Scope, SenderId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The use cases, and the loops behind them. Cloning gives another handle to the same application.
#[derive(Clone)]
pub struct Application(Arc<Core>);

/// What the use cases share.
pub(crate) struct Core {
    pub(crate) ports: Ports,
    pub(crate) options: Options,
    pub(crate) recent: Arc<Recent>,
    pub(crate) reader: HistoryReader,
    pub(crate) in_flight: InFlight,
    /// Records that the history has not got.
    pub(crate) lag: AtomicU64,
    pub(crate) fan_out: LoopStatus,
    pub(crate) projection: LoopStatus,
}

impl Application {
    /// An application over these ports. Sends and joins are refused until [`Application::start`] has read the newest part of the log.
    #[must_use]
    pub fn new(ports: Ports, options: Options) -> Self {
        let fan_out = LoopStatus::new(Arc::clone(&ports.clock));
        let projection = LoopStatus::new(Arc::clone(&ports.clock));
        let fingerprints = Fingerprints::new(&*ports.random);
        let recent = Arc::new(Recent::new(fingerprints, options.dedupe_window, options.tail_bytes));
        let (store, group) = (Arc::clone(&ports.history), Arc::clone(&ports.group));
        let reader = HistoryReader::new(store, group, Arc::clone(&ports.clock));
        let (in_flight, lag) = (InFlight::default(), AtomicU64::new(0));
        Self(Arc::new(Core { ports, options, recent, reader, in_flight, lag, fan_out, projection }))
    }

    /// Starts the services `fan-out`, `history-projection`, `history-lag` and `presence-lease`. They end when the supervisor's token is
    /// cancelled. To be called once.
    pub fn start(&self, supervisor: &Supervisor, delivery: Arc<dyn LocalDelivery>) {
        let core = || Arc::clone(&self.0);
        supervisor.service("fan-out", FanOut::new(core(), delivery).run(supervisor.token()));
        supervisor.service("history-projection", HistoryProjection::new(core()).run(supervisor.token()));
        supervisor.service("history-lag", history_lag::run(core(), supervisor.token()));
        let presence = Arc::clone(&self.0.ports.presence);
        supervisor.service("presence-lease", presence_lease::run(presence, supervisor.token()));
    }

    /// First half of a send: checks, limits, and the log's acceptance. Calls for one connection must be made one after the other, so that
    /// its order is kept; [`Sending::outcome`] may be awaited concurrently.
    ///
    /// # Errors
    /// A refusal: the message is not and will not be in the log.
    pub async fn send(&self, command: SendMessage) -> Result<Sending, SendError> {
        self.counted(send_message::send(&self.0, command).await)
    }

    /// Joins a scope. On success the subscription is held: the caller answers and then calls
    /// [`LiveSubscription::release`] with [`Joined::live_after`].
    ///
    /// # Errors
    /// The subscription is abandoned.
    pub async fn join(&self, command: JoinScope, subscription: &dyn LiveSubscription) -> Result<Joined, JoinError> {
        let joined = self.counted(join_scope::join(&self.0, command, subscription).await)?;
        self.0.ports.observer.joined(joined.recovered);
        Ok(joined)
    }

    /// Leaves a scope.
    pub fn leave(&self, scope: &Scope, subscription: &dyn LiveSubscription) {
        leave_scope::leave(scope, subscription);
    }

    /// Reads a page of a scope's history, the newest messages included.
    ///
    /// # Errors
    /// When the user may not, or nothing at all can be answered.
    pub async fn history(&self, query: HistoryQuery) -> Result<HistoryPage, HistoryQueryError> {
        self.counted(history::history(&self.0, query).await)
    }

    /// Reads one message.
    ///
    /// # Errors
    /// When the user may not, there is none, or that cannot be known.
    pub async fn message(&self, query: MessageQuery) -> Result<LoggedMessage, MessageQueryError> {
        self.counted(message::message(&self.0, query).await)
    }

    /// Whether somebody is online.
    pub async fn presence(&self, user: &SenderId) -> Presence {
        self.0.ports.presence.presence(user).await
    }

    /// A connection was opened.
    pub async fn connected(&self, user: &SenderId, connection: ConnectionId) {
        self.0.ports.presence.connected(user, connection).await;
    }

    /// A connection was closed.
    pub async fn disconnected(&self, user: &SenderId, connection: ConnectionId) {
        self.0.ports.presence.disconnected(user, connection).await;
    }

    /// Ends the presence of all of this pod's connections; called once, at shutdown.
    pub async fn withdraw_presence(&self) {
        self.0.ports.presence.withdraw().await;
    }

    /// How the loops are doing. Cheap.
    #[must_use]
    pub fn status(&self) -> Status {
        let (dedupe_entries, tail_bytes) = self.0.recent.size();
        Status {
            fan_out: self.0.fan_out.snapshot(),
            projection: self.0.projection.snapshot(),
            lag: self.0.lag.load(Ordering::Relaxed),
            dedupe_entries,
            tail_bytes,
        }
    }

    /// At shutdown, when nothing new is sent any more: waits until the sends in flight have their outcome, for the send timeout at most.
    pub async fn drained(&self) {
        let idle = tokio::time::timeout(self.0.options.send_timeout, self.0.in_flight.idle());
        if idle.await.is_err() {
            tracing::warn!("sends were still in flight at the end");
        }
    }

    #[cfg(test)]
    pub(crate) const fn core(&self) -> &Arc<Core> {
        &self.0
    }

    fn counted<T, E: Classify>(&self, outcome: Result<T, E>) -> Result<T, E> {
        if let Err(error) = &outcome {
            self.0.ports.observer.refused(error.kind());
        }
        outcome
    }
}
