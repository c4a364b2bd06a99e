//! Pages of what was said.

use crate::application::Core;
use crate::ports::history::HistoryError;
use crate::read_barrier;
use crate::timeline::{Gap, Stretch, Timeline};
use chatify_building_blocks::error::{Classify, ErrorKind};
use chatify_building_blocks::seeded_bugs::{Bug, seeded_bug};
use chatify_domain::limits::DEDUPE_MARGIN;
use chatify_domain::policy::{Action, Denied, authorize};
use chatify_domain::{LoggedMessage, Partition, Position, Scope, SenderId, Timestamp};
use std::time::Duration;

/// Messages that one request looks at when it filters by sender.
const SCAN_MAX: usize = 5_000;
/// Messages that are read at once when a filter lets only some of them through.
const SCAN_CHUNK: usize = 500;

/// A page that somebody wants to read.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// Who.
    pub user: SenderId,
    /// Of which scope.
    pub scope: Scope,
    /// Which part.
    pub page: Page,
    /// Only this sender's messages.
    pub sender: Option<SenderId>,
    /// Only messages of this moment or later. With [`Page::Latest`] and no `to`, the page starts here and goes forward.
    pub from: Option<Timestamp>,
    /// Only messages before this moment. With [`Page::Latest`], the page ends here.
    pub to: Option<Timestamp>,
    /// The most messages in the page, 1 to [`chatify_domain::limits::PAGE_LIMIT_MAX`].
    pub limit: usize,
}

/// Which part of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The newest messages.
    Latest,
    /// The newest ones before this position.
    Before(Position),
    /// The oldest ones after this position.
    After(Position),
    /// Half before and including, half after this position.
    Around(Position),
}

/// One page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryPage {
    /// Messages, ascending by position.
    pub items: Vec<LoggedMessage>,
    /// Nothing that the query asks for is older than the page.
    pub oldest_reached: bool,
    /// Nothing that the query asks for was newer than the page when it was read.
    pub newest_reached: bool,
    /// Nothing is missing between the page's ends, nor between the page and the position that it was asked for, provably. `false` while the history is
    /// behind or away, or this pod behind the log.
    pub complete: bool,
    /// The lowest and the highest position looked at: where the next page goes on, also when a filter left no items.
    pub scanned: Option<(Position, Position)>,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum HistoryQueryError {
    /// The user may not read this scope.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The history cannot be asked, and this pod's memory does not have the page.
    #[error("the history cannot be read")]
    Unavailable(#[source] HistoryError),
}

impl Classify for HistoryQueryError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied(_) => ErrorKind::Forbidden,
            Self::Unavailable(error) => error.kind(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Denied(_) => None,
            Self::Unavailable(error) => error.retry_after(),
        }
    }
}

pub(crate) async fn history(core: &Core, query: HistoryQuery) -> Result<HistoryPage, HistoryQueryError> {
    authorize(&query.user, Action::Read, &query.scope)?;
    let timeline = Timeline::new(core, &query.scope);
    let partition = core.ports.tail.partition_of(&query.scope);
    if let Page::Before(position) = query.page
        && reaches(core, partition, position.previous())
    {
        // What is below the position is in memory or below it, so the page misses nothing of what comes now; only what it says about its end can.
        let page = read(&timeline, &query).await?;
        let newest_reached =
            page.newest_reached && read_barrier::passed(core, partition).await && timeline.nothing_from(position);
        return Ok(HistoryPage { newest_reached, ..page });
    }
    let current = read_barrier::passed(core, partition).await;
    // Up to here the page goes down from, so that this pod must have read that far.
    let top = match query.page {
        Page::Before(position) => position.previous(),
        Page::Around(position) => position,
        Page::Latest | Page::After(_) => Position::ZERO,
    };
    let whole = current || reaches(core, partition, top);
    let page = read(&timeline, &query).await?;
    Ok(HistoryPage { newest_reached: page.newest_reached && current, complete: page.complete && whole, ..page })
}

/// Whether memory has taken in everything up to `position`.
fn reaches(core: &Core, partition: Partition, position: Position) -> bool {
    core.recent.applied(partition).is_some_and(|applied| applied >= position)
}

