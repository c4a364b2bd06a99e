//! [`HistoryStore`] over a CQL store.

use super::append;
use super::connection::Link;
use super::error;
use super::rows::{self, MessageColumns};
use async_trait::async_trait;
use chatify_application::ports::HistoryStore;
use chatify_application::ports::history::{HistoryError, HistoryRow, Order, PositionRange, Segment};
use chatify_domain::{LoggedMessage, MessageId, Partition, Position, Scope, Timestamp};
use futures_util::{StreamExt, TryStreamExt, stream};
use scylla::deserialize::row::DeserializeRow;
use scylla::response::PagingState;
use scylla::response::query_result::QueryRowsResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use uuid::Uuid;

/// Messages of one id that are read at the same time.
const LOOKUPS: usize = 16;

/// The history in a CQL store. Made by [`ScyllaHistory::connect`].
///
/// Until there is a connection every call fails at once with [`HistoryError::Unavailable`]. Each call, with all its requests and pages, ends within
/// the option `request_timeout`.
#[derive(Debug)]
pub struct ScyllaHistory {
    pub(super) link: watch::Receiver<Option<Arc<Link>>>,
    pub(super) deadline: Duration,
}

impl ScyllaHistory {
    /// Whether there has been a connection since the process started. It says nothing about the next request.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.borrow().is_some()
    }

    /// Waits for the first connection. Returns early, without one, only when the process ends.
    pub async fn connected(&self) {
        let mut link = self.link.clone();
        // An error means that the task which connects is gone: there is nothing to wait for any more.
        let _gone = link.wait_for(Option::is_some).await;
    }

    /// The newest position of which the history has a row, for each partition that it has any of. A row may be there before it is told here, so
    /// this is a lower bound; it never goes back.
    ///
    /// # Errors
    /// When the store does not answer in time.
    pub async fn progress(&self) -> Result<Vec<(Partition, Position)>, HistoryError> {
        self.within(async |link: Arc<Link>| {
            let mut newest = Vec::new();
            link.pages(&link.statements.progress, (), |page| {
                for row in typed::<(i64, i64)>(page)? {
                    let (partition, position) = row.map_err(error::unreadable_row)?;
                    newest.push((rows::partition(partition)?, rows::position(position)?));
                }
                Ok(())
            })
            .await?;
            Ok(newest)
        })
        .await
    }

    /// What `call` gives, within the deadline.
    async fn within<T, F>(&self, call: impl FnOnce(Arc<Link>) -> F) -> Result<T, HistoryError>
    where
        F: Future<Output = Result<T, HistoryError>>,
    {
        let link = self.link.borrow().clone();
        let Some(link) = link else { return Err(HistoryError::Unavailable(Box::new(error::NotConnected))) };
        tokio::time::timeout(self.deadline, call(link)).await.map_err(|_| HistoryError::Timeout)?
    }
}

#[async_trait]
impl HistoryStore for ScyllaHistory {
    async fn segments(&self, scope: &Scope) -> Result<Vec<Segment>, HistoryError> {
        self.within(async |link: Arc<Link>| {
            let mut found: Vec<Segment> = Vec::new();
            link.pages(&link.statements.segments, (scope.to_string(),), |page| {
                for row in typed::<(i64, CqlTimestamp)>(page)? {
                    let (start, CqlTimestamp(millis)) = row.map_err(error::unreadable_row)?;
                    let start = rows::position(start)?;
                    // A segment that was recorded more than once has its least time first.
                    if found.last().is_none_or(|last| last.start != start) {
                        found.push(Segment { start, first_created_at: Timestamp::from_millis(millis) });
                    }
                }
                Ok(())
            })
            .await?;
            Ok(found)
        })
        .await
    }

    async fn open_segment(&self, scope: &Scope, segment: Segment) -> Result<(), HistoryError> {
        self.within(async |link: Arc<Link>| {
            let start = segment.start.number();
            let values = (scope.to_string(), start, CqlTimestamp(segment.first_created_at.as_millis()), start);
            let done = link.session.execute_unpaged(&link.statements.insert_segment, values).await;
            done.map(|_| ()).map_err(error::executed)
        })
        .await
    }

