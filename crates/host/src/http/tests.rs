//! The router as a whole, over the embedded adapters in a directory of its own.

use super::admission::Admission;
use super::*;
use crate::auth::key::Key;
use crate::auth::{self, Authenticator};
use crate::config::{Config, TextList};
use crate::lifecycle::Draining;
use crate::metrics::Metrics;
use crate::realtime::Hub;
use axum::body::Body;
use chatify_application::{Application, LoopState, Options, Ports};
use chatify_building_blocks::clock::{Clock, SystemClock};
use chatify_building_blocks::random::{Random, SystemRandom};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::SenderId;
use chatify_infrastructure::embedded::{self, EmbeddedPresence, EmbeddedRateLimiter, EmbeddedStore, RateLimit};
use http::{HeaderMap, Request, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tower::ServiceExt as _;

const GENERAL: &str = "/api/scopes/Channel/general/messages";

struct Server {
    router: Router,
    config: Config,
    key: Key,
    draining: Draining,
    clock: Arc<dyn Clock>,
    supervisor: Supervisor,
    store: EmbeddedStore,
    _directory: tempfile::TempDir,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.body);
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["correlationId"], self.header("x-correlation-id"));
        assert!(!problem["detail"].as_str().expect("a text").is_empty());
        problem["code"].as_str().expect("a text").to_owned()
    }
}

impl Server {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = Config::defaults().expect("valid");
        config.server.data_dir = directory.path().join("data");
        change(&mut config);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let supervisor = Supervisor::new();
        let key = Key::load(&config, &*random).expect("a key");
        // The disk may be busy.
        let patience = Duration::from_secs(60);
        let options = embedded::Options {
            reserved_bytes: 0,
            deadline: patience,
            ..embedded::Options::new(&config.server.data_dir)
        };
        let store = EmbeddedStore::open(&options, clock.clone(), &supervisor).expect("opens");
        let burst = NonZeroU32::new(config.limits.send_messages).expect("at least one");
        let limit = RateLimit { burst, window: config.limits.send_window };
        let metrics = Metrics::new().expect("good buckets");
        let ports = Ports {
            appender: store.appender(),
            tail: store.tail(),
            group: store.group(),
            history: store.history(),
            presence: Arc::new(EmbeddedPresence::new(clock.clone())),
            limiter: EmbeddedRateLimiter::start(limit, clock.clone(), &supervisor),
            clock: clock.clone(),
            random: random.clone(),
            observer: Arc::new(metrics.clone()),
        };
        let options = Options { send_timeout: patience, ..Options::new(config.pod_id()) };
        let application = Application::new(ports, options);
        let hub = Hub::start(1, &supervisor, clock.clone(), metrics.clone());
        application.start(&supervisor, hub.clone());
        let draining = Draining::default();
        let state = AppState {
            application: application.clone(),
            authenticator: Authenticator::new(&config, &key, clock.clone()).expect("a good key"),
            admission: Admission::new(config.limits.connections, config.limits.connections_per_user),
            config: Arc::new(config.clone()),
            metrics,
            clock: clock.clone(),
            random,
            dependencies: crate::dependencies::Dependencies::none(),
            draining: draining.clone(),
            hub,
            supervisor: supervisor.clone(),
        };
        let broken = Router::new().route("/broken", get(panics)).route("/slow", get(never));
        let router = router(state, broken);
        let live = async {
            while application.status().fan_out != LoopState::Live || application.status().projection != LoopState::Live
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), live).await.expect("the loops become live");
        Self { router, config, key, draining, clock, supervisor, store, _directory: directory }
    }

    fn token(&self, user: &str) -> String {
        let user = SenderId::parse(user).expect("an id");
        auth::issue(&self.config, &self.key, &user, Duration::from_secs(60), &*self.clock).expect("issued")
    }

    async fn ask(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("the router never fails");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let body = String::from_utf8(body.to_vec()).expect("UTF-8");
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn get(&self, user: &str, path: &str) -> Answer {
        let request = Request::get(path).header(header::AUTHORIZATION, format!("Bearer {}", self.token(user)));
        self.ask(request.body(Body::empty()).expect("a request")).await
    }

    async fn get_anonymously(&self, path: &str) -> Answer {
        self.ask(Request::get(path).body(Body::empty()).expect("a request")).await
    }

    async fn post(&self, user: &str, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::post(path)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token(user)))
            .header(header::CONTENT_TYPE, "application/json");
        self.ask(request.body(body.into()).expect("a request")).await
    }

    async fn say(&self, user: &str, path: &str, text: &str) -> Value {
        let answer = self.post(user, path, json!({ "text": text }).to_string()).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        self.readable(user, answer.header("location")).await;
        answer.json()
    }

    /// The pod takes a message into its memory a moment after the log has it.
    async fn readable(&self, user: &str, location: &str) {
        let there = async {
            while self.get(user, location).await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), there).await.expect("what was sent can be read");
    }

    async fn stop(self) {
        self.supervisor.cancel();
        self.supervisor.join().await.expect("no task crashed");
        self.store.close();
    }
}

