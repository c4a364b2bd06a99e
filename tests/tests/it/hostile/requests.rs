//! HTTP requests with wrong paths, queries, headers and bodies, byte by byte.

use super::Baseline;
use chatify_tests::http::Answer;
use chatify_tests::raw::Raw;
use chatify_tests::server::{Options, Server};
use chatify_tests::waiting::SOON;
use tokio::time::timeout;

/// What a request gets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected {
    /// This status, and a problem document with this code.
    Problem(u16, &'static str),
    /// This status.
    Status(u16),
    /// This status, or the end of the connection without an answer: it is not HTTP that any handler could answer.
    StatusOrEnd(u16),
}
use self::Expected::{Problem, Status, StatusOrEnd};

/// One request.
pub(super) struct Case {
    name: String,
    /// Its bytes; `{token}` stands for a good token.
    bytes: Vec<u8>,
    expected: Expected,
}

const INVALID: Expected = Problem(400, "VALIDATION_ERROR");
const NOT_FOUND: Expected = Problem(404, "NOT_FOUND");
const TOO_LARGE: Expected = Problem(413, "PAYLOAD_TOO_LARGE");
const NOT_JSON: Expected = Problem(415, "UNSUPPORTED_MEDIA_TYPE");
const MESSAGES: &str = "/api/scopes/Channel/hostile/messages";

/// The table.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = paths();
    cases.extend(queries());
    cases.extend(bodies());
    cases.extend(body_lengths());
    cases.extend(headers());
    cases.extend(no_http());
    cases
}

fn raw(name: &str, bytes: impl Into<Vec<u8>>, expected: Expected) -> Case {
    Case { name: name.into(), bytes: bytes.into(), expected }
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {{token}}\r\n{headers}\r\n{body}")
}

fn get(path: &str, expected: Expected) -> Case {
    raw(&format!("GET {}", &path[..path.len().min(80)]), request("GET", path, "", ""), expected)
}

fn post(name: &str, headers: &str, body: &str, expected: Expected) -> Case {
    let headers = format!("{headers}Content-Length: {}\r\n", body.len());
    raw(&format!("POST {name}"), request("POST", MESSAGES, &headers, body), expected)
}

fn post_json(name: &str, body: &str, expected: Expected) -> Case {
    post(name, "Content-Type: application/json\r\n", body, expected)
}

fn paths() -> Vec<Case> {
    let of = |kind: &str, id: &str| format!("/api/scopes/{kind}/{id}/messages");
    let channel = |id: &str| of("Channel", id);
    let message = |id: &str| format!("{MESSAGES}/{id}");
    vec![
        get("//", NOT_FOUND),
        get("/api", NOT_FOUND),
        get("/api/scopes", NOT_FOUND),
        get("/api//scopes/Channel/a/messages", NOT_FOUND),
        get("/api/scopes/Channel//messages", INVALID),
        get("/api/scopes/Channel/a/messages/", NOT_FOUND),
        get("/api/scopes/Channel/a/b/messages", NOT_FOUND),
        get("/api/scopes/../../etc/passwd", NOT_FOUND),
        get("/API/scopes/Channel/a/messages", NOT_FOUND),
        get("/hubs/chat/", NOT_FOUND),
        get("/health", NOT_FOUND),
        get(&of("channel", "a"), INVALID),
        get(&of("Room", "a"), INVALID),
        get(&of("%00", "a"), INVALID),
        get(&channel("%00"), INVALID),
        get(&channel("a%0d%0aX-Injected:%20yes"), INVALID),
        get(&channel("%20"), INVALID),
        get(&channel("%ff%fe"), INVALID),
        get(&channel(&"x".repeat(257)), INVALID),
        get(&channel(&"%F0%9F%91%8B".repeat(257)), INVALID),
        get(&channel(&"%F0%9F%91%8B".repeat(256)), Status(200)),
        get(&channel("..%2f..%2fetc%2fpasswd"), Status(200)),
        get(&channel("%zz"), Status(200)),
        get(&channel("a:b"), Status(200)),
        get(&of("DirectMessage", "mallory"), INVALID),
        get(&of("DirectMessage", "mallory+bob"), INVALID),
        get(&of("DirectMessage", "bob+bob"), INVALID),
        get(&of("DirectMessage", "alice+bob"), Problem(403, "FORBIDDEN")),
        get(&of("DirectMessage", "bob+mallory"), Status(200)),
        get(&message("1"), INVALID),
        get(&message("01890a5dac96774bbcceb302099a8057"), INVALID),
        get(&message("01890A5D-AC96-774B-BCCE-B302099A8057"), NOT_FOUND),
        get("/api/users/%20/presence", INVALID),
        get(&format!("/api/users/{}/presence", "x".repeat(257)), INVALID),
        get("/api/users/bob%00/presence", INVALID),
        get(&format!("/{}", "x".repeat(12_000)), NOT_FOUND),
        get(&format!("/{}", "x".repeat(40_000)), Status(431)),
        get("/hubs/chat", INVALID),
    ]
}

