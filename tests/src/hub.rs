//! A well-behaved hub client: what a correct implementation of the SignalR hub protocol would do, and nothing more.

use crate::message::ChatMessage;
use crate::records::{Format, RECORD_SEPARATOR, Record};
use crate::waiting::{SOON, within};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// How to connect.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// How records look on the wire.
    pub format: Format,
    /// The `Origin` that a browser would send.
    pub origin: Option<String>,
    /// Whether the token goes into the query, as browsers must, and not into a header.
    pub token_in_query: bool,
    /// Whether the kernel holds next to nothing for this client, so that a client that does not read is soon a slow one.
    pub small_buffers: bool,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self { format: Format::Json, origin: None, token_in_query: false, small_buffers: false }
    }
}

/// A connection that has shaken hands.
#[derive(Debug)]
pub struct Hub {
    socket: WebSocketStream<TcpStream>,
    format: Format,
    calls: u64,
    records: VecDeque<Record>,
    messages: VecDeque<ChatMessage>,
    close_record: Option<(Option<String>, bool)>,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The Close record's error and whether it allows to reconnect, when there was one.
    pub close_record: Option<(Option<String>, bool)>,
    /// The WebSocket close code, when there was one.
    pub code: Option<u16>,
}

/// Why something did not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// No TCP connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// The upgrade was refused with this status.
    #[error("the upgrade was refused with {0}: {1}")]
    Refused(u16, String),
    /// The hub protocol's handshake was refused.
    #[error("the handshake was refused: {0}")]
    Handshake(String),
    /// The call ended with an error.
    #[error("the call ended with an error: {0}")]
    Call(String),
    /// The connection ended.
    #[error("the connection ended: {0:?}")]
    Ended(Ending),
}

/// The answer to a join.
#[derive(Clone, Debug)]
pub struct JoinAnswer {
    /// The scope in its full form.
    pub scope: String,
    /// The cursor to resume from.
    pub position: i64,
    /// Ascending by position.
    pub messages: Vec<ChatMessage>,
    /// Whether nothing is missing.
    pub recovered: bool,
    /// Why something may be missing.
    pub reason: Option<String>,
    /// Whether there is more between `position` and `live_after`.
    pub has_more: bool,
    /// Live delivery starts behind this position.
    pub live_after: i64,
}

impl Hub {
    /// Connects, upgrades and shakes hands.
    ///
    /// # Errors
    /// Where it failed.
    pub async fn connect(address: SocketAddr, token: &str, options: HubOptions) -> Result<Self, HubError> {
        let connecting = Self::connect_whenever(address, token, options);
        within(SOON, "the handshake of a hub connection", connecting).await
    }

    /// As [`Hub::connect`], for whoever expects that nobody may answer.
    ///
    /// # Errors
    /// Where it failed; a server that does not answer within `deadline` counts as no connection.
    pub async fn connect_within(
        deadline: Duration,
        address: SocketAddr,
        token: &str,
        options: HubOptions,
    ) -> Result<Self, HubError> {
        let connecting = tokio::time::timeout(deadline, Self::connect_whenever(address, token, options));
        connecting.await.unwrap_or_else(|_| Err(HubError::Connect(format!("no answer within {deadline:?}"))))
    }

    async fn connect_whenever(address: SocketAddr, token: &str, options: HubOptions) -> Result<Self, HubError> {
        let stream =
            open(address, options.small_buffers).await.map_err(|error| HubError::Connect(error.to_string()))?;
        let query = if options.token_in_query { format!("?access_token={token}") } else { String::new() };
        let mut request = format!("ws://{address}/hubs/chat{query}").into_client_request().expect("a valid address");
        let header = |text: &str| HeaderValue::from_str(text).expect("tests write valid headers");
        if !options.token_in_query {
            request.headers_mut().insert("Authorization", header(&format!("Bearer {token}")));
        }
        if let Some(origin) = &options.origin {
            request.headers_mut().insert("Origin", header(origin));
        }
        let socket = match client_async(request, stream).await {
            Ok((socket, _)) => socket,
            Err(WebSocketError::Http(answer)) => {
                let body = answer.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
                return Err(HubError::Refused(answer.status().as_u16(), body));
            }
            Err(error) => return Err(HubError::Connect(error.to_string())),
        };
        let (records, messages) = (VecDeque::new(), VecDeque::new());
        let mut hub = Self { socket, format: options.format, calls: 0, records, messages, close_record: None };
        hub.shake_hands().await?;
        Ok(hub)
    }