async fn panics() -> Response {
    panic!("on purpose");
}

async fn never() -> Response {
    std::future::pending().await
}

fn texts(page: &Value) -> Vec<&str> {
    page["items"].as_array().expect("items").iter().map(|item| item["text"].as_str().expect("a text")).collect()
}

#[tokio::test]
async fn what_is_sent_is_answered_and_read_back() {
    let server = Server::start().await;
    let id = "019A9F5E-3C07-7C4E-9D6B-0F6A3A2D9A11";
    let body = json!({"text": "hello 👋", "messageId": id}).to_string();
    let sent = server.post("alice", GENERAL, body.clone()).await;
    assert_eq!(sent.status, 201, "{}", sent.body);
    assert_eq!(sent.header("location"), format!("{GENERAL}/{}", id.to_lowercase()));
    assert_eq!(sent.header("cache-control"), "no-store");
    let result = sent.json();
    let event = &result["chatEvent"];
    let keys: Vec<&str> = event.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut expected = [
        "messageId",
        "scopeType",
        "scopeId",
        "senderId",
        "text",
        "createdAtUtc",
        "originPodId",
        "partition",
        "offset",
        "position",
    ];
    expected.sort_unstable();
    assert_eq!(keys, expected, "serde_json sorts the keys of a value");
    assert_eq!(
        (&event["senderId"], &event["text"], &event["scopeType"]),
        (&json!("alice"), &json!("hello 👋"), &json!("Channel"))
    );
    assert_eq!((&result["position"], &result["offset"]), (&event["position"], &event["offset"]));
    let created = event["createdAtUtc"].as_str().expect("a text");
    assert!(created.len() == 24 && created.ends_with('Z') && created.as_bytes()[19] == b'.', "{created}");

    let again = server.post("alice", GENERAL, body).await;
    assert_eq!(
        (again.status, &again.json()["position"]),
        (201, &result["position"]),
        "a repeat has the first one's place"
    );
    let other = server.post("alice", GENERAL, json!({"text": "else", "messageId": id}).to_string()).await;
    assert_eq!((other.status, other.code().as_str()), (409, "CONFLICT"));

    server.readable("bob", sent.header("location")).await;
    let one = server.get("bob", sent.header("location")).await;
    assert_eq!((one.status, &one.json()), (200, event));
    let page = server.get("bob", GENERAL).await;
    assert_eq!(page.json()["items"], json!([event]));
    assert_eq!(
        (&page.json()["oldestReached"], &page.json()["newestReached"], &page.json()["complete"]),
        (&json!(true), &json!(true), &json!(true))
    );
    server.stop().await;
}

