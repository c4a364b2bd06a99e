//! Which pages of other origins may read answers. Tokens do not travel by themselves, so this protects nothing that the token does not.

use super::access::configured_origin;
use crate::config::Config;
use http::{HeaderMap, HeaderValue, Method, header};

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, last-event-id, traceparent, x-correlation-id, x-requested-with, x-signalr-user-agent",
);
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static("location, retry-after, x-correlation-id");
/// Seconds for which a browser may remember the permission.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Whether a browser asks for permission before the request proper.
#[must_use]
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// What an answer says to a page of `origin`.
pub(super) fn permit(config: &Config, origin: Option<&HeaderValue>, preflight: bool, answer: &mut HeaderMap) {
    if config.server.origins.0.is_empty() {
        return;
    }
    answer.append(header::VARY, HeaderValue::from_static("origin"));
    let Some(origin) = origin.filter(|origin| origin.to_str().is_ok_and(|text| configured_origin(config, text))) else {
        return;
    };
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    // The official JavaScript client asks with credentials unless it is told otherwise.
    answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
    if preflight {
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    }
}
