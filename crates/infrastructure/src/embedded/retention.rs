//! Removes old records from the log, a little at a time.

use super::Store;
use super::error::WriteError;
use super::operations::{Operation, Trim};
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::error::chain;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{Position, Timestamp};
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Starts the service that does it every `interval`, beginning now. It does not keep the store open.
pub(super) fn start(store: &Arc<Store>, clock: Arc<dyn Clock>, keep: Duration, interval: Duration, tasks: &Supervisor) {
    let store = Arc::downgrade(store);
    let cancelled = tasks.token();
    tasks.service("log-retention", async move {
        let mut ticks = tokio::time::interval(interval);
        loop {
            tokio::select! {
                biased;
                () = cancelled.cancelled() => return Ok::<_, Infallible>(()),
                _ = ticks.tick() => expire(&store, clock.now().minus(keep)).await,
            }
        }
    });
}

/// A step that fails is tried again at the next tick; whoever writes messages meets the same trouble and reports it.
async fn expire(store: &Weak<Store>, cutoff: Timestamp) {
    if let Some(store) = store.upgrade()
        && let Err(error) = trim(&store, Position::MAX, cutoff).await
    {
        tracing::warn!(error = chain(&error), "old records of the log could not be removed");
    }
}

/// Removes every record before `before` that was appended before `cutoff` and may go, one step after the other.
pub(super) async fn trim(store: &Store, before: Position, cutoff: Timestamp) -> Result<(), WriteError> {
    loop {
        let first = store.recent.trimmed_to();
        let which = Trim { before, cutoff, kept_before_committed: store.kept_before_committed };
        store.writer.operate(Operation::Trim(which)).await?;
        if store.recent.trimmed_to() == first {
            return Ok(());
        }
    }
}
