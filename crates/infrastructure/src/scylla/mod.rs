//! The history in a CQL store: ScyllaDB, or Apache Cassandra.
//!
//! Read [`options`](ScyllaOptions) first, then `history_store` (the port), `append` (how rows are written), `connection` (how a pod starts while the
//! store is away) and `migrations` (the schema). The statements themselves are in `statements`, the tables in `migrations/cql`.
//!
//! Every row's key and its write timestamp come from the log, so writing the same record again changes nothing and an older record cannot undo
//! a newer one. No lightweight transaction is paid per message; the one that there is guards migrations.

mod append;
mod connection;
mod error;
mod history_store;
mod migration_lock;
mod migrations;
mod options;
mod rows;
mod session;
mod statements;
#[cfg(test)]
mod tests;

pub use connection::ScyllaStartError;
pub use history_store::ScyllaHistory;
pub use migration_lock::LockError;
pub use migrations::{MigrationError, MigrationReport, migrate, pending};
pub use options::{Consistency, OptionsError, ScyllaOptions, TlsOptions};
pub use session::ConnectError;
