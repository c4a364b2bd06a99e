//! The checker is checked: each bug that `seeded_bugs` can put into a pod breaks the promise, and the suite says so.

use crate::{ONE_AT_A_TIME, publish};
use chatify_building_blocks::seeded_bugs::Bug;
use chatify_tests::faults::clients::Habits;
use chatify_tests::faults::machines::Machines;
use chatify_tests::faults::nemesis::Kind;
use chatify_tests::faults::report::Report;
use chatify_tests::faults::run::{Plan, run};
use chatify_tests::home::binary;
use chatify_tests::process::allow_open_files;
use chatify_tests::seeds::Seed;
use std::time::Duration;

/// A short run that gives the bug its occasion, and the kinds of findings that are about it.
fn plan(bug: Bug, seed: u64) -> (Plan, &'static [&'static str]) {
    let calm = Plan {
        clients: 40,
        senders: 20,
        posters: 6,
        pace: Duration::from_millis(150),
        steady: Duration::from_secs(2),
        hold: (Duration::from_secs(2), Duration::from_secs(1)),
        habits: Habits { leaves_every: 40, newcomer_one_in: 4, stalls_every: 300 },
        variables: vec![
            ("CHATIFY_SEEDED_BUG".into(), bug.name().into()),
            ("CHATIFY__LIMITS__SEND_MESSAGES".into(), "100000".into()),
        ],
        ..Plan::new(seed, 4)
    };
    let with = |kinds: &[Kind], cycles: usize| Plan { kinds: kinds.to_vec(), cycles, ..calm.clone() };
    let setting = |mut plan: Plan, key: &str, value: &str| {
        plan.variables.push((format!("CHATIFY__{key}"), value.to_owned()));
        plan
    };
    match bug {
        Bug::AckBeforeDurable => (with(&[Kind::AllPodsKill], 1), &["lost", "moved"]),
        Bug::UnknownSaidRefused => {
            let hold = (Duration::from_secs(8), Duration::from_secs(1));
            (Plan { hold, ..with(&[Kind::BrokerOneWay, Kind::BrokerFreeze], 2) }, &["refused shown"])
        }
        Bug::CommitBeforePersist => {
            (with(&[Kind::StoreFreezeAllPodsKill], 2), &["committed too early", "history misses"])
        }
        Bug::CommitAfterRevoke => (with(&[Kind::RollingRestart], 2), &["commit went back"]),
        Bug::SkipOnStoreError => (with(&[Kind::StoreRefuse], 4), &["committed too early", "history misses"]),
        Bug::DedupeInMemoryOnly => (with(&[Kind::AllPodsKill], 4), &["twice", "not in log", "history invents"]),
        Bug::RepeatsShown => {
            (with(&[Kind::PodKillUnanswered, Kind::AllPodsKill], 4), &["twice", "not in log", "history invents"])
        }
        Bug::NewPositionForRepeat => (with(&[Kind::CacheEmptied], 1), &["answered elsewhere"]),
        Bug::HistoryBeforeLive => (with(&[Kind::PodKill], 2), &["gap"]),
        Bug::RecoveredAlways => (with(&[Kind::PodKill], 2), &["gap"]),
        Bug::DropOnFullQueue => {
            let habits = Habits { leaves_every: 100_000, newcomer_one_in: 100_000, stalls_every: 40 };
            let loud = Plan { padding: 3_900, scopes: 1, habits, ..with(&[Kind::CacheEmptied], 4) };
            let loud = setting(setting(loud, "LIMITS__OUTBOX_FRAMES", "16"), "LIMITS__OUTBOX_BYTES", "64KiB");
            (loud, &["gap"])
        }
        Bug::OrderByTime => (with(&[Kind::CacheEmptied], 1), &["wrong answer", "order", "gap", "not read"]),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_seeded_bug_is_found() {
    let _alone = ONE_AT_A_TIME.lock().await;
    allow_open_files(8_192);
    let program = binary().with_file_name("chatify-seeded-bugs");
    assert!(program.exists(), "{} is missing: run scripts/seeded-bugs.sh", program.display());
    let seed = Seed::of_this_run().number();
    let machines = Machines::start().await;
    let mut lines = vec!["| seeded bug | found as | after |".to_owned(), "|---|---|---|".to_owned()];
    let mut missed = Vec::new();
    for bug in Bug::ALL.into_iter().filter(|bug| wanted(*bug)) {
        let (plan, kinds) = plan(bug, seed);
        let report = run(&machines, Plan { binary: Some(program.clone()), ..plan }).await;
        machines.mend();
        let found = report.findings.iter().find(|finding| kinds.contains(&finding.kind()));
        let after = format!("{} faults, {:.0} s", report.cycles.len(), report.took.as_secs_f64());
        match found {
            Some(finding) => lines.push(format!("| {} | {} | {after} |", bug.name(), finding.kind())),
            None => missed.push(missed_bug(bug, &report)),
        }
    }
    machines.end().await;
    publish("seeded-bugs.md", &format!("{}\n{}", lines.join("\n"), missed.concat()));
    assert!(missed.is_empty(), "{} seeded bugs were not found: {missed:#?}", missed.len());
}

/// `CHATIFY_BUGS` (names with commas) limits a run to some of them.
fn wanted(bug: Bug) -> bool {
    std::env::var("CHATIFY_BUGS").map_or(true, |names| names.split(',').any(|name| name == bug.name()))
}

fn missed_bug(bug: Bug, report: &Report) -> String {
    format!("\n{} was not found: {report}", bug.name())
}
