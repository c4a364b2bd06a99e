//! `chatify lag`: how far the history is behind the log.

use super::{cluster_options, print, run, table};
use crate::config::Config;
use chatify_building_blocks::clock::SystemClock;
use chatify_infrastructure::kafka::lag::{self, PartitionLag};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(30);

/// Prints one line for each partition, or JSON.
///
/// # Errors
/// When the brokers do not answer, or the profile has none.
pub fn lag(config: &Config, as_json: bool) -> anyhow::Result<()> {
    let instead = "ask its `/metrics` for `chatify_projection_lag_records`";
    let options = cluster_options(config, "lag", instead)?.kafka;
    let partitions = run(DEADLINE, async { Ok(lag::read(&options, Arc::new(SystemClock::new())).await?) })?;
    let text = if as_json { as_document(&partitions) } else { as_table(&partitions) };
    print(text.as_bytes())
}

fn as_table(partitions: &[PartitionLag]) -> String {
    let head = ["partition", "first", "end", "committed", "lag"].map(String::from).to_vec();
    let rows = partitions.iter().map(|row| {
        let committed = row.committed.map_or_else(|| "-".into(), |offset| offset.to_string());
        vec![row.partition.0.to_string(), row.first.to_string(), row.end.to_string(), committed, row.lag.to_string()]
    });
    let total = ["total", "", "", ""].map(String::from).into_iter().chain([total(partitions).to_string()]).collect();
    table(&std::iter::once(head).chain(rows).chain([total]).collect::<Vec<_>>())
}

fn as_document(partitions: &[PartitionLag]) -> String {
    let rows = partitions.iter().map(|row| {
        json!({
            "partition": row.partition.0,
            "first": row.first,
            "end": row.end,
            "committed": row.committed,
            "lag": row.lag,
        })
    });
    format!("{}\n", json!({ "lag": total(partitions), "partitions": rows.collect::<Vec<_>>() }))
}

fn total(partitions: &[PartitionLag]) -> u64 {
    partitions.iter().map(|row| row.lag).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatify_domain::Partition;

    #[test]
    fn every_partition_and_the_sum_are_told() {
        let rows = [
            PartitionLag { partition: Partition(0), first: 5, end: 12, committed: Some(9), lag: 3 },
            PartitionLag { partition: Partition(1), first: 0, end: 40, committed: None, lag: 40 },
        ];
        let expected = "partition  first  end  committed  lag\n        0      5   12          9    3\n        1      0   40          -   40\ntotal                              43\n";
        assert_eq!(as_table(&rows), expected);
        let document: serde_json::Value = serde_json::from_str(&as_document(&rows)).expect("JSON");
        assert_eq!(document["lag"], 43);
        assert_eq!(document["partitions"][1]["committed"], serde_json::Value::Null);
    }
}
