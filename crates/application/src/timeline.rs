//! A scope's messages in their one order, read from memory and, below what memory has, from the stored history.

use crate::application::Core;
use crate::ports::history::{HistoryError, Order, PositionRange};
use chatify_domain::limits::DEDUPE_MARGIN;
use chatify_domain::{LoggedMessage, Partition, Position, Scope, Timestamp};

/// A binary search for a moment ends when this many positions are left: reading them costs less than searching on.
const SEARCH_GRAIN: i64 = 256;

/// One scope, to be read.
pub(crate) struct Timeline<'a> {
    core: &'a Core,
    scope: &'a Scope,
    partition: Partition,
}

/// Messages in the order in which they were read.
pub(crate) struct Stretch {
    pub(crate) messages: Vec<LoggedMessage>,
    /// There is nothing further in this direction.
    pub(crate) ended: bool,
    /// Why something may be missing.
    pub(crate) gap: Option<Gap>,
    /// Without a gap, all of `messages`; otherwise so many of them, from the first on, have nothing missing between them.
    pub(crate) certain: usize,
    /// Nothing of the scope is older than this, when that is known.
    pub(crate) first: Option<Position>,
}

/// Why something may be missing in a [`Stretch`].
#[derive(Debug)]
pub(crate) enum Gap {
    /// The history has everything before this position only, and memory starts later.
    Behind {
        /// The first position that it may not have.
        complete_before: Position,
    },
    /// The history could not be asked: only memory was.
    Unavailable(HistoryError),
}

impl<'a> Timeline<'a> {
    pub(crate) fn new(core: &'a Core, scope: &'a Scope) -> Self {
        Self { core, scope, partition: core.ports.tail.partition_of(scope) }
    }

    /// At most `limit` messages after `after` and up to `upto`, oldest first.
    pub(crate) async fn forward(&self, after: Position, upto: Position, limit: usize) -> Stretch {
        let view = self.core.recent.forward(self.partition, self.scope, (after, upto), limit);
        if after >= view.floor {
            return Stretch::whole(view.messages, limit, None);
        }
        let last = view.floor.min(upto);
        let range = PositionRange { from: after.next(), to: last.next(), order: Order::Ascending };
        let stored = match self.core.reader.range(self.scope, self.partition, range, limit).await {
            Ok(stored) => stored,
            // Memory starts after what is missing.
            Err(error) => return Stretch::from_memory(view.messages, 0, error),
        };
        let mut messages = stored.messages.clone();
        let needed = match messages.last() {
            Some(message) if messages.len() >= limit => message.position,
            _ => last,
        };
        let complete_before = stored.complete_before;
        let room = limit - messages.len();
        messages.extend(view.messages.into_iter().take(room));
        if needed < complete_before {
            return Stretch::whole(messages, limit, stored.first);
        }
        let certain = messages.partition_point(|message| message.position < complete_before);
        Stretch { messages, ended: false, gap: Some(Gap::Behind { complete_before }), certain, first: stored.first }
    }

    /// At most `limit` messages before `before`, newest first.
    pub(crate) async fn backward(&self, before: Position, limit: usize) -> Stretch {
        let view = self.core.recent.backward(self.partition, self.scope, before, limit);
        let mut messages = view.messages;
        let to = view.floor.next().min(before);
        let room = limit - messages.len();
        if room == 0 || view.floor == Position::ZERO || to == Position::ZERO {
            return Stretch::whole(messages, limit, None);
        }
        let range = PositionRange { from: Position::ZERO, to, order: Order::Descending };
        let stored = match self.core.reader.range(self.scope, self.partition, range, room).await {
            Ok(stored) => stored,
            Err(error) => {
                let certain = messages.len();
                return Stretch::from_memory(messages, certain, error);
            }
        };
        let (certain, complete_before) = (messages.len(), stored.complete_before);
        messages.extend(stored.messages.iter().cloned());
        if to <= complete_before {
            return Stretch::whole(messages, limit, stored.first);
        }
        // What is missing comes right below memory.
        Stretch { messages, ended: false, gap: Some(Gap::Behind { complete_before }), certain, first: stored.first }
    }

    /// Whether memory knows that the scope has nothing at `position` or later.
    pub(crate) fn nothing_from(&self, position: Position) -> bool {
        let view = self.core.recent.forward(self.partition, self.scope, (position.previous(), Position::MAX), 1);
        position > view.floor && view.messages.is_empty()
    }

    /// Whether memory knows that the scope has nothing up to `position`.
    pub(crate) fn nothing_upto(&self, position: Position) -> bool {
        let view = self.core.recent.backward(self.partition, self.scope, position.next(), 1);
        view.floor == Position::ZERO && view.messages.is_empty()
    }

    /// A position before which every message is older than `at`.
    pub(crate) async fn not_before(&self, at: Timestamp) -> Result<Position, HistoryError> {
        // Append times step back by a margin at most, so what comes after a message is not older than it by more.
        self.border(at.minus(DEDUPE_MARGIN)).await.map(|(low, _)| low)
    }

    /// A position from which on every message is of the moment `at` or later.
    pub(crate) async fn not_after(&self, at: Timestamp) -> Result<Position, HistoryError> {
        self.border(at.plus(DEDUPE_MARGIN)).await.map(|(_, high)| high)
    }

    /// Positions around a place where a message of `at` or later follows one from before `at`: the last message before the first position is older, the
    /// first message from the second position on is not.
    async fn border(&self, at: Timestamp) -> Result<(Position, Position), HistoryError> {
        if let Some(position) = self.core.recent.border(self.partition, self.scope, at) {
            return Ok((position, position));
        }
        let floor = self.core.recent.forward(self.partition, self.scope, (Position::MAX, Position::MAX), 0).floor;
        if floor == Position::ZERO {
            // Memory has the whole scope, and that is nothing.
            return Ok((Position::ZERO, Position::MAX));
        }
        let segments = self.core.reader.segments(self.scope).await?;
        let index = segments.partition_point(|segment| segment.first_created_at < at);
        let Some(segment) = index.checked_sub(1).and_then(|last| segments.get(last)) else {
            return Ok((Position::ZERO, segments.first().map_or(floor.next(), |segment| segment.start)));
        };
        let mut low = segment.start.next();
        let mut high = segments.get(index).map_or(floor.next(), |next| next.start).max(low);
        while high.number() - low.number() > SEARCH_GRAIN {
            let middle = Position::from_number(low.number() + (high.number() - low.number()) / 2)
                .expect("between two positions is a position");
            match self.core.reader.first_in(self.scope, segment.start, (middle, high)).await? {
                Some(message) if message.created_at < at => low = message.position.next(),
                Some(_) | None => high = middle,
            }
        }
        Ok((low, high))
    }
}

impl Stretch {
    fn whole(messages: Vec<LoggedMessage>, limit: usize, first: Option<Position>) -> Self {
        Self { ended: messages.len() < limit, certain: messages.len(), messages, gap: None, first }
    }

    fn from_memory(messages: Vec<LoggedMessage>, certain: usize, error: HistoryError) -> Self {
        Self { messages, ended: false, gap: Some(Gap::Unavailable(error)), certain, first: None }
    }
}
