//! What handlers share.

use super::admission::Admission;
use crate::auth::Authenticator;
use crate::config::Config;
use crate::dependencies::Dependencies;
use crate::lifecycle::Draining;
use crate::metrics::Metrics;
use crate::realtime::Hub;
use chatify_application::Application;
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::random::Random;
use chatify_building_blocks::tasks::Supervisor;
use std::sync::Arc;

/// Everything that a handler may need; cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// The use cases.
    pub application: Application,
    /// Who is calling.
    pub authenticator: Authenticator,
    /// How many may be connected.
    pub admission: Admission,
    /// What was configured.
    pub config: Arc<Config>,
    /// What is counted.
    pub metrics: Metrics,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where correlation ids come from.
    pub random: Arc<dyn Random>,
    /// Whether the pod is on its way out.
    pub draining: Draining,
    /// What the pod needs from others.
    pub dependencies: Dependencies,
    /// The connections of this pod.
    pub hub: Arc<Hub>,
    /// Owner of tasks.
    pub supervisor: Supervisor,
}
