//! From a request's parts to domain values. Every rejection is a [`Problem`].

use super::dto::FieldErrorDto;
use super::problem::{Problem, ProblemKind};
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use chatify_building_blocks::error::ErrorKind;
use chatify_domain::scope::ScopeError;
use chatify_domain::{MessageId, Scope, ScopeType, SenderId};
use http::header;
use http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::form_urlencoded;

/// `{scopeType}/{scopeId}` of the path.
#[derive(Clone, Debug)]
pub struct ScopePath(pub Scope);

/// `{messageId}` of the path.
#[derive(Clone, Copy, Debug)]
pub struct MessageIdPath(pub MessageId);

/// `{userId}` of the path.
#[derive(Clone, Debug)]
pub struct UserPath(pub SenderId);

/// The path has no query parameters; a mistyped one should not pass unseen.
#[derive(Clone, Copy, Debug)]
pub struct NoQuery;

/// A JSON body.
#[derive(Clone, Debug)]
pub struct JsonBody<T>(pub T);

/// Query parameters, each known and at most once.
#[derive(Clone, Debug)]
pub struct QueryParameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for ScopePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Segments {
            scope_type: String,
            scope_id: String,
        }
        let segments: Segments = segments(parts, state).await?;
        scope(&segments.scope_type, &segments.scope_id).map(Self)
    }
}

/// The scope of these names, which came as `scopeType` and `scopeId`.
///
/// # Errors
/// A problem that names the wrong one.
pub fn scope(scope_type: &str, scope_id: &str) -> Result<Scope, Problem> {
    let kind = ScopeType::parse(scope_type);
    let kind = kind.ok_or_else(|| Problem::field("scopeType", "must be `Channel` or `DirectMessage`"))?;
    Scope::new(kind, scope_id).map_err(|error| match error {
        ScopeError::Id(rule) => Problem::field("scopeId", rule.to_string()),
        ScopeError::UnknownType => Problem::field("scopeType", error.to_string()),
        ScopeError::Participants => {
            Problem::field("scopeId", "must be the participants' ids, percent-encoded, sorted and joined by `+`")
        }
    })
}

impl<S: Send + Sync> FromRequestParts<S> for MessageIdPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Segments {
            message_id: String,
        }
        let segments: Segments = segments(parts, state).await?;
        let id = MessageId::parse(&segments.message_id);
        id.map(Self).map_err(|error| Problem::field("messageId", error.to_string()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for UserPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Segments {
            user_id: String,
        }
        let segments: Segments = segments(parts, state).await?;
        let id = SenderId::parse(&segments.user_id);
        id.map(Self).map_err(|error| Problem::field("userId", error.to_string()))
    }
}

/// Percent-decoded segments of the path.
async fn segments<T: DeserializeOwned + Send, S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<T, Problem> {
    let path = Path::<T>::from_request_parts(parts, state).await;
    path.map(|Path(segments)| segments)
        .map_err(|_| Problem::new(ErrorKind::Validation, "the path is not UTF-8 when it is decoded"))
}

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        QueryParameters::parse(parts.uri.query(), &[]).map(|_| Self)
    }
}

impl QueryParameters {
    /// Reads a query in which only `known` names may be.
    ///
    /// # Errors
    /// A problem that names every unknown or repeated parameter.
    pub fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut taken: Vec<(String, String)> = Vec::new();
        let mut errors = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let wrong = if !known.contains(&name.as_ref()) {
                Some("is not a parameter of this path")
            } else if taken.iter().any(|(there, _)| *there == name) {
                Some("must be there once only")
            } else {
                None
            };
            match wrong {
                Some(message) => errors.push(FieldErrorDto { field: name.into_owned(), message: message.into() }),
                None => taken.push((name.into_owned(), value.into_owned())),
            }
        }
        if errors.is_empty() { Ok(Self(taken)) } else { Err(Problem::fields(errors)) }
    }

    /// The parameter's value, when it is there.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(there, _)| there == name).map(|(_, value)| value.as_str())
    }

    /// The parameter's value as `read` understands it; what it cannot is noted in `errors`.
    pub fn read<T, E: ToString>(
        &self,
        name: &str,
        errors: &mut Vec<FieldErrorDto>,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match read(self.value(name)?) {
            Ok(value) => Some(value),
            Err(error) => {
                errors.push(FieldErrorDto { field: name.into(), message: error.to_string() });
                None
            }
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers().get(header::CONTENT_TYPE)) {
            return Err(Problem::of(ProblemKind::UnsupportedMediaType, "the body must be `application/json`"));
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection| unread(&rejection))?;
        // A derived reader takes an array of the fields, too.
        if body.trim_ascii_start().starts_with(b"[") {
            return Err(Problem::new(ErrorKind::Validation, "the body must be a JSON object"));
        }
        let body = serde_json::from_slice(&body);
        body.map(Self).map_err(|error| Problem::new(ErrorKind::Validation, format!("the body cannot be read: {error}")))
    }
}

fn is_json(content_type: Option<&http::HeaderValue>) -> bool {
    let essence =
        content_type.and_then(|value| value.to_str().ok()).map(|text| text.split(';').next().unwrap_or(text).trim());
    essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
}

/// The body is above `server.max_body_bytes`.
pub(super) fn too_large() -> Problem {
    Problem::new(ErrorKind::PayloadTooLarge, "the body is larger than this server reads")
}

fn unread(rejection: &BytesRejection) -> Problem {
    match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => too_large(),
        // Whatever else axum may add means that the body did not arrive.
        _ => Problem::new(ErrorKind::Validation, "the body ended early"),
    }
}
