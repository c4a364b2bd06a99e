//! What went wrong, as an RFC 9457 problem document.

use super::dto::{FieldErrorDto, ProblemDto};
use crate::error::answer;
use axum::response::{IntoResponse, Response};
use chatify_application::SendError;
use chatify_building_blocks::correlation::CorrelationId;
use chatify_building_blocks::error::{Classify, ErrorKind, chain};
use chatify_building_blocks::seeded_bugs::{Bug, seeded_bug};
use http::{HeaderValue, StatusCode, header};
use std::time::Duration;

/// The media type of problem documents.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What only HTTP can get wrong, beside the kinds that every transport knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// A kind of the table.
    Kind(ErrorKind),
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The body is not in a format that is read here.
    UnsupportedMediaType,
}

impl ProblemKind {
    /// The code and the status.
    #[must_use]
    pub const fn answer(self) -> (&'static str, StatusCode) {
        match self {
            Self::Kind(kind) => (answer(kind).code, answer(kind).status),
            Self::MethodNotAllowed => ("METHOD_NOT_ALLOWED", StatusCode::METHOD_NOT_ALLOWED),
            Self::UnsupportedMediaType => ("UNSUPPORTED_MEDIA_TYPE", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        }
    }
}

/// A failed request. As a response it carries itself along, and `http::shell`, which knows path and correlation id, writes the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What went wrong.
    pub kind: ProblemKind,
    /// A sentence for a person.
    pub detail: String,
    /// The fields that are not valid.
    pub errors: Vec<FieldErrorDto>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// The send may or may not have been accepted; repeating it with the same message id is safe.
    pub outcome_unknown: bool,
}

impl Problem {
    /// A problem of this kind.
    #[must_use]
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self::of(ProblemKind::Kind(kind), detail)
    }

    /// A problem of this kind, HTTP's own included.
    #[must_use]
    pub fn of(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after: None, outcome_unknown: false }
    }

    /// One field is not valid.
    #[must_use]
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Self::fields(vec![FieldErrorDto { field: field.into(), message: message.into() }])
    }

    /// These fields are not valid; at least one.
    #[must_use]
    pub fn fields(errors: Vec<FieldErrorDto>) -> Self {
        let sentences: Vec<String> =
            errors.iter().map(|error| format!("`{}` {}", error.field, error.message)).collect();
        Self { errors, ..Self::new(ErrorKind::Validation, sentences.join("; ")) }
    }

    /// What an operation's error tells its caller: its own sentence. The causes of a server's failure go to the log, here and nowhere else.
    #[must_use]
    pub fn from_error(error: &impl Classify) -> Self {
        let kind = error.kind();
        if answer(kind).status.is_server_error() {
            tracing::warn!(code = answer(kind).code, error = chain(error), "request failed");
        }
        Self { retry_after: error.retry_after(), ..Self::new(kind, error.to_string()) }
    }

    /// [`Problem::from_error`], and whether the message may be in the log all the same.
    #[must_use]
    pub fn from_send_error(error: &SendError) -> Self {
        let outcome_unknown = matches!(error, SendError::Unknown) && !seeded_bug(Bug::UnknownSaidRefused);
        Self { outcome_unknown, ..Self::from_error(error) }
    }

    /// The document.
    #[must_use]
    pub fn into_document(self, instance: &str, correlation: CorrelationId) -> Response {
        let (code, status) = self.kind.answer();
        let document = ProblemDto {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or(code),
            status: status.as_u16(),
            detail: self.detail,
            instance: instance.into(),
            code,
            correlation_id: correlation.to_string(),
            errors: self.errors,
            outcome: self.outcome_unknown.then_some("unknown"),
        };
        let mut response = (status, axum::Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        response
    }
}

/// Rounded up, so that nobody comes back too early; at least one.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.kind.answer().1.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_rounded_up() {
        for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds, "{millis} ms");
        }
    }
}
