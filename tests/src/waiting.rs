//! Waiting for conditions, always with a deadline.

use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// How long anything that should happen soon may take on a busy machine before the test calls it a failure. It bounds a hang;
/// it does not measure speed.
pub const SOON: Duration = Duration::from_secs(20);

/// How long a suite may wait for much work, such as a drain under load.
pub const LONG: Duration = Duration::from_secs(90);

/// How often a condition that nobody announces is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits for `future`.
///
/// # Panics
/// When `deadline` passes first; the panic says `what` did not happen.
pub async fn within<T>(deadline: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match timeout(deadline, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: did not happen within {deadline:?}"),
    }
}

/// Looks at `condition` until it gives a value.
///
/// # Panics
/// When `deadline` passes first; the panic says `what` did not happen.
pub async fn eventually<T, F>(deadline: Duration, what: &str, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let end = Instant::now() + deadline;
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < end, "{what}: did not happen within {deadline:?}");
    }
}