#[tokio::test]
async fn pages_go_both_ways_and_filter() {
    let server = Server::start().await;
    let mut positions = Vec::new();
    for number in 0..10 {
        let user = if number % 2 == 0 { "alice" } else { "bob" };
        positions.push(server.say(user, GENERAL, &number.to_string()).await["position"].as_i64().expect("a position"));
    }
    let page = async |query: String| server.get("carol", &format!("{GENERAL}?{query}")).await.json();
    assert_eq!(texts(&page("limit=3".into()).await), ["7", "8", "9"]);
    assert_eq!(texts(&page(format!("before={}&limit=3", positions[3])).await), ["0", "1", "2"]);
    assert_eq!(texts(&page(format!("after={}&limit=2", positions[3])).await), ["4", "5"]);
    assert_eq!(texts(&page("after=0&limit=2".into()).await), ["0", "1"]);
    assert!(texts(&page(format!("around={}&limit=4", positions[5])).await).contains(&"5"));
    assert_eq!(texts(&page("sender=bob".into()).await), ["1", "3", "5", "7", "9"]);
    assert!(texts(&page("to=2020-01-01T00:00:00Z".into()).await).is_empty());
    assert_eq!(texts(&page("from=2020-01-01T00:00:00%2B01:00&limit=1".into()).await), ["0"]);
    server.stop().await;
}

