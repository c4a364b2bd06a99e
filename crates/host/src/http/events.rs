//! `GET …/events`: the live stream of a scope as Server-Sent Events.

use super::access::HubCaller;
use super::dto::{FieldErrorDto, ScopeTypeDto};
use super::extract::{QueryParameters, ScopePath};
use super::problem::Problem;
use super::state::AppState;
use crate::realtime::event_stream::EventStream;
use crate::realtime::outbox::OutboxLimits;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chatify_domain::Position;
use http::{HeaderMap, Uri, header};

/// Where a browser says what it has already; elsewhere the query's `after` does the same.
const LAST_EVENT_ID: &str = "last-event-id";
const AFTER: &str = "after";

/// Follow a scope
///
/// Server-Sent Events. Each `message` event carries a message as in the history, and its id is the message's position: a client that comes back with
/// `Last-Event-ID` (browsers do by themselves) gets everything that it missed first, in order. An event `gap` says where nothing can be vouched for.
#[utoipa::path(
    get,
    path = super::paths::EVENTS,
    operation_id = "followScope",
    tag = "messages",
    security(("bearer" = [])),
    params(
        ("scopeType" = ScopeTypeDto, Path, description = "The scope's type.", example = "Channel"),
        ("scopeId" = String, Path, description = "The scope's id, percent-encoded.", example = "general", min_length = 1, max_length = 256),
        ("after" = Option<i64>, Query, minimum = 0, maximum = 9_007_199_254_740_991i64, description = "As `Last-Event-ID`, for clients that cannot set headers"),
        ("access_token" = Option<String>, Query, description = "The token, for clients that cannot set headers"),
        ("Last-Event-ID" = Option<i64>, Header, minimum = 0, maximum = 9_007_199_254_740_991i64, description = "The position of the last message that the client has"),
    ),
    responses(
        (status = 200, description = "The stream", content_type = "text/event-stream", body = String),
        (status = 400, response = super::openapi::BadRequest),
        (status = 401, response = super::openapi::Unauthenticated),
        (status = 403, response = super::openapi::Forbidden),
        (status = 429, response = super::openapi::TooOften),
        (status = 503, response = super::openapi::Unavailable),
        (status = 504, response = super::openapi::TooLong),
    )
)]
pub async fn events(
    HubCaller(caller): HubCaller,
    ScopePath(scope): ScopePath,
    State(state): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = after(&uri, &headers)?;
    let limits = &state.config.limits;
    let admitted = state.admission.admit(&caller.user)?;
    let stream = EventStream {
        application: state.application.clone(),
        hub: state.hub.clone(),
        metrics: state.metrics.clone(),
        supervisor: state.supervisor.clone(),
        limits: OutboxLimits { frames: limits.outbox_frames, bytes: limits.outbox_bytes },
        admitted,
    };
    let body = stream.open(caller, scope, after).await.map_err(|error| Problem::from_error(&error))?;
    let kind = [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")];
    Ok((kind, Body::from_stream(body)).into_response())
}

/// The header wins: a browser that comes back sends it with the address that it began with.
fn after(uri: &Uri, headers: &HeaderMap) -> Result<Option<Position>, Problem> {
    let query = QueryParameters::parse(uri.query(), &[AFTER, "access_token"])?;
    let (field, text) = match headers.get(LAST_EVENT_ID) {
        Some(id) => ("Last-Event-ID", Some(id.to_str().unwrap_or("?"))),
        None => (AFTER, query.value(AFTER)),
    };
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let position = text.parse().ok().and_then(|number| Position::from_number(number).ok());
    let message = || format!("must be a position, a number between 0 and {}", Position::MAX);
    position.map(Some).ok_or_else(|| Problem::fields(vec![FieldErrorDto { field: field.into(), message: message() }]))
}
