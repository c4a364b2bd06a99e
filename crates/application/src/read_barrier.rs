//! A read sees everything that was accepted before it began, on whatever pod.

use crate::application::Core;
use chatify_domain::Partition;
use std::time::Duration;

/// A pod whose memory is further behind the log than this answers without waiting longer, and says so.
const PATIENCE: Duration = Duration::from_secs(2);

/// Waits until memory has every record that the log had when the read began. `false` when it did not get there in time, or the log cannot say where its
/// end is: then newer messages may be missing.
pub(crate) async fn passed(core: &Core, partition: Partition) -> bool {
    let reached = async {
        let end = core.ports.tail.end(partition).await.ok()?;
        // Memory begins where the log ends when there is nothing to read, so an empty log is not waited for.
        core.recent.reached(partition, end.previous()).await;
        Some(())
    };
    matches!(tokio::time::timeout(PATIENCE, reached).await, Ok(Some(())))
}
