//! How a scope's history is cut: which segment a message belongs to, and which segments a read needs. Pure.

use crate::ports::history::{Order, PositionRange, Segment};
use chatify_domain::{Position, Timestamp};

/// The segments of one scope, as the writer of the history knows them.
///
/// **The rule.** A position belongs to the segment with the greatest start ≤ position; every `max`-th message after the last start opens a new
/// one. Fed with the scope's messages in order from any of them on, whoever applies the rule comes to the same cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScopeSegments {
    /// Ascending.
    starts: Vec<Position>,
    /// Messages of the last segment that were placed.
    in_last: u64,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The start of its segment.
    pub(crate) segment: Position,
    /// The segment is new and must be recorded before the message.
    pub(crate) opens: Option<Segment>,
}

impl ScopeSegments {
    /// The recorded segments of a scope, of whose last one `in_last` messages come before the next message that will be placed.
    pub(crate) fn new(recorded: &[Segment], in_last: u64) -> Self {
        Self { starts: recorded.iter().map(|segment| segment.start).collect(), in_last }
    }

    /// Places the scope's next message.
    pub(crate) fn place(&mut self, position: Position, created_at: Timestamp, max: u64) -> Placement {
        let index = self.starts.partition_point(|start| *start <= position);
        let Some(&segment) = index.checked_sub(1).and_then(|last| self.starts.get(last)) else {
            if self.starts.is_empty() {
                self.in_last = 1;
            }
            return self.open(0, position, created_at);
        };
        if index < self.starts.len() {
            // It comes again, and where it belongs was settled when the later segments were opened.
            return Placement { segment, opens: None };
        }
        if self.in_last >= max && position > segment {
            self.in_last = 1;
            return self.open(index, position, created_at);
        }
        self.in_last += 1;
        Placement { segment, opens: None }
    }

    fn open(&mut self, index: usize, position: Position, created_at: Timestamp) -> Placement {
        self.starts.insert(index, position);
        Placement { segment: position, opens: Some(Segment { start: position, first_created_at: created_at }) }
    }
}

/// The segments that hold positions of `range`, in `range`'s order, each with the part of it that they hold. `recorded` is ascending.
pub(crate) fn overlapping(recorded: &[Segment], range: PositionRange) -> Vec<(Position, PositionRange)> {
    let ends = recorded.iter().skip(1).map(|segment| segment.start).chain([Position::MAX]);
    let clipped = recorded.iter().zip(ends).filter_map(|(segment, end)| {
        let (from, to) = (segment.start.max(range.from), end.min(range.to));
        (from < to).then_some((segment.start, PositionRange { from, to, order: range.order }))
    });
    let mut parts: Vec<(Position, PositionRange)> = clipped.collect();
    if range.order == Order::Descending {
        parts.reverse();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::for_seeds;
    use chatify_building_blocks::random::{Random, SeededRandom};
    use std::collections::BTreeMap;

    fn at(number: u64) -> Position {
        Position::from_number(i64::try_from(number).expect("small")).expect("a position")
    }

    fn segment(start: u64) -> Segment {
        Segment { start: at(start), first_created_at: Timestamp::from_millis(0) }
    }

    /// Segment, from, to.
    type Parts = Vec<(i64, i64, i64)>;

    /// Writers that crash at any moment, with any part of what they had begun written, leave the cuts that one writer without any trouble makes.
    #[test]
    fn whoever_goes_on_makes_the_same_cuts() {
        for_seeds(0..3_000, |seed| {
            let random = SeededRandom::new(seed);
            let (max, count) = (1 + random.u64() % 6, random.u64() % 40);
            let messages: Vec<u64> = (0..count)
                .scan(0, |at, _| {
                    *at += 1 + random.u64() % 9;
                    Some(*at)
                })
                .collect();
            let (mut recorded, mut rows) = (Vec::<Segment>::new(), BTreeMap::<u64, Position>::new());
            let mut committed = 0;
            while committed < messages.len() {
                // A new owner: it counts what was written before the first message that comes again.
                let first = messages[committed];
                let last = recorded.last().map_or(Position::ZERO, |segment| segment.start);
                let before = rows.iter().filter(|(position, segment)| **segment == last && **position < first).count();
                let mut writer = ScopeSegments::new(&recorded, before as u64);
                let gets_to = committed + usize::try_from(random.u64() % 15).expect("small");
                for (index, message) in messages.iter().enumerate().skip(committed).take(gets_to - committed) {
                    let placed = writer.place(at(*message), Timestamp::from_millis(0), max);
                    recorded.extend(placed.opens);
                    if !random.u64().is_multiple_of(4) || index + 1 < gets_to {
                        rows.insert(*message, placed.segment);
                    }
                }
                let all_there = messages.iter().take_while(|message| rows.contains_key(message)).count();
                committed = all_there - usize::try_from(random.u64()).unwrap_or(0) % (all_there - committed + 1);
                if all_there == messages.len() && random.u64().is_multiple_of(2) {
                    break;
                }
            }
            let starts: Vec<Position> = recorded.iter().map(|segment| segment.start).collect();
            let chunks = messages.chunks(usize::try_from(max).expect("small"));
            let expected: Vec<Position> = chunks.clone().map(|chunk| at(chunk[0])).collect();
            assert_eq!(starts, expected);
            for chunk in chunks {
                assert!(chunk.iter().all(|message| rows.get(message) == Some(&at(chunk[0]))));
            }
        });
    }

    #[test]
    fn a_message_from_before_everything_gets_a_segment_of_its_own() {
        let mut known = ScopeSegments::new(&[segment(10), segment(20)], 1);
        let placed = known.place(at(5), Timestamp::from_millis(7), 2);
        assert_eq!(placed.opens, Some(Segment { start: at(5), first_created_at: Timestamp::from_millis(7) }));
        assert_eq!(known.place(at(15), Timestamp::from_millis(8), 2), Placement { segment: at(10), opens: None });
        assert_eq!(known.place(at(21), Timestamp::from_millis(9), 2), Placement { segment: at(20), opens: None });
        assert_eq!(known.place(at(22), Timestamp::from_millis(9), 2).segment, at(22));
    }

    #[test]
    fn reads_are_clipped_to_segments() {
        let recorded = [segment(10), segment(20), segment(30)];
        let read = |from, to, order| {
            let parts = overlapping(&recorded, PositionRange { from: at(from), to: at(to), order });
            parts.into_iter().map(|(start, range)| (start.number(), range.from.number(), range.to.number())).collect()
        };
        let cells: [(u64, u64, Order, Parts); 6] = [
            (0, 100, Order::Ascending, vec![(10, 10, 20), (20, 20, 30), (30, 30, 100)]),
            (15, 25, Order::Descending, vec![(20, 20, 25), (10, 15, 20)]),
            (20, 30, Order::Ascending, vec![(20, 20, 30)]),
            (0, 10, Order::Ascending, vec![]),
            (25, 25, Order::Ascending, vec![]),
            (31, 32, Order::Descending, vec![(30, 31, 32)]),
        ];
        for (from, to, order, expected) in cells {
            let got: Parts = read(from, to, order);
            assert_eq!(got, expected, "{from} to {to}");
        }
    }
}
