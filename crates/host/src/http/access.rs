//! Who is calling, and from which page.

use super::problem::Problem;
use super::state::AppState;
use crate::auth::{AuthError, Identity};
use crate::config::Config;
use axum::extract::{FromRef, FromRequestParts};
use chatify_building_blocks::error::ErrorKind;
use http::request::Parts;
use http::{HeaderMap, header};
use std::time::Duration;
use url::form_urlencoded;

/// How long a client that came to a leaving pod waits.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// A signed-in caller: `Authorization: Bearer`.
#[derive(Clone, Debug)]
pub struct Caller(pub Identity);

/// A signed-in caller of the hub or the event stream, where browsers cannot set headers: the token may also be the query's `access_token`. A page of another
/// origin that is not configured is refused, and so is everybody while the pod is on its way out.
#[derive(Clone, Debug)]
pub struct HubCaller(pub Identity);

impl<S> FromRequestParts<S> for Caller
where
    AppState: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let token = bearer(&parts.headers).map_err(|error| Problem::from_error(&error))?;
        authenticate(&AppState::from_ref(state), token).map(Self)
    }
}

impl<S> FromRequestParts<S> for HubCaller
where
    AppState: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let state = AppState::from_ref(state);
        if state.draining.is_draining() {
            return Err(leaving());
        }
        if !origin_allowed(&state.config, &parts.headers) {
            return Err(Problem::new(ErrorKind::Forbidden, "pages of this origin may not connect"));
        }
        let from_query = parts.uri.query().and_then(access_token);
        let token = match (bearer(&parts.headers), &from_query) {
            (Err(AuthError::Missing), Some(token)) => Ok(token.as_str()),
            (from_header, _) => from_header,
        };
        authenticate(&state, token.map_err(|error| Problem::from_error(&error))?).map(Self)
    }
}

/// The pod is on its way out: a connection that it took now would only have to leave again.
fn leaving() -> Problem {
    let detail = "this server is shutting down; connect again, to another one";
    Problem { retry_after: Some(ELSEWHERE), ..Problem::new(ErrorKind::StoreUnavailable, detail) }
}

fn authenticate(state: &AppState, token: &str) -> Result<Identity, Problem> {
    state.authenticator.authenticate(token).map_err(|error| Problem::from_error(&error))
}

/// The token of the one `Authorization` header; the scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let only = all.next().ok_or(AuthError::Missing)?;
    if all.next().is_some() {
        return Err(AuthError::NotValid);
    }
    let (scheme, token) = only.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(AuthError::NotValid)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim_matches(' ')) } else { Err(AuthError::NotValid) }
}

fn access_token(query: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "access_token")
        .map(|(_, token)| token.into_owned())
}

/// Whether the page that makes this request, if a page does, may. Only browsers send `Origin`, and they send it truthfully.
#[must_use]
pub fn origin_allowed(config: &Config, headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return true };
    // Browsers send one; whoever sends more hides one behind the other.
    let (Ok(origin), None) = (origin.to_str(), origins.next()) else { return false };
    configured_origin(config, origin) || same_origin(origin, headers)
}

/// Whether the configuration names this origin.
#[must_use]
pub fn configured_origin(config: &Config, origin: &str) -> bool {
    config.server.origins.0.iter().any(|allowed| allowed == origin)
}

fn same_origin(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    matches!((host, authority), (Some(host), Some(authority)) if host.eq_ignore_ascii_case(authority))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TextList;
    use http::HeaderValue;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).expect("a header value");
        let mut headers = HeaderMap::new();
        for (name, text) in pairs {
            headers.append(name, value(text));
        }
        headers
    }

    #[test]
    fn origins() {
        let mut config = Config::defaults().expect("valid");
        config.server.origins = TextList(vec!["https://chat.example.org".into()]);
        let host = (header::HOST, "localhost:8080");
        let cases = [
            (None, true),
            (Some("http://localhost:8080"), true),
            (Some("https://localhost:8080"), true),
            (Some("https://chat.example.org"), true),
            (Some("https://chat.example.org:444"), false),
            (Some("http://chat.example.org"), false),
            (Some("https://chat.example.org.evil.org"), false),
            (Some("http://localhost:8081"), false),
            (Some("http://localhost"), false),
            (Some("null"), false),
            (Some(""), false),
            (Some("localhost:8080"), false),
        ];
        for (origin, allowed) in cases {
            let mut pairs = vec![host.clone()];
            pairs.extend(origin.map(|origin| (header::ORIGIN, origin)));
            assert_eq!(origin_allowed(&config, &headers(&pairs)), allowed, "{origin:?}");
        }
        let two = [host, (header::ORIGIN, "https://chat.example.org"), (header::ORIGIN, "https://evil.org")];
        assert!(!origin_allowed(&config, &headers(&two)), "two origins");
    }

    #[test]
    fn only_one_bearer_header_counts() {
        let read = |values: &[&str]| {
            let pairs: Vec<_> = values.iter().map(|value| (header::AUTHORIZATION, *value)).collect();
            bearer(&headers(&pairs)).map(String::from)
        };
        assert_eq!(read(&[]), Err(AuthError::Missing));
        assert_eq!(read(&["Bearer abc"]), Ok("abc".into()));
        assert_eq!(read(&["bEARER  abc "]), Ok("abc".into()));
        for wrong in [&["Bearer"][..], &["Basic abc"], &["abc"], &[""], &["Bearer a", "Bearer b"]] {
            assert_eq!(read(wrong), Err(AuthError::NotValid), "{wrong:?}");
        }
        assert_eq!(access_token("id=1&access_token=a%2Bb"), Some("a+b".into()));
        assert_eq!(access_token("token=1"), None);
    }
}
