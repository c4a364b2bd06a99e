//! One partition that this member owns.

use super::plan::{Planned, ScopeCache};
use crate::application::Core;
use crate::dedupe::{DedupeWindow, Verdict};
use crate::ports::history::HistoryError;
use crate::ports::log::{GroupMember, LogError, LogRecord, Undecodable};
use chatify_building_blocks::error::chain;
use chatify_building_blocks::seeded_bugs::{Bug, seeded_bug};
use chatify_domain::limits::DEDUPE_MARGIN;
use chatify_domain::{ChatEvent, LoggedMessage, MessageSent, Partition, Position};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A commit that the group did not take while it rebalances is tried again after this.
pub(super) const COMMIT_AGAIN: Duration = Duration::from_millis(200);
/// Reading back waits this long for one batch.
const READ_BACK_PATIENCE: Duration = Duration::from_secs(30);
/// Segments that are recorded at the same time.
const OPENS_AT_ONCE: usize = 16;

/// Invariant: records go from `waiting` through `classified` to `planned` exactly once and in order, because deciding about a record changes
/// what later decisions see; whatever fails is tried again with the same decision.
pub(super) struct Owned {
    partition: Partition,
    /// Rebuilt from the log when the first record is here, whose time says how far back to read.
    window: Option<DedupeWindow>,
    scopes: ScopeCache,
    waiting: VecDeque<LogRecord>,
    classified: Vec<Decided>,
    planned: Option<Planned>,
    stride: Stride,
    /// The position that the next record has at least.
    next: Position,
    /// Everything before this has its effect, and is to be committed.
    uncommitted: Option<Position>,
    /// When to try a commit again that the group did not take, on the clock's uptime.
    commit_again: Option<Duration>,
    failures: u32,
    pause: Option<Pause>,
}

/// What a record is worth.
pub(super) enum Decided {
    Message(LoggedMessage),
    /// It repeats an earlier one.
    Nothing,
    Poison(LogRecord, Undecodable),
}

/// How many rows one write has at most: fewer after each that the store did not finish in time, so that a slow store gets on at all, and more after each
/// batch that it took.
struct Stride {
    rows: usize,
    most: usize,
}

impl Stride {
    const LEAST: usize = 16;

    fn shrink(&mut self) {
        self.rows = (self.rows / 2).max(Self::LEAST.min(self.most));
    }

    fn grow(&mut self) {
        self.rows = (self.rows * 2).min(self.most);
    }
}

struct Pause {
    /// On the clock's uptime.
    until: Duration,
    reason: String,
}

/// What became of one attempt to go on.
pub(super) enum Advance {
    /// Everything is done, or will be tried again later.
    Done,
    /// The partition has another owner.
    Lost,
}

/// Why a batch is not done.
enum Stop {
    History(HistoryError),
    Log(LogError),
    Cancelled,
}

impl From<HistoryError> for Stop {
    fn from(error: HistoryError) -> Self {
        Self::History(error)
    }
}

impl From<LogError> for Stop {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl Owned {
    pub(super) fn new(core: &Core, partition: Partition, from: Position) -> Self {
        Self {
            partition,
            window: None,
            scopes: ScopeCache::new(core.options.projection_batch),
            waiting: VecDeque::new(),
            classified: Vec::new(),
            planned: None,
            stride: Stride { rows: core.options.projection_batch, most: core.options.projection_batch },
            next: from,
            uncommitted: None,
            commit_again: None,
            failures: 0,
            pause: None,
        }
    }

    /// When to try again what did not work, on the clock's uptime.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        self.pause.as_ref().map_or(self.commit_again, |pause| Some(pause.until))
    }

    /// Whether it gets no records until then.
    pub(super) const fn is_backing_off(&self) -> bool {
        self.pause.is_some()
    }

    /// Why it is backing off.
    pub(super) fn trouble(&self) -> Option<String> {
        self.pause.as_ref().map(|pause| pause.reason.clone())
    }

    pub(super) const fn next_position(&self) -> Position {
        self.next
    }

