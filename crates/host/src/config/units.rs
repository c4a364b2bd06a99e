//! Durations and sizes as people write them: a whole number with its unit.

use std::time::Duration;

/// Why a text is no duration or size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No number in front.
    #[error("`{0}` must start with a whole number")]
    Number(String),
    /// The unit is missing or not known.
    #[error("`{text}` must end with a unit: {units}")]
    Unit {
        /// What was given.
        text: String,
        /// What is known.
        units: &'static str,
    },
    /// More than fits.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

const DURATIONS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const DURATION_UNITS: &str = "ms, s, m, h or d";
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const SIZE_UNITS: &str = "B, KiB, MiB or GiB";

/// Reads `500ms`, `60s`, `5m`, `12h` or `7d`.
///
/// # Errors
/// When the number or the unit is missing, or the number is too large.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    parse(text, &DURATIONS, DURATION_UNITS).map(Duration::from_millis)
}

/// Reads `512B`, `64KiB`, `1MiB` or `2GiB`.
///
/// # Errors
/// When the number or the unit is missing, or the number is too large.
pub fn parse_size(text: &str) -> Result<usize, UnitError> {
    let bytes = parse(text, &SIZES, SIZE_UNITS)?;
    usize::try_from(bytes).map_err(|_| UnitError::TooLarge(text.into()))
}

/// The shortest text that [`parse_duration`] reads back; fractions of a millisecond are cut off.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    format(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATIONS)
}

/// The shortest text that [`parse_size`] reads back.
#[must_use]
pub fn format_size(bytes: usize) -> String {
    format(bytes as u64, &SIZES)
}

fn parse(text: &str, units: &[(&str, u64)], names: &'static str) -> Result<u64, UnitError> {
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    if number.is_empty() {
        return Err(UnitError::Number(text.into()));
    }
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, factor)| *factor);
    let factor = factor.ok_or_else(|| UnitError::Unit { text: text.into(), units: names })?;
    let number: u64 = number.parse().map_err(|_| UnitError::TooLarge(text.into()))?;
    number.checked_mul(factor).ok_or_else(|| UnitError::TooLarge(text.into()))
}

fn format(amount: u64, units: &[(&str, u64)]) -> String {
    let exact = units.iter().find(|(_, factor)| amount >= *factor && amount.is_multiple_of(*factor));
    let (unit, factor) = exact.or(units.last()).copied().unwrap_or(("", 1));
    format!("{}{unit}", amount / factor)
}

/// `#[serde(with = "units::duration")]`
pub(super) mod duration {
    use super::{format_duration, parse_duration};
    use serde::{Deserializer, Serializer};
    use std::time::Duration;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        input.deserialize_any(super::TextVisitor { expected: "a duration such as \"30s\"", parse: parse_duration })
    }

    pub(in crate::config) fn serialize<S: Serializer>(value: &Duration, output: S) -> Result<S::Ok, S::Error> {
        output.serialize_str(&format_duration(*value))
    }
}

/// `#[serde(with = "units::size")]`
pub(super) mod size {
    use super::{format_size, parse_size};
    use serde::{Deserializer, Serializer};

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<usize, D::Error> {
        input.deserialize_any(super::TextVisitor { expected: "a size such as \"64KiB\"", parse: parse_size })
    }

    pub(in crate::config) fn serialize<S: Serializer>(value: &usize, output: S) -> Result<S::Ok, S::Error> {
        output.serialize_str(&format_size(*value))
    }
}

struct TextVisitor<T> {
    expected: &'static str,
    parse: fn(&str) -> Result<T, UnitError>,
}

impl<T> serde::de::Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_required_and_named() {
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration(" 10 s "), Ok(Duration::from_secs(10)));
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        for wrong in
            ["", "5", "s", "-1s", "1.5s", "5 minutes", "5KiB", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        for wrong in ["1", "1KB", "1kib", "1 s", "18446744073709551615GiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        assert!(parse_size("12").expect_err("no unit").to_string().contains("KiB"));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(amount in any::<u32>()) {
            let duration = Duration::from_millis(amount.into());
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&format_size(amount as usize)), Ok(amount as usize));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = (parse_duration(&text).is_ok(), parse_size(&text).is_ok());
        }
    }
}
