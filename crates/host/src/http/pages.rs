//! Pages that the binary brings along: the playground and the API's description. They load nothing from elsewhere.

use super::problem::Problem;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use chatify_building_blocks::error::ErrorKind;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::sync::Arc;

/// The playground's page.
pub const PLAYGROUND: &str = include_str!("../../assets/playground/index.html");
/// The page that shows `/openapi.json`.
pub const DOCS: &str = include_str!("../../assets/docs/index.html");

/// A document with its validator and, for HTML, the policy under which its own scripts and styles run and no others.
#[derive(Clone, Debug)]
pub struct Document(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    body: Bytes,
    content_type: HeaderValue,
    etag: HeaderValue,
    policy: Option<HeaderValue>,
}

impl Document {
    /// A page.
    #[must_use]
    pub fn page(html: &'static str) -> Self {
        let policy = format!(
            "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hashes(html, "script"),
            hashes(html, "style"),
        );
        let policy = HeaderValue::try_from(policy).expect("hashes are ASCII");
        Self::new(Bytes::from_static(html.as_bytes()), "text/html; charset=utf-8", Some(policy))
    }

    /// A JSON document.
    #[must_use]
    pub fn json(body: Vec<u8>) -> Self {
        Self::new(body.into(), "application/json", None)
    }

    fn new(body: Bytes, content_type: &'static str, policy: Option<HeaderValue>) -> Self {
        let etag = format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(&sha256(&body)[..12]));
        let etag = HeaderValue::try_from(etag).expect("base64 is ASCII");
        Self(Arc::new(Inner { body, content_type: HeaderValue::from_static(content_type), etag, policy }))
    }

    /// The document, or 304 when the client has it.
    #[must_use]
    pub fn answer(&self, request: &HeaderMap) -> Response {
        let Inner { body, content_type, etag, policy } = &*self.0;
        let has_it = request.get_all(header::IF_NONE_MATCH).iter().any(|tags| lists(tags, etag));
        let mut response = if has_it { StatusCode::NOT_MODIFIED.into_response() } else { body.clone().into_response() };
        let headers = response.headers_mut();
        if !has_it {
            headers.insert(header::CONTENT_TYPE, content_type.clone());
        }
        headers.insert(header::ETAG, etag.clone());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Some(policy) = policy {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy.clone());
        }
        response
    }
}

/// A page that is switched off is not there.
#[must_use]
pub fn switched_off() -> Problem {
    Problem::new(ErrorKind::NotFound, "there is nothing at this path")
}

/// Whether `If-None-Match` lists the tag or is `*`; a weak tag will do (RFC 9110, section 13.1.2).
fn lists(tags: &HeaderValue, etag: &HeaderValue) -> bool {
    let (Ok(tags), Ok(etag)) = (tags.to_str(), etag.to_str()) else { return false };
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// The sources of a policy for the inline elements of this name: the hash of each one's text.
fn hashes(html: &str, element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let texts = html.split(&open).skip(1).filter_map(|rest| rest.split(&close).next());
    let hashes: Vec<String> =
        texts.map(|text| format!("'sha256-{}'", BASE64_STANDARD.encode(sha256(text.as_bytes())))).collect();
    if hashes.is_empty() { "'none'".into() } else { hashes.join(" ") }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_elements_are_allowed_by_their_hash() {
        // The hash of `alert('Hello, world.');` as in the specification, CSP level 3, section 8.3.
        let html = "<script>alert('Hello, world.');</script><style>a{}</style><p onclick=''>";
        assert_eq!(hashes(html, "script"), "'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='");
        assert_eq!(hashes("<p></p>", "script"), "'none'");
    }

    #[test]
    fn pages_reach_for_nothing_outside() {
        for (name, page) in [("playground", PLAYGROUND), ("docs", DOCS)] {
            for outside in ["src=\"http", "href=\"http", "src=\"//", "@import", "url(http"] {
                assert!(!page.contains(outside), "{name}: {outside}");
            }
            for (element, attributes) in [("script", "<script "), ("style", "<style ")] {
                assert!(
                    !page.contains(attributes),
                    "{name}: <{element}> must have no attributes, or its hash is not found"
                );
            }
            assert!(
                !page.contains(" onclick=") && !page.contains(" style=\""),
                "{name}: the policy allows no such attribute"
            );
        }
    }

    #[test]
    fn a_known_tag_is_not_sent_again() {
        let page = Document::page("<p>hello</p>");
        let first = page.answer(&HeaderMap::new());
        let etag = first.headers()[header::ETAG].clone();
        let asked = |tag: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(tag).expect("a value"));
            page.answer(&headers).status().as_u16()
        };
        let etag = etag.to_str().expect("ASCII");
        assert_eq!(
            (asked(etag), asked(&format!("\"a\", W/{etag}")), asked("*"), asked("\"other\"")),
            (304, 304, 304, 200)
        );
    }
}