    /// Records that nothing was done about yet.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn take_in(&mut self, records: Vec<LogRecord>) {
        for record in records {
            if record.position >= self.next {
                self.next = record.position.next();
                self.waiting.push_back(record);
            }
        }
    }

    /// Persists and commits everything that is waiting, batch by batch. A write is tried `tries` times in place; when something fails
    /// nevertheless, the partition is paused and backs off.
    pub(super) async fn advance(
        &mut self,
        core: &Core,
        token: &CancellationToken,
        member: &mut dyn GroupMember,
        tries: u32,
    ) -> Advance {
        if self.pause.as_ref().is_some_and(|pause| pause.until > core.ports.clock.uptime()) {
            return Advance::Done;
        }
        loop {
            match self.batch(core, token, member, tries).await {
                Ok(true) => {}
                Ok(false) => {
                    self.failures = 0;
                    if self.pause.take().is_some() {
                        member.resume(self.partition);
                    }
                    return Advance::Done;
                }
                Err(Stop::Cancelled) => return Advance::Done,
                Err(Stop::Log(LogError::NotAssigned)) => return Advance::Lost,
                Err(Stop::Log(error)) => return self.back_off(core, member, &error),
                Err(Stop::History(error)) => return self.back_off(core, member, &error),
            }
        }
    }

    /// Commits what is persisted and not committed.
    pub(super) async fn commit(&mut self, member: &mut dyn GroupMember) -> Result<(), LogError> {
        let Some(next) = self.uncommitted else { return Ok(()) };
        member.commit(self.partition, next).await?;
        (self.uncommitted, self.commit_again) = (None, None);
        Ok(())
    }

    /// The same, but a rebalance is not waited for: the group waits for this member to poll, so the commit comes later.
    async fn commit_when_possible(&mut self, core: &Core, member: &mut dyn GroupMember) -> Result<(), LogError> {
        match self.commit(member).await {
            Err(LogError::Rebalancing) => {
                self.commit_again = Some(core.ports.clock.uptime() + COMMIT_AGAIN);
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Does the next batch; says whether there was one.
    async fn batch(
        &mut self,
        core: &Core,
        token: &CancellationToken,
        member: &mut dyn GroupMember,
        tries: u32,
    ) -> Result<bool, Stop> {
        self.commit_when_possible(core, member).await?;
        if self.planned.is_none() {
            self.classify(core, token).await?;
            if self.classified.is_empty() {
                return Ok(false);
            }
            self.scopes.load(core, &self.classified).await?;
            let next = self.waiting.front().map_or(self.next, |record| record.position);
            self.planned = Some(self.scopes.plan(core, self.classified.drain(..), next));
        }
        if seeded_bug(Bug::CommitBeforePersist) {
            self.uncommitted = self.planned.as_ref().map(|planned| planned.next);
            self.commit(member).await?;
        }
        let planned = self.planned.as_mut().expect("it was planned above");
        persist(core, token, planned, &mut self.stride, tries).await?;
        while let Some((record, class)) = planned.poison.front() {
            member.dead_letter(record, class).await?;
            tracing::warn!(partition = self.partition.0, position = %record.position, %class, "record set aside");
            core.ports.observer.dead_lettered();
            planned.poison.pop_front();
        }
        self.uncommitted = Some(planned.next);
        self.planned = None;
        self.commit_when_possible(core, member).await?;
        Ok(true)
    }

    /// Decides about the records of the next batch.
    async fn classify(&mut self, core: &Core, token: &CancellationToken) -> Result<(), Stop> {
        let Some(first) = self.waiting.front() else { return Ok(()) };
        if self.window.is_none() {
            let rebuilt = token.run_until_cancelled(rebuild(core, self.partition, first)).await;
            self.window = Some(rebuilt.ok_or(Stop::Cancelled)??);
        }
        let window = self.window.as_mut().expect("it was rebuilt above");
        let room = core.options.projection_batch.saturating_sub(self.classified.len()).min(self.waiting.len());
        self.classified.extend(self.waiting.drain(..room).map(|record| decide(core, window, record)));
        Ok(())
    }

    fn back_off(
        &mut self,
        core: &Core,
        member: &mut dyn GroupMember,
        error: &(dyn std::error::Error + 'static),
    ) -> Advance {
        let wait = core.options.consumer_backoff.wait(self.failures, &*core.ports.random);
        self.failures = self.failures.saturating_add(1);
        tracing::warn!(
            partition = self.partition.0,
            ?wait,
            error = chain(error),
            "the history cannot be written; the partition waits"
        );
        if self.pause.is_none() {
            member.pause(self.partition);
        }
        self.pause = Some(Pause { until: core.ports.clock.uptime() + wait, reason: error.to_string() });
        Advance::Done
    }
}

/// Writes a planned batch; a store that fails is tried again in place a few times.
async fn persist(
    core: &Core,
    token: &CancellationToken,
    planned: &mut Planned,
    stride: &mut Stride,
    tries: u32,
) -> Result<(), Stop> {
    let mut attempt = 0;
    loop {
        let error = match write(core, token, planned, stride).await {
            Ok(()) => {
                stride.grow();
                return Ok(());
            }
            Err(Stop::History(error)) => error,
            Err(stop) => return Err(stop),
        };
        attempt += 1;
        if seeded_bug(Bug::SkipOnStoreError) {
            return Ok(());
        }
        if attempt >= tries {
            return Err(error.into());
        }
        let wait = core.options.database_retry.wait(attempt - 1, &*core.ports.random);
        if token.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return Err(Stop::Cancelled);
        }
    }
}

/// A segment is recorded before its first row: a reader that finds the row must know where its segment ends. What is written stays written when
/// something fails: the next attempt goes on behind it.
async fn write(core: &Core, token: &CancellationToken, planned: &mut Planned, stride: &mut Stride) -> Result<(), Stop> {
    let history = &core.ports.history;
    let opens = planned.opens.clone().into_iter().map(|(scope, segment)| {
        let history = Arc::clone(history);
        async move { history.open_segment(&scope, segment).await }
    });
    stream::iter(opens).buffer_unordered(OPENS_AT_ONCE).try_collect::<()>().await?;
    planned.opens.clear();
    while planned.written < planned.rows.len() {
        if token.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        let end = planned.rows.len().min(planned.written + stride.rows);
        match history.append(&planned.rows[planned.written..end]).await {
            Ok(()) => {}
            Err(error) => {
                if matches!(error, HistoryError::Timeout) {
                    stride.shrink();
                }
                return Err(error.into());
            }
        }
        core.ports.observer.projected(end - planned.written);
        planned.written = end;
    }
    Ok(())
}

fn decide(core: &Core, window: &mut DedupeWindow, record: LogRecord) -> Decided {
    match &record.content {
        Ok(ChatEvent::MessageSent(sent)) => {
            let sent = Arc::clone(sent);
            match observe(core, window, &sent, &record) {
                Verdict::DuplicateOf { .. } => Decided::Nothing,
                Verdict::First => Decided::Message(LoggedMessage {
                    position: record.position,
                    partition: record.partition,
                    created_at: record.appended_at,
                    sent,
                }),
            }
        }
        Err(class) => {
            let class = class.clone();
            Decided::Poison(record, class)
        }
    }
}

fn observe(core: &Core, window: &mut DedupeWindow, sent: &MessageSent, record: &LogRecord) -> Verdict {
    let names = core.recent.fingerprints();
    window.observe(names.message(sent), names.body(&sent.text), record.position, record.appended_at)
}

/// The window as it was before `first`, read back from the log.
async fn rebuild(core: &Core, partition: Partition, first: &LogRecord) -> Result<DedupeWindow, LogError> {
    let mut window = DedupeWindow::new(core.options.dedupe_window);
    let back = first.appended_at.minus(core.options.dedupe_window).minus(DEDUPE_MARGIN);
    let start = core.ports.tail.position_at(partition, back).await?;
    if start >= first.position || seeded_bug(Bug::DedupeInMemoryOnly) {
        return Ok(window);
    }
    let mut reader = core.ports.tail.open(&[(partition, start)]).await?;
    loop {
        // The first record itself is in the log, so there is always a next one; a reader that hangs is replaced by the next attempt.
        let records = tokio::time::timeout(READ_BACK_PATIENCE, reader.next()).await;
        for record in records.map_err(|late| LogError::Unavailable(Box::new(late)))?? {
            if record.position >= first.position {
                return Ok(window);
            }
            if let Ok(ChatEvent::MessageSent(sent)) = &record.content {
                observe(core, &mut window, sent, &record);
            }
        }
    }
}
