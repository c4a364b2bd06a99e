//! Who is calling: from a token to an [`Identity`].
//!
//! A token is a signed JWT (RFC 7519). Algorithm, issuer and audience are pinned by the configuration; `exp` and `sub` are required and
//! `nbf` is checked when it is there. Times are compared with the injected clock.

pub mod key;

use crate::config::{Config, TokenAlgorithm};
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::error::{Classify, ErrorKind};
use chatify_building_blocks::text_id::TextIdError;
use chatify_domain::{SenderId, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use key::{Key, KeyError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Longer tokens are refused before anything is computed over them.
pub const TOKEN_MAX_BYTES: usize = 4096;

/// Somebody who proved who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who.
    pub user: SenderId,
    /// When the proof ends; a connection is closed then.
    pub expires_at: Timestamp,
}

/// Why a caller is not known. The sentences are for the caller and tell nothing about the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No token came with the request.
    #[error("a bearer token is required")]
    Missing,
    /// More than [`TOKEN_MAX_BYTES`].
    #[error("the token has more than {TOKEN_MAX_BYTES} bytes")]
    TooLong,
    /// No JWT of ours: its form, algorithm or signature is wrong.
    #[error("the token is not valid")]
    NotValid,
    /// Made by or for somebody else, or without a required claim.
    #[error("the token's claim `{0}` is missing or not valid")]
    Claim(&'static str),
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// Its subject cannot be a user id.
    #[error("the token's subject {0}")]
    Subject(#[source] TextIdError),
}

impl Classify for AuthError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Unauthenticated
    }
}

/// What is read of a token. Times are numbers of seconds, possibly with a fraction (RFC 7519, section 2).
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
}

/// Checks tokens. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator(Arc<Inner>);

struct Inner {
    key: DecodingKey,
    validation: Validation,
    leeway: Duration,
    clock: Arc<dyn Clock>,
}

impl Authenticator {
    /// One that accepts what `config` says, signed with `key`.
    ///
    /// # Errors
    /// When the key is no key of its algorithm.
    pub fn new(config: &Config, key: &Key, clock: Arc<dyn Clock>) -> Result<Self, KeyError> {
        install_provider();
        let bytes = key.expose();
        let decoding = match key.algorithm {
            TokenAlgorithm::HS256 => Ok(DecodingKey::from_secret(bytes)),
            TokenAlgorithm::RS256 => DecodingKey::from_rsa_pem(bytes),
            TokenAlgorithm::ES256 => DecodingKey::from_ec_pem(bytes),
            TokenAlgorithm::EdDSA => DecodingKey::from_ed_pem(bytes),
        };
        let decoding = decoding.map_err(|source| KeyError::Format { algorithm: key.algorithm, source })?;
        let mut validation = Validation::new(algorithm(key.algorithm));
        validation.set_issuer(&[&config.auth.issuer]);
        validation.set_audience(&[&config.auth.audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        // The library would read the machine's clock; both times are checked below with the injected one.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Ok(Self(Arc::new(Inner { key: decoding, validation, leeway: config.auth.leeway, clock })))
    }

    /// Who the bearer of `token` is.
    ///
    /// # Errors
    /// When the token does not prove it, now.
    pub fn authenticate(&self, token: &str) -> Result<Identity, AuthError> {
        let Inner { key, validation, leeway, clock } = &*self.0;
        if token.len() > TOKEN_MAX_BYTES {
            return Err(AuthError::TooLong);
        }
        let decoded = jsonwebtoken::decode::<Claims>(token, key, validation).map_err(|error| refusal(&error))?;
        let claims = decoded.claims;
        let now = clock.now();
        let expires_at = moment(claims.exp);
        if expires_at.plus(*leeway) <= now {
            return Err(AuthError::Expired);
        }
        if claims.nbf.is_some_and(|not_before| moment(not_before) > now.plus(*leeway)) {
            return Err(AuthError::NotYet);
        }
        let user = SenderId::parse(&claims.sub).map_err(AuthError::Subject)?;
        Ok(Identity { user, expires_at: expires_at.plus(*leeway) })
    }
}

/// Why a token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// With a public key only the holder of the private one can.
    #[error("tokens for {0:?} are made by the holder of its private key, not by this server")]
    PublicKey(TokenAlgorithm),
    /// The library could not sign.
    #[error("the token cannot be signed")]
    Signing(#[source] jsonwebtoken::errors::Error),
}

/// Makes a token for `user` that is valid for `ttl` from now.
///
/// # Errors
/// When the key is a public one.
pub fn issue(
    config: &Config,
    key: &Key,
    user: &SenderId,
    ttl: Duration,
    clock: &dyn Clock,
) -> Result<String, IssueError> {
    #[derive(Serialize)]
    struct Issued<'a> {
        iss: &'a str,
        aud: &'a str,
        sub: &'a str,
        iat: i64,
        exp: i64,
    }
    install_provider();
    if key.algorithm != TokenAlgorithm::HS256 {
        return Err(IssueError::PublicKey(key.algorithm));
    }
    let now = clock.now();
    let claims = Issued {
        iss: &config.auth.issuer,
        aud: &config.auth.audience,
        sub: user.as_str(),
        iat: now.as_millis().div_euclid(1000),
        exp: now.plus(ttl).as_millis().div_euclid(1000),
    };
    let key = EncodingKey::from_secret(key.expose());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(IssueError::Signing)
}

/// Names the implementation of the algorithms; the first call wins, the others find it there.
fn install_provider() {
    let _another_was_first = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}

fn algorithm(configured: TokenAlgorithm) -> Algorithm {
    match configured {
        TokenAlgorithm::HS256 => Algorithm::HS256,
        TokenAlgorithm::RS256 => Algorithm::RS256,
        TokenAlgorithm::ES256 => Algorithm::ES256,
        TokenAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}

/// Seconds since 1970; what does not fit stops at the end of time.
fn moment(seconds: f64) -> Timestamp {
    #[expect(clippy::cast_possible_truncation, reason = "a float's cast to an integer stops at the integer's ends")]
    Timestamp::from_millis((seconds * 1000.0) as i64)
}

fn refusal(error: &jsonwebtoken::errors::Error) -> AuthError {
    use jsonwebtoken::errors::ErrorKind;
    let claim = |name: &str| ["iss", "aud", "exp", "sub", "nbf"].into_iter().find(|known| *known == name);
    match error.kind() {
        ErrorKind::InvalidIssuer => AuthError::Claim("iss"),
        ErrorKind::InvalidAudience => AuthError::Claim("aud"),
        ErrorKind::InvalidSubject => AuthError::Claim("sub"),
        ErrorKind::MissingRequiredClaim(name) | ErrorKind::InvalidClaimFormat(name) => {
            claim(name).map_or(AuthError::NotValid, AuthError::Claim)
        }
        // The library may add kinds; whatever it cannot accept is not valid to the caller.
        _ => AuthError::NotValid,
    }
}

#[cfg(test)]
mod tests;
