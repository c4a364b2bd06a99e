//! Every path, and how to name a message by one.

use chatify_domain::LoggedMessage;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Send, and read the history.
pub const MESSAGES: &str = "/api/scopes/{scopeType}/{scopeId}/messages";
/// Read one message.
pub const MESSAGE: &str = "/api/scopes/{scopeType}/{scopeId}/messages/{messageId}";
/// Follow a scope.
pub const EVENTS: &str = "/api/scopes/{scopeType}/{scopeId}/events";
/// Whether somebody is online.
pub const PRESENCE: &str = "/api/users/{userId}/presence";
/// The process runs.
pub const LIVE: &str = "/health/live";
/// The pod can serve.
pub const READY: &str = "/health/ready";
/// What is counted.
pub const METRICS: &str = "/metrics";
/// The API's description.
pub const OPENAPI: &str = "/openapi.json";
/// The page that shows it.
pub const DOCS: &str = "/docs";
/// The playground.
pub const PLAYGROUND: &str = "/";

/// The unreserved characters of RFC 3986, section 2.3, stay as they are.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The path of a message.
#[must_use]
pub fn of_message(message: &LoggedMessage) -> String {
    let sent = &message.sent;
    let scope_id = utf8_percent_encode(sent.scope.id().as_str(), SEGMENT);
    format!("/api/scopes/{}/{scope_id}/messages/{}", sent.scope.kind().as_str(), sent.message_id)
}
