//! Who is online.

use super::access::Caller;
use super::dto::PresenceDto;
use super::extract::{NoQuery, UserPath};
use super::problem::Problem;
use super::state::AppState;
use super::{openapi, paths};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

/// Read somebody's presence
///
/// Best effort: `unknown` when it cannot be told.
#[utoipa::path(
    get, path = paths::PRESENCE, operation_id = "readPresence", tag = "presence", security(("bearer" = [])),
    params(("userId" = String, Path, description = "The user's id, percent-encoded.", example = "alice", min_length = 1, max_length = 256)),
    responses(
        (status = 200, description = "What is known.", body = PresenceDto<'static>),
        (status = 400, response = openapi::BadRequest),
        (status = 401, response = openapi::Unauthenticated),
        (status = 504, response = openapi::TooLong),
    )
)]
pub(super) async fn presence(
    _caller: Caller,
    UserPath(user): UserPath,
    NoQuery: NoQuery,
    State(state): State<AppState>,
) -> Result<Response, Problem> {
    let presence = state.application.presence(&user).await;
    Ok(Json(PresenceDto::of(&user, &presence)).into_response())
}
