//! Forged tokens, wrong claims, wrong keys.

use super::*;
use chatify_building_blocks::clock::ManualClock;
use chatify_building_blocks::random::SeededRandom;
use serde_json::{Value, json};

const SECRET: &str = "a secret of this test, long enough for HS256";
const NOW: i64 = 1_800_000_000;

struct Setup {
    config: Config,
    clock: Arc<ManualClock>,
    authenticator: Authenticator,
    key: Key,
}

fn setup() -> Setup {
    let mut config = Config::defaults().expect("valid");
    config.auth.key = Some(crate::config::Secret::new(SECRET.into()));
    let key = Key::load(&config, &SeededRandom::new(1)).expect("a key");
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(NOW * 1000)));
    let authenticator = Authenticator::new(&config, &key, clock.clone()).expect("a good key");
    Setup { config, clock, authenticator, key }
}

fn claims() -> Value {
    json!({"iss": "chatify", "aud": "chatify", "sub": "alice", "exp": NOW + 60})
}

fn with(field: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[field] = value;
    claims
}

fn without(field: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(field);
    claims
}

fn sign(algorithm: Algorithm, claims: &Value, secret: &str) -> String {
    install_provider();
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).expect("signable")
}

#[test]
fn what_is_issued_is_accepted_until_it_ends() {
    let setup = setup();
    let alice = SenderId::parse("alice@example.org").expect("valid");
    let ttl = Duration::from_secs(600);
    let token = issue(&setup.config, &setup.key, &alice, ttl, &*setup.clock).expect("issued");
    let identity = setup.authenticator.authenticate(&token).expect("accepted");
    assert_eq!(identity.user, alice);
    assert_eq!(identity.expires_at.as_millis(), (NOW + 600 + 30) * 1000, "the leeway is granted to the end too");
    setup.clock.advance(Duration::from_secs(629));
    assert!(setup.authenticator.authenticate(&token).is_ok());
    setup.clock.advance(Duration::from_secs(1));
    assert_eq!(setup.authenticator.authenticate(&token), Err(AuthError::Expired));
}

#[test]
fn every_claim_is_checked() {
    let Setup { authenticator, .. } = setup();
    assert!(authenticator.authenticate(&sign(Algorithm::HS256, &claims(), SECRET)).is_ok());
    let accepted =
        [with("aud", json!(["other", "chatify"])), with("exp", json!(NOW as f64 + 0.5)), with("nbf", json!(NOW + 30))];
    for claims in accepted {
        assert!(authenticator.authenticate(&sign(Algorithm::HS256, &claims, SECRET)).is_ok(), "{claims}");
    }
    let refused = [
        (with("iss", json!("other")), AuthError::Claim("iss")),
        (with("aud", json!("other")), AuthError::Claim("aud")),
        (without("iss"), AuthError::Claim("iss")),
        (without("aud"), AuthError::Claim("aud")),
        (with("exp", json!(NOW - 30)), AuthError::Expired),
        (with("nbf", json!(NOW + 31)), AuthError::NotYet),
        (with("sub", json!("  ")), AuthError::Subject(TextIdError::Blank)),
        (with("sub", json!("a\nb")), AuthError::Subject(TextIdError::ControlCharacter)),
        (with("sub", json!("x".repeat(257))), AuthError::Subject(TextIdError::TooLong { max: 256, actual: 257 })),
    ];
    for (claims, error) in refused {
        assert_eq!(authenticator.authenticate(&sign(Algorithm::HS256, &claims, SECRET)), Err(error), "{claims}");
    }
    let unreadable = [
        without("exp"),
        without("sub"),
        with("exp", json!("soon")),
        with("exp", json!(null)),
        with("exp", json!(-1e300)),
        with("sub", json!(7)),
        with("nbf", json!("x")),
        with("nbf", json!(1e300)),
    ];
    for claims in unreadable {
        assert!(authenticator.authenticate(&sign(Algorithm::HS256, &claims, SECRET)).is_err(), "{claims}");
    }
}

