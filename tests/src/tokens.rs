//! Tokens that only a test would make.

use crate::seeds::unix_seconds;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// The claims of a token that is good for an hour.
#[must_use]
pub fn claims(issuer: &str, audience: &str, subject: &str) -> Value {
    let now = unix_seconds();
    json!({"iss": issuer, "aud": audience, "sub": subject, "iat": now, "nbf": now - 1, "exp": now + 3600})
}

/// `claims` with one of them replaced; `null` removes it.
#[must_use]
pub fn with_claim(mut claims: Value, name: &str, value: Value) -> Value {
    let object = claims.as_object_mut().expect("claims are an object");
    if value.is_null() {
        object.remove(name);
    } else {
        object.insert(name.to_owned(), value);
    }
    claims
}

/// A token of `claims`, signed with a shared secret.
///
/// # Panics
/// When the library cannot sign.
#[must_use]
pub fn signed(claims: &Value, algorithm: Algorithm, secret: &[u8]) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret)).expect("a shared secret signs anything")
}
