//! One connection as the hub sees it: who it is, what it speaks, and the way to its socket.

use super::encode::{Chunk, Format};
use super::outbox::{Outbox, OutboxLimits};
use crate::metrics::{Metrics, Shed};
use chatify_application::ports::presence::ConnectionId;
use chatify_building_blocks::seeded_bugs::{Bug, seeded_bug};
use chatify_domain::{SenderId, Timestamp};
use futures_util::task::AtomicWaker;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Why the server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// More waits for it than its outbox holds.
    SlowConsumer,
    /// The pod is shutting down.
    Draining,
    /// Nothing was heard from it for the client timeout.
    ClientTimeout,
    /// Its token has expired.
    TokenExpired,
    /// The pod fell behind the log and lost messages that the connection should have been sent; a resume finds them, or says that it cannot.
    Interrupted,
}

/// A connection. Shared between its session (which reads, and writes when the socket blocked) and the hub (which writes first).
pub struct Peer {
    id: ConnectionId,
    user: SenderId,
    expires_at: Timestamp,
    format: Format,
    sink: Sink,
    limits: OutboxLimits,
    metrics: Metrics,
    state: Mutex<State>,
    /// Wakes the session: something waits for the socket, or the connection is to end.
    wake: Notify,
    /// Seconds of uptime when a whole message was last read, and when something was last written.
    last_read: AtomicU32,
    last_write: AtomicU32,
    uptime: Arc<CoarseUptime>,
}

/// Where the bytes go.
#[derive(Debug)]
pub enum Sink {
    /// Straight to the socket.
    Socket(TcpStream),
    /// To the body of an HTTP response, which takes what is there when it is polled.
    Body(AtomicWaker),
}

/// Seconds since the process started, good to a second: read for each write, updated by the sweep.
#[derive(Debug, Default)]
pub struct CoarseUptime(AtomicU64);