async fn read(timeline: &Timeline<'_>, query: &HistoryQuery) -> Result<HistoryPage, HistoryQueryError> {
    match (query.page, query.from, query.to) {
        (Page::Latest, _, Some(to)) => {
            let end = timeline.not_after(to).await.map_err(HistoryQueryError::Unavailable)?;
            backward(timeline, query, end).await
        }
        (Page::Latest, Some(from), None) => {
            let start = timeline.not_before(from).await.map_err(HistoryQueryError::Unavailable)?;
            forward(timeline, query, start.previous()).await
        }
        (Page::Latest, None, None) => backward(timeline, query, Position::MAX).await,
        (Page::Before(position), _, _) => backward(timeline, query, position).await,
        (Page::After(position), _, _) => forward(timeline, query, position).await,
        (Page::Around(position), _, _) => around(timeline, query, position).await,
    }
}

async fn backward(
    timeline: &Timeline<'_>,
    query: &HistoryQuery,
    before: Position,
) -> Result<HistoryPage, HistoryQueryError> {
    let scan = Scan::run(timeline, query, Direction::Backward, before, query.limit).await?;
    let newest_reached = scan.certain_at_start && (before == Position::MAX || timeline.nothing_from(before));
    let mut items = scan.items;
    items.reverse();
    Ok(HistoryPage { items, oldest_reached: scan.ended, newest_reached, complete: !scan.holes, scanned: scan.seen })
}

async fn forward(
    timeline: &Timeline<'_>,
    query: &HistoryQuery,
    after: Position,
) -> Result<HistoryPage, HistoryQueryError> {
    let scan = Scan::run(timeline, query, Direction::Forward, after, query.limit).await?;
    let oldest_reached = timeline.nothing_upto(after) || scan.first.is_some_and(|first| first > after);
    let newest_reached = scan.ended;
    let mut items = scan.items;
    if seeded_bug(Bug::OrderByTime) {
        items.sort_by_key(|message| message.sent.message_id);
    }
    Ok(HistoryPage { items, oldest_reached, newest_reached, complete: !scan.holes, scanned: scan.seen })
}

async fn around(
    timeline: &Timeline<'_>,
    query: &HistoryQuery,
    position: Position,
) -> Result<HistoryPage, HistoryQueryError> {
    // The newer ones first: what comes meanwhile is then above both halves, and not between them.
    let newer = Scan::run(timeline, query, Direction::Forward, position, query.limit / 2).await?;
    let older = Scan::run(timeline, query, Direction::Backward, position.next(), query.limit.div_ceil(2)).await?;
    let mut items = older.items;
    items.reverse();
    items.extend(newer.items);
    let scanned = match (older.seen, newer.seen) {
        (Some((low, _)), Some((_, high))) => Some((low, high)),
        (one, other) => one.or(other),
    };
    let complete = !older.holes && !newer.holes;
    Ok(HistoryPage { items, oldest_reached: older.ended, newest_reached: newer.ended, complete, scanned })
}

#[derive(Clone, Copy)]
enum Direction {
    Forward,
    Backward,
}

/// Walks from a position in one direction until the page is full.
#[derive(Default)]
struct Scan {
    /// What the query asks for, in the order of the walk.
    items: Vec<LoggedMessage>,
    /// There is nothing further that the query asks for.
    ended: bool,
    /// Something of what was walked over may be missing.
    holes: bool,
    /// Nothing is missing between where the walk began and what it met first.
    certain_at_start: bool,
    /// The lowest and the highest position walked over.
    seen: Option<(Position, Position)>,
    /// See [`Stretch::first`].
    first: Option<Position>,
}

impl Scan {
    async fn run(
        timeline: &Timeline<'_>,
        query: &HistoryQuery,
        direction: Direction,
        start: Position,
        limit: usize,
    ) -> Result<Self, HistoryQueryError> {
        let mut scan = Self::default();
        let (mut cursor, mut looked_at) = (start, 0);
        loop {
            // One more than fits, to know whether there is more.
            let chunk = if query.sender.is_some() { SCAN_CHUNK } else { limit + 1 - scan.items.len() };
            let stretch = match direction {
                Direction::Forward => timeline.forward(cursor, Position::MAX, chunk).await,
                Direction::Backward => timeline.backward(cursor, chunk).await,
            };
            looked_at += stretch.messages.len();
            cursor = stretch.messages.last().map_or(cursor, |message| message.position);
            scan.first = scan.first.or(stretch.first);
            let ended = stretch.ended;
            let stop = scan.take(query, direction, limit, stretch)?;
            if stop || ended || looked_at >= SCAN_MAX {
                scan.ended |= ended && !stop;
                return Ok(scan);
            }
        }
    }

