//! The one order.

use crate::limits::{EPOCH_MAX, OFFSET_BITS};
use std::fmt;

/// Generation of the log, from 1. A topic that is recreated or given more partitions is a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u16);

/// Place of a record in its partition, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(i64);

/// The log's unit of order. A scope lives in exactly one partition of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u32);

/// `epoch << 40 | offset`: orders, pages, deduplicates and resumes a scope. Compare positions of one scope only.
///
/// As a JSON number it is exact (below 2^53) up to epoch 8191.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(i64);

/// The number is out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    /// Epochs go from 1 to 8191.
    #[error("epoch must be between 1 and {EPOCH_MAX}")]
    Epoch,
    /// Offsets go from 0 to 2^40 - 1.
    #[error("offset must be between 0 and {}", (1i64 << OFFSET_BITS) - 1)]
    Offset,
    /// Positions are neither negative nor beyond the last epoch.
    #[error("position must be between 0 and {}", Position::MAX.0)]
    Position,
}

impl Epoch {
    /// The first generation of a log.
    pub const FIRST: Self = Self(1);

    /// The epoch of this number.
    ///
    /// # Errors
    /// When it is not between 1 and 8191.
    pub fn new(number: u16) -> Result<Self, PositionError> {
        if (1..=EPOCH_MAX).contains(&number) { Ok(Self(number)) } else { Err(PositionError::Epoch) }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl Offset {
    /// The offset of this number.
    ///
    /// # Errors
    /// When it does not fit into 40 bits.
    pub fn new(number: i64) -> Result<Self, PositionError> {
        if (0..1i64 << OFFSET_BITS).contains(&number) { Ok(Self(number)) } else { Err(PositionError::Offset) }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }
}

impl Position {
    /// Before everything: no record has this position, because epochs start at 1.
    pub const ZERO: Self = Self(0);
    /// Behind everything that fits.
    pub const MAX: Self = Self(((EPOCH_MAX as i64 + 1) << OFFSET_BITS) - 1);

    /// The position of a record.
    #[must_use]
    pub const fn new(epoch: Epoch, offset: Offset) -> Self {
        Self((epoch.0 as i64) << OFFSET_BITS | offset.0)
    }

    /// Takes a number that came from outside: a cursor, or a stored row.
    ///
    /// # Errors
    /// When it is negative or beyond the last epoch.
    pub fn from_number(number: i64) -> Result<Self, PositionError> {
        if (0..=Self::MAX.0).contains(&number) { Ok(Self(number)) } else { Err(PositionError::Position) }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }

    /// The epoch's number; 0 for [`Position::ZERO`] and other places before the first epoch.
    #[must_use]
    pub const fn epoch_number(self) -> u16 {
        (self.0 >> OFFSET_BITS) as u16
    }

    /// The place within the epoch's partition.
    #[must_use]
    pub const fn offset(self) -> Offset {
        Offset(self.0 & ((1 << OFFSET_BITS) - 1))
    }

    /// The next number; the last position has itself.
    #[must_use]
    pub const fn next(self) -> Self {
        if self.0 >= Self::MAX.0 { self } else { Self(self.0 + 1) }
    }

    /// The number before; zero has itself.
    #[must_use]
    pub const fn previous(self) -> Self {
        if self.0 <= 0 { self } else { Self(self.0 - 1) }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.epoch_number(), self.offset().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_position_is_an_exact_json_number() {
        assert_eq!(Position::MAX.number(), (1i64 << 53) - 1);
        assert!(Position::from_number(1 << 53).is_err() && Position::from_number(-1).is_err());
        assert!(Epoch::new(0).is_err() && Epoch::new(8192).is_err());
    }

    proptest! {
        #[test]
        fn parts_come_back_and_order_is_epoch_then_offset(a in 1u16..=8191, b in 1u16..=8191, x in 0i64..1 << 40, y in 0i64..1 << 40) {
            let at = |e, o| Position::new(Epoch::new(e).expect("in range"), Offset::new(o).expect("in range"));
            prop_assert_eq!((at(a, x).epoch_number(), at(a, x).offset().number()), (a, x));
            prop_assert_eq!(at(a, x).cmp(&at(b, y)), (a, x).cmp(&(b, y)));
            prop_assert_eq!(Position::from_number(at(a, x).number()), Ok(at(a, x)));
        }
    }
}
