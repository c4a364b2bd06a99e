//! The WebSocket below the hub protocol. Reading (frames, masks, fragments, control frames, limits) is tungstenite's, fed by hand so that no bytes are
//! written behind the outbox's back; writing is ours, because server frames are made once and shared.

use bytes::{Bytes, BytesMut};
use std::io::{ErrorKind, Read, Write};
use tokio::net::TcpStream;
use tungstenite::Message;
use tungstenite::error::{CapacityError, Error};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

/// Kept for each connection for as long as it lives; a send has a few hundred bytes.
const READ_BUFFER_BYTES: usize = 1024;

/// The reading half of a WebSocket, and the records that have not been taken from it yet.
pub struct Reader {
    context: WebSocketContext,
    /// Bytes of records that are not complete: the protocol is a stream of records, whatever frames they come in.
    pending: BytesMut,
    max_bytes: usize,
    eof: bool,
}

/// What reading brought.
#[derive(Debug)]
pub enum Event {
    /// Bytes were added to [`Reader::pending`].
    Data,
    /// The peer shows that it is there.
    Heartbeat,
    /// Nothing more for now.
    Blocked,
    /// The peer said goodbye.
    Closed,
    /// The peer is gone.
    Gone,
    /// The peer broke the WebSocket protocol or a limit.
    Violation(Violation),
}

/// Which rule, as its close code (RFC 6455, section 7.4.1) and in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The close code.
    pub code: u16,
    /// For the client.
    pub message: &'static str,
}

impl Reader {
    /// A reader on a socket whose upgrade is done; `read_already` came behind the upgrade request.
    pub fn new(read_already: Bytes, max_bytes: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(Some(max_bytes))
            .max_frame_size(Some(max_bytes));
        let context = WebSocketContext::from_partially_read(read_already.into(), Role::Server, Some(config));
        Self { context, pending: BytesMut::new(), max_bytes, eof: false }
    }

    /// Reads one WebSocket message. Answers to the peer's control frames are appended to `replies`, which the caller sends.
    pub fn read(&mut self, socket: &TcpStream, replies: &mut Vec<u8>) -> Event {
        if self.eof {
            return Event::Gone;
        }
        match self.context.read(&mut Wire { socket, replies }) {
            Ok(Message::Text(text)) => self.keep(text.as_bytes()),
            Ok(Message::Binary(bytes)) => self.keep(&bytes),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Event::Heartbeat,
            Ok(Message::Close(_)) => {
                // One more call writes the reply, which is all that is left to do.
                drop(self.context.flush(&mut Wire { socket, replies }));
                self.eof = true;
                Event::Closed
            }
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Event::Blocked,
            Err(error) => {
                self.eof = true;
                violation(&error).map_or(Event::Gone, Event::Violation)
            }
        }
    }

    /// Bytes of records that were not taken yet.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Takes the first `count` pending bytes.
    pub fn take(&mut self, count: usize) -> Bytes {
        let taken = self.pending.split_to(count).freeze();
        if self.pending.is_empty() {
            // A connection that is idle keeps nothing.
            self.pending = BytesMut::new();
        }
        taken
    }

    fn keep(&mut self, bytes: &[u8]) -> Event {
        if self.pending.len() + bytes.len() > 2 * self.max_bytes {
            self.eof = true;
            return Event::Violation(TOO_LONG);
        }
        self.pending.extend_from_slice(bytes);
        Event::Data
    }
}

/// A message, frame or record above its limit.
pub const TOO_LONG: Violation = Violation { code: 1009, message: "the message is too long" };

fn violation(error: &Error) -> Option<Violation> {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. } | CapacityError::TooManyHeaders) => Some(TOO_LONG),
        Error::Utf8(_) => Some(Violation { code: 1007, message: "a text message is not UTF-8" }),
        Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(Violation { code: 1002, message: "a frame breaks the WebSocket protocol" }),
        _ => None,
    }
}

/// What tungstenite reads from and writes to.
struct Wire<'a> {
    socket: &'a TcpStream,
    replies: &'a mut Vec<u8>,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.socket.try_read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.replies.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