    /// Takes from a stretch what the query asks for; says whether the walk is over.
    fn take(
        &mut self,
        query: &HistoryQuery,
        direction: Direction,
        limit: usize,
        stretch: Stretch,
    ) -> Result<bool, HistoryQueryError> {
        let (gap, certain) = (stretch.gap, stretch.certain);
        if self.seen.is_none() {
            self.certain_at_start = gap.is_none() || certain > 0;
        }
        for (index, message) in stretch.messages.into_iter().enumerate() {
            if out_of_reach(query, direction, message.created_at) {
                if index < certain {
                    self.ended = true;
                    return Ok(true);
                }
                // What is missing before this one may be asked for.
                break;
            }
            if self.items.len() >= limit {
                return Ok(true);
            }
            self.holes |= index >= certain;
            let (low, high) = self.seen.unwrap_or((message.position, message.position));
            self.seen = Some((low.min(message.position), high.max(message.position)));
            if asked_for(query, &message) {
                self.items.push(message);
            }
        }
        match gap {
            None => Ok(false),
            // Never an empty page when there may be something.
            Some(Gap::Unavailable(error)) if self.seen.is_none() => Err(HistoryQueryError::Unavailable(error)),
            Some(Gap::Unavailable(_) | Gap::Behind { .. }) => {
                self.holes = true;
                Ok(true)
            }
        }
    }
}

fn asked_for(query: &HistoryQuery, message: &LoggedMessage) -> bool {
    query.sender.as_ref().is_none_or(|sender| message.sent.sender_id == *sender)
        && query.from.is_none_or(|from| message.created_at >= from)
        && query.to.is_none_or(|to| message.created_at < to)
}