    async fn shake_hands(&mut self) -> Result<(), HubError> {
        let request = json!({"protocol": self.format.name(), "version": 1});
        self.write(Message::text(format!("{request}\u{1e}"))).await?;
        let frame = self.read_frame().await?;
        let bytes = frame.into_data();
        // The specification lets the first records follow the answer within the same frame.
        let end = bytes.iter().position(|&byte| byte == RECORD_SEPARATOR);
        let end = end.ok_or_else(|| HubError::Handshake(format!("an answer without its end: {bytes:?}")))?;
        let answer: Value =
            serde_json::from_slice(&bytes[..end]).map_err(|error| HubError::Handshake(error.to_string()))?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => return Err(HubError::Handshake(error.to_owned())),
            None => assert_eq!(answer, json!({}), "the answer to a handshake has no other field than `error`"),
        }
        let rest = &bytes[end + 1..];
        if !rest.is_empty() {
            let text = || String::from_utf8(rest.to_vec()).expect("records in JSON are UTF-8");
            let frame = match self.format {
                Format::Json => Message::text(text()),
                Format::MessagePack => Message::binary(rest.to_vec()),
            };
            self.records.extend(self.format.read(&frame).expect("the server keeps to the protocol"));
        }
        Ok(())
    }

    /// Calls a method and waits for its answer; messages that come meanwhile are kept for [`Hub::message`].
    ///
    /// # Errors
    /// The call's own error, or the end of the connection.
    pub async fn call(&mut self, target: &str, arguments: Vec<Value>) -> Result<Value, HubError> {
        let id = self.start_call(target, arguments).await?;
        self.answer_to(&id).await
    }

    /// Calls a method without waiting for its answer, which [`Hub::record`] gives later.
    ///
    /// # Errors
    /// The end of the connection.
    pub async fn start_call(&mut self, target: &str, arguments: Vec<Value>) -> Result<String, HubError> {
        self.calls += 1;
        let id = self.calls.to_string();
        self.send_record(&Record::call(&id, target, arguments)).await?;
        Ok(id)
    }

    /// Waits for the answer to one call.
    ///
    /// # Errors
    /// The call's own error, or the end of the connection.
    pub async fn answer_to(&mut self, id: &str) -> Result<Value, HubError> {
        Ok(self.answers_to(&[id.to_owned()]).await?.remove(0))
    }

    /// Waits for the answers to some calls, which may come in any order; gives them in that of `ids`.
    ///
    /// # Errors
    /// The first error of a call, or the end of the connection.
    pub async fn answers_to(&mut self, ids: &[String]) -> Result<Vec<Value>, HubError> {
        let mut answers = BTreeMap::new();
        while answers.len() < ids.len() {
            match self.record().await? {
                Record::Completion { id, outcome } if ids.contains(&id) && !answers.contains_key(&id) => {
                    answers.insert(id, outcome.map_err(HubError::Call)?);
                }
                Record::Invocation { arguments, .. } => self.keep(&arguments),
                Record::Ping => {}
                other => panic!("waiting for the answers to {ids:?}, got {other:?}"),
            }
        }
        Ok(ids.iter().map(|id| answers.remove(id).expect("each was answered")).collect())
    }

    /// Starts to receive a scope.
    ///
    /// # Errors
    /// The call's own error, or the end of the connection.
    pub async fn join(&mut self, scope: &str, after: Option<i64>) -> Result<JoinAnswer, HubError> {
        let arguments = match after {
            Some(position) => vec![json!(scope), json!({"after": position})],
            None => vec![json!(scope)],
        };
        let answer = self.call("JoinScope", arguments).await?;
        Ok(JoinAnswer::read(&answer).unwrap_or_else(|error| panic!("the answer to a join: {error}: {answer}")))
    }

    /// Sends a message and waits for its acceptance.
    ///
    /// # Errors
    /// The call's own error, or the end of the connection: then whether it was accepted is not known.
    pub async fn send(&mut self, scope: &str, text: &str, message_id: &str) -> Result<ChatMessage, HubError> {
        let answer = self.call("Send", vec![send_argument(scope, text, message_id)]).await?;
        let message = ChatMessage::read(&answer["chatEvent"]).unwrap_or_else(|error| panic!("{error}: {answer}"));
        assert_eq!(answer["position"].as_i64(), Some(message.position), "{answer}");
        Ok(message)
    }

    /// The next message of any scope.
    ///
    /// # Panics
    /// When none comes in time or the connection ends.
    pub async fn message(&mut self) -> ChatMessage {
        self.next_message().await.unwrap_or_else(|error| panic!("waiting for a message: {error}"))
    }

    /// The next message of any scope.
    ///
    /// # Errors
    /// The end of the connection.
    pub async fn next_message(&mut self) -> Result<ChatMessage, HubError> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(message);
            }
            match self.record().await? {
                Record::Invocation { arguments, .. } => self.keep(&arguments),
                Record::Ping => {}
                other => panic!("waiting for a message, got {other:?}"),
            }
        }
    }

    /// Messages that came while something else was waited for.
    pub fn kept_messages(&mut self) -> Vec<ChatMessage> {
        self.messages.drain(..).collect()
    }

    fn keep(&mut self, arguments: &[Value]) {
        let [message] = arguments else { panic!("ReceiveMessage has one argument: {arguments:?}") };
        self.messages.push_back(ChatMessage::read(message).expect("ReceiveMessage carries a message"));
    }

    /// The next record that the server sends, as it is. May be cancelled without losing one.
    ///
    /// # Errors
    /// The end of the connection.
    ///
    /// # Panics
    /// When none comes in time: the server pings idle connections.
    pub async fn record(&mut self) -> Result<Record, HubError> {
        self.record_within(SOON).await
    }

    /// As [`Hub::record`], with a deadline of its own.
    ///
    /// # Errors
    /// The end of the connection.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn record_within(&mut self, deadline: Duration) -> Result<Record, HubError> {
        within(deadline, "the next record", self.record_whenever()).await
    }

    /// As [`Hub::record`], for as long as it takes.
    ///
    /// # Errors
    /// The end of the connection.
    pub async fn record_whenever(&mut self) -> Result<Record, HubError> {
        loop {
            if let Some(record) = self.records.pop_front() {
                if let Record::Close { error, allow_reconnect } = &record {
                    self.close_record = Some((error.clone(), *allow_reconnect));
                    continue;
                }
                assert!(self.close_record.is_none(), "a record after the Close record: {record:?}");
                if let Record::Invocation { id, target, .. } = &record {
                    assert_eq!(
                        (id.as_deref(), target.as_str()),
                        (None, "ReceiveMessage"),
                        "the one call of the server"
                    );
                }
                return Ok(record);
            }
            let frame = self.read_frame().await?;
            self.records.extend(self.format.read(&frame).unwrap_or_else(|error| panic!("the server sent {error}")));
        }
    }

    /// Reads until the connection ends and says how it did; everything that still came is thrown away.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ending(&mut self) -> Ending {
        within(SOON, "the end of a connection", async {
            loop {
                if let Err(HubError::Ended(ending)) = self.record_whenever().await {
                    return ending;
                }
            }
        })
        .await
    }

    /// Writes one record.
    ///
    /// # Errors
    /// The end of the connection.
    pub async fn send_record(&mut self, record: &Record) -> Result<(), HubError> {
        self.write(self.format.frame(std::slice::from_ref(record))).await
    }

    /// Writes one frame as it is.
    ///
    /// # Errors
    /// The end of the connection.
    pub async fn write(&mut self, frame: Message) -> Result<(), HubError> {
        if self.socket.send(frame).await.is_err() {
            // What the server said before it closed is still to be read, and says more than the failed write.
            return Err(HubError::Ended(self.ending().await));
        }
        Ok(())
    }

    /// Ends the connection as a client should and waits until the server has seen it.
    pub async fn close(mut self) {
        drop(self.socket.close(None).await);
        self.ending().await;
    }

    async fn read_frame(&mut self) -> Result<Message, HubError> {
        loop {
            let close_record = self.close_record.clone();
            match self.socket.next().await {
                Some(Ok(frame @ (Message::Text(_) | Message::Binary(_)))) => return Ok(frame),
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map(|frame| u16::from(frame.code));
                    // Reading on lets the library answer the close, which the server waits for.
                    while let Some(Ok(_)) = self.socket.next().await {}
                    return Err(HubError::Ended(Ending { close_record, code }));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(HubError::Ended(Ending { close_record, code: None })),
            }
        }
    }
}

