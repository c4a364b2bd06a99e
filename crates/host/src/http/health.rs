//! For whoever runs the process: is it alive, can it serve, what has it counted.

use super::dto::{LivenessDto, ReadinessDto};
use super::paths;
use super::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chatify_application::{LoopState, Status};
use http::{StatusCode, header};
use std::time::Duration;

/// A loop may be stuck for this long before the pod stops being ready; a short hiccup should not move all its users.
const STALL_TOLERATED: Duration = Duration::from_secs(15);

/// Is the process alive?
#[utoipa::path(
    get, path = paths::LIVE, operation_id = "live", tag = "operations",
    responses((status = 200, description = "It is.", body = LivenessDto))
)]
pub(super) async fn live() -> Json<LivenessDto> {
    Json(LivenessDto { live: true })
}

/// Can this pod serve?
#[utoipa::path(
    get, path = paths::READY, operation_id = "ready", tag = "operations",
    responses(
        (status = 200, description = "It can.", body = ReadinessDto),
        (status = 503, description = "It cannot: it starts, drains, or is stuck.", body = ReadinessDto),
    )
)]
pub(super) async fn ready(State(state): State<AppState>) -> Response {
    let reasons = reasons(&state.application.status(), state.draining.is_draining());
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ReadinessDto { ready, reasons })).into_response()
}

/// Metrics in Prometheus' text format
#[utoipa::path(
    get, path = paths::METRICS, operation_id = "metrics", tag = "operations",
    responses((status = 200, description = "All metrics.", body = String, content_type = "text/plain; version=0.0.4"))
)]
pub(super) async fn metrics(State(state): State<AppState>) -> Response {
    let status = state.application.status();
    let ready = reasons(&status, state.draining.is_draining()).is_empty();
    state.metrics.loops(status.lag, status.dedupe_entries, status.tail_bytes, ready);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.render()).into_response()
}

/// Why the pod is not ready; empty when it is.
fn reasons(status: &Status, draining: bool) -> Vec<String> {
    let loops = [("fan-out", &status.fan_out), ("history projection", &status.projection)];
    let stuck = loops.into_iter().filter_map(|(name, state)| match state {
        LoopState::Starting => Some(format!("{name} is starting")),
        LoopState::Stalled { for_, reason } if *for_ > STALL_TOLERATED => {
            Some(format!("{name} has been stuck for {} s: {reason}", for_.as_secs()))
        }
        LoopState::Stalled { .. } | LoopState::Live => None,
    });
    draining.then(|| "draining".to_owned()).into_iter().chain(stuck).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_what_is_missing() {
        let stalled = |seconds| LoopState::Stalled { for_: Duration::from_secs(seconds), reason: "disk full".into() };
        let status = |fan_out, projection| Status { fan_out, projection, lag: 0, dedupe_entries: 0, tail_bytes: 0 };
        let cases = [
            (status(LoopState::Live, LoopState::Live), false, &[][..]),
            (status(LoopState::Live, LoopState::Live), true, &["draining"]),
            (status(LoopState::Starting, LoopState::Live), false, &["fan-out is starting"]),
            (status(LoopState::Live, stalled(15)), false, &[]),
            (status(LoopState::Live, stalled(16)), false, &["history projection has been stuck for 16 s: disk full"]),
            (
                status(stalled(20), LoopState::Starting),
                true,
                &["draining", "fan-out has been stuck for 20 s: disk full", "history projection is starting"],
            ),
        ];
        for (status, draining, expected) in cases {
            assert_eq!(reasons(&status, draining), expected);
        }
    }
}
