//! The threads of a member: one answers the group's rebalances, one commits.

use super::session::{Failure, Records, Session, numbered};
use super::tenures::Commit;
use crate::kafka::Shared;
use crate::kafka::client::{ClientEvents, Role, client_config};
use crate::kafka::error::KafkaStartError;
use crate::kafka::insist::{Patience, insist};
use crate::kafka::position::partition;
use crate::kafka::queries::add;
use chatify_building_blocks::seeded_bugs::{Bug, seeded_bug};
use chatify_domain::Partition;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// How soon the thread sees that its member was dropped.
const POLL: Duration = Duration::from_millis(50);
/// The brokers have this long to say what is committed in a partition that was assigned: longer than they take to give up one of them that died.
const LOOK_UP: Patience = Patience { deadline: Duration::from_secs(15), moving: Duration::from_secs(15) };
/// A revoked partition may be held this long: well under `max.poll.interval.ms`, after which the brokers would take it away.
const HOLD_DEADLINE: Duration = Duration::from_secs(60);
/// At the end of the process, leaving the group may take this long; the brokers notice by themselves otherwise.
/// With what is committed before, it is less than the ten seconds that a process has by default.
const LEAVE_DEADLINE: Duration = Duration::from_secs(6);
/// A group that moves has this long to let the client leave; a group that waits for members which died is not waited for, and half of `LEAVE_DEADLINE` is
/// left for closing.
const UNSUBSCRIBE_DEADLINE: Duration = Duration::from_secs(3);
/// How soon the thread sees that it has.
const LEAVE_POLL: Duration = Duration::from_millis(10);

/// Each partition has one commit under way at most.
const COMMITS_WAITING: usize = 1024;

pub(super) type Client = BaseConsumer<GroupEvents>;

/// A member's client, its state, and the sign of its end.
pub(super) struct Joined {
    pub(super) client: Arc<Client>,
    pub(super) session: Arc<Session>,
    /// What is to be committed.
    pub(super) commits: SyncSender<Commit>,
    /// Dropped with the member, which starts the deadline for leaving.
    pub(super) leaving: oneshot::Sender<()>,
}

/// Makes a client, subscribes and starts its thread.
///
/// # Errors
/// When the options make no client, or the operating system gives no thread.
pub(super) fn start(shared: &Arc<Shared>) -> Result<Joined, KafkaStartError> {
    let mut config = client_config(&shared.options, Role::Group)?;
    configure(&mut config);
    let session = Arc::new(Session::default());
    let events = GroupEvents {
        events: ClientEvents::new(&shared.options, Role::Group, &shared.health),
        session: Arc::clone(&session),
        rebalances: Mutex::default(),
    };
    let failed = |error| crate::kafka::error::client_error("joining the group", &shared.options, error);
    let client: Client = config.create_with_context(events).map_err(failed)?;
    client.subscribe(&[&shared.options.topic]).map_err(failed)?;
    let client = Arc::new(client);
    let commits = committer(shared, &client, &session)?;
    let follower = Follower { shared: Arc::clone(shared), client: Arc::clone(&client), session: Arc::clone(&session) };
    let (ending, ended) = oneshot::channel::<()>();
    let run = move || {
        follower.run();
        drop(ending);
    };
    shared.supervisor.thread("kafka-group", run).map_err(KafkaStartError::Thread)?;
    let (leaving, left) = oneshot::channel::<()>();
    shared.supervisor.work("kafka-group", async move {
        // Both ends only ever go away; no value is sent.
        drop(left.await);
        if tokio::time::timeout(LEAVE_DEADLINE, ended).await.is_err() {
            tracing::warn!("leaving the history writers' group takes long; its members will notice by themselves");
        }
    });
    Ok(Joined { client, session, commits, leaving })
}

/// Starts the thread that commits. librdkafka tells the outcome of a commit only to a caller that waits for it: rdkafka 0.39 registers no callback
/// for the others, so that `commit_callback` is never called.
fn committer(
    shared: &Arc<Shared>,
    client: &Arc<Client>,
    session: &Arc<Session>,
) -> Result<SyncSender<Commit>, KafkaStartError> {
    let supervisor = shared.supervisor.clone();
    let (shared, client, session) = (Arc::clone(shared), Arc::clone(client), Arc::clone(session));
    let (commits, ordered) = sync_channel::<Commit>(COMMITS_WAITING);
    let run = move || {
        let mut ever = BTreeMap::new();
        while let Ok(commit) = ordered.recv() {
            if !session.may_send(commit) {
                continue;
            }
            let Commit { partition, offset, .. } = commit;
            let mut list = TopicPartitionList::with_capacity(1);
            add(&mut list, &shared.options.topic, partition, Offset::Offset(offset));
            if seeded_bug(Bug::CommitAfterRevoke) {
                ever.remove(&partition);
                for (other, offset) in &ever {
                    add(&mut list, &shared.options.topic, *other, Offset::Offset(*offset));
                }
                ever.insert(partition, offset);
            }
            let outcome = client.commit(&list, CommitMode::Sync);
            let code = |error: KafkaError| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            session.commit_ended(commit, outcome.map_err(code));
        }
    };
    supervisor.thread("kafka-commits", run).map_err(KafkaStartError::Thread)?;
    Ok(commits)
}

