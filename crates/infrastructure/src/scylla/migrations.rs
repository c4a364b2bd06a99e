//! The schema: numbered, checksummed, forward only, one pod at a time.

use super::migration_lock::{Lock, LockError, LockTiming};
use super::options::{OptionsError, ScyllaOptions};
use super::session::{self, ConnectError};
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::random::Random;
use scylla::client::session::Session;
use scylla::errors::{
    DbError, ExecutionError, PrepareError, RequestAttemptError, SchemaAgreementError, UseKeyspaceError,
};
use scylla::statement::Consistency;
use scylla::statement::unprepared::Statement;
use scylla::value::CqlTimestamp;
use siphasher::sip::SipHasher13;
use siphasher::sip128::{self, Hasher128 as _};
use std::collections::BTreeMap;
use std::hash::Hasher;
use std::time::Duration;
use uuid::Uuid;

/// Every migration that there ever was, ascending. A released one is never changed: mend it by another.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "history", cql: include_str!("../../../../migrations/cql/0001_history.cql") },
    Migration {
        version: 2,
        name: "log_progress",
        cql: include_str!("../../../../migrations/cql/0002_log_progress.cql"),
    },
];

/// How long one statement about the schema may take. The lock is renewed before each, and its time is made of this one.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a table that another process has just made may take until it can be used.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
const SETTLE_PAUSES: u32 = 50;

/// One file of `migrations/cql`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    pub(super) version: i32,
    pub(super) name: &'static str,
    pub(super) cql: &'static str,
}

/// What a run of the migrations did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrationReport {
    /// The files that were applied now, as `0001_history`.
    pub applied: Vec<String>,
    /// The files that had been applied before.
    pub already_there: Vec<String>,
}

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// An option cannot work.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// There is no session with the store.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A newer version of the program has been here.
    #[error("the history store's schema has version {found}, this program knows only {known}: use a newer program")]
    NewerSchema {
        /// The newest migration that was applied.
        found: i32,
        /// The newest one of this program.
        known: i32,
    },
    /// What was applied is not what this program has under that number.
    #[error(
        "migration {name} was applied with another content than this program has: a released migration must not change"
    )]
    OtherMigration {
        /// The file, as `0001_history`.
        name: String,
    },
    /// The schema is not there, and the options say that it is not made at the start.
    #[error("the history store's schema has version {found}, this program needs {needed}: run `chatify migrate`")]
    SchemaBehind {
        /// The newest migration that was applied; 0 when there is none.
        found: i32,
        /// The newest one of this program.
        needed: i32,
    },
    /// The user may not change the schema.
    #[error("the history store's user may not {action}: grant it, or run `chatify migrate` as a user who may")]
    NotPermitted {
        /// What it was about.
        action: String,
        /// What the store said.
        #[source]
        source: Box<ExecutionError>,
    },
    /// There are fewer nodes than copies of each row. Every data centre has all copies, so the smallest one counts.
    #[error(
        "scylla.replication_factor is {wanted}, more than the nodes ({nodes}) that the history store has in `{datacenter}`: \
         lower it, or add nodes"
    )]
    TooFewNodes {
        /// The option.
        wanted: u16,
        /// Where they are too few.
        datacenter: String,
        /// How many nodes are known there.
        nodes: usize,
    },
    /// Another process has the lock, or it was lost.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A request did not succeed.
    #[error("the history store could not {action}")]
    Failed {
        /// What was tried.
        action: String,
        /// What the driver said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl MigrationError {
    /// Whether trying again may help although nobody changes anything.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Connect(error) => error.may_pass(),
            Self::Lock(_) | Self::Failed { .. } => true,
            Self::Options(_)
            | Self::NewerSchema { .. }
            | Self::OtherMigration { .. }
            | Self::SchemaBehind { .. }
            | Self::NotPermitted { .. }
            | Self::TooFewNodes { .. } => false,
        }
    }
}

/// Brings the schema up to date: makes the keyspace when it is missing, then applies what has not been applied. Any number of processes may do so
/// at the same time; one works, the others wait for it (three minutes at most). A process that dies on the way keeps the others waiting for two.
///
/// # Errors
/// When the store cannot be reached, does not permit it, or holds a schema that is newer or was changed.
pub async fn migrate(
    options: &ScyllaOptions,
    clock: &dyn Clock,
    random: &dyn Random,
) -> Result<MigrationReport, MigrationError> {
    options.validate()?;
    let session = session::open(options).await?;
    apply(&session, options, clock, random).await
}

