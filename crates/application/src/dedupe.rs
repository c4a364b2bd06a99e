//! Which record repeats an earlier one: a pure function of the log.

use crate::fingerprint::{Fingerprint, FingerprintHasher};
use chatify_building_blocks::seeded_bugs::{Bug, seeded_bug};
use chatify_domain::limits::DEDUPE_MARGIN;
use chatify_domain::{Position, Timestamp};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// A window is cut into this many buckets, so that old entries leave a bucket at a time.
const BUCKETS_PER_WINDOW: i64 = 5;

/// Recognises repeats in one partition.
///
/// **The rule.** A record is a duplicate when an earlier record of its partition, itself a duplicate or not, has the same scope, sender and
/// message id and was appended less than `window` before it. Append times may step back by up to [`DEDUPE_MARGIN`].
///
/// Every consumer of the log that reads on from at least `window` + [`DEDUPE_MARGIN`] before a record decides alike about it. Nothing younger is
/// ever evicted, whatever it costs.
///
/// **Cost.** An entry takes 33 bytes in a table that is between 7/16 and 7/8 full. With the default window, 10,000 messages a second make
/// 4.2 million entries of 58 bytes: 242 MB for the fan-out, and as much again where the history of the same partitions is written.
pub(crate) struct DedupeWindow {
    window: i64,
    bucket_width: i64,
    /// Ascending by number; each entry is in the bucket of the greatest time at which it was seen.
    buckets: VecDeque<Bucket>,
    greatest: i64,
}

struct Bucket {
    /// Append time divided by the bucket's width.
    number: i64,
    entries: HashMap<Fingerprint, Entry, FingerprintHasher>,
}

#[derive(Clone, Copy)]
struct Entry {
    position: Position,
    body: u32,
    /// Milliseconds since the bucket's start.
    delta: u32,
}

/// What the window says about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It repeats nothing.
    First,
    /// It repeats the record at `position`, the first of its kind that is known.
    DuplicateOf {
        position: Position,
        /// Whether the first one has the same text.
        same_body: bool,
    },
}

/// What is remembered of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Where it was first seen.
    pub(crate) position: Position,
    /// The hash of its text there.
    pub(crate) body: u32,
    /// The greatest append time at which it was seen.
    pub(crate) seen_at: Timestamp,
}

impl DedupeWindow {
    pub(crate) fn new(window: Duration) -> Self {
        let window = i64::try_from(window.as_millis()).unwrap_or(i64::MAX / 4);
        let bucket_width = (window / BUCKETS_PER_WINDOW).clamp(1, i64::from(u32::MAX));
        Self { window, bucket_width, buckets: VecDeque::new(), greatest: i64::MIN }
    }

    /// Decides about the next record of the partition, and remembers it.
    pub(crate) fn observe(&mut self, name: Fingerprint, body: u32, position: Position, at: Timestamp) -> Verdict {
        let at = at.as_millis();
        let (verdict, entry, seen_at) = match self.find(name) {
            Some((index, known)) => {
                let last = known.seen_at.as_millis();
                self.buckets[index].entries.remove(&name);
                if at.saturating_sub(last) < self.window {
                    let verdict = Verdict::DuplicateOf { position: known.position, same_body: known.body == body };
                    (verdict, (known.position, known.body), last.max(at))
                } else {
                    (Verdict::First, (position, body), at)
                }
            }
            None => (Verdict::First, (position, body), at),
        };
        self.remember(name, entry, seen_at);
        self.evict(at);
        if seeded_bug(Bug::RepeatsShown) { Verdict::First } else { verdict }
    }

    /// What is known of a message, whether or not a repeat would still be a duplicate.
    pub(crate) fn lookup(&self, name: Fingerprint) -> Option<Known> {
        self.find(name).map(|(_, known)| known)
    }