fn queries() -> Vec<Case> {
    let query = |query: &str, expected| get(&format!("{MESSAGES}?{query}"), expected);
    vec![
        query("limit=0", INVALID),
        query("limit=501", INVALID),
        query("limit=500", Status(200)),
        query("limit=-1", INVALID),
        query("limit=abc", INVALID),
        query("limit=", INVALID),
        query("limit=1.5", INVALID),
        query("limit=99999999999999999999", INVALID),
        query("limit=1&limit=2", INVALID),
        query("before=-1", INVALID),
        query("before=abc", INVALID),
        query("before=", INVALID),
        query("before=9007199254740992", INVALID),
        query("before=9007199254740991", Status(200)),
        query("before=9223372036854775808", INVALID),
        query("before=0x10", INVALID),
        query("before=1%00", INVALID),
        query("after=18446744073709551616", INVALID),
        query("after=0", Status(200)),
        query("before=1&after=1", INVALID),
        query("around=1&after=1", INVALID),
        query("around=1", Status(200)),
        query("from=yesterday", INVALID),
        query("from=2026-13-01T00:00:00Z", INVALID),
        query("from=2026-01-01", INVALID),
        query("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", INVALID),
        query("from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z", Status(200)),
        query("to=9999-12-30T00:00:00Z", Status(200)),
        query("sender=", INVALID),
        query("sender=%00", INVALID),
        query(&format!("sender={}", "x".repeat(257)), INVALID),
        query("sender=bob%27%20OR%201=1--", Status(200)),
        query("since=1", INVALID),
        query("Limit=1", INVALID),
        query("=", INVALID),
        query("&&&", Status(200)),
        query("%ff=%ff", INVALID),
        get("/api/users/bob/presence?full=1", INVALID),
        get("/api/scopes/Channel/a/events?after=-1", INVALID),
    ]
}