/// The files that [`migrate`] would apply, as `0001_history`; changes nothing.
///
/// # Errors
/// When the store cannot be reached, or holds a schema that is newer or was changed.
pub async fn pending(options: &ScyllaOptions) -> Result<Vec<String>, MigrationError> {
    options.validate()?;
    let session = session::open(options).await?;
    let applied = read_applied(&session, &options.keyspace).await?;
    Ok(missing(MIGRATIONS, &applied)?.into_iter().map(Migration::file).collect())
}

/// The same over a session.
pub(super) async fn apply(
    session: &Session,
    options: &ScyllaOptions,
    clock: &dyn Clock,
    random: &dyn Random,
) -> Result<MigrationReport, MigrationError> {
    let run = Run { session, options, clock, timing: LockTiming::default(), migrations: MIGRATIONS };
    run.apply(random.u128()).await
}

/// Refuses a schema that is not exactly this program's.
pub(super) async fn check(session: &Session, options: &ScyllaOptions) -> Result<(), MigrationError> {
    let applied = read_applied(session, &options.keyspace).await?;
    match missing(MIGRATIONS, &applied)?.first() {
        None => Ok(()),
        Some(_) => Err(MigrationError::SchemaBehind { found: newest(&applied), needed: known(MIGRATIONS) }),
    }
}

/// Versions that were applied, with their checksums.
type Applied = BTreeMap<i32, String>;

/// One run of the migrations.
pub(super) struct Run<'run> {
    pub(super) session: &'run Session,
    pub(super) options: &'run ScyllaOptions,
    pub(super) clock: &'run dyn Clock,
    pub(super) timing: LockTiming,
    pub(super) migrations: &'run [Migration],
}

impl Run<'_> {
    pub(super) async fn apply(&self, owner: u128) -> Result<MigrationReport, MigrationError> {
        // Most starts find everything done: they take no lock and need no right to change anything.
        let before = read_applied(self.session, &self.options.keyspace).await?;
        let mut report = MigrationReport::default();
        if missing(self.migrations, &before)?.is_empty() {
            report.already_there = self.migrations.iter().map(Migration::file).collect();
            return Ok(report);
        }
        self.prepare_lock().await?;
        let lock = Lock::acquire(self.session, &self.options.keyspace, owner, self.timing).await?;
        let outcome = self.apply_missing(&lock, &mut report).await;
        // Given back also after a failure, so that the next process need not wait for its end; should that fail, it ends by itself.
        let released = lock.release().await;
        outcome?;
        released?;
        Ok(report)
    }

    async fn apply_missing(&self, lock: &Lock<'_>, report: &mut MigrationReport) -> Result<(), MigrationError> {
        let keyspace = &self.options.keyspace;
        // Said even when the table can be seen: the nodes agree on it after this.
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.schema_migrations \
             (version int PRIMARY KEY, name text, checksum text, applied_at timestamp)"
        );
        change(self.session, create, &format!("create the table `{keyspace}.schema_migrations`")).await?;
        // Read again: another process may have done it before this one had the lock.
        let applied = read_applied(self.session, keyspace).await?;
        let missing = missing(self.migrations, &applied)?;
        for migration in self.migrations {
            if missing.iter().any(|one| one.version == migration.version) {
                self.run(lock, migration).await?;
                report.applied.push(migration.file());
            } else {
                report.already_there.push(migration.file());
            }
        }
        Ok(())
    }

    /// One statement at a time, each after the nodes agree on the one before.
    async fn run(&self, lock: &Lock<'_>, migration: &Migration) -> Result<(), MigrationError> {
        let keyspace = &self.options.keyspace;
        let file = migration.file();
        self.session
            .use_keyspace(keyspace, true)
            .await
            .map_err(|error: UseKeyspaceError| failed("use the keyspace", error))?;
        for statement in statements(migration.cql) {
            lock.renew().await?;
            change(self.session, statement, &format!("apply migration {file}")).await?;
        }
        lock.renew().await?;
        let insert = request(format!(
            "INSERT INTO {keyspace}.schema_migrations (version, name, checksum, applied_at) VALUES (?, ?, ?, ?)"
        ));
        let now = CqlTimestamp(self.clock.now().as_millis());
        let values = (migration.version, migration.name, migration.checksum(), now);
        let action = format!("note migration {file}");
        self.session.query_unpaged(insert, values).await.map_err(|error| refused(&action, error))?;
        tracing::info!(version = migration.version, name = migration.name, keyspace, "schema migration applied");
        Ok(())
    }

    /// What the lock needs, and so has to be made without it: the keyspace and the lock's own table. Processes that make them at the very same moment make
    /// the same, because a keyspace is known by its name, and the table by an id that they all give it.
    async fn prepare_lock(&self) -> Result<(), MigrationError> {
        let (keyspace, copies) = (&self.options.keyspace, self.options.replication_factor);
        if !exists(self.session, "keyspaces", keyspace, None).await? {
            self.check_copies()?;
            let create = format!(
                "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = \
                 {{'class': 'NetworkTopologyStrategy', 'replication_factor': {copies}}}"
            );
            change(self.session, create, &format!("create the keyspace `{keyspace}`")).await?;
        }
        // Said even when the table can be seen: the node answers when it has made it itself, or when another's is ready to be used.
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.schema_lock (name text PRIMARY KEY, owner uuid) WITH id = '{}'",
            lock_table_id(keyspace)
        );
        change(self.session, create, &format!("create the table `{keyspace}.schema_lock`")).await
    }

    /// Refuses more copies than there can be in the data centre that is asked, or in the smallest one.
    fn check_copies(&self) -> Result<(), MigrationError> {
        let state = self.session.get_cluster_state();
        let nodes = state.get_nodes_info().iter().map(|node| node.datacenter.as_deref());
        let (datacenter, nodes) = fewest_nodes(nodes, self.options.local_datacenter.as_deref());
        let wanted = self.options.replication_factor;
        if nodes < usize::from(wanted) {
            return Err(MigrationError::TooFewNodes { wanted, datacenter, nodes });
        }
        Ok(())
    }
}