    /// How many messages are remembered.
    pub(crate) fn len(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.entries.len()).sum()
    }

    /// Bytes that the tables take.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        // A table of `n` slots can be filled to 7/8; each slot has a control byte.
        let slots = |capacity: usize| (capacity * 8).div_ceil(7).next_power_of_two();
        let entry = size_of::<(Fingerprint, Entry)>() + 1;
        self.buckets.iter().map(|bucket| slots(bucket.entries.capacity()) * entry).sum()
    }

    fn find(&self, name: Fingerprint) -> Option<(usize, Known)> {
        // Repeats come soon after the first, so the newest bucket is asked first.
        self.buckets.iter().enumerate().rev().find_map(|(index, bucket)| {
            let entry = bucket.entries.get(&name)?;
            let seen_at = Timestamp::from_millis(bucket.number * self.bucket_width + i64::from(entry.delta));
            Some((index, Known { position: entry.position, body: entry.body, seen_at }))
        })
    }

    fn remember(&mut self, name: Fingerprint, (position, body): (Position, u32), seen_at: i64) {
        let number = seen_at.div_euclid(self.bucket_width);
        let delta = u32::try_from(seen_at.rem_euclid(self.bucket_width)).expect("a bucket is at most 2^32 ms wide");
        self.bucket(number).entries.insert(name, Entry { position, body, delta });
    }

    fn bucket(&mut self, number: i64) -> &mut Bucket {
        let index = self.buckets.partition_point(|bucket| bucket.number < number);
        if self.buckets.get(index).is_none_or(|bucket| bucket.number != number) {
            // Traffic is mostly steady: room for as many as the bucket before had avoids growing step by step.
            let room = index.checked_sub(1).map_or(0, |before| self.buckets[before].entries.len());
            let entries = HashMap::with_capacity_and_hasher(room, FingerprintHasher::default());
            self.buckets.insert(index, Bucket { number, entries });
        }
        &mut self.buckets[index]
    }

    fn evict(&mut self, at: i64) {
        self.greatest = self.greatest.max(at);
        let margin = i64::try_from(DEDUPE_MARGIN.as_millis()).expect("a minute");
        let horizon = self.greatest.saturating_sub(self.window).saturating_sub(margin);
        let width = self.bucket_width;
        while self.buckets.front().is_some_and(|bucket| (bucket.number + 1).saturating_mul(width) <= horizon) {
            self.buckets.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::for_seeds;
    use chatify_building_blocks::random::{Random, SeededRandom};
    use chatify_domain::limits::DEDUPE_WINDOW;
    use chatify_domain::{Epoch, Offset};

    const WINDOW: Duration = Duration::from_secs(300);

    #[derive(Clone, Copy, Debug)]
    struct Record {
        name: Fingerprint,
        body: u32,
        position: Position,
        at: i64,
    }

    fn name(number: u64) -> Fingerprint {
        Fingerprint::from_parts(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number)
    }

    fn at(offset: usize) -> Position {
        Position::new(Epoch::FIRST, Offset::new(i64::try_from(offset).expect("small")).expect("small"))
    }

    /// The rule as it is written.
    fn repeats(log: &[Record], record: &Record) -> bool {
        let window = i64::try_from(WINDOW.as_millis()).expect("small");
        log.iter().any(|earlier| earlier.name == record.name && record.at - earlier.at < window)
    }

    /// Times go on unevenly, with jumps and with steps back of up to the margin.
    fn some_log(random: &SeededRandom) -> Vec<Record> {
        let ids = 1 + random.u64() % 12;
        let pace = [10, 1_000, 20_000, 90_000][usize::try_from(random.u64() % 4).expect("small")];
        let mut greatest = 1_800_000_000_000;
        let records = (0..120).map(|offset| {
            greatest += i64::try_from(random.u64() % pace).expect("small");
            let back =
                if random.u64().is_multiple_of(3) { i64::try_from(random.u64() % 60_000).expect("small") } else { 0 };
            let body = u32::from(random.u64().is_multiple_of(8));
            Record { name: name(random.u64() % ids), body, position: at(offset), at: greatest - back }
        });
        records.collect()
    }

    fn observe(window: &mut DedupeWindow, record: &Record) -> Verdict {
        window.observe(record.name, record.body, record.position, Timestamp::from_millis(record.at))
    }

    /// What a consumer that starts before the record at `next` reads back.
    fn rebuilt(log: &[Record], next: usize) -> DedupeWindow {
        let mut window = DedupeWindow::new(WINDOW);
        let back = i64::try_from((WINDOW + DEDUPE_MARGIN).as_millis()).expect("small");
        let from = log[next.saturating_sub(1)].at.min(log[next].at) - back;
        let start = log.iter().position(|record| record.at >= from).expect("the last one is");
        for record in &log[start..next] {
            observe(&mut window, record);
        }
        window
    }

    #[test]
    fn the_rule_holds_for_every_record_and_across_restarts() {
        for_seeds(0..4_000, |seed| {
            let random = SeededRandom::new(seed);
            let log = some_log(&random);
            let mut window = DedupeWindow::new(WINDOW);
            for (index, record) in log.iter().enumerate() {
                if random.u64().is_multiple_of(15) {
                    window = rebuilt(&log, index);
                }
                let verdict = observe(&mut window, record);
                assert_eq!(verdict != Verdict::First, repeats(&log[..index], record), "record {index}: {record:?}");
                let known = window.lookup(record.name).expect("it was just seen");
                assert!(known.position <= record.position && known.seen_at.as_millis() >= record.at);
            }
        });
    }

    #[test]
    fn a_repeat_is_answered_with_the_first_ones_place_and_text() {
        let mut window = DedupeWindow::new(WINDOW);
        let mut see = |offset: usize, body, minutes: i64| {
            let record = Record { name: name(7), body, position: at(offset), at: minutes * 60_000 };
            observe(&mut window, &record)
        };
        assert_eq!(see(1, 5, 0), Verdict::First);
        assert_eq!(see(2, 5, 4), Verdict::DuplicateOf { position: at(1), same_body: true });
        // The repeat counts as well, so the window goes on from it.
        assert_eq!(see(3, 6, 8), Verdict::DuplicateOf { position: at(1), same_body: false });
        assert_eq!(see(4, 6, 13), Verdict::First);
        assert_eq!(see(5, 6, 14), Verdict::DuplicateOf { position: at(4), same_body: true });
    }

    /// A sixteenth of 10,000 messages a second: tables double, so a sixteenth of the load takes a sixteenth of the memory.
    #[test]
    fn an_entry_costs_less_than_sixty_bytes_and_old_ones_go() {
        let mut window = DedupeWindow::new(DEDUPE_WINDOW);
        let (mut most_entries, mut most_bytes) = (0, 0);
        for number in 0..625 * 480u64 {
            let record = Record {
                name: name(number),
                body: 0,
                position: at(usize::try_from(number).expect("small")),
                at: i64::try_from(number * 1_000 / 625).expect("small"),
            };
            observe(&mut window, &record);
            if number % 6_250 == 0 {
                most_entries = most_entries.max(window.len());
                most_bytes = most_bytes.max(window.bytes());
            }
        }
        // Window, margin and the bucket that is being filled: seven minutes.
        assert!(most_entries <= 625 * 420 + 1, "{most_entries} entries");
        assert!(most_bytes <= most_entries * 60, "{most_bytes} bytes for {most_entries} entries");
        assert!(most_bytes * 16 <= 256 << 20, "{most_bytes} bytes at a sixteenth of 10,000 messages/s");
    }
}
