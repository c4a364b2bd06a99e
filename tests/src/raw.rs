//! A client that writes exactly the bytes it is told to, so that it can break every rule.

use crate::http::Answer;
use crate::waiting::{SOON, within};
use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Most that is read of one answer.
const ANSWER_LIMIT: usize = 8 << 20;

/// A TCP connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A WebSocket frame as RFC 6455 (section 5.2) lays it out, without any of its rules.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Whether it is the last one of its message.
    pub fin: bool,
    /// The three reserved bits.
    pub reserved: u8,
    /// What it is.
    pub opcode: u8,
    /// Whether it is masked, as a client's frames must be.
    pub masked: bool,
    /// The length that it announces, when that is not the payload's own.
    pub announced: Option<u64>,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// A frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFrame {
    /// What it is.
    pub opcode: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// A continued message's frame.
pub const CONTINUATION: u8 = 0;
/// A frame of text.
pub const TEXT: u8 = 1;
/// A frame of bytes.
pub const BINARY: u8 = 2;
/// The end.
pub const CLOSE: u8 = 8;
/// A WebSocket's own ping, not the hub protocol's.
pub const PING: u8 = 9;
/// The answer to a ping.
pub const PONG: u8 = 10;

impl Frame {
    /// A frame that keeps to the rules.
    #[must_use]
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { fin: true, reserved: 0, opcode, masked: true, announced: None, payload: payload.into() }
    }

    /// A frame of text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::new(TEXT, text)
    }

    /// The same frame with more to come.
    #[must_use]
    pub fn unfinished(self) -> Self {
        Self { fin: false, ..self }
    }

    /// The frame's bytes. The mask is all zeros: allowed, and readable in a dump.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.fin) << 7 | self.reserved << 4 | self.opcode];
        let mask_bit = if self.masked { 0x80 } else { 0 };
        match (self.announced, self.payload.len()) {
            (None, length @ 0..=125) => bytes.push(mask_bit | u8::try_from(length).expect("checked")),
            (None, length @ 126..=0xffff) => {
                bytes.push(mask_bit | 126);
                bytes.extend_from_slice(&u16::try_from(length).expect("checked").to_be_bytes());
            }
            (announced, length) => {
                bytes.push(mask_bit | 127);
                bytes.extend_from_slice(&announced.unwrap_or(length as u64).to_be_bytes());
            }
        }
        if self.masked {
            bytes.extend_from_slice(&[0; 4]);
        }
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

