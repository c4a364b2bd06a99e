//! How the process ends: signals, and the order of a drain.

use crate::realtime::{CloseReason, Hub};
use chatify_application::Application;
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::tasks::{Supervisor, TaskCrash};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Whether the pod is on its way out; readiness looks at it.
#[derive(Clone, Debug, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    /// From now on.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Is it?
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The signals that end the process.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they are ours; to be called before anybody is told that the server runs.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one and gives its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// What a drain ends, in this order.
pub struct Drain {
    /// Turns readiness off, and refuses new connections of the hub and of event streams.
    pub draining: Draining,
    /// Says goodbye to connections.
    pub hub: Arc<Hub>,
    /// Stops accepting requests.
    pub listener: CancellationToken,
    /// Settles sends, and withdraws presence.
    pub application: Application,
    /// Owner of every task.
    pub supervisor: Supervisor,
    /// Measures the window.
    pub clock: Arc<dyn Clock>,
    /// Over which goodbyes are spread.
    pub window: Duration,
    /// For everything after the window.
    pub grace: Duration,
}

/// Goodbyes need not be further apart than this.
const LEAST_APART: Duration = Duration::from_millis(10);
/// How often the drain looks whether it can go on.
const LOOK: Duration = Duration::from_millis(20);

impl Drain {
    /// Waits for a signal or a crash, then ends everything in order. A second signal ends the process at once, with code 1.
    ///
    /// # Errors
    /// The crash, when there was one.
    pub async fn run(self, mut signals: Signals) -> Result<(), TaskCrash> {
        let crashed = self.supervisor.token();
        tokio::select! {
            biased;
            () = crashed.cancelled() => {}
            name = signals.next() => tracing::info!(window = ?self.window, "{name}: draining"),
        }
        tokio::select! {
            outcome = self.drain() => outcome,
            _ = signals.next() => end_at_once(),
        }
    }

    async fn drain(&self) -> Result<(), TaskCrash> {
        self.draining.begin();
        let crashed = self.supervisor.token().is_cancelled();
        // Probes and short requests are answered while connections are sent away, so that whoever routes here learns of it; nobody new is let in.
        self.say_goodbye(if crashed { Duration::ZERO } else { self.window }).await;
        self.listener.cancel();
        if !crashed {
            drop(tokio::time::timeout(self.grace, self.application.drained()).await);
        }
        self.supervisor.cancel();
        let ended = tokio::time::timeout(self.grace, self.supervisor.join()).await;
        drop(tokio::time::timeout(self.grace, self.application.withdraw_presence()).await);
        match ended {
            Ok(outcome) => outcome,
            Err(_) => Err(TaskCrash { task: "drain", cause: format!("tasks did not end within {:?}", self.grace) }),
        }
    }

    /// Closes connections evenly over the window, so that those who come back do not all come at once; then waits for the last to be gone.
    async fn say_goodbye(&self, window: Duration) {
        let peers = self.hub.peers();
        let started = self.clock.uptime();
        let total = u32::try_from(peers.len()).unwrap_or(u32::MAX).max(1);
        // A handful that comes back is no storm: they need no long wait.
        let spread = window.min(LEAST_APART * total);
        for (number, peer) in (0u32..).zip(peers) {
            let due = spread.mul_f64(f64::from(number) / f64::from(total));
            let early = due.saturating_sub(self.clock.uptime().saturating_sub(started));
            if early > LOOK && self.hub.open() > 0 {
                tokio::time::sleep(early).await;
            }
            peer.close(CloseReason::Draining);
        }
        let gone = async {
            while self.hub.open() > 0 {
                // A connection whose handshake was under way is told as well.
                self.hub.peers().iter().for_each(|peer| peer.close(CloseReason::Draining));
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(self.grace, gone).await.is_err() {
            tracing::warn!(connections = self.hub.open(), "connections did not end in time");
        }
    }
}

/// What is not finished stays unfinished; what was acknowledged is on the disk.
#[expect(clippy::disallowed_methods, reason = "the operator asked twice")]
fn end_at_once() -> ! {
    tracing::warn!("second signal: ending at once");
    std::process::exit(1)
}
