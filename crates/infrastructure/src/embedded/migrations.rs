//! The schema: numbered, checksummed, forward only.

use super::backfill;
use super::database::classify;
use super::error::OpenError;
use chatify_domain::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::path::Path;

/// Every migration that there ever was, ascending. A released one is never changed: mend it by another.
const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "log_and_history",
        sql: include_str!("../../../../migrations/sqlite/0001_log_and_history.sql"),
        fill: nothing,
    },
    Migration {
        version: 2,
        name: "checksums",
        sql: include_str!("../../../../migrations/sqlite/0002_checksums.sql"),
        fill: backfill::checksums,
    },
];

struct Migration {
    version: u32,
    name: &'static str,
    sql: &'static str,
    /// What the statements cannot say; runs after them, in their transaction.
    fill: fn(&Connection) -> Result<(), rusqlite::Error>,
}

fn nothing(_: &Connection) -> Result<(), rusqlite::Error> {
    Ok(())
}

impl Migration {
    fn checksum(&self) -> String {
        let mut hasher = SipHasher13::new();
        hasher.write(self.sql.as_bytes());
        format!("{:016x}", hasher.finish())
    }
}

/// Brings the database to the newest schema.
pub(super) fn apply(connection: &mut Connection, file: &Path, now: Timestamp) -> Result<(), OpenError> {
    apply_all(MIGRATIONS, connection, file, now)
}

fn apply_all(
    migrations: &[Migration],
    connection: &mut Connection,
    file: &Path,
    now: Timestamp,
) -> Result<(), OpenError> {
    let failed = |source| classify(file, source);
    connection
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, \
             checksum TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT",
        )
        .map_err(failed)?;
    let found: u32 = connection
        .query_row("SELECT coalesce(max(version), 0) FROM schema_migrations", [], |row| row.get(0))
        .map_err(failed)?;
    let known = migrations.last().map_or(0, |newest| newest.version);
    if found > known {
        return Err(OpenError::NewerSchema { found, known });
    }
    for migration in migrations {
        match applied_checksum(connection, migration.version).map_err(failed)? {
            Some(checksum) if checksum == migration.checksum() => {}
            Some(_) => return Err(OpenError::OtherMigration { version: migration.version }),
            None => run(connection, migration, now).map_err(failed)?,
        }
    }
    Ok(())
}

fn applied_checksum(connection: &Connection, version: u32) -> Result<Option<String>, rusqlite::Error> {
    connection
        .query_row("SELECT checksum FROM schema_migrations WHERE version = ?1", [version], |row| row.get(0))
        .optional()
}

/// The migration and the note that it was applied are one transaction.
fn run(connection: &mut Connection, migration: &Migration, now: Timestamp) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(migration.sql)?;
    (migration.fill)(&transaction)?;
    transaction.execute(
        "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (?1, ?2, ?3, ?4)",
        params![migration.version, migration.name, migration.checksum(), now.as_millis()],
    )?;
    transaction.commit()?;
    tracing::info!(version = migration.version, name = migration.name, "schema migration applied");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migrated(migrations: &[Migration], connection: &mut Connection) -> Result<(), OpenError> {
        apply_all(migrations, connection, Path::new("test.db"), Timestamp::from_millis(1))
    }

    const FIRST: Migration = Migration { version: 1, name: "first", sql: "CREATE TABLE a (x INTEGER)", fill: nothing };
    const SECOND: Migration =
        Migration { version: 2, name: "second", sql: "ALTER TABLE a ADD COLUMN y INTEGER", fill: nothing };

    #[test]
    fn each_is_applied_once_and_in_order() {
        let mut connection = Connection::open_in_memory().expect("a database");
        migrated(&[FIRST], &mut connection).expect("the first");
        migrated(&[FIRST, SECOND], &mut connection).expect("the second");
        migrated(&[FIRST, SECOND], &mut connection).expect("nothing to do");
        connection.execute("INSERT INTO a (x, y) VALUES (1, 2)", []).expect("both columns are there");
    }

    #[test]
    fn a_newer_or_a_changed_schema_is_refused() {
        let mut connection = Connection::open_in_memory().expect("a database");
        migrated(&[FIRST, SECOND], &mut connection).expect("applied");
        let newer = migrated(&[FIRST], &mut connection).expect_err("newer");
        assert!(matches!(newer, OpenError::NewerSchema { found: 2, known: 1 }), "{newer:?}");
        let changed = Migration { sql: "CREATE TABLE b (x INTEGER)", ..FIRST };
        let other = migrated(&[changed, SECOND], &mut connection).expect_err("another");
        assert!(matches!(other, OpenError::OtherMigration { version: 1 }), "{other:?}");
    }

    #[test]
    fn a_migration_that_fails_leaves_nothing_behind() {
        let mut connection = Connection::open_in_memory().expect("a database");
        let broken = Migration { sql: "CREATE TABLE a (x INTEGER); CREATE nonsense", ..FIRST };
        assert!(migrated(&[broken], &mut connection).is_err());
        migrated(&[FIRST], &mut connection).expect("the number is still free");
    }

    #[test]
    fn numbers_ascend_without_gaps() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version as usize, index + 1, "{}", migration.name);
        }
    }
}
