//! The schema on the real store. Each test that changes one has a keyspace of its own, and drops it.

use super::{connect, options_for, run, unique};
use crate::scylla::migration_lock::{Lock, LockError, LockTiming};
use crate::scylla::migrations::{
    MIGRATIONS, Migration, MigrationError, MigrationReport, Run, fewest_nodes, lock_table_id, refused, statements,
};
use crate::scylla::{ScyllaHistory, ScyllaOptions, ScyllaStartError, migrate, session};
use chatify_building_blocks::clock::SystemClock;
use chatify_building_blocks::random::{Random, SystemRandom};
use chatify_building_blocks::tasks::Supervisor;
use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const FIRST: Migration = Migration {
    version: 1,
    name: "first",
    cql: "-- A table;\nCREATE TABLE IF NOT EXISTS a (x int PRIMARY KEY);\nCREATE TABLE IF NOT EXISTS b (\n x int PRIMARY KEY\n);\n",
};
const SECOND: Migration =
    Migration { version: 2, name: "second", cql: "CREATE TABLE IF NOT EXISTS c (x int PRIMARY KEY);" };

struct Keyspace {
    options: ScyllaOptions,
    session: Session,
    timing: LockTiming,
}

impl Keyspace {
    /// A name that is not taken, and a session that may make it.
    async fn new() -> Self {
        let options = options_for(&format!("test_{}", unique()));
        let session = session::open(&options).await.expect("a store; run `scripts/services.sh start cassandra`");
        Self { options, session, timing: LockTiming::default() }
    }

    async fn apply(&self, migrations: &[Migration]) -> Result<MigrationReport, MigrationError> {
        let Self { options, session, timing } = self;
        let run = Run { session, options, clock: &SystemClock::new(), timing: *timing, migrations };
        run.apply(SystemRandom.u128()).await
    }

    async fn drop(self) {
        run(&self.session, format!("DROP KEYSPACE IF EXISTS {}", self.options.keyspace), ()).await;
    }
}

fn report(applied: &[&str], already_there: &[&str]) -> MigrationReport {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    MigrationReport { applied: owned(applied), already_there: owned(already_there) }
}

#[tokio::test]
async fn each_is_applied_once_and_in_order() {
    let keyspace = Keyspace::new().await;
    assert_eq!(keyspace.apply(&[FIRST]).await.expect("a fresh store"), report(&["0001_first"], &[]));
    assert_eq!(keyspace.apply(&[FIRST]).await.expect("nothing to do"), report(&[], &["0001_first"]));
    let both = keyspace.apply(&[FIRST, SECOND]).await.expect("the second");
    assert_eq!(both, report(&["0002_second"], &["0001_first"]));
    for table in ["a", "b", "c"] {
        run(&keyspace.session, format!("INSERT INTO {}.{table} (x) VALUES (1)", keyspace.options.keyspace), ()).await;
    }
    keyspace.drop().await;
}

#[tokio::test]
async fn a_newer_or_a_changed_schema_is_refused() {
    let keyspace = Keyspace::new().await;
    keyspace.apply(&[FIRST, SECOND]).await.expect("applied");
    let newer = keyspace.apply(&[FIRST]).await.expect_err("newer");
    assert!(matches!(newer, MigrationError::NewerSchema { found: 2, known: 1 }), "{newer:?}");
    let changed = Migration { cql: "CREATE TABLE IF NOT EXISTS d (x int PRIMARY KEY);", ..FIRST };
    let other = keyspace.apply(&[changed, SECOND]).await.expect_err("another");
    assert!(matches!(&other, MigrationError::OtherMigration { name } if name == "0001_first"), "{other:?}");
    assert!(!newer.may_pass() && !other.may_pass());
    // The real program meets a schema that is newer than its own: it does not start.
    let supervisor = Supervisor::new();
    let options = keyspace.options.clone();
    let start = ScyllaHistory::connect(options, Arc::new(SystemClock::new()), Arc::new(SystemRandom), &supervisor);
    let error = start.await.expect_err("another schema");
    assert!(matches!(error, ScyllaStartError::Migration(_)), "{error:?}");
    keyspace.drop().await;
}

