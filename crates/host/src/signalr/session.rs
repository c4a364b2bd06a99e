//! One hub connection, from the upgraded socket to its end.
//!
//! The session reads, runs what is invoked and answers. It writes only what the socket did not take at once: the hub and the answers write first,
//! through the [`Peer`]. Invocations of one connection begin one after the other, so its sends enter the log in the order in which it sent them;
//! waiting for the disk happens beside that, for a bounded number of sends.

use super::handshake::{self, HandshakeError};
use super::methods::{Methods, Reply, sent};
use super::record::{Incoming, Invocation, Outcome, RecordError};
use super::socket::{Event, Reader, Violation};
use super::{json, messagepack};
use crate::auth::Identity;
use crate::error::{answer, hub_error};
use crate::metrics::{Closed, Metrics, Transport};
use crate::realtime::encode::{Chunk, Format, Opcode, RECORD_SEPARATOR, websocket_frame};
use crate::realtime::outbox::OutboxLimits;
use crate::realtime::peer::{NewPeer, Pending, Sink};
use crate::realtime::{CloseReason, Hub, Peer, Subscriber};
use bytes::Bytes;
use chatify_application::Application;
use chatify_application::ports::LiveSubscription as _;
use chatify_building_blocks::correlation::CorrelationId;
use chatify_building_blocks::error::ErrorKind;
use chatify_building_blocks::random::Random;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// What all hub connections share.
pub struct HubContext {
    /// The use cases.
    pub application: Application,
    /// The registry of connections.
    pub hub: Arc<Hub>,
    /// Where correlation ids come from.
    pub random: Arc<dyn Random>,
    /// What is counted.
    pub metrics: Metrics,
    /// The limits of a connection.
    pub limits: SessionLimits,
}

/// The limits of one connection.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Bytes of a frame, of a message and of a record from the client.
    pub frame_bytes: usize,
    /// What may wait for the socket.
    pub outbox: OutboxLimits,
    /// Sends that wait for the log; then nothing more is read.
    pub sends_in_flight: usize,
    /// Scopes a connection may be in.
    pub scopes: usize,
    /// From the upgrade to the end of the handshake.
    pub handshake_timeout: Duration,
    /// From the last words to the end of a client that does not close its side.
    pub close_timeout: Duration,
}

/// Messages read before other tasks get their turn.
const READS_PER_TURN: usize = 32;
/// How long a connection that ends waits for the answers to its sends: as long as a send may take.
const SETTLE: Duration = Duration::from_secs(6);

/// Serves one connection until it ends.
pub async fn serve(context: Arc<HubContext>, identity: Identity, socket: TcpStream, read_already: Bytes) {
    let mut reader = Reader::new(read_already, context.limits.frame_bytes);
    // Boxed: the handshake's locals are not kept for as long as the connection lives.
    let shaken =
        Box::pin(tokio::time::timeout(context.limits.handshake_timeout, shake_hands(&socket, &mut reader))).await;
    let format = match shaken {
        Ok(Ok(format)) => format,
        Ok(Err(goodbye)) => return refuse(&context, &socket, goodbye).await,
        Err(_) => return refuse(&context, &socket, Refusal::Late).await,
    };
    let new = NewPeer {
        id: context.hub.next_id(),
        user: identity.user,
        expires_at: identity.expires_at,
        format,
        sink: Sink::Socket(socket),
        limits: context.limits.outbox,
    };
    let subscriber = context.hub.connect(new);
    // Before anything is waited for: nothing, not even a ping, may come before the answer to the handshake.
    subscriber.peer().send(frame(Format::Json, handshake::response(None)));
    let (user, id) = (subscriber.peer().user().clone(), subscriber.peer().id());
    context.application.connected(&user, id).await;
    context.metrics.connection_opened(Transport::WebSocket);
    let session = async {
        let mut session = Session { context: &context, subscriber, reader, sends: FuturesUnordered::new() };
        let end = session.run().await;
        Box::pin(session.say_goodbye(end)).await
    };
    // A panic ends this connection and nothing else, and presence and the metrics are told of that end as of any other.
    let ended = AssertUnwindSafe(session).catch_unwind().await;
    context.metrics.connection_closed(Transport::WebSocket, *ended.as_ref().unwrap_or(&Closed::ServerError));
    context.application.disconnected(&user, id).await;
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The socket broke.
    Gone,
    /// A WebSocket close frame from the client was answered, which ends everything.
    Answered,
    /// The server ends it.
    Closed(CloseReason),
    /// The client broke the WebSocket protocol.
    Violation(Violation),
    /// The client broke the hub protocol.
    Record(RecordErrorCode),
    /// The client sent a close message.
    Left,
}

