//! The server's half of the WebSocket opening handshake (RFC 6455, section 4.2).

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tungstenite::handshake::derive_accept_key;

/// Why a request is no opening handshake, in words for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// Not asking for a WebSocket.
    #[error("this path wants a WebSocket: a GET with `Connection: Upgrade` and `Upgrade: websocket`")]
    NotAWebSocket,
    /// Another version than 13.
    #[error("the WebSocket version must be 13")]
    Version,
    /// No key, or not the base64 form of 16 bytes.
    #[error("`Sec-WebSocket-Key` must be 16 bytes in base64")]
    Key,
}

/// Accepts the handshake: the response to give, and the future of the socket.
///
/// # Errors
/// When the request is no handshake of version 13.
pub fn accept<B>(request: &mut Request<B>) -> Result<(Response<axum::body::Body>, OnUpgrade), UpgradeError> {
    let headers = request.headers();
    let asks = request.method() == Method::GET
        && has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, "websocket");
    if !asks {
        return Err(UpgradeError::NotAWebSocket);
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(UpgradeError::Version);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key.as_bytes())).ok_or(UpgradeError::Key)?;
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
        .body(axum::body::Body::empty())
        .expect("every part of it is valid");
    let upgraded = request.extensions_mut().remove::<OnUpgrade>().ok_or(UpgradeError::NotAWebSocket)?;
    Ok((response, upgraded))
}

/// Waits for the response to be sent and takes the socket out of the HTTP stack, with what was read from it already. `None` when the client is gone.
pub async fn take_socket(upgraded: OnUpgrade) -> Option<(TcpStream, Bytes)> {
    let parts = upgraded.await.ok()?.downcast::<TokioIo<TcpStream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

/// 16 bytes in base64 are 22 characters of its alphabet and two of padding.
fn is_key(key: &[u8]) -> bool {
    key.len() == 24
        && key.ends_with(b"==")
        && key[..22].iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/hubs/chat");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    #[test]
    fn what_is_no_handshake_is_named() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let (connection, upgrade, version) =
            (("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), ("sec-websocket-version", "13"));
        let error = |headers: &[(&str, &str)]| accept(&mut request(headers)).err();
        assert_eq!(error(&[upgrade, version, key]), Some(UpgradeError::NotAWebSocket));
        assert_eq!(error(&[connection, version, key]), Some(UpgradeError::NotAWebSocket));
        assert_eq!(error(&[connection, upgrade, key]), Some(UpgradeError::Version));
        assert_eq!(error(&[connection, upgrade, ("sec-websocket-version", "8"), key]), Some(UpgradeError::Version));
        assert_eq!(error(&[connection, upgrade, version]), Some(UpgradeError::Key));
        assert_eq!(error(&[connection, upgrade, version, ("sec-websocket-key", "short")]), Some(UpgradeError::Key));
        // Everything is right but the transport, which gives no socket in this test.
        assert_eq!(error(&[connection, upgrade, version, key]), Some(UpgradeError::NotAWebSocket));
    }
}
