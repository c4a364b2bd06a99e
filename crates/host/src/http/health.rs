//! For whoever runs the process: is it alive, can it serve, what has it counted.

use super::dto::{LivenessDto, ReadinessDto};
use super::paths;
use super::state::AppState;
use crate::dependencies::Dependencies;
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
    let readiness = readiness(&state.application.status(), state.draining.is_draining(), &state.dependencies);
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

/// Metrics in Prometheus' text format
#[utoipa::path(
    get, path = paths::METRICS, operation_id = "metrics", tag = "operations",
    responses((status = 200, description = "All metrics.", body = String, content_type = "text/plain; version=0.0.4"))
)]
pub(super) async fn metrics(State(state): State<AppState>) -> Response {
    let status = state.application.status();
    let ready = readiness(&status, state.draining.is_draining(), &state.dependencies).ready;
    state.metrics.loops(status.lag, status.dedupe_entries, status.tail_bytes, ready);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.render()).into_response()
}

/// Whether the pod is ready, and what is wrong.
fn readiness(status: &Status, draining: bool, dependencies: &Dependencies) -> ReadinessDto {
    let mut reasons: Vec<String> = draining.then(|| "draining".to_owned()).into_iter().collect();
    let mut degraded = Vec::new();
    reasons.extend(stuck("fan-out", &status.fan_out));
    let history = stuck("history projection", &status.projection);
    if dependencies.history_may_wait {
        degraded.extend(history)
    } else {
        reasons.extend(history)
    }
    for (dependency, trouble) in dependencies.troubled() {
        let lost = dependency.vital && trouble.for_ > STALL_TOLERATED;
        let sentence = format!("{} is away for {} s: {}", dependency.name, trouble.for_.as_secs(), trouble.reason);
        if lost { reasons.push(sentence) } else { degraded.push(sentence) }
    }
    ReadinessDto { ready: reasons.is_empty(), reasons, degraded }
}

fn stuck(name: &str, state: &LoopState) -> Option<String> {
    match state {
        LoopState::Starting => Some(format!("{name} is starting")),
        LoopState::Stalled { for_, reason } if *for_ > STALL_TOLERATED => {
            Some(format!("{name} has been stuck for {} s: {reason}", for_.as_secs()))
        }
        LoopState::Stalled { .. } | LoopState::Live => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dependencies::{Dependency, Trouble};

    fn stalled(seconds: u64) -> LoopState {
        LoopState::Stalled { for_: Duration::from_secs(seconds), reason: "disk full".into() }
    }

    const fn status(fan_out: LoopState, projection: LoopState) -> Status {
        Status { fan_out, projection, lag: 0, dedupe_entries: 0, tail_bytes: 0 }
    }

    #[test]
    fn readiness_names_what_is_missing() {
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
            let readiness = readiness(&status, draining, &Dependencies::none());
            assert_eq!(readiness.reasons, expected, "{status:?}");
            assert_eq!(readiness.ready, expected.is_empty());
        }
    }

    #[test]
    fn a_pod_serves_without_what_is_not_vital_and_for_a_while_without_what_is() {
        let away = |name, vital, seconds| {
            Dependency::new(name, vital, move || {
                Some(Trouble { for_: Duration::from_secs(seconds), reason: "refused".into() })
            })
        };
        let well = Dependency::new("well", true, || None);
        let pod = Dependencies::of_a_pod([well, away("log", true, 15), away("Redis", false, 900)]);
        let told = readiness(&status(LoopState::Live, stalled(16)), false, &pod);
        assert!(told.ready && told.reasons.is_empty());
        let expected = [
            "history projection has been stuck for 16 s: disk full",
            "log is away for 15 s: refused",
            "Redis is away for 900 s: refused",
        ];
        assert_eq!(told.degraded, expected);
        let pod = Dependencies::of_a_pod([away("log", true, 16)]);
        let told = readiness(&status(LoopState::Live, LoopState::Live), false, &pod);
        assert!(!told.ready && told.degraded.is_empty());
        assert_eq!(told.reasons, ["log is away for 16 s: refused"]);
    }
}
