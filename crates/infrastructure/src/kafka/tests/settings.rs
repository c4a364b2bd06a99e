//! Options that make no client, each with the name of what is wrong.

use super::fixture::pod;
use crate::kafka::client::{ClientEvents, Role, client_config};
use crate::kafka::health::HealthState;
use crate::kafka::{KafkaOptions, KafkaOptionsError, KafkaStartError, SaslMechanism, Security, SecurityProtocol};
use chatify_building_blocks::clock::{Clock, ManualClock};
use chatify_building_blocks::error::{Classify, ErrorKind};
use chatify_domain::Timestamp;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use secrecy::SecretString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const HAS_TLS: bool = cfg!(feature = "kafka-tls");

fn options() -> KafkaOptions {
    KafkaOptions::new("127.0.0.1:1", pod())
}

fn with_property(name: &str, value: &str) -> KafkaOptions {
    KafkaOptions { properties: [(name.to_owned(), value.to_owned())].into(), ..options() }
}

fn with_security(security: Security) -> KafkaOptions {
    KafkaOptions { security, ..options() }
}

fn refused(options: &KafkaOptions) -> String {
    options.validate().expect_err("a mistake").to_string()
}

#[test]
fn the_defaults_make_every_client() {
    options().validate().expect("valid");
    let producer = client_config(&options(), Role::Producer).expect("valid");
    let expected = [
        ("acks", "all"),
        ("enable.idempotence", "true"),
        ("max.in.flight", "5"),
        ("queue.buffering.max.kbytes", "65536"),
        ("message.timeout.ms", "120000"),
        ("delivery.report.only.error", "false"),
    ];
    for (property, value) in expected {
        assert_eq!(producer.get(property), Some(value), "{property}");
    }
}

#[test]
fn properties_win_but_for_those_that_promises_rest_on() {
    let with = |name, value| client_config(&with_property(name, value), Role::Producer);
    assert_eq!(with("linger.ms", "7").expect("valid").get("linger.ms"), Some("7"));
    for name in [
        "acks",
        "enable.idempotence",
        "enable.auto.commit",
        "group.id",
        "partitioner",
        "bootstrap.servers",
        "message.timeout.ms",
        "delivery.timeout.ms",
    ] {
        let text = with(name, "1").expect_err("protected").to_string();
        assert!(text.contains(&format!("must not set `{name}`")), "{text}");
    }
    let text = refused(&with_property("sasl.password", "hush"));
    assert!(text.contains("message_broker.security") && !text.contains("hush"), "{text}");
}

#[test]
fn properties_that_contradict_others_are_refused_before_anybody_waits_for_their_client() {
    for (name, value, other) in [
        ("fetch.max.bytes", "500000", "message.max.bytes"),
        ("session.timeout.ms", "400000", "max.poll.interval.ms"),
        ("linger.ms", "200000", "message.timeout.ms"),
        ("reconnect.backoff.ms", "5000", "reconnect.backoff.max.ms"),
    ] {
        let options = with_property(name, value);
        for role in [Role::Producer, Role::Broadcast, Role::Group, Role::Admin] {
            client_config(&options, role).expect("good by itself");
        }
        let text = refused(&options);
        assert!(text.contains(name) && text.contains(other), "{text}");
    }
}

#[test]
fn a_property_has_one_name_whatever_it_is_called() {
    for (alias, own, value) in
        [("queue.buffering.max.ms", "linger.ms", "7"), ("compression.codec", "compression.type", "zstd")]
    {
        let config = client_config(&with_property(alias, value), Role::Producer).expect("valid");
        assert_eq!((config.get(own), config.get(alias)), (Some(value), None));
        let mut both = with_property(alias, value);
        both.properties.insert(own.into(), value.into());
        let text = refused(&both);
        assert!(text.contains(alias) && text.contains(own), "{text}");
    }
}

#[test]
fn what_librdkafka_does_not_take_is_named_without_secrets() {
    let text = refused(&with_property("linger.milliseconds", "7"));
    assert!(text.contains("`linger.milliseconds`") && text.contains("No such configuration property"), "{text}");
    let text = refused(&with_property("linger.ms", "soon"));
    assert!(text.contains("`linger.ms`"), "{text}");
    let text = refused(&KafkaOptions { compression: "zip".into(), ..options() });
    assert!(text.contains("compression"), "{text}");
}

#[test]
fn values_out_of_range_name_their_setting() {
    let cases: [(KafkaOptions, &str); 8] = [
        (KafkaOptions { bootstrap_servers: " ".into(), ..options() }, "bootstrap_servers"),
        (KafkaOptions { topic: "a/b".into(), ..options() }, "topic_name"),
        (KafkaOptions { dead_letter_topic: options().topic, ..options() }, "dead_letter_topic_name"),
        (KafkaOptions { partitions: 0, ..options() }, "partitions"),
        (KafkaOptions { replication_factor: Some(0), ..options() }, "replication_factor"),
        (KafkaOptions { queue_bytes: 1, ..options() }, "queue_bytes"),
        (KafkaOptions { message_timeout: Duration::ZERO, ..options() }, "message_timeout"),
        (KafkaOptions { retention: Duration::ZERO, ..options() }, "retention"),
    ];
    for (options, setting) in cases {
        let text = refused(&options);
        assert!(text.starts_with(&format!("`message_broker.{setting}` must be ")), "{setting}: {text}");
    }
}

