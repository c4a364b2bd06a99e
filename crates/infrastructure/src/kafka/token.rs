//! The OAUTHBEARER token that somebody else keeps fresh in a file.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::bindings::rd_kafka_oauthbearer_set_token;
use rdkafka::client::{Client, ClientContext, OAuthToken};
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;
use std::ffi::CString;
use std::path::Path;

/// Why there is no token. Says nothing of its contents.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("no `message_broker.security.token_file` is configured")]
    NoFile,
    #[error("the token file cannot be read")]
    Unreadable(#[source] std::io::Error),
    #[error("the token file holds no JWT with `sub` and `exp`")]
    NotAToken,
    #[error("the Kafka client does not take the token")]
    NotTaken,
}

/// The two claims that the client has to know: whose token it is, and until when, in seconds.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: i64,
}

/// The token in `file` as it is now. It is checked by the brokers, not here.
pub(super) fn read(file: Option<&Path>) -> Result<OAuthToken, TokenError> {
    let text = std::fs::read_to_string(file.ok_or(TokenError::NoFile)?).map_err(TokenError::Unreadable)?;
    parse(text.trim()).ok_or(TokenError::NotAToken)
}

/// Gives `client` the token in `file`, if the clients have such a file. For clients that are asked something before anybody polls them, or that nobody
/// polls at all: only a poll would fetch a token, and without one no question leaves the client.
///
/// # Errors
/// There is no token, or it is no longer good.
pub(super) fn give<C: ClientContext>(client: &Client<C>, file: Option<&Path>) -> Result<(), TokenError> {
    match file {
        Some(file) => hand_over(client, read(Some(file))?),
        None => Ok(()),
    }
}

#[expect(unsafe_code, reason = "rdkafka hands tokens only to clients that are polled for events")]
fn hand_over<C: ClientContext>(client: &Client<C>, token: OAuthToken) -> Result<(), TokenError> {
    let text = |text: String| CString::new(text).map_err(|_| TokenError::NotAToken);
    let (value, principal) = (text(token.token)?, text(token.principal_name)?);
    // SAFETY: the client is alive for as long as it is borrowed, both strings outlive the call, which copies them, and the call takes null with
    // a length of zero for "no extensions" and for "no room for an explanation".
    let code = unsafe {
        rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            principal.as_ptr(),
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
            0,
        )
    };
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR { Ok(()) } else { Err(TokenError::NotTaken) }
}

fn parse(token: &str) -> Option<OAuthToken> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let Claims { sub, exp } = serde_json::from_slice(&claims).ok()?;
    Some(OAuthToken { token: token.to_owned(), principal_name: sub, lifetime_ms: exp.checked_mul(1000)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_of(claims: &str) -> String {
        format!("e30.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn subject_and_end_are_taken_from_the_token() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let token = token_of(r#"{"iss":"idp","sub":"chatify","exp":1900000000}"#);
        std::fs::write(file.path(), format!("{token}\n")).expect("written");
        let read = read(Some(file.path())).expect("a token");
        assert_eq!((read.token, read.principal_name, read.lifetime_ms), (token, "chatify".into(), 1_900_000_000_000));
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_shown() {
        let without_end = token_of(r#"{"sub":"chatify"}"#);
        for text in ["", "secret", "a.b.c", &without_end, &token_of(r#"{"sub":"x","exp":9223372036854775807}"#)] {
            assert!(parse(text).is_none(), "{text}");
        }
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "secret").expect("written");
        let refused = read(Some(file.path())).err().expect("no token").to_string();
        assert_eq!(refused, "the token file holds no JWT with `sub` and `exp`");
        assert!(read(None).is_err());
    }
}
