//! What people write.

use crate::limits;
use std::sync::Arc;

/// A message's text: 0 to 4096 characters, kept exactly as typed. `Debug` shows only its length, so that no log line can hold it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Text(Arc<str>);

/// The text is too long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must have at most {} characters, has {actual}", limits::TEXT_MAX_CHARS)]
pub struct TextError {
    /// How many characters it has.
    pub actual: usize,
}

impl Text {
    /// Takes `text` as it is.
    ///
    /// # Errors
    /// With more than 4096 characters.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        // A character has at least one byte, so most texts need no count.
        if text.len() > limits::TEXT_MAX_CHARS {
            let actual = text.chars().count();
            if actual > limits::TEXT_MAX_CHARS {
                return Err(TextError { actual });
            }
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Text({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_counts_characters() {
        assert!(Text::parse("").is_ok());
        assert!(Text::parse(&"ä".repeat(4096)).is_ok());
        assert_eq!(Text::parse(&"ä".repeat(4097)), Err(TextError { actual: 4097 }));
        assert_eq!(format!("{:?}", Text::parse("secret").expect("short")), "Text(6 bytes)");
    }
}
