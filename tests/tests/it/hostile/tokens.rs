//! Tokens that prove nothing.

use super::Baseline;
use chatify_tests::http::Http;
use chatify_tests::hub::{Hub, HubError, HubOptions};
use chatify_tests::raw::Raw;
use chatify_tests::seeds::unix_seconds;
use chatify_tests::server::{Options, Server};
use chatify_tests::tokens::{claims, signed, with_claim};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

const KEY: &str = "a shared secret that only this test and its server know";
const OTHER_KEY: &str = "a shared secret that somebody else has thought of today";
/// A public key, which everybody may have.
const PUBLIC_KEY: &str = include_str!("public_key.pem");

/// The table: name and token. None of them is good.
pub(super) fn cases() -> Vec<(&'static str, String)> {
    let good = || claims("chatify", "chatify", "alice");
    let sign = |claims: &Value| signed(claims, Algorithm::HS256, KEY.as_bytes());
    let change = |name: &str, value: Value| sign(&with_claim(good(), name, value));
    let now = unix_seconds();
    let token = sign(&good());
    let (head, signature) = token.rsplit_once('.').expect("three parts");
    let (_, payload) = head.split_once('.').expect("three parts");
    vec![
        ("empty", String::new()),
        ("garbage", "garbage".into()),
        ("two dots", "..".into()),
        ("noise in three parts", "bm9pc2U.bm9pc2U.bm9pc2U".into()),
        ("four parts", format!("{token}.{signature}")),
        ("no signature", format!("{head}.")),
        ("half a signature", format!("{head}.{}", &signature[..20])),
        (
            "another payload",
            format!("{}.{}.{signature}", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", payload.to_uppercase()),
        ),
        ("algorithm none", format!("eyJhbGciOiJub25lIn0.{payload}.")),
        ("algorithm None", format!("eyJhbGciOiJOb25lIn0.{payload}.")),
        ("algorithm none with a signature", format!("eyJhbGciOiJub25lIn0.{payload}.{signature}")),
        ("no algorithm", format!("eyJ0eXAiOiJKV1QifQ.{payload}.{signature}")),
        ("another algorithm of the same key", signed(&good(), Algorithm::HS512, KEY.as_bytes())),
        ("another key", signed(&good(), Algorithm::HS256, OTHER_KEY.as_bytes())),
        ("an empty key", signed(&good(), Algorithm::HS256, b"")),
        ("another issuer", change("iss", json!("somebody"))),
        ("no issuer", change("iss", Value::Null)),
        ("another audience", change("aud", json!("somebody"))),
        ("no audience", change("aud", Value::Null)),
        ("expired a minute ago", change("exp", json!(now - 60))),
        ("expired in 1970", change("exp", json!(0))),
        ("expires at a negative time", change("exp", json!(-1))),
        ("no end", change("exp", Value::Null)),
        ("an end that is a text", change("exp", json!("tomorrow"))),
        ("valid in an hour", change("nbf", json!(now + 3_600))),
        ("a beginning that is a text", change("nbf", json!("yesterday"))),
        ("no subject", change("sub", Value::Null)),
        ("an empty subject", change("sub", json!(""))),
        ("a blank subject", change("sub", json!(" \t "))),
        ("a subject of 300 characters", change("sub", json!("x".repeat(300)))),
        ("a subject with a new line", change("sub", json!("alice\nbob"))),
        ("a subject that is a number", change("sub", json!(7))),
        ("a subject that is a list", change("sub", json!(["alice"]))),
        ("more than 4 KiB", change("padding", json!("x".repeat(4_096)))),
        ("claims that are no object", sign(&json!(["alice"]))),
    ]
}

#[tokio::test]
async fn tokens_that_prove_nothing_open_nothing() {
    // With a header that is large enough, it is the token's own length that is refused.
    let options =
        Options::new().with("AUTH__KEY", KEY).with("AUTH__LEEWAY", "0s").with("SERVER__MAX_HEADER_BYTES", "64KiB");
    let server = Server::start(options).await;
    server.ready().await;
    let good = signed(&claims("chatify", "chatify", "alice"), Algorithm::HS256, KEY.as_bytes());
    let http = Http::new(server.address(), Some(good.clone()));
    assert_eq!(http.get("/api/users/alice/presence").await.status, 200, "the key is the server's");
    for (name, token) in cases() {
        let http = Http::new(server.address(), Some(token.clone()));
        for path in ["/api/scopes/Channel/a/messages", "/api/users/alice/presence", "/api/scopes/Channel/a/events"] {
            let answer = http.get(path).await;
            assert_eq!((answer.status, answer.problem().as_str()), (401, "UNAUTHENTICATED"), "{name}: {path}");
        }
        let sent = http.post("/api/scopes/Channel/a/messages", &json!({"text": "let me in"})).await;
        assert_eq!(sent.status, 401, "{name}");
        for token_in_query in [false, true] {
            let options = HubOptions { token_in_query, ..HubOptions::default() };
            let refused = Hub::connect(server.address(), &token, options).await.expect_err(name);
            assert!(matches!(refused, HubError::Refused(401, _)), "{name}: {refused}");
        }
    }
    assert!(http.history_forward("Channel/a", 10).await.is_empty(), "nothing was sent");
    server.stop().await;
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret() {
    let options = Options::new().with("AUTH__ALGORITHM", "RS256").with("AUTH__KEY", PUBLIC_KEY);
    let server = Server::start(options).await;
    server.ready().await;
    for secret in [PUBLIC_KEY, PUBLIC_KEY.trim()] {
        let token = signed(&claims("chatify", "chatify", "alice"), Algorithm::HS256, secret.as_bytes());
        let answer = Http::new(server.address(), Some(token)).get("/api/users/alice/presence").await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, "UNAUTHENTICATED"));
    }
    server.stop().await;
}

#[tokio::test]
async fn only_one_bearer_header_opens_anything() {
    let server = Server::start(Options::new()).await;
    let baseline = Baseline::take(&server).await;
    let token = server.token("mallory").await;
    let cases = [
        (String::new(), 401),
        (format!("Authorization: Bearer {token}\r\n"), 200),
        (format!("authorization: bearer {token}\r\n"), 200),
        (format!("Authorization: Basic {token}\r\n"), 401),
        (format!("Authorization: {token}\r\n"), 401),
        ("Authorization: Bearer\r\n".to_owned(), 401),
        (format!("Authorization: Bearer {token}, Bearer {token}\r\n"), 401),
        (format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n"), 401),
        (format!("Cookie: access_token={token}\r\n"), 401),
        (format!("X-Forwarded-User: alice\r\nX-Original-URL: /?access_token={token}\r\n"), 401),
    ];
    for (headers, status) in cases {
        let mut raw = Raw::connect(server.address()).await;
        raw.write(format!("GET /api/users/bob/presence HTTP/1.1\r\nHost: test\r\n{headers}\r\n").as_bytes()).await;
        assert_eq!(raw.answer().await.expect("an answer").status, status, "{headers}");
    }
    baseline.check(server).await;
}
