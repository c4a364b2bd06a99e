//! Every statement of the history, prepared once for each session.

use super::options::ScyllaOptions;
use scylla::client::session::Session;
use scylla::errors::PrepareError;
use scylla::statement::prepared::PreparedStatement;

/// Rows of one page of an answer.
const PAGE_ROWS: i32 = 500;
/// Rows that the store looks at before it asks its replicas again when it counts; none of them is sent.
const COUNT_PAGE_ROWS: i32 = 10_000;

/// The prepared statements. All of them are idempotent: reads, and upserts whose key and timestamp come from the log.
pub(super) struct Statements {
    pub(super) insert_message: PreparedStatement,
    pub(super) insert_name: PreparedStatement,
    pub(super) insert_segment: PreparedStatement,
    pub(super) insert_progress: PreparedStatement,
    pub(super) progress: PreparedStatement,
    pub(super) segments: PreparedStatement,
    pub(super) count: PreparedStatement,
    pub(super) ascending: PreparedStatement,
    pub(super) descending: PreparedStatement,
    pub(super) by_id: PreparedStatement,
    pub(super) one: PreparedStatement,
}

/// The order of [`super::rows::MessageColumns`].
const COLUMNS: &str = "position, message_id, sender_id, text, created_at_utc, origin_pod_id, broker_partition";

impl Statements {
    pub(super) async fn prepare(session: &Session, options: &ScyllaOptions) -> Result<Self, PrepareError> {
        let keyspace = &options.keyspace;
        let slice = |order: &str| {
            format!(
                "SELECT {COLUMNS} FROM {keyspace}.chat_messages WHERE scope = ? AND segment = ? AND position >= ? AND position < ? \
                 ORDER BY position {order} LIMIT ?"
            )
        };
        let read = async |statement: String| prepare(session, statement, options.read_consistency.to_driver()).await;
        // The writer places rows by these, so they must meet every write that was acknowledged, whatever pages may miss.
        let exact = async |statement: String| prepare(session, statement, options.write_consistency.to_driver()).await;
        let write = async |statement: String| prepare(session, statement, options.write_consistency.to_driver()).await;
        Ok(Self {
            insert_message: write(format!(
                "INSERT INTO {keyspace}.chat_messages (scope, segment, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
            ))
            .await?,
            insert_name: write(format!(
                "INSERT INTO {keyspace}.messages_by_id (message_id, scope, sender_id, position, segment) VALUES (?, ?, ?, ?, ?) \
                 USING TIMESTAMP ?"
            ))
            .await?,
            insert_segment: write(format!(
                "INSERT INTO {keyspace}.scope_segments (scope, segment, first_created_at_utc) VALUES (?, ?, ?) USING TIMESTAMP ?"
            ))
            .await?,
            insert_progress: write(format!(
                "INSERT INTO {keyspace}.log_progress (broker_partition, position) VALUES (?, ?) USING TIMESTAMP ?"
            ))
            .await?,
            progress: read(format!("SELECT broker_partition, position FROM {keyspace}.log_progress")).await?,
            segments: exact(format!(
                "SELECT segment, first_created_at_utc FROM {keyspace}.scope_segments WHERE scope = ?"
            ))
            .await?,
            count: counting(exact(format!(
                "SELECT count(*) FROM {keyspace}.chat_messages WHERE scope = ? AND segment = ? AND position < ?"
            ))
            .await?),
            ascending: read(slice("ASC")).await?,
            descending: read(slice("DESC")).await?,
            by_id: read(format!(
                "SELECT position, segment FROM {keyspace}.messages_by_id WHERE message_id = ? AND scope = ?"
            ))
            .await?,
            one: read(format!(
                "SELECT {COLUMNS} FROM {keyspace}.chat_messages WHERE scope = ? AND segment = ? AND position = ?"
            ))
            .await?,
        })
    }
}

/// The driver tries a request that failed on one node again on another, and only because it is marked as idempotent.
async fn prepare(
    session: &Session,
    statement: String,
    consistency: scylla::statement::Consistency,
) -> Result<PreparedStatement, PrepareError> {
    let mut prepared = session.prepare(statement).await?;
    prepared.set_consistency(consistency);
    prepared.set_is_idempotent(true);
    prepared.set_page_size(PAGE_ROWS);
    // The rows' columns are known from the preparation, so that an answer need not repeat them.
    prepared.set_use_cached_result_metadata(true);
    Ok(prepared)
}

/// The store counts page by page, each of them a request to the replicas.
fn counting(mut prepared: PreparedStatement) -> PreparedStatement {
    prepared.set_page_size(COUNT_PAGE_ROWS);
    prepared
}
