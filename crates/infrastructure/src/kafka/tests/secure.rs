//! TLS and SASL against a real Kafka: `scripts/services.sh start kafka-secure`.

use super::fixture::{clock, pod};
use crate::kafka::health::{HealthState, NotThere};
use crate::kafka::producer::Producer;
use crate::kafka::{KafkaLog, KafkaOptions, KafkaStartError, SaslMechanism, Security, SecurityProtocol, dead_letters};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chatify_application::ports::contract::log::OpenLog;
use chatify_application::ports::contract::{channel, within};
use chatify_building_blocks::error::{Classify, ErrorKind};
use chatify_building_blocks::random::{Random, SystemRandom};
use chatify_building_blocks::tasks::Supervisor;
use futures_util::future::join_all;
use secrecy::SecretString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const MISSING: &str = "Kafka answers; start it with `scripts/services.sh start kafka-secure`";
const USER: &str = "chatify";
const PASSWORD: &str = "chatify-password";

fn address(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| default.into())
}

fn certificate(file: &str) -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/services-state/kafka-secure/tls");
    Some(PathBuf::from(address("CHATIFY_TEST_KAFKA_CERTIFICATES", beside)).join(file))
}

fn tls_options(security: Security) -> KafkaOptions {
    let security = Security { protocol: SecurityProtocol::Tls, ca_file: certificate("authority.pem"), ..security };
    options(address("CHATIFY_TEST_KAFKA_TLS", "127.0.0.1:19294"), security)
}

fn sasl_options(security: Security) -> KafkaOptions {
    let security = Security { protocol: SecurityProtocol::SaslPlaintext, ..security };
    options(address("CHATIFY_TEST_KAFKA_SASL", "127.0.0.1:19295"), security)
}

fn sasl_tls_options(security: Security) -> KafkaOptions {
    let security = Security { protocol: SecurityProtocol::SaslTls, ca_file: certificate("authority.pem"), ..security };
    options(address("CHATIFY_TEST_KAFKA_SASL_TLS", "127.0.0.1:19296"), security)
}

fn options(servers: String, security: Security) -> KafkaOptions {
    let name = format!("test-{:032x}", SystemRandom.u128());
    KafkaOptions {
        dead_letter_topic: format!("{name}-dlt"),
        topic: name,
        start_deadline: Duration::from_secs(30),
        security,
        ..KafkaOptions::new(servers, pod())
    }
}

fn password(mechanism: SaslMechanism, password: &str) -> Security {
    Security {
        mechanism: Some(mechanism),
        username: Some(USER.into()),
        password: Some(SecretString::from(password)),
        ..Security::default()
    }
}

async fn connect(options: KafkaOptions) -> Result<KafkaLog, KafkaStartError> {
    KafkaLog::connect(options, clock(), &Supervisor::new()).await
}

/// All clients: topics are made, records are written, read back, the group is asked, and the dead letters are read.
async fn works(options: KafkaOptions) {
    let log = connect(options.clone()).await.expect(MISSING);
    let open = OpenLog { appender: log.appender(), tail: log.tail(), group: log.group() };
    let appended = open.append_all(&channel("general"), 0..3).await;
    let mut reader = open.tail.open(&[(appended[0].partition, appended[0].position)]).await.expect("readable");
    let mut read = Vec::new();
    while read.len() < 3 {
        read.extend(within("records", reader.next()).await.expect("readable"));
    }
    assert_eq!(read[2].position, appended[2].position);
    // The first question of a client that nobody has polled yet.
    within("what is committed", open.group.committed()).await.expect("a client that was let in");
    log.close().await;
    let letters = within("the dead letters", dead_letters::list(&options, clock())).await.expect("a readable topic");
    assert_eq!(letters, []);
}

#[tokio::test]
async fn tls_with_a_certificate_of_the_client() {
    let files = Security {
        certificate_file: certificate("client.pem"),
        key_file: certificate("client.key"),
        ..Security::default()
    };
    works(tls_options(files)).await;
}

#[tokio::test]
async fn passwords_with_and_without_tls() {
    for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha256, SaslMechanism::ScramSha512] {
        works(sasl_options(password(mechanism, PASSWORD))).await;
        works(sasl_tls_options(password(mechanism, PASSWORD))).await;
    }
}

#[tokio::test]
async fn a_token_from_a_file() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let now = clock().now().as_millis() / 1000;
    let claims = format!(r#"{{"sub":"{USER}","iat":{now},"exp":{}}}"#, now + 3600);
    let token = [r#"{"alg":"none"}"#, &claims, ""].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    std::fs::write(file.path(), token).expect("written");
    let security = Security {
        mechanism: Some(SaslMechanism::OAuthBearer),
        token_file: Some(file.path().into()),
        ..Security::default()
    };
    works(sasl_tls_options(security)).await;
}

#[tokio::test]
async fn who_is_not_let_in_is_told_so_without_the_password() {
    let cases = [
        sasl_options(password(SaslMechanism::Plain, "wrong-password")),
        sasl_tls_options(password(SaslMechanism::ScramSha512, "wrong-password")),
        Security::untrusting(),
    ];
    // Only time tells whether another broker lets us in, so all of them wait at once.
    let start_deadline = Duration::from_secs(20);
    let outcomes = join_all(cases.map(|options| connect(KafkaOptions { start_deadline, ..options }))).await;
    for outcome in outcomes {
        let error = outcome.err().expect("not let in");
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        assert!(!format!("{error} {error:?}").contains("wrong-password"));
    }
}

/// Its file may be half written, or its writer late; nobody was asked.
#[tokio::test]
async fn a_token_that_cannot_be_had_is_no_refusal() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "e30.half").expect("written");
    let security = Security {
        mechanism: Some(SaslMechanism::OAuthBearer),
        token_file: Some(file.path().into()),
        ..Security::default()
    };
    let (health, supervisor) = (Arc::new(HealthState::new(clock())), Supervisor::new());
    let producer = Producer::start(&sasl_options(security), &health, &supervisor).expect("valid options");
    within("the error", async {
        while health.current().client_errors == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let outcome = health.wait_until_there(Duration::from_millis(1)).await;
    assert!(matches!(outcome, Err(NotThere::Away(_))), "{outcome:?}");
    drop(producer);
}

impl Security {
    /// Does not know who signed the brokers' certificates.
    fn untrusting() -> KafkaOptions {
        let mut options = sasl_tls_options(password(SaslMechanism::Plain, PASSWORD));
        options.security.ca_file = None;
        options
    }
}