#[tokio::test]
async fn scope_ids_are_decoded_once() {
    let server = Server::start().await;
    for (segment, id) in [("a%2Fb%3Fc", "a/b?c"), ("%C3%A4%20%2B", "ä +"), ("a+b", "a+b"), ("%2525", "%25")] {
        let path = format!("/api/scopes/Channel/{segment}/messages");
        assert_eq!(server.say("alice", &path, "x").await["chatEvent"]["scopeId"], id);
        let sent = server.post("alice", &path, r#"{"text":"y"}"#).await;
        server.readable("alice", sent.header("location")).await;
    }
    let direct = "/api/scopes/DirectMessage/alice%2540x.org%2Bbob/messages";
    assert_eq!(server.say("alice@x.org", direct, "psst").await["chatEvent"]["scopeId"], "alice%40x.org+bob");
    assert_eq!(texts(&server.get("bob", direct).await.json()), ["psst"]);
    for denied in [server.get("alice", direct).await, server.post("carol", direct, r#"{"text":"x"}"#).await] {
        assert_eq!((denied.status, denied.code().as_str()), (403, "FORBIDDEN"));
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_valid_is_named() {
    let server = Server::start().await;
    let cases = [
        ("/api/scopes/channel/general/messages", "scopeType"),
        ("/api/scopes/Channel/%20/messages", "scopeId"),
        ("/api/scopes/Channel//messages", "scopeId"),
        ("/api/scopes/Channel/%0A/messages", "scopeId"),
        ("/api/scopes/DirectMessage/bob%2Balice/messages", "scopeId"),
        ("/api/scopes/Channel/general/messages?limit=0", "limit"),
        ("/api/scopes/Channel/general/messages?limit=501", "limit"),
        ("/api/scopes/Channel/general/messages?limit=ten", "limit"),
        ("/api/scopes/Channel/general/messages?limit=", "limit"),
        ("/api/scopes/Channel/general/messages?limit=1&limit=2", "limit"),
        ("/api/scopes/Channel/general/messages?before=-1", "before"),
        ("/api/scopes/Channel/general/messages?after=9007199254740992", "after"),
        ("/api/scopes/Channel/general/messages?around=1e3", "around"),
        ("/api/scopes/Channel/general/messages?before=1&after=2", "after"),
        ("/api/scopes/Channel/general/messages?from=yesterday", "from"),
        ("/api/scopes/Channel/general/messages?to=2026-13-01T00:00:00Z", "to"),
        ("/api/scopes/Channel/general/messages?from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z", "to"),
        ("/api/scopes/Channel/general/messages?sender=%20", "sender"),
        ("/api/scopes/Channel/general/messages?Limit=1", "Limit"),
        ("/api/scopes/Channel/general/messages?access_token=x", "access_token"),
        ("/api/scopes/Channel/general/messages/nope", "messageId"),
        ("/api/users/%09/presence", "userId"),
        ("/api/users/alice/presence?verbose", "verbose"),
    ];
    for (path, field) in cases {
        let answer = server.get("alice", path).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "VALIDATION_ERROR"), "{path}");
        let problem = answer.json();
        assert_eq!(problem["errors"][0]["field"], field, "{path}: {problem}");
        assert_eq!(problem["instance"], path.split('?').next().expect("a path"));
    }
    for path in ["/api/scopes/Channel/%ff/messages", "/api/users/%c3%28/presence"] {
        assert_eq!(server.get("alice", path).await.code(), "VALIDATION_ERROR", "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn bodies_that_cannot_be_read() {
    let server = Server::start().await;
    let long = json!({"text": "ä".repeat(4097)}).to_string();
    let deep = format!("{{\"text\":{}{}}}", "[".repeat(30_000), "]".repeat(30_000));
    let invalid = [
        "",
        "{",
        "null",
        "[]",
        "\"x\"",
        "{}",
        r#"{"text":null}"#,
        r#"{"text":1}"#,
        r#"{"text":"a","text":"b"}"#,
        r#"{"text":"a","more":1}"#,
        r#"{"text":"\ud800"}"#,
        r#"{"text":"a","messageId":"nope"}"#,
        r#"{"text":"a","messageId":7}"#,
        r#"{"text":"a"} x"#,
        &long,
        &deep,
    ];
    for body in invalid {
        let answer = server.post("alice", GENERAL, body.to_owned()).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "VALIDATION_ERROR"), "{:.60}", body);
    }
    let answer = server.post("alice", GENERAL, vec![b'"', 0xff, b'"']).await;
    assert_eq!(answer.status, 400, "a body that is not UTF-8");
    let answer = server.post("alice", GENERAL, " ".repeat(65_537)).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "PAYLOAD_TOO_LARGE"));
    for kind in [None, Some("text/plain"), Some("application/jsonx"), Some("")] {
        let mut request =
            Request::post(GENERAL).header(header::AUTHORIZATION, format!("Bearer {}", server.token("alice")));
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let answer = server.ask(request.body(Body::from(r#"{"text":"a"}"#)).expect("a request")).await;
        assert_eq!((answer.status, answer.code().as_str()), (415, "UNSUPPORTED_MEDIA_TYPE"), "{kind:?}");
    }
    let sent = server.post("alice", GENERAL, r#"{"text":"","messageId":null}"#).await;
    assert_eq!(sent.status, 201, "an empty text is a text: {}", sent.body);
    server.stop().await;
}

#[tokio::test]
async fn nobody_comes_in_without_a_token() {
    let server = Server::start().await;
    let paths = [
        GENERAL,
        "/api/scopes/Channel/general/messages/nope",
        "/api/users/alice/presence",
        "/api/scopes/Channel/general/events",
    ];
    let token = server.token("alice");
    for path in paths {
        let wrong = ["", "Bearer", "Bearer x", "Bearer a.b.c", &format!("Basic {token}"), &format!("Bearer {token}x")]
            .map(String::from);
        for authorization in wrong {
            let request = Request::get(path).header(header::AUTHORIZATION, &authorization);
            let answer = server.ask(request.body(Body::empty()).expect("a request")).await;
            assert_eq!((answer.status, answer.code().as_str()), (401, "UNAUTHENTICATED"), "{path} {authorization}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
            assert!(!answer.body.contains(&token));
        }
        assert_eq!(server.get_anonymously(path).await.status, 401, "{path}");
    }
    let in_query = server.get_anonymously(&format!("{GENERAL}?access_token={token}")).await;
    assert_eq!(in_query.status, 401, "only the hub and the event stream take a token from the query");
    server.stop().await;
}

#[tokio::test]
async fn every_answer_has_its_headers_and_name() {
    let server = Server::start().await;
    let given = "corr_019a9f5e-3c07-7c4e-9d6b-0f6a3a2d9a11";
    for (sent, kept) in [(given, true), ("corr_x", false), ("anything", false)] {
        let request =
            Request::get("/health/live").header("x-correlation-id", sent).body(Body::empty()).expect("a request");
        let answer = server.ask(request).await;
        let answered = answer.header("x-correlation-id");
        assert_eq!((answered == sent, answered.starts_with("corr_"), answered.len()), (kept, true, 41), "{sent}");
    }
    let traced =
        Request::get("/health/live").header("traceparent", "00-019a9f5e3c077c4e9d6b0f6a3a2d9a11-00f067aa0ba902b7-01");
    let answer = server.ask(traced.body(Body::empty()).expect("a request")).await;
    assert_eq!(answer.header("x-correlation-id"), given, "the trace names the request");
    for path in ["/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs", "/", GENERAL, "/nothing"] {
        let answer = server.get_anonymously(path).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
        assert!(!answer.header("cache-control").is_empty(), "{path}");
        assert!(!answer.header("x-correlation-id").is_empty(), "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there() {
    let server = Server::start().await;
    let ask = async |method: &str, path: &str| {
        server.ask(Request::builder().method(method).uri(path).body(Body::empty()).expect("a request")).await
    };
    for path in ["/nothing", "/api", "/api/scopes/Channel/general", "/health", "/playground/x.js", "//"] {
        assert_eq!(ask("GET", path).await.code(), "NOT_FOUND", "{path}");
    }
    for (method, path, allow) in
        [("DELETE", GENERAL, "POST,GET,HEAD"), ("POST", "/health/live", "GET,HEAD"), ("BREW", "/docs", "GET,HEAD")]
    {
        let answer = ask(method, path).await;
        assert_eq!((answer.status, answer.code().as_str()), (405, "METHOD_NOT_ALLOWED"), "{method} {path}");
        let (mut got, mut expected): (Vec<_>, Vec<_>) =
            (answer.header("allow").split(',').collect(), allow.split(',').collect());
        got.sort_unstable();
        expected.sort_unstable();
        assert_eq!(got, expected, "{method} {path}");
    }
    let head = ask("HEAD", "/health/live").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let options = ask("OPTIONS", "/health/live").await;
    assert_eq!((options.status, options.body.as_str(), options.header("allow").is_empty()), (204, "", false));
    server.stop().await;
}

#[tokio::test]
async fn a_panic_or_a_slow_answer_ends_one_request() {
    let server = Server::with(|config| config.server.request_timeout = Duration::from_millis(50)).await;
    let broken = server.get_anonymously("/broken").await;
    assert_eq!((broken.status, broken.code().as_str()), (500, "INTERNAL"));
    assert!(!broken.body.contains("on purpose"));
    let slow = server.get_anonymously("/slow").await;
    assert_eq!((slow.status, slow.code().as_str(), slow.header("retry-after")), (504, "TIMEOUT", "1"));
    assert_eq!(server.get_anonymously("/health/live").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn too_many_sends_are_told_when_to_come_back() {
    let server = Server::with(|config| config.limits.send_messages = 2).await;
    server.say("alice", GENERAL, "1").await;
    server.say("alice", GENERAL, "2").await;
    let refused = server.post("alice", GENERAL, r#"{"text":"3"}"#).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "RATE_LIMIT_EXCEEDED"));
    let wait: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=30).contains(&wait), "{wait}");
    server.say("bob", GENERAL, "others go on").await;
    server.stop().await;
}

#[tokio::test]
async fn one_user_cannot_take_every_connection() {
    let server = Server::with(|config| config.limits.connections_per_user = Some(1)).await;
    let open = async |user: &str| {
        let path = format!("/api/scopes/Channel/general/events?access_token={}", server.token(user));
        let request = Request::get(path).body(Body::empty()).expect("a request");
        server.router.clone().oneshot(request).await.expect("the router never fails")
    };
    let first = open("alice").await;
    assert_eq!(
        (first.status().as_u16(), first.headers()[header::CACHE_CONTROL].to_str().ok()),
        (200, Some("no-store"))
    );
    let second = open("alice").await;
    assert_eq!((second.status().as_u16(), second.headers()[header::RETRY_AFTER].to_str().ok()), (429, Some("5")));
    assert_eq!(open("bob").await.status().as_u16(), 200);
    drop(first);
    assert_eq!(open("alice").await.status().as_u16(), 200, "a closed stream gives its place back");
    server.stop().await;
}

#[tokio::test]
async fn pages_of_configured_origins_may_read_answers() {
    let server = Server::with(|config| config.server.origins = TextList(vec!["https://chat.example.org".into()])).await;
    let ask = async |method: &str, origin: &str| {
        let request = Request::builder().method(method).uri(GENERAL).header(header::ORIGIN, origin);
        let request = request.header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST");
        server.ask(request.body(Body::empty()).expect("a request")).await
    };
    let preflight = ask("OPTIONS", "https://chat.example.org").await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, "https://chat.example.org"));
    assert!(preflight.header("access-control-allow-headers").contains("authorization"));
    assert_eq!(preflight.header("access-control-allow-credentials"), "true");
    let refused = ask("GET", "https://chat.example.org").await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, "https://chat.example.org"));
    assert!(refused.header("access-control-expose-headers").contains("x-correlation-id"));
    let stranger = ask("OPTIONS", "https://evil.example.org").await;
    assert_eq!((stranger.header("access-control-allow-origin"), stranger.header("vary")), ("", "origin"));
    server.stop().await;
}

#[tokio::test]
async fn health_presence_and_metrics() {
    let server = Server::start().await;
    assert_eq!(server.get_anonymously("/health/live").await.json(), json!({"live": true}));
    let ready = server.get_anonymously("/health/ready").await;
    assert_eq!((ready.status, ready.json()), (200, json!({"ready": true, "reasons": [], "degraded": []})));
    assert_eq!(
        server.get("alice", "/api/users/b%C3%B6b/presence").await.json(),
        json!({"userId": "böb", "status": "offline"})
    );
    assert_eq!(server.post("alice", GENERAL, r#"{"text":"counted"}"#).await.status, 201);
    let missing = server.get("alice", &format!("{GENERAL}/019a9f5e-3c07-7c4e-9d6b-0f6a3a2d9a11")).await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "NOT_FOUND"));
    let metrics = server.get_anonymously("/metrics").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "chatify_messages_accepted_total 1",
        "chatify_ready 1",
        "chatify_messages_refused_total{reason=\"NOT_FOUND\"} 1",
    ] {
        assert!(metrics.body.lines().any(|there| there == line), "{line}\n{}", metrics.body);
    }
    assert!(
        metrics.body.contains("route=\"/api/scopes/{scopeType}/{scopeId}/messages\",status=\"201\""),
        "{}",
        metrics.body
    );
    server.draining.begin();
    let draining = server.get_anonymously("/health/ready").await;
    assert_eq!((draining.status, &draining.json()["reasons"]), (503, &json!(["draining"])));
    server.stop().await;
}

#[tokio::test]
async fn the_playground_can_be_switched_off() {
    let on = Server::start().await;
    let page = on.get_anonymously("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(
        page.header("content-security-policy").contains("script-src 'sha256-"),
        "{}",
        page.header("content-security-policy")
    );
    on.stop().await;
    let off = Server::with(|config| config.server.playground = Some(false)).await;
    assert_eq!(off.get_anonymously("/").await.code(), "NOT_FOUND");
    off.stop().await;
}

#[tokio::test]
async fn the_description_is_whole() {
    let server = Server::start().await;
    let answer = server.get_anonymously("/openapi.json").await;
    assert_eq!(answer.header("content-type"), "application/json");
    let description = answer.json();
    let paths = description["paths"].as_object().expect("paths");
    for path in
        [paths::MESSAGES, paths::MESSAGE, paths::EVENTS, paths::PRESENCE, paths::LIVE, paths::READY, paths::METRICS]
    {
        assert!(paths.contains_key(path), "{path}");
    }
    let mut references = Vec::new();
    collect_references(&description, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        assert!(description.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
    }
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().expect("operations") {
            let open = operation["tags"] == json!(["operations"]);
            assert_eq!(
                operation["security"].is_null(),
                open,
                "{method} {path}: a token is needed exactly outside of operations"
            );
            assert!(operation["summary"].is_string() && operation["operationId"].is_string(), "{method} {path}");
        }
    }
    server.stop().await;
}

/// The form of every value that has one, wherever it stands: clients are generated from it.
#[tokio::test]
async fn the_description_says_the_form_of_each_value() {
    let server = Server::start().await;
    let description = server.get_anonymously("/openapi.json").await.json();
    let mut values = Vec::new();
    collect_values(&description, &mut values);
    let mut seen = std::collections::BTreeMap::new();
    for (name, schema) in values {
        let expected = match name.as_str() {
            "scopeType" => json!(["Channel", "DirectMessage"]),
            "messageId" => json!("uuid"),
            "createdAtUtc" | "sinceUtc" | "from" | "to" => json!("date-time"),
            "position" | "offset" | "before" | "after" | "around" | "lowest" | "highest" | "Last-Event-ID" => {
                json!("int64")
            }
            "partition" | "status" if schema["type"] == "integer" => json!("int32"),
            _ => continue,
        };
        let schema = schema["$ref"].as_str().and_then(|path| description.pointer(&path[1..])).unwrap_or(&schema);
        let found = if name == "scopeType" { &schema["enum"] } else { &schema["format"] };
        assert_eq!(*found, expected, "`{name}`: {schema}");
        *seen.entry(name).or_insert(0) += 1;
    }
    assert!(seen.len() >= 14 && seen["scopeType"] >= 5 && seen["messageId"] >= 3, "{seen:?}");
    server.stop().await;
}

/// Every parameter and every property of the description, by name.
fn collect_values(value: &Value, values: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(object) => {
            if let (Some(name), Some(schema), Some(_)) = (object.get("name"), object.get("schema"), object.get("in")) {
                values.push((name.as_str().expect("a name").to_owned(), schema.clone()));
            }
            for (name, schema) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
                values.push((name.clone(), schema.clone()));
            }
            object.values().for_each(|inner| collect_values(inner, values));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_values(item, values)),
        _ => {}
    }
}

/// Whatever is switched on, no line may hold a token or what people wrote.
#[tokio::test]
async fn logs_hold_neither_tokens_nor_texts() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    // For the whole process: what other tests log at the same time is looked at too.
    subscriber.with_writer(lines.clone()).try_init().expect("no other test listens to the log");
    let server = Server::start().await;
    let token = server.token("alice");
    server.say("alice", GENERAL, "a very private text").await;
    let id = "019a9f5e-3c07-7c4e-9d6b-0f6a3a2d9a11";
    for text in ["a very private text", "another private text"] {
        server.post("alice", GENERAL, json!({"text": text, "messageId": id}).to_string()).await;
    }
    server.post("alice", GENERAL, r#"{"text":"a very private text""#).await;
    server.get_anonymously(&format!("{GENERAL}?access_token={token}")).await;
    server.get_anonymously(&format!("/nothing?access_token={token}")).await;
    server.get("alice", &format!("{GENERAL}?sender={token}")).await;
    server.get_anonymously("/broken").await;
    server.stop().await;
    let text = lines.text();
    assert!(
        text.contains("path=\"/api/scopes/Channel/general/messages\"") && text.contains("correlation=corr_"),
        "{text}"
    );
    for secret in [token.as_str(), "private text"] {
        assert!(!text.contains(secret), "a log line holds `{secret}`");
    }
}

/// Log lines in memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(String::from));
            fields.values().for_each(|field| collect_references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
