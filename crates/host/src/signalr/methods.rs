//! What a client may invoke: arguments in, command, answer out.

use super::record::{Arguments, Invocation, Outcome};
use crate::error::{answer, hub_error};
use crate::http::dto::{MessageDto, SendResultDto};
use crate::realtime::Subscriber;
use crate::realtime::encode::write_json;
use chatify_application::{Application, JoinScope, Joined, SendMessage, Sending};
use chatify_building_blocks::correlation::CorrelationId;
use chatify_building_blocks::error::{Classify, ErrorKind, chain};
use chatify_domain::limits::PAGE_LIMIT_MAX;
use chatify_domain::{MessageId, Position, Scope, ScopeType, Text};
use serde::{Deserialize, Serialize};

/// What an invocation comes to.
pub enum Reply {
    /// It is answered.
    Now(Outcome),
    /// It was joined: once the answer is on its way, the subscription goes live.
    Join {
        /// The answer.
        outcome: Outcome,
        /// The scope to release.
        scope: Scope,
        /// See [`Joined::live_after`].
        live_after: Position,
    },
    /// It was accepted by the log, and is answered when it is durable.
    Later(Sending),
}

/// What methods work on.
pub struct Methods<'a> {
    /// The use cases.
    pub application: &'a Application,
    /// The connection.
    pub subscriber: &'a Subscriber,
    /// Scopes that one connection may be in.
    pub max_scopes: usize,
}

impl Methods<'_> {
    /// Runs `call`; `correlation` names it in the log.
    pub async fn invoke(&self, call: &Invocation<'_>, correlation: CorrelationId) -> Reply {
        let outcome = match &*call.target {
            "Send" => self.send(&call.arguments, correlation).await,
            "JoinScope" => self.join(&call.arguments).await,
            "LeaveScope" => self.leave(&call.arguments),
            "Heartbeat" => count(&call.arguments, 0, 0).map(|()| Reply::Now(Outcome::Done)),
            _ => Err(hub_error(
                ErrorKind::NotFound,
                "there is no such method; there are `JoinScope`, `LeaveScope`, `Send` and `Heartbeat`",
            )),
        };
        outcome.unwrap_or_else(|error| Reply::Now(Outcome::Error(error)))
    }

    async fn send(&self, arguments: &Arguments<'_>, correlation: CorrelationId) -> Result<Reply, String> {
        count(arguments, 1, 1)?;
        object(arguments, 0, "the message")?;
        let wanted: SendArgument = required(arguments, 0, "the message")?;
        let kind = ScopeType::parse(&wanted.scope_type)
            .ok_or_else(|| invalid("scopeType must be `Channel` or `DirectMessage`"))?;
        let scope = Scope::new(kind, &wanted.scope_id).map_err(|error| invalid(format!("scopeId: {error}")))?;
        let text = Text::parse(&wanted.text).map_err(|error| invalid(format!("text {error}")))?;
        let message_id = wanted.message_id.as_deref().map(MessageId::parse).transpose();
        let command = SendMessage {
            sender: self.subscriber.peer().user().clone(),
            scope,
            text,
            message_id: message_id.map_err(|error| invalid(format!("messageId {error}")))?,
            correlation,
        };
        self.application.send(command).await.map(Reply::Later).map_err(|error| failed(&error))
    }

    async fn join(&self, arguments: &Arguments<'_>) -> Result<Reply, String> {
        count(arguments, 1, 2)?;
        let scope = scope(arguments)?;
        let options: Option<JoinOptions> = optional(arguments, 1, "the options")?;
        if options.is_some() {
            object(arguments, 1, "the options")?;
        }
        let options = options.unwrap_or_default();
        if !self.subscriber.is_in(&scope) && self.subscriber.scopes() >= self.max_scopes {
            return Err(hub_error(
                ErrorKind::RateLimited,
                &format!("a connection may be in {} scopes; leave one first", self.max_scopes),
            ));
        }
        let after = options.after.map(Position::from_number).transpose();
        let command = JoinScope {
            user: self.subscriber.peer().user().clone(),
            scope: scope.clone(),
            after: after.map_err(|error| invalid(format!("after: {error}")))?,
            limit: options.limit.map(limit).transpose()?,
        };
        let joined = self.application.join(command, self.subscriber).await;
        let joined = joined.map_err(|error| failed(&error))?;
        let outcome = Outcome::Result(join_result(&scope, &joined).into());
        Ok(Reply::Join { outcome, scope, live_after: joined.live_after })
    }

    fn leave(&self, arguments: &Arguments<'_>) -> Result<Reply, String> {
        count(arguments, 1, 1)?;
        self.application.leave(&scope(arguments)?, self.subscriber);
        Ok(Reply::Now(Outcome::Done))
    }
}

