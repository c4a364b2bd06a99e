//! What waits for one socket: bounded, drained into one write.

use super::encode::Chunk;
use bytes::Buf;
use std::collections::VecDeque;
use std::io::IoSlice;

/// How much may wait for a socket that does not take it.
#[derive(Clone, Copy, Debug)]
pub struct OutboxLimits {
    /// Frames.
    pub frames: usize,
    /// Bytes.
    pub bytes: usize,
}

/// Frames that the socket has not taken yet, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Chunk>,
    frames: usize,
    bytes: usize,
    /// Whether the socket has taken a part of the first chunk.
    split: bool,
}

/// Chunks that one vectored write takes at most; more bring nothing (a socket buffer is full by then).
const SLICES: usize = 64;

impl Outbox {
    /// Puts `chunk` at the end.
    pub fn push(&mut self, chunk: Chunk) {
        self.frames += chunk.frames;
        self.bytes += chunk.bytes.len();
        self.queue.push_back(chunk);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether more waits than `limits` allow.
    pub fn exceeds(&self, limits: OutboxLimits) -> bool {
        self.frames > limits.frames || self.bytes > limits.bytes
    }

    /// How many frames wait.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Forgets everything that waits, except a chunk that the socket has taken a part of: what follows must start at a frame's border.
    pub fn keep_split(&mut self) {
        let first = if self.split { self.queue.pop_front() } else { None };
        let split = first.is_some();
        self.clear();
        if let Some(first) = first {
            self.push(first);
            self.split = split;
        }
    }

    /// Forgets everything that waits.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Gives everything that waits to `write`, as few calls as possible, until it is empty or `write` fails.
    pub fn drain(&mut self, mut write: impl FnMut(&[IoSlice<'_>]) -> std::io::Result<usize>) -> std::io::Result<()> {
        while let Some(front) = self.queue.front() {
            let written = if self.queue.len() == 1 {
                write(&[IoSlice::new(&front.bytes)])?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let used =
                    self.queue.iter().zip(&mut slices).map(|(chunk, slot)| *slot = IoSlice::new(&chunk.bytes)).count();
                write(&slices[..used])?
            };
            if written == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            self.advance(written);
        }
        Ok(())
    }

    /// Takes everything that waits as one piece.
    pub fn take_all(&mut self) -> Option<bytes::Bytes> {
        if self.queue.len() <= 1 {
            let only = self.queue.pop_front().map(|chunk| chunk.bytes);
            self.clear();
            return only;
        }
        let mut all = Vec::with_capacity(self.bytes);
        for chunk in self.queue.drain(..) {
            all.extend_from_slice(&chunk.bytes);
        }
        self.clear();
        Some(all.into())
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        self.split = false;
        while let Some(front) = self.queue.front_mut() {
            if written < front.bytes.len() {
                front.bytes.advance(written);
                self.split |= written > 0;
                return;
            }
            written -= front.bytes.len();
            self.frames -= front.frames;
            self.queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_split_chunk_survives_the_end() {
        let mut outbox = Outbox::default();
        let chunk = |byte: u8| Chunk { bytes: vec![byte; 10].into(), frames: 1 };
        outbox.push(chunk(1));
        outbox.push(chunk(2));
        let mut once = Some(4);
        drop(outbox.drain(|_| once.take().ok_or_else(|| std::io::ErrorKind::WouldBlock.into())));
        outbox.keep_split();
        assert_eq!(outbox.take_all().as_deref(), Some(&[1u8; 6][..]));
        outbox.push(chunk(3));
        outbox.keep_split();
        assert!(outbox.is_empty());
    }

    proptest! {
        #[test]
        fn whatever_the_socket_takes_the_bytes_stay_in_order(
            sizes in prop::collection::vec(1usize..200, 1..150),
            takes in prop::collection::vec(1usize..500, 1..400),
        ) {
            let mut outbox = Outbox::default();
            let mut sent = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                let bytes = vec![u8::try_from(number % 251).expect("small"); *size];
                sent.extend_from_slice(&bytes);
                outbox.push(Chunk { bytes: bytes.into(), frames: 1 });
            }
            let (mut got, mut takes) = (Vec::new(), takes.into_iter().cycle());
            while !outbox.is_empty() {
                let mut room = takes.next();
                let outcome = outbox.drain(|slices| {
                    let room = room.take().ok_or(std::io::ErrorKind::WouldBlock)?;
                    let before = got.len();
                    for slice in slices {
                        got.extend_from_slice(&slice[..slice.len().min(room - (got.len() - before))]);
                    }
                    Ok(got.len() - before)
                });
                prop_assert!(outcome.is_ok() == outbox.is_empty());
            }
            prop_assert_eq!(got, sent);
            let nothing = OutboxLimits { frames: 0, bytes: 0 };
            prop_assert!(!outbox.exceeds(nothing));
        }
    }
}
