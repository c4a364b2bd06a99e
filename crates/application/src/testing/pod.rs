//! A whole application over the world in memory.

use super::{Connections, MemoryHistory, MemoryLog, NoLimits, UnknownPresence, send};
use crate::ports::NoObserver;
use crate::{Application, LoopState, Options, Ports};
use chatify_building_blocks::clock::{Clock, ManualClock};
use chatify_building_blocks::random::SeededRandom;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{LoggedMessage, PodId, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// What the pods of one deployment share.
#[derive(Clone)]
pub struct Shared {
    /// Moves only by [`Shared::pass`].
    pub clock: Arc<ManualClock>,
    /// The log.
    pub log: MemoryLog,
    /// The history.
    pub store: MemoryHistory,
}

/// One pod.
pub struct Pod {
    /// The application.
    pub application: Application,
    /// Its connections.
    pub connections: Connections,
    /// Its tasks.
    pub supervisor: Supervisor,
}

impl Shared {
    /// An empty log with this many partitions, an empty history, some moment in 2027.
    #[must_use]
    pub fn new(partitions: u32) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_800_000_000_000)));
        let log = MemoryLog::new(partitions, Arc::clone(&clock) as Arc<dyn Clock>);
        Self { clock, log, store: MemoryHistory::default() }
    }

    /// The ports of one more pod.
    #[must_use]
    pub fn ports(&self, seed: u64) -> Ports {
        Ports {
            appender: Arc::new(self.log.clone()),
            tail: Arc::new(self.log.clone()),
            group: Arc::new(self.log.clone()),
            history: Arc::new(self.store.clone()),
            presence: Arc::new(UnknownPresence),
            limiter: Arc::new(NoLimits),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            random: Arc::new(SeededRandom::new(seed)),
            observer: Arc::new(NoObserver),
        }
    }

    /// Time passes, on the clock and for the tasks, a little at a time.
    pub async fn pass(&self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let part = left.min(Duration::from_secs(2));
            self.clock.advance(part);
            tokio::time::sleep(part).await;
            left -= part;
        }
    }
}

impl Pod {
    /// Starts a pod and lets it become live.
    ///
    /// # Panics
    /// When it does not.
    pub async fn live(shared: &Shared, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new(PodId::parse("pod-0").expect("a pod"));
        change(&mut options);
        let pod = Self::start(shared.ports(1), options);
        shared.pass(Duration::from_millis(10)).await;
        assert_eq!(pod.application.status().fan_out, LoopState::Live);
        pod
    }

    /// Sends a message with an id of its own, waits for its place and lets the loops take it in.
    ///
    /// # Panics
    /// When it is not accepted.
    pub async fn say(&self, shared: &Shared, sender: &str, scope: &str, text: &str) -> LoggedMessage {
        let sending = self.application.send(send(sender, scope, text, None)).await.expect("it is accepted");
        let accepted = sending.outcome().await.expect("it becomes durable");
        shared.pass(Duration::from_millis(10)).await;
        accepted.message
    }

    /// Starts a pod; it is live once its tasks had time to read the log.
    #[must_use]
    pub fn start(ports: Ports, options: Options) -> Self {
        let (supervisor, connections) = (Supervisor::new(), Connections::default());
        let application = Application::new(ports, options);
        application.start(&supervisor, Arc::new(connections.clone()));
        Self { application, connections, supervisor }
    }

    /// Ends it.
    ///
    /// # Panics
    /// When one of its tasks has crashed.
    pub async fn stop(&self) {
        self.supervisor.cancel();
        self.supervisor.join().await.expect("no task crashes");
    }
}