fn bodies() -> Vec<Case> {
    let deep = format!("{{\"text\":\"a\",\"more\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
    vec![
        post_json("a message", "{\"text\":\"hello\"}", Status(201)),
        post_json("nothing", "", INVALID),
        post_json("not JSON", "nonsense", INVALID),
        post_json("JSON that ends early", "{\"text\":\"hello\"", INVALID),
        post_json("JSON with more behind it", "{\"text\":\"hello\"}{}", INVALID),
        post_json("null", "null", INVALID),
        post_json("a number", "7", INVALID),
        post_json("a list of the fields", "[\"hello\",null]", INVALID),
        post_json("no text", "{}", INVALID),
        post_json("text is null", "{\"text\":null}", INVALID),
        post_json("text is a number", "{\"text\":7}", INVALID),
        post_json("text is a list", "{\"text\":[\"a\"]}", INVALID),
        post_json("4097 characters", &format!("{{\"text\":\"{}\"}}", "x".repeat(4097)), INVALID),
        post_json("4096 escaped characters", &format!("{{\"text\":\"{}\"}}", "\\u00e4".repeat(4096)), Status(201)),
        post_json("an unknown field", "{\"text\":\"a\",\"colour\":\"red\"}", INVALID),
        post_json("a sender of one's own choice", "{\"text\":\"a\",\"senderId\":\"bob\"}", INVALID),
        post_json("a field twice", "{\"text\":\"a\",\"text\":\"b\"}", INVALID),
        post_json("a message id that is no UUID", "{\"text\":\"a\",\"messageId\":\"1\"}", INVALID),
        post_json("a message id that is a number", "{\"text\":\"a\",\"messageId\":1}", INVALID),
        post_json("20,000 levels", &deep, INVALID),
        post_json("half a surrogate pair", "{\"text\":\"\\ud83d\"}", INVALID),
        post_json("a byte order mark", "\u{feff}{\"text\":\"a\"}", INVALID),
        post_json("NUL in the text", "{\"text\":\"a\\u0000b\"}", Status(201)),
        post("no content type", "", "{\"text\":\"a\"}", NOT_JSON),
        post("plain text", "Content-Type: text/plain\r\n", "{\"text\":\"a\"}", NOT_JSON),
        post("a form", "Content-Type: application/x-www-form-urlencoded\r\n", "text=a", NOT_JSON),
        post("nearly JSON", "Content-Type: application/jsonp\r\n", "{\"text\":\"a\"}", NOT_JSON),
        post(
            "JSON with a charset",
            "Content-Type: Application/JSON; charset=utf-8\r\n",
            "{\"text\":\"a\"}",
            Status(201),
        ),
    ]
}

fn body_lengths() -> Vec<Case> {
    const LIMIT: usize = 64 << 10;
    let json = "Content-Type: application/json\r\n";
    let padded = |length: usize| format!("{{\"text\":\"a\"}}{}", " ".repeat(length - 12));
    let chunk = format!("{:x}\r\n{}\r\n", 16 << 10, " ".repeat(16 << 10));
    let chunked = |chunks: &str| {
        let headers = format!("{json}Transfer-Encoding: chunked\r\n");
        request("POST", MESSAGES, &headers, chunks)
    };
    let with = |headers: &str, body: &str| request("POST", MESSAGES, &format!("{json}{headers}"), body);
    let not_utf8 = [with("Content-Length: 12\r\n", "{\"text\":\"").as_bytes(), &[0xff], b"\"}"].concat();
    vec![
        post_json("exactly the limit", &padded(LIMIT), Status(201)),
        post_json("one byte more than the limit", &padded(LIMIT + 1), TOO_LARGE),
        raw("announces 10 GB", with("Content-Length: 10000000000\r\n", "{"), TOO_LARGE),
        raw("chunks without an end", chunked(&chunk.repeat(8)), TOO_LARGE),
        raw("a good body in chunks", chunked("5\r\n{\"tex\r\n9\r\nt\":\"hi\" }\r\n0\r\n\r\n"), Status(201)),
        raw("a chunk whose length is no number", chunked("xyz\r\n{}\r\n0\r\n\r\n"), INVALID),
        raw("a chunk of 2^64 bytes", chunked("fffffffffffffffff\r\n{}\r\n"), INVALID),
        raw("a length that is no number", with("Content-Length: abc\r\n", "{}"), Status(400)),
        raw("a negative length", with("Content-Length: -1\r\n", "{}"), Status(400)),
        raw("two lengths", with("Content-Length: 2\r\nContent-Length: 3\r\n", "{}"), Status(400)),
        raw("an unknown transfer encoding", with("Transfer-Encoding: gzip\r\n", "{}"), Status(400)),
        raw("not UTF-8", not_utf8, INVALID),
        raw("a body on a GET", request("GET", MESSAGES, "Content-Length: 2\r\n", "{}"), Status(200)),
    ]
}

fn headers() -> Vec<Case> {
    let with = |name: &str, headers: &str, expected| raw(name, request("GET", MESSAGES, headers, ""), expected);
    let plain = |method: &str, headers: &str| format!("{method} {MESSAGES} HTTP/1.1\r\n{headers}\r\n");
    vec![
        with("1 MiB in a header", &format!("X-Large: {}\r\n", "x".repeat(1 << 20)), Status(431)),
        with("1 MiB in many headers", &"X-Many: xxxxxxxxxxxxxxxxxxxxxxxx\r\n".repeat(32_768), Status(431)),
        with("300 headers", &"X-Many: x\r\n".repeat(300), Status(431)),
        with("a header without a colon", "nonsense\r\n", Status(400)),
        with("a header without a name", ": value\r\n", Status(400)),
        with("a space in a header's name", "X Y: z\r\n", Status(400)),
        with("a folded header", "X-Folded: a\r\n b\r\n", Status(400)),
        with("a control character in a header", "X-Control: a\u{1}b\r\n", Status(400)),
        with("two tokens", "Authorization: Bearer {token}\r\n", Problem(401, "UNAUTHENTICATED")),
        with("a cursor in a stream's header that is none", "Last-Event-ID: abc\r\n", Status(200)),
        raw("a method that does not exist", plain("BREW", "Host: test\r\n"), Problem(405, "METHOD_NOT_ALLOWED")),
        raw("DELETE", plain("DELETE", "Host: test\r\n"), Problem(405, "METHOD_NOT_ALLOWED")),
        raw("TRACE", plain("TRACE", "Host: test\r\n"), Problem(405, "METHOD_NOT_ALLOWED")),
        raw(
            "an upgrade to something else",
            request("GET", "/hubs/chat", "Connection: Upgrade\r\nUpgrade: h2c\r\n", ""),
            INVALID,
        ),
        raw(
            "an upgrade without a key",
            request(
                "GET",
                "/hubs/chat",
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
                "",
            ),
            INVALID,
        ),
        raw(
            "an upgrade of version 8",
            request(
                "GET",
                "/hubs/chat",
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                "",
            ),
            INVALID,
        ),
        raw(
            "an upgrade by POST",
            request("POST", "/hubs/chat", "Content-Length: 0\r\n", ""),
            Problem(405, "METHOD_NOT_ALLOWED"),
        ),
        raw(
            "a stream behind a cursor that is none",
            request("GET", "/api/scopes/Channel/a/events", "Last-Event-ID: abc\r\n", ""),
            INVALID,
        ),
        raw(
            "a stream behind a negative cursor",
            request("GET", "/api/scopes/Channel/a/events", "Last-Event-ID: -1\r\n", ""),
            INVALID,
        ),
        raw(
            "an absolute address",
            plain("GET", "Host: test\r\n").replacen(MESSAGES, &format!("http://evil{MESSAGES}"), 1),
            Problem(401, "UNAUTHENTICATED"),
        ),
    ]
}

fn no_http() -> Vec<Case> {
    vec![
        raw("noise", (0u8..=255).cycle().take(4096).collect::<Vec<u8>>(), StatusOrEnd(400)),
        raw(
            "a TLS greeting",
            [&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03][..], &[0; 500]].concat(),
            StatusOrEnd(400),
        ),
        raw("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", StatusOrEnd(400)),
        raw("HTTP/9.9", "GET / HTTP/9.9\r\nHost: test\r\n\r\n", StatusOrEnd(400)),
        raw("HTTP/0.9", "GET /\r\n\r\n", StatusOrEnd(400)),
        raw("no method", " / HTTP/1.1\r\nHost: test\r\n\r\n", StatusOrEnd(400)),
        raw("no path", "GET  HTTP/1.1\r\nHost: test\r\n\r\n", StatusOrEnd(400)),
        raw("spaces in the path", "GET /a b HTTP/1.1\r\nHost: test\r\n\r\n", StatusOrEnd(400)),
        raw("nothing but new lines", "\r\n".repeat(20_000), StatusOrEnd(431)),
        raw("an endless first line", "A".repeat(100_000), StatusOrEnd(431)),
    ]
}

