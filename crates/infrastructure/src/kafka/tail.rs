//! [`LogTail`]: every reader is a client of its own that reads given partitions by `assign()`.
//!
//! Records are taken from librdkafka's own bounded queue when [`TailReader::next`] is polled, so there is no second queue and nothing that a dropped
//! call could lose. A reader that hangs is replaced by whoever reads (the fan-out does when a partition stands still while its end moves): opening
//! anew makes a new client and does not wait for the old one.

use super::Shared;
use super::client::{ClientEvents, Role, client_config};
use super::closing::close_on_thread;
use super::decode::log_record;
use super::position::{offset_at_or_after, partition_of, position};
use super::queries::{Bounds, Newest, Queries, add};
use async_trait::async_trait;
use chatify_application::ports::LogTail;
use chatify_application::ports::log::{LogError, LogRecord, PartitionState, TailReader};
use chatify_domain::{Epoch, Partition, Position, Scope, Timestamp};
use futures_util::{FutureExt, StreamExt};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Records that one call gives at most.
const BATCH_RECORDS: usize = 1024;
/// Their bytes, but for the last of them.
const BATCH_BYTES: usize = 1 << 20;

/// A place that the log does not have.
#[derive(Debug, thiserror::Error)]
enum NoSuchPlace {
    #[error("the log has no partition {}", .0.0)]
    Partition(Partition),
    #[error("position {wanted:?} is of a later epoch than the configured one, {}", epoch.number())]
    Epoch { wanted: Position, epoch: Epoch },
    #[error("offset {0} is beyond what positions can express")]
    Offset(i64),
}

impl From<NoSuchPlace> for LogError {
    fn from(place: NoSuchPlace) -> Self {
        Self::Unavailable(Box::new(place))
    }
}

/// See the module.
pub(super) struct KafkaTail {
    shared: Arc<Shared>,
    queries: Arc<Queries>,
    newest: Arc<NewestRecords>,
}

/// The newest records that this pod has seen: what it has read need not be asked for.
struct NewestRecords(Mutex<Vec<Known>>);

#[derive(Clone, Copy, Default)]
struct Known {
    newest: Option<Newest>,
    /// When the partition ended here, it was known that `newest` is the last record before.
    end: i64,
}

impl NewestRecords {
    fn new(partitions: u32) -> Self {
        Self(Mutex::new(vec![Known::default(); partitions as usize]))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, partition: Partition) -> Known {
        self.lock().get(partition.0 as usize).copied().unwrap_or_default()
    }

    /// `newest` was read, or is the last record of a partition that ends at `end`.
    fn note(&self, partition: Partition, newest: Newest, end: i64) {
        if let Some(known) = self.lock().get_mut(partition.0 as usize)
            && known.newest.is_none_or(|known| known.offset <= newest.offset)
        {
            *known = Known { newest: Some(newest), end };
        }
    }
}

impl KafkaTail {
    pub(super) fn new(shared: Arc<Shared>, queries: Arc<Queries>) -> Self {
        let newest = Arc::new(NewestRecords::new(shared.options.partitions));
        Self { shared, queries, newest }
    }

    fn at(&self, offset: i64) -> Result<Position, LogError> {
        position(self.shared.options.epoch, offset).ok_or_else(|| NoSuchPlace::Offset(offset).into())
    }

    fn check(&self, partition: Partition) -> Result<(), LogError> {
        if partition.0 < self.shared.options.partitions {
            Ok(())
        } else {
            Err(NoSuchPlace::Partition(partition).into())
        }
    }

    /// What is said of one partition. Its newest record is fetched only when this pod has not read that far, and then once per end.
    async fn state(&self, partition: Partition, bounds: Bounds) -> Result<PartitionState, LogError> {
        let known = self.newest.get(partition);
        let newest = match known.newest {
            // Read meanwhile, so the log ends there at least.
            Some(newest) if newest.offset + 1 >= bounds.end || known.end == bounds.end => Some(newest),
            Some(_) | None if bounds.first == bounds.end => None,
            Some(_) | None => {
                let newest = self.queries.newest(partition, bounds).await?;
                if let Some(newest) = newest {
                    self.newest.note(partition, newest, bounds.end);
                }
                newest
            }
        };
        // Retention may have removed it by now.
        let newest = newest.filter(|newest| newest.offset >= bounds.first);
        Ok(PartitionState {
            partition,
            first: self.at(bounds.first)?,
            end: self.at(newest.map_or(bounds.first, |newest| newest.offset + 1))?,
            last_appended_at: newest.map(|newest| newest.appended_at),
        })
    }

    fn places(&self, from: &[(Partition, Position)]) -> Result<BTreeMap<Partition, i64>, LogError> {
        let epoch = self.shared.options.epoch;
        let mut places = BTreeMap::new();
        for (partition, wanted) in from {
            self.check(*partition)?;
            let offset = offset_at_or_after(epoch, *wanted).ok_or(NoSuchPlace::Epoch { wanted: *wanted, epoch })?;
            places.insert(*partition, offset);
        }
        Ok(places)
    }
}

#[async_trait]
impl LogTail for KafkaTail {
    fn partition_of(&self, scope: &Scope) -> Partition {
        partition_of(scope, self.shared.options.partitions)
    }