/// The thread's own needs, which no property may change.
fn configure(config: &mut ClientConfig) {
    // Per partition: each has a queue of its own.
    config.set("queued.max.messages.kbytes", "4096");
}

struct Follower {
    shared: Arc<Shared>,
    client: Arc<Client>,
    session: Arc<Session>,
}

impl Follower {
    fn run(self) {
        while !self.session.is_closing() {
            match self.client.poll(POLL) {
                None => {}
                Some(Err(error)) => self.trouble(error),
                // Every partition has a queue of its own before it is read. A record that comes past it would be lost, so the membership ends.
                Some(Ok(message)) => self.lost(&message),
            }
            while let Some(rebalance) = self.client.context().next_rebalance() {
                self.answer(rebalance);
            }
            if let Some(overdue) = self.session.overdue(self.shared.clock.uptime()) {
                tracing::error!("a revoked partition was not released in time; it is given away");
                self.give_up(&overdue);
            }
        }
        self.leave();
    }

    fn trouble(&self, error: KafkaError) {
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::PollExceeded) => self.session.fail(Failure::Lost),
            Some(RDKafkaErrorCode::GroupAuthorizationFailed | RDKafkaErrorCode::TopicAuthorizationFailed) => {
                self.session.fail(Failure::Client(error));
            }
            Some(_) | None if fatal => self.session.fail(Failure::Client(error)),
            // Connections break and come back.
            Some(_) | None => {}
        }
    }

    fn lost<M: Message>(&self, message: &M) {
        let partition = partition(message.partition()).unwrap_or_default();
        self.session.fail(Failure::Gone { partition, offset: message.offset() });
    }

    fn answer(&self, rebalance: Rebalance) {
        match rebalance {
            Rebalance::Assign(partitions) => {
                if let Err(error) = self.assign(&partitions) {
                    // The group waits for an answer, also for that of a member that is about to leave it.
                    drop(self.client.incremental_assign(&partitions));
                    self.session.fail(Failure::Client(error));
                }
            }
            Rebalance::Revoke(partitions) if self.client.assignment_lost() => {
                self.session.fail(Failure::Lost);
                self.give_up(&partitions);
            }
            Rebalance::Revoke(partitions) => {
                let until = self.shared.clock.uptime() + HOLD_DEADLINE;
                if let Some(partitions) = self.session.revoking(partitions, until) {
                    self.give_up(&partitions);
                }
            }
            Rebalance::Failed(error) => self.session.fail(Failure::Client(error)),
        }
    }

    fn assign(&self, partitions: &TopicPartitionList) -> KafkaResult<()> {
        if partitions.count() == 0 {
            return self.client.incremental_assign(partitions);
        }
        let topic = &self.shared.options.topic;
        let mut start = TopicPartitionList::with_capacity(partitions.count());
        let mut assigned = Vec::with_capacity(partitions.count());
        for (partition, from) in self.places(partitions)? {
            add(&mut start, topic, partition, Offset::Offset(from));
            assigned.push((partition, from, self.records(partition)?));
        }
        self.client.incremental_assign(&start)?;
        self.session.assigned(assigned);
        Ok(())
    }

    /// The partition's own queue, which tells the member when it is no longer empty.
    fn records(&self, partition: Partition) -> KafkaResult<Records> {
        let number = crate::kafka::position::kafka_partition(partition);
        let mut records = self
            .client
            .split_partition_queue(&self.shared.options.topic, number)
            .ok_or(KafkaError::Subscription("the partition has no queue".into()))?;
        let session = Arc::clone(&self.session);
        records.set_nonempty_callback(move || session.news.notify_one());
        Ok(records)
    }

    /// Where each partition goes on: at what is committed, or at the first record when the group is new.
    fn places(&self, partitions: &TopicPartitionList) -> KafkaResult<Vec<(Partition, i64)>> {
        let wanted = plain(partitions, Offset::Invalid)?;
        let committed = self.insist(|patience| self.client.committed_offsets(wanted.clone(), patience))?;
        let wanted = plain(partitions, Offset::Beginning)?;
        let firsts = self.insist(|patience| self.client.offsets_for_times(wanted.clone(), patience))?;
        let mut places = Vec::with_capacity(firsts.len());
        for (partition, first) in firsts {
            let first = first.unwrap_or(0);
            let committed = committed.get(&partition).copied().flatten();
            if let Some(committed) = committed.filter(|committed| *committed < first) {
                tracing::error!(
                    partition = partition.0,
                    committed,
                    first,
                    records = first - committed,
                    "the log's retention removed records before the history had them: they are missing in it for ever"
                );
            }
            places.push((partition, committed.unwrap_or(first).max(first)));
        }
        Ok(places)
    }

    fn insist(
        &self,
        ask: impl Fn(Duration) -> KafkaResult<TopicPartitionList>,
    ) -> KafkaResult<BTreeMap<Partition, Option<i64>>> {
        let (topic, clock) = (&self.shared.options.topic, &*self.shared.clock);
        insist(&self.client, topic, clock, LOOK_UP, |patience| offsets(&ask(patience)?))
    }

    fn give_up(&self, partitions: &TopicPartitionList) {
        if let Err(error) = self.client.incremental_unassign(partitions) {
            self.session.fail(Failure::Client(error));
        }
    }

    /// Answers what is owed, for closing would wait for that, leaves, and closes. The member has let go of the client already.
    ///
    /// Leaving comes first because librdkafka 2.12 cannot do both at once. A client that has no partition, or is still waiting for the answer that gives it
    /// some, closes without leaving, so that the others wait until its session is over; and that answer may then end the process with a null pointer
    /// (confluentinc/librdkafka, pull request 5327, which is in 2.14.2). A client that unsubscribes waits for the answer and leaves.
    fn leave(self) {
        if let Some(owed) = self.session.owed() {
            self.give_up(&owed);
        }
        self.client.unsubscribe();
        let until = self.shared.clock.uptime() + UNSUBSCRIBE_DEADLINE;
        while is_member(&self.client) && self.shared.clock.uptime() < until {
            // What comes is nobody's any more.
            drop(self.client.poll(LEAVE_POLL));
        }
        drop(self.client);
    }
}

