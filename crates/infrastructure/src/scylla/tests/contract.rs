//! The contract of the port.

use super::{connect, options, unique};
use crate::scylla::ScyllaHistory;
use async_trait::async_trait;
use chatify_application::ports::HistoryStore;
use chatify_application::ports::contract::history::HistoryFixture;
use chatify_application::ports::history::{HistoryError, HistoryRow, PositionRange, Segment};
use chatify_domain::{LoggedMessage, MessageId, MessageSent, Position, Scope};
use std::sync::Arc;

chatify_application::history_contract!(Fixture { prefix: unique() });

/// All tests share one keyspace, so what each sees of it is only the scopes that begin with its own prefix.
struct Fixture {
    prefix: String,
}

struct Prefixed {
    prefix: String,
    history: Arc<ScyllaHistory>,
}

#[async_trait]
impl HistoryFixture for Fixture {
    async fn open(&self) -> Arc<dyn HistoryStore> {
        let (history, _supervisor) = connect(options().await).await;
        Arc::new(Prefixed { prefix: self.prefix.clone(), history })
    }
}

impl Prefixed {
    fn inner(&self, scope: &Scope) -> Scope {
        Scope::new(scope.kind(), &format!("{}{}", self.prefix, scope.id())).expect("a short name")
    }

    fn outer(&self, mut message: LoggedMessage) -> LoggedMessage {
        let sent = &message.sent;
        let id = sent.scope.id().as_str().strip_prefix(&self.prefix).expect("a scope of this test");
        let scope = Scope::new(sent.scope.kind(), id).expect("the scope that was asked for");
        message.sent = Arc::new(MessageSent { scope, ..MessageSent::clone(sent) });
        message
    }
}

#[async_trait]
impl HistoryStore for Prefixed {
    async fn segments(&self, scope: &Scope) -> Result<Vec<Segment>, HistoryError> {
        self.history.segments(&self.inner(scope)).await
    }

    async fn open_segment(&self, scope: &Scope, segment: Segment) -> Result<(), HistoryError> {
        self.history.open_segment(&self.inner(scope), segment).await
    }

    async fn count(&self, scope: &Scope, segment: Position, before: Position) -> Result<u64, HistoryError> {
        self.history.count(&self.inner(scope), segment, before).await
    }

    async fn append(&self, rows: &[HistoryRow]) -> Result<(), HistoryError> {
        let mut rows = rows.to_vec();
        for row in &mut rows {
            let scope = self.inner(&row.message.sent.scope);
            row.message.sent = Arc::new(MessageSent { scope, ..MessageSent::clone(&row.message.sent) });
        }
        self.history.append(&rows).await
    }

    async fn slice(
        &self,
        scope: &Scope,
        segment: Position,
        range: PositionRange,
        limit: usize,
    ) -> Result<Vec<LoggedMessage>, HistoryError> {
        let found = self.history.slice(&self.inner(scope), segment, range, limit).await?;
        Ok(found.into_iter().map(|message| self.outer(message)).collect())
    }

    async fn find(&self, scope: &Scope, id: MessageId) -> Result<Vec<LoggedMessage>, HistoryError> {
        let found = self.history.find(&self.inner(scope), id).await?;
        Ok(found.into_iter().map(|message| self.outer(message)).collect())
    }
}
