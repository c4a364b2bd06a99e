//! Bodies of fuzz targets: whatever the bytes are, reading them ends without a panic, and what was read keeps its promises.
//!
//! `fuzz/` runs them under libFuzzer; the tests below run them over damaged valid input, which reaches deeper than random bytes do.
//! Stored records have theirs beside their format, in `chatify_infrastructure::record`.

use crate::http::messages::history_query;
use crate::signalr::record::{Incoming, Invocation};
use crate::signalr::{handshake, json, messagepack};
use chatify_domain::limits::PAGE_LIMIT_MAX;
use chatify_domain::{MessageId, Scope, SenderId};

/// More than any record below has, less than what a test wants to wait for.
const MAX_RECORD_BYTES: usize = 64 << 10;

/// A handshake, and a JSON record of the hub protocol.
pub fn hub_json(bytes: &[u8]) {
    // Both outcomes are fine; only a panic is not.
    drop(handshake::parse(bytes));
    if let Ok(Incoming::Invocation(call)) = json::parse(bytes) {
        understand(&call);
    }
}

/// A WebSocket message with MessagePack records of the hub protocol.
///
/// # Panics
/// When a record is found where there are no bytes.
pub fn hub_messagepack(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((start, end))) = messagepack::frame(rest, MAX_RECORD_BYTES) {
        assert!(0 < start && start <= end && end <= rest.len(), "a record at {start}..{end} of {}", rest.len());
        if let Ok(Incoming::Invocation(call)) = messagepack::parse(&rest[start..end]) {
            understand(&call);
        }
        rest = &rest[end..];
    }
}

/// Cursors, ids and scopes, as the query of a history request and as the text of a scope.
///
/// # Panics
/// When something was read that breaks its own rules.
pub fn cursors(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(scope) = Scope::parse(text) {
        assert_eq!(Scope::parse(&scope.to_string()).as_ref(), Ok(&scope), "a scope changed between two readings");
        let user = SenderId::parse("alice").expect("a valid id");
        drop(history_query(user, scope, None));
    }
    if let Ok(id) = MessageId::parse(text) {
        assert_eq!(MessageId::parse(&id.to_string()), Ok(id), "a message id changed between two readings");
    }
    let user = SenderId::parse("alice").expect("a valid id");
    let scope = Scope::parse("general").expect("a valid scope");
    if let Ok(query) = history_query(user, scope, Some(text)) {
        assert!((1..=PAGE_LIMIT_MAX).contains(&query.limit), "a page of {}", query.limit);
    }
}

