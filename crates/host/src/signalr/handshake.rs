//! The first record of a connection: which encoding the client wants.

use crate::realtime::encode::{Format, RECORD_SEPARATOR, write_json};
use serde::Deserialize;
use std::borrow::Cow;

/// Why a handshake is refused, in words for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not the JSON object that the protocol wants.
    #[error("The handshake must be a JSON object with `protocol` and `version`, ended by 0x1E.")]
    Malformed,
    /// An encoding that this server does not have.
    #[error("The protocol must be `json` or `messagepack`.")]
    UnknownProtocol,
    /// A version that this server does not have.
    #[error("The server supports version 1 of the protocol only.")]
    UnknownVersion,
}

/// The most bytes that a handshake may have.
pub const MAX_BYTES: usize = 4096;

/// Takes the handshake request, without its separator.
///
/// # Errors
/// What to answer when it is not acceptable.
pub fn parse(record: &[u8]) -> Result<Format, HandshakeError> {
    #[derive(Deserialize)]
    struct Request<'a> {
        #[serde(borrow)]
        protocol: Cow<'a, str>,
        version: i64,
    }
    // A derived reader takes an array of the fields, too.
    if !record.trim_ascii_start().starts_with(b"{") {
        return Err(HandshakeError::Malformed);
    }
    let request: Request<'_> = serde_json::from_slice(record).map_err(|_| HandshakeError::Malformed)?;
    let format = match &*request.protocol {
        "json" => Format::Json,
        "messagepack" => Format::MessagePack,
        _ => return Err(HandshakeError::UnknownProtocol),
    };
    if request.version == 1 { Ok(format) } else { Err(HandshakeError::UnknownVersion) }
}

/// The answer: an empty object, or the error. Always JSON, whatever was asked for.
pub fn response(error: Option<&HandshakeError>) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    match error {
        None => out.extend_from_slice(b"{}"),
        Some(error) => {
            out.extend_from_slice(br#"{"error":"#);
            write_json(&error.to_string(), &mut out);
            out.push(b'}');
        }
    }
    out.push(RECORD_SEPARATOR);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_1_of_the_two_encodings() {
        assert_eq!(parse(br#"{"protocol":"json","version":1}"#), Ok(Format::Json));
        assert_eq!(parse(br#"{"protocol":"messagepack","version":1,"more":[]}"#), Ok(Format::MessagePack));
        assert_eq!(parse(br#"{"protocol":"json","version":2}"#), Err(HandshakeError::UnknownVersion));
        assert_eq!(parse(br#"{"protocol":"xml","version":1}"#), Err(HandshakeError::UnknownProtocol));
        for wrong in [
            "",
            "{}",
            "[]",
            "nonsense",
            r#"{"type":6}"#,
            r#"["json",1]"#,
            r#"{"protocol":"json"}"#,
            r#"{"protocol":1,"version":1}"#,
        ] {
            assert_eq!(parse(wrong.as_bytes()), Err(HandshakeError::Malformed), "{wrong}");
        }
    }
}
