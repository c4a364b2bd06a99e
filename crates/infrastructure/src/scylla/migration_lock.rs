//! One process at a time changes the schema: a row with an owner and an end, taken by a lightweight transaction.

use super::migrations::{STATEMENT_TIMEOUT, request};
use super::session::AGREEMENT_TIMEOUT;
use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, IntoRowsResultError, RequestAttemptError};
use scylla::response::query_result::QueryResult;
use scylla::value::{CqlValue, Row};
use std::time::Duration;
use uuid::Uuid;

/// The one row of the table.
const NAME: &str = "migrations";

/// How the lock is held and waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct LockTiming {
    /// After so long without renewal the store forgets the lock: its holder has died. Whole seconds.
    pub(super) time_to_live: Duration,
    /// How long another holder is waited for.
    pub(super) patience: Duration,
    /// How often it is tried meanwhile.
    pub(super) interval: Duration,
}

/// The longest that a holder can be between two renewals, 100 s. The lock's time begins when the store takes the renewal, whose answer may come late; then
/// there is one statement; and its agreement is waited for twice: by the driver, which does so only after a change, and by us, because another process may
/// have made it.
const BETWEEN_RENEWALS: Duration = STATEMENT_TIMEOUT
    .saturating_add(STATEMENT_TIMEOUT)
    .saturating_add(AGREEMENT_TIMEOUT)
    .saturating_add(AGREEMENT_TIMEOUT);
/// The driver also reads the new schema before it goes on, and clocks differ.
const SLACK: Duration = Duration::from_secs(20);

impl Default for LockTiming {
    fn default() -> Self {
        let time_to_live = BETWEEN_RENEWALS + SLACK;
        Self {
            time_to_live,
            // A holder that died is outlasted.
            patience: time_to_live + Duration::from_secs(60),
            interval: Duration::from_millis(250),
        }
    }
}

/// Why the lock is not held.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has held it for too long.
    #[error("another process has been changing the schema for more than {0:?}")]
    Held(Duration),
    /// It ended before the work was done: another process may be at work.
    #[error("the lock on the schema was lost")]
    Lost,
    /// A request did not succeed.
    #[error("the lock on the schema could not be asked for")]
    Failed(#[source] Box<ExecutionError>),
    /// The store's answer makes no sense.
    #[error("the history store's answer about the lock cannot be read")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl LockError {
    /// Whether the store does not know what became of the transaction: it may have been applied, or may be yet. Several that compete end so too.
    fn is_undecided(&self) -> bool {
        let Self::Failed(error) = self else { return false };
        matches!(
            &**error,
            ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::WriteTimeout { .. }, _))
        )
    }
}

/// The lock, held until [`Lock::release`] or its end.
pub(super) struct Lock<'run> {
    session: &'run Session,
    keyspace: &'run str,
    owner: Uuid,
    timing: LockTiming,
}

impl<'run> Lock<'run> {
    /// Waits for the lock. `owner` is this holder's alone.
    pub(super) async fn acquire(
        session: &'run Session,
        keyspace: &'run str,
        owner: u128,
        timing: LockTiming,
    ) -> Result<Self, LockError> {
        let lock = Self { session, keyspace, owner: Uuid::from_u128(owner), timing };
        let acquired = async {
            let mut told = false;
            loop {
                match lock.try_acquire().await {
                    Ok(true) => return Ok(()),
                    Ok(false) => {
                        if !std::mem::replace(&mut told, true) {
                            tracing::info!(keyspace, "another process is changing the schema; waiting for it");
                        }
                    }
                    // Leaving now could leave a lock behind that nobody holds. The next try finds out whose it is.
                    Err(error) if error.is_undecided() => {
                        tracing::debug!(keyspace, "a try for the lock had no outcome");
                    }
                    Err(error) => return Err(error),
                }
                tokio::time::sleep(timing.interval).await;
            }
        };
        match tokio::time::timeout(timing.patience, acquired).await {
            Ok(outcome) => outcome.map(|()| lock),
            Err(_) => Err(LockError::Held(timing.patience)),
        }
    }

