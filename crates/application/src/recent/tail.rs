//! The newest messages of one partition.

use chatify_domain::{LoggedMessage, MessageSent, Position, Scope, Timestamp};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// Memory of one kept message beside its texts: two list entries, an index entry, the shared message and the allocator's rounding.
const MESSAGE_OVERHEAD: usize = 320;

/// The newest messages, first in, first out, and found by scope and by id.
///
/// Invariant: every message of the partition with a position after `floor` that was ever pushed is here.
pub(super) struct Tail {
    floor: Position,
    order: VecDeque<Kept>,
    scopes: HashMap<Scope, VecDeque<LoggedMessage>>,
    /// (hash of scope and id, position).
    ids: BTreeSet<(u64, Position)>,
    bytes: usize,
}

struct Kept {
    position: Position,
    id_hash: u64,
    bytes: usize,
    sent: Arc<MessageSent>,
}

impl Tail {
    pub(super) fn new(floor: Position) -> Self {
        Self { floor, order: VecDeque::new(), scopes: HashMap::new(), ids: BTreeSet::new(), bytes: 0 }
    }

    /// The position after which nothing is missing.
    pub(super) const fn floor(&self) -> Position {
        self.floor
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Nothing up to `floor` can be vouched for. To be called before later messages are pushed.
    pub(super) fn raise_floor(&mut self, floor: Position) {
        while self.order.front().is_some_and(|kept| kept.position <= floor) {
            self.evict_oldest();
        }
        self.floor = self.floor.max(floor);
    }

    /// Keeps the partition's next message. `id_hash` names its scope and id.
    pub(super) fn push(&mut self, message: LoggedMessage, id_hash: u64) {
        let sent = &message.sent;
        let texts = sent.text.as_str().len()
            + sent.scope.id().as_str().len()
            + sent.sender_id.as_str().len()
            + sent.origin_pod_id.as_str().len();
        let bytes = texts + MESSAGE_OVERHEAD;
        self.bytes += bytes;
        self.ids.insert((id_hash, message.position));
        self.order.push_back(Kept { position: message.position, id_hash, bytes, sent: Arc::clone(sent) });
        self.scopes.entry(sent.scope.clone()).or_default().push_back(message);
    }

    /// Forgets the oldest message; says whether there was one.
    pub(super) fn evict_oldest(&mut self) -> bool {
        let Some(kept) = self.order.pop_front() else { return false };
        self.bytes -= kept.bytes;
        self.floor = kept.position;
        self.ids.remove(&(kept.id_hash, kept.position));
        let scope = &kept.sent.scope;
        if let Some(messages) = self.scopes.get_mut(scope) {
            messages.pop_front();
            if messages.is_empty() {
                self.scopes.remove(scope);
            }
        }
        true
    }

    /// Messages of `scope` after `after` and up to `upto`, ascending, at most `limit`.
    pub(super) fn forward(&self, scope: &Scope, after: Position, upto: Position, limit: usize) -> Vec<LoggedMessage> {
        let Some(messages) = self.scopes.get(scope) else { return Vec::new() };
        let start = messages.partition_point(|message| message.position <= after);
        messages.range(start..).take_while(|message| message.position <= upto).take(limit).cloned().collect()
    }

    /// Messages of `scope` before `before`, descending, at most `limit`.
    pub(super) fn backward(&self, scope: &Scope, before: Position, limit: usize) -> Vec<LoggedMessage> {
        let Some(messages) = self.scopes.get(scope) else { return Vec::new() };
        let end = messages.partition_point(|message| message.position < before);
        messages.range(..end).rev().take(limit).cloned().collect()
    }

    /// The message of `scope` at `position`.
    pub(super) fn at(&self, scope: &Scope, position: Position) -> Option<LoggedMessage> {
        let messages = self.scopes.get(scope)?;
        let index = messages.binary_search_by_key(&position, |message| message.position).ok()?;
        messages.get(index).cloned()
    }

    /// Candidates for an id of `scope`, ascending; the caller compares.
    pub(super) fn by_id(&self, scope: &Scope, id_hash: u64) -> Vec<LoggedMessage> {
        let candidates = self.ids.range((id_hash, Position::ZERO)..=(id_hash, Position::MAX));
        candidates.filter_map(|(_, position)| self.at(scope, *position)).collect()
    }

    /// The position of a message of `scope` that was appended at `at` or later while the one before it was not, when that border is in here.
    pub(super) fn border(&self, scope: &Scope, at: Timestamp) -> Option<Position> {
        let messages = self.scopes.get(scope)?;
        let index = messages.partition_point(|message| message.created_at < at);
        if index == 0 && self.floor > Position::ZERO {
            return None;
        }
        let behind = messages.back().map(|message| message.position.next());
        messages.get(index).map(|message| message.position).or(behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{channel, for_seeds, user};
    use chatify_building_blocks::random::{Random, SeededRandom};
    use chatify_domain::{MessageId, Partition, PodId, Text};

    fn message(random: &SeededRandom, number: i64) -> LoggedMessage {
        let sent = MessageSent {
            message_id: MessageId::from_u128(u128::from(random.u64() % 20)),
            scope: channel(["a", "b", "c"][usize::try_from(random.u64() % 3).expect("small")]),
            sender_id: user("bob"),
            text: Text::parse("hi").expect("short"),
            origin_pod_id: PodId::parse("pod-0").expect("a pod"),
        };
        LoggedMessage {
            position: at(number),
            partition: Partition(0),
            created_at: Timestamp::from_millis(number),
            sent: Arc::new(sent),
        }
    }

    fn at(number: i64) -> Position {
        Position::from_number(number).expect("a position")
    }

    /// Ids collide on purpose: the hash is the id's last digit.
    fn hash(message: &LoggedMessage) -> u64 {
        u64::try_from(message.sent.message_id.as_u128() % 10).expect("a digit")
    }

    fn check(tail: &Tail, kept: &[LoggedMessage], random: &SeededRandom) {
        let scope = channel(["a", "b", "c"][usize::try_from(random.u64() % 3).expect("small")]);
        let of_scope: Vec<&LoggedMessage> = kept.iter().filter(|message| message.sent.scope == scope).collect();
        let position = at(i64::try_from(random.u64() % 400).expect("small"));
        let upto = at(position.number() + i64::try_from(random.u64() % 200).expect("small"));
        let limit = usize::try_from(random.u64() % 20).expect("small");
        let expected = of_scope.iter().filter(|message| message.position > position && message.position <= upto);
        assert!(tail.forward(&scope, position, upto, limit).iter().eq(expected.take(limit).copied()));
        let expected = of_scope.iter().rev().filter(|message| message.position < position);
        assert!(tail.backward(&scope, position, limit).iter().eq(expected.take(limit).copied()));
        let expected = of_scope.iter().find(|message| message.position == position);
        assert_eq!(tail.at(&scope, position).as_ref(), expected.copied());
        let id_hash = random.u64() % 10;
        let expected = of_scope.iter().filter(|message| hash(message) == id_hash);
        assert!(tail.by_id(&scope, id_hash).iter().eq(expected.copied()));
        assert_eq!(tail.bytes() == 0, kept.is_empty());
    }

    #[test]
    fn it_answers_like_a_list_of_what_it_keeps() {
        for_seeds(0..600, |seed| {
            let random = SeededRandom::new(seed);
            let (mut tail, mut kept, mut floor) = (Tail::new(at(0)), Vec::new(), at(0));
            for number in 1..120 {
                let number = number * 3;
                let message = message(&random, number);
                tail.push(message.clone(), hash(&message));
                kept.push(message);
                match random.u64() % 8 {
                    0..3 => {
                        assert!(tail.evict_oldest());
                        floor = kept.remove(0).position;
                    }
                    3 if random.u64().is_multiple_of(10) => {
                        floor = at(number + 1);
                        tail.raise_floor(floor);
                        kept.clear();
                    }
                    _ => {}
                }
                if kept.is_empty() {
                    assert!(!tail.evict_oldest());
                }
                assert_eq!(tail.floor(), floor);
                check(&tail, &kept, &random);
            }
        });
    }
}
