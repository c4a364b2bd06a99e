//! Signals as bytes: a version, the origin, then the signals one after the other.
//!
//! One publication carries everything that was waiting, so that a busy pod costs Redis one command for many signals and their order is kept.

use chatify_application::ports::signal::{SIGNAL_MAX_BYTES, Signal, Topic};
use chatify_domain::{Scope, SenderId};

/// Pods of another version skip what they cannot read, so a change of the form needs a new number and nothing else.
const VERSION: u8 = 1;
const SCOPE: u8 = b's';
const USER: u8 = b'u';

/// What came from Redis is none of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a batch of signals")]
pub(super) struct Malformed;

pub(super) fn encode(origin: u64, signals: &[Signal]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&origin.to_be_bytes());
    for signal in signals {
        let (kind, topic) = match &signal.topic {
            Topic::Scope(scope) => (SCOPE, scope.to_string()),
            Topic::User(user) => (USER, user.as_str().to_owned()),
        };
        bytes.push(kind);
        for part in [topic.as_bytes(), &signal.payload] {
            let length = u16::try_from(part.len()).expect("ids and payloads are limited to a few kibibytes");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(part);
        }
    }
    bytes
}

/// The origin and its signals; no signals when the origin is `own`.
pub(super) fn decode(mut bytes: &[u8], own: u64) -> Result<Vec<Signal>, Malformed> {
    let ([VERSION], origin) = (take::<1>(&mut bytes)?, take::<8>(&mut bytes)?) else {
        return Err(Malformed);
    };
    let mut signals = Vec::new();
    if u64::from_be_bytes(origin) == own {
        return Ok(signals);
    }
    while !bytes.is_empty() {
        let [kind] = take(&mut bytes)?;
        let topic = std::str::from_utf8(take_part(&mut bytes)?).map_err(|_| Malformed)?;
        let topic = match kind {
            SCOPE => Topic::Scope(Scope::parse(topic).map_err(|_| Malformed)?),
            USER => Topic::User(SenderId::parse(topic).map_err(|_| Malformed)?),
            _ => return Err(Malformed),
        };
        let payload = take_part(&mut bytes)?;
        if payload.len() > SIGNAL_MAX_BYTES {
            return Err(Malformed);
        }
        signals.push(Signal { topic, payload: payload.into() });
    }
    Ok(signals)
}

fn take<const LENGTH: usize>(bytes: &mut &[u8]) -> Result<[u8; LENGTH], Malformed> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(Malformed)?;
    *bytes = rest;
    Ok(*taken)
}

fn take_part<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = u16::from_be_bytes(take(bytes)?);
    let (part, rest) = bytes.split_at_checked(usize::from(length)).ok_or(Malformed)?;
    *bytes = rest;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn signals() -> Vec<Signal> {
        let scope = Topic::Scope(Scope::parse("Channel:a:b é").expect("a scope"));
        let user = Topic::User(SenderId::parse(&"é".repeat(256)).expect("a user"));
        vec![
            Signal { topic: scope, payload: vec![255; SIGNAL_MAX_BYTES].into() },
            Signal { topic: user, payload: [].into() },
        ]
    }

    #[test]
    fn signals_come_out_as_they_went_in_unless_they_are_ones_own() {
        let bytes = encode(7, &signals());
        assert_eq!(decode(&bytes, 8), Ok(signals()));
        assert_eq!(decode(&bytes, 7), Ok(Vec::new()));
    }

    #[test]
    fn the_form_does_not_change_by_accident() {
        let typing = Signal { topic: Topic::User(SenderId::parse("al").expect("a user")), payload: [9].into() };
        assert_eq!(encode(258, &[typing]), b"\x01\0\0\0\0\0\0\x01\x02u\0\x02al\0\x01\x09");
    }

    #[test]
    fn a_cut_batch_is_refused_as_a_whole() {
        let bytes = encode(7, &signals());
        let accepted: Vec<_> = (0..bytes.len()).filter(|length| decode(&bytes[..*length], 8).is_ok()).collect();
        assert_eq!(accepted, [encode(7, &[]).len(), encode(7, &signals()[..1]).len()], "between two signals only");
        assert_eq!(decode(b"\x02\0\0\0\0\0\0\0\x07", 8), Err(Malformed), "another version");
    }

    proptest! {
        #[test]
        fn anything_may_come_from_redis(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut framed = vec![VERSION, 0, 0, 0, 0, 0, 0, 0, 7];
            framed.extend_from_slice(&bytes);
            drop((decode(&bytes, 8), decode(&framed, 8)));
        }
    }
}
