//! Commands for operators: they ask the services themselves, so they work beside running pods and without any.

pub mod dead_letters;
pub mod lag;
pub mod migrate;

use crate::bootstrap::ClusterOptions;
use crate::config::{Config, Profile};
use anyhow::Context as _;
use std::io::Write as _;
use std::time::Duration;

/// The services' options; a sentence when the profile has no services.
fn cluster_options(config: &Config, command: &str, instead: &str) -> anyhow::Result<ClusterOptions> {
    match config.profile {
        Profile::Embedded => {
            anyhow::bail!("`chatify {command}` is for the profile `cluster`, and this is `embedded`: {instead}")
        }
        Profile::Cluster => Ok(ClusterOptions::of(config)?),
    }
}

/// Runs one operation, for `deadline` at most.
fn run<T>(deadline: Duration, operation: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async { tokio::time::timeout(deadline, operation).await });
    // Work that hangs in a thread of its own must not keep the command.
    runtime.shutdown_background();
    outcome.with_context(|| format!("there was no answer within {} s: are the services there?", deadline.as_secs()))?
}

fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).context("the standard output cannot be written")
}

/// Columns as wide as their widest cell, numbers to the right; the first row is the head.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| {
        rows.iter().filter_map(|row: &Vec<String>| row.get(column)).map(|cell: &String| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| {
            let is_number = !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit() || c == '-');
            if is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up() {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect();
        let rows = [row(&["partition", "end", "why"]), row(&["0", "12345", "böse"]), row(&["11", "-", ""])];
        let lines = ["partition  end    why", "        0  12345  böse", "       11      -", ""];
        assert_eq!(table(&rows), lines.join("\n"));
    }

    #[test]
    fn an_operation_that_never_ends_is_given_up_and_one_without_services_is_refused() {
        let error = run(Duration::from_millis(1), std::future::pending::<anyhow::Result<()>>()).expect_err("too late");
        assert!(error.to_string().contains("no answer within"), "{error}");
        let config = Config::defaults().expect("valid");
        for error in [lag::lag(&config, false), migrate::migrate(&config, true)] {
            let error = error.expect_err("refused").to_string();
            assert!(error.contains("`embedded`"), "{error}");
        }
    }
}
