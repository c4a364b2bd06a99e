//! The fault suite: the promise under faults, and the proof that the suite would see it broken.
//!
//! It runs services of its own (`CHATIFY_TEST_FAULTS_PORT_BASE`, 24000 unless set) and needs what `scripts/services.sh install` needs.
//! `CYCLES` says how many faults there are, `CHATIFY_SEED` repeats a run, and `CHATIFY_FAULTS` (names with commas) limits the
//! kinds. The tables of a run are written to `target/reports`.

mod fleet;
mod promise;
mod seeded;

use chatify_tests::faults::nemesis::Kind;
use std::path::PathBuf;
use tokio::sync::Mutex;

/// The suites share ports, and a machine that cannot run two of them at once.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The kinds that `CHATIFY_FAULTS` names, all of them by default.
fn kinds() -> Vec<Kind> {
    let Ok(names) = std::env::var("CHATIFY_FAULTS") else { return Kind::ALL.to_vec() };
    names.split(',').map(|name| Kind::named(name).unwrap_or_else(|| panic!("there is no fault `{name}`"))).collect()
}

/// Writes a report where `make` and people find it, and shows it.
#[expect(clippy::print_stderr, reason = "the figures of a run are its result")]
fn publish(name: &str, text: &str) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/reports");
    std::fs::create_dir_all(&directory).expect("the directory of reports can be made");
    std::fs::write(directory.join(name), text).expect("a report can be written");
    eprintln!("{text}");
}
