//! How rows are written: messages of one segment together, names one by one, many requests at the same time.

use super::connection::Link;
use super::error;
use super::rows::{self, MessageValues, NameValues};
use chatify_application::ports::history::{HistoryError, HistoryRow};
use chatify_domain::{Partition, Position};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use scylla::statement::batch::{Batch, BatchType};
use std::collections::BTreeMap;

/// Requests of one `append` that are on their way at the same time.
const IN_FLIGHT: usize = 64;
/// Messages of one segment that are written by one request. They are one partition, so the store applies them as one mutation.
const BATCH_ROWS: usize = 32;
/// Bytes of text in such a request, unless one message alone has more.
const BATCH_BYTES: usize = 16 * 1024;

/// One request.
enum Write<'rows> {
    Messages(Vec<MessageValues<'rows>>),
    Name(NameValues<'rows>),
}

/// Writes everything, or fails: what was written by then is written again, to no effect, when the caller repeats it.
pub(super) async fn append(link: &Link, history: &[HistoryRow]) -> Result<(), HistoryError> {
    let scopes: Vec<String> = history.iter().map(|row| row.message.sent.scope.to_string()).collect();
    let mut requests: Vec<BoxFuture<'_, Result<(), HistoryError>>> = Vec::new();
    for write in planned(history, &scopes) {
        requests.push(run(link, write).boxed());
    }
    stream::iter(requests).buffer_unordered(IN_FLIGHT).try_collect::<()>().await?;
    note_progress(link, history).await
}

/// Says how far the history has come; after the rows, so that it never speaks of one that is not there.
async fn note_progress(link: &Link, history: &[HistoryRow]) -> Result<(), HistoryError> {
    let mut newest: BTreeMap<Partition, Position> = BTreeMap::new();
    for row in history {
        let position = newest.entry(row.message.partition).or_insert(row.message.position);
        *position = row.message.position.max(*position);
    }
    for (partition, position) in newest {
        let values = (i64::from(partition.0), position.number(), position.number());
        let done = link.session.execute_unpaged(&link.statements.insert_progress, values).await;
        done.map_err(error::executed)?;
    }
    Ok(())
}

/// The messages by segment, each segment's in its order; the names beside them.
fn planned<'rows>(history: &'rows [HistoryRow], scopes: &'rows [String]) -> Vec<Write<'rows>> {
    let mut order: Vec<usize> = (0..history.len()).collect();
    order.sort_by_key(|&index| (&scopes[index], history[index].segment, history[index].message.position));
    let mut writes = Vec::with_capacity(history.len() * 2);
    let mut group: Vec<MessageValues<'rows>> = Vec::new();
    let mut bytes = 0;
    for index in order {
        let values = rows::message_values(&scopes[index], &history[index]);
        let length = values.5.len();
        let other_segment = group.last().is_some_and(|last| (last.0, last.1) != (values.0, values.1));
        let full = group.len() >= BATCH_ROWS || bytes + length > BATCH_BYTES;
        if !group.is_empty() && (other_segment || full) {
            writes.push(Write::Messages(std::mem::take(&mut group)));
            bytes = 0;
        }
        bytes += length;
        group.push(values);
        writes.push(Write::Name(rows::name_values(&scopes[index], &history[index])));
    }
    if !group.is_empty() {
        writes.push(Write::Messages(group));
    }
    writes
}

async fn run(link: &Link, write: Write<'_>) -> Result<(), HistoryError> {
    let statements = &link.statements;
    let done = match write {
        Write::Name(values) => link.session.execute_unpaged(&statements.insert_name, values).await,
        Write::Messages(group) => match group.as_slice() {
            [one] => link.session.execute_unpaged(&statements.insert_message, one).await,
            group => link.session.batch(&batch(link, group.len()), group).await,
        },
    };
    done.map(|_| ()).map_err(error::executed)
}

/// Unlogged: one partition needs no log of batches to be applied whole.
fn batch(link: &Link, rows: usize) -> Batch {
    let insert = &link.statements.insert_message;
    let mut batch = Batch::new_with_statements(BatchType::Unlogged, vec![insert.clone().into(); rows]);
    batch.set_is_idempotent(true);
    if let Some(consistency) = insert.get_consistency() {
        batch.set_consistency(consistency);
    }
    batch
}