    async fn count(&self, scope: &Scope, segment: Position, before: Position) -> Result<u64, HistoryError> {
        self.within(async |link: Arc<Link>| {
            let mut rows = 0;
            let values = (scope.to_string(), segment.number(), before.number());
            link.pages(&link.statements.count, values, |page| {
                for row in typed::<(i64,)>(page)? {
                    rows += row.map_err(error::unreadable_row)?.0.unsigned_abs();
                }
                Ok(())
            })
            .await?;
            Ok(rows)
        })
        .await
    }

    async fn append(&self, rows: &[HistoryRow]) -> Result<(), HistoryError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.within(async |link: Arc<Link>| append::append(&link, rows).await).await
    }

    async fn slice(
        &self,
        scope: &Scope,
        segment: Position,
        range: PositionRange,
        limit: usize,
    ) -> Result<Vec<LoggedMessage>, HistoryError> {
        // The store refuses a limit of nothing.
        if limit == 0 || range.from >= range.to {
            return Ok(Vec::new());
        }
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        self.within(async |link: Arc<Link>| {
            let statement = match range.order {
                Order::Ascending => &link.statements.ascending,
                Order::Descending => &link.statements.descending,
            };
            let values = (scope.to_string(), segment.number(), range.from.number(), range.to.number(), limit);
            link.messages(statement, scope, values).await
        })
        .await
    }

    async fn find(&self, scope: &Scope, id: MessageId) -> Result<Vec<LoggedMessage>, HistoryError> {
        self.within(async |link: Arc<Link>| {
            let mut places: Vec<(i64, i64)> = Vec::new();
            let key = (Uuid::from_u128(id.as_u128()), scope.to_string());
            link.pages(&link.statements.by_id, key, |page| {
                for row in typed::<(i64, i64)>(page)? {
                    places.push(row.map_err(error::unreadable_row)?);
                }
                Ok(())
            })
            .await?;
            places.sort_unstable();
            let link = &link;
            // A name whose message is not there yet belongs to an `append` that has not returned.
            let found: Vec<Vec<LoggedMessage>> = stream::iter(places)
                .map(|(position, segment)| async move {
                    link.messages(&link.statements.one, scope, (scope.to_string(), segment, position)).await
                })
                .buffered(LOOKUPS)
                .try_collect()
                .await?;
            Ok(found.into_iter().flatten().collect())
        })
        .await
    }
}

impl Link {
    /// All messages of an answer.
    async fn messages(
        &self,
        statement: &PreparedStatement,
        scope: &Scope,
        values: impl SerializeRow + Sync,
    ) -> Result<Vec<LoggedMessage>, HistoryError> {
        let mut found = Vec::new();
        self.pages(statement, values, |page| {
            for row in typed::<MessageColumns<'_>>(page)? {
                found.push(rows::message(scope, row.map_err(error::unreadable_row)?)?);
            }
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// Asks for one page after the other. Each is a request of its own and has the driver's deadline; the driver's own iterator would wait for a lost
    /// page for ever.
    async fn pages(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Sync,
        mut each: impl FnMut(&QueryRowsResult) -> Result<(), HistoryError> + Send,
    ) -> Result<(), HistoryError> {
        let mut state = PagingState::start();
        loop {
            let (page, next) =
                self.session.execute_single_page(statement, &values, state).await.map_err(error::executed)?;
            each(&page.into_rows_result().map_err(error::not_rows)?)?;
            match next.into_paging_control_flow() {
                ControlFlow::Break(()) => return Ok(()),
                ControlFlow::Continue(further) => state = further,
            }
        }
    }
}

fn typed<'page, R: DeserializeRow<'page, 'page>>(
    page: &'page QueryRowsResult,
) -> Result<scylla::deserialize::result::TypedRowIterator<'page, 'page, R>, HistoryError> {
    page.rows::<R>().map_err(error::other_columns)
}
