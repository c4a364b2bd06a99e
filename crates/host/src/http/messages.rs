//! Send, and read what was said.

use super::access::Caller;
use super::dto::{FieldErrorDto, HistoryPageDto, MessageDto, ScopeTypeDto, SendBody, SendResultDto, parse_rfc3339};
use super::extract::{JsonBody, MessageIdPath, NoQuery, QueryParameters, ScopePath};
use super::problem::Problem;
use super::state::AppState;
use super::{openapi, paths};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use chatify_application::{HistoryQuery, MessageQuery, Page, SendMessage};
use chatify_building_blocks::correlation::CorrelationId;
use chatify_domain::{MessageId, Position, Scope, SenderId, Text, limits};
use http::{StatusCode, header};

/// Send a message
///
/// Answers when the message is durable. A repeat (same scope, sender and `messageId`) is answered with the first one's position; the same id with
/// another text is a conflict.
#[utoipa::path(
    post, path = paths::MESSAGES, operation_id = "sendMessage", tag = "messages", security(("bearer" = [])),
    params(
        ("scopeType" = ScopeTypeDto, Path, description = "The scope's type.", example = "Channel"),
        ("scopeId" = String, Path, description = "The scope's id, percent-encoded.", example = "general", min_length = 1, max_length = 256),
    ),
    request_body = SendBody,
    responses(
        (status = 201, description = "Accepted.", body = SendResultDto<'static>, headers(("Location" = String, description = "The message's path."))),
        (status = 400, response = openapi::BadRequest),
        (status = 401, response = openapi::Unauthenticated),
        (status = 403, response = openapi::Forbidden),
        (status = 409, response = openapi::Conflict),
        (status = 413, response = openapi::TooLarge),
        (status = 415, response = openapi::NotJson),
        (status = 429, response = openapi::TooOften),
        (status = 503, response = openapi::Unavailable),
        (status = 504, response = openapi::TooLong),
    )
)]
pub(super) async fn send(
    Caller(caller): Caller,
    ScopePath(scope): ScopePath,
    NoQuery: NoQuery,
    Extension(correlation): Extension<CorrelationId>,
    State(state): State<AppState>,
    JsonBody(body): JsonBody<SendBody>,
) -> Result<Response, Problem> {
    let command = send_command(caller.user, scope, correlation, &body)?;
    let sending = state.application.send(command).await.map_err(|error| Problem::from_send_error(&error))?;
    let accepted = sending.outcome().await.map_err(|error| Problem::from_send_error(&error))?;
    let location = [(header::LOCATION, paths::of_message(&accepted.message))];
    Ok((StatusCode::CREATED, location, Json(SendResultDto::from(&accepted.message))).into_response())
}

fn send_command(
    sender: SenderId,
    scope: Scope,
    correlation: CorrelationId,
    body: &SendBody,
) -> Result<SendMessage, Problem> {
    let mut errors = Vec::new();
    let mut note = |field: &str, message: String| errors.push(FieldErrorDto { field: field.into(), message });
    let text = Text::parse(&body.text).map_err(|error| note("text", error.to_string())).ok();
    let id = body.message_id.as_deref().map(MessageId::parse).transpose();
    let id = id.map_err(|error| note("messageId", error.to_string())).ok();
    match (text, id) {
        (Some(text), Some(message_id)) => Ok(SendMessage { sender, scope, text, message_id, correlation }),
        _ => Err(Problem::fields(errors)),
    }
}

/// Read a page of history
///
/// Without `before`, `after` or `around`: the newest page. Items are ascending; `oldestReached` and `newestReached` say whether there is more.
#[utoipa::path(
    get, path = paths::MESSAGES, operation_id = "readHistory", tag = "messages", security(("bearer" = [])),
    params(
        ("scopeType" = ScopeTypeDto, Path, description = "The scope's type.", example = "Channel"),
        ("scopeId" = String, Path, description = "The scope's id, percent-encoded.", example = "general", min_length = 1, max_length = 256),
        ("before" = Option<i64>, Query, description = "The newest messages before this position.", minimum = 0, maximum = 9_007_199_254_740_991i64),
        ("after" = Option<i64>, Query, description = "The oldest messages after this position.", minimum = 0, maximum = 9_007_199_254_740_991i64),
        ("around" = Option<i64>, Query, description = "Messages on both sides of this position.", minimum = 0, maximum = 9_007_199_254_740_991i64),
        ("from" = Option<String>, Query, description = "Only messages of this RFC 3339 time or later.", format = DateTime),
        ("to" = Option<String>, Query, description = "Only messages before this RFC 3339 time.", format = DateTime),
        ("sender" = Option<String>, Query, description = "Only this user's messages.", min_length = 1, max_length = 256),
        ("limit" = Option<u32>, Query, description = "The most messages; 50 when nothing is said.", minimum = 1, maximum = 500),
    ),
    responses(
        (status = 200, description = "The page.", body = HistoryPageDto<'static>),
        (status = 400, response = openapi::BadRequest),
        (status = 401, response = openapi::Unauthenticated),
        (status = 403, response = openapi::Forbidden),
        (status = 503, response = openapi::Unavailable),
        (status = 504, response = openapi::TooLong),
    )
)]
pub(super) async fn history(
    Caller(caller): Caller,
    ScopePath(scope): ScopePath,
    RawQuery(query): RawQuery,
    State(state): State<AppState>,
) -> Result<Response, Problem> {
    let query = history_query(caller.user, scope, query.as_deref())?;
    let page = state.application.history(query).await.map_err(|error| Problem::from_error(&error))?;
    Ok(Json(HistoryPageDto::from(&page)).into_response())
}

