//! What a failure means to whoever called: may it be tried again, and what is the client told.

use std::time::Duration;

/// The coarse kind of a failure. Each transport has one exhaustive table from this to its own codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller's input cannot be accepted; the same input will never be.
    Validation,
    /// The caller did not say who they are, or the proof is not valid.
    Unauthenticated,
    /// The caller is known and may not do this.
    Forbidden,
    /// What was asked for does not exist, or the caller may not know that it does.
    NotFound,
    /// The request contradicts what is there already.
    Conflict,
    /// The input is larger than its limit.
    PayloadTooLarge,
    /// The caller did this too often.
    RateLimited,
    /// A mistake in the server's configuration.
    Configuration,
    /// A mistake in the server.
    Internal,
    /// The log did not take the event, or did not say in time whether it did.
    EventProduction,
    /// The history store could not be asked.
    StoreUnavailable,
    /// The deadline passed.
    Timeout,
}

/// An error that knows its [`ErrorKind`].
pub trait Classify: std::error::Error {
    /// What kind of failure this is.
    fn kind(&self) -> ErrorKind;

    /// How long to wait before it makes sense to try again, when that is known.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

/// An error with its causes, each after a colon, for a log line: a field that is an error would show its causes on a terminal and lose them in JSON. A
/// cause that the text before it ends with already, as some libraries write it, is not said twice.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{said}")]
    struct Failure {
        said: &'static str,
        source: Option<Box<Failure>>,
    }

    fn failure(said: &'static str, source: Option<Failure>) -> Failure {
        Failure { said, source: source.map(Box::new) }
    }

    #[test]
    fn every_cause_is_said_once() {
        let refused = failure("connection refused", None);
        let store = failure("no node answers: connection refused", Some(refused));
        let history = failure("the history is away", Some(store));
        assert_eq!(chain(&history), "the history is away: no node answers: connection refused");
    }
}
