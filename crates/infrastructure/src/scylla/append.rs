//! How rows are written: messages of one segment together, names that the same node keeps together, many requests at the same time.

use super::connection::Link;
use super::error;
use super::rows::{self, MessageValues, NameValues};
use chatify_application::ports::history::{HistoryError, HistoryRow};
use chatify_domain::{Partition, Position};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use scylla::cluster::ClusterState;
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Requests of one `append` that are on their way at the same time.
const IN_FLIGHT: usize = 64;
/// Messages of one segment that are written by one request. They are one partition, so the store applies them as one mutation.
const BATCH_ROWS: usize = 32;
/// Bytes of text in such a request, unless one message alone has more.
const BATCH_BYTES: usize = 16 * 1024;
/// Names that are written by one request. Each is a partition of its own, and Cassandra complains of a batch with more than ten
/// (`unlogged_batch_across_partitions_warn_threshold`) or with more than 5 KiB of several partitions (`batch_size_warn_threshold`).
const BATCH_NAMES: usize = 10;
/// Bytes of scopes and senders in such a request: with what the store adds to each row, less than it complains of.
const BATCH_NAME_BYTES: usize = 2 * 1024;

/// One request.
enum Write<'rows> {
    Messages(Vec<MessageValues<'rows>>),
    Names(Vec<NameValues<'rows>>),
}

/// The node, and the part of it, that the store asks first for a partition.
type Place = (Uuid, u32);

/// Writes everything, or fails: what was written by then is written again, to no effect, when the caller repeats it.
pub(super) async fn append(link: &Link, history: &[HistoryRow]) -> Result<(), HistoryError> {
    let scopes: Vec<String> = history.iter().map(|row| row.message.sent.scope.to_string()).collect();
    let mut requests: Vec<BoxFuture<'_, Result<(), HistoryError>>> = Vec::new();
    for write in planned(link, history, &scopes) {
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

/// What is to be written: the messages by segment, each segment's in its order, and the names beside them.
fn planned<'rows>(link: &Link, history: &'rows [HistoryRow], scopes: &'rows [String]) -> Vec<Write<'rows>> {
    let mut order: Vec<usize> = (0..history.len()).collect();
    order.sort_by_key(|&index| (&scopes[index], history[index].segment, history[index].message.position));
    let messages = order.iter().map(|&index| rows::message_values(&scopes[index], &history[index]));
    let together = |one: &MessageValues<'_>, other: &MessageValues<'_>| (one.0, one.1) == (other.0, other.1);
    let messages = lots(messages, together, |values| values.5.len(), (BATCH_ROWS, BATCH_BYTES));
    let cluster = link.session.get_cluster_state();
    let mut names: Vec<(Option<Place>, NameValues<'rows>)> = (0..history.len())
        .map(|index| rows::name_values(&scopes[index], &history[index]))
        .map(|values| (place(link, &cluster, &values), values))
        .collect();
    names.sort_by_key(|(place, _)| *place);
    let length = |(_, values): &(_, NameValues<'_>)| 2 * values.1.len() + values.2.len();
    let names = lots(names.into_iter(), |one, other| one.0 == other.0, length, (BATCH_NAMES, BATCH_NAME_BYTES));
    let names = names.into_iter().map(|lot| Write::Names(lot.into_iter().map(|(_, values)| values).collect()));
    messages.into_iter().map(Write::Messages).chain(names).collect()
}

/// Neighbours that belong together, in lots of at most so many and so many bytes, unless one alone has more.
fn lots<T>(
    items: impl Iterator<Item = T>,
    together: impl Fn(&T, &T) -> bool,
    length: impl Fn(&T) -> usize,
    (most, most_bytes): (usize, usize),
) -> Vec<Vec<T>> {
    let mut lots: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let more = length(&item);
        match lots.last_mut() {
            Some(lot)
                if lot.len() < most
                    && bytes + more <= most_bytes
                    && lot.last().is_some_and(|last| together(last, &item)) =>
            {
                bytes += more;
                lot.push(item);
            }
            Some(_) | None => {
                bytes = more;
                lots.push(vec![item]);
            }
        }
    }
    lots
}

/// Where the store keeps the name first, as far as the driver knows. What has the same place costs it one request instead of many: nothing is handed
/// on to nodes that the single requests would not have gone to.
fn place(link: &Link, cluster: &ClusterState, values: &NameValues<'_>) -> Option<Place> {
    let insert = &link.statements.insert_name;
    let token = insert.calculate_token(values).ok()??;
    let table = insert.get_table_spec()?;
    let (node, shard) = cluster.get_token_endpoints(table.ks_name(), table.table_name(), token).into_iter().next()?;
    Some((node.host_id, shard))
}

async fn run(link: &Link, write: Write<'_>) -> Result<(), HistoryError> {
    let statements = &link.statements;
    match write {
        Write::Messages(rows) => execute(link, &statements.insert_message, &rows).await,
        Write::Names(rows) => execute(link, &statements.insert_name, &rows).await,
    }
}

async fn execute<Row: SerializeRow>(link: &Link, insert: &PreparedStatement, rows: &[Row]) -> Result<(), HistoryError> {
    let done = match rows {
        [one] => link.session.execute_unpaged(insert, one).await,
        rows => link.session.batch(&batch(insert, rows.len()), rows).await,
    };
    done.map(|_| ()).map_err(error::executed)
}

/// Unlogged: a log of batches would make it whole or nothing, which nobody needs of rows that are written again until all are there.
fn batch(insert: &PreparedStatement, rows: usize) -> Batch {
    let mut batch = Batch::new_with_statements(BatchType::Unlogged, vec![insert.clone().into(); rows]);
    batch.set_is_idempotent(true);
    if let Some(consistency) = insert.get_consistency() {
        batch.set_consistency(consistency);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lots_keep_the_order_and_their_bounds() {
        let split = |items: &[(char, usize)], most, most_bytes| {
            let items = items.iter().copied();
            let lots = lots(items, |one, other| one.0 == other.0, |item| item.1, (most, most_bytes));
            lots.into_iter().map(|lot| lot.len()).collect::<Vec<_>>()
        };
        assert_eq!(split(&[], 3, 10), [0; 0]);
        assert_eq!(split(&[('a', 1); 7], 3, 10), [3, 3, 1], "so many");
        assert_eq!(split(&[('a', 4); 5], 9, 10), [2, 2, 1], "so many bytes");
        assert_eq!(split(&[('a', 1), ('a', 1), ('b', 1), ('a', 1)], 9, 10), [2, 1, 1], "what belongs together");
        assert_eq!(split(&[('a', 1), ('a', 99), ('a', 1)], 9, 10), [1, 1, 1], "one alone may have more");
    }
}