impl CoarseUptime {
    /// Now, in whole seconds.
    pub fn seconds(&self) -> u32 {
        u32::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// Moves it on.
    pub fn set(&self, uptime: std::time::Duration) {
        self.0.store(uptime.as_secs(), Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct State {
    outbox: Outbox,
    /// Whether a shard has it on the list of those to flush.
    dirty: bool,
    closing: Option<CloseReason>,
    broken: bool,
}

/// What the session must do next for the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing waits.
    Nothing,
    /// Frames wait until the socket takes them.
    Backlog,
    /// The socket is gone.
    Broken,
}

/// What a [`Peer`] is made of.
#[derive(Debug)]
pub struct NewPeer {
    /// Its number.
    pub id: ConnectionId,
    /// Who is connected.
    pub user: SenderId,
    /// When the token ends.
    pub expires_at: Timestamp,
    /// What it speaks.
    pub format: Format,
    /// Where its bytes go.
    pub sink: Sink,
    /// The bound of its outbox.
    pub limits: OutboxLimits,
}

impl Peer {
    /// A connection that nothing was sent to yet.
    #[must_use]
    pub fn new(new: NewPeer, uptime: Arc<CoarseUptime>, metrics: Metrics) -> Self {
        let now = uptime.seconds();
        Self {
            id: new.id,
            user: new.user,
            expires_at: new.expires_at,
            format: new.format,
            sink: new.sink,
            limits: new.limits,
            metrics,
            state: Mutex::default(),
            wake: Notify::new(),
            last_read: AtomicU32::new(now),
            last_write: AtomicU32::new(now),
            uptime,
        }
    }

    /// Its number.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Who is connected.
    pub fn user(&self) -> &SenderId {
        &self.user
    }

    /// What it speaks.
    pub fn format(&self) -> Format {
        self.format
    }

    /// When its token ends.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// The socket, for a connection that has one.
    pub fn socket(&self) -> Option<&TcpStream> {
        match &self.sink {
            Sink::Socket(socket) => Some(socket),
            Sink::Body(_) => None,
        }
    }

    /// Seconds since a whole message was read, and since something was written.
    pub fn silent_for(&self, now: u32) -> (u32, u32) {
        let since = |then: &AtomicU32| now.saturating_sub(then.load(Ordering::Relaxed));
        (since(&self.last_read), since(&self.last_write))
    }

    /// A whole message was read.
    pub fn heard(&self) {
        self.last_read.store(self.uptime.seconds(), Ordering::Relaxed);
    }

    /// Puts `chunk` into the outbox without writing. `true` when the caller is to [`Peer::flush`] it later; a second chunk before that flush gives
    /// `false`.
    pub fn enqueue(&self, chunk: Chunk) -> bool {
        let mut state = self.lock();
        if state.closing.is_some() || state.broken {
            return false;
        }
        state.outbox.push(chunk);
        !std::mem::replace(&mut state.dirty, true)
    }

    /// Puts an answer of the session into the outbox without writing; the session flushes. Unlike a delivery it is kept while the connection ends: the log has
    /// what it is about.
    pub fn queue_answer(&self, chunk: Chunk) {
        let mut state = self.lock();
        if !state.broken {
            state.outbox.push(chunk);
        }
    }

    /// Writes everything that waits, in one call when the socket takes it. What it does not take stays, up to the limits.
    pub fn flush(&self) {
        let mut state = self.lock();
        state.dirty = false;
        self.write(&mut state);
    }

    /// Sends `chunk` behind whatever waits.
    pub fn send(&self, chunk: Chunk) {
        let mut state = self.lock();
        if state.broken {
            return;
        }
        state.outbox.push(chunk);
        self.write(&mut state);
    }

    /// Sends `chunk` only when nothing waits; otherwise it is shed, which is counted.
    pub fn send_if_idle(&self, chunk: Chunk) {
        let mut state = self.lock();
        if state.broken || state.closing.is_some() {
            return;
        }
        if !state.outbox.is_empty() {
            self.metrics.outbox_shed(Shed::Ping);
            return;
        }
        state.outbox.push(chunk);
        self.write(&mut state);
    }

    /// Ends the connection: nothing more is accepted from the hub, and the session says goodbye. The first reason stays.
    pub fn close(&self, reason: CloseReason) {
        Self::begin_close(&mut self.lock(), reason);
        self.wake();
    }

    /// Why it is to end, if it is.
    pub fn closing(&self) -> Option<CloseReason> {
        self.lock().closing
    }

    /// What waits for the socket.
    pub fn pending(&self) -> Pending {
        let state = self.lock();
        match (state.broken, state.outbox.is_empty()) {
            (true, _) => Pending::Broken,
            (false, true) => Pending::Nothing,
            (false, false) => Pending::Backlog,
        }
    }

    /// Resolves when the session has to look at [`Peer::closing`] and [`Peer::pending`] again.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// For a body: takes everything that waits, or registers `context` to be woken.
    pub fn poll_take(&self, context: &std::task::Context<'_>) -> Option<bytes::Bytes> {
        if let Sink::Body(waker) = &self.sink {
            waker.register(context.waker());
        }
        let taken = self.lock().outbox.take_all();
        if taken.is_some() {
            self.last_write.store(self.uptime.seconds(), Ordering::Relaxed);
        }
        taken
    }

    fn write(&self, state: &mut State) {
        let Sink::Socket(socket) = &self.sink else {
            self.overflow(state);
            self.wake();
            return;
        };
        if state.outbox.is_empty() || state.broken {
            return;
        }
        let frames = state.outbox.frames();
        let outcome = state.outbox.drain(|slices| match slices {
            [only] => socket.try_write(only),
            several => socket.try_write_vectored(several),
        });
        let written = frames - state.outbox.frames();
        if written > 0 {
            self.metrics.frames_written(written);
            self.last_write.store(self.uptime.seconds(), Ordering::Relaxed);
        }
        match outcome {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.overflow(state);
                self.wake.notify_one();
            }
            Err(_) => {
                state.broken = true;
                state.outbox.clear();
                self.wake.notify_one();
            }
        }
    }

    /// The full-queue branch: the connection is lost, the messages are not (they are in the log), and the client resumes by position.
    fn overflow(&self, state: &mut State) {
        if state.closing.is_none() && state.outbox.exceeds(self.limits) {
            if seeded_bug(Bug::DropOnFullQueue) {
                return state.outbox.keep_split();
            }
            self.metrics.outbox_shed(Shed::SlowConsumer);
            Self::begin_close(state, CloseReason::SlowConsumer);
        }
    }

    /// A slow reader's backlog is thrown away, so that its goodbye is near and its memory free; nothing is sent behind the gap but the goodbye.
    fn begin_close(state: &mut State, reason: CloseReason) {
        if state.closing.is_some() {
            return;
        }
        state.closing = Some(reason);
        if reason == CloseReason::SlowConsumer {
            state.outbox.keep_split();
        }
    }

    fn wake(&self) {
        self.wake.notify_one();
        if let Sink::Body(waker) = &self.sink {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
