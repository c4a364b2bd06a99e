//! The promise of docs/RELIABILITY.md under faults of every kind.

use crate::{ONE_AT_A_TIME, kinds, publish};
use chatify_tests::faults::machines::Machines;
use chatify_tests::faults::nemesis::Kind;
use chatify_tests::faults::run::{Plan, run};
use chatify_tests::process::allow_open_files;
use chatify_tests::seeds::Seed;

/// Faults of a run when `CYCLES` does not say otherwise: one of each kind but those that take long.
const CYCLES: usize = 24;
/// A store that was killed takes half a minute to start, more on a busy machine: that is for longer runs.
const SLOW: [Kind; 1] = [Kind::StoreKill];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_nothing_accepted_is_lost_repeated_or_reordered() {
    let _alone = ONE_AT_A_TIME.lock().await;
    allow_open_files(8_192);
    let asked = std::env::var("CYCLES").ok().map(|text| text.parse().expect("CYCLES is a number"));
    let cycles = asked.unwrap_or(CYCLES);
    let mut kinds = kinds();
    if asked.is_none() {
        kinds.retain(|kind| !SLOW.contains(kind));
    }
    let seed = Seed::of_this_run().number();
    let machines = Machines::start().await;
    let report = run(&machines, Plan { kinds, ..Plan::new(seed, cycles) }).await;
    machines.end().await;
    publish("faults.md", &report.to_string());
    assert!(report.findings.is_empty(), "{report}");
    assert_eq!(report.cycles.len(), cycles, "every fault was there");
    if cycles < CYCLES {
        // A few faults of one kind, chosen by hand, need not meet with everything that clients do.
        return;
    }
    let total = |name: &str| report.totals.iter().find(|(known, _)| *known == name).map_or(0, |(_, figure)| *figure);
    for name in
        ["sends accepted", "sends repeated", "sends refused for good", "connections broken", "messages read back"]
    {
        assert!(total(name) > 0, "the run was too kind: no {name}");
    }
}