/// Whether the client has a member id, which it throws away when it leaves.
#[expect(
    unsafe_code,
    reason = "rdkafka has no safe call for it; what it knows of the subscription is what was last asked for"
)]
fn is_member(client: &Client) -> bool {
    use rdkafka::bindings::{rd_kafka_mem_free, rd_kafka_memberid};
    let native = client.client().native_ptr();
    // SAFETY: the client lives as long as it is borrowed, and answers with a text of its own or with none.
    let id = unsafe { rd_kafka_memberid(native) };
    if id.is_null() {
        return false;
    }
    // SAFETY: a text ends with a zero, so that it has a first byte; it is ours until it is given back, which happens once.
    unsafe {
        let empty = *id == 0;
        rd_kafka_mem_free(native, id.cast());
        !empty
    }
}

/// The same partitions with this offset.
fn plain(partitions: &TopicPartitionList, offset: Offset) -> KafkaResult<TopicPartitionList> {
    let mut plain = partitions.clone();
    plain.set_all_offsets(offset)?;
    Ok(plain)
}

fn offsets(list: &TopicPartitionList) -> KafkaResult<BTreeMap<Partition, Option<i64>>> {
    let mut offsets = BTreeMap::new();
    for (partition, element) in numbered(list) {
        element.error()?;
        offsets.insert(
            partition,
            match element.offset() {
                Offset::Offset(offset) => Some(offset),
                Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => None,
            },
        );
    }
    Ok(offsets)
}

/// A rebalance that the group waits to be answered.
enum Rebalance {
    Assign(TopicPartitionList),
    Revoke(TopicPartitionList),
    Failed(KafkaError),
}

/// What librdkafka calls while the thread polls.
pub(super) struct GroupEvents {
    events: ClientEvents,
    session: Arc<Session>,
    rebalances: Mutex<VecDeque<Rebalance>>,
}

impl GroupEvents {
    fn next_rebalance(&self) -> Option<Rebalance> {
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl ConsumerContext for GroupEvents {
    /// Takes the rebalance down. It is answered when its partitions are ready, which the group waits for; the client goes on polling meanwhile.
    fn rebalance(&self, client: &BaseConsumer<Self>, code: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        if self.session.is_closing() {
            // The member is gone, and closing waits for the answer.
            if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
                drop(client.incremental_assign(partitions));
            } else {
                drop(client.incremental_unassign(partitions));
            }
            return;
        }
        let rebalance = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assign(partitions.clone()),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => Rebalance::Revoke(partitions.clone()),
            other => Rebalance::Failed(KafkaError::Rebalance(other.into())),
        };
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push_back(rebalance);
    }
}

impl ClientContext for GroupEvents {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = ClientEvents::ENABLE_REFRESH_OAUTH_TOKEN;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.events.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.events.error(error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.events.stats_raw(statistics);
    }

    fn generate_oauth_token(&self, configuration: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.events.generate_oauth_token(configuration)
    }
}
