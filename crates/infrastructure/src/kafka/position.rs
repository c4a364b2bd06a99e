//! Chatify's places and Kafka's: `epoch << 40 | offset`, partitions by number, and the partition of a scope.

use chatify_domain::{Epoch, Offset, Partition, Position, Scope};

/// The position of a Kafka offset in `epoch`; none for librdkafka's negative offsets, which name no record.
pub(super) fn position(epoch: Epoch, offset: i64) -> Option<Position> {
    Offset::new(offset).ok().map(|offset| Position::new(epoch, offset))
}

/// The Kafka offset at which the records at or after `position` begin in `epoch`: 0 for every earlier epoch, and none for a later one,
/// which this log does not have yet.
pub(super) fn offset_at_or_after(epoch: Epoch, position: Position) -> Option<i64> {
    match position.epoch_number().cmp(&epoch.number()) {
        std::cmp::Ordering::Less => Some(0),
        std::cmp::Ordering::Equal => Some(position.offset().number()),
        std::cmp::Ordering::Greater => None,
    }
}

/// Kafka's number of a partition.
pub(super) fn kafka_partition(partition: Partition) -> i32 {
    i32::try_from(partition.0)
        .expect("partitions come from Kafka's own numbers or from a count that was checked at the start")
}

/// The partition of Kafka's number; none for librdkafka's negative numbers, which name no partition.
pub(super) fn partition(number: i32) -> Option<Partition> {
    u32::try_from(number).ok().map(Partition)
}

/// The partition of `scope` among `count`, the same on every pod: what Kafka's own clients take for the key `Channel:general`.
pub(super) fn partition_of(scope: &Scope, count: u32) -> Partition {
    partition_of_key(scope.to_string().as_bytes(), count)
}

/// As [`partition_of`], for a key that is there already.
pub(super) fn partition_of_key(key: &[u8], count: u32) -> Partition {
    Partition((murmur2(key) & 0x7fff_ffff) % count.max(1))
}

/// MurmurHash2 with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    const MULTIPLIER: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    #[expect(clippy::cast_possible_truncation, reason = "the algorithm takes the length modulo 2^32")]
    let mut hash = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in words.by_ref() {
        let mut mixed = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(MULTIPLIER);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed.wrapping_mul(MULTIPLIER);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0u32, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(MULTIPLIER);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn the_hash_is_kafkas() {
        let cases: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (key, expected) in cases {
            assert_eq!(murmur2(key), expected.cast_unsigned(), "{}", key.escape_ascii());
        }
    }

    #[test]
    fn a_scope_has_one_partition_and_all_are_used() {
        let scope = |number: u32| Scope::parse(&format!("Channel:room-{number}")).expect("a valid scope");
        let mut counts = [0u32; 3];
        for number in 0..3000 {
            counts[partition_of(&scope(number), 3).0 as usize] += 1;
            assert_eq!(partition_of(&scope(number), 1), Partition(0));
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }

    #[test]
    fn positions_and_offsets_agree_within_the_epoch() {
        let epoch = Epoch::new(3).expect("in range");
        let at = position(epoch, 77).expect("an offset");
        assert_eq!((at.epoch_number(), at.offset().number()), (3, 77));
        assert_eq!(offset_at_or_after(epoch, at), Some(77));
        assert_eq!(offset_at_or_after(epoch, Position::ZERO), Some(0));
        assert_eq!(offset_at_or_after(Epoch::FIRST, at), None);
        assert_eq!((position(epoch, -1001), partition(-1)), (None, None));
        assert_eq!(kafka_partition(Partition(2)), 2);
    }
}
