//! The group's half of the log in memory.

use super::log::{MemoryLog, State, index, partition};
use crate::ports::LogGroup;
use crate::ports::log::{GroupEvent, GroupMember, LogError, LogRecord, Undecodable};
use async_trait::async_trait;
use chatify_domain::{Partition, Position};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Who owns what, and what is committed.
#[derive(Default)]
pub(super) struct GroupState {
    members: BTreeMap<u64, MemberState>,
    joined: u64,
    owners: BTreeMap<Partition, Owner>,
    committed: BTreeMap<Partition, Position>,
    dead_letters: BTreeSet<(Partition, Position)>,
}

#[derive(Default)]
struct MemberState {
    news: VecDeque<GroupEvent>,
    cursors: BTreeMap<Partition, Position>,
    paused: BTreeSet<Partition>,
}

struct Owner {
    member: u64,
    revoking: bool,
}

struct Member {
    log: MemoryLog,
    number: u64,
}

impl MemoryLog {
    /// The position before which everything is committed.
    #[must_use]
    pub fn committed_now(&self, partition: Partition) -> Position {
        self.lock().committed(partition)
    }

    /// Where the records are that were set aside.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<(Partition, Position)> {
        self.lock().group.dead_letters.iter().copied().collect()
    }
}

#[async_trait]
impl LogGroup for MemoryLog {
    async fn join(&self) -> Result<Box<dyn GroupMember>, LogError> {
        let mut state = self.lock();
        state.check_readable()?;
        state.group.joined += 1;
        let number = state.group.joined;
        state.group.members.insert(number, MemberState::default());
        state.share_out();
        drop(state);
        self.changed.notify_waiters();
        Ok(Box::new(Member { log: self.clone(), number }))
    }

    async fn committed(&self) -> Result<Vec<(Partition, Position)>, LogError> {
        let mut state = self.lock();
        state.check_readable()?;
        Ok((0..state.partitions.len()).map(|index| (partition(index), state.committed(partition(index)))).collect())
    }
}

#[async_trait]
impl GroupMember for Member {
    async fn next(&mut self) -> Result<GroupEvent, LogError> {
        let log = self.log.clone();
        loop {
            let changed = log.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(event) = log.lock().event_for(self.number)? {
                return Ok(event);
            }
            changed.await;
        }
    }

    async fn commit(&mut self, partition: Partition, next: Position) -> Result<(), LogError> {
        let mut state = self.log.lock();
        state.check_owner(self.number, partition)?;
        if state.failing_commits > 0 {
            state.failing_commits -= 1;
            return Err(LogError::Unavailable("a fault on demand".into()));
        }
        let committed = state.committed(partition).max(next);
        state.group.committed.insert(partition, committed);
        Ok(())
    }

    async fn release(&mut self, partition: Partition) -> Result<(), LogError> {
        let mut state = self.log.lock();
        state.check_owner(self.number, partition)?;
        state.group.owners.remove(&partition);
        if let Some(member) = state.group.members.get_mut(&self.number) {
            member.cursors.remove(&partition);
            member.paused.remove(&partition);
        }
        state.share_out();
        drop(state);
        self.log.changed.notify_waiters();
        Ok(())
    }

    fn pause(&mut self, partition: Partition) {
        if let Some(member) = self.log.lock().group.members.get_mut(&self.number) {
            member.paused.insert(partition);
        }
    }

    fn resume(&mut self, partition: Partition) {
        if let Some(member) = self.log.lock().group.members.get_mut(&self.number) {
            member.paused.remove(&partition);
        }
        self.log.changed.notify_waiters();
    }

    async fn dead_letter(&mut self, record: &LogRecord, _class: &Undecodable) -> Result<(), LogError> {
        self.log.lock().group.dead_letters.insert((record.partition, record.position));
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.log.lock();
        state.group.members.remove(&self.number);
        state.group.owners.retain(|_, owner| owner.member != self.number);
        state.share_out();
        drop(state);
        self.log.changed.notify_waiters();
    }
}

impl State {
    fn committed(&self, partition: Partition) -> Position {
        let start = self.partitions[index(partition)].start();
        self.group.committed.get(&partition).copied().unwrap_or(start)
    }

    fn check_owner(&self, member: u64, partition: Partition) -> Result<(), LogError> {
        match self.group.owners.get(&partition) {
            Some(owner) if owner.member == member => Ok(()),
            Some(_) | None => Err(LogError::NotAssigned),
        }
    }

    /// Gives free partitions to the member whose turn it is, and asks others to give theirs up.
    fn share_out(&mut self) {
        let turns: Vec<u64> = self.group.members.keys().copied().collect();
        if turns.is_empty() {
            return;
        }
        for number in 0..self.partitions.len() {
            let (partition, turn) = (partition(number), turns[number % turns.len()]);
            let from = self.committed(partition);
            match self.group.owners.get_mut(&partition) {
                None => {
                    self.group.owners.insert(partition, Owner { member: turn, revoking: false });
                    let member = self.group.members.get_mut(&turn).expect("it has a turn");
                    member.cursors.insert(partition, from);
                    member.news.push_back(GroupEvent::Assigned { partition, from });
                }
                Some(owner) if owner.member != turn && !owner.revoking => {
                    owner.revoking = true;
                    let member = self.group.members.get_mut(&owner.member).expect("owners are members");
                    member.news.push_back(GroupEvent::Revoking { partition });
                }
                Some(_) => {}
            }
        }
    }

    fn event_for(&mut self, number: u64) -> Result<Option<GroupEvent>, LogError> {
        self.check_readable()?;
        let member = self.group.members.get_mut(&number).ok_or(LogError::NotAssigned)?;
        if let Some(event) = member.news.pop_front() {
            return Ok(Some(event));
        }
        for (partition, cursor) in &mut member.cursors {
            if member.paused.contains(partition) {
                continue;
            }
            let records = self.partitions[index(*partition)].from(*cursor);
            if let Some(last) = records.last() {
                *cursor = last.position.next();
                return Ok(Some(GroupEvent::Records { partition: *partition, records }));
            }
        }
        Ok(None)
    }
}