const HISTORY_PARAMETERS: [&str; 7] = ["before", "after", "around", "from", "to", "sender", "limit"];

pub(crate) fn history_query(user: SenderId, scope: Scope, query: Option<&str>) -> Result<HistoryQuery, Problem> {
    let given = QueryParameters::parse(query, &HISTORY_PARAMETERS)?;
    let mut errors = Vec::new();
    let page = page(&given, &mut errors);
    let from = given.read("from", &mut errors, parse_rfc3339);
    let to = given.read("to", &mut errors, parse_rfc3339);
    let sender = given.read("sender", &mut errors, SenderId::parse);
    let limit = given.read("limit", &mut errors, page_limit).unwrap_or(limits::PAGE_LIMIT_DEFAULT);
    if matches!((from, to), (Some(from), Some(to)) if from >= to) {
        errors.push(FieldErrorDto { field: "to".into(), message: "must be later than `from`".into() });
    }
    if errors.is_empty() {
        Ok(HistoryQuery { user, scope, page, sender, from, to, limit })
    } else {
        Err(Problem::fields(errors))
    }
}

fn page(given: &QueryParameters, errors: &mut Vec<FieldErrorDto>) -> Page {
    let before = given.read("before", errors, position).map(Page::Before);
    let after = given.read("after", errors, position).map(Page::After);
    let around = given.read("around", errors, position).map(Page::Around);
    let present: Vec<&str> =
        ["before", "after", "around"].into_iter().filter(|name| given.value(name).is_some()).collect();
    if let [_, second, ..] = present[..] {
        let message = "must not be combined: only one of `before`, `after` and `around`".into();
        errors.push(FieldErrorDto { field: second.into(), message });
    }
    before.or(after).or(around).unwrap_or(Page::Latest)
}

/// Reads a cursor.
///
/// # Errors
/// When `text` is no position.
pub fn position(text: &str) -> Result<Position, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number: i64 = digits.then(|| text.parse().ok()).flatten().ok_or("must be a position: a whole number")?;
    Position::from_number(number).map_err(|error| error.to_string())
}

fn page_limit(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=limits::PAGE_LIMIT_MAX).contains(number));
    number.ok_or_else(|| format!("must be a whole number between 1 and {}", limits::PAGE_LIMIT_MAX))
}

/// Read one message
#[utoipa::path(
    get, path = paths::MESSAGE, operation_id = "readMessage", tag = "messages", security(("bearer" = [])),
    params(
        ("scopeType" = ScopeTypeDto, Path, description = "The scope's type.", example = "Channel"),
        ("scopeId" = String, Path, description = "The scope's id, percent-encoded.", example = "general", min_length = 1, max_length = 256),
        ("messageId" = String, Path, description = "The message's UUID.", format = "uuid"),
    ),
    responses(
        (status = 200, description = "The message.", body = MessageDto<'static>),
        (status = 400, response = openapi::BadRequest),
        (status = 401, response = openapi::Unauthenticated),
        (status = 403, response = openapi::Forbidden),
        (status = 404, response = openapi::NotFound),
        (status = 503, response = openapi::Unavailable),
        (status = 504, response = openapi::TooLong),
    )
)]
pub(super) async fn message(
    Caller(caller): Caller,
    ScopePath(scope): ScopePath,
    MessageIdPath(message_id): MessageIdPath,
    NoQuery: NoQuery,
    State(state): State<AppState>,
) -> Result<Response, Problem> {
    let query = MessageQuery { user: caller.user, scope, message_id };
    let message = state.application.message(query).await.map_err(|error| Problem::from_error(&error))?;
    Ok(Json(MessageDto::from(&message)).into_response())
}
