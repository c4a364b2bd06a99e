//! Measures how far the history is behind the log.

use crate::application::Core;
use crate::ports::log::LogError;
use chatify_building_blocks::error::chain;
use chatify_domain::{Partition, Position};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

const MEASURE_EVERY: Duration = Duration::from_secs(2);

pub(crate) async fn run(core: Arc<Core>, token: CancellationToken) -> Result<(), Infallible> {
    let mut measurements = interval(MEASURE_EVERY);
    measurements.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while token.run_until_cancelled(measurements.tick()).await.is_some() {
        match token.run_until_cancelled(measure(&core)).await {
            Some(Ok(lag)) => core.lag.store(lag, Ordering::Relaxed),
            Some(Err(error)) => tracing::debug!(error = chain(&error), "the history's lag could not be measured"),
            None => break,
        }
    }
    Ok(())
}

/// Records between what is committed and the log's end, over all partitions. A commit from an older epoch counts as the end of what
/// retention has removed.
async fn measure(core: &Core) -> Result<u64, LogError> {
    let committed: HashMap<Partition, Position> = core.ports.group.committed().await?.into_iter().collect();
    let states = core.ports.tail.partitions().await?;
    let behind = states.iter().map(|state| {
        let from = committed.get(&state.partition).map_or(state.first, |committed| (*committed).max(state.first));
        u64::try_from(state.end.number() - from.number()).unwrap_or(0)
    });
    Ok(behind.sum())
}
