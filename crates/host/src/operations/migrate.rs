//! `chatify migrate`: brings the schema of the history up to date.

use super::{cluster_options, print, run};
use crate::config::{Config, Profile};
use chatify_building_blocks::clock::SystemClock;
use chatify_building_blocks::random::SystemRandom;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::Epoch;
use chatify_infrastructure::embedded::{self, EmbeddedStore};
use chatify_infrastructure::scylla::{self, MigrationReport};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// Longer than one process waits for another one that migrates, three minutes, and then does what is left.
const DEADLINE: Duration = Duration::from_secs(5 * 60);

/// Applies what has not been applied and prints it; with `check_only` it changes nothing.
///
/// # Errors
/// When the store cannot be reached or holds a schema that is newer or was changed; with `check_only` also when something has not been applied.
pub fn migrate(config: &Config, check_only: bool) -> anyhow::Result<()> {
    if config.profile == Profile::Embedded && !check_only {
        return migrate_data_directory(config);
    }
    let instead = "its data directory is brought up to date whenever it is opened";
    let options = cluster_options(config, "migrate --check", instead)?.scylla;
    if check_only {
        let pending = run(DEADLINE, async { Ok(scylla::pending(&options).await?) })?;
        anyhow::ensure!(pending.is_empty(), "not applied: {}; run `chatify migrate`", pending.join(", "));
        return print(b"the schema is up to date\n");
    }
    let migrating = async { Ok(scylla::migrate(&options, &SystemClock::new(), &SystemRandom).await?) };
    print(told(&run(DEADLINE, migrating)?).as_bytes())
}

fn told(report: &MigrationReport) -> String {
    let mut text = String::new();
    for name in &report.applied {
        let _ = writeln!(text, "applied {name}");
    }
    if report.applied.is_empty() {
        let _ = writeln!(text, "nothing to apply, {} there already", report.already_there.len());
    }
    text
}

/// Opening the directory applies what is missing; it is refused while a server has it.
fn migrate_data_directory(config: &Config) -> anyhow::Result<()> {
    let options = embedded::Options {
        log_epoch: Epoch::new(config.message_broker.log_epoch)?,
        ..embedded::Options::new(&config.server.data_dir)
    };
    run(DEADLINE, async {
        let supervisor = Supervisor::new();
        let store = EmbeddedStore::open(&options, Arc::new(SystemClock::new()), &supervisor)?;
        store.close();
        supervisor.cancel();
        Ok(supervisor.join().await?)
    })?;
    print(b"the data directory is up to date\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_is_told() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let report = |applied, already_there| MigrationReport { applied, already_there };
        assert_eq!(told(&report(names(&["0002_b", "0003_c"]), names(&["0001_a"]))), "applied 0002_b\napplied 0003_c\n");
        assert_eq!(told(&report(names(&[]), names(&["0001_a"]))), "nothing to apply, 1 there already\n");
    }

    #[test]
    fn a_data_directory_is_made_and_found_up_to_date() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = Config::defaults().expect("valid");
        config.server.data_dir = directory.path().join("data");
        migrate(&config, false).expect("made");
        migrate(&config, false).expect("nothing to do");
        assert!(config.server.data_dir.is_dir());
    }
}
