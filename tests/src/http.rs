//! A well-behaved HTTP client for the REST surface and its event stream.

use crate::message::ChatMessage;
use crate::waiting::{LONG, SOON, eventually, within};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::net::SocketAddr;

/// A client of one server, signed in or not. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    token: Option<String>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A page of history as the server answers it.
#[derive(Clone, Debug)]
pub struct Page {
    /// Ascending by position.
    pub items: Vec<ChatMessage>,
    /// Whether nothing is older.
    pub oldest_reached: bool,
    /// Whether nothing is newer.
    pub newest_reached: bool,
    /// Whether the page is whole as far as the server can prove.
    pub complete: bool,
}

/// One Server-Sent Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSentEvent {
    /// The cursor for `Last-Event-ID`.
    pub id: Option<String>,
    /// The kind of event.
    pub event: Option<String>,
    /// Its body.
    pub data: String,
}

/// An open event stream.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    buffer: Vec<u8>,
    /// The headers of the answer.
    pub headers: HeaderMap,
}

impl Http {
    /// A client for the server at `address`.
    #[must_use]
    pub fn new(address: SocketAddr, token: Option<String>) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), address, token }
    }

    /// Reads a resource.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn get(&self, path: &str) -> Answer {
        self.must(Method::GET, path, &[], None).await
    }

    /// Sends `body` as JSON.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.must(Method::POST, path, &[(CONTENT_TYPE.as_str(), "application/json")], Some(body)).await
    }

    /// Any request that must be answered.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn must(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
        let what = format!("{method} {path}");
        self.request(method, path, headers, body).await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Any request.
    ///
    /// # Errors
    /// When the connection breaks before the answer is whole.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let exchange = async {
            let body = Full::from(body.map(Value::to_string).unwrap_or_default());
            let request = self.build(method, path, headers, body);
            let response = self.client.request(request).await.map_err(|error| format!("{error:?}"))?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
        };
        within(SOON, &format!("the answer to {path}"), exchange).await
    }

    /// Sends a message to a scope written as `Channel/general`.
    ///
    /// # Errors
    /// When the connection breaks before the answer is whole: whether the message was accepted is not known.
    pub async fn send(&self, scope_path: &str, text: &str, message_id: &str) -> Result<Answer, String> {
        let body = serde_json::json!({"text": text, "messageId": message_id});
        let path = format!("/api/scopes/{scope_path}/messages");
        self.request(Method::POST, &path, &[(CONTENT_TYPE.as_str(), "application/json")], Some(&body)).await
    }

    /// Reads one page of history of a scope written as `Channel/general`.
    ///
    /// # Panics
    /// When the answer is not a page.
    pub async fn page(&self, scope_path: &str, query: &str) -> Page {
        let answer = self.get(&format!("/api/scopes/{scope_path}/messages?{query}")).await;
        assert_eq!(answer.status, 200, "history of {scope_path}?{query}: {}", answer.text());
        let body = answer.json();
        let flag = |name: &str| body[name].as_bool().unwrap_or_else(|| panic!("`{name}` of a page: {body}"));
        Page {
            items: ChatMessage::read_all(&body["items"]).expect("a page's items are messages"),
            oldest_reached: flag("oldestReached"),
            newest_reached: flag("newestReached"),
            complete: flag("complete"),
        }
    }

    /// Reads a page until it reaches up to the newest message: a pod that could not ask the log in time gives what it has, and says so.
    ///
    /// # Panics
    /// When no such page comes in time.
    pub async fn newest_page(&self, scope_path: &str, query: &str) -> Page {
        let newest = async || Some(self.page(scope_path, query).await).filter(|page| page.newest_reached);
        eventually(LONG, "a page with the newest message", newest).await
    }

    /// Reads a page until it is complete and leads on: a pod that could not ask in time says so.
    async fn whole_page(&self, scope_path: &str, query: &str, leads_on: impl Fn(&Page) -> bool) -> Page {
        let whole = async || Some(self.page(scope_path, query).await).filter(|page| page.complete && leads_on(page));
        eventually(LONG, &format!("a whole page of {scope_path}?{query}"), whole).await
    }

    /// The whole history, page by page from the oldest message.
    ///
    /// # Panics
    /// When paging breaks its own rules or does not end.
    pub async fn history_forward(&self, scope_path: &str, limit: usize) -> Vec<ChatMessage> {
        let mut all: Vec<ChatMessage> = Vec::new();
        loop {
            let after = all.last().map_or(0, |message| message.position);
            let query = format!("after={after}&limit={limit}");
            let leads_on = |page: &Page| page.newest_reached || !page.items.is_empty();
            let page = self.whole_page(scope_path, &query, leads_on).await;
            assert!(page.items.len() <= limit, "a page of {} with limit {limit}", page.items.len());
            all.extend(page.items);
            if page.newest_reached {
                return all;
            }
        }
    }

    /// The whole history, page by page from the newest message; the result is ascending.
    ///
    /// # Panics
    /// When paging breaks its own rules or does not end.
    pub async fn history_backward(&self, scope_path: &str, limit: usize) -> Vec<ChatMessage> {
        let mut pages: Vec<Vec<ChatMessage>> = Vec::new();
        let mut query = format!("limit={limit}");
        loop {
            let begun = !pages.is_empty();
            let leads_on =
                |page: &Page| (begun || page.newest_reached) && (page.oldest_reached || !page.items.is_empty());
            let page = self.whole_page(scope_path, &query, leads_on).await;
            if let Some(oldest) = page.items.first() {
                query = format!("before={}&limit={limit}", oldest.position);
            }
            pages.push(page.items);
            if page.oldest_reached {
                pages.reverse();
                return pages.concat();
            }
        }
    }

    /// Opens the event stream of a scope written as `Channel/general`.
    ///
    /// # Panics
    /// When the answer is not a stream.
    pub async fn events(&self, scope_path: &str, last_event_id: Option<&str>) -> EventStream {
        let headers: Vec<(&str, &str)> = last_event_id.map(|id| ("Last-Event-ID", id)).into_iter().collect();
        let path = format!("/api/scopes/{scope_path}/events");
        let request = self.build(Method::GET, &path, &headers, Full::default());
        let response = within(SOON, "the stream's head", self.client.request(request)).await.expect("an answer");
        assert_eq!(response.status().as_u16(), 200, "{path}");
        let (parts, body) = response.into_parts();
        EventStream { body, buffer: Vec::new(), headers: parts.headers }
    }

    fn build(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Full<Bytes>) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body).expect("the test writes valid requests")
    }
}

