//! Questions that outlive the broker that they were meant for. librdkafka sends a question about offsets to the broker that led the partition when it last
//! heard, and waits for that one until the time is up, also when it is dead and another one leads. So the time is given in pieces, and between them the
//! client is told to learn who leads.

use chatify_building_blocks::clock::Clock;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use std::time::Duration;

/// The time of the first try. Each further one has twice as much, for brokers that are slow and not dead.
const FIRST_TRY: Duration = Duration::from_secs(1);
/// The first pause between two questions; it doubles as well.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// All in all.
    pub(super) deadline: Duration,
    /// With brokers that answer that they cannot tell just now.
    pub(super) moving: Duration,
}

/// Puts a question until it is answered or there is no patience left; blocks its thread. `ask` gets the time that it may take, and may be called again. The
/// client is not polled: what it has to say stays for whoever polls it.
///
/// # Errors
/// The last try's.
pub(super) fn insist<C: ConsumerContext, T>(
    client: &BaseConsumer<C>,
    topic: &str,
    clock: &dyn Clock,
    Patience { deadline, moving }: Patience,
    mut ask: impl FnMut(Duration) -> KafkaResult<T>,
) -> KafkaResult<T> {
    let began = clock.uptime();
    let left_of = |time: Duration| (began + time).saturating_sub(clock.uptime());
    let (mut time, mut pause) = (FIRST_TRY, FIRST_PAUSE);
    loop {
        let outcome = ask(time.min(left_of(deadline)));
        let left = match outcome.as_ref().err().map(Hindrance::of) {
            Some(Hindrance::Silence) => left_of(deadline),
            Some(Hindrance::Moving) => left_of(moving),
            Some(Hindrance::Refusal) | None => Duration::ZERO,
        };
        if left.is_zero() {
            return outcome;
        }
        std::thread::park_timeout(pause.min(left));
        (time, pause) = ((time * 2).min(deadline), (pause * 2).min(FIRST_TRY));
        // Only for what it leaves in the client's memory; the next try tells whether it helped.
        drop(client.fetch_metadata(Some(topic), FIRST_TRY.min(left)));
    }
}

/// Why there is no answer.
enum Hindrance {
    /// Nothing came in time.
    Silence,
    /// The new leader, or coordinator, can answer in a moment.
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
                // Nobody leads any of the partitions that were asked for, as far as the client knows.
                | RDKafkaErrorCode::UnknownPartition
                // Client and broker have not heard of the same leader.
                | RDKafkaErrorCode::FencedLeaderEpoch
                | RDKafkaErrorCode::UnknownLeaderEpoch
                | RDKafkaErrorCode::ReplicaNotAvailable
                | RDKafkaErrorCode::OffsetNotAvailable
                | RDKafkaErrorCode::KafkaStorageError
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::CoordinatorLoadInProgress
                | RDKafkaErrorCode::NotCoordinator,
            ) => Self::Moving,
            _ => Self::Refusal,
        }
    }
}
