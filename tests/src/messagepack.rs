//! MessagePack as the hub protocol uses it: records behind their length, values as JSON has them.

use rmp::Marker;
use rmp::{decode, encode};
use serde_json::{Map, Number, Value};

/// One record: its length as a variable-length integer, then the value.
#[must_use]
pub fn record(value: &Value) -> Vec<u8> {
    let mut body = Vec::new();
    write_value(&mut body, value);
    framed(&body)
}

/// `body` behind its length.
#[must_use]
pub fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 5);
    let mut rest = body.len();
    while rest >= 0x80 {
        bytes.push(u8::try_from(rest & 0x7f).expect("seven bits fit a byte") | 0x80);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).expect("seven bits fit a byte"));
    bytes.extend_from_slice(body);
    bytes
}

/// Reads every record of one frame.
///
/// # Errors
/// A length that does not match, or bytes that are not MessagePack.
pub fn records(mut bytes: &[u8]) -> Result<Vec<Value>, String> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let length = read_length(&mut bytes)?;
        if length > bytes.len() {
            return Err(format!("a record of {length} bytes of which {} came", bytes.len()));
        }
        let (mut body, rest) = bytes.split_at(length);
        values.push(read_value(&mut body)?);
        if !body.is_empty() {
            return Err(format!("{} bytes behind the record's value", body.len()));
        }
        bytes = rest;
    }
    Ok(values)
}

fn read_length(bytes: &mut &[u8]) -> Result<usize, String> {
    let mut length = 0usize;
    for shift in [0, 7, 14, 21, 28] {
        let (&byte, rest) = bytes.split_first().ok_or("a record's length ends early")?;
        *bytes = rest;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(length);
        }
    }
    Err("a record's length has more than five bytes".into())
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    const MEMORY: &str = "writing to memory cannot fail";
    match value {
        Value::Null => encode::write_nil(out).expect(MEMORY),
        Value::Bool(value) => encode::write_bool(out, *value).expect(MEMORY),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => encode::write_str(out, text).expect(MEMORY),
        Value::Array(items) => {
            encode::write_array_len(out, u32::try_from(items.len()).expect("a test's array is short")).expect(MEMORY);
            items.iter().for_each(|item| write_value(out, item));
        }
        Value::Object(fields) => {
            encode::write_map_len(out, u32::try_from(fields.len()).expect("a test's map is short")).expect(MEMORY);
            for (name, value) in fields {
                encode::write_str(out, name).expect(MEMORY);
                write_value(out, value);
            }
        }
    }
}

fn write_number(out: &mut Vec<u8>, number: &Number) {
    const MEMORY: &str = "writing to memory cannot fail";
    match (number.as_u64(), number.as_i64(), number.as_f64()) {
        (Some(value), _, _) => encode::write_uint(out, value).map(drop).expect(MEMORY),
        (None, Some(value), _) => encode::write_sint(out, value).map(drop).expect(MEMORY),
        (None, None, value) => encode::write_f64(out, value.expect("a JSON number is one of three")).expect(MEMORY),
    }
}

fn read_value(bytes: &mut &[u8]) -> Result<Value, String> {
    let marker = bytes.first().map(|&byte| Marker::from_u8(byte)).ok_or("a value ends early")?;
    let wrong = |error: &dyn std::fmt::Display| format!("not a MessagePack value: {error}");
    match marker {
        Marker::Null => decode::read_nil(bytes).map(|()| Value::Null).map_err(|error| wrong(&error)),
        Marker::True | Marker::False => decode::read_bool(bytes).map(Value::Bool).map_err(|error| wrong(&error)),
        Marker::F32 => decode::read_f32(bytes).map(Value::from).map_err(|error| wrong(&error)),
        Marker::F64 => decode::read_f64(bytes).map(Value::from).map_err(|error| wrong(&error)),
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => read_text(bytes).map(Value::String),
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
            let length = decode::read_array_len(bytes).map_err(|error| wrong(&error))?;
            (0..length).map(|_| read_value(bytes)).collect()
        }
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
            let length = decode::read_map_len(bytes).map_err(|error| wrong(&error))?;
            let mut fields = Map::new();
            for _ in 0..length {
                let name = read_text(bytes)?;
                let value = read_value(bytes)?;
                if fields.insert(name.clone(), value).is_some() {
                    return Err(format!("the field `{name}` comes twice"));
                }
            }
            Ok(Value::Object(fields))
        }
        Marker::U64 => decode::read_u64(bytes).map(Value::from).map_err(|error| wrong(&error)),
        Marker::FixPos(_)
        | Marker::FixNeg(_)
        | Marker::U8
        | Marker::U16
        | Marker::U32
        | Marker::I8
        | Marker::I16
        | Marker::I32
        | Marker::I64 => decode::read_int::<i64, _>(bytes).map(Value::from).map_err(|error| wrong(&error)),
        other => Err(format!("the server sent {other:?}")),
    }
}

fn read_text(bytes: &mut &[u8]) -> Result<String, String> {
    let (text, rest) = decode::read_str_from_slice(*bytes).map_err(|error| format!("not a text: {error}"))?;
    let text = text.to_owned();
    *bytes = rest;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_come_back() {
        let value = json!({"a": [1, -1, 127, 128, 1u64 << 53, i64::MIN, 0.25], "b": "x".repeat(70_000), "c": {}, "d": [null, true]});
        let many: Vec<u8> = [record(&value), record(&json!([6])), record(&value)].concat();
        assert_eq!(records(&many), Ok(vec![value.clone(), json!([6]), value]));
    }

    #[test]
    fn broken_frames_are_errors() {
        let good = record(&json!([6, "text"]));
        for cut in 1..good.len() {
            assert!(records(&good[..cut]).is_err(), "cut at {cut}");
        }
        assert!(records(&framed(&[0x91, 0x06, 0x06])).is_err(), "a byte too many");
        assert!(records(&[0xff; 6]).is_err(), "a length without end");
        assert!(records(&framed(&[0xc1])).is_err(), "a byte that MessagePack never uses");
    }
}
