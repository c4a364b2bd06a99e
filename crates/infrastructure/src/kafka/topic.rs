//! What the log needs of its topics: made when they are missing, refused when they are something else.

use super::client::{ClientEvents, Role, client_config, on_thread};
use super::error::{EpochMismatch, KafkaStartError, TopicMismatch, client_error};
use super::health::HealthState;
use super::options::KafkaOptions;
use super::position::{partition, position};
use super::token;
use crate::record::MAX_RECORD_BYTES;
use chatify_domain::{Epoch, Offset, Partition, Position};
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use std::sync::Arc;
use std::time::Duration;

/// Makes the topics that are missing and checks the log's.
///
/// # Errors
/// When the brokers do not answer, refuse it, or have a topic that cannot be the log.
pub(super) async fn ensure(options: &KafkaOptions, health: &Arc<HealthState>) -> Result<(), KafkaStartError> {
    let admin = connect(options, health)?;
    let topics = Topics { options, admin: Arc::new(admin) };
    let outcome = topics.ensure().await;
    // The client's destructor waits for its thread.
    let Topics { admin, .. } = topics;
    on_thread("kafka-admin-end", move || drop(admin)).await.map_err(KafkaStartError::Thread)?;
    outcome
}

fn connect(options: &KafkaOptions, health: &Arc<HealthState>) -> Result<AdminClient<ClientEvents>, KafkaStartError> {
    let events = ClientEvents::new(options, Role::Admin, health);
    let config = client_config(options, Role::Admin)?;
    let admin: AdminClient<ClientEvents> =
        config.create_with_context(events).map_err(|source| client_error("connecting", options, source))?;
    let file = options.security.token_file.as_deref();
    token::give(admin.inner(), file).map_err(|error| KafkaStartError::Token(error.into()))?;
    Ok(admin)
}

/// Refuses a log that is not the one from which `known` was read: for each partition the newest position that somebody holds. `ends` are the
/// positions behind the log's newest records.
///
/// # Errors
/// Says what `message_broker.log_epoch` has to be.
pub(super) fn check_epoch(
    epoch: Epoch,
    ends: &[(Partition, Position)],
    known: &[(Partition, Position)],
) -> Result<(), EpochMismatch> {
    let empty = Position::new(epoch, Offset::default());
    for &(of, known) in known {
        if known.epoch_number() > epoch.number() {
            return Err(EpochMismatch::WentBack { partition: of.0, configured: epoch.number(), known });
        }
        // Somebody's partition that the log does not have ends before everything.
        let end = ends.iter().find(|(partition, _)| *partition == of).map_or(empty, |(_, end)| *end);
        if known.epoch_number() == epoch.number() && known >= end {
            return Err(EpochMismatch::EndedBefore { partition: of.0, end, known });
        }
    }
    Ok(())
}

/// One pass over the topics with one client.
struct Topics<'a> {
    options: &'a KafkaOptions,
    admin: Arc<AdminClient<ClientEvents>>,
}

/// Room for a batch's own head, a record's key and its headers.
const RECORD_OVERHEAD_BYTES: usize = 4 * 1024;
/// Between two looks at a topic that was just made and is not known to all brokers yet.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// From this many replicas on one may be lost while an accepted message has to be on two.
const REPLICAS_FOR_TWO_IN_SYNC: u16 = 3;

