//! How a pod gets its connection: at once when the store is there, in the background when it is away.

use super::history_store::ScyllaHistory;
use super::migrations::{self, MigrationError};
use super::options::{OptionsError, ScyllaOptions};
use super::session::{self, ConnectError};
use super::statements::Statements;
use chatify_building_blocks::backoff::Backoff;
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::error::chain;
use chatify_building_blocks::random::Random;
use chatify_building_blocks::tasks::Supervisor;
use scylla::client::session::Session;
use scylla::errors::PrepareError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Waits between tries to connect.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), cap: Duration::from_secs(5) };

/// At the cap of the waits, so many tries take about a minute.
const ATTEMPTS_PER_LINE: u32 = 12;

/// How long the preparation of all statements may take at least; the driver itself would wait for it as long as the connection seems alive.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(10);

/// A session and what was prepared on it. The driver mends its connections by itself from here on.
pub(super) struct Link {
    pub(super) session: Session,
    pub(super) statements: Statements,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

/// Why the history cannot be used with these options.
#[derive(Debug, thiserror::Error)]
pub enum ScyllaStartError {
    /// An option cannot work.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// There is no session with the store.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The schema is not what this version needs.
    #[error(transparent)]
    Migration(#[from] MigrationError),
    /// The store did not take the statements of the history.
    #[error("the history store did not prepare the history's statements")]
    Prepare(#[source] PrepareError),
    /// It said nothing about them for so long; trying again may help.
    #[error("the history store did not prepare the history's statements within {0:?}")]
    PrepareTimeout(Duration),
}

impl ScyllaStartError {
    /// Whether trying again may help although nobody changes anything.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Options(_) => false,
            Self::Connect(error) => error.may_pass(),
            Self::Prepare(_) | Self::PrepareTimeout(_) => true,
            Self::Migration(error) => error.may_pass(),
        }
    }

    /// Whether a process that is running already must end for it. A login that is refused while the store itself is starting is not worth that, nor are
    /// nodes that are missing from it until they have started too.
    pub(super) fn ends_the_process(&self) -> bool {
        match self {
            Self::Migration(MigrationError::TooFewNodes { .. }) => false,
            Self::Migration(error) => !error.may_pass(),
            Self::Options(_) | Self::Connect(_) | Self::Prepare(_) | Self::PrepareTimeout(_) => false,
        }
    }
}

impl ScyllaHistory {
    /// Connects, and brings the schema up to date unless the options say otherwise.
    ///
    /// A store that is away is no error: the history then answers `Unavailable` until a task of `supervisor` has reached it, with growing
    /// waits between tries. Should that task find a schema that this version must not touch, it ends as a crash.
    ///
    /// # Errors
    /// When it will not work by itself: options that are wrong, a login that is refused, a schema that is newer or was changed.
    pub async fn connect(
        options: ScyllaOptions,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, ScyllaStartError> {
        options.validate()?;
        let (sender, link) = watch::channel(None);
        let history = Arc::new(Self { link, deadline: options.request_timeout });
        let connector = Connector { options, clock, random, sender };
        match connector.attempt().await {
            Ok(()) => {}
            Err(error) if !error.may_pass() => return Err(error),
            Err(error) => {
                report(&error, 0);
                let cancelled = supervisor.token();
                supervisor.service("history-store-connection", async move {
                    match cancelled.run_until_cancelled(connector.until_connected()).await {
                        Some(Err(error)) => return Err(error),
                        Some(Ok(())) => cancelled.cancelled().await,
                        None => {}
                    }
                    Ok(())
                });
            }
        }
        Ok(history)
    }
}

struct Connector {
    options: ScyllaOptions,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    sender: watch::Sender<Option<Arc<Link>>>,
}

impl Connector {
    async fn until_connected(&self) -> Result<(), ScyllaStartError> {
        let mut attempt = 0;
        loop {
            tokio::time::sleep(BACKOFF.wait(attempt, &*self.random)).await;
            attempt = attempt.saturating_add(1);
            match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(error) if error.ends_the_process() => return Err(error),
                Err(error) => report(&error, attempt),
            }
        }
    }

    async fn attempt(&self) -> Result<(), ScyllaStartError> {
        let session = session::open(&self.options).await?;
        if self.options.migrate_at_start {
            migrations::apply(&session, &self.options, &*self.clock, &*self.random).await?;
        } else {
            migrations::check(&session, &self.options).await?;
        }
        let limit = self.options.request_timeout.max(PREPARE_TIMEOUT);
        let statements = prepare(&session, &self.options, limit).await?;
        self.sender.send_replace(Some(Arc::new(Link { session, statements })));
        tracing::info!(keyspace = self.options.keyspace, "connected with the history store");
        Ok(())
    }
}

/// The statements, all of them within `limit`.
pub(super) async fn prepare(
    session: &Session,
    options: &ScyllaOptions,
    limit: Duration,
) -> Result<Statements, ScyllaStartError> {
    match tokio::time::timeout(limit, Statements::prepare(session, options)).await {
        Ok(prepared) => prepared.map_err(ScyllaStartError::Prepare),
        Err(_) => Err(ScyllaStartError::PrepareTimeout(limit)),
    }
}

/// One line at the first try, then about one a minute.
fn report(error: &ScyllaStartError, attempt: u32) {
    let error = chain(error);
    if attempt.is_multiple_of(ATTEMPTS_PER_LINE) {
        tracing::warn!(error, attempt, "no connection with the history store; trying again");
    } else {
        tracing::debug!(error, attempt, "no connection with the history store yet");
    }
}