    async fn try_acquire(&self) -> Result<bool, LockError> {
        let seconds = self.timing.time_to_live.as_secs();
        let cql = format!(
            "INSERT INTO {}.schema_lock (name, owner) VALUES (?, ?) IF NOT EXISTS USING TTL {seconds}",
            self.keyspace
        );
        let answer = self.session.query_unpaged(request(cql), (NAME, self.owner)).await.map_err(boxed)?;
        let (applied, holder) = outcome(answer)?;
        // A try whose answer was lost may have succeeded.
        Ok(applied || holder == Some(self.owner))
    }

    /// Holds it for its whole time again.
    pub(super) async fn renew(&self) -> Result<(), LockError> {
        let seconds = self.timing.time_to_live.as_secs();
        let cql = format!(
            "UPDATE {}.schema_lock USING TTL {seconds} SET owner = ? WHERE name = ? IF owner = ?",
            self.keyspace
        );
        let values = (self.owner, NAME, self.owner);
        let answer = self.session.query_unpaged(request(cql), values).await.map_err(boxed)?;
        if outcome(answer)?.0 { Ok(()) } else { Err(LockError::Lost) }
    }

    /// Gives it back.
    pub(super) async fn release(self) -> Result<(), LockError> {
        let cql = format!("DELETE FROM {}.schema_lock WHERE name = ? IF owner = ?", self.keyspace);
        self.session.query_unpaged(request(cql), (NAME, self.owner)).await.map_err(boxed)?;
        Ok(())
    }
}

fn boxed(error: ExecutionError) -> LockError {
    LockError::Failed(Box::new(error))
}

/// Whether the transaction was applied, and who holds the lock when it was not. Stores differ in which columns they answer.
fn outcome(answer: QueryResult) -> Result<(bool, Option<Uuid>), LockError> {
    let rows = answer.into_rows_result().map_err(|error: IntoRowsResultError| LockError::Answer(Box::new(error)))?;
    let column = |name| rows.column_specs().get_by_name(name).map(|(index, _)| index);
    let (applied, owner) = (column("[applied]"), column("owner"));
    let row: Row = rows.first_row().map_err(|error| LockError::Answer(Box::new(error)))?;
    let value = |index: Option<usize>| index.and_then(|index| row.columns.get(index)).and_then(Option::as_ref);
    let holder = match value(owner) {
        Some(CqlValue::Uuid(holder)) => Some(*holder),
        _ => None,
    };
    Ok((matches!(value(applied), Some(CqlValue::Boolean(true))), holder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use scylla::errors::WriteType;
    use scylla::statement::Consistency;

    #[test]
    fn the_lock_outlasts_what_is_done_between_two_renewals_and_patience_the_lock() {
        let timing = LockTiming::default();
        assert!(timing.time_to_live > STATEMENT_TIMEOUT * 2 + AGREEMENT_TIMEOUT * 2);
        assert_eq!(timing.time_to_live.subsec_nanos(), 0, "the store counts whole seconds");
        assert!(timing.patience > timing.time_to_live + STATEMENT_TIMEOUT);
    }

    #[test]
    fn only_a_try_without_an_outcome_is_followed_by_another() {
        let failed =
            |error| boxed(ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, String::new())));
        let consistency = Consistency::Serial;
        let timeout = DbError::WriteTimeout { consistency, received: 1, required: 2, write_type: WriteType::Cas };
        assert!(failed(timeout).is_undecided());
        let unavailable = DbError::Unavailable { consistency, required: 2, alive: 1 };
        assert!(!failed(unavailable).is_undecided());
        assert!(!failed(DbError::Unauthorized).is_undecided());
        assert!(!LockError::Lost.is_undecided());
    }
}
