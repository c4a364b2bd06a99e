//! A message as every surface shows it.

use serde_json::Value;

/// What `ReceiveMessage`, joins, answers to sends, history and the event stream all show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    /// The client's id for it.
    pub message_id: String,
    /// `Channel:general`.
    pub scope: String,
    /// Who sent it.
    pub sender_id: String,
    /// What was said.
    pub text: String,
    /// When the log appended it, RFC 3339.
    pub created_at_utc: String,
    /// The pod that took it.
    pub origin_pod_id: String,
    /// The log's partition.
    pub partition: i64,
    /// The place in the partition.
    pub offset: i64,
    /// The place in the one order.
    pub position: i64,
}

impl ChatMessage {
    /// The documented fields of a message on the wire: no more, no fewer.
    const FIELDS: [&str; 10] = [
        "createdAtUtc",
        "messageId",
        "offset",
        "originPodId",
        "partition",
        "position",
        "scopeId",
        "scopeType",
        "senderId",
        "text",
    ];

    /// Reads a message strictly: exactly the documented fields with their documented types.
    ///
    /// # Errors
    /// What is wrong with `value`, and the value.
    pub fn read(value: &Value) -> Result<Self, String> {
        let object = value.as_object().ok_or_else(|| format!("a message is not an object: {value}"))?;
        let mut names: Vec<&str> = object.keys().map(String::as_str).collect();
        names.sort_unstable();
        if names != Self::FIELDS {
            return Err(format!("a message has the fields {names:?}: {value}"));
        }
        let text = |name: &str| {
            object[name].as_str().map(str::to_owned).ok_or_else(|| format!("`{name}` is not a text: {value}"))
        };
        let number = |name: &str| object[name].as_i64().ok_or_else(|| format!("`{name}` is not a number: {value}"));
        Ok(Self {
            message_id: text("messageId")?,
            scope: format!("{}:{}", text("scopeType")?, text("scopeId")?),
            sender_id: text("senderId")?,
            text: text("text")?,
            created_at_utc: text("createdAtUtc")?,
            origin_pod_id: text("originPodId")?,
            partition: number("partition")?,
            offset: number("offset")?,
            position: number("position")?,
        })
    }

    /// Reads a list of messages strictly.
    ///
    /// # Errors
    /// What is wrong with the first one that is not a message.
    pub fn read_all(value: &Value) -> Result<Vec<Self>, String> {
        let items = value.as_array().ok_or_else(|| format!("not a list of messages: {value}"))?;
        items.iter().map(Self::read).collect()
    }
}
