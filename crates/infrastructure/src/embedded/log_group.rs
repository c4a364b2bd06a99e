//! [`LogGroup`] within one process: the newest member gets the one partition, once the member before it has let go.

use super::Store;
use super::log_state::PARTITION;
use super::log_tail::Reader;
use super::operations::Operation;
use async_trait::async_trait;
use chatify_application::ports::LogGroup;
use chatify_application::ports::log::{GroupEvent, GroupMember, LogError, LogRecord, TailReader, Undecodable};
use chatify_domain::{Partition, Position};
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Sleep;

/// A lot of this many records shows that more wait.
const BACKLOG: usize = 512;

/// Who is a member and who owns the partition; changes wake every member.
#[derive(Debug)]
pub(super) struct Membership(watch::Sender<Members>);

#[derive(Clone, Debug)]
struct Members {
    /// In the order in which they joined.
    ids: Vec<u64>,
    next_id: u64,
    owner: Option<u64>,
    committed: Position,
}

impl Membership {
    /// Nobody yet.
    pub(super) fn new(committed: Position) -> Self {
        Self(watch::Sender::new(Members { ids: Vec::new(), next_id: 0, owner: None, committed }))
    }

    /// Everything before it is committed.
    pub(super) fn committed(&self) -> Position {
        self.0.borrow().committed
    }

    fn join(&self) -> u64 {
        let mut id = 0;
        self.0.send_modify(|members| {
            id = members.next_id;
            members.next_id += 1;
            members.ids.push(id);
            members.owner = members.owner.or(Some(id));
        });
        id
    }

    /// The newest of the others becomes the owner.
    fn release(&self, id: u64) {
        self.0.send_modify(|members| {
            if members.owner == Some(id) {
                members.owner = members.ids.iter().rev().copied().find(|other| *other != id);
            }
        });
    }

    fn leave(&self, id: u64) {
        self.release(id);
        self.0.send_modify(|members| {
            members.ids.retain(|member| *member != id);
            members.owner = members.owner.filter(|owner| *owner != id);
        });
    }

    fn advance(&self, next: Position) {
        self.0.send_modify(|members| members.committed = members.committed.max(next));
    }
}

impl Members {
    fn owns(&self, id: u64) -> bool {
        self.owner == Some(id)
    }

    fn wants_back(&self, id: u64) -> bool {
        self.owns(id) && self.ids.last() != Some(&id)
    }
}

pub(super) struct EmbeddedGroup(pub(super) Arc<Store>);

#[async_trait]
impl LogGroup for EmbeddedGroup {
    async fn join(&self) -> Result<Box<dyn GroupMember>, LogError> {
        let id = self.0.membership.join();
        let changes = self.0.membership.0.subscribe();
        Ok(Box::new(Member {
            store: Arc::clone(&self.0),
            id,
            changes,
            place: Place::Outside,
            paused: false,
            pause: None,
        }))
    }

    async fn committed(&self) -> Result<Vec<(Partition, Position)>, LogError> {
        Ok(vec![(PARTITION, self.0.membership.committed())])
    }
}

struct Member {
    store: Arc<Store>,
    id: u64,
    changes: watch::Receiver<Members>,
    place: Place,
    paused: bool,
    /// Until it ends, records gather; see [`super::Options::group_pause`].
    pause: Option<Pin<Box<Sleep>>>,
}

enum Place {
    /// The partition is somebody else's.
    Outside,
    /// The partition is ours.
    Reading(Reader),
    /// It is still ours and has to be given away.
    Leaving,
}

/// What the members' state asks of a member now.
enum Step {
    Take(Position),
    GiveBack,
    Read,
    Wait,
}

impl Member {
    fn step(&mut self) -> Step {
        let members = self.changes.borrow_and_update();
        match &self.place {
            Place::Outside if members.owns(self.id) => Step::Take(members.committed),
            Place::Reading(_) if members.wants_back(self.id) => Step::GiveBack,
            Place::Reading(_) if !self.paused => Step::Read,
            Place::Outside | Place::Reading(_) | Place::Leaving => Step::Wait,
        }
    }

    fn check_owned(&self, partition: Partition) -> Result<(), LogError> {
        let owned = partition == PARTITION && self.store.membership.0.borrow().owns(self.id);
        if owned { Ok(()) } else { Err(LogError::NotAssigned) }
    }

    /// Records that come one by one are given in lots: a lot costs the disk little more than one of them. A backlog is given without a pause.
    fn begin_pause(&mut self, given: usize) {
        let pause = self.store.group_pause;
        self.pause = (given < BACKLOG && !pause.is_zero()).then(|| Box::pin(tokio::time::sleep(pause)));
    }

    async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl GroupMember for Member {
    async fn next(&mut self) -> Result<GroupEvent, LogError> {
        loop {
            match self.step() {
                Step::Take(from) => {
                    self.place = Place::Reading(Reader::open(Arc::clone(&self.store), Some(from))?);
                    (self.paused, self.pause) = (false, None);
                    return Ok(GroupEvent::Assigned { partition: PARTITION, from });
                }
                Step::GiveBack => {
                    self.place = Place::Leaving;
                    return Ok(GroupEvent::Revoking { partition: PARTITION });
                }
                Step::Wait => self.changed().await,
                Step::Read => {
                    let Place::Reading(reader) = &mut self.place else { continue };
                    let pause = &mut self.pause;
                    let lot = async {
                        if let Some(pause) = pause {
                            pause.await;
                        }
                        reader.next().await
                    };
                    // A change of owner comes first, so that a busy log cannot hold a hand-over up. Both futures lose nothing when dropped.
                    tokio::select! {
                        biased;
                        _ = self.changes.changed() => {}
                        records = lot => {
                            let records = records?;
                            self.begin_pause(records.len());
                            return Ok(GroupEvent::Records { partition: PARTITION, records });
                        }
                    }
                }
            }
        }
    }

    async fn commit(&mut self, partition: Partition, next: Position) -> Result<(), LogError> {
        self.check_owned(partition)?;
        if next <= self.store.membership.committed() {
            return Ok(());
        }
        self.store.writer.operate(Operation::Commit(next)).await.map_err(super::error::WriteError::into_log)?;
        self.store.membership.advance(next);
        Ok(())
    }

    async fn release(&mut self, partition: Partition) -> Result<(), LogError> {
        self.check_owned(partition)?;
        self.place = Place::Outside;
        self.store.membership.release(self.id);
        Ok(())
    }

    fn pause(&mut self, partition: Partition) {
        self.paused |= partition == PARTITION;
    }

    fn resume(&mut self, partition: Partition) {
        self.paused &= partition != PARTITION;
    }

    async fn dead_letter(&mut self, record: &LogRecord, class: &Undecodable) -> Result<(), LogError> {
        let operation = Operation::DeadLetter(record.position, class.clone());
        self.store.writer.operate(operation).await.map_err(super::error::WriteError::into_log)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.store.membership.leave(self.id);
    }
}