impl JoinAnswer {
    /// Reads the result of `JoinScope` strictly.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(value: &Value) -> Result<Self, String> {
        let number = |name: &str| value[name].as_i64().ok_or_else(|| format!("no number `{name}`"));
        let flag = |name: &str| value[name].as_bool().ok_or_else(|| format!("no flag `{name}`"));
        Ok(Self {
            scope: value["scope"].as_str().ok_or("no `scope`")?.to_owned(),
            position: number("position")?,
            messages: ChatMessage::read_all(&value["messages"])?,
            recovered: flag("recovered")?,
            reason: value["reason"].as_str().map(str::to_owned),
            has_more: flag("hasMore")?,
            live_after: number("liveAfter")?,
        })
    }
}

/// The argument of `Send`.
#[must_use]
pub fn send_argument(scope: &str, text: &str, message_id: &str) -> Value {
    let (kind, id) = scope.split_once(':').unwrap_or(("Channel", scope));
    json!({"scopeType": kind, "scopeId": id, "text": text, "messageId": message_id})
}

/// A TCP connection. With `small_buffers` the window and the segments are so small that neither kernel holds more than some
/// tens of KiB for a client that does not read.
async fn open(address: SocketAddr, small_buffers: bool) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if small_buffers {
        socket.set_recv_buffer_size(4096)?;
        socket.set_tcp_mss(1024)?;
    }
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    TcpSocket::from_std_stream(socket.into()).connect(address).await
}