#[test]
fn forged_tokens_are_refused() {
    let Setup { authenticator, .. } = setup();
    let good = sign(Algorithm::HS256, &claims(), SECRET);
    let (head, signature) = good.rsplit_once('.').expect("three parts");
    let body = head.split_once('.').expect("two parts").1;
    // {"alg":"none"}, {"alg":"None","typ":"JWT"}
    let nones = ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJOb25lIiwidHlwIjoiSldUIn0"];
    let mut forged = vec![
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        "a.b.c".into(),
        format!("{head}."),
        head.to_string(),
        format!("{good}.x"),
        format!("{good}="),
        format!(" {good}"),
        sign(Algorithm::HS256, &claims(), "another secret of the same length, or so"),
        sign(Algorithm::HS384, &claims(), SECRET),
        sign(Algorithm::HS512, &claims(), SECRET),
        good.replacen(&body[..4], "eyJz", 1) + "A",
    ];
    forged.extend(nones.iter().flat_map(|none| [format!("{none}.{body}."), format!("{none}.{body}.{signature}")]));
    for token in forged {
        assert_eq!(authenticator.authenticate(&token), Err(AuthError::NotValid), "{token}");
    }
    assert_eq!(authenticator.authenticate(&"x".repeat(4097)), Err(AuthError::TooLong));
}

/// A public key of RSA is public: a server that took it as a shared secret would accept anybody's token.
#[test]
fn a_public_key_is_no_shared_secret() {
    let pem = include_str!("testdata/rsa_public.pem");
    let mut config = Config::defaults().expect("valid");
    config.auth.algorithm = TokenAlgorithm::RS256;
    config.auth.key = Some(crate::config::Secret::new(pem.into()));
    let key = Key::load(&config, &SeededRandom::new(1)).expect("a key");
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp::from_millis(NOW * 1000)));
    let authenticator = Authenticator::new(&config, &key, clock.clone()).expect("a good key");
    let confused = sign(Algorithm::HS256, &claims(), pem);
    assert_eq!(authenticator.authenticate(&confused), Err(AuthError::NotValid));
    let alice = SenderId::parse("alice").expect("valid");
    assert!(matches!(issue(&config, &key, &alice, Duration::from_secs(1), &*clock), Err(IssueError::PublicKey(_))));
}

#[test]
fn asymmetric_algorithms_accept_their_private_keys_tokens() {
    install_provider();
    let cases = [
        (
            TokenAlgorithm::RS256,
            Algorithm::RS256,
            include_str!("testdata/rsa_public.pem"),
            EncodingKey::from_rsa_pem(include_bytes!("testdata/rsa_private.pem")),
        ),
        (
            TokenAlgorithm::ES256,
            Algorithm::ES256,
            include_str!("testdata/ec_public.pem"),
            EncodingKey::from_ec_pem(include_bytes!("testdata/ec_private.pem")),
        ),
        (
            TokenAlgorithm::EdDSA,
            Algorithm::EdDSA,
            include_str!("testdata/ed_public.pem"),
            EncodingKey::from_ed_pem(include_bytes!("testdata/ed_private.pem")),
        ),
    ];
    for (configured, algorithm, public, private) in cases {
        let mut config = Config::defaults().expect("valid");
        config.auth.algorithm = configured;
        config.auth.key = Some(crate::config::Secret::new(public.into()));
        let key = Key::load(&config, &SeededRandom::new(1)).expect("a key");
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(NOW * 1000)));
        let authenticator = Authenticator::new(&config, &key, clock).expect("a good key");
        let token = jsonwebtoken::encode(&Header::new(algorithm), &claims(), &private.expect("a private key"))
            .expect("signable");
        assert!(authenticator.authenticate(&token).is_ok(), "{configured:?}");
        assert_eq!(authenticator.authenticate(&sign(Algorithm::HS256, &claims(), SECRET)), Err(AuthError::NotValid));
    }
}

#[test]
fn a_key_of_the_wrong_kind_is_refused() {
    for algorithm in [TokenAlgorithm::RS256, TokenAlgorithm::ES256, TokenAlgorithm::EdDSA] {
        let mut config = Config::defaults().expect("valid");
        config.auth.algorithm = algorithm;
        config.auth.key = Some(crate::config::Secret::new(SECRET.into()));
        let key = Key::load(&config, &SeededRandom::new(1)).expect("bytes");
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(0)));
        assert!(matches!(Authenticator::new(&config, &key, clock), Err(KeyError::Format { .. })), "{algorithm:?}");
    }
}
