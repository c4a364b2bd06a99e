//! The JSON encoding: text records, each ended by 0x1E.

use super::record::{Arguments, Incoming, Invocation, Outcome, RecordError};
use crate::realtime::encode::{RECORD_SEPARATOR, write_json};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Takes one record, without its separator.
///
/// # Errors
/// When it is not JSON, or no message.
pub fn parse(record: &[u8]) -> Result<Incoming<'_>, RecordError> {
    let text = std::str::from_utf8(record).map_err(|_| RecordError::Malformed("UTF-8"))?;
    // A derived reader takes an array of the fields, too.
    if text.trim_ascii_start().starts_with('[') {
        return Err(RecordError::NotAMessage("not an object"));
    }
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => RecordError::NotAMessage("a field has the wrong type or is there twice"),
        _ => RecordError::Malformed("JSON"),
    })?;
    Ok(match fields.kind {
        1 => Incoming::Invocation(Invocation {
            id: fields.invocation_id,
            target: fields.target.ok_or(RecordError::NotAMessage("an invocation without a target"))?,
            arguments: Arguments::Json(
                fields.arguments.ok_or(RecordError::NotAMessage("an invocation without arguments"))?,
            ),
        }),
        4 => Incoming::StreamInvocation {
            id: fields.invocation_id.ok_or(RecordError::NotAMessage("a stream invocation without an id"))?,
        },
        5 => match fields.invocation_id {
            Some(_) => Incoming::CancelInvocation,
            None => return Err(RecordError::NotAMessage("a cancellation without an id")),
        },
        6 => Incoming::Ping,
        7 => Incoming::Close,
        // Stream items, completions, acknowledgements and sequences belong to features that are not offered.
        2 | 3 | 8 | 9 => Incoming::Unused,
        _ => return Err(RecordError::NotAMessage("an unknown type")),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(borrow)]
    invocation_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    target: Option<Cow<'a, str>>,
    #[serde(borrow)]
    arguments: Option<Vec<&'a RawValue>>,
}

/// Appends the completion of invocation `id`.
pub fn completion(id: &str, outcome: &Outcome, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"type":3,"invocationId":"#);
    write_json(&id, out);
    match outcome {
        Outcome::Done => {}
        Outcome::Result(json) => {
            out.extend_from_slice(br#","result":"#);
            out.extend_from_slice(json);
        }
        Outcome::Error(error) => {
            out.extend_from_slice(br#","error":"#);
            write_json(error, out);
        }
    }
    out.extend_from_slice(b"}");
    out.push(RECORD_SEPARATOR);
}

/// Appends a close message.
pub fn close(error: Option<&str>, allow_reconnect: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"type":7"#);
    if let Some(error) = error {
        out.extend_from_slice(br#","error":"#);
        write_json(&error, out);
    }
    if allow_reconnect {
        out.extend_from_slice(br#","allowReconnect":true"#);
    }
    out.extend_from_slice(b"}");
    out.push(RECORD_SEPARATOR);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_type_is_known_or_refused() {
        let kind = |text: &str| match parse(text.as_bytes()) {
            Ok(Incoming::Invocation(_)) => "invocation",
            Ok(Incoming::StreamInvocation { .. }) => "stream",
            Ok(Incoming::CancelInvocation) => "cancel",
            Ok(Incoming::Ping) => "ping",
            Ok(Incoming::Close) => "close",
            Ok(Incoming::Unused) => "unused",
            Err(RecordError::Malformed(_)) => "malformed",
            Err(_) => "no message",
        };
        for (text, expected) in [
            (r#"{"type":1,"target":"Send","arguments":[]}"#, "invocation"),
            (r#"{"type":1,"invocationId":"a","target":"Send","arguments":[1,{}],"headers":{"x":"y"}}"#, "invocation"),
            (r#"{"type":1,"arguments":[]}"#, "no message"),
            (r#"{"type":1,"target":"Send"}"#, "no message"),
            (r#"{"type":1,"type":1,"target":"Send","arguments":[]}"#, "no message"),
            (r#"{"type":1,"target":7,"arguments":[]}"#, "no message"),
            (r#"{"type":4,"invocationId":"1","target":"x","arguments":[]}"#, "stream"),
            (r#"{"type":5,"invocationId":"1"}"#, "cancel"),
            (r#"{"type":5}"#, "no message"),
            (r#"{"type":6}"#, "ping"),
            (r#"{"type":7}"#, "close"),
            (r#"{"type":3,"invocationId":"1","result":4}"#, "unused"),
            (r#"{"type":99}"#, "no message"),
            (r#"{"type":-1}"#, "no message"),
            (r#"{}"#, "no message"),
            (r#"[]"#, "no message"),
            (r#" [1,"1","Heartbeat",[]]"#, "no message"),
            (r#"{"type":6"#, "malformed"),
            ("", "malformed"),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    #[test]
    fn nesting_costs_no_stack() {
        let deep = format!(r#"{{"type":1,"target":"x","arguments":[{}{}]}}"#, "[".repeat(60_000), "]".repeat(60_000));
        drop(parse(deep.as_bytes()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&bytes));
        }

        #[test]
        fn completions_are_valid_json(id in ".{0,40}", error in ".{0,80}") {
            let mut out = Vec::new();
            completion(&id, &Outcome::Error(error.clone()), &mut out);
            prop_assert_eq!(out.pop(), Some(RECORD_SEPARATOR));
            let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            prop_assert_eq!(value, serde_json::json!({"type": 3, "invocationId": id, "error": error}));
        }
    }
}
