//! What is answered before there is anything to serve.

use crate::http::dto::{LivenessDto, ReadinessDto};
use crate::http::paths;
use crate::http::problem::Problem;
use crate::metrics::Metrics;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use chatify_building_blocks::correlation::CorrelationId;
use chatify_building_blocks::error::ErrorKind;
use chatify_building_blocks::random::Random;
use http::{StatusCode, header};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tower::ServiceExt as _;

const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Closed, it says that the process lives, that it is not ready and why; open, it is the server's router.
pub(super) struct Gate {
    router: OnceLock<Router>,
    waiting_for: Mutex<String>,
    random: Arc<dyn Random>,
    metrics: Metrics,
}

impl Gate {
    pub(super) fn new(random: Arc<dyn Random>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { router: OnceLock::new(), waiting_for: Mutex::new("starting".into()), random, metrics })
    }

    /// Everything that comes in goes through here.
    pub(super) fn router(self: &Arc<Self>) -> Router {
        let gate = self.clone();
        Router::new().fallback(move |request: Request| async move {
            let Some(router) = gate.router.get() else { return gate.answer(&request) };
            // A router's error is uninhabited.
            router.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
        })
    }

    /// Why the process is not ready, for whoever asks.
    pub(super) fn waits_for(&self, reason: String) {
        *self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// From now on `router` answers. To be called once.
    pub(super) fn open(&self, router: Router) {
        let set = self.router.set(router);
        debug_assert!(set.is_ok(), "the gate opens once");
    }

    fn answer(&self, request: &Request) -> Response {
        let reason = self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut response = match request.uri().path() {
            paths::LIVE => Json(LivenessDto { live: true }).into_response(),
            paths::READY => {
                let readiness = ReadinessDto { ready: false, reasons: vec![reason], degraded: Vec::new() };
                (StatusCode::SERVICE_UNAVAILABLE, Json(readiness)).into_response()
            }
            paths::METRICS => self.metrics.render().into_response(),
            path => {
                let problem = Problem::new(ErrorKind::StoreUnavailable, "the server is starting");
                let correlation = CorrelationId::generate(&*self.random);
                Problem { retry_after: Some(RETRY_AFTER), ..problem }.into_document(path, correlation)
            }
        };
        response.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::routing::get;
    use chatify_building_blocks::random::SeededRandom;
    use http_body_util::BodyExt as _;

    async fn ask(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::builder().uri(path).body(Body::empty()).expect("a request");
        let response = router.clone().oneshot(request).await.expect("an answer");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn a_closed_gate_lives_and_says_what_it_waits_for_and_an_open_one_is_the_router() {
        let gate = Gate::new(Arc::new(SeededRandom::new(1)), Metrics::new().expect("metrics"));
        let router = gate.router();
        gate.waits_for("no broker answers".into());
        assert_eq!(ask(&router, paths::LIVE).await.0, StatusCode::OK);
        let (status, body) = ask(&router, paths::READY).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, r#"{"ready":false,"reasons":["no broker answers"],"degraded":[]}"#);
        let (status, body) = ask(&router, "/api/users/a/presence").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("STORE_UNAVAILABLE") && body.contains("/api/users/a/presence"), "{body}");
        gate.open(Router::new().route("/there", get(|| async { "open" })));
        assert_eq!(ask(&router, "/there").await, (StatusCode::OK, "open".into()));
        assert_eq!(ask(&router, paths::LIVE).await.0, StatusCode::NOT_FOUND);
    }
}
