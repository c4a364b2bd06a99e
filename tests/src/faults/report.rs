//! The figures of a run, as the tables in docs/RELIABILITY.md show them.

use super::nemesis::Kind;
use super::verdict::Finding;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// One fault and what came after it.
#[derive(Clone, Debug)]
pub struct Cycle {
    /// What broke.
    pub kind: Kind,
    /// From the end of the fault until every pod had accepted a message for every partition again.
    pub accepting: Duration,
    /// From the end of the fault until the history had everything that the log had at that moment.
    pub caught_up: Duration,
    /// Connections that broke meanwhile.
    pub broken: u64,
    /// Sends that were accepted from the fault's beginning to its end.
    pub accepted: u64,
    /// Tries that repeated an earlier one.
    pub repeated: u64,
}

/// What a run was, and what was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// What repeats the run.
    pub seed: u64,
    /// Every fault.
    pub cycles: Vec<Cycle>,
    /// Clients that were connected.
    pub clients: usize,
    /// Figures of the whole run, by name.
    pub totals: Vec<(&'static str, u64)>,
    /// What was found wrong.
    pub findings: Vec<Finding>,
    /// The history of the run, when something was found.
    pub history: PathBuf,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    /// Whether something of this kind was found.
    #[must_use]
    pub fn found(&self, kinds: &[&str]) -> bool {
        self.findings.iter().any(|finding| kinds.contains(&finding.kind()))
    }

    /// A table in Markdown: one line a kind.
    #[must_use]
    pub fn table(&self) -> String {
        let mut kinds: BTreeMap<Kind, Vec<&Cycle>> = BTreeMap::new();
        self.cycles.iter().for_each(|cycle| kinds.entry(cycle.kind).or_default().push(cycle));
        let head = "| fault | cycles | accepting again, median / most | history caught up, median / most | connections broken | sends repeated |\n|---|---|---|---|---|---|\n";
        let lines = kinds.iter().map(|(kind, cycles)| {
            let (accepting, accepting_most) = spread(cycles, |cycle| cycle.accepting);
            let (caught, caught_most) = spread(cycles, |cycle| cycle.caught_up);
            let broken: u64 = cycles.iter().map(|cycle| cycle.broken).sum();
            let repeated: u64 = cycles.iter().map(|cycle| cycle.repeated).sum();
            format!(
                "| {} | {} | {accepting:.1} / {accepting_most:.1} s | {caught:.1} / {caught_most:.1} s | {broken} | {repeated} |\n",
                kind.name(),
                cycles.len()
            )
        });
        head.to_owned() + &lines.collect::<String>()
    }
}

/// Median and greatest, in seconds.
fn spread(cycles: &[&Cycle], of: impl Fn(&Cycle) -> Duration) -> (f64, f64) {
    let mut all: Vec<f64> = cycles.iter().map(|cycle| of(cycle).as_secs_f64()).collect();
    all.sort_unstable_by(f64::total_cmp);
    (all[all.len() / 2], all[all.len() - 1])
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.took.as_secs_f64() / 60.0;
        writeln!(f, "{} cycles, {} clients, {minutes:.1} min, seed {}", self.cycles.len(), self.clients, self.seed)?;
        writeln!(f, "\n{}", self.table())?;
        for (name, figure) in &self.totals {
            writeln!(f, "{name}: {figure}")?;
        }
        if !self.findings.is_empty() {
            let schedule: Vec<&str> = self.cycles.iter().map(|cycle| cycle.kind.name()).collect();
            writeln!(f, "\n{} findings, such as:", self.findings.len())?;
            for finding in self.findings.iter().take(12) {
                writeln!(f, "* {finding:?}")?;
            }
            writeln!(f, "\nrepeat it with CHATIFY_SEED={}; the schedule was {}", self.seed, schedule.join(", "))?;
            writeln!(f, "the history is in {}", self.history.display())?;
        }
        Ok(())
    }
}
