//! The messages of the hub protocol, whatever their encoding.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A message from a client.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// Call a method; answered by a completion when there is an id.
    Invocation(Invocation<'a>),
    /// Call a streaming method; there is none.
    StreamInvocation {
        /// To be answered with an error.
        id: Cow<'a, str>,
    },
    /// Stop an invocation. A send that was handed to the log cannot be taken back, so it changes nothing.
    CancelInvocation,
    /// Still there.
    Ping,
    /// Going away.
    Close,
    /// Belongs to features that no client of this server can have in use (client results, stateful reconnect); ignored.
    Unused,
}

/// A call.
#[derive(Debug)]
pub struct Invocation<'a> {
    /// Absent when no answer is wanted.
    pub id: Option<Cow<'a, str>>,
    /// The method's name.
    pub target: Cow<'a, str>,
    /// The arguments, not yet understood.
    pub arguments: Arguments<'a>,
}

/// Positional arguments.
#[derive(Debug)]
pub enum Arguments<'a> {
    /// As JSON text.
    Json(Vec<&'a RawValue>),
    /// As values read from MessagePack.
    Values(Vec<serde_json::Value>),
}

impl Arguments<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(raw) => raw.len(),
            Self::Values(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the argument at `index` is an object.
    pub fn is_object(&self, index: usize) -> bool {
        match self {
            Self::Json(raw) => raw.get(index).is_some_and(|raw| raw.get().starts_with('{')),
            Self::Values(values) => values.get(index).is_some_and(serde_json::Value::is_object),
        }
    }

    /// The argument at `index` as a `T`; `None` when it is not there. The error tells what is wrong, without the value.
    pub fn read<T: DeserializeOwned>(&self, index: usize) -> Option<Result<T, String>> {
        let read = match self {
            Self::Json(raw) => serde_json::from_str(raw.get(index)?.get()),
            Self::Values(values) => T::deserialize(values.get(index)?),
        };
        Some(read.map_err(|error| without_place(&error.to_string())))
    }
}

/// serde_json names line and column, which mean nothing within an argument.
fn without_place(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
}

/// Why a record ends the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not in the encoding that the handshake agreed on.
    #[error("a record is not valid {0}")]
    Malformed(&'static str),
    /// In the encoding, but no message of the hub protocol.
    #[error("a record is no message of the hub protocol: {0}")]
    NotAMessage(&'static str),
    /// Longer than the limit.
    #[error("a record is longer than {0} bytes")]
    TooLong(usize),
}

/// The answer to an invocation: a result, nothing, or an error; never two of them.
#[derive(Debug)]
pub enum Outcome {
    /// Done, with nothing to tell.
    Done,
    /// The result, as JSON text.
    Result(Bytes),
    /// `"CODE: sentence"`.
    Error(String),
}
