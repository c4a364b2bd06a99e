//! Questions that outlive the broker that they were meant for. librdkafka sends a question about offsets to the broker that led the partition when it last
//! heard, and waits for that one until the time is up, also when it is dead and another one leads. So the time is given in pieces, and between them the
//! client is told to learn who leads.

use chatify_building_blocks::clock::Clock;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use std::time::Duration;

/// The time of the first try. Each further one has twice as much, for brokers that are slow and not dead.
const FIRST_TRY: Duration = Duration::from_secs(1);
/// A partition that has no leader just now is waited for so long.
const MOVING_PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two questions for it.
const MOVING_PAUSE: Duration = Duration::from_millis(20);

/// Puts a question until it is answered or `deadline` is over; blocks its thread. `ask` gets the time that it may take, and may be called again. The client
/// is not polled: what it has to say stays for whoever polls it.
///
/// # Errors
/// The last try's.
pub(super) fn insist<C: ConsumerContext, T>(
    client: &BaseConsumer<C>,
    topic: &str,
    clock: &dyn Clock,
    deadline: Duration,
    mut ask: impl FnMut(Duration) -> KafkaResult<T>,
) -> KafkaResult<T> {
    let began = clock.uptime();
    let mut patience = FIRST_TRY;
    loop {
        let left = (began + deadline).saturating_sub(clock.uptime());
        let outcome = ask(patience.min(left));
        let waited = clock.uptime().saturating_sub(began);
        match outcome.as_ref().err().map(Hindrance::of) {
            Some(Hindrance::Silence) if waited < deadline => patience *= 2,
            Some(Hindrance::Moving) if waited < deadline.min(MOVING_PATIENCE) => {
                std::thread::park_timeout(MOVING_PAUSE)
            }
            _ => return outcome,
        }
        // Only for what it leaves in the client's memory; the next try tells whether it helped.
        drop(client.fetch_metadata(Some(topic), FIRST_TRY));
    }
}

/// Why there is no answer.
enum Hindrance {
    /// Nothing came in time.
    Silence,
    /// The partition's new leader can answer in a moment.
    Moving,
    /// Another try would get the same answer.
    Refusal,
}

impl Hindrance {
    fn of(error: &KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::RequestTimedOut) => Self::Silence,
            Some(
                // The cluster no longer names the broker that was asked.
                RDKafkaErrorCode::DestroyBroker
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::ReplicaNotAvailable
                | RDKafkaErrorCode::OffsetNotAvailable
                | RDKafkaErrorCode::KafkaStorageError,
            ) => Self::Moving,
            _ => Self::Refusal,
        }
    }
}
