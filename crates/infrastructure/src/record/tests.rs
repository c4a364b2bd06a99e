//! The stored bytes, pinned: golden records, round trips, and whatever bytes a disk may give.

use super::*;
use chatify_building_blocks::random::{Random, SeededRandom};
use chatify_domain::limits::TEXT_MAX_CHARS;
use chatify_domain::{MessageId, MessageSent, PodId, Scope, ScopeType, SenderId, Text};
use proptest::prelude::*;
use std::sync::Arc;

const GOLDEN: &str = concat!(
    r#"{"type":"MessageSent","schema":1,"messageId":"01890a5d-ac96-774b-bcce-b302099a8057","#,
    r#""scopeType":"Channel","scopeId":"general","senderId":"alice","text":"Grüße, \"Bob\"\n","originPodId":"pod-1"}"#,
);

fn event(scope: &str, sender: &str, text: &str) -> ChatEvent {
    ChatEvent::MessageSent(Arc::new(MessageSent {
        message_id: MessageId::parse("01890a5d-ac96-774b-bcce-b302099a8057").expect("a valid id"),
        scope: Scope::new(ScopeType::Channel, scope).expect("a valid scope"),
        sender_id: SenderId::parse(sender).expect("a valid sender"),
        text: Text::parse(text).expect("a valid text"),
        origin_pod_id: PodId::parse("pod-1").expect("a valid pod"),
    }))
}

#[test]
fn version_1_is_written_and_read_as_it_always_was() {
    let event = event("general", "alice", "Grüße, \"Bob\"\n");
    assert_eq!(String::from_utf8(encode(&event).expect("fits")).expect("utf-8"), GOLDEN);
    assert_eq!(decode(GOLDEN.as_bytes()), Ok(event));
}

#[test]
fn fields_of_a_later_release_are_ignored() {
    let later = GOLDEN.replace(r#""schema":1,"#, r#""schema":1,"reactions":[{"deep":[[[{}]]]}],"#);
    assert_eq!(decode(later.as_bytes()), decode(GOLDEN.as_bytes()));
}

#[test]
fn what_is_wrong_is_named() {
    let cases: [(&str, String, Undecodable); 14] = [
        ("empty", String::new(), Undecodable::Malformed),
        ("no JSON", "hello".into(), Undecodable::Malformed),
        ("no object", "[1]".into(), Undecodable::Malformed),
        ("cut", GOLDEN[..GOLDEN.len() - 1].into(), Undecodable::Malformed),
        ("more behind", format!("{GOLDEN}x"), Undecodable::Malformed),
        ("no type", GOLDEN.replace("\"type\"", "\"kind\""), Undecodable::Malformed),
        ("type is no text", GOLDEN.replace("\"MessageSent\"", "7"), Undecodable::Malformed),
        ("too long", format!("{GOLDEN}{}", " ".repeat(MAX_RECORD_BYTES)), Undecodable::Malformed),
        ("other type", GOLDEN.replace("MessageSent", "MessageEdited"), Undecodable::UnknownKind),
        ("later schema", GOLDEN.replace("\"schema\":1", "\"schema\":2"), Undecodable::UnknownKind),
        ("no sender", GOLDEN.replace("senderId", "sender"), Undecodable::Invalid),
        ("sender is no text", GOLDEN.replace("\"alice\"", "{}"), Undecodable::Invalid),
        ("blank sender", GOLDEN.replace("alice", " "), Undecodable::Invalid),
        ("unknown scope type", GOLDEN.replace("\"Channel\"", "\"Planet\""), Undecodable::Invalid),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(decode(bytes.as_bytes()), Err(expected), "{name}");
    }
}

#[test]
fn nesting_does_not_use_the_stack() {
    let deep =
        GOLDEN.replace(r#""schema":1,"#, &format!(r#""schema":1,"x":{}{},"#, "[".repeat(30_000), "]".repeat(30_000)));
    assert_eq!(decode(deep.as_bytes()), decode(GOLDEN.as_bytes()));
    assert_eq!(decode("[".repeat(MAX_RECORD_BYTES).as_bytes()), Err(Undecodable::Malformed));
}

#[test]
fn the_largest_event_fits() {
    let largest = event(&"\u{10ffff}".repeat(256), &"\"".repeat(256), &"\u{1}".repeat(TEXT_MAX_CHARS));
    let bytes = encode(&largest).expect("fits");
    assert!(bytes.len() > TEXT_MAX_CHARS * 6, "every character was escaped");
    assert_eq!(decode(&bytes), Ok(largest));
}

proptest! {
    #[test]
    fn what_is_written_reads_back(id in any::<u128>(), scope in "\\PC{1,40}", sender in "\\PC{1,40}", text in any::<String>()) {
        prop_assume!(Scope::new(ScopeType::Channel, &scope).is_ok() && SenderId::parse(&sender).is_ok());
        let ChatEvent::MessageSent(sent) = event(&scope, &sender, &text);
        let event = ChatEvent::MessageSent(Arc::new(MessageSent { message_id: MessageId::from_u128(id), ..(*sent).clone() }));
        prop_assert_eq!(decode(&encode(&event).expect("fits")), Ok(event));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzz(&bytes);
    }
}

/// Valid records with a few bytes changed reach far deeper than random bytes do. `FUZZ_CASES` says how many; a failing case prints its seed.
#[test]
fn damaged_records_never_make_it_panic() {
    let cases: u64 =
        std::env::var("FUZZ_CASES").map_or(100_000, |count| count.parse().expect("FUZZ_CASES is a number"));
    let mut undecodable = 0u64;
    for seed in 0..cases {
        let bytes = damaged(&SeededRandom::new(seed));
        let outcome = std::panic::catch_unwind(|| fuzz(&bytes));
        assert!(outcome.is_ok(), "seed {seed} panics: {}", bytes.escape_ascii());
        undecodable += u64::from(decode(&bytes).is_err());
    }
    assert!(undecodable > cases / 2 && undecodable < cases, "{undecodable} of {cases} were undecodable");
}

fn damaged(random: &dyn Random) -> Vec<u8> {
    const TOKENS: [&[u8]; 12] =
        [b"\"", b"{", b"}", b"[", b",", b":", b"\\u0000", b"\\ud800", b"null", b"1e999", b"\xff", b"\"schema\":1,"];
    let mut bytes = GOLDEN.as_bytes().to_vec();
    let below = |bound: usize| usize::try_from(random.u64() % bound as u64).expect("smaller than a usize");
    for _ in 0..=below(3) {
        let at = below(bytes.len().max(1)).min(bytes.len());
        match below(5) {
            0 => bytes.truncate(at),
            1 => drop(bytes.splice(at..at, TOKENS[below(TOKENS.len())].iter().copied())),
            2 => drop(bytes.drain(at..(at + below(12)).min(bytes.len()))),
            3 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << below(8)),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = b'a'),
        }
    }
    bytes
}