/// A [`RecordError`] with its close code.
#[derive(Clone, Copy, Debug)]
struct RecordErrorCode {
    code: u16,
    message: &'static str,
}

impl From<RecordError> for RecordErrorCode {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Malformed("UTF-8") => Self { code: 1007, message: "a record is not UTF-8" },
            RecordError::Malformed(_) => {
                Self { code: 1007, message: "a record is not in the encoding of the handshake" }
            }
            RecordError::NotAMessage(message) => Self { code: 1002, message },
            RecordError::TooLong(_) => Self { code: 1009, message: "a record is too long" },
        }
    }
}

struct Session<'a> {
    context: &'a HubContext,
    subscriber: Subscriber,
    reader: Reader,
    /// Sends on their way to the disk; each gives the frame of its completion.
    sends: FuturesUnordered<BoxFuture<'static, Option<Chunk>>>,
}

impl Session<'_> {
    fn peer(&self) -> &Arc<Peer> {
        self.subscriber.peer()
    }

    async fn run(&mut self) -> End {
        // The client may have sent records right behind its handshake.
        if let Err(end) = self.take_records().await {
            return end;
        }
        loop {
            let peer = self.subscriber.peer().clone();
            let socket = peer.socket().expect("a session's peer has a socket");
            let pending = peer.pending();
            if let Some(reason) = peer.closing() {
                return End::Closed(reason);
            }
            if pending == Pending::Broken {
                return End::Gone;
            }
            let room = self.sends.len() < self.context.limits.sends_in_flight;
            // The order is a priority: ending and writing free memory, answers free room, and only then more is read.
            tokio::select! {
                biased;
                () = peer.woken() => {}
                _ = socket.writable(), if pending == Pending::Backlog => peer.flush(),
                Some(completion) = self.sends.next(), if !self.sends.is_empty() => self.complete(completion),
                _ = socket.readable(), if room => if let Err(end) = self.read(socket).await { return end },
            }
        }
    }

    /// Sends this completion and all others that are ready, in one write.
    fn complete(&mut self, first: Option<Chunk>) {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut next = first;
        loop {
            if let Some(chunk) = next {
                self.peer().queue_answer(chunk);
            }
            match self.sends.poll_next_unpin(&mut context) {
                std::task::Poll::Ready(Some(completion)) => next = completion,
                std::task::Poll::Ready(None) | std::task::Poll::Pending => break,
            }
        }
        self.peer().flush();
    }

    async fn read(&mut self, socket: &TcpStream) -> Result<(), End> {
        for _ in 0..READS_PER_TURN {
            let mut replies = Vec::new();
            let event = self.reader.read(socket, &mut replies);
            if !replies.is_empty() {
                self.peer().send(Chunk { bytes: replies.into(), frames: 1 });
            }
            match event {
                Event::Data => {
                    self.peer().heard();
                    self.take_records().await?;
                }
                Event::Heartbeat => self.peer().heard(),
                Event::Blocked => return Ok(()),
                Event::Closed => return Err(End::Answered),
                Event::Gone => return Err(End::Gone),
                Event::Violation(violation) => return Err(End::Violation(violation)),
            }
            if self.sends.len() >= self.context.limits.sends_in_flight {
                return Ok(());
            }
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Runs every whole record that was read. One that stands alone in its message is the rule, so no list is made.
    async fn take_records(&mut self) -> Result<(), End> {
        while let Some(record) = self.next_record().map_err(|error| End::Record(error.into()))? {
            let incoming = match self.peer().format() {
                Format::MessagePack => messagepack::parse(&record),
                Format::Json | Format::EventStream => json::parse(&record),
            };
            match incoming.map_err(|error| End::Record(error.into()))? {
                // Boxed: an idle connection does not carry the largest use case's state.
                Incoming::Invocation(call) => Box::pin(self.invoke(call)).await,
                Incoming::StreamInvocation { id } => {
                    let error = hub_error(ErrorKind::NotFound, "there are no streaming methods");
                    self.answer(&id, &Outcome::Error(error));
                }
                Incoming::Close => return Err(End::Left),
                Incoming::CancelInvocation | Incoming::Ping | Incoming::Unused => {}
            }
            // The bound holds within one message of many records too.
            while self.sends.len() >= self.context.limits.sends_in_flight {
                if let Some(completion) = self.sends.next().await {
                    self.complete(completion);
                }
            }
        }
        Ok(())
    }

    fn next_record(&mut self) -> Result<Option<Bytes>, RecordError> {
        let max = self.context.limits.frame_bytes;
        let pending = self.reader.pending();
        if pending.is_empty() {
            return Ok(None);
        }
        if self.peer().format() == Format::MessagePack {
            let Some((start, end)) = messagepack::frame(pending, max)? else { return Ok(None) };
            return Ok(Some(self.reader.take(end).slice(start..)));
        }
        match memchr::memchr(RECORD_SEPARATOR, pending) {
            Some(at) => Ok(Some(self.reader.take(at + 1).slice(..at))),
            None if pending.len() > max => Err(RecordError::TooLong(max)),
            None => Ok(None),
        }
    }

    async fn invoke(&mut self, call: Invocation<'_>) {
        let methods = Methods {
            application: &self.context.application,
            subscriber: &self.subscriber,
            max_scopes: self.context.limits.scopes,
        };
        let correlation = CorrelationId::generate(&*self.context.random);
        match methods.invoke(&call, correlation).await {
            Reply::Now(outcome) => self.answer_call(&call, &outcome),
            Reply::Join { outcome, scope, live_after } => {
                self.answer_call(&call, &outcome);
                self.subscriber.release(&scope, live_after);
            }
            Reply::Later(sending) => {
                let id = call.id.as_deref().map(str::to_owned);
                let format = self.peer().format();
                self.sends.push(Box::pin(async move {
                    let outcome = sent(sending).await;
                    id.map(|id| completion(format, &id, &outcome))
                }));
            }
        }
    }

    /// An invocation without an id wants no answer, not even an error.
    fn answer_call(&self, call: &Invocation<'_>, outcome: &Outcome) {
        if let Some(id) = &call.id {
            self.answer(id, outcome);
        }
    }

    fn answer(&self, id: &str, outcome: &Outcome) {
        self.peer().send(completion(self.peer().format(), id, outcome));
    }

    /// Settles what was begun, says why it ends, and gives the client a moment to read it. The answer names the reason for the metrics.
    async fn say_goodbye(&mut self, end: End) -> Closed {
        let (reason, error, allow_reconnect, code) = match end {
            End::Gone => return Closed::ClientGone,
            End::Answered => return Closed::ClientLeft,
            End::Left => (Closed::ClientLeft, None, false, NORMAL),
            End::Violation(violation) => (
                violated(violation.code),
                Some(hub_error(ErrorKind::Validation, violation.message)),
                false,
                violation.code,
            ),
            End::Record(record) => {
                (violated(record.code), Some(hub_error(ErrorKind::Validation, record.message)), false, record.code)
            }
            End::Closed(reason) => closing(reason),
        };
        if matches!(end, End::Closed(CloseReason::Draining | CloseReason::TokenExpired) | End::Left) {
            self.settle().await;
        }
        let format = self.peer().format();
        let mut record = Vec::new();
        match format {
            Format::MessagePack => messagepack::close(error.as_deref(), allow_reconnect, &mut record),
            Format::Json | Format::EventStream => json::close(error.as_deref(), allow_reconnect, &mut record),
        }
        let mut bytes = Vec::from(frame(format, record).bytes);
        close_frame(code, &mut bytes);
        self.peer().send(Chunk { bytes: bytes.into(), frames: 2 });
        drop(tokio::time::timeout(self.context.limits.close_timeout, self.linger()).await);
        reason
    }

    /// Waits for the log's word on what is in flight, so that no answer is lost by the server's leaving.
    async fn settle(&mut self) {
        let all = async {
            while let Some(completion) = self.sends.next().await {
                if let Some(chunk) = completion {
                    self.subscriber.peer().send(chunk);
                }
            }
        };
        drop(tokio::time::timeout(SETTLE, all).await);
    }

    /// Writes what is left, then waits for the client to close its side: closing with unread input would discard the last words.
    async fn linger(&mut self) {
        let peer = self.peer().clone();
        let socket = peer.socket().expect("a session's peer has a socket");
        while peer.pending() == Pending::Backlog {
            if socket.writable().await.is_err() {
                return;
            }
            peer.flush();
        }
        drain_input(socket).await;
    }
}

/// Ends our side and reads the other's rest, which nobody wants, until it ends too.
async fn drain_input(socket: &TcpStream) {
    drop(socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Write));
    let mut rest = [0u8; 1024];
    while socket.readable().await.is_ok() {
        match socket.try_read(&mut rest) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// The IANA registry's close codes for a server that restarts, and for one that wants to be asked again later.
const NORMAL: u16 = 1000;
const TOO_BIG: u16 = 1009;
const SERVICE_RESTART: u16 = 1012;
const TRY_AGAIN_LATER: u16 = 1013;

fn violated(code: u16) -> Closed {
    if code == TOO_BIG { Closed::TooLarge } else { Closed::Protocol }
}

/// `(metric, error, allow reconnect, close code)`
fn closing(reason: CloseReason) -> (Closed, Option<String>, bool, u16) {
    match reason {
        CloseReason::Draining => (Closed::Draining, None, true, SERVICE_RESTART),
        CloseReason::SlowConsumer => {
            let error =
                "SLOW_CONSUMER: more messages waited than the connection may hold; reconnect and resume by position";
            (Closed::SlowConsumer, Some(error.to_owned()), true, TRY_AGAIN_LATER)
        }
        CloseReason::Interrupted => {
            let error = "INTERRUPTED: this server missed messages of a scope; reconnect and resume by position";
            (Closed::Interrupted, Some(error.to_owned()), true, SERVICE_RESTART)
        }
        CloseReason::TokenExpired => {
            let kind = ErrorKind::Unauthenticated;
            (Closed::TokenExpired, Some(hub_error(kind, "the token has expired")), true, answer(kind).close_code)
        }
        CloseReason::ClientTimeout => {
            let kind = ErrorKind::Timeout;
            (
                Closed::ClientTimeout,
                Some(hub_error(kind, "nothing was heard from the client")),
                true,
                answer(kind).close_code,
            )
        }
    }
}

fn completion(format: Format, id: &str, outcome: &Outcome) -> Chunk {
    let mut record = Vec::with_capacity(512);
    match format {
        Format::MessagePack => messagepack::completion(id, outcome, &mut record),
        Format::Json | Format::EventStream => json::completion(id, outcome, &mut record),
    }
    frame(format, record)
}

fn frame(format: Format, record: Vec<u8>) -> Chunk {
    let opcode = if format == Format::MessagePack { Opcode::Binary } else { Opcode::Text };
    let mut bytes = Vec::with_capacity(record.len() + 10);
    websocket_frame(opcode, &record, &mut bytes);
    Chunk { bytes: bytes.into(), frames: 1 }
}

fn close_frame(code: u16, out: &mut Vec<u8>) {
    websocket_frame(Opcode::Close, &code.to_be_bytes(), out);
}

/// Why there is no connection.
#[derive(Debug)]
enum Refusal {
    Gone,
    Late,
    Handshake(HandshakeError),
    Violation(Violation),
}

async fn shake_hands(socket: &TcpStream, reader: &mut Reader) -> Result<Format, Refusal> {
    loop {
        if let Some(at) = memchr::memchr(RECORD_SEPARATOR, reader.pending()) {
            return handshake::parse(&reader.take(at + 1)[..at]).map_err(Refusal::Handshake);
        }
        if reader.pending().len() > handshake::MAX_BYTES {
            return Err(Refusal::Handshake(HandshakeError::Malformed));
        }
        let mut replies = Vec::new();
        let event = reader.read(socket, &mut replies);
        write_all(socket, &replies).await.map_err(|_| Refusal::Gone)?;
        match event {
            Event::Data | Event::Heartbeat => {}
            Event::Blocked => socket.readable().await.map_err(|_| Refusal::Gone)?,
            Event::Closed | Event::Gone => return Err(Refusal::Gone),
            Event::Violation(violation) => return Err(Refusal::Violation(violation)),
        }
    }
}

/// Tells a client without a handshake why it ends; always as text, because no encoding was agreed on.
async fn refuse(context: &HubContext, socket: &TcpStream, refusal: Refusal) {
    let (error, code) = match refusal {
        Refusal::Gone => return,
        Refusal::Late => (None, 1002),
        Refusal::Handshake(error) => (Some(error), 1002),
        Refusal::Violation(violation) => (None, violation.code),
    };
    let mut bytes = Vec::new();
    if let Some(error) = &error {
        websocket_frame(Opcode::Text, &handshake::response(Some(error)), &mut bytes);
    }
    close_frame(code, &mut bytes);
    let goodbye = async {
        if write_all(socket, &bytes).await.is_ok() {
            drain_input(socket).await;
        }
    };
    drop(tokio::time::timeout(context.limits.close_timeout, goodbye).await);
}

async fn write_all(socket: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Noted, Stand, until};
    use async_trait::async_trait;
    use chatify_application::ports::RateLimiter;
    use chatify_application::ports::rate_limit::Decision;
    use chatify_building_blocks::random::SystemRandom;
    use chatify_domain::{SenderId, Timestamp};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A port with a bug.
    struct Faulty;

    #[async_trait]
    impl RateLimiter for Faulty {
        async fn check_send(&self, _user: &SenderId) -> Decision {
            panic!("on purpose")
        }
    }

    /// A text frame from a client, masked with zeros.
    fn from_client(record: &str) -> Vec<u8> {
        let length = u8::try_from(record.len() + 1).expect("a short record");
        let mut bytes = vec![0x81, 0x80 | length, 0, 0, 0, 0];
        bytes.extend_from_slice(record.as_bytes());
        bytes.push(RECORD_SEPARATOR);
        bytes
    }

    #[tokio::test]
    async fn a_panic_ends_its_connection_and_leaves_nobody_online() {
        let stand = Stand::start(Noted::default(), |ports| ports.limiter = Arc::new(Faulty)).await;
        let context = HubContext {
            application: stand.application.clone(),
            hub: stand.hub.clone(),
            random: Arc::new(SystemRandom),
            metrics: stand.metrics.clone(),
            limits: SessionLimits {
                frame_bytes: 1024,
                outbox: OutboxLimits { frames: 8, bytes: 8192 },
                sends_in_flight: 1,
                scopes: 1,
                handshake_timeout: Duration::from_secs(20),
                close_timeout: Duration::from_secs(20),
            },
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("an address");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("a connection");
        let (socket, _) = listener.accept().await.expect("a connection");
        let user = SenderId::parse("alice").expect("an id");
        let identity = Identity { user, expires_at: Timestamp::from_millis(i64::MAX) };
        stand.supervisor.work("hub-session", serve(Arc::new(context), identity, socket, Bytes::new()));
        client.write_all(&from_client(r#"{"protocol":"json","version":1}"#)).await.expect("written");
        let send =
            r#"{"type":1,"target":"Send","arguments":[{"scopeType":"Channel","scopeId":"general","text":"hi"}]}"#;
        client.write_all(&from_client(send)).await.expect("written");
        let mut said = Vec::new();
        // The connection ends, with a reset or without: what the client had still to say does not matter.
        drop(client.read_to_end(&mut said).await);
        until("presence is told of the end", || stand.presence.noted() == ["connected", "disconnected"]).await;
        assert_eq!(stand.hub.open(), 0);
        let closed = "chatify_connections_closed_total{transport=\"websocket\",reason=\"server_error\"} 1";
        assert!(stand.metrics.render().contains(closed), "{}", stand.metrics.render());
        stand.end().await;
    }

    fn output_size<A, B, C, D, F>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Ten thousand idle connections are ten thousand of these futures.
    #[test]
    fn an_idle_session_is_small() {
        let bytes = output_size(serve);
        assert!(bytes <= 2560, "{bytes} bytes");
    }
}
