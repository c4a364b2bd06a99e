//! From the log to this pod's connections, through the pod's memory.

use super::standstill::Standstill;
use crate::application::Core;
use crate::ports::LocalDelivery;
use crate::ports::log::{LogError, LogRecord, PartitionState, TailReader};
use crate::recent::{Beginning, Provable};
use chatify_building_blocks::error::chain;
use chatify_building_blocks::seeded_bugs::{Bug, seeded_bug};
use chatify_domain::limits::DEDUPE_MARGIN;
use chatify_domain::{Epoch, LoggedMessage, Partition, Position, Timestamp};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A reader that was opened after a failure works when it has waited this long without one.
const PEACE: Duration = Duration::from_secs(2);
/// How often the log's partitions and ends are looked at.
const WATCH_EVERY: Duration = Duration::from_secs(3);
/// A partition whose end moves while nothing of it arrives for this long is read anew.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// The loop. It reads every partition from a little more than the deduplication window before the end, so that the memory is rebuilt before
/// anything is delivered, and goes on for ever.
pub(crate) struct FanOut {
    core: Arc<Core>,
    delivery: Arc<dyn LocalDelivery>,
    /// The first rebuild is done when every partition was read up to here.
    rebuild_until: HashMap<Partition, Position>,
    failures: u32,
}

/// Why a reader was given up.
enum Ended {
    Cancelled,
    Failed(LogError),
    /// There are partitions that the reader does not read, or one that it seems to have lost.
    Reopen(&'static str),
}

impl FanOut {
    pub(crate) fn new(core: Arc<Core>, delivery: Arc<dyn LocalDelivery>) -> Self {
        Self { core, delivery, rebuild_until: HashMap::new(), failures: 0 }
    }