fn sasl(mechanism: SaslMechanism) -> Security {
    Security {
        protocol: SecurityProtocol::SaslPlaintext,
        mechanism: Some(mechanism),
        username: Some("chatify".into()),
        password: Some(SecretString::from("hush")),
        ..Security::default()
    }
}

#[test]
fn security_says_what_is_missing_or_useless() {
    let plain = || sasl(SaslMechanism::Plain);
    let cases: [(Security, &str); 6] = [
        (Security { mechanism: None, ..plain() }, "`message_broker.security.sasl_mechanism` is needed"),
        (Security { username: None, ..plain() }, "`message_broker.security.username` is needed with PLAIN"),
        (Security { password: None, ..plain() }, "`message_broker.security.password` is needed with PLAIN"),
        (
            Security { protocol: SecurityProtocol::Plaintext, ..plain() },
            "`message_broker.security.sasl_mechanism` has no effect",
        ),
        (Security { ca_file: Some("/ca".into()), ..plain() }, "`message_broker.security.ca_file` has no effect"),
        (
            Security { key_file: Some("/key".into()), ..Security::default() },
            "`message_broker.security.key_file` has no effect",
        ),
    ];
    for (security, expected) in cases {
        let text = refused(&with_security(security));
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn plain_needs_nothing_built_in_and_the_password_is_never_shown() {
    let options = with_security(sasl(SaslMechanism::Plain));
    let config = client_config(&options, Role::Producer).expect("valid");
    assert_eq!(config.get("sasl.mechanisms"), Some("PLAIN"));
    assert_eq!(config.get("sasl.password"), Some("hush"));
    assert!(!format!("{config:?} {options:?}").contains("hush"));
}

#[test]
fn what_is_not_built_in_is_refused_by_name() {
    let tls = |protocol| Security { protocol, ..sasl(SaslMechanism::Plain) };
    let cases = [
        (Security { protocol: SecurityProtocol::Tls, ..Security::default() }, "TLS"),
        (tls(SecurityProtocol::SaslTls), "TLS"),
        (sasl(SaslMechanism::ScramSha256), "SCRAM"),
        (sasl(SaslMechanism::ScramSha512), "SCRAM"),
        (Security { token_file: Some(PathBuf::from("/dev/null")), ..sasl(SaslMechanism::OAuthBearer) }, "OAUTHBEARER"),
    ];
    for (security, wanted) in cases {
        let outcome = with_security(security).validate();
        if HAS_TLS {
            outcome.expect(wanted);
        } else {
            let error = outcome.expect_err(wanted);
            assert!(matches!(error, KafkaOptionsError::NotBuiltIn { wanted: named } if named == wanted), "{error}");
        }
    }
}

#[test]
fn names_of_the_configuration_are_known() {
    let protocols = ["plaintext", "tls", "sasl_plaintext", "sasl_tls"].map(SecurityProtocol::parse);
    assert!(protocols.iter().all(Option::is_some) && SecurityProtocol::parse("ssl").is_none());
    let mechanisms = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"].map(SaslMechanism::parse);
    assert!(mechanisms.iter().all(Option::is_some) && SaslMechanism::parse("GSSAPI").is_none());
}

/// While brokers are away each client fails to connect once a second, with another text each time.
#[test]
fn an_error_that_goes_on_is_a_line_a_minute_and_counted_once_each_time() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(0)));
    let health = Arc::new(HealthState::new(Arc::clone(&clock) as Arc<dyn Clock>));
    let events = ClientEvents::new(&options(), Role::Producer, &health);
    let mut lines = 0;
    for second in 0..130 {
        let reason = format!("connect failed after {second} s");
        lines += u32::from(events.note(RDKafkaErrorCode::BrokerTransportFailure, &reason));
        assert!(!events.note(RDKafkaErrorCode::BrokerTransportFailure, &reason), "the same once more");
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!((lines, health.current().client_errors), (3, 130));
    assert!(events.note(RDKafkaErrorCode::Authentication, "no"), "another kind is news");
}

#[test]
fn brokers_that_are_too_few_just_now_are_worth_another_try() {
    let not_created = |code| KafkaStartError::NotCreated { topic: "t".into(), source: KafkaError::AdminOp(code) };
    for (code, kind) in [
        (RDKafkaErrorCode::InvalidReplicationFactor, ErrorKind::EventProduction),
        (RDKafkaErrorCode::RequestTimedOut, ErrorKind::EventProduction),
        (RDKafkaErrorCode::NotController, ErrorKind::EventProduction),
        (RDKafkaErrorCode::PolicyViolation, ErrorKind::Configuration),
        (RDKafkaErrorCode::InvalidConfig, ErrorKind::Configuration),
    ] {
        assert_eq!(not_created(code).kind(), kind, "{code:?}");
    }
}
