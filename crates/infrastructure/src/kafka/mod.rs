//! The log in Apache Kafka, by librdkafka.
//!
//! A record's key is its scope, its partition follows from the key (`position`), its time is the broker's. Read `options`, `client` (how every
//! client is configured), `topic` (what the log needs of its topic) and `appender`; the readers are `tail` (this pod alone) and `group`
//! (the history writers of all pods).

mod appender;
mod asker;
mod client;
mod closing;
pub mod dead_letters;
mod decode;
mod delivery;
mod error;
mod group;
mod health;
mod insist;
pub mod lag;
mod letters;
mod options;
mod position;
mod producer;
mod queries;
mod security;
mod tail;
#[cfg(test)]
mod testing;
mod token;
mod topic;

pub use error::{EpochMismatch, KafkaOptionsError, KafkaStartError, TopicMismatch};
pub use health::{Away, KafkaHealth};
pub use options::KafkaOptions;
pub use security::{SaslMechanism, Security, SecurityProtocol};

use appender::KafkaAppender;
use chatify_application::ports::{LogAppender, LogGroup, LogTail};
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{Partition, Position};
use client::on_thread;
use group::KafkaGroup;
use health::HealthState;
use producer::Producer;
use queries::Queries;
use std::sync::Arc;
use tail::KafkaTail;

/// What all adapters over one connected log share.
struct Shared {
    options: KafkaOptions,
    clock: Arc<dyn Clock>,
    supervisor: Supervisor,
    health: Arc<HealthState>,
}

/// The log of all pods, and the ports over it. Cheap to clone.
///
/// The connection ends when this and every port made from it are dropped; [`KafkaLog::close`] ends it without giving up what was accepted.
#[derive(Clone)]
pub struct KafkaLog {
    shared: Arc<Shared>,
    producer: Arc<Producer>,
    tail: Arc<KafkaTail>,
    group: Arc<KafkaGroup>,
}

impl KafkaLog {
    /// Connects, creates the topics that are missing, and makes everything ready for the first send. A producer that cannot go on is made anew;
    /// when its thread panics it crashes `supervisor`.
    ///
    /// # Errors
    /// When the brokers do not answer within a few times [`KafkaOptions::start_deadline`], refuse us, or have a topic that cannot be the log.
    /// [`KafkaStartError`] says which of these is worth another try.
    pub async fn connect(
        options: KafkaOptions,
        clock: Arc<dyn Clock>,
        supervisor: &Supervisor,
    ) -> Result<Self, KafkaStartError> {
        let tried = options.clone();
        on_thread("kafka-options", move || tried.validate()).await.map_err(KafkaStartError::Thread)??;
        let health = Arc::new(HealthState::new(Arc::clone(&clock)));
        // First, because only a client that is polled is told when the brokers do not let it in.
        let producer = Arc::new(Producer::start(&options, &health, supervisor)?);
        producer.connected().await?;
        topic::ensure(&options, &health).await?;
        producer.ends().await?;
        let shared = Arc::new(Shared { options, clock, supervisor: supervisor.clone(), health });
        let queries = Queries::start(Arc::clone(&shared))?;
        let tail = Arc::new(KafkaTail::new(Arc::clone(&shared), Arc::clone(&queries)));
        let group = Arc::new(KafkaGroup::new(Arc::clone(&shared), queries));
        Ok(Self { shared, producer, tail, group })
    }

    /// The writing end.
    #[must_use]
    pub fn appender(&self) -> Arc<dyn LogAppender> {
        let partitions = self.shared.options.partitions;
        Arc::new(KafkaAppender { producer: Arc::clone(&self.producer), partitions })
    }

    /// The reading end of this pod.
    #[must_use]
    pub fn tail(&self) -> Arc<dyn LogTail> {
        Arc::clone(&self.tail) as Arc<dyn LogTail>
    }

    /// The group of all pods' history writers.
    #[must_use]
    pub fn group(&self) -> Arc<dyn LogGroup> {
        Arc::clone(&self.group) as Arc<dyn LogGroup>
    }

    /// Refuses a log that is not the one from which `newest` was read: for each partition the newest position that the history or the group has.
    /// Asks the brokers for the log's ends.
    ///
    /// # Errors
    /// [`KafkaStartError::Epoch`] when the log ends before such a position, or the position is of a later epoch.
    pub async fn check_against(&self, newest: &[(Partition, Position)]) -> Result<(), KafkaStartError> {
        let ends = self.producer.ends().await?;
        Ok(topic::check_epoch(self.shared.options.epoch, &ends, newest)?)
    }

    /// What is known of the brokers; asks nobody.
    #[must_use]
    pub fn health(&self) -> KafkaHealth {
        self.shared.health.current()
    }

    /// Refuses new records, and waits for the brokers to acknowledge those that were accepted, at most [`KafkaOptions::close_deadline`]. The
    /// outcome of what is left over is unknown, or a refusal when it was never sent.
    pub async fn close(&self) {
        self.producer.close().await;
    }
}

#[cfg(test)]
mod tests;
