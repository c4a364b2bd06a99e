//! What the process needs from others, as its adapters see it, for readiness.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Everything that is watched; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Dependencies {
    /// Whether the pod can serve well for as long as the history falls behind: others may write it, and it can be read all the same.
    pub history_may_wait: bool,
    watched: Arc<[Dependency]>,
}

/// One service.
pub struct Dependency {
    /// Its name for an operator.
    pub name: &'static str,
    /// Whether the pod cannot serve without it.
    pub vital: bool,
    probe: Box<dyn Fn() -> Option<Trouble> + Send + Sync>,
}

/// What is wrong with a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Since when.
    pub for_: Duration,
    /// In one clause.
    pub reason: String,
}

impl Dependencies {
    /// A process that needs nobody.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A pod whose history is a service of its own, beside these.
    #[must_use]
    pub fn of_a_pod(watched: impl IntoIterator<Item = Dependency>) -> Self {
        Self { history_may_wait: true, watched: watched.into_iter().collect() }
    }

    /// Those that are in trouble now.
    pub fn troubled(&self) -> impl Iterator<Item = (&Dependency, Trouble)> {
        self.watched.iter().filter_map(|dependency| Some((dependency, (dependency.probe)()?)))
    }
}

impl Dependency {
    /// A service whose state `probe` tells at once, without asking it.
    pub fn new(name: &'static str, vital: bool, probe: impl Fn() -> Option<Trouble> + Send + Sync + 'static) -> Self {
        Self { name, vital, probe: Box::new(probe) }
    }
}

impl fmt::Debug for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dependency").field("name", &self.name).field("vital", &self.vital).finish_non_exhaustive()
    }
}