/// Reads every argument, and the one behind the last.
fn understand(call: &Invocation<'_>) {
    for index in 0..=call.arguments.len() {
        let read = call.arguments.read::<serde_json::Value>(index);
        assert_eq!(read.is_none(), index == call.arguments.len(), "argument {index} of {}", call.arguments.len());
        if let Some(Ok(value)) = read {
            assert_eq!(value.is_object(), call.arguments.is_object(index), "argument {index}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatify_building_blocks::random::{Random, SeededRandom};

    const JSON: [&str; 4] = [
        r#"{"protocol":"json","version":1}"#,
        r#"{"type":1,"invocationId":"7","target":"Send","arguments":[{"scopeType":"Channel","scopeId":"general","text":"h\u00e9\n"}]}"#,
        r#"{"type":1,"headers":{"a":"b"},"target":"JoinScope","arguments":["Channel:general",{"after":1099511627776,"limit":50}],"streamIds":[]}"#,
        r#"{"type":7,"error":"gone","allowReconnect":true}"#,
    ];
    const CURSORS: [&str; 5] = [
        "after=1099511627776&limit=500",
        "before=9007199254740991&from=2026-01-31T12:00:00Z&to=2026-02-01T00:00:00.5%2B01:00&sender=alice%40example.org",
        "around=0&limit=1",
        "DirectMessage:alice%40example.org+bob",
        "01890a5d-ac96-774b-bcce-b302099a8057",
    ];

    /// `[1, {}, "7", "Send", [{"scopeType": "Channel", "scopeId": "general", "text": "hello"}], []]` and `[6]`, each behind its length.
    fn messagepack_sample() -> Vec<u8> {
        let mut record = vec![0x96, 1, 0x80, 0xa1, b'7', 0xa4];
        record.extend_from_slice(b"Send");
        record.extend_from_slice(&[0x91, 0x83]);
        for text in ["scopeType", "Channel", "scopeId", "general", "text", "hello"] {
            record.push(0xa0 | u8::try_from(text.len()).expect("a short text"));
            record.extend_from_slice(text.as_bytes());
        }
        record.push(0x90);
        let mut message = vec![u8::try_from(record.len()).expect("a short record")];
        message.append(&mut record);
        message.extend_from_slice(&[2, 0x91, 6]);
        message
    }

    /// Changes up to four places: cuts, repeats, flips and puts in what a parser may stumble over.
    fn damaged(sample: &[u8], tokens: &[&[u8]], random: &dyn Random) -> Vec<u8> {
        let mut bytes = sample.to_vec();
        let below = |bound: usize| usize::try_from(random.u64() % bound.max(1) as u64).expect("smaller than a usize");
        for _ in 0..below(5) {
            let at = below(bytes.len() + 1);
            let end = (at + below(12)).min(bytes.len());
            match below(5) {
                0 => bytes.truncate(at),
                1 => drop(bytes.splice(at..at, tokens[below(tokens.len())].iter().copied())),
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let again = bytes[at..end].to_vec();
                    drop(bytes.splice(at..at, again));
                }
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << below(8)),
            }
        }
        bytes
    }

    /// Runs `target` over damaged samples; `FUZZ_CASES` says how many. A failing case prints its seed and its bytes.
    fn never_panics(samples: &[&[u8]], tokens: &[&[u8]], target: fn(&[u8])) {
        let cases: u64 =
            std::env::var("FUZZ_CASES").map_or(100_000, |count| count.parse().expect("FUZZ_CASES is a number"));
        for seed in 0..cases {
            let random = SeededRandom::new(seed);
            let sample = samples[usize::try_from(seed).expect("fits") % samples.len()];
            let bytes = damaged(sample, tokens, &random);
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "seed {seed} panics: {}", bytes.escape_ascii());
        }
    }

    #[test]
    fn damaged_json_never_makes_the_hub_panic() {
        let tokens: [&[u8]; 12] =
            [b"\"", b"{", b"}", b"[", b"]", b",", b":", b"\\u0000", b"\\ud800", b"null", b"1e999", b"\xff"];
        never_panics(&JSON.map(str::as_bytes), &tokens, hub_json);
    }

    #[test]
    fn damaged_messagepack_never_makes_the_hub_panic() {
        let tokens: [&[u8]; 9] = [
            b"\xdf\xff\xff\xff\xff",
            b"\xdd\xff\xff\xff\xff",
            b"\xdb\xff\xff\xff\xff",
            b"\x91\x91\x91\x91\x91\x91\x91\x91",
            b"\xff\xff\xff\xff\x7f",
            b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
            b"\xc0",
            b"\xc4\x02ab",
            b"\x80",
        ];
        never_panics(&[&messagepack_sample()], &tokens, hub_messagepack);
    }

    #[test]
    fn damaged_cursors_never_make_the_api_panic() {
        let tokens: [&[u8]; 10] =
            [b"&", b"=", b"%", b"%00", b"%ff", b"-1", b"99999999999999999999", b"+", b":", b"-262143-01-01T00:00:00Z"];
        never_panics(&CURSORS.map(str::as_bytes), &tokens, cursors);
    }

    #[test]
    fn the_samples_are_valid() {
        assert!(JSON[1..].iter().all(|sample| json::parse(sample.as_bytes()).is_ok()));
        assert!(handshake::parse(JSON[0].as_bytes()).is_ok());
        let message = messagepack_sample();
        let (start, end) = messagepack::frame(&message, MAX_RECORD_BYTES).expect("a length").expect("a whole record");
        let Ok(Incoming::Invocation(call)) = messagepack::parse(&message[start..end]) else { panic!("an invocation") };
        assert!(call.target == "Send" && call.arguments.is_object(0));
        assert!(Scope::parse(CURSORS[3]).is_ok() && MessageId::parse(CURSORS[4]).is_ok());
    }
}
