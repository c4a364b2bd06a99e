//! What every transport says about a failure: the one table from [`ErrorKind`] to HTTP, hub and WebSocket.

use chatify_building_blocks::error::ErrorKind;
use http::StatusCode;

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name that clients decide by, for REST and hub alike.
    pub code: &'static str,
    /// The problem document's status.
    pub status: StatusCode,
    /// The WebSocket close code (RFC 6455, section 7.4, and the IANA registry) when the failure ends a connection.
    pub close_code: u16,
}

/// Every kind, in the order of the table.
pub const KINDS: [ErrorKind; 12] = [
    ErrorKind::Validation,
    ErrorKind::Unauthenticated,
    ErrorKind::Forbidden,
    ErrorKind::NotFound,
    ErrorKind::Conflict,
    ErrorKind::PayloadTooLarge,
    ErrorKind::RateLimited,
    ErrorKind::Configuration,
    ErrorKind::Internal,
    ErrorKind::EventProduction,
    ErrorKind::StoreUnavailable,
    ErrorKind::Timeout,
];

/// The row of `kind`.
#[must_use]
pub const fn answer(kind: ErrorKind) -> Answer {
    use StatusCode as S;
    let (code, status, close_code) = match kind {
        ErrorKind::Validation => ("VALIDATION_ERROR", S::BAD_REQUEST, 1007),
        ErrorKind::Unauthenticated => ("UNAUTHENTICATED", S::UNAUTHORIZED, 3000),
        ErrorKind::Forbidden => ("FORBIDDEN", S::FORBIDDEN, 3003),
        ErrorKind::NotFound => ("NOT_FOUND", S::NOT_FOUND, 1008),
        ErrorKind::Conflict => ("CONFLICT", S::CONFLICT, 1008),
        ErrorKind::PayloadTooLarge => ("PAYLOAD_TOO_LARGE", S::PAYLOAD_TOO_LARGE, 1009),
        ErrorKind::RateLimited => ("RATE_LIMIT_EXCEEDED", S::TOO_MANY_REQUESTS, 1013),
        ErrorKind::Configuration => ("CONFIGURATION_ERROR", S::INTERNAL_SERVER_ERROR, 1011),
        ErrorKind::Internal => ("INTERNAL", S::INTERNAL_SERVER_ERROR, 1011),
        ErrorKind::EventProduction => ("EVENT_PRODUCTION_FAILED", S::SERVICE_UNAVAILABLE, 1013),
        ErrorKind::StoreUnavailable => ("STORE_UNAVAILABLE", S::SERVICE_UNAVAILABLE, 1013),
        ErrorKind::Timeout => ("TIMEOUT", S::GATEWAY_TIMEOUT, 3008),
    };
    Answer { code, status, close_code }
}

/// A hub method's error: `CODE: sentence`.
#[must_use]
pub fn hub_error(kind: ErrorKind, detail: &str) -> String {
    format!("{}: {detail}", answer(kind).code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_the_documented_ones() {
        let table: Vec<(&str, u16)> = KINDS.map(answer).iter().map(|row| (row.code, row.status.as_u16())).collect();
        let documented = [
            ("VALIDATION_ERROR", 400),
            ("UNAUTHENTICATED", 401),
            ("FORBIDDEN", 403),
            ("NOT_FOUND", 404),
            ("CONFLICT", 409),
            ("PAYLOAD_TOO_LARGE", 413),
            ("RATE_LIMIT_EXCEEDED", 429),
            ("CONFIGURATION_ERROR", 500),
            ("INTERNAL", 500),
            ("EVENT_PRODUCTION_FAILED", 503),
            ("STORE_UNAVAILABLE", 503),
            ("TIMEOUT", 504),
        ];
        assert_eq!(table, documented);
        assert_eq!(table.iter().map(|(code, _)| code).collect::<HashSet<_>>().len(), KINDS.len());
    }

    #[test]
    fn kinds_are_listed_in_their_order() {
        for (index, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, index, "{kind:?}");
        }
    }

    #[test]
    fn close_codes_may_be_sent() {
        for kind in KINDS {
            let code = answer(kind).close_code;
            assert!(matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999), "{kind:?} {code}");
        }
        assert_eq!(hub_error(ErrorKind::Conflict, "no"), "CONFLICT: no");
    }
}
