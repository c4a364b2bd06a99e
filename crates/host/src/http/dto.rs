//! What goes over the wire, for REST and the hub alike. Names are camelCase, times RFC 3339 in UTC with milliseconds, enums by name.

use chatify_application::HistoryPage;
use chatify_application::ports::presence::Presence;
use chatify_domain::{LoggedMessage, SenderId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A message as everyone sees it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Message)]
pub struct MessageDto<'a> {
    /// The sender's UUID for it.
    #[serde(serialize_with = "display")]
    #[schema(value_type = String, format = "uuid")]
    pub message_id: chatify_domain::MessageId,
    /// The scope's type.
    #[schema(value_type = ScopeTypeDto, example = "Channel")]
    pub scope_type: &'static str,
    /// The scope's id within its type.
    #[schema(value_type = String, example = "general")]
    pub scope_id: &'a str,
    /// Who wrote it.
    #[schema(value_type = String, example = "alice")]
    pub sender_id: &'a str,
    /// What was written, exactly as typed: at most 4096 characters.
    #[schema(value_type = String, max_length = 4096)]
    pub text: &'a str,
    /// When the log appended it. It never orders messages.
    #[serde(serialize_with = "rfc3339")]
    #[schema(value_type = String, format = "date-time", example = "2026-01-31T12:00:00.000Z")]
    pub created_at_utc: Timestamp,
    /// The pod that took it from the sender.
    #[schema(value_type = String)]
    pub origin_pod_id: &'a str,
    /// The partition of the log.
    pub partition: u32,
    /// The place in the partition.
    #[schema(minimum = 0)]
    pub offset: i64,
    /// The place in the scope's one order, and the cursor to resume and page from.
    #[schema(minimum = 0)]
    pub position: i64,
}

impl<'a> From<&'a LoggedMessage> for MessageDto<'a> {
    fn from(message: &'a LoggedMessage) -> Self {
        let sent = &*message.sent;
        Self {
            message_id: sent.message_id,
            scope_type: sent.scope.kind().as_str(),
            scope_id: sent.scope.id().as_str(),
            sender_id: sent.sender_id.as_str(),
            text: sent.text.as_str(),
            created_at_utc: message.created_at,
            origin_pod_id: sent.origin_pod_id.as_str(),
            partition: message.partition.0,
            offset: message.position.offset().number(),
            position: message.position.number(),
        }
    }
}

/// The answer to a send that was accepted.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SendResult)]
pub struct SendResultDto<'a> {
    /// The message as everyone sees it.
    pub chat_event: MessageDto<'a>,
    /// The partition of the log.
    pub partition: u32,
    /// The place in the partition.
    #[schema(minimum = 0)]
    pub offset: i64,
    /// The place in the scope's one order. Take resume cursors from what you receive, never from here.
    #[schema(minimum = 0)]
    pub position: i64,
}

impl<'a> From<&'a LoggedMessage> for SendResultDto<'a> {
    fn from(message: &'a LoggedMessage) -> Self {
        let chat_event = MessageDto::from(message);
        Self { partition: chat_event.partition, offset: chat_event.offset, position: chat_event.position, chat_event }
    }
}

fn display<S: serde::Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn rfc3339<S: serde::Serializer>(value: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Rfc3339(*value))
}

/// Shows a moment as RFC 3339 in UTC with milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Rfc3339(pub Timestamp);

impl std::fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0.as_millis()) {
            Ok(moment) => write!(f, "{moment:.3}"),
            // Beyond the years that have a name; no clock of a running pod gets there.
            Err(_) => write!(f, "{}ms", self.0.as_millis()),
        }
    }
}

/// What kind of conversation a scope is; in the description only, values are written by their domain name.
#[derive(Clone, Copy, Debug, ToSchema)]
#[schema(as = ScopeType)]
pub enum ScopeTypeDto {
    /// Open to everyone who is signed in.
    Channel,
    /// Between the people whose ids make up the scope's id.
    DirectMessage,
}

/// A message to send.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = SendMessage)]
pub struct SendBody {
    /// What to write, exactly as it will be read.
    #[schema(max_length = 4096, example = "hello")]
    pub text: String,
    /// Your UUID for it, best of version 7, so that the send may be repeated. Without one the server makes it.
    #[schema(format = "uuid", example = "019a9f5e-3c07-7c4e-9d6b-0f6a3a2d9a11")]
    pub message_id: Option<String>,
}

