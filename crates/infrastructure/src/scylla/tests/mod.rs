//! The adapter against a real store: Apache Cassandra at `CHATIFY_TEST_CQL`, 127.0.0.1:19042 unless said otherwise.
//!
//! Changing a schema takes the store long, so the tests share one keyspace and each has scopes of its own.

mod contract;
mod faults;
mod migrations;
mod proxy;
mod rows;
mod secrecy;
mod secure;
mod server;

use super::migrations::{MIGRATIONS, Migration};
use super::options::ScyllaOptions;
use super::{ScyllaHistory, session};
use chatify_building_blocks::clock::SystemClock;
use chatify_building_blocks::random::{Random, SystemRandom};
use chatify_building_blocks::tasks::Supervisor;
use scylla::client::session::Session;
use scylla::serialize::row::SerializeRow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// A fresh name: tests run in parallel, and against a store that has been used.
pub(super) fn unique() -> String {
    format!("{:016x}", SystemRandom.u64())
}

/// Where the store is.
pub(super) fn store() -> String {
    std::env::var("CHATIFY_TEST_CQL").unwrap_or_else(|_| "127.0.0.1:19042".into())
}

/// Options for the real store, patient because the machine may be busy. The keyspace is named by its schema and used again by later runs.
pub(super) async fn options() -> ScyllaOptions {
    static MADE: OnceCell<()> = OnceCell::const_new();
    let checksums: Vec<String> = MIGRATIONS.iter().map(Migration::checksum).collect();
    let options = options_for(&format!("test_{}", checksums.last().expect("at least one migration")));
    MADE.get_or_init(async || {
        if let Err(error) = super::migrate(&options, &SystemClock::new(), &SystemRandom).await {
            panic!("no store at {}: {error:?}; run `scripts/services.sh start cassandra`", store());
        }
    })
    .await;
    options
}

/// The same with a keyspace that need not be there.
pub(super) fn options_for(keyspace: &str) -> ScyllaOptions {
    ScyllaOptions {
        keyspace: keyspace.to_owned(),
        replication_factor: 1,
        request_timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(30),
        ..ScyllaOptions::new([store()])
    }
}

/// The history with these options, connected or being connected.
pub(super) async fn connect(options: ScyllaOptions) -> (Arc<ScyllaHistory>, Supervisor) {
    let supervisor = Supervisor::new();
    let history = ScyllaHistory::connect(options, Arc::new(SystemClock::new()), Arc::new(SystemRandom), &supervisor)
        .await
        .expect("options that can work");
    (history, supervisor)
}

/// A session beside the adapter's.
pub(super) async fn session() -> (Session, ScyllaOptions) {
    let options = options().await;
    (session::open(&options).await.expect("a session"), options)
}

/// Runs a statement of the test's own.
pub(super) async fn run(session: &Session, cql: String, values: impl SerializeRow) {
    session.query_unpaged(cql, values).await.expect("a statement that the store takes");
}
