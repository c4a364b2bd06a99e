//! The hub protocol's records, one type for both wire formats. Reading is strict: what the specification does not allow is an
//! error here, so a suite that reads a record has also checked its form.

use crate::messagepack;
use serde_json::{Map, Value, json};
use tokio_tungstenite::tungstenite::Message;

/// Ends every JSON record and the handshake of both formats.
pub const RECORD_SEPARATOR: u8 = 0x1e;

/// How records look on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text, each record ended by [`RECORD_SEPARATOR`].
    Json,
    /// Binary, each record behind its length.
    MessagePack,
}

/// One record of the hub protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A call, in either direction. Without an id no answer is wanted.
    Invocation {
        /// Chosen by the caller.
        id: Option<String>,
        /// The method.
        target: String,
        /// Its arguments.
        arguments: Vec<Value>,
    },
    /// The answer to a call: its result (`null` when there is none) or an error.
    Completion {
        /// The id of the call.
        id: String,
        /// What came of it.
        outcome: Result<Value, String>,
    },
    /// The caller does not want the rest.
    CancelInvocation {
        /// The id of the call.
        id: String,
    },
    /// Proof of life.
    Ping,
    /// The end of the connection.
    Close {
        /// Why, unless all is well.
        error: Option<String>,
        /// Whether the client may connect again by itself.
        allow_reconnect: bool,
    },
}

impl Format {
    /// Both formats.
    pub const ALL: [Self; 2] = [Self::Json, Self::MessagePack];

    /// The format's name in the handshake.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::MessagePack => "messagepack",
        }
    }

    /// The frame that carries `records` together.
    #[must_use]
    pub fn frame(self, records: &[Record]) -> Message {
        match self {
            Self::Json => {
                let texts = records.iter().map(|record| format!("{}\u{1e}", record.to_json()));
                Message::text(texts.collect::<String>())
            }
            Self::MessagePack => {
                let bytes =
                    records.iter().flat_map(|record| messagepack::record(&record.to_array())).collect::<Vec<u8>>();
                Message::binary(bytes)
            }
        }
    }

    /// Reads every record of one frame.
    ///
    /// # Errors
    /// What breaks the specification: another kind of frame, an incomplete record, an unknown type, a wrong or unknown field.
    pub fn read(self, frame: &Message) -> Result<Vec<Record>, String> {
        match (self, frame) {
            (Self::Json, Message::Text(text)) => {
                let body = text.strip_suffix('\u{1e}').ok_or_else(|| format!("a record without its end: {text}"))?;
                body.split('\u{1e}').map(read_json).collect()
            }
            (Self::MessagePack, Message::Binary(bytes)) => {
                messagepack::records(bytes)?.iter().map(read_array).collect()
            }
            (_, other) => Err(format!("{} does not use this kind of frame: {other:?}", self.name())),
        }
    }
}

impl Record {
    /// A call that wants an answer.
    #[must_use]
    pub fn call(id: &str, target: &str, arguments: Vec<Value>) -> Self {
        Self::Invocation { id: Some(id.to_owned()), target: target.to_owned(), arguments }
    }

    /// The record as a JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Invocation { id: Some(id), target, arguments } => {
                json!({"type": 1, "invocationId": id, "target": target, "arguments": arguments})
            }
            Self::Invocation { id: None, target, arguments } => {
                json!({"type": 1, "target": target, "arguments": arguments})
            }
            Self::Completion { id, outcome: Ok(result) } => json!({"type": 3, "invocationId": id, "result": result}),
            Self::Completion { id, outcome: Err(error) } => json!({"type": 3, "invocationId": id, "error": error}),
            Self::CancelInvocation { id } => json!({"type": 5, "invocationId": id}),
            Self::Ping => json!({"type": 6}),
            Self::Close { error, allow_reconnect } => {
                json!({"type": 7, "error": error, "allowReconnect": allow_reconnect})
            }
        }
    }

    /// The record as MessagePack's array.
    #[must_use]
    pub fn to_array(&self) -> Value {
        match self {
            Self::Invocation { id, target, arguments } => json!([1, {}, id, target, arguments, []]),
            Self::Completion { id, outcome: Ok(Value::Null) } => json!([3, {}, id, 2]),
            Self::Completion { id, outcome: Ok(result) } => json!([3, {}, id, 3, result]),
            Self::Completion { id, outcome: Err(error) } => json!([3, {}, id, 1, error]),
            Self::CancelInvocation { id } => json!([5, {}, id]),
            Self::Ping => json!([6]),
            Self::Close { error, allow_reconnect } => json!([7, error, allow_reconnect]),
        }
    }
}