/// The id of the lock's table. Without one each node that is told to make the table draws an id of its own, and two nodes that are told at once then
/// disagree about the table for good. Made of the keyspace's name, because no two tables of a store may have the same.
///
/// A keyspace that is dropped and made again gets the same id again. Rows of before that come back with it do no harm in this table: they end by
/// themselves. That is why only this table has such an id; all others are made under the lock.
pub(super) fn lock_table_id(keyspace: &str) -> Uuid {
    let mut hasher = sip128::SipHasher13::new();
    hasher.write(format!("{keyspace}.schema_lock").as_bytes());
    uuid::Builder::from_custom_bytes(hasher.finish128().as_u128().to_be_bytes()).into_uuid()
}

/// How many nodes `wanted` has, or the data centre with the fewest. A node that does not say where it is may be anywhere, so it counts everywhere.
pub(super) fn fewest_nodes<'node>(
    datacenters: impl Iterator<Item = Option<&'node str>>,
    wanted: Option<&str>,
) -> (String, usize) {
    let (mut counts, mut anywhere) = (BTreeMap::<&str, usize>::new(), 0);
    for datacenter in datacenters {
        match datacenter {
            Some(datacenter) => *counts.entry(datacenter).or_default() += 1,
            None => anywhere += 1,
        }
    }
    let (datacenter, nodes) = match wanted {
        Some(wanted) => (wanted, counts.get(wanted).copied().unwrap_or(0)),
        None => counts.into_iter().min_by_key(|(_, nodes)| *nodes).unwrap_or(("?", 0)),
    };
    (datacenter.to_owned(), nodes + anywhere)
}

impl Migration {
    fn file(&self) -> String {
        format!("{:04}_{}", self.version, self.name)
    }

    pub(super) fn checksum(&self) -> String {
        let mut hasher = SipHasher13::new();
        hasher.write(self.cql.as_bytes());
        format!("{:016x}", hasher.finish())
    }
}

/// The migrations that have not been applied; those that have must be the same.
fn missing<'all>(migrations: &'all [Migration], applied: &Applied) -> Result<Vec<&'all Migration>, MigrationError> {
    let (found, known) = (newest(applied), known(migrations));
    if found > known {
        return Err(MigrationError::NewerSchema { found, known });
    }
    let mut missing = Vec::new();
    for migration in migrations {
        match applied.get(&migration.version) {
            Some(checksum) if *checksum == migration.checksum() => {}
            Some(_) => return Err(MigrationError::OtherMigration { name: migration.file() }),
            None => missing.push(migration),
        }
    }
    Ok(missing)
}

