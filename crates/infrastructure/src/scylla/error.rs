//! What the driver's errors mean for the history.
//!
//! The driver's texts name types, nodes and consistency levels, never bound values; what the store itself says of a request does not
//! either, because no value is ever part of a statement's text.

use chatify_application::ports::history::HistoryError;
use scylla::errors::{
    DbError, DeserializationError, ExecutionError, IntoRowsResultError, RequestAttemptError, RowsError,
};

/// There is no connection yet.
#[derive(Debug, thiserror::Error)]
#[error("there is no connection with the store yet")]
pub(super) struct NotConnected;

/// A stored value that no record can have had.
#[derive(Debug, thiserror::Error)]
#[error("column `{column}` holds no valid value")]
pub(super) struct InvalidColumn {
    pub(super) column: &'static str,
    #[source]
    pub(super) source: Box<dyn std::error::Error + Send + Sync>,
}

/// The request was sent, or could not be.
pub(super) fn executed(error: ExecutionError) -> HistoryError {
    match &error {
        ExecutionError::RequestTimeout(_) => HistoryError::Timeout,
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(
            DbError::ReadTimeout { .. } | DbError::WriteTimeout { .. },
            _,
        )) => HistoryError::Timeout,
        ExecutionError::LastAttemptError(RequestAttemptError::CqlResultParseError(_)) => {
            HistoryError::Corrupt(Box::new(error))
        }
        // The driver may add errors. Whatever else stops a request says nothing about the stored rows.
        _ => HistoryError::Unavailable(Box::new(error)),
    }
}

/// The answer is no table.
pub(super) fn not_rows(error: IntoRowsResultError) -> HistoryError {
    HistoryError::Corrupt(Box::new(error))
}

/// The answer's columns have other types than the schema says.
pub(super) fn other_columns(error: RowsError) -> HistoryError {
    HistoryError::Corrupt(Box::new(error))
}

/// One row holds a value that cannot be.
pub(super) fn unreadable_row(error: DeserializationError) -> HistoryError {
    HistoryError::Corrupt(Box::new(error))
}