/// What is wrong with an answer, if anything is.
fn mismatch(case: &Case, answer: Option<&Answer>) -> Option<String> {
    let Some(answer) = answer else {
        return (!matches!(case.expected, StatusOrEnd(_))).then(|| format!("{}: no answer", case.name));
    };
    let (status, code) = match case.expected {
        Status(status) | StatusOrEnd(status) => (status, None),
        Problem(status, code) => (status, Some(code)),
    };
    let right = answer.status == status
        && code.is_none_or(|code| answer.problem() == code && answer.header("cache-control") == "no-store")
        && !answer.headers.contains_key("x-injected");
    let body = String::from_utf8_lossy(&answer.body);
    (!right).then(|| format!("{}: wanted {:?}, got {} {body}", case.name, case.expected, answer.status))
}

#[tokio::test]
async fn requests_get_their_documented_answer() {
    // Whoever sends half a request is to be cut off while this test still waits.
    let server = Server::start(Options::new().with("SERVER__HEADER_TIMEOUT", "2s")).await;
    let baseline = Baseline::take(&server).await;
    let token = server.token("mallory").await;
    let mut wrong = Vec::new();
    for case in cases() {
        let mut raw = Raw::connect(server.address()).await;
        raw.write(&with_token(&case.bytes, &token)).await;
        match timeout(SOON / 2, raw.answer()).await {
            Ok(answer) => wrong.extend(mismatch(&case, answer.as_ref())),
            Err(_) => wrong.push(format!("{}: neither an answer nor an end", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{} cases are answered otherwise: {wrong:#?}", wrong.len());
    baseline.check(server).await;
}

#[tokio::test]
async fn a_correlation_id_that_is_not_valid_is_replaced() {
    let server = Server::start(Options::new()).await;
    let http = server.http("mallory").await;
    let good = "corr_01890a5d-ac96-774b-bcce-b302099a8057";
    let wrong = ["", "1", "corr_", "corr_1", &good[5..], &good.to_uppercase(), &format!("{good}0"), &"x".repeat(4_000)];
    for id in wrong {
        let answer = http.must(hyper::Method::GET, MESSAGES, &[("X-Correlation-ID", id)], None).await;
        let made = answer.header("x-correlation-id");
        assert!(made.starts_with("corr_") && made.len() == good.len() && made != id, "{id} became {made}");
    }
    assert!(!server.log().contains(&"x".repeat(100)), "what is not valid is not logged either");
    server.stop().await;
}

/// `bytes` with `{token}` replaced wherever it stands.
fn with_token(bytes: &[u8], token: &str) -> Vec<u8> {
    const PLACE: &[u8] = b"{token}";
    let mut out = Vec::with_capacity(bytes.len() + token.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(PLACE.len()).position(|window| window == PLACE) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(token.as_bytes());
        rest = &rest[at + PLACE.len()..];
    }
    out.extend_from_slice(rest);
    out
}