impl Topics<'_> {
    /// Creates first and looks then: looking for a missing topic would let brokers make one with their own defaults.
    async fn ensure(&self) -> Result<(), KafkaStartError> {
        let options = self.options;
        let refused = self.create(&options.topic, options.partitions, options.retention).await?;
        let found = self.partitions(&options.topic, refused).await?;
        if found != options.partitions as usize {
            let topic = options.topic.clone();
            return Err(TopicMismatch::Partitions { topic, found, configured: options.partitions }.into());
        }
        self.check_settings().await?;
        let refused = self.create(&options.dead_letter_topic, 1, options.dead_letter_retention).await?;
        self.partitions(&options.dead_letter_topic, refused).await?;
        Ok(())
    }

    /// Creates the topic when it is missing. A user who may not create topics gets the refusal back: the topic may be there.
    async fn create(
        &self,
        name: &str,
        partitions: u32,
        retention: Duration,
    ) -> Result<Option<KafkaError>, KafkaStartError> {
        let retention = retention.as_millis().to_string();
        let replicas = self.options.replication_factor;
        // -1 asks for the brokers' default.
        let replication = TopicReplication::Fixed(replicas.map_or(-1, i32::from));
        let count = i32::try_from(partitions).expect("the options were checked");
        let mut topic = NewTopic::new(name, count, replication)
            .set("message.timestamp.type", "LogAppendTime")
            .set("cleanup.policy", "delete")
            .set("retention.ms", &retention);
        if replicas.is_some_and(|replicas| replicas >= REPLICAS_FOR_TWO_IN_SYNC) {
            topic = topic.set("min.insync.replicas", "2");
        }
        let timeouts = AdminOptions::new()
            .operation_timeout(Some(self.options.start_deadline))
            .request_timeout(Some(self.options.start_deadline));
        let answers = self.admin.create_topics([&topic], &timeouts).await;
        let answer = answers.map_err(|source| client_error("creating the topic", self.options, source))?.pop();
        match answer {
            Some(Ok(_)) => {
                tracing::info!(topic = name, partitions, "topic created");
                Ok(None)
            }
            None | Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(None),
            Some(Err((_, code))) => Ok(Some(KafkaError::AdminOp(code))),
        }
    }

    /// How many partitions the topic has. When it is not there and its creation was refused, `refused` says why.
    async fn partitions(&self, name: &str, refused: Option<KafkaError>) -> Result<usize, KafkaStartError> {
        let deadline = tokio::time::Instant::now() + self.options.start_deadline;
        loop {
            let found = self.look(name).await?;
            match (found, &refused) {
                (Ok(count), _) if count > 0 => return Ok(count),
                (Err(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED), _) => {
                    let source = KafkaError::MetadataFetch(RDKafkaErrorCode::TopicAuthorizationFailed);
                    return Err(client_error("looking at the topic", self.options, source));
                }
                (_, Some(source)) => return Err(not_created(name, self.options, source)),
                _ if tokio::time::Instant::now() >= deadline => {
                    let source = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
                    return Err(client_error("waiting for the topic that was created", self.options, source));
                }
                _ => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// The number of partitions, or what is wrong with the topic.
    async fn look(&self, name: &str) -> Result<Result<usize, RDKafkaRespErr>, KafkaStartError> {
        let (admin, topic, deadline) = (Arc::clone(&self.admin), name.to_owned(), self.options.start_deadline);
        let look = move || -> KafkaResult<Result<usize, RDKafkaRespErr>> {
            let metadata = admin.inner().fetch_metadata(Some(&topic), deadline)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            Ok(found.map_or(Ok(0), |found| found.error().map_or(Ok(found.partitions().len()), Err)))
        };
        let looked = on_thread("kafka-metadata", look).await.map_err(KafkaStartError::Thread)?;
        looked.map_err(|source| client_error("looking at the topic", self.options, source))
    }

    /// Refuses a topic whose settings break a promise.
    async fn check_settings(&self) -> Result<(), KafkaStartError> {
        let topic = self.options.topic.as_str();
        let settings = self.settings(topic).await?;
        let batch_bytes =
            client_config(self.options, Role::Producer)?.get("batch.size").and_then(|size| size.parse().ok());
        let needed = batch_bytes.unwrap_or(0).max(MAX_RECORD_BYTES + RECORD_OVERHEAD_BYTES);
        check_settings(topic, &settings, needed)?;
        warn_of_retention(topic, &settings, self.options.retention);
        Ok(())
    }
}

impl Topics<'_> {
    /// The topic's settings. A broker that has not heard of a new topic yet answers without any.
    async fn settings(&self, topic: &str) -> Result<ConfigResource, KafkaStartError> {
        let deadline = tokio::time::Instant::now() + self.options.start_deadline;
        let timeouts = AdminOptions::new().request_timeout(Some(self.options.start_deadline));
        let failed = |source| client_error("describing the topic's settings", self.options, source);
        loop {
            let answers = self.admin.describe_configs([&ResourceSpecifier::Topic(topic)], &timeouts).await;
            let code = match answers.map_err(failed)?.pop() {
                Some(Ok(settings)) if !settings.entries.is_empty() => return Ok(settings),
                Some(Ok(_)) => RDKafkaErrorCode::UnknownTopicOrPartition,
                Some(Err(code)) => code,
                None => RDKafkaErrorCode::Unknown,
            };
            let unknown = code == RDKafkaErrorCode::UnknownTopicOrPartition;
            if !unknown || tokio::time::Instant::now() >= deadline {
                return Err(failed(KafkaError::AdminOp(code)));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn not_created(topic: &str, options: &KafkaOptions, source: &KafkaError) -> KafkaStartError {
    match client_error("creating the topic", options, source.clone()) {
        KafkaStartError::Denied { doing, source } => KafkaStartError::Denied { doing, source },
        _ => KafkaStartError::NotCreated { topic: topic.to_owned(), source: source.clone() },
    }
}

fn check_settings(topic: &str, settings: &ConfigResource, needed: usize) -> Result<(), TopicMismatch> {
    let value = |name| settings.get(name).and_then(|entry| entry.value.clone()).unwrap_or_default();
    let topic = topic.to_owned();
    let found = value("message.timestamp.type");
    if found != "LogAppendTime" {
        return Err(TopicMismatch::TimestampType { topic, found });
    }
    let found = value("cleanup.policy");
    if found != "delete" {
        return Err(TopicMismatch::CleanupPolicy { topic, found });
    }
    let found = value("max.message.bytes").parse().unwrap_or(0);
    if found < needed {
        return Err(TopicMismatch::MessageBytes { topic, found, needed });
    }
    if value("min.insync.replicas") == "1" {
        tracing::info!(
            topic,
            "min.insync.replicas is 1: an accepted message may be on one broker alone while others are away"
        );
    }
    Ok(())
}

/// A topic that was there may forget sooner than the configuration says. It is the operator's, so that is told and nothing more.
fn warn_of_retention(topic: &str, settings: &ConfigResource, configured: Duration) {
    let number = |name| settings.get(name).and_then(|entry| entry.value.as_deref()?.parse::<u64>().ok());
    // "For ever" and "any size" are -1, which is no such number.
    if let Some(millis) = number("retention.ms")
        && Duration::from_millis(millis) < configured
    {
        let keeps = Duration::from_millis(millis);
        tracing::warn!(
            topic,
            ?keeps,
            ?configured,
            "the topic forgets sooner than `message_broker.retention` says: what the history has not got by then is lost"
        );
    }
    if let Some(bytes) = number("retention.bytes") {
        tracing::warn!(topic, bytes, "the topic forgets by size: what the history has not got by then is lost");
    }
}

/// The position behind the newest record of each of `count` partitions, asked of the brokers. Blocks.
pub(super) fn ends<C: rdkafka::ClientContext>(
    client: &rdkafka::client::Client<C>,
    options: &KafkaOptions,
) -> KafkaResult<Vec<(Partition, Position)>> {
    let mut ends = Vec::new();
    for number in 0..i32::try_from(options.partitions).expect("the options were checked") {
        let (_, high) = client.fetch_watermarks(&options.topic, number, options.start_deadline)?;
        ends.extend(partition(number).zip(position(options.epoch, high)));
    }
    Ok(ends)
}
