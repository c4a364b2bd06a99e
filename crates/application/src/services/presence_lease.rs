//! Keeps this pod's connections counted as alive.

use crate::ports::PresenceStore;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// A lease lasts 45 s, so two renewals may fail.
const RENEW_EVERY: Duration = Duration::from_secs(15);

pub(crate) async fn run(presence: Arc<dyn PresenceStore>, token: CancellationToken) -> Result<(), Infallible> {
    let mut renewals = interval(RENEW_EVERY);
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while token.run_until_cancelled(renewals.tick()).await.is_some() {
        presence.renew().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::presence::{ConnectionId, Presence};
    use async_trait::async_trait;
    use chatify_building_blocks::tasks::Supervisor;
    use chatify_domain::SenderId;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Counting(AtomicUsize);

    #[async_trait]
    impl PresenceStore for Counting {
        async fn connected(&self, _user: &SenderId, _connection: ConnectionId) {}
        async fn disconnected(&self, _user: &SenderId, _connection: ConnectionId) {}
        async fn presence(&self, _user: &SenderId) -> Presence {
            Presence::Offline
        }
        async fn renew(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        async fn withdraw(&self) {}
    }

    #[tokio::test(start_paused = true)]
    async fn the_lease_is_renewed_at_once_and_every_quarter_of_a_minute() {
        let (presence, supervisor) = (Arc::new(Counting::default()), Supervisor::new());
        supervisor.service("presence-lease", run(Arc::clone(&presence) as _, supervisor.token()));
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(presence.0.load(Ordering::Relaxed), 5);
        supervisor.cancel();
        supervisor.join().await.expect("it ends when it is asked to");
    }
}