impl Answer {
    /// The body as text.
    ///
    /// # Panics
    /// When it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).expect("the body is UTF-8")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// A header's text, or an empty one.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The `code` of a problem document; its form is checked.
    ///
    /// # Panics
    /// When the answer is not a problem document that agrees with its own status and headers.
    #[must_use]
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{} {}", self.status, self.text());
        let body = self.json();
        for field in ["type", "title"] {
            assert!(body[field].is_string(), "a problem has a `{field}`: {body}");
        }
        assert_eq!(body["status"].as_u64(), Some(u64::from(self.status)), "a problem repeats its status: {body}");
        assert_eq!(body["correlationId"].as_str(), Some(self.header("x-correlation-id")), "{body}");
        body["code"].as_str().unwrap_or_else(|| panic!("a problem has a `code`: {body}")).to_owned()
    }
}

impl EventStream {
    /// The next event; comments are skipped. `None` at the stream's end.
    ///
    /// # Panics
    /// When none comes in time, or it is not in the format of event streams.
    pub async fn next(&mut self) -> Option<ServerSentEvent> {
        within(SOON, "the next server-sent event", self.next_whenever()).await
    }

    async fn next_whenever(&mut self) -> Option<ServerSentEvent> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let text = String::from_utf8(block).expect("an event is UTF-8");
                match parse_event(&text) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let frame = self.body.frame().await?.ok()?;
            self.buffer.extend_from_slice(frame.data_ref().map(|data| data.as_ref()).unwrap_or_default());
        }
    }
}

/// One block of an event stream; `None` when it holds comments only.
fn parse_event(block: &str) -> Option<ServerSentEvent> {
    let (mut id, mut event, mut data) = (None, None, Vec::new());
    for line in block.lines().filter(|line| !line.is_empty() && !line.starts_with(':')) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => id = Some(value.to_owned()),
            "event" => event = Some(value.to_owned()),
            "data" => data.push(value),
            "retry" => {}
            other => panic!("an event stream has no field `{other}`"),
        }
    }
    (!data.is_empty() || id.is_some()).then(|| ServerSentEvent { id, event, data: data.join("\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_browsers_do() {
        let event = parse_event("id: 7\nevent: message\ndata: {\"a\":\ndata: 1}\n\n").expect("an event");
        assert_eq!((event.id.as_deref(), event.event.as_deref()), (Some("7"), Some("message")));
        assert_eq!(event.data, "{\"a\":\n1}");
        assert_eq!(parse_event(": keep-alive\n\n"), None);
        assert_eq!(parse_event("retry: 1000\n\n"), None);
    }
}
