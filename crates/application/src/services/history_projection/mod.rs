//! From the log to the history, once per message, whichever pods share the work.

mod partition;
mod plan;

use super::standstill::Standstill;
use crate::application::Core;
use crate::ports::log::{GroupEvent, GroupMember, LogError, PartitionState};
use chatify_building_blocks::error::chain;
use chatify_domain::{Partition, Position};
use futures_util::FutureExt;
use partition::{Advance, COMMIT_AGAIN, Owned};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the log's ends are compared with what arrived.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A partition whose next record is in the log and does not arrive for this long is one that the membership has lost without a word.
const STUCK_AFTER: Duration = Duration::from_secs(25);
/// How long the last commits may take: less than a pod has to end.
const FINISH: Duration = Duration::from_secs(3);

/// The loop. It is a member of the group that shares the log's partitions; of each partition that it owns it persists what is said, in
/// order, and commits only what is persisted.
pub(crate) struct HistoryProjection {
    core: Arc<Core>,
    owned: BTreeMap<Partition, Owned>,
    failures: u32,
    standstill: Standstill,
}

/// What a membership waits for.
enum Step {
    Cancelled,
    Event(Result<GroupEvent, LogError>),
    RetryDue,
    Ends(Vec<PartitionState>),
}

impl HistoryProjection {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core, owned: BTreeMap::new(), failures: 0, standstill: Standstill::default() }
    }

    /// Runs until `token` is cancelled. What is persisted by then is committed; the rest is the next owner's.
    pub(crate) async fn run(mut self, token: CancellationToken) -> Result<(), Infallible> {
        while !token.is_cancelled() {
            // What is remembered of a partition is only right for as long as nobody else can have owned it.
            self.owned.clear();
            let Err(error) = self.membership(&token).await else { continue };
            tracing::warn!(error = chain(&error), "the history cannot follow the log");
            self.core.projection.stalled(error.to_string());
            let wait = self.core.options.consumer_backoff.wait(self.failures, &*self.core.ports.random);
            self.failures = self.failures.saturating_add(1);
            if token.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Is a member until something fails, the membership seems to be broken, or the process ends.
    async fn membership(&mut self, token: &CancellationToken) -> Result<(), LogError> {
        let Some(member) = token.run_until_cancelled(self.core.ports.group.join()).await else { return Ok(()) };
        let mut member = member?;
        if self.failures == 0 {
            // A member after one that failed may fail as well: it is called live when it has heard something, or has waited in peace for a while.
            self.note_progress();
        }
        self.standstill = Standstill::default();
        let core = Arc::clone(&self.core);
        let ends = next_ends(&core);
        tokio::pin!(ends);
        loop {
            match self.step(token, &mut *member, ends.as_mut()).await {
                Step::Cancelled => return self.finish(&mut *member).await,
                Step::Event(event) => {
                    self.take_in(&mut *member, event?).await?;
                    self.take_in_the_rest(&mut *member).await?;
                    self.failures = 0;
                    self.advance(token, &mut *member).await?;
                }
                Step::RetryDue => self.advance(token, &mut *member).await?,
                Step::Ends(states) => {
                    ends.set(next_ends(&core));
                    // What waits here already is not missing. With more of it than is taken at once, nothing can be said of what is not.
                    self.take_in_the_rest(&mut *member).await?;
                    let stuck = if self.full() { None } else { self.stuck(&states) };
                    self.advance(token, &mut *member).await?;
                    if let Some(partition) = stuck {
                        tracing::warn!(
                            partition = partition.0,
                            "the history gets nothing although the log goes on; joining anew"
                        );
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn step(
        &self,
        token: &CancellationToken,
        member: &mut dyn GroupMember,
        ends: impl Future<Output = Vec<PartitionState>>,
    ) -> Step {
        let retry_at = self.owned.values().filter_map(Owned::retry_at).min();
        let retry = async {
            match retry_at {
                Some(at) => tokio::time::sleep(at.saturating_sub(self.core.ports.clock.uptime())).await,
                None => std::future::pending().await,
            }
        };
        // Cancellation first; what is due before news, so that a busy partition does not keep the others waiting. Nothing is lost when `next` is
        // dropped.
        tokio::select! {
            biased;
            () = token.cancelled() => Step::Cancelled,
            () = retry => Step::RetryDue,
            states = ends => Step::Ends(states),
            event = member.next() => Step::Event(event),
        }
    }

    /// Whatever else is there already goes into the same batches.
    async fn take_in_the_rest(&mut self, member: &mut dyn GroupMember) -> Result<(), LogError> {
        while !self.full() {
            let Some(event) = member.next().now_or_never() else { break };
            self.take_in(member, event?).await?;
        }
        Ok(())
    }

    async fn take_in(&mut self, member: &mut dyn GroupMember, event: GroupEvent) -> Result<(), LogError> {
        match event {
            GroupEvent::Assigned { partition, from } => {
                self.owned.insert(partition, Owned::new(&self.core, partition, from));
                Ok(())
            }
            GroupEvent::Records { partition, records } => {
                if let Some(owned) = self.owned.get_mut(&partition) {
                    owned.take_in(records);
                }
                Ok(())
            }
            GroupEvent::Revoking { partition } => {
                // Work is done one batch after the other, so nothing is in flight here; what is not persisted is the next owner's.
                if let Some(mut owned) = self.owned.remove(&partition)
                    && let Err(error) = owned.commit(member).await
                {
                    // The others wait for the release; what is not committed is read again by the next owner, which changes nothing.
                    tracing::debug!(partition = partition.0, error = chain(&error), "released without the last commit");
                }
                member.release(partition).await
            }
        }
    }

    /// Whether there is enough to do. What waits for its partition to stop backing off is not done now.
    fn full(&self) -> bool {
        let batch = self.core.options.projection_batch;
        self.owned.values().any(|owned| !owned.is_backing_off() && owned.waiting() >= batch)
    }

    /// Persists and commits what is waiting in every partition that is not backing off.
    async fn advance(&mut self, token: &CancellationToken, member: &mut dyn GroupMember) -> Result<(), LogError> {
        let mut lost = Vec::new();
        let mut tries = self.core.options.database_tries;
        for (partition, owned) in &mut self.owned {
            if token.is_cancelled() {
                break;
            }
            match owned.advance(&self.core, token, member, tries).await {
                // When one partition has waited for the store in vain, the others must not each do so while nobody polls the group.
                Advance::Done if owned.is_backing_off() => tries = 1,
                Advance::Done => {}
                Advance::Lost => lost.push(*partition),
            }
        }
        for partition in lost {
            tracing::warn!(partition = partition.0, "the history lost a partition to another pod");
            self.owned.remove(&partition);
        }
        self.note_progress();
        Ok(())
    }

    /// At the end of the process: commits what is persisted. What a log that is busy with other members does not take in time is read again by
    /// the next owner, which changes nothing.
    async fn finish(&mut self, member: &mut dyn GroupMember) -> Result<(), LogError> {
        let commits = async {
            for owned in self.owned.values_mut() {
                while let Err(error) = owned.commit(member).await {
                    match error {
                        LogError::Rebalancing => tokio::time::sleep(COMMIT_AGAIN).await,
                        LogError::NotAssigned | LogError::Truncated { .. } | LogError::Unavailable(_) => {
                            return Err(error);
                        }
                    }
                }
            }
            Ok(())
        };
        tokio::time::timeout(FINISH, commits).await.unwrap_or(Ok(()))
    }

    fn note_progress(&self) {
        match self.owned.values().find_map(Owned::trouble) {
            Some(reason) => self.core.projection.stalled(reason),
            None => self.core.projection.live(),
        }
    }

    /// A partition of ours of which nothing arrives although the log has more.
    fn stuck(&mut self, states: &[PartitionState]) -> Option<Partition> {
        let now = self.core.ports.clock.uptime();
        let ends: BTreeMap<Partition, Position> = states.iter().map(|state| (state.partition, state.end)).collect();
        for (partition, owned) in &self.owned {
            if owned.is_backing_off() {
                self.standstill.forget(*partition);
            } else if let Some(end) = ends.get(partition)
                && self.standstill.look(*partition, owned.next_position(), *end, now, STUCK_AFTER)
            {
                return Some(*partition);
            }
        }
        None
    }
}

/// The log's ends, after a while. A log that does not answer is the member's to notice; this only looks on.
async fn next_ends(core: &Core) -> Vec<PartitionState> {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Ok(states) = core.ports.tail.partitions().await {
            return states;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoopState;
    use crate::Options;
    use crate::ports::log::{LogRecord, TailReader, Undecodable};
    use crate::ports::{LogGroup, LogTail};
    use crate::testing::{Pod, Shared, channel, said};
    use async_trait::async_trait;
    use chatify_domain::{PodId, Scope, Timestamp};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    fn stored(shared: &Shared, scope: &str) -> usize {
        shared.store.dump(&channel(scope)).iter().map(|(_, rows)| rows.len()).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_for_and_nothing_is_skipped_or_committed() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |_| {}).await;
        shared.store.set_available(false);
        for number in 0..10 {
            pod.say(&shared, "bob", "a", &number.to_string()).await;
            shared.pass(Duration::from_secs(10)).await;
        }
        let state = pod.application.status().projection;
        assert!(matches!(state, LoopState::Stalled { for_, .. } if for_ > Duration::from_secs(60)), "{state:?}");
        let status = pod.application.status();
        assert_eq!((status.fan_out, status.lag), (LoopState::Live, 10));
        assert_eq!(shared.log.committed_now(Partition(0)).offset().number(), 0);
        shared.store.set_available(true);
        shared.pass(Duration::from_secs(20)).await;
        let status = pod.application.status();
        assert_eq!((status.projection, status.lag), (LoopState::Live, 0));
        assert_eq!(stored(&shared, "a"), 10);
        assert_eq!(shared.log.committed_now(Partition(0)).offset().number(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_takes_few_rows_in_time_gets_them_in_smaller_lots() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |_| {}).await;
        shared.store.set_available(false);
        for number in 0..1_000 {
            pod.say(&shared, "bob", "a", &number.to_string()).await;
        }
        shared.pass(Duration::from_secs(1)).await;
        shared.store.set_rows_in_time(20);
        shared.store.set_available(true);
        shared.pass(Duration::from_secs(120)).await;
        assert_eq!(stored(&shared, "a"), 1_000);
        assert_eq!(shared.log.committed_now(Partition(0)).offset().number(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn one_trouble_does_not_hold_up_the_process_end() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |options| options.database_tries = 1_000).await;
        pod.say(&shared, "bob", "a", "stored").await;
        shared.store.set_available(false);
        pod.say(&shared, "bob", "a", "not stored").await;
        pod.stop().await;
        assert_eq!(shared.log.committed_now(Partition(0)).offset().number(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn more_scopes_than_are_remembered_find_their_segments_again() {
        let shared = Shared::new(1);
        let names: Vec<String> = (0..30).map(|number| format!("scope-{number}")).collect();
        let pod = Pod::live(&shared, |options| options.segment_messages = 2).await;
        for _ in 0..5 {
            for name in &names {
                pod.say(&shared, "bob", name, "hi").await;
            }
        }
        shared.pass(Duration::from_secs(1)).await;
        for name in &names {
            let lengths: Vec<usize> = shared.store.dump(&channel(name)).iter().map(|(_, rows)| rows.len()).collect();
            assert_eq!(lengths, [2, 2, 1], "{name}");
        }
    }

    /// A group whose first member never hears of what is said in these partitions.
    struct Deaf(crate::testing::MemoryLog, AtomicUsize, &'static [Partition]);

    struct DeafMember(Box<dyn GroupMember>, &'static [Partition]);

    #[async_trait]
    impl LogGroup for Deaf {
        async fn join(&self) -> Result<Box<dyn GroupMember>, LogError> {
            let member = self.0.join().await?;
            Ok(if self.1.fetch_add(1, Ordering::Relaxed) == 0 { Box::new(DeafMember(member, self.2)) } else { member })
        }
        async fn committed(&self) -> Result<Vec<(Partition, Position)>, LogError> {
            self.0.committed().await
        }
    }

    #[async_trait]
    impl GroupMember for DeafMember {
        async fn next(&mut self) -> Result<GroupEvent, LogError> {
            loop {
                match self.0.next().await? {
                    GroupEvent::Records { partition, .. } if self.1.contains(&partition) => {}
                    event => return Ok(event),
                }
            }
        }
        async fn commit(&mut self, partition: Partition, next: Position) -> Result<(), LogError> {
            self.0.commit(partition, next).await
        }
        async fn release(&mut self, partition: Partition) -> Result<(), LogError> {
            self.0.release(partition).await
        }
        fn pause(&mut self, partition: Partition) {
            self.0.pause(partition);
        }
        fn resume(&mut self, partition: Partition) {
            self.0.resume(partition);
        }
        async fn dead_letter(&mut self, record: &LogRecord, class: &Undecodable) -> Result<(), LogError> {
            self.0.dead_letter(record, class).await
        }
    }

    /// A store that takes long with each of many partitions is slow, and no reason to begin anew.
    #[tokio::test(start_paused = true)]
    async fn a_slow_store_with_many_partitions_is_no_reason_to_join_anew() {
        let shared = Shared::new(12);
        let mut ports = shared.ports(1);
        let group = Arc::new(Deaf(shared.log.clone(), AtomicUsize::new(0), &[]));
        ports.group = Arc::clone(&group) as Arc<dyn LogGroup>;
        shared.store.set_latency(Duration::from_secs(2));
        for number in 0..12 * 1_500 {
            let event = said(&format!("scope-{}", number % 64), number);
            shared.log.append_now(event);
        }
        let pod = Pod::start(ports, Options::new(PodId::parse("pod-0").expect("a pod")));
        shared.pass(Duration::from_secs(240)).await;
        assert_eq!(group.1.load(Ordering::Relaxed), 1, "{:?}", pod.application.status().projection);
        assert_eq!(pod.application.status().lag, 0);
    }

    /// A group that lets everybody in and tells nobody anything.
    struct Closed(crate::testing::MemoryLog);

    struct ClosedMember;

    #[async_trait]
    impl LogGroup for Closed {
        async fn join(&self) -> Result<Box<dyn GroupMember>, LogError> {
            Ok(Box::new(ClosedMember))
        }
        async fn committed(&self) -> Result<Vec<(Partition, Position)>, LogError> {
            self.0.committed().await
        }
    }

    #[async_trait]
    impl GroupMember for ClosedMember {
        async fn next(&mut self) -> Result<GroupEvent, LogError> {
            Err(LogError::Unavailable("no right to read".into()))
        }
        async fn commit(&mut self, _partition: Partition, _next: Position) -> Result<(), LogError> {
            Err(LogError::NotAssigned)
        }
        async fn release(&mut self, _partition: Partition) -> Result<(), LogError> {
            Ok(())
        }
        fn pause(&mut self, _partition: Partition) {}
        fn resume(&mut self, _partition: Partition) {}
        async fn dead_letter(&mut self, _record: &LogRecord, _class: &Undecodable) -> Result<(), LogError> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn joining_in_vain_again_and_again_is_one_stall() {
        let shared = Shared::new(1);
        let mut ports = shared.ports(1);
        ports.group = Arc::new(Closed(shared.log.clone()));
        let pod = Pod::start(ports, Options::new(PodId::parse("pod-0").expect("a pod")));
        shared.pass(Duration::from_secs(120)).await;
        let state = pod.application.status().projection;
        assert!(matches!(state, LoopState::Stalled { for_, .. } if for_ > Duration::from_secs(110)), "{state:?}");
    }

    /// A group that takes no commits until it is told to.
    struct Rebalancing(crate::testing::MemoryLog, Arc<std::sync::atomic::AtomicBool>);

    struct RebalancingMember(Box<dyn GroupMember>, Arc<std::sync::atomic::AtomicBool>);

    #[async_trait]
    impl LogGroup for Rebalancing {
        async fn join(&self) -> Result<Box<dyn GroupMember>, LogError> {
            Ok(Box::new(RebalancingMember(self.0.join().await?, Arc::clone(&self.1))))
        }
        async fn committed(&self) -> Result<Vec<(Partition, Position)>, LogError> {
            self.0.committed().await
        }
    }

    #[async_trait]
    impl GroupMember for RebalancingMember {
        async fn next(&mut self) -> Result<GroupEvent, LogError> {
            self.0.next().await
        }
        async fn commit(&mut self, partition: Partition, next: Position) -> Result<(), LogError> {
            if self.1.load(Ordering::Relaxed) {
                return Err(LogError::Rebalancing);
            }
            self.0.commit(partition, next).await
        }
        async fn release(&mut self, partition: Partition) -> Result<(), LogError> {
            self.0.release(partition).await
        }
        fn pause(&mut self, _partition: Partition) {
            panic!("a rebalance is no reason to pause");
        }
        fn resume(&mut self, partition: Partition) {
            self.0.resume(partition);
        }
        async fn dead_letter(&mut self, record: &LogRecord, class: &Undecodable) -> Result<(), LogError> {
            self.0.dead_letter(record, class).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rebalance_holds_up_the_commit_and_nothing_else() {
        let shared = Shared::new(1);
        let rebalancing = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let mut ports = shared.ports(1);
        ports.group = Arc::new(Rebalancing(shared.log.clone(), Arc::clone(&rebalancing)));
        let pod = Pod::start(ports, Options::new(PodId::parse("pod-0").expect("a pod")));
        shared.pass(Duration::from_millis(10)).await;
        for number in 0..3 {
            pod.say(&shared, "bob", "a", "hi").await;
            shared.pass(Duration::from_secs(1)).await;
            assert_eq!(stored(&shared, "a"), number + 1, "what comes meanwhile is persisted");
        }
        assert_eq!(shared.log.committed_now(Partition(0)).offset().number(), 0);
        assert_eq!(pod.application.status().projection, LoopState::Live);
        rebalancing.store(false, Ordering::Relaxed);
        shared.pass(Duration::from_secs(1)).await;
        assert_eq!(shared.log.committed_now(Partition(0)).offset().number(), 3, "without anything new in the log");
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_hears_nothing_joins_anew() {
        let shared = Shared::new(1);
        let mut ports = shared.ports(1);
        ports.group = Arc::new(Deaf(shared.log.clone(), AtomicUsize::new(0), &[Partition(0)]));
        let pod = Pod::start(ports, Options::new(PodId::parse("pod-0").expect("a pod")));
        shared.pass(Duration::from_millis(10)).await;
        pod.say(&shared, "bob", "a", "hi").await;
        shared.pass(Duration::from_secs(20)).await;
        assert_eq!(stored(&shared, "a"), 0);
        shared.pass(Duration::from_secs(20)).await;
        assert_eq!(stored(&shared, "a"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_stands_still_is_noticed_beside_one_that_goes_on() {
        let shared = Shared::new(2);
        let mut ports = shared.ports(1);
        ports.group = Arc::new(Deaf(shared.log.clone(), AtomicUsize::new(0), &[Partition(0)]));
        let pod = Pod::start(ports, Options::new(PodId::parse("pod-0").expect("a pod")));
        shared.pass(Duration::from_millis(10)).await;
        for second in 0..60 {
            for name in ["a", "b", "c", "d"] {
                pod.say(&shared, "bob", name, &second.to_string()).await;
            }
            shared.pass(Duration::from_secs(1)).await;
        }
        let lengths = shared.log.records();
        assert!(lengths.values().all(|records| !records.is_empty()), "both partitions have something");
        assert_eq!(["a", "b", "c", "d"].map(|name| stored(&shared, name)), [60; 4]);
    }

    /// A log that tells its ends only until it is told not to.
    struct Endless(crate::testing::MemoryLog, AtomicBool);

    #[async_trait]
    impl LogTail for Endless {
        fn partition_of(&self, scope: &Scope) -> Partition {
            self.0.partition_of(scope)
        }
        async fn partitions(&self) -> Result<Vec<PartitionState>, LogError> {
            if self.1.load(Ordering::Relaxed) {
                return Err(LogError::Unavailable("nobody answers".into()));
            }
            self.0.partitions().await
        }
        async fn position_at(&self, partition: Partition, at: Timestamp) -> Result<Position, LogError> {
            self.0.position_at(partition, at).await
        }
        async fn open(&self, from: &[(Partition, Position)]) -> Result<Box<dyn TailReader>, LogError> {
            self.0.open(from).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_does_not_tell_its_ends_is_no_reason_to_join_anew() {
        let shared = Shared::new(1);
        let mut ports = shared.ports(1);
        let (tail, group) = (
            Arc::new(Endless(shared.log.clone(), AtomicBool::new(false))),
            Arc::new(Deaf(shared.log.clone(), AtomicUsize::new(0), &[])),
        );
        (ports.tail, ports.group) = (Arc::clone(&tail) as Arc<dyn LogTail>, Arc::clone(&group) as Arc<dyn LogGroup>);
        let _pod = Pod::start(ports, Options::new(PodId::parse("pod-0").expect("a pod")));
        shared.pass(Duration::from_secs(1)).await;
        tail.1.store(true, Ordering::Relaxed);
        shared.pass(Duration::from_secs(120)).await;
        assert_eq!(group.1.load(Ordering::Relaxed), 1);
    }
}
