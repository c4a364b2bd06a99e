//! Pages of other origins, which browsers name truthfully.

use super::{Baseline, Raw};
use chatify_tests::server::{Options, Server};

const CONFIGURED: &str = "https://chat.example.org,http://localhost:3000";

/// The table: the `Origin` headers of a request, and whether its page may connect. The server's own host is `test`.
pub(super) fn cases() -> Vec<(&'static [&'static str], bool)> {
    vec![
        (&[], true),
        (&["https://chat.example.org"], true),
        (&["http://localhost:3000"], true),
        (&["http://test"], true),
        (&["https://test"], true),
        (&["null"], false),
        (&[""], false),
        (&["https://example.org"], false),
        (&["http://chat.example.org"], false),
        (&["https://chat.example.org:8443"], false),
        (&["https://chat.example.org."], false),
        (&["https://chat.example.org/"], false),
        (&["https://chat.example.org.evil.test"], false),
        (&["https://evil-chat.example.org"], false),
        (&["https://sub.chat.example.org"], false),
        (&["https://chat.example.org@evil.test"], false),
        (&["https://evil.test/https://chat.example.org"], false),
        (&["https://evil.test https://chat.example.org"], false),
        (&["https://xn--cht-5na.example.org"], false),
        (&["https://ch\u{e4}t.example.org"], false),
        (&["http://localhost:3001"], false),
        (&["http://localhost"], false),
        (&["http://127.0.0.1:3000"], false),
        (&["wss://chat.example.org"], false),
        (&["file://"], false),
        (&["chat.example.org"], false),
        (&["http://test.evil.test"], false),
        (&["http://test:80"], false),
        (&["https://evil.test", "https://chat.example.org"], false),
        (&["https://chat.example.org", "https://evil.test"], false),
    ]
}

#[tokio::test]
async fn pages_of_other_origins_may_not_connect() {
    let server = Server::start(Options::new().with("SERVER__ORIGINS", CONFIGURED)).await;
    let baseline = Baseline::take(&server).await;
    let authorization = format!("Bearer {}", server.token("mallory").await);
    for (origins, allowed) in cases() {
        let mut headers = vec![("Authorization", authorization.as_str())];
        headers.extend(origins.iter().map(|origin| ("Origin", *origin)));
        let mut raw = Raw::connect(server.address()).await;
        let answer = raw.upgrade("/hubs/chat", &headers).await.expect("an answer");
        if allowed {
            assert_eq!(answer.status, 101, "{origins:?}: {}", answer.text());
        } else {
            assert_eq!(answer.status, 403, "{origins:?}");
            assert_eq!(answer.problem(), "FORBIDDEN", "{origins:?}");
        }
    }
    baseline.check(server).await;
}
