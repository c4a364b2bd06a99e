//! The name of one request on its way through clients, pods, log and log lines.

use crate::random::Random;

/// `corr_` followed by a UUID. Taken from the caller when it has that form, or from the caller's trace, and made otherwise. Its 128 bits are a trace id as
/// [W3C Trace Context](https://www.w3.org/TR/trace-context/) has them, so that who reads the log can tell which trace a record belongs to.
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

    /// The trace of a `traceparent` header (Trace Context, section 3.2), or `None` when it is not valid.
    #[must_use]
    pub fn from_traceparent(text: &str) -> Option<Self> {
        let hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let mut parts = text.split('-');
        let [version, trace, parent, flags] = [(); 4].map(|()| parts.next().unwrap_or_default());
        let lengths = [version.len(), trace.len(), parent.len(), flags.len()] == [2, 32, 16, 2];
        // Later versions may say more behind the four parts; 00 may not.
        let known = version != "ff" && (version != "00" || parts.next().is_none());
        let named = [trace, parent].iter().all(|part| part.bytes().any(|byte| byte != b'0'));
        let valid = lengths && known && named && [version, trace, parent, flags].into_iter().all(hex);
        valid.then(|| u128::from_str_radix(trace, 16).ok()).flatten().map(|id| Self(uuid::Uuid::from_u128(id)))
    }

    /// The `traceparent` header of what this request causes, with `span` for the place in it. Its flags say "not sampled": no spans are recorded here.
    #[must_use]
    pub fn traceparent(self, span: u64) -> String {
        format!("00-{}-{:016x}-00", self.0.as_simple(), span.max(1))
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
    fn a_trace_goes_on_in_what_it_causes() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let given = format!("00-{trace}-00f067aa0ba902b7-01");
        let taken = CorrelationId::from_traceparent(&given).expect("a valid header");
        assert_eq!(taken.traceparent(0xab), format!("00-{trace}-00000000000000ab-00"));
        assert_eq!(taken.traceparent(0), format!("00-{trace}-0000000000000001-00"), "zero names nothing");
        assert_eq!(CorrelationId::from_traceparent(&taken.traceparent(7)), Some(taken));
        assert_eq!(CorrelationId::from_traceparent(&format!("cc-{trace}-00f067aa0ba902b7-01-what")), Some(taken));
        for wrong in [
            String::new(),
            format!("00-{trace}-00f067aa0ba902b7"),
            format!("00-{trace}-00f067aa0ba902b7-01-what"),
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-00f067aa0ba902b7-01", &trace[1..]),
        ] {
            assert_eq!(CorrelationId::from_traceparent(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_its_own_form_is_taken() {
        let made = CorrelationId::generate(&SeededRandom::new(1)).to_string();
        assert_eq!(CorrelationId::parse(&made).map(|id| id.to_string()), Some(made.clone()));
        for wrong in ["", "corr_", "x", &made[5..], "corr_nope", &format!("{made} "), &format!("{made}\r\nX: y")] {
            assert_eq!(CorrelationId::parse(wrong), None, "{wrong}");
        }
    }
}