    async fn partitions(&self) -> Result<Vec<PartitionState>, LogError> {
        let bounds = self.queries.bounds().await?;
        let mut states = Vec::with_capacity(bounds.len());
        for (partition, bounds) in (0..).map(Partition).zip(bounds) {
            states.push(self.state(partition, bounds).await?);
        }
        Ok(states)
    }

    async fn end(&self, partition: Partition) -> Result<Position, LogError> {
        self.check(partition)?;
        let ends = self.queries.ends().await?;
        // The other partitions' troubles are not this one's.
        let end = ends.into_iter().nth(partition.0 as usize).ok_or(NoSuchPlace::Partition(partition))??;
        // The last offsets need not be records; `partitions` finds out when they are not.
        let known = self.newest.get(partition);
        let newest = known.newest.filter(|_| known.end == end);
        self.at(newest.map_or(end, |newest| newest.offset + 1))
    }

    async fn position_at(&self, partition: Partition, at: Timestamp) -> Result<Position, LogError> {
        self.check(partition)?;
        self.at(self.queries.offset_at(partition, at).await?)
    }

    async fn open(&self, from: &[(Partition, Position)]) -> Result<Box<dyn TailReader>, LogError> {
        let places = self.places(from)?;
        let options = &self.shared.options;
        let unavailable = |error: KafkaError| LogError::Unavailable(Box::new(error));
        let config = client_config(options, Role::Broadcast).map_err(|error| LogError::Unavailable(Box::new(error)))?;
        let events = ClientEvents::new(options, Role::Broadcast, &self.shared.health);
        let consumer: StreamConsumer<ClientEvents> = config.create_with_context(events).map_err(unavailable)?;
        let mut assignment = TopicPartitionList::with_capacity(places.len());
        for (partition, offset) in &places {
            add(&mut assignment, &options.topic, *partition, Offset::Offset(*offset));
        }
        consumer.assign(&assignment).map_err(unavailable)?;
        Ok(Box::new(Reader {
            epoch: options.epoch,
            partitions: options.partitions,
            queries: Arc::clone(&self.queries),
            newest: Arc::clone(&self.newest),
            consumer: Some(consumer),
            places,
            ended: None,
        }))
    }
}

struct Reader {
    epoch: Epoch,
    partitions: u32,
    queries: Arc<Queries>,
    newest: Arc<NewestRecords>,
    /// Taken only when the reader is dropped.
    consumer: Option<StreamConsumer<ClientEvents>>,
    /// The offset that each partition's next record has at least.
    places: BTreeMap<Partition, i64>,
    /// Why there is nothing more to read. Kept, so that a call that was dropped while it asked for the details loses nothing.
    ended: Option<KafkaError>,
}

#[async_trait]
impl TailReader for Reader {
    async fn next(&mut self) -> Result<Vec<LogRecord>, LogError> {
        while self.ended.is_none() {
            let batch = self.batch().await?;
            if !batch.is_empty() {
                self.note(&batch);
                return Ok(batch);
            }
        }
        Err(self.explain().await)
    }
}

impl Reader {
    /// Waits for a record and takes what else is in the queue. Nothing when only the state of the client changed.
    async fn batch(&mut self) -> Result<Vec<LogRecord>, LogError> {
        let mut messages = self.consumer.as_ref().expect("it is taken only when the reader is dropped").stream();
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut next = messages.next().await;
        // Nothing is awaited from here on, so that nothing which was taken from the queue can be lost.
        while let Some(message) = next {
            match message {
                Ok(message) => {
                    let record = log_record(&message, self.epoch, self.partitions).map_err(unavailable)?;
                    bytes += record.size;
                    batch.push(record);
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    self.ended = Some(error);
                    break;
                }
            }
            if batch.len() >= BATCH_RECORDS || bytes >= BATCH_BYTES {
                break;
            }
            next = messages.next().now_or_never().flatten();
        }
        Ok(batch)
    }

    fn note(&mut self, batch: &[LogRecord]) {
        let mut newest: BTreeMap<Partition, Newest> = BTreeMap::new();
        for record in batch {
            let (offset, appended_at) = (record.position.offset().number(), record.appended_at);
            newest.insert(record.partition, Newest { offset, appended_at });
        }
        for (partition, newest) in newest {
            self.places.insert(partition, newest.offset + 1);
            self.newest.note(partition, newest, newest.offset + 1);
        }
    }

    /// Why the reader ended, with the first position when it is that records are gone.
    async fn explain(&self) -> LogError {
        let error = self.ended.clone().unwrap_or(KafkaError::Canceled);
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AutoOffsetReset) {
            return unavailable(error);
        }
        let bounds = match self.queries.bounds().await {
            Ok(bounds) => bounds,
            Err(error) => return error.into(),
        };
        let gone = (0..).map(Partition).zip(bounds).find_map(|(partition, bounds)| {
            let wanted = self.places.get(&partition).copied().filter(|wanted| *wanted < bounds.first)?;
            Some((position(self.epoch, wanted)?, position(self.epoch, bounds.first)?))
        });
        match gone {
            Some((wanted, first)) => LogError::Truncated { wanted, first },
            // The log ends before the place: it was made anew, or lost its end.
            None => unavailable(error),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        close_on_thread(self.consumer.take());
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> LogError {
    LogError::Unavailable(Box::new(error))
}

/// Whether the client goes on by itself. While the brokers are away it reports so and reconnects sooner than a new reader would.
fn is_passing(error: &KafkaError) -> bool {
    if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
        return false;
    }
    !matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::Fatal
        )
    )
}