/// A page of history.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HistoryPage)]
pub struct HistoryPageDto<'a> {
    /// Messages, ascending by position.
    pub items: Vec<MessageDto<'a>>,
    /// Nothing that was asked for is older than the page.
    pub oldest_reached: bool,
    /// Nothing that was asked for was newer than the page when it was read.
    pub newest_reached: bool,
    /// Nothing is missing between the page's ends, provably.
    pub complete: bool,
    /// What was looked at: where the next page goes on, also when a filter left no items.
    pub scanned: Option<ScannedDto>,
}

/// A range of positions, both ends included.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Scanned)]
pub struct ScannedDto {
    /// The lowest position; go on with `before`.
    #[schema(minimum = 0)]
    pub lowest: i64,
    /// The highest position; go on with `after`.
    #[schema(minimum = 0)]
    pub highest: i64,
}

impl<'a> From<&'a HistoryPage> for HistoryPageDto<'a> {
    fn from(page: &'a HistoryPage) -> Self {
        Self {
            items: page.items.iter().map(MessageDto::from).collect(),
            oldest_reached: page.oldest_reached,
            newest_reached: page.newest_reached,
            complete: page.complete,
            scanned: page
                .scanned
                .map(|(lowest, highest)| ScannedDto { lowest: lowest.number(), highest: highest.number() }),
        }
    }
}

/// Whether somebody is online.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Presence)]
pub struct PresenceDto<'a> {
    /// Who.
    #[schema(value_type = String)]
    pub user_id: &'a str,
    /// What is known.
    pub status: PresenceStatusDto,
    /// Since when, while online.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since_utc: Option<Timestamp>,
    /// With how many connections, while online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
}

/// What is known of somebody's presence.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PresenceStatus)]
pub enum PresenceStatusDto {
    /// At least one connection.
    Online,
    /// No connection.
    Offline,
    /// It cannot be told now.
    Unknown,
}

impl<'a> PresenceDto<'a> {
    /// What is known of `user`.
    #[must_use]
    pub fn of(user: &'a SenderId, presence: &Presence) -> Self {
        let (status, since_utc, connections) = match presence {
            Presence::Online { since, connections } => (PresenceStatusDto::Online, Some(*since), Some(*connections)),
            Presence::Offline => (PresenceStatusDto::Offline, None, None),
            Presence::Unknown => (PresenceStatusDto::Unknown, None, None),
        };
        Self { user_id: user.as_str(), status, since_utc, connections }
    }
}

/// Whether this pod can serve.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Readiness)]
pub struct ReadinessDto {
    /// It can.
    pub ready: bool,
    /// Why it cannot.
    pub reasons: Vec<String>,
    /// What is away that it can do without: it serves, but not everything.
    pub degraded: Vec<String>,
}

/// This process runs.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Liveness)]
pub struct LivenessDto {
    /// Always true; a process that does not live does not answer.
    pub live: bool,
}

/// What went wrong, after RFC 9457.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub struct ProblemDto {
    /// Always `about:blank`: the `code` tells problems apart.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "about:blank")]
    pub kind: &'static str,
    /// The status in words.
    #[schema(value_type = String, example = "Bad Request")]
    pub title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What is wrong this time, for a person.
    pub detail: String,
    /// The path that was asked for.
    pub instance: String,
    /// The name to decide by.
    #[schema(value_type = String, example = "VALIDATION_ERROR")]
    pub code: &'static str,
    /// The name of this request in the server's log.
    #[schema(example = "corr_019a9f5e-3c07-7c4e-9d6b-0f6a3a2d9a11")]
    pub correlation_id: String,
    /// The fields that are not valid.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldErrorDto>,
    /// `unknown` when a send may or may not have been accepted; repeating it with the same message id is safe.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "unknown")]
    pub outcome: Option<&'static str>,
}

/// A field that is not valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FieldError)]
pub struct FieldErrorDto {
    /// Its name.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

#[expect(clippy::ref_option, reason = "serde gives a reference to the field")]
fn maybe_rfc3339<S: serde::Serializer>(value: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => rfc3339(value, serializer),
        None => serializer.serialize_none(),
    }
}

/// Reads RFC 3339 with any offset; fractions of a millisecond are cut off.
///
/// # Errors
/// When `text` is no such time.
pub fn parse_rfc3339(text: &str) -> Result<Timestamp, &'static str> {
    let moment: Result<jiff::Timestamp, _> = text.parse();
    let moment = moment.map_err(|_| "must be a time such as 2026-01-31T12:00:00Z")?;
    Ok(Timestamp::from_millis(moment.as_millisecond()))
}