#[tokio::test]
async fn several_at_once_apply_each_once() {
    let keyspace = Keyspace::new().await;
    let other = Keyspace { options: keyspace.options.clone(), ..Keyspace::new().await };
    let third = Keyspace { options: keyspace.options.clone(), ..Keyspace::new().await };
    let all = [FIRST, SECOND];
    let (one, two, three) = tokio::join!(keyspace.apply(&all), other.apply(&all), third.apply(&all));
    let mut applied = Vec::new();
    for outcome in [one, two, three] {
        let report = outcome.expect("applied, or there already");
        assert_eq!(report.applied.len() + report.already_there.len(), 2, "{report:?}");
        applied.extend(report.applied);
    }
    assert_eq!(applied, ["0001_first", "0002_second"]);
    keyspace.drop().await;
}

#[tokio::test]
async fn a_holder_is_waited_for_and_a_dead_one_is_forgotten() {
    let mut keyspace = Keyspace::new().await;
    keyspace.apply(&[FIRST]).await.expect("applied");
    let lock_of_another = async |seconds: u32| {
        let cql = format!(
            "INSERT INTO {}.schema_lock (name, owner) VALUES ('migrations', ?) IF NOT EXISTS USING TTL {seconds}",
            keyspace.options.keyspace
        );
        run(&keyspace.session, cql, (Uuid::from_u128(7),)).await;
    };
    lock_of_another(3600).await;
    assert_eq!(keyspace.apply(&[FIRST]).await.expect("nothing to do needs no lock"), report(&[], &["0001_first"]));
    // It may take the lock after it has given up waiting for the answer, and holds it for its time then.
    let impatient = LockTiming {
        patience: Duration::from_millis(300),
        time_to_live: Duration::from_secs(2),
        ..LockTiming::default()
    };
    let (patient, timing) = (keyspace.timing, impatient);
    keyspace.timing = timing;
    let error = keyspace.apply(&[FIRST, SECOND]).await.expect_err("held by another");
    assert!(matches!(error, MigrationError::Lock(LockError::Held(_))), "{error:?}");
    assert!(error.may_pass());
    keyspace.timing = patient;
    let delete = format!("DELETE FROM {}.schema_lock WHERE name = 'migrations' IF EXISTS", keyspace.options.keyspace);
    run(&keyspace.session, delete, ()).await;
    // This holder never renews nor releases, as one that was killed.
    let cql = format!(
        "INSERT INTO {}.schema_lock (name, owner) VALUES ('migrations', ?) IF NOT EXISTS USING TTL 2",
        keyspace.options.keyspace
    );
    run(&keyspace.session, cql, (Uuid::from_u128(7),)).await;
    let applied = keyspace.apply(&[FIRST, SECOND]).await.expect("the holder is forgotten");
    assert_eq!(applied, report(&["0002_second"], &["0001_first"]));
    keyspace.drop().await;
}

#[tokio::test]
async fn a_lock_is_one_holders_until_it_is_given_back_or_lost() {
    let keyspace = Keyspace::new().await;
    keyspace.apply(&[FIRST]).await.expect("applied");
    let name = &keyspace.options.keyspace;
    let impatient = LockTiming { patience: Duration::from_secs(2), ..keyspace.timing };
    let lock = Lock::acquire(&keyspace.session, name, 1, keyspace.timing).await.expect("free");
    lock.renew().await.expect("held");
    let again = Lock::acquire(&keyspace.session, name, 1, keyspace.timing).await.expect("a repeat of the same try");
    let refused = Lock::acquire(&keyspace.session, name, 2, impatient).await;
    assert!(matches!(refused, Err(LockError::Held(_))));
    lock.release().await.expect("given back");
    let other = Lock::acquire(&keyspace.session, name, 2, keyspace.timing).await.expect("free again");
    assert!(matches!(again.renew().await, Err(LockError::Lost)));
    again.release().await.expect("nothing of its own to give back");
    other.renew().await.expect("still held");
    keyspace.drop().await;
}

#[tokio::test]
async fn a_schema_that_is_not_made_at_the_start_has_to_be_there() {
    let keyspace = Keyspace::new().await;
    let without = ScyllaOptions { migrate_at_start: false, ..keyspace.options.clone() };
    let supervisor = Supervisor::new();
    let (clock, random) = (Arc::new(SystemClock::new()), Arc::new(SystemRandom));
    let error = ScyllaHistory::connect(without.clone(), clock, random, &supervisor).await.expect_err("no schema");
    let found = matches!(error, ScyllaStartError::Migration(MigrationError::SchemaBehind { found: 0, .. }));
    assert!(found, "{error:?}");
    let first = migrate(&without, &SystemClock::new(), &SystemRandom).await.expect("made by hand");
    assert_eq!(first.applied.len(), MIGRATIONS.len());
    let (history, _supervisor) = connect(without).await;
    assert!(history.is_connected());
    keyspace.drop().await;
}

