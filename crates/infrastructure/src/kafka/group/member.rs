//! The member's side that the application works with.

use super::follower::{Client, Joined};
use super::session::{Change, Failure, Records, Session};
use super::tenures::{Commit, CommitStep};
use crate::kafka::Shared;
use crate::kafka::decode::{log_record, whole_size};
use crate::kafka::letters::{Letters, Origin};
use crate::kafka::position::{offset_at_or_after, position};
use crate::kafka::queries::Queries;
use async_trait::async_trait;
use chatify_application::ports::log::{GroupEvent, GroupMember, LogError, LogRecord, Undecodable};
use chatify_domain::{Partition, Position};
use rdkafka::Message;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedMessage;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use tokio::sync::oneshot;

/// Records that one event has at most.
const BATCH_RECORDS: usize = 1024;
/// Their bytes, but for the last of them.
const BATCH_BYTES: usize = 1 << 20;
/// A commit that is not durable by then has failed, as far as is known. Shorter than the time that a pod has to end.
const COMMIT_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of records without an event, with their headers, that are kept until they are committed; what is beyond is fetched again when it is wanted.
const POISON_BYTES: usize = 4 << 20;

pub(super) struct Member {
    shared: Arc<Shared>,
    queries: Arc<Queries>,
    letters: Arc<Letters>,
    session: Arc<Session>,
    /// Taken only when the member is dropped.
    client: Option<Arc<Client>>,
    commits: Option<SyncSender<Commit>>,
    leaving: Option<oneshot::Sender<()>>,
    sources: BTreeMap<Partition, Source>,
    /// The partition that was asked last, so that a busy one does not keep the others waiting.
    turn: Partition,
    poison: Poison,
}

/// A partition whose records are read.
struct Source {
    records: Records,
    /// The offset that the next record has at least.
    next: i64,
    paused: bool,
}

/// Records without an event, as they came, in case they are to be set aside.
#[derive(Default)]
struct Poison {
    messages: BTreeMap<(Partition, i64), OwnedMessage>,
    bytes: usize,
}

impl Poison {
    /// Keeps the message of so many bytes, if there is room; only then it is copied.
    fn keep(&mut self, partition: Partition, offset: i64, bytes: usize, copy: impl FnOnce() -> OwnedMessage) {
        if self.bytes + bytes <= POISON_BYTES && self.messages.insert((partition, offset), copy()).is_none() {
            self.bytes += bytes;
        }
    }

    fn get(&self, partition: Partition, offset: i64) -> Option<&OwnedMessage> {
        self.messages.get(&(partition, offset))
    }

    /// Everything in `partition` before `end` is settled.
    fn forget(&mut self, partition: Partition, end: i64) {
        self.messages.retain(|(other, offset), _| *other != partition || *offset >= end);
        self.bytes = self.messages.values().map(whole_size).sum();
    }
}

impl Member {
    pub(super) fn new(shared: Arc<Shared>, queries: Arc<Queries>, letters: Arc<Letters>, joined: Joined) -> Self {
        Self {
            shared,
            queries,
            letters,
            session: joined.session,
            client: Some(joined.client),
            commits: Some(joined.commits),
            leaving: Some(joined.leaving),
            sources: BTreeMap::new(),
            turn: Partition::default(),
            poison: Poison::default(),
        }
    }

    /// What there is now. Changes come before records, so that a partition's records come after its assignment and not after its revocation.
    fn poll(&mut self) -> Result<Option<GroupEvent>, LogError> {
        match self.session.next_change().map_err(unavailable)? {
            Some(Change::Assigned { partition, from, records }) => {
                self.sources.insert(partition, Source { records, next: from, paused: false });
                let from = position(self.shared.options.epoch, from).unwrap_or(Position::MAX);
                Ok(Some(GroupEvent::Assigned { partition, from }))
            }
            Some(Change::Revoking { partition }) => {
                self.let_go(partition);
                Ok(Some(GroupEvent::Revoking { partition }))
            }
            None => self.records(),
        }
    }

    fn records(&mut self) -> Result<Option<GroupEvent>, LogError> {
        let after = self.turn;
        let later = self.sources.keys().copied().filter(|partition| *partition > after);
        let turns: Vec<Partition> =
            later.chain(self.sources.keys().copied().filter(|partition| *partition <= after)).collect();
        for partition in turns {
            let Some(source) = self.sources.get_mut(&partition).filter(|source| !source.paused) else { continue };
            let records = source.take(&self.shared, &mut self.poison, partition).map_err(|failure| {
                self.session.fail(failure.clone());
                unavailable(failure)
            })?;
            if !records.is_empty() {
                self.turn = partition;
                return Ok(Some(GroupEvent::Records { partition, records }));
            }
        }
        Ok(None)
    }

    fn let_go(&mut self, partition: Partition) {
        self.sources.remove(&partition);
        self.poison.forget(partition, i64::MAX);
    }

    async fn commit_offset(&self, partition: Partition, offset: i64) -> Result<(), LogError> {
        loop {
            let ended = self.session.commits.notified();
            tokio::pin!(ended);
            // Registered before the state is looked at, so that no end is missed.
            ended.as_mut().enable();
            match self.session.commit_step(partition, offset) {
                CommitStep::Done => return Ok(()),
                CommitStep::NotOwned => return Err(LogError::NotAssigned),
                CommitStep::Send(commit) => self.send_commit(commit),
                CommitStep::Wait => ended.await,
                // The second one when the group went on to its next generation while the commit was under way. A member that is really out hears of it
                // by its next heartbeat.
                CommitStep::Refused(RDKafkaErrorCode::RebalanceInProgress | RDKafkaErrorCode::IllegalGeneration) => {
                    return Err(LogError::Rebalancing);
                }
                CommitStep::Refused(
                    RDKafkaErrorCode::UnknownMemberId
                    | RDKafkaErrorCode::FencedInstanceId
                    | RDKafkaErrorCode::AssignmentLost,
                ) => {
                    self.session.fail(Failure::Lost);
                    return Err(LogError::NotAssigned);
                }
                CommitStep::Refused(code) => return Err(unavailable(KafkaError::ConsumerCommit(code))),
            }
        }
    }