impl Raw {
    /// Connects.
    ///
    /// # Panics
    /// When the server takes no connections.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within(SOON, "a TCP connection", TcpStream::connect(address)).await.expect("the server listens");
        stream.set_nodelay(true).expect("a fresh socket takes options");
        Self { stream, buffer: Vec::new() }
    }

    /// Writes `bytes`; a server that has closed already is no mistake of the writer.
    pub async fn write(&mut self, bytes: &[u8]) {
        let writing = self.stream.write_all(bytes);
        drop(within(SOON, "writing", writing).await);
    }

    /// Writes `bytes` one by one.
    pub async fn dribble(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write(&[*byte]).await;
        }
    }

    /// Writes `byte` again and again, one every `period`, until the server closes the connection.
    ///
    /// # Panics
    /// When it does not within `deadline`.
    pub async fn dribble_until_closed(&mut self, byte: u8, period: Duration, deadline: Duration) {
        let mut ticks = tokio::time::interval(period);
        within(deadline, "the server closes the connection", async {
            loop {
                tokio::select! {
                    more = self.stream.read_buf(&mut self.buffer) => if !matches!(more, Ok(count) if count > 0) { return },
                    // A write that fails shows on the next read.
                    _ = ticks.tick() => drop(self.stream.try_write(&[byte])),
                }
            }
        })
        .await;
    }

    /// Writes one frame.
    pub async fn write_frame(&mut self, frame: &Frame) {
        self.write(&frame.bytes()).await;
    }

    /// Asks for a WebSocket and gives the answer.
    pub async fn upgrade(&mut self, path: &str, headers: &[(&str, &str)]) -> Option<Answer> {
        let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        self.write(request.as_bytes()).await;
        self.answer().await
    }

    /// Reads one HTTP answer; `None` when the server closes instead of answering.
    ///
    /// # Panics
    /// When neither happens in time, or the answer is not HTTP.
    pub async fn answer(&mut self) -> Option<Answer> {
        within(SOON, "an answer or the end of the connection", self.answer_whenever()).await
    }

    async fn answer_whenever(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
            if !self.fill().await {
                return None;
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let (status, headers) = read_head(std::str::from_utf8(&head).expect("an answer's head is text"));
        let number = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let body = match (status, number("content-length")) {
            (101 | 204 | 304, _) => Vec::new(),
            (_, Some(length)) => {
                while self.buffer.len() < length && self.fill().await {}
                self.buffer.drain(..length.min(self.buffer.len())).collect()
            }
            // Chunks are left as they are: whoever needs the body's exact bytes uses the well-behaved client.
            (_, None) => {
                while self.buffer.len() < ANSWER_LIMIT && self.fill().await {}
                std::mem::take(&mut self.buffer)
            }
        };
        Some(Answer { status, headers, body: Bytes::from(body) })
    }

    /// Reads one frame; `None` at the end of the connection.
    ///
    /// # Panics
    /// When neither comes in time, or the frame breaks a rule for servers.
    pub async fn frame(&mut self) -> Option<ServerFrame> {
        within(SOON, "a frame or the end of the connection", self.frame_whenever()).await
    }

    async fn frame_whenever(&mut self) -> Option<ServerFrame> {
        loop {
            if let Some((frame, length)) = read_frame(&self.buffer) {
                self.buffer.drain(..length);
                return Some(frame);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Waits until the server closes the connection, whatever it still says.
    ///
    /// # Panics
    /// When it does not within `deadline`.
    pub async fn closed(&mut self, deadline: Duration) {
        within(deadline, "the server closes the connection", async { while self.fill().await {} }).await;
    }

    /// Reads more; `false` at the end of the connection, however it came.
    async fn fill(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(count) if count > 0)
    }
}

fn read_head(head: &str) -> (u16, HeaderMap) {
    let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status line");
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').expect("a header has a colon");
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header's name");
        headers.append(name, HeaderValue::from_str(value.trim()).expect("a header's value"));
    }
    (status, headers)
}

/// The first frame of `bytes` and its length there; `None` while it is not whole.
fn read_frame(bytes: &[u8]) -> Option<(ServerFrame, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(first & 0xf0, 0x80, "a server's frame is whole and has no reserved bit");
    assert_eq!(second & 0x80, 0, "a server's frame is not masked");
    let (length, start) = match second {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10),
        short => (usize::from(short), 2),
    };
    let payload = bytes.get(start..start + length)?.to_vec();
    Some((ServerFrame { opcode: first & 0x0f, payload }, start + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_laid_out_as_the_rfc_says() {
        let hello = Frame { masked: false, ..Frame::text("Hello") };
        assert_eq!(hello.bytes(), [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f], "RFC 6455, section 5.7");
        assert_eq!(Frame::text("Hello").bytes()[..6], [0x81, 0x85, 0, 0, 0, 0]);
        assert_eq!(Frame::new(BINARY, vec![0; 256]).bytes()[..4], [0x82, 0xfe, 0x01, 0x00]);
        assert_eq!(Frame::new(BINARY, vec![0; 65_536]).bytes()[..10], [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]);
        let huge = Frame { announced: Some(1 << 63), ..Frame::text("") };
        assert_eq!(huge.bytes()[1..10], [0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn server_frames_of_every_length_come_back() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let frame = Frame { masked: false, ..Frame::new(BINARY, vec![7; length]) };
            let bytes = frame.bytes();
            let expected = ServerFrame { opcode: BINARY, payload: vec![7; length] };
            assert_eq!(read_frame(&bytes), Some((expected, bytes.len())));
            assert_eq!(read_frame(&bytes[..bytes.len() - 1]), None, "not whole yet");
        }
    }
}