/// Whether nothing beyond a message of this moment can be in the asked dates; append times step back by a margin at most.
fn out_of_reach(query: &HistoryQuery, direction: Direction, created_at: Timestamp) -> bool {
    match direction {
        Direction::Forward => query.to.is_some_and(|to| created_at >= to.plus(DEDUPE_MARGIN)),
        Direction::Backward => query.from.is_some_and(|from| created_at < from.minus(DEDUPE_MARGIN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pod, Shared, channel, for_seeds, send, user};
    use chatify_building_blocks::clock::Clock;
    use chatify_building_blocks::random::{Random, SeededRandom};
    use chatify_domain::ChatEvent;
    use std::sync::Arc;

    fn query(page: Page, limit: usize) -> HistoryQuery {
        HistoryQuery { user: user("alice"), scope: channel("a"), page, sender: None, from: None, to: None, limit }
    }

    async fn read(pod: &Pod, query: HistoryQuery) -> HistoryPage {
        pod.application.history(query).await.expect("a page")
    }

    async fn say(shared: &Shared, pod: &Pod, count: usize) -> Vec<LoggedMessage> {
        let mut messages = Vec::new();
        for number in 0..count {
            messages.push(pod.say(shared, ["bob", "carol"][number % 2], "a", &number.to_string()).await);
        }
        messages
    }

    #[tokio::test(start_paused = true)]
    async fn pages_and_what_they_say_of_their_ends() {
        for tail_bytes in [1 << 20, 1_500, 0] {
            let shared = Shared::new(1);
            let pod = Pod::live(&shared, |options| options.tail_bytes = tail_bytes).await;
            let all = say(&shared, &pod, 10).await;
            let at = |index: usize| all[index].position;
            let check = async |page, limit, range: std::ops::Range<usize>, oldest_reached, newest_reached| {
                let scanned = (!range.is_empty()).then(|| (at(range.start), at(range.end - 1)));
                let items = all[range].to_vec();
                let expected = HistoryPage { items, oldest_reached, newest_reached, complete: true, scanned };
                assert_eq!(read(&pod, query(page, limit)).await, expected, "{page:?}, {limit}, {tail_bytes}");
            };
            check(Page::Latest, 3, 7..10, false, true).await;
            check(Page::Latest, 10, 0..10, true, true).await;
            check(Page::Before(at(4)), 3, 1..4, false, false).await;
            check(Page::Before(at(4)), 4, 0..4, true, false).await;
            check(Page::Before(at(0)), 4, 0..0, true, false).await;
            check(Page::After(at(4)), 3, 5..8, false, false).await;
            check(Page::After(at(6)), 3, 7..10, false, true).await;
            check(Page::After(at(9)), 3, 0..0, false, true).await;
            check(Page::After(Position::ZERO), 3, 0..3, true, false).await;
            check(Page::Around(at(4)), 4, 3..7, false, false).await;
            check(Page::Around(at(4)), 1, 4..5, false, false).await;
            check(Page::Around(at(9)), 8, 6..10, false, true).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn memory_alone_needs_no_store_and_an_outage_is_never_an_empty_page() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |options| options.tail_bytes = 1_500).await;
        let all = say(&shared, &pod, 10).await;
        shared.pass(Duration::from_secs(1)).await;
        let before = shared.store.calls();
        assert!(read(&pod, query(Page::Latest, 2)).await.complete);
        assert!(read(&pod, query(Page::After(all[8].position), 2)).await.newest_reached);
        assert_eq!(shared.store.calls(), before);
        shared.store.set_available(false);
        assert!(read(&pod, query(Page::Latest, 2)).await.complete);
        let page = read(&pod, query(Page::Latest, 9)).await;
        assert!(!page.complete && !page.oldest_reached && page.newest_reached);
        assert!(!page.items.is_empty() && all.ends_with(&page.items), "what memory has");
        for page in [Page::Before(all[3].position), Page::Around(all[3].position)] {
            let error = pod.application.history(query(page, 2)).await.expect_err("nothing can be answered");
            assert!(matches!(error, HistoryQueryError::Unavailable(_)));
            assert_eq!((error.kind(), error.retry_after().is_some()), (ErrorKind::StoreUnavailable, true));
        }
        let mut dated = query(Page::Latest, 2);
        dated.to = Some(all[0].created_at.minus(Duration::from_secs(120)));
        assert!(pod.application.history(dated).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_history_that_is_behind_says_so() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |options| options.tail_bytes = 1_500).await;
        say(&shared, &pod, 5).await;
        shared.store.tear_appends(usize::MAX);
        let all = say(&shared, &pod, 10).await;
        shared.pass(Duration::from_secs(1)).await;
        let page = read(&pod, query(Page::After(Position::ZERO), 20)).await;
        assert!(!page.complete && !page.newest_reached);
        let page = read(&pod, query(Page::After(Position::ZERO), 5)).await;
        assert!(page.complete, "the part that it has is whole");
        assert!(read(&pod, query(Page::Latest, 3)).await.complete);
        assert!(!read(&pod, query(Page::Before(all[4].position), 3)).await.complete);
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_below_what_this_pod_has_not_read_yet_says_so() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |_| {}).await;
        let all = say(&shared, &pod, 5).await;
        shared.log.set_readable(false);
        let unread: Vec<Position> =
            (0..5).map(|_| shared.log.append_now(ChatEvent::MessageSent(Arc::clone(&all[0].sent))).position).collect();
        let page = read(&pod, query(Page::Before(unread[4]), 3)).await;
        assert!(!page.complete && !page.newest_reached, "{page:?}");
        let page = read(&pod, query(Page::Before(Position::MAX), 3)).await;
        assert!(!page.complete && !page.newest_reached, "{page:?}");
        let page = read(&pod, query(Page::Before(unread[0]), 3)).await;
        assert!(page.complete && !page.newest_reached, "{page:?}");
        assert_eq!(page.items, all[2..]);
    }

    /// What is outside of the asked dates says nothing of what is missing before it.
    #[tokio::test(start_paused = true)]
    async fn a_date_does_not_hide_what_is_missing() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |options| options.tail_bytes = 1_500).await;
        let mut all = Vec::new();
        for number in 0..20 {
            if number == 5 {
                shared.pass(Duration::from_secs(1)).await;
                shared.store.tear_appends(usize::MAX);
            }
            all.push(pod.say(&shared, "bob", "a", &number.to_string()).await);
            shared.clock.advance(Duration::from_secs(600));
        }
        let dated = |page, from: Option<usize>, to: Option<usize>| {
            let moment = |index: usize| all[index].created_at;
            HistoryQuery { from: from.map(moment), to: to.map(moment), ..query(page, 10) }
        };
        // The history has 0 to 4, memory the newest few.
        let page = read(&pod, dated(Page::After(Position::ZERO), None, Some(8))).await;
        assert!(!page.complete && !page.newest_reached, "{page:?}");
        let page = read(&pod, dated(Page::Before(Position::MAX), Some(8), None)).await;
        assert!(!page.complete && !page.oldest_reached, "{page:?}");
        let page = read(&pod, dated(Page::After(Position::ZERO), None, Some(3))).await;
        assert!(page.complete && page.newest_reached && page.items == all[..3], "{page:?}");
        shared.store.set_available(false);
        let page = pod.application.history(dated(Page::After(Position::ZERO), None, Some(3))).await;
        assert!(matches!(page, Err(HistoryQueryError::Unavailable(_))), "{page:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_filter_that_finds_nothing_says_how_far_it_looked() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |_| {}).await;
        pod.say(&shared, "dave", "a", "the first").await;
        for _ in 0..SCAN_MAX + 700 {
            drop(pod.application.send(send("bob", "a", "noise", None)).await.expect("accepted"));
        }
        shared.pass(Duration::from_secs(1)).await;
        let mut dave = query(Page::Latest, 2);
        dave.sender = Some(user("dave"));
        let page = read(&pod, dave.clone()).await;
        let (lowest, _) = page.scanned.expect("it looked at some");
        assert!(page.items.is_empty() && !page.oldest_reached && page.complete);
        dave.page = Page::Before(lowest);
        let page = read(&pod, dave).await;
        assert_eq!((page.items.len(), page.oldest_reached), (1, true));
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_read_gets_nothing() {
        let shared = Shared::new(1);
        let pod = Pod::live(&shared, |_| {}).await;
        let scope = Scope::parse("DirectMessage:bob+carol").expect("a scope");
        let error = pod.application.history(HistoryQuery { scope, ..query(Page::Latest, 1) }).await;
        assert!(matches!(error, Err(HistoryQueryError::Denied(_))));
    }

    /// Dates and senders, through every kind of page and from memory as from the store, give what a filter over everything gives.
    #[test]
    fn walking_through_filtered_pages_equals_filtering() {
        for_seeds(0..100, |seed| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.expect("a runtime").block_on(walk_filtered(&SeededRandom::new(seed)));
        });
    }

    async fn walk_filtered(random: &SeededRandom) {
        let below = |end: usize| usize::try_from(random.u64() % end as u64).expect("small");
        let shared = Shared::new(1);
        let tail_bytes = [1 << 20, 3_000, 0][below(3)];
        let pod = Pod::live(&shared, |options| (options.tail_bytes, options.segment_messages) = (tail_bytes, 7)).await;
        let mut all = Vec::new();
        for _ in 0..40 {
            shared.log.step_back(Duration::from_secs([0, 0, random.u64() % 60][below(3)]));
            all.push(pod.say(&shared, ["bob", "carol"][below(2)], "a", "hi").await);
            shared.clock.advance(Duration::from_secs(random.u64() % 50));
        }
        shared.pass(Duration::from_secs(1)).await;
        let (start, now) = (all[0].created_at, shared.clock.now());
        let moment = || {
            let span = now.since(start) + Duration::from_secs(20);
            (below(3) > 0).then(|| start.minus(Duration::from_secs(10)).plus(span.mul_f64(random.unit())))
        };
        let mut asked = query(Page::Latest, 1 + below(8));
        (asked.from, asked.to) = (moment(), moment());
        asked.sender = (below(2) == 0).then(|| user("bob"));
        let expected: Vec<LoggedMessage> = all.iter().filter(|message| asked_for(&asked, message)).cloned().collect();
        if below(2) == 0 {
            asked.page = Page::After(Position::ZERO);
        }
        let forward = asked.page != Page::Latest || (asked.from.is_some() && asked.to.is_none());
        let mut walked = Vec::new();
        for _ in 0..60 {
            let page = read(&pod, asked.clone()).await;
            assert!(page.complete);
            let ended = if forward { page.newest_reached } else { page.oldest_reached };
            walked.push(page.items);
            let Some((low, high)) = page.scanned.filter(|_| !ended) else { break };
            asked.page = if forward { Page::After(high) } else { Page::Before(low) };
        }
        if !forward {
            walked.reverse();
        }
        assert_eq!(walked.concat(), expected, "{asked:?}");
    }
}