fn newest(applied: &Applied) -> i32 {
    applied.last_key_value().map_or(0, |(version, _)| *version)
}

fn known(migrations: &[Migration]) -> i32 {
    migrations.last().map_or(0, |newest| newest.version)
}

/// The statements of a file: each ends with a `;` at the end of a line; lines that begin with `--` are for people.
pub(super) fn statements(cql: &str) -> Vec<String> {
    let lines: Vec<&str> = cql.lines().map(str::trim_end).filter(|line| !line.trim_start().starts_with("--")).collect();
    let text = lines.join("\n") + "\n";
    text.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()).map(str::to_owned).collect()
}

/// A request about the schema. More than half of all copies, wherever they are: pods of every data centre share the schema.
pub(super) fn request(cql: String) -> Statement {
    let mut statement = Statement::new(cql);
    statement.set_consistency(Consistency::Quorum);
    statement.set_serial_consistency(Some(scylla::statement::SerialConsistency::Serial));
    statement.set_request_timeout(Some(STATEMENT_TIMEOUT));
    statement
}

/// Runs a statement that changes the schema, and waits until all nodes agree.
async fn change(session: &Session, cql: String, action: &str) -> Result<(), MigrationError> {
    session.query_unpaged(request(cql), ()).await.map_err(|error| refused(action, error))?;
    session.await_schema_agreement().await.map_err(|error: SchemaAgreementError| failed(action, error))?;
    Ok(())
}

/// Whether there is this keyspace, or this table in it.
async fn exists(session: &Session, kind: &str, keyspace: &str, table: Option<&str>) -> Result<bool, MigrationError> {
    let base = format!("SELECT keyspace_name FROM system_schema.{kind} WHERE keyspace_name = ?");
    let answer = match table {
        None => session.query_unpaged(local(base), (keyspace,)).await,
        Some(table) => session.query_unpaged(local(base + " AND table_name = ?"), (keyspace, table)).await,
    };
    let rows = answer.map_err(|error| refused("read the schema", error))?.into_rows_result();
    Ok(rows.map_err(|error| failed("read the schema", error))?.rows_num() > 0)
}

/// The tables of the schema are each node's own, so one node is all that can be asked.
fn local(cql: String) -> Statement {
    let mut statement = request(cql);
    statement.set_consistency(Consistency::One);
    statement
}

async fn read_applied(session: &Session, keyspace: &str) -> Result<Applied, MigrationError> {
    if !exists(session, "tables", keyspace, Some("schema_migrations")).await? {
        return Ok(Applied::new());
    }
    let action = "read which migrations were applied";
    let select = request(format!("SELECT version, checksum FROM {keyspace}.schema_migrations"));
    let mut pauses = 0;
    let answer = loop {
        match session.query_unpaged(select.clone(), ()).await {
            // A table that is being made is in the list of tables a moment before it can be used.
            Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Invalid, _)))
                if pauses < SETTLE_PAUSES =>
            {
                pauses += 1;
                tokio::time::sleep(SETTLE_PAUSE).await;
            }
            answered => break answered.map_err(|error| refused(action, error))?,
        }
    };
    let rows = answer.into_rows_result().map_err(|error| failed(action, error))?;
    let mut applied = Applied::new();
    for row in rows.rows::<(i32, String)>().map_err(|error| failed(action, error))? {
        let (version, checksum) = row.map_err(|error| failed(action, error))?;
        applied.insert(version, checksum);
    }
    Ok(applied)
}

/// A request failed, perhaps because it is not permitted.
pub(super) fn refused(action: &str, error: ExecutionError) -> MigrationError {
    let permitted = !matches!(
        &error,
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Unauthorized, _))
            | ExecutionError::PrepareError(PrepareError::AllAttemptsFailed {
                first_attempt: RequestAttemptError::DbError(DbError::Unauthorized, _)
            })
    );
    if permitted {
        return failed(action, error);
    }
    MigrationError::NotPermitted { action: action.to_owned(), source: Box::new(error) }
}

fn failed(action: &str, error: impl std::error::Error + Send + Sync + 'static) -> MigrationError {
    MigrationError::Failed { action: action.to_owned(), source: Box::new(error) }
}
