//! Around every request: correlation id, span, deadline, panics, problem documents, headers and metrics.

use super::cors;
use super::extract::too_large;
use super::problem::{Problem, ProblemKind};
use super::state::AppState;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chatify_building_blocks::correlation::CorrelationId;
use chatify_building_blocks::error::ErrorKind;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tracing::Instrument as _;

/// The request's name on its way.
pub(super) const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
/// W3C Trace Context: the caller's trace, which names the request when nothing else does.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The outermost layer of the router.
pub(super) async fn shell(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let started = state.clock.uptime();
    let correlation = correlation_of(request.headers(), &state);
    request.extensions_mut().insert(correlation);
    let about = About::of(&request);
    // The path only: a query may hold a token.
    let span = tracing::info_span!("http.request", %correlation, method = about.method, path = about.path);
    let mut response = async {
        let answered = answer(&state, request, next, about.preflight).await;
        let response = as_document(answered, &about.path, correlation);
        let status = response.status().as_u16();
        let took = state.clock.uptime().saturating_sub(started);
        state.metrics.http_request(about.method, &about.route, status, took);
        tracing::debug!(status, ?took, "answered");
        response
    }
    .instrument(span)
    .await;
    cors::permit(&state.config, about.origin.as_ref(), about.preflight, response.headers_mut());
    complete_headers(response.headers_mut(), correlation);
    if state.draining.is_draining() {
        // The client's next request finds another pod.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What is still needed when the request is gone.
struct About {
    method: &'static str,
    path: String,
    route: String,
    origin: Option<HeaderValue>,
    preflight: bool,
}

impl About {
    fn of(request: &Request) -> Self {
        let route = request.extensions().get::<MatchedPath>();
        Self {
            method: method_label(request.method()),
            path: request.uri().path().to_owned(),
            route: route.map_or("none", MatchedPath::as_str).to_owned(),
            origin: request.headers().get(header::ORIGIN).cloned(),
            preflight: cors::is_preflight(request.method(), request.headers()),
        }
    }
}

/// Methods are free text; as labels they are not.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn correlation_of(headers: &HeaderMap, state: &AppState) -> CorrelationId {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let named = text(&CORRELATION_ID).and_then(CorrelationId::parse);
    let traced = || text(&TRACEPARENT).and_then(CorrelationId::from_traceparent);
    named.or_else(traced).unwrap_or_else(|| CorrelationId::generate(&*state.random))
}

/// Runs the handler within its deadline. A panic ends the request and nothing else.
async fn answer(state: &AppState, request: Request, next: Next, preflight: bool) -> Response {
    if preflight {
        return StatusCode::NO_CONTENT.into_response();
    }
    if announces_too_much(request.headers(), state.config.server.max_body_bytes) {
        return too_large().into_response();
    }
    let handled = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(state.config.server.request_timeout, handled).await {
        Ok(Ok(response)) => response,
        Ok(Err(_panic)) => {
            tracing::error!("a handler panicked");
            Problem::new(ErrorKind::Internal, "the server made a mistake").into_response()
        }
        Err(_deadline) => Problem {
            retry_after: Some(Duration::from_secs(1)),
            ..Problem::new(ErrorKind::Timeout, "the answer took too long; a send may or may not have been accepted")
        }
        .into_response(),
    }
}

/// Whether the length alone says that the body is too large: nobody needs to wait for it then.
fn announces_too_much(headers: &HeaderMap, max: usize) -> bool {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    announced.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > max))
}

/// Writes the problem that a handler left. Rejections of the libraries below become problems too.
fn as_document(mut response: Response, path: &str, correlation: CorrelationId) -> Response {
    let problem = response.extensions_mut().remove::<Problem>().or_else(|| problem_of(response.status()));
    let Some(problem) = problem else { return response };
    let mut document = problem.into_document(path, correlation);
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        document.headers_mut().insert(header::ALLOW, allow);
    }
    document
}

fn problem_of(status: StatusCode) -> Option<Problem> {
    let kind = match status {
        StatusCode::BAD_REQUEST => ProblemKind::Kind(ErrorKind::Validation),
        StatusCode::NOT_FOUND => ProblemKind::Kind(ErrorKind::NotFound),
        StatusCode::METHOD_NOT_ALLOWED => ProblemKind::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => ProblemKind::Kind(ErrorKind::PayloadTooLarge),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ProblemKind::UnsupportedMediaType,
        StatusCode::INTERNAL_SERVER_ERROR => ProblemKind::Kind(ErrorKind::Internal),
        // Every other status was meant as it is.
        _ => return None,
    };
    Some(Problem::of(kind, status.canonical_reason().unwrap_or_default()))
}

/// What every answer has, unless its handler knew better.
fn complete_headers(headers: &mut HeaderMap, correlation: CorrelationId) {
    let correlation = HeaderValue::try_from(correlation.to_string()).expect("a correlation id is ASCII");
    headers.insert(CORRELATION_ID, correlation);
    let defaults = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    for (name, value) in defaults {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}
