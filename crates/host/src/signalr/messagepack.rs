//! The MessagePack encoding: binary records, each behind its length as a variable-length integer.

use super::record::{Arguments, Incoming, Invocation, Outcome, RecordError};
use crate::http::dto::{MessageDto, Rfc3339};
use rmp::Marker;
use rmp::encode::{
    write_array_len, write_bool, write_f64, write_map_len, write_nil, write_sint, write_str, write_uint,
};
use serde_json::{Map, Number, Value};
use std::borrow::Cow;

/// The deepest nesting of arrays and maps that is read.
const MAX_DEPTH: usize = 32;
const MALFORMED: RecordError = RecordError::Malformed("MessagePack");

/// Where the first record in `bytes` is: `(start, end)`, or `None` when it is not whole yet.
///
/// # Errors
/// When its length is not valid or above `max`.
pub fn frame(bytes: &[u8], max: usize) -> Result<Option<(usize, usize)>, RecordError> {
    let mut length = 0usize;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if length > max {
            return Err(RecordError::TooLong(max));
        }
        if byte & 0x80 == 0 {
            let start = index + 1;
            let end = start + length;
            return Ok((end <= bytes.len()).then_some((start, end)));
        }
    }
    if bytes.len() >= 5 { Err(MALFORMED) } else { Ok(None) }
}

/// Takes one record, without its length.
///
/// # Errors
/// When it is not MessagePack, or no message.
pub fn parse(record: &[u8]) -> Result<Incoming<'_>, RecordError> {
    let mut rest = record;
    let fields = match read_value(&mut rest, 0)? {
        Value::Array(fields) => fields,
        _ => return Err(RecordError::NotAMessage("not an array")),
    };
    let mut fields = fields.into_iter();
    let kind = fields.next().and_then(|kind| kind.as_u64()).ok_or(RecordError::NotAMessage("no type"))?;
    match kind {
        1 => invocation(fields),
        4 => {
            let id = text(fields.nth(1))?.ok_or(RecordError::NotAMessage("a stream invocation without an id"))?;
            Ok(Incoming::StreamInvocation { id })
        }
        5 => match text(fields.nth(1))? {
            Some(_) => Ok(Incoming::CancelInvocation),
            None => Err(RecordError::NotAMessage("a cancellation without an id")),
        },
        6 => Ok(Incoming::Ping),
        7 => Ok(Incoming::Close),
        2 | 3 | 8 | 9 => Ok(Incoming::Unused),
        _ => Err(RecordError::NotAMessage("an unknown type")),
    }
}

/// `[headers, invocation id or nil, target, [arguments], …]`
fn invocation(mut fields: impl Iterator<Item = Value>) -> Result<Incoming<'static>, RecordError> {
    let id = text(fields.nth(1))?;
    let target = text(fields.next())?.ok_or(RecordError::NotAMessage("an invocation without a target"))?;
    let Some(Value::Array(arguments)) = fields.next() else {
        return Err(RecordError::NotAMessage("an invocation without arguments"));
    };
    Ok(Incoming::Invocation(Invocation { id, target, arguments: Arguments::Values(arguments) }))
}

fn text(value: Option<Value>) -> Result<Option<Cow<'static, str>>, RecordError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(Cow::Owned(text))),
        Some(_) => Err(RecordError::NotAMessage("a field has the wrong type")),
    }
}