    fn send_commit(&self, commit: Commit) {
        let sent = self.commits.as_ref().is_some_and(|commits| commits.try_send(commit).is_ok());
        if !sent {
            self.session.commit_ended(commit, Err(RDKafkaErrorCode::QueueFull));
        }
    }

    /// Waits until no commit of the partition is on its way: one that arrived after the next owner's would take its place. The client gives a commit up
    /// after its own deadlines, and the group does not wait for ever either.
    async fn commits_ended(&self, partition: Partition) {
        loop {
            let ended = self.session.commits.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !self.session.is_committing(partition) {
                return;
            }
            ended.await;
        }
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is taken only when the member is dropped")
    }

    fn offset(&self, at: Position) -> Result<i64, LogError> {
        let later = || LogError::Unavailable("the position is of a later epoch than the configured one".into());
        offset_at_or_after(self.shared.options.epoch, at).ok_or_else(later)
    }
}

impl Source {
    /// What the queue has now.
    fn take(&mut self, shared: &Shared, poison: &mut Poison, partition: Partition) -> Result<Vec<LogRecord>, Failure> {
        let mut records = Vec::new();
        let mut bytes = 0;
        while records.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
            match self.records.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    let record = log_record(&message, shared.options.epoch, shared.options.partitions)
                        .map_err(|_| Failure::Gone { partition, offset: message.offset() })?;
                    if record.content.is_err() {
                        // Anybody may have written it, so its headers may be all of it.
                        let whole = whole_size(&message);
                        bytes += whole;
                        poison.keep(partition, message.offset(), whole, || message.detach());
                    } else {
                        bytes += record.size;
                    }
                    self.next = message.offset() + 1;
                    records.push(record);
                }
                Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                    return Err(Failure::Gone { partition, offset: self.next });
                }
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(Failure::Client(error)),
                // Connections break and come back.
                Some(Err(_)) => {}
            }
        }
        Ok(records)
    }
}

#[async_trait]
impl GroupMember for Member {
    async fn next(&mut self) -> Result<GroupEvent, LogError> {
        loop {
            if let Some(event) = self.poll()? {
                return Ok(event);
            }
            self.session.news.notified().await;
        }
    }

    async fn commit(&mut self, partition: Partition, next: Position) -> Result<(), LogError> {
        let offset = self.offset(next)?;
        let late = |late| LogError::Unavailable(Box::new(late));
        tokio::time::timeout(COMMIT_DEADLINE, self.commit_offset(partition, offset)).await.map_err(late)??;
        self.poison.forget(partition, offset);
        Ok(())
    }

    async fn release(&mut self, partition: Partition) -> Result<(), LogError> {
        self.commits_ended(partition).await;
        let answer = self.session.release(partition).ok_or(LogError::NotAssigned)?;
        self.let_go(partition);
        match answer {
            Some(answer) => self.client().incremental_unassign(&answer).map_err(unavailable),
            None => Ok(()),
        }
    }

    fn pause(&mut self, partition: Partition) {
        if let Some(source) = self.sources.get_mut(&partition) {
            source.paused = true;
        }
    }

    fn resume(&mut self, partition: Partition) {
        if let Some(source) = self.sources.get_mut(&partition) {
            source.paused = false;
        }
    }

    async fn dead_letter(&mut self, record: &LogRecord, class: &Undecodable) -> Result<(), LogError> {
        let (partition, offset) = (record.partition, self.offset(record.position)?);
        let origin = Origin { topic: self.shared.options.topic.clone(), partition, offset };
        match self.poison.get(partition, offset) {
            Some(message) => self.letters.keep(&origin, Some(message), class).await,
            None => {
                let message = self.queries.record(partition, offset).await?;
                self.letters.keep(&origin, message.as_ref(), class).await
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // A thread must have the last hold on the client, because closing waits. What is revoked while it closes is given up at once.
        self.sources.clear();
        drop((self.client.take(), self.commits.take()));
        self.session.close();
        drop(self.leaving.take());
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> LogError {
    LogError::Unavailable(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::message::{Header, OwnedHeaders, Timestamp};

    const MIB: usize = 1 << 20;

    /// A record whose bytes are a header's, but for a few.
    fn headed(offset: i64) -> OwnedMessage {
        let filler = vec![b'x'; MIB - "filler".len()];
        let headers = OwnedHeaders::new().insert(Header { key: "filler", value: Some(&filler) });
        OwnedMessage::new(None, None, "log".into(), Timestamp::NotAvailable, 0, offset, Some(headers))
    }

    #[test]
    fn headers_count_for_what_is_kept_of_poison() {
        let mut poison = Poison::default();
        let partition = Partition(0);
        let keep = |poison: &mut Poison, offset| {
            let message = headed(offset);
            poison.keep(partition, offset, whole_size(&message), || message);
        };
        (0..10).for_each(|offset| keep(&mut poison, offset));
        assert_eq!((poison.messages.len(), poison.bytes), (POISON_BYTES / MIB, POISON_BYTES));
        poison.forget(partition, 1);
        assert_eq!(poison.bytes, POISON_BYTES - MIB);
        keep(&mut poison, 10);
        assert!(poison.get(partition, 10).is_some() && poison.get(partition, 0).is_none());
        poison.forget(partition, i64::MAX);
        assert_eq!(poison.bytes, 0);
    }
}
