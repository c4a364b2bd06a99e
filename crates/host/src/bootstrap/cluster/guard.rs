//! The log must be the one from which the history was written. Otherwise new messages would be told under positions that old ones have.
//!
//! Kafka forgets what a group has committed together with the topic, so the history itself is the witness. It may be away when the pod starts:
//! then nothing is written into it before it was asked.

use super::RECONNECT;
use crate::config::ConfigError;
use async_trait::async_trait;
use chatify_application::ports::HistoryStore;
use chatify_application::ports::history::{HistoryError, HistoryRow, PositionRange, Segment};
use chatify_building_blocks::error::{Classify, ErrorKind, chain};
use chatify_building_blocks::random::Random;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{LoggedMessage, MessageId, Partition, Position, Scope};
use chatify_infrastructure::kafka::{KafkaLog, KafkaStartError};
use chatify_infrastructure::scylla::ScyllaHistory;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// A history that takes no row before it is known that the log is its own.
pub(super) struct GuardedHistory {
    history: Arc<ScyllaHistory>,
    log: KafkaLog,
    supervisor: Supervisor,
    proven: OnceCell<()>,
}

/// Why it is not known that the log is the right one.
#[derive(Debug, thiserror::Error)]
enum Unproven {
    #[error("the log is not the one from which the history was written")]
    Refused(#[source] KafkaStartError),
    #[error("it is not known whether the log is the one from which the history was written")]
    Away(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl GuardedHistory {
    /// Compares the log with what the group has committed and, when the store is there, with what the history holds. Tries until the brokers answer.
    ///
    /// # Errors
    /// When it is another log.
    pub(super) async fn start(
        history: Arc<ScyllaHistory>,
        log: KafkaLog,
        random: &dyn Random,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, ConfigError> {
        let this = Self { history, log, supervisor: supervisor.clone(), proven: OnceCell::new() };
        let mut attempt = 0;
        while let Err(unproven) = this.compare_at_start().await {
            match unproven {
                Unproven::Refused(refused) => return Err(ConfigError::refused(refused)),
                Unproven::Away(_) => {
                    tracing::warn!(error = chain(&unproven), attempt, "trying again");
                    tokio::time::sleep(RECONNECT.wait(attempt, random)).await;
                    attempt = attempt.saturating_add(1);
                }
            }
        }
        Ok(Arc::new(this))
    }

    async fn compare_at_start(&self) -> Result<(), Unproven> {
        let committed = self.log.group().committed().await.map_err(|error| Unproven::Away(error.into()))?;
        // What is committed is the place of the next record; the one before it was there.
        let were_read = committed.into_iter().filter(|(_, next)| next.offset().number() > 0);
        self.compare(&were_read.map(|(partition, next)| (partition, next.previous())).collect::<Vec<_>>()).await?;
        if self.history.is_connected() {
            // A store that fails just now is asked again before the first row.
            match self.prove().await {
                Err(Unproven::Away(error)) => tracing::warn!(error = chain(&*error), "the history does not answer"),
                outcome => return outcome,
            }
        }
        Ok(())
    }

    /// Asks the history for the newest position that it has of each partition, once.
    async fn prove(&self) -> Result<(), Unproven> {
        let proving = async || {
            let newest = self.history.progress().await.map_err(|error| Unproven::Away(error.into()))?;
            self.compare(&newest).await
        };
        self.proven.get_or_try_init(proving).await.copied()
    }

    async fn compare(&self, newest: &[(Partition, Position)]) -> Result<(), Unproven> {
        match self.log.check_against(newest).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Configuration => Err(Unproven::Refused(error)),
            Err(error) => Err(Unproven::Away(error.into())),
        }
    }

    /// Before the first row. A process that runs with another log must not go on.
    async fn permit_writes(&self) -> Result<(), HistoryError> {
        match self.prove().await {
            Ok(()) => Ok(()),
            Err(unproven) => {
                if let Unproven::Refused(_) = &unproven {
                    self.supervisor.crashed("log-guard", chain(&unproven));
                }
                Err(HistoryError::Unavailable(Box::new(unproven)))
            }
        }
    }
}

#[async_trait]
impl HistoryStore for GuardedHistory {
    async fn segments(&self, scope: &Scope) -> Result<Vec<Segment>, HistoryError> {
        self.history.segments(scope).await
    }

    async fn open_segment(&self, scope: &Scope, segment: Segment) -> Result<(), HistoryError> {
        self.permit_writes().await?;
        self.history.open_segment(scope, segment).await
    }

    async fn count(&self, scope: &Scope, segment: Position, before: Position) -> Result<u64, HistoryError> {
        self.history.count(scope, segment, before).await
    }

    async fn append(&self, rows: &[HistoryRow]) -> Result<(), HistoryError> {
        self.permit_writes().await?;
        self.history.append(rows).await
    }

    async fn slice(
        &self,
        scope: &Scope,
        segment: Position,
        range: PositionRange,
        limit: usize,
    ) -> Result<Vec<LoggedMessage>, HistoryError> {
        self.history.slice(scope, segment, range, limit).await
    }

    async fn find(&self, scope: &Scope, id: MessageId) -> Result<Vec<LoggedMessage>, HistoryError> {
        self.history.find(scope, id).await
    }
}
