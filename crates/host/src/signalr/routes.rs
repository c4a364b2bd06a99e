//! The hub's two paths, as HTTP sees them.

use super::negotiate::{NegotiateResponse, negotiate};
use super::session::{HubContext, serve};
use crate::auth::Identity;
use crate::http::access::HubCaller;
use crate::http::admission::Admitted;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::net::upgrade;
use axum::extract::{FromRef, Query, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use chatify_building_blocks::error::ErrorKind;
use serde::Deserialize;
use std::sync::Arc;

/// Where the hub is.
pub const HUB: &str = "/hubs/chat";
/// Where a client asks for its transports.
pub const NEGOTIATE: &str = "/hubs/chat/negotiate";

/// What the hub's paths need.
#[derive(Clone)]
pub struct HubState {
    /// What all connections share.
    pub context: Arc<HubContext>,
    /// Authentication and the answers to errors.
    pub app: AppState,
}

impl FromRef<HubState> for AppState {
    fn from_ref(state: &HubState) -> Self {
        state.app.clone()
    }
}

/// The hub's routes.
pub fn routes(state: HubState) -> Router {
    Router::new().route(HUB, get(connect)).route(NEGOTIATE, post(negotiation)).with_state(state)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Negotiation {
    negotiate_version: Option<u32>,
}

/// Nothing is remembered: the WebSocket may come to any pod.
async fn negotiation(
    _caller: HubCaller,
    State(state): State<HubState>,
    Query(asked): Query<Negotiation>,
) -> Json<NegotiateResponse> {
    Json(negotiate(asked.negotiate_version, &*state.app.random))
}

async fn connect(
    HubCaller(caller): HubCaller,
    State(state): State<HubState>,
    mut request: Request,
) -> Result<Response, Problem> {
    let (response, upgraded) =
        upgrade::accept(&mut request).map_err(|error| Problem::new(ErrorKind::Validation, error.to_string()))?;
    let admitted = state.app.admission.admit(&caller.user)?;
    state.app.supervisor.clone().work("hub-session", session(state, caller, admitted, upgraded));
    Ok(response)
}

/// The place of `_admitted` is free again when the session is over, however it ends.
async fn session(state: HubState, caller: Identity, _admitted: Admitted, upgraded: hyper::upgrade::OnUpgrade) {
    if let Some((socket, read_already)) = upgrade::take_socket(upgraded).await {
        serve(state.context, caller, socket, read_already).await;
    }
}
