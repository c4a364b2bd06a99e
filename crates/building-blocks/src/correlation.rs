//! The name of one request on its way through clients, pods, log and log lines.

use crate::random::Random;

/// `corr_` followed by a UUID. Taken from the caller when it has that form, made otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CorrelationId(uuid::Uuid);

impl CorrelationId {
    const PREFIX: &'static str = "corr_";

    /// The id written as `text`, or `None` when it is not `corr_{uuid}` with a hyphenated UUID.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = text.strip_prefix(Self::PREFIX)?;
        (id.len() == 36).then(|| uuid::Uuid::try_parse(id).ok().map(Self)).flatten()
    }

    /// A new random id.
    #[must_use]
    pub fn generate(random: &dyn Random) -> Self {
        Self(uuid::Builder::from_random_bytes(random.u128().to_be_bytes()).into_uuid())
    }
}

impl std::fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.0.as_hyphenated())
    }
}

impl std::fmt::Debug for CorrelationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    #[test]
    fn only_its_own_form_is_taken() {
        let made = CorrelationId::generate(&SeededRandom::new(1)).to_string();
        assert_eq!(CorrelationId::parse(&made).map(|id| id.to_string()), Some(made.clone()));
        for wrong in ["", "corr_", "x", &made[5..], "corr_nope", &format!("{made} "), &format!("{made}\r\nX: y")] {
            assert_eq!(CorrelationId::parse(wrong), None, "{wrong}");
        }
    }
}