/// Reads one value. Lengths are only believed as far as the bytes that are there: nothing is allocated for what was merely announced.
fn read_value(rest: &mut &[u8], depth: usize) -> Result<Value, RecordError> {
    if depth > MAX_DEPTH {
        return Err(RecordError::NotAMessage("nested too deeply"));
    }
    let marker = rmp::decode::read_marker(rest).map_err(|_| MALFORMED)?;
    Ok(match marker {
        Marker::Null => Value::Null,
        Marker::True => Value::Bool(true),
        Marker::False => Value::Bool(false),
        Marker::FixPos(number) => number.into(),
        Marker::FixNeg(number) => number.into(),
        Marker::U8 => u8::from_be_bytes(take(rest)?).into(),
        Marker::U16 => u16::from_be_bytes(take(rest)?).into(),
        Marker::U32 => u32::from_be_bytes(take(rest)?).into(),
        Marker::U64 => u64::from_be_bytes(take(rest)?).into(),
        Marker::I8 => i8::from_be_bytes(take(rest)?).into(),
        Marker::I16 => i16::from_be_bytes(take(rest)?).into(),
        Marker::I32 => i32::from_be_bytes(take(rest)?).into(),
        Marker::I64 => i64::from_be_bytes(take(rest)?).into(),
        Marker::F32 => float(f32::from_be_bytes(take(rest)?).into()),
        Marker::F64 => float(f64::from_be_bytes(take(rest)?)),
        Marker::FixStr(length) => string(rest, length.into())?,
        Marker::Str8 => {
            let length = u8::from_be_bytes(take(rest)?);
            string(rest, length.into())?
        }
        Marker::Str16 => {
            let length = u16::from_be_bytes(take(rest)?);
            string(rest, length.into())?
        }
        Marker::Str32 => {
            let length = u32::from_be_bytes(take(rest)?);
            string(rest, length as usize)?
        }
        Marker::FixArray(length) => array(rest, length.into(), depth)?,
        Marker::Array16 => {
            let length = u16::from_be_bytes(take(rest)?);
            array(rest, length.into(), depth)?
        }
        Marker::Array32 => {
            let length = u32::from_be_bytes(take(rest)?);
            array(rest, length as usize, depth)?
        }
        Marker::FixMap(length) => map(rest, length.into(), depth)?,
        Marker::Map16 => {
            let length = u16::from_be_bytes(take(rest)?);
            map(rest, length.into(), depth)?
        }
        Marker::Map32 => {
            let length = u32::from_be_bytes(take(rest)?);
            map(rest, length as usize, depth)?
        }
        // No method takes binary data or extension types.
        _ => return Err(RecordError::NotAMessage("binary and extension values are not used")),
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], RecordError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(MALFORMED)?;
    *rest = tail;
    Ok(*head)
}

fn float(number: f64) -> Value {
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

fn string(rest: &mut &[u8], length: usize) -> Result<Value, RecordError> {
    let (head, tail) = rest.split_at_checked(length).ok_or(MALFORMED)?;
    *rest = tail;
    Ok(Value::String(std::str::from_utf8(head).map_err(|_| RecordError::Malformed("UTF-8"))?.to_owned()))
}

fn array(rest: &mut &[u8], length: usize, depth: usize) -> Result<Value, RecordError> {
    // Each item takes a byte at least.
    let mut items = Vec::with_capacity(length.min(rest.len()).min(64));
    for _ in 0..length {
        items.push(read_value(rest, depth + 1)?);
    }
    Ok(Value::Array(items))
}

fn map(rest: &mut &[u8], length: usize, depth: usize) -> Result<Value, RecordError> {
    let mut fields = Map::new();
    for _ in 0..length {
        let Value::String(key) = read_value(rest, depth + 1)? else {
            return Err(RecordError::NotAMessage("a map's keys must be strings"));
        };
        fields.insert(key, read_value(rest, depth + 1)?);
    }
    Ok(Value::Object(fields))
}

/// Appends the completion of invocation `id`: `[3, headers, id, kind, result]`.
pub fn completion(id: &str, outcome: &Outcome, out: &mut Vec<u8>) {
    const ERROR: u64 = 1;
    const VOID: u64 = 2;
    const RESULT: u64 = 3;
    let mut body = Vec::with_capacity(64);
    array_head(&mut body, if matches!(outcome, Outcome::Done) { 4 } else { 5 });
    unsigned(&mut body, 3);
    map_head(&mut body, 0);
    string_value(&mut body, id);
    match outcome {
        Outcome::Done => unsigned(&mut body, VOID),
        Outcome::Result(json) => {
            unsigned(&mut body, RESULT);
            let value = serde_json::from_slice(json).expect("our own results are JSON");
            write_value(&mut body, &value);
        }
        Outcome::Error(error) => {
            unsigned(&mut body, ERROR);
            string_value(&mut body, error);
        }
    }
    with_length(&body, out);
}

/// Appends a close message: `[7, error or nil, allow reconnect]`.
pub fn close(error: Option<&str>, allow_reconnect: bool, out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(64);
    array_head(&mut body, 3);
    unsigned(&mut body, 7);
    match error {
        Some(error) => string_value(&mut body, error),
        None => infallible(write_nil(&mut body)),
    }
    infallible(write_bool(&mut body, allow_reconnect));
    with_length(&body, out);
}

/// Appends the event `ReceiveMessage`: `[1, headers, nil, target, [message], [stream ids]]`.
pub fn receive_message(message: &MessageDto<'_>, out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(512);
    array_head(&mut body, 6);
    unsigned(&mut body, 1);
    map_head(&mut body, 0);
    infallible(write_nil(&mut body));
    string_value(&mut body, "ReceiveMessage");
    array_head(&mut body, 1);
    map_head(&mut body, 10);
    for (name, value) in [
        ("messageId", &*message.message_id.to_string()),
        ("scopeType", message.scope_type),
        ("scopeId", message.scope_id),
        ("senderId", message.sender_id),
        ("text", message.text),
        ("createdAtUtc", &Rfc3339(message.created_at_utc).to_string()),
        ("originPodId", message.origin_pod_id),
    ] {
        string_value(&mut body, name);
        string_value(&mut body, value);
    }
    for (name, value) in
        [("partition", i64::from(message.partition)), ("offset", message.offset), ("position", message.position)]
    {
        string_value(&mut body, name);
        infallible(write_sint(&mut body, value).map(drop));
    }
    array_head(&mut body, 0);
    with_length(&body, out);
}

fn with_length(body: &[u8], out: &mut Vec<u8>) {
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7f).expect("seven bits");
        length >>= 7;
        if length == 0 {
            out.push(low);
            break;
        }
        out.push(low | 0x80);
    }
    out.extend_from_slice(body);
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => infallible(write_nil(out)),
        Value::Bool(yes) => infallible(write_bool(out, *yes)),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => unsigned(out, number),
            (None, Some(number)) => infallible(write_sint(out, number).map(drop)),
            (None, None) => infallible(write_f64(out, number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(text) => string_value(out, text),
        Value::Array(items) => {
            array_head(out, items.len());
            items.iter().for_each(|item| write_value(out, item));
        }
        Value::Object(fields) => {
            map_head(out, fields.len());
            for (name, value) in fields {
                string_value(out, name);
                write_value(out, value);
            }
        }
    }
}

fn array_head(out: &mut Vec<u8>, length: usize) {
    infallible(write_array_len(out, u32::try_from(length).expect("answers are small")).map(drop));
}

fn map_head(out: &mut Vec<u8>, length: usize) {
    infallible(write_map_len(out, u32::try_from(length).expect("answers are small")).map(drop));
}

fn string_value(out: &mut Vec<u8>, text: &str) {
    infallible(write_str(out, text));
}

fn unsigned(out: &mut Vec<u8>, number: u64) {
    infallible(write_uint(out, number).map(drop));
}

fn infallible<E: std::fmt::Debug>(outcome: Result<(), E>) {
    outcome.expect("a vector takes every byte");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_invocation_is_read() {
        let mut body = Vec::new();
        write_value(&mut body, &serde_json::json!([1, {"h": "ignored"}, "7", "Send", [{"text": "hi", "n": -3}], []]));
        let Ok(Incoming::Invocation(call)) = parse(&body) else { panic!("no invocation") };
        assert_eq!((call.id.as_deref(), &*call.target, call.arguments.len()), (Some("7"), "Send", 1));
        let argument: Value = call.arguments.read(0).expect("there").expect("a value");
        assert_eq!(argument, serde_json::json!({"text": "hi", "n": -3}));
    }

    #[test]
    fn what_is_only_announced_is_not_believed() {
        for bytes in [
            &[0xdd, 0xff, 0xff, 0xff, 0xff][..],
            &[0xdf, 0xff, 0xff, 0xff, 0xff],
            &[0xdb, 0xff, 0xff, 0xff, 0xff],
            &[0x91],
        ] {
            assert_eq!(parse(bytes).expect_err("too short"), MALFORMED);
        }
        assert_eq!(parse(&[0x91; 100]).expect_err("too deep"), RecordError::NotAMessage("nested too deeply"));
        assert_eq!(frame(&[0xff, 0xff, 0xff, 0xff, 0x7f], 1000), Err(RecordError::TooLong(1000)));
        assert_eq!(frame(&[0x80, 0x80, 0x80, 0x80, 0x80], 1000), Err(MALFORMED));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&bytes));
            drop(frame(&bytes, 65_536));
        }

        #[test]
        fn records_are_found_behind_each_other(sizes in prop::collection::vec(0usize..40_000, 1..5)) {
            let mut all = Vec::new();
            for size in &sizes {
                with_length(&vec![1; *size], &mut all);
            }
            let mut rest = &all[..];
            for size in sizes {
                prop_assert_eq!(frame(&rest[..1.min(rest.len())], 65_536).expect("no error").is_some(), size == 0);
                let (start, end) = frame(rest, 65_536).expect("no error").expect("whole");
                prop_assert_eq!(end - start, size);
                rest = &rest[end..];
            }
            prop_assert!(rest.is_empty());
        }
    }
}