    /// Runs until `token` is cancelled.
    pub(crate) async fn run(mut self, token: CancellationToken) -> Result<(), Infallible> {
        loop {
            match self.session(&token).await {
                Ended::Cancelled => return Ok(()),
                Ended::Reopen(reason) => tracing::info!(reason, "the log is read anew"),
                Ended::Failed(error) => {
                    tracing::warn!(error = chain(&error), "the log cannot be read");
                    self.core.fan_out.stalled(error.to_string());
                    let wait = self.core.options.consumer_backoff.wait(self.failures, &*self.core.ports.random);
                    self.failures = self.failures.saturating_add(1);
                    if token.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Reads with one reader until something ends it.
    async fn session(&mut self, token: &CancellationToken) -> Ended {
        let mut reader = match token.run_until_cancelled(self.open()).await {
            None => return Ended::Cancelled,
            Some(Err(error)) => return Ended::Failed(error),
            Some(Ok(reader)) => reader,
        };
        let core = Arc::clone(&self.core);
        let watch = watch(&core);
        // A reader after one that failed may fail as well, so it has to wait in peace before the loop is called live.
        let peace = tokio::time::sleep(if self.failures == 0 { Duration::ZERO } else { PEACE });
        tokio::pin!(watch, peace);
        let mut proven = false;
        loop {
            // Cancellation first; then the watch, which is rarely ready. Nothing is lost when `next` is dropped.
            let records = tokio::select! {
                biased;
                () = token.cancelled() => return Ended::Cancelled,
                reason = &mut watch => return Ended::Reopen(reason),
                () = &mut peace, if !proven => {
                    proven = true;
                    self.note_progress();
                    continue;
                }
                records = reader.next() => records,
            };
            match records {
                Ok(records) => self.take_in(records).await,
                Err(error) => return Ended::Failed(error),
            }
        }
    }

    /// A reader that goes on where memory ends; partitions that memory does not know are begun.
    async fn open(&mut self) -> Result<Box<dyn TailReader>, LogError> {
        let started = self.core.fan_out.has_been_live();
        for state in self.core.ports.tail.partitions().await? {
            let applied = self.core.recent.applied(state.partition);
            let mut fell_behind = false;
            let beginning = match applied {
                None if started => self.new_partition(&state).await?,
                None => self.rebuild(&state, state.end).await?,
                Some(applied) if applied.next() < state.first => {
                    fell_behind = true;
                    tracing::error!(
                        partition = state.partition.0,
                        wanted = %applied.next(),
                        first = %state.first,
                        "this pod fell behind the log's retention: its connections missed what was removed"
                    );
                    self.rebuild(&state, applied.next()).await?
                }
                Some(_) => continue,
            };
            self.core.recent.begin(state.partition, beginning);
            if fell_behind {
                // Only now: whoever comes back meets the new memory, which does not claim to have what was removed.
                let tail = &self.core.ports.tail;
                self.delivery.interrupted(&|scope| tail.partition_of(scope) == state.partition);
            }
        }
        self.core.ports.tail.open(&self.core.recent.next_positions()).await
    }

    /// Where to start so that deduplication and memory are rebuilt before `live_from`.
    async fn rebuild(&mut self, state: &PartitionState, live_from: Position) -> Result<Beginning, LogError> {
        let window = self.core.options.dedupe_window;
        let now = self.core.ports.clock.now();
        let base = state.last_appended_at.map_or(now, |last| last.min(now));
        let read_from = base.minus(window).minus(DEDUPE_MARGIN);
        let start = self.core.ports.tail.position_at(state.partition, read_from).await?.min(live_from).max(state.first);
        let start = if seeded_bug(Bug::DedupeInMemoryOnly) { live_from } else { start };
        self.rebuild_until.insert(state.partition, state.end);
        let provable = if start == state.first { Provable::AfterFirst } else { Provable::From(read_from.plus(window)) };
        Ok(beginning(start, live_from, provable))
    }

    /// A partition that appeared while the pod was live: all of it is news.
    async fn new_partition(&mut self, state: &PartitionState) -> Result<Beginning, LogError> {
        if state.first.offset().number() > 0 {
            return self.rebuild(state, state.end).await;
        }
        Ok(beginning(state.first, state.first, Provable::All))
    }

    /// Takes records into memory, then delivers. This order is what makes joins free of gaps.
    async fn take_in(&mut self, records: Vec<LogRecord>) {
        self.failures = 0;
        let core = Arc::clone(&self.core);
        let messages = core.recent.apply(records, &*core.ports.observer);
        self.note_progress();
        if !messages.is_empty() {
            let oldest_wait = oldest(&messages).map_or(Duration::ZERO, |oldest| core.ports.clock.now().since(oldest));
            core.ports.observer.fan_out_batch(messages.len(), oldest_wait);
            self.delivery.deliver(messages).await;
        }
    }

    /// The pod is live when memory reaches what was the log's end when the rebuild began.
    fn note_progress(&mut self) {
        let recent = &self.core.recent;
        self.rebuild_until
            .retain(|partition, until| recent.applied(*partition).is_none_or(|applied| applied.next() < *until));
        if self.rebuild_until.is_empty() {
            self.core.fan_out.live();
        }
    }
}

fn oldest(messages: &[LoggedMessage]) -> Option<Timestamp> {
    messages.iter().map(|message| message.created_at).min()
}

fn beginning(start: Position, live_from: Position, provable: Provable) -> Beginning {
    // Retention removes from the start of a log, so one that still has its first record has everything.
    let whole = start.offset().number() == 0;
    let nothing_before = whole && start.epoch_number() <= Epoch::FIRST.number();
    Beginning { start, nothing_before, provable: if whole { Provable::All } else { provable }, live_from }
}

/// Resolves when the reader should be opened anew: there are new partitions, or one stands still although its log goes on.
async fn watch(core: &Core) -> &'static str {
    let mut standstill = Standstill::default();
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        // A log that does not answer is noticed by the reader; the watch only looks on.
        let Ok(states) = core.ports.tail.partitions().await else { continue };
        let now = core.ports.clock.uptime();
        for state in states {
            let Some(applied) = core.recent.applied(state.partition) else { return "there are new partitions" };
            if standstill.look(state.partition, applied.next(), state.end, now, STUCK_AFTER) {
                return "a partition stands still";
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::join_scope::JoinScope;
    use crate::ports::{LiveSubscription, LogTail, Observer};
    use crate::testing::{Pod, Shared, Subscriber, channel, said, user};
    use crate::{LoopState, Options};
    use async_trait::async_trait;
    use chatify_building_blocks::error::ErrorKind;
    use chatify_domain::{ChatEvent, PodId, Scope};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    fn options() -> Options {
        Options::new(PodId::parse("pod-0").expect("a pod"))
    }

    async fn follow(pod: &Pod, scope: &str) -> Subscriber {
        let subscriber = pod.connections.connect();
        let join = JoinScope { user: user("alice"), scope: channel(scope), after: None, limit: None };
        let joined = pod.application.join(join, &subscriber).await.expect("joined");
        subscriber.release(&channel(scope), joined.live_after);
        subscriber
    }

    fn ids(messages: &[LoggedMessage]) -> Vec<u128> {
        messages.iter().map(|message| message.sent.message_id.as_u128()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_starts_reads_back_and_delivers_only_what_is_new() {
        let shared = Shared::new(2);
        for number in 0..100 {
            shared.log.append_now(said("a", number));
        }
        shared.log.set_readable(false);
        let pod = Pod::start(shared.ports(1), options());
        shared.pass(Duration::from_secs(5)).await;
        assert!(matches!(pod.application.status().fan_out, LoopState::Stalled { .. }));
        shared.log.heal();
        shared.pass(Duration::from_secs(20)).await;
        assert_eq!(pod.application.status().fan_out, LoopState::Live);
        let subscriber = follow(&pod, "a").await;
        shared.log.append_now(said("a", 7));
        shared.log.append_now(said("a", 100));
        shared.log.append_poison(&channel("a"));
        shared.pass(Duration::from_millis(10)).await;
        assert_eq!(ids(&subscriber.received(&channel("a"))), [100]);
        assert_eq!(pod.application.status().dedupe_entries, 101);
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_fails_for_a_while_leaves_no_gap() {
        let shared = Shared::new(2);
        let pod = Pod::live(&shared, |_| {}).await;
        let subscriber = follow(&pod, "a").await;
        shared.log.set_readable(false);
        shared.pass(Duration::from_secs(5)).await;
        assert!(matches!(pod.application.status().fan_out, LoopState::Stalled { .. }));
        for number in 0..50 {
            shared.log.append_now(said("a", number));
        }
        shared.log.heal();
        shared.pass(Duration::from_secs(20)).await;
        assert_eq!(ids(&subscriber.received(&channel("a"))), (0..50).collect::<Vec<u128>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_partition_is_read_from_its_first_record() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |_| {}).await;
        let scopes: Vec<String> = ('a'..='f').map(String::from).collect();
        let mut subscribers = Vec::new();
        for scope in &scopes {
            subscribers.push(follow(&pod, scope).await);
        }
        shared.log.add_partition();
        for (scope, number) in scopes.iter().zip(0..) {
            shared.log.append_now(said(scope, number));
        }
        assert!(shared.log.records().values().all(|records| !records.is_empty()), "both partitions are used");
        shared.pass(Duration::from_secs(10)).await;
        for ((scope, number), subscriber) in scopes.iter().zip(0..).zip(&subscribers) {
            assert_eq!(ids(&subscriber.received(&channel(scope))), [number], "{scope}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_fell_behind_retention_goes_on_with_what_is_left() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |_| {}).await;
        let (subscriber, behind) = (follow(&pod, "a").await, follow(&pod, "b").await);
        pod.connections.set_latency(Duration::from_secs(60));
        let appended: Vec<_> = (0..60).map(|number| shared.log.append_now(said("a", number))).collect();
        shared.pass(Duration::from_secs(10)).await;
        shared.log.remove_before(Partition(0), appended[40].position);
        pod.connections.set_latency(Duration::ZERO);
        shared.pass(Duration::from_secs(120)).await;
        assert_eq!(pod.application.status().fan_out, LoopState::Live);
        assert!(!subscriber.follows(&channel("a")) && !behind.follows(&channel("b")), "they lost their connections");
        // Those who come back get what the history has, and then what is new.
        let again = pod.connections.connect();
        let after = Some(appended[0].position);
        let join = JoinScope { user: user("alice"), scope: channel("a"), after, limit: None };
        let joined = pod.application.join(join, &again).await.expect("joined");
        assert!(joined.recovered, "{:?}", joined.reason);
        assert_eq!(ids(&joined.messages), (1..60).collect::<Vec<u128>>());
        again.release(&channel("a"), joined.live_after);
        shared.log.append_now(said("a", 60));
        shared.pass(Duration::from_secs(1)).await;
        assert_eq!(ids(&again.received(&channel("a"))), [60]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_back_to_a_pod_that_fell_behind_is_told_when_the_history_has_no_more_either() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |_| {}).await;
        let subscriber = follow(&pod, "a").await;
        let seen = shared.log.append_now(said("a", 0)).position;
        shared.pass(Duration::from_secs(5)).await;
        shared.store.set_available(false);
        pod.connections.set_latency(Duration::from_secs(60));
        let appended: Vec<_> = (1..60).map(|number| shared.log.append_now(said("a", number))).collect();
        shared.pass(Duration::from_secs(10)).await;
        shared.log.remove_before(Partition(0), appended[40].position);
        pod.connections.set_latency(Duration::ZERO);
        shared.pass(Duration::from_secs(120)).await;
        assert!(!subscriber.follows(&channel("a")), "it lost its connection");
        let again = pod.connections.connect();
        let join = JoinScope { user: user("alice"), scope: channel("a"), after: Some(seen), limit: None };
        let joined = pod.application.join(join, &again).await.expect("joined");
        assert!(!joined.recovered && joined.reason.is_some(), "{joined:?}");
    }

    /// A log whose readers can hang, as a client library's can.
    struct Hanging {
        log: crate::testing::MemoryLog,
        hangs: Arc<AtomicBool>,
        opened: AtomicUsize,
    }

    struct HangingReader(Box<dyn TailReader>, Arc<AtomicBool>);

    #[async_trait]
    impl LogTail for Hanging {
        fn partition_of(&self, scope: &Scope) -> Partition {
            self.log.partition_of(scope)
        }
        async fn partitions(&self) -> Result<Vec<PartitionState>, LogError> {
            self.log.partitions().await
        }
        async fn position_at(&self, partition: Partition, at: Timestamp) -> Result<Position, LogError> {
            self.log.position_at(partition, at).await
        }
        async fn open(&self, from: &[(Partition, Position)]) -> Result<Box<dyn TailReader>, LogError> {
            // Only the first reader hangs.
            let hangs =
                if self.opened.fetch_add(1, Ordering::Relaxed) == 0 { Arc::clone(&self.hangs) } else { Arc::default() };
            Ok(Box::new(HangingReader(self.log.open(from).await?, hangs)))
        }
    }

    #[async_trait]
    impl TailReader for HangingReader {
        async fn next(&mut self) -> Result<Vec<LogRecord>, LogError> {
            if self.1.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            let records = self.0.next().await?;
            if self.1.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            Ok(records)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_hangs_is_replaced() {
        let shared = Shared::new(1);
        let hangs = Arc::new(AtomicBool::new(false));
        let mut ports = shared.ports(1);
        ports.tail =
            Arc::new(Hanging { log: shared.log.clone(), hangs: Arc::clone(&hangs), opened: AtomicUsize::new(0) });
        let pod = Pod::start(ports, options());
        shared.pass(Duration::from_secs(1)).await;
        let subscriber = follow(&pod, "a").await;
        hangs.store(true, Ordering::Relaxed);
        shared.log.append_now(said("a", 1));
        shared.pass(Duration::from_secs(20)).await;
        assert_eq!(ids(&subscriber.received(&channel("a"))), Vec::<u128>::new());
        shared.pass(Duration::from_secs(25)).await;
        assert_eq!(ids(&subscriber.received(&channel("a"))), [1]);
    }

    /// A log that can be opened and not read.
    struct Unreadable(crate::testing::MemoryLog);

    struct UnreadableReader;

    #[async_trait]
    impl LogTail for Unreadable {
        fn partition_of(&self, scope: &Scope) -> Partition {
            self.0.partition_of(scope)
        }
        async fn partitions(&self) -> Result<Vec<PartitionState>, LogError> {
            self.0.partitions().await
        }
        async fn position_at(&self, partition: Partition, at: Timestamp) -> Result<Position, LogError> {
            self.0.position_at(partition, at).await
        }
        async fn open(&self, _from: &[(Partition, Position)]) -> Result<Box<dyn TailReader>, LogError> {
            Ok(Box::new(UnreadableReader))
        }
    }

    #[async_trait]
    impl TailReader for UnreadableReader {
        async fn next(&mut self) -> Result<Vec<LogRecord>, LogError> {
            Err(LogError::Unavailable("no right to read".into()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn opening_in_vain_again_and_again_is_one_stall() {
        let shared = Shared::new(1);
        let mut ports = shared.ports(1);
        ports.tail = Arc::new(Unreadable(shared.log.clone()));
        let pod = Pod::start(ports, options());
        shared.pass(Duration::from_secs(120)).await;
        let state = pod.application.status().fan_out;
        assert!(matches!(state, LoopState::Stalled { for_, .. } if for_ > Duration::from_secs(110)), "{state:?}");
    }

    #[derive(Default)]
    struct Counts(std::sync::Mutex<std::collections::BTreeMap<&'static str, usize>>);

    impl Counts {
        fn add(&self, what: &'static str, count: usize) {
            *self.0.lock().expect("no panic").entry(what).or_default() += count;
        }
    }

    impl Observer for Counts {
        fn sent(&self, _stage: Duration) {
            self.add("sent", 1);
        }
        fn joined(&self, recovered: bool) {
            assert!(recovered);
            self.add("joined", 1);
        }
        fn refused(&self, kind: ErrorKind) {
            assert_eq!(kind, ErrorKind::Conflict);
            self.add("refused", 1);
        }
        fn duplicate_dropped(&self) {
            self.add("duplicates", 1);
        }
        fn poison_skipped(&self) {
            self.add("poison", 1);
        }
        fn projected(&self, rows: usize) {
            self.add("projected", rows);
        }
        fn dead_lettered(&self) {
            self.add("dead", 1);
        }
        fn fan_out_batch(&self, messages: usize, oldest_wait: Duration) {
            assert!(oldest_wait < Duration::from_secs(1));
            self.add("delivered", messages);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_counted_once() {
        let shared = Shared::new(1);
        let counts = Arc::new(Counts::default());
        let mut ports = shared.ports(1);
        ports.observer = Arc::clone(&counts) as Arc<dyn Observer>;
        let pod = Pod::start(ports, options());
        shared.pass(Duration::from_millis(10)).await;
        let said = pod.say(&shared, "bob", "a", "hi").await;
        follow(&pod, "a").await;
        let conflicting = crate::testing::send("bob", "a", "ho", Some(said.sent.message_id));
        pod.application.send(conflicting).await.expect_err("a conflict");
        shared.log.append_now(ChatEvent::MessageSent(Arc::clone(&said.sent)));
        shared.log.append_poison(&channel("a"));
        shared.pass(Duration::from_secs(3)).await;
        let counted = counts.0.lock().expect("no panic").clone();
        let expected = ["dead", "delivered", "duplicates", "joined", "poison", "projected", "refused", "sent"];
        assert!(counted.iter().eq(expected.iter().map(|what| (what, &1))), "{counted:?}");
        assert_eq!(pod.application.status().lag, 0);
    }
}