/// The completion of a send: its place, or why there is none.
pub async fn sent(sending: Sending) -> Outcome {
    match sending.outcome().await {
        Ok(accepted) => {
            let mut json = Vec::with_capacity(512);
            write_json(&SendResultDto::from(&accepted.message), &mut json);
            Outcome::Result(json.into())
        }
        Err(error) => Outcome::Error(failed(&error)),
    }
}

/// What the client is told. The causes of a server's failure go to the log.
fn failed(error: &impl Classify) -> String {
    if answer(error.kind()).status.is_server_error() {
        tracing::warn!(code = answer(error.kind()).code, error = chain(error), "invocation failed");
    }
    hub_error(error.kind(), &error.to_string())
}

fn join_result(scope: &Scope, joined: &Joined) -> Vec<u8> {
    let mut json = Vec::with_capacity(128 + 320 * joined.messages.len());
    let result = JoinResultDto {
        scope: scope.to_string(),
        position: joined.position.number(),
        messages: joined.messages.iter().map(MessageDto::from).collect(),
        recovered: joined.recovered,
        reason: joined.reason.map(|reason| reason.as_str()),
        has_more: joined.has_more,
        live_after: joined.live_after.number(),
    };
    write_json(&result, &mut json);
    json
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JoinResultDto<'a> {
    scope: String,
    position: i64,
    messages: Vec<MessageDto<'a>>,
    recovered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    has_more: bool,
    live_after: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SendArgument {
    scope_type: String,
    scope_id: String,
    text: String,
    message_id: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JoinOptions {
    after: Option<i64>,
    limit: Option<u64>,
}

fn limit(wanted: u64) -> Result<usize, String> {
    usize::try_from(wanted)
        .ok()
        .filter(|wanted| (1..=PAGE_LIMIT_MAX).contains(wanted))
        .ok_or_else(|| invalid(format!("limit must be between 1 and {PAGE_LIMIT_MAX}")))
}

fn scope(arguments: &Arguments<'_>) -> Result<Scope, String> {
    let text: String = required(arguments, 0, "the scope")?;
    Scope::parse(&text).map_err(|error| invalid(format!("scope: {error}")))
}

fn count(arguments: &Arguments<'_>, least: usize, most: usize) -> Result<(), String> {
    let given = arguments.len();
    if (least..=most).contains(&given) {
        return Ok(());
    }
    let wanted = if least == most { format!("{least}") } else { format!("{least} to {most}") };
    Err(invalid(format!("the method takes {wanted} arguments, {given} were given")))
}

/// A derived reader takes an array of the fields, too; that is not documented, so it is not taken.
fn object(arguments: &Arguments<'_>, index: usize, what: &str) -> Result<(), String> {
    if arguments.is_object(index) { Ok(()) } else { Err(invalid(format!("{what}: must be an object"))) }
}

fn required<T: serde::de::DeserializeOwned>(arguments: &Arguments<'_>, index: usize, what: &str) -> Result<T, String> {
    match arguments.read(index) {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(invalid(format!("{what}: {error}"))),
        None => Err(invalid(format!("{what} is missing"))),
    }
}

fn optional<T: serde::de::DeserializeOwned>(
    arguments: &Arguments<'_>,
    index: usize,
    what: &str,
) -> Result<Option<T>, String> {
    match arguments.read(index) {
        None => Ok(None),
        Some(read) => read.map_err(|error| invalid(format!("{what}: {error}"))),
    }
}

fn invalid(detail: impl AsRef<str>) -> String {
    hub_error(ErrorKind::Validation, detail.as_ref())
}
