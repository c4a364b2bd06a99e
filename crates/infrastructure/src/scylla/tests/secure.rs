//! A store that wants a login and encryption: Apache Cassandra at `CHATIFY_TEST_CQL_SECURE` (`scripts/services.sh start cassandra-secure`).

use super::rows::row;
use super::{connect, options_for, run, session, unique};
use crate::scylla::{ConnectError, ScyllaHistory, ScyllaOptions, ScyllaStartError, TlsOptions, migrate};
use chatify_application::ports::HistoryStore;
use chatify_application::ports::contract::{channel, within};
use chatify_application::ports::history::{Order, PositionRange};
use chatify_building_blocks::clock::SystemClock;
use chatify_building_blocks::random::SystemRandom;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::Position;
use std::path::PathBuf;
use std::sync::Arc;

const USER: &str = "chatify";
const PASSWORD: &str = "chatify-password";

fn options(password: &str) -> ScyllaOptions {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/services-state/cassandra-secure/tls");
    let certificates = std::env::var_os("CHATIFY_TEST_CQL_CERTIFICATES").map_or_else(|| beside.into(), PathBuf::from);
    ScyllaOptions {
        contact_points: vec![std::env::var("CHATIFY_TEST_CQL_SECURE").unwrap_or_else(|_| "127.0.0.1:19052".into())],
        username: Some(USER.into()),
        password: Some(password.into()),
        tls: Some(TlsOptions { ca_file: Some(certificates.join("authority.pem")) }),
        ..options_for(&format!("secure_{}", unique()))
    }
}

#[tokio::test]
async fn a_login_over_an_encrypted_connection_makes_the_schema_and_keeps_rows() {
    let options = options(PASSWORD);
    migrate(&options, &SystemClock::new(), &SystemRandom).await.expect("a store that lets us in");
    let (history, _supervisor) = connect(options.clone()).await;
    let scope = channel("secure");
    let row = row(&scope, 0, 1);
    history.append(std::slice::from_ref(&row)).await.expect("written");
    let all = PositionRange { from: Position::ZERO, to: Position::MAX, order: Order::Ascending };
    assert_eq!(history.slice(&scope, row.segment, all, 9).await.expect("a slice"), [row.message]);
    let session = session::open(&options).await.expect("a session");
    run(&session, format!("DROP KEYSPACE {}", options.keyspace), ()).await;
}

#[tokio::test]
async fn a_wrong_password_is_told_at_the_start() {
    let options = options("swordfish");
    let supervisor = Supervisor::new();
    let start = ScyllaHistory::connect(options, Arc::new(SystemClock::new()), Arc::new(SystemRandom), &supervisor);
    let error = within("an answer", start).await.expect_err("a refused login");
    assert!(matches!(error, ScyllaStartError::Connect(ConnectError::LoginRefused(_))), "{error:?}");
    assert!(!format!("{error:?}").contains("swordfish"));
}
