//! Ids that are text: one type each, valid when they exist.

/// Why a text cannot be an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextIdError {
    /// Nothing but white space, or nothing at all.
    #[error("must not be blank")]
    Blank,
    /// More than `max` characters.
    #[error("must have at most {max} characters, has {actual}")]
    TooLong {
        /// The limit.
        max: usize,
        /// What was given.
        actual: usize,
    },
    /// A control character, which would break logs, headers and terminals.
    #[error("must not contain control characters")]
    ControlCharacter,
}

/// Checks `text` against the rules that all text ids share: 1 to `max` characters, not blank, no control characters.
///
/// # Errors
/// The first rule that `text` breaks.
pub fn check(text: &str, max: usize) -> Result<(), TextIdError> {
    if text.trim().is_empty() {
        return Err(TextIdError::Blank);
    }
    // A character has at least one byte, so short texts need no count.
    if text.len() > max {
        let actual = text.chars().count();
        if actual > max {
            return Err(TextIdError::TooLong { max, actual });
        }
    }
    if text.chars().any(char::is_control) {
        return Err(TextIdError::ControlCharacter);
    }
    Ok(())
}

/// Declares a text id: cheap to clone, compared by its text, made only by a fallible constructor.
#[macro_export]
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, max = $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(::std::sync::Arc<str>);

        impl $name {
            /// Takes `text` as an id.
            ///
            /// # Errors
            /// When it is blank, too long or holds control characters.
            pub fn parse(text: &str) -> Result<Self, $crate::text_id::TextIdError> {
                $crate::text_id::check(text, $max)?;
                Ok(Self(text.into()))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_about_characters_not_bytes() {
        assert_eq!(check("", 3), Err(TextIdError::Blank));
        assert_eq!(check(" \u{2003}", 3), Err(TextIdError::Blank));
        assert_eq!(check("äöü", 3), Ok(()));
        assert_eq!(check("abcd", 3), Err(TextIdError::TooLong { max: 3, actual: 4 }));
        assert_eq!(check("a\nb", 3), Err(TextIdError::ControlCharacter));
    }
}