#[tokio::test]
async fn more_copies_than_nodes_are_refused_before_anything_is_made() {
    let mut keyspace = Keyspace::new().await;
    keyspace.options.replication_factor = 3;
    let error = keyspace.apply(&[FIRST]).await.expect_err("one node");
    assert!(matches!(error, MigrationError::TooFewNodes { wanted: 3, nodes: 1, .. }), "{error:?}");
    assert!(!error.may_pass());
    assert!(error.to_string().contains("`datacenter1`"), "{error}");
    assert!(!ScyllaStartError::Migration(error).ends_the_process(), "more nodes may come");
    let newer = MigrationError::NewerSchema { found: 2, known: 1 };
    assert!(ScyllaStartError::Migration(newer).ends_the_process());
}

/// All processes give the lock's table the same id, also when the keyspace is made again.
#[tokio::test]
async fn the_locks_table_has_the_id_of_its_keyspace() {
    let keyspace = Keyspace::new().await;
    let name = &keyspace.options.keyspace;
    for _ in 0..2 {
        assert_eq!(keyspace.apply(&[FIRST]).await.expect("a fresh keyspace"), report(&["0001_first"], &[]));
        let cql = "SELECT id FROM system_schema.tables WHERE keyspace_name = ? AND table_name = 'schema_lock'";
        let found = keyspace.session.query_unpaged(cql, (name,)).await.expect("the schema");
        let (id,) = found.into_rows_result().expect("rows").first_row::<(Uuid,)>().expect("a table");
        assert_eq!(id, lock_table_id(name));
        run(&keyspace.session, format!("DROP KEYSPACE {name}"), ()).await;
    }
}

/// A run that failed half way begins again at the first statement of its file.
#[tokio::test]
async fn every_statement_may_be_run_again() {
    let keyspace = Keyspace::new().await;
    migrate(&keyspace.options, &SystemClock::new(), &SystemRandom).await.expect("applied");
    keyspace.session.use_keyspace(&keyspace.options.keyspace, true).await.expect("made");
    for statement in MIGRATIONS.iter().flat_map(|migration| statements(migration.cql)) {
        run(&keyspace.session, statement, ()).await;
    }
    keyspace.drop().await;
}

#[test]
fn ids_of_the_locks_tables_differ_between_keyspaces() {
    assert_eq!(lock_table_id("chatify"), lock_table_id("chatify"));
    assert_ne!(lock_table_id("chatify"), lock_table_id("chatify_2"));
    assert_eq!(lock_table_id("chatify").get_version_num(), 8);
}

#[test]
fn the_copies_are_compared_with_the_data_centre_that_is_asked_or_the_smallest() {
    let nodes = [Some("near"), Some("far"), Some("near"), Some("near"), Some("far")];
    assert_eq!(fewest_nodes(nodes.into_iter(), None), ("far".to_owned(), 2));
    assert_eq!(fewest_nodes(nodes.into_iter(), Some("near")), ("near".to_owned(), 3));
    assert_eq!(fewest_nodes(nodes.into_iter().chain([None]), None), ("far".to_owned(), 3));
    assert_eq!(fewest_nodes([None].into_iter(), None).1, 1);
    assert_eq!(fewest_nodes([].into_iter(), None).1, 0);
}

#[test]
fn numbers_ascend_without_gaps() {
    for (index, migration) in (1..).zip(MIGRATIONS) {
        assert_eq!(migration.version, index, "{}", migration.name);
    }
}

#[test]
fn a_file_is_cut_into_its_statements() {
    assert_eq!(statements(FIRST.cql).len(), 2);
    assert_eq!(statements("-- nothing;\n\n"), Vec::<String>::new());
    assert_eq!(statements("A;\r\nB;"), ["A", "B"]);
}

#[test]
fn what_is_not_permitted_is_said_politely() {
    let unauthorized =
        RequestAttemptError::DbError(DbError::Unauthorized, "User chatify has no CREATE permission".into());
    let error = refused("create the keyspace `chat`", ExecutionError::LastAttemptError(unauthorized));
    assert!(matches!(error, MigrationError::NotPermitted { .. }), "{error:?}");
    assert!(!error.may_pass());
    assert_eq!(
        error.to_string(),
        "the history store's user may not create the keyspace `chat`: grant it, or run `chatify migrate` as a user who may"
    );
}