/// Reads one JSON record without its separator.
///
/// # Errors
/// What breaks the specification.
pub fn read_json(text: &str) -> Result<Record, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
    let object = value.as_object().ok_or_else(|| format!("a record is not an object: {text}"))?;
    let wrong = |what: &str| format!("{what}: {text}");
    let allow = |names: &[&str]| match object.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(wrong(&format!("unexpected field `{name}`"))),
        None => Ok(()),
    };
    match object.get("type").and_then(Value::as_u64) {
        Some(1) => {
            allow(&["type", "invocationId", "target", "arguments", "headers"])?;
            let arguments = object.get("arguments").and_then(Value::as_array).ok_or_else(|| wrong("no arguments"))?;
            Ok(Record::Invocation {
                id: optional_text(object, "invocationId")?,
                target: optional_text(object, "target")?.ok_or_else(|| wrong("no target"))?,
                arguments: arguments.clone(),
            })
        }
        Some(3) => {
            allow(&["type", "invocationId", "result", "error", "headers"])?;
            let id = optional_text(object, "invocationId")?.ok_or_else(|| wrong("no invocationId"))?;
            match (object.get("result"), optional_text(object, "error")?) {
                (Some(_), Some(_)) => Err(wrong("a completion has both a result and an error")),
                (_, Some(error)) => Ok(Record::Completion { id, outcome: Err(error) }),
                (result, None) => Ok(Record::Completion { id, outcome: Ok(result.cloned().unwrap_or(Value::Null)) }),
            }
        }
        Some(6) => allow(&["type"]).map(|()| Record::Ping),
        Some(7) => {
            allow(&["type", "error", "allowReconnect"])?;
            let allow_reconnect = object.get("allowReconnect").map(Value::as_bool);
            let allow_reconnect = allow_reconnect.unwrap_or(Some(false)).ok_or_else(|| wrong("allowReconnect"))?;
            Ok(Record::Close { error: optional_text(object, "error")?, allow_reconnect })
        }
        _ => Err(wrong("a record of a type that servers do not send")),
    }
}

fn optional_text(object: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match object.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("`{name}` is not a text: {other}")),
    }
}

/// Reads one MessagePack record from its array.
///
/// # Errors
/// What breaks the specification.
pub fn read_array(value: &Value) -> Result<Record, String> {
    let wrong = || format!("not a record that servers send: {value}");
    let items = value.as_array().ok_or_else(wrong)?;
    match items.as_slice() {
        [
            Value::Number(kind),
            Value::Object(_),
            id,
            Value::String(target),
            Value::Array(arguments),
            Value::Array(_),
        ] if kind.as_u64() == Some(1) && (id.is_null() || id.is_string()) => {
            let id = id.as_str().map(str::to_owned);
            Ok(Record::Invocation { id, target: target.clone(), arguments: arguments.clone() })
        }
        [Value::Number(kind), Value::Object(_), Value::String(id), Value::Number(result_kind), rest @ ..]
            if kind.as_u64() == Some(3) =>
        {
            let outcome = match (result_kind.as_u64(), rest) {
                (Some(1), [Value::String(error)]) => Err(error.clone()),
                (Some(2), []) => Ok(Value::Null),
                (Some(3), [result]) => Ok(result.clone()),
                _ => return Err(wrong()),
            };
            Ok(Record::Completion { id: id.clone(), outcome })
        }
        [Value::Number(kind)] if kind.as_u64() == Some(6) => Ok(Record::Ping),
        [Value::Number(kind), error, rest @ ..] if kind.as_u64() == Some(7) && rest.len() <= 1 => {
            let allow_reconnect = rest.first().map_or(Some(false), Value::as_bool).ok_or_else(wrong)?;
            Ok(Record::Close { error: error.as_str().map(str::to_owned), allow_reconnect })
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_both_formats() {
        let records = [
            Record::call("7", "Send", vec![json!({"text": "hé\u{1d11e}", "n": -3, "big": 1u64 << 52, "f": 0.5})]),
            Record::Invocation { id: None, target: "ReceiveMessage".into(), arguments: vec![json!([true, null])] },
            Record::Completion { id: "1".into(), outcome: Ok(json!({"position": 1})) },
            Record::Completion { id: "2".into(), outcome: Ok(Value::Null) },
            Record::Completion { id: "3".into(), outcome: Err("FORBIDDEN: no".into()) },
            Record::Ping,
            Record::Close { error: Some("x".repeat(300)), allow_reconnect: true },
        ];
        for format in Format::ALL {
            assert_eq!(format.read(&format.frame(&records)), Ok(records.to_vec()), "{format:?}");
        }
    }

    #[test]
    fn what_the_specification_forbids_is_an_error() {
        let forbidden = [
            r#"{"type":3,"invocationId":"1","result":null,"error":"x"}"#,
            r#"{"type":3,"result":null}"#,
            r#"{"type":6,"extra":1}"#,
            r#"{"type":99}"#,
            r#"{"type":7,"allowReconnect":"yes"}"#,
            r#"{"type":1,"target":"X"}"#,
            "[]",
            "",
        ];
        for text in forbidden {
            assert!(read_json(text).is_err(), "{text}");
        }
        for array in [json!([3, {}, "1", 2, 5]), json!([3, {}, "1", 4]), json!([6, 1]), json!([9, 1]), json!({})] {
            assert!(read_array(&array).is_err(), "{array}");
        }
        assert!(Format::Json.read(&Message::text("{\"type\":6}")).is_err(), "a record without its end");
        assert!(Format::Json.read(&Message::binary("{\"type\":6}\u{1e}")).is_err(), "a binary frame");
    }
}
