//! A TCP link that the harness owns: a load balancer when it has several targets, a cable that can be cut when it has one.
//!
//! A link runs on a thread of its own, so that neither a busy nor a blocked test changes what the network does.

use chatify_building_blocks::random::{Random, SeededRandom};
use chatify_building_blocks::tasks::Supervisor;
use socket2::{Domain, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// Bytes that one direction of a connection copies at once.
const CHUNK: usize = 16 << 10;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Bytes of a segment when the kernel is to hold little.
const SMALL_SEGMENT: u32 = 1024;

/// How long a target may take to accept. A stopped process still accepts: its kernel does.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// They go on.
    Pass,
    /// They wait, as if packets were lost, and go on later.
    Hold,
    /// They are thrown away; the connection is reset when the direction passes again.
    Swallow,
}

/// What a link does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// New connections are reset.
    pub refuse: bool,
    /// From the one who connected to the target.
    pub up: Flow,
    /// From the target to the one who connected.
    pub down: Flow,
}

impl Fault {
    /// No fault.
    pub const NONE: Self = Self { refuse: false, up: Flow::Pass, down: Flow::Pass };
    /// Nothing gets through, and nobody is told.
    pub const BLACKHOLE: Self = Self { refuse: false, up: Flow::Hold, down: Flow::Hold };
    /// Requests arrive, answers do not: a one-way cut.
    pub const ONE_WAY: Self = Self { refuse: false, up: Flow::Pass, down: Flow::Hold };
    /// Requests are carried out, and their answers are lost for good.
    pub const DROPPED_REPLIES: Self = Self { refuse: false, up: Flow::Pass, down: Flow::Swallow };
    /// Nobody gets a connection.
    pub const REFUSED: Self = Self { refuse: true, up: Flow::Pass, down: Flow::Pass };
}

/// What the connections of a link look at.
#[derive(Clone, Copy, Debug)]
struct State {
    fault: Fault,
    /// Connections of an older generation are reset.
    generation: u64,
    /// Whether the listener is there.
    listening: bool,
}

/// A listening address that leads to its targets. Dropping it closes everything.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    state: watch::Sender<State>,
    swallowed: Arc<AtomicU64>,
    supervisor: Supervisor,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// A link from `listen` (port 0: any) to one of `targets`, picked at random from `seed` for each connection; targets that
    /// refuse are passed over. With `buffer` the kernel holds no more than about so many bytes in each direction.
    ///
    /// # Panics
    /// When the address cannot be had.
    #[must_use]
    pub fn start(listen: SocketAddr, targets: Vec<SocketAddr>, seed: u64, buffer: Option<usize>) -> Self {
        let targets = Arc::new(Mutex::new(targets));
        let (state, seen) = watch::channel(State { fault: Fault::NONE, generation: 0, listening: true });
        let supervisor = Supervisor::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = bind(listen).expect("an address to listen on");
        let address = listener.local_addr().expect("a listener has an address");
        let swallowed = Arc::new(AtomicU64::new(0));
        let switch = Switch {
            targets: Arc::clone(&targets),
            state: seen,
            swallowed: Arc::clone(&swallowed),
            random: SeededRandom::new(seed),
            buffer,
            supervisor: supervisor.clone(),
        };
        let thread = std::thread::Builder::new().name("link".into());
        let body = move || runtime.block_on(switch.run(listener));
        let thread = Some(thread.spawn(body).expect("a thread"));
        Self { address, targets, state, swallowed, supervisor, thread }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on connections lead to these.
    pub fn lead_to(&self, targets: Vec<SocketAddr>) {
        *self.targets.lock().unwrap_or_else(PoisonError::into_inner) = targets;
    }

    /// From now on this happens, to open connections as well, as soon as the link's thread sees it: bytes on their way may
    /// still get through as before.
    pub fn set(&self, fault: Fault) {
        self.state.send_modify(|state| state.fault = fault);
    }

    /// Bytes that were thrown away so far.
    #[must_use]
    pub fn swallowed(&self) -> u64 {
        self.swallowed.load(Ordering::Relaxed)
    }

    /// Resets every open connection.
    pub fn reset(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }

    /// Closes the listener as soon as no target accepts: what clients of a server see that is on its way out.
    pub fn end_with_targets(&self) {
        self.state.send_modify(|state| state.listening = false);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.supervisor.cancel();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The inside of a link.
struct Switch {
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    state: watch::Receiver<State>,
    swallowed: Arc<AtomicU64>,
    random: SeededRandom,
    buffer: Option<usize>,
    supervisor: Supervisor,
}

impl Switch {
    async fn run(self, listener: std::net::TcpListener) {
        let listener = TcpListener::from_std(listener).expect("a listener that does not block");
        let ended = self.supervisor.token();
        let this = Arc::new(self);
        let mut state = this.state.clone();
        let close = Arc::new(tokio::sync::Notify::new());
        loop {
            let client = tokio::select! {
                () = ended.cancelled() => return,
                () = close.notified() => break,
                client = listener.accept() => client,
            };
            // A connection that is gone before it was accepted is nobody's problem.
            let Ok((client, _)) = client else { continue };
            let (this, close) = (Arc::clone(&this), Arc::clone(&close));
            let supervisor = this.supervisor.clone();
            let seen = *state.borrow_and_update();
            supervisor.work("connection", async move {
                if seen.fault.refuse {
                    return abort(&client);
                }
                match this.connect().await {
                    Some(target) => this.carry(client, target, seen.generation).await,
                    None => {
                        abort(&client);
                        if !this.state.borrow().listening {
                            close.notify_one();
                        }
                    }
                }
            });
        }
        // The listener is closed; connections that are open go on.
        drop(listener);
        ended.cancelled().await;
    }

    /// A connection to a target that accepts, or none.
    async fn connect(&self) -> Option<TcpStream> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner).clone();
        while !targets.is_empty() {
            let count = u64::try_from(targets.len()).expect("few");
            let target = targets.swap_remove(usize::try_from(self.random.u64() % count).expect("few"));
            if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT_WITHIN, self.open(target)).await {
                return Some(stream);
            }
        }
        None
    }

    async fn open(&self, target: SocketAddr) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        if let Some(bytes) = self.buffer {
            socket.set_recv_buffer_size(bytes)?;
            // The target's kernel sizes its own buffer by segments, and those of a loopback are huge.
            socket.set_tcp_mss(SMALL_SEGMENT)?;
        }
        socket.set_nonblocking(true)?;
        TcpSocket::from_std_stream(socket.into()).connect(target).await
    }

    async fn carry(&self, mut client: TcpStream, mut target: TcpStream, generation: u64) {
        if let Some(bytes) = self.buffer {
            drop(SockRef::from(&client).set_send_buffer_size(bytes));
        }
        for stream in [&client, &target] {
            drop(stream.set_nodelay(true));
            // Whatever ends this early ends it with a reset; an orderly end has said so before.
            drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
        }
        let (ended, mut state) = (self.supervisor.token(), self.state.clone());
        let orderly = {
            let (from_client, to_client) = client.split();
            let (from_target, to_target) = target.split();
            let chunk = self.buffer.map_or(CHUNK, |bytes| bytes.min(CHUNK));
            let up = self.pump(from_client, to_target, chunk, |state| state.fault.up);
            let down = self.pump(from_target, to_client, chunk, |state| state.fault.down);
            tokio::select! {
                () = ended.cancelled() => false,
                _ = state.wait_for(|state| state.generation != generation || state.fault.refuse) => false,
                orderly = both(up, down) => orderly,
            }
        };
        if orderly {
            for stream in [&client, &target] {
                drop(SockRef::from(stream).set_linger(None));
            }
        }
    }

    /// Copies one direction to its end, as the state allows.
    async fn pump(
        &self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        chunk: usize,
        flow: impl Fn(&State) -> Flow + Copy,
    ) -> End {
        let (mut chunk, mut state) = (vec![0; chunk], self.state.clone());
        let mut swallowed = false;
        loop {
            let passes = state.wait_for(|state| flow(state) != Flow::Hold).await.map(|state| flow(&state));
            match passes {
                // What was thrown away is missing from the stream, so it cannot go on.
                Ok(Flow::Pass) if swallowed => return End::Broken,
                Ok(Flow::Swallow) => swallowed = true,
                Ok(Flow::Pass | Flow::Hold) => {}
                Err(_) => return End::Broken,
            }
            let count = tokio::select! {
                count = from.read(&mut chunk) => count,
                _ = state.changed() => continue,
            };
            let count = match count {
                Ok(0) if !swallowed => {
                    drop(to.shutdown().await);
                    return End::Orderly;
                }
                Ok(0) | Err(_) => return End::Broken,
                Ok(count) => count,
            };
            // What was read before the cut was felt waits as well.
            let passes = state.wait_for(|state| flow(state) != Flow::Hold).await.map(|state| flow(&state));
            match passes {
                Ok(Flow::Pass) if !swallowed => {}
                Ok(_) => {
                    swallowed = true;
                    self.swallowed.fetch_add(u64::try_from(count).expect("few"), Ordering::Relaxed);
                    continue;
                }
                Err(_) => return End::Broken,
            }
            if to.write_all(&chunk[..count]).await.is_err() {
                // What it said before it left is still to be passed on.
                return End::Orderly;
            }
        }
    }
}

/// How one direction of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// There was no more to read, and that was passed on; or nobody takes more, who may still have something to say.
    Orderly,
    /// The one who is read from is gone, or something is missing.
    Broken,
}

/// Waits for both directions, unless one breaks. Whether both ended in order.
async fn both(up: impl Future<Output = End>, down: impl Future<Output = End>) -> bool {
    tokio::pin!(up, down);
    let first = tokio::select! {
        end = &mut up => (end, true),
        end = &mut down => (end, false),
    };
    match first {
        (End::Broken, _) => false,
        (End::Orderly, true) => down.await == End::Orderly,
        (End::Orderly, false) => up.await == End::Orderly,
    }
}

/// Ends a connection with a reset.
fn abort(stream: &TcpStream) {
    drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waiting::{SOON, eventually, within};

    const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    fn target() -> TcpListener {
        TcpListener::from_std(bind(ANYWHERE).expect("a listener")).expect("a listener that does not block")
    }

    async fn pair(link: &Link, target: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(link.address()).await.expect("a connection");
        (client, target.accept().await.expect("a connection").0)
    }

    async fn arrives(from: &mut TcpStream, to: &mut TcpStream) {
        from.write_all(b"x").await.expect("written");
        within(SOON, "a byte", to.read_exact(&mut [0])).await.expect("read");
    }

    async fn ends_with_reset(stream: &mut TcpStream) {
        let end = within(SOON, "the end", stream.read(&mut [0; 8])).await;
        assert_eq!(end.expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn bytes_and_orderly_ends_go_through_both_ways() {
        let target = target();
        let link = Link::start(ANYWHERE, vec![target.local_addr().expect("bound")], 1, None);
        let (mut client, mut server) = pair(&link, &target).await;
        arrives(&mut client, &mut server).await;
        arrives(&mut server, &mut client).await;
        client.shutdown().await.expect("half closed");
        assert_eq!(server.read(&mut [0]).await.expect("an orderly end"), 0);
        arrives(&mut server, &mut client).await;
        drop(server);
        assert_eq!(client.read(&mut [0]).await.expect("an orderly end"), 0);
    }

    #[tokio::test]
    async fn a_hold_delays_and_a_reset_ends() {
        let target = target();
        let link = Link::start(ANYWHERE, vec![target.local_addr().expect("bound")], 1, None);
        let (mut client, mut server) = pair(&link, &target).await;
        link.set(Fault::ONE_WAY);
        arrives(&mut client, &mut server).await;
        server.write_all(b"late").await.expect("written");
        link.set(Fault::NONE);
        let mut answer = [0; 4];
        within(SOON, "the answer", client.read_exact(&mut answer)).await.expect("read");
        assert_eq!(&answer, b"late", "nothing was lost");
        link.reset();
        ends_with_reset(&mut client).await;
        ends_with_reset(&mut server).await;
    }

    #[tokio::test]
    async fn a_dropped_reply_is_lost_for_good() {
        let target = target();
        let link = Link::start(ANYWHERE, vec![target.local_addr().expect("bound")], 1, None);
        let (mut client, mut server) = pair(&link, &target).await;
        arrives(&mut server, &mut client).await;
        link.set(Fault::DROPPED_REPLIES);
        arrives(&mut client, &mut server).await;
        server.write_all(b"lost").await.expect("written");
        eventually(SOON, "the reply is thrown away", || async { (link.swallowed() == 4).then_some(()) }).await;
        server.shutdown().await.expect("written");
        link.set(Fault::NONE);
        ends_with_reset(&mut client).await;
    }

    #[tokio::test]
    async fn targets_that_refuse_are_passed_over_and_the_last_one_takes_the_link_with_it() {
        let (first, second) = (target(), target());
        let addresses = [&first, &second].map(|listener| listener.local_addr().expect("bound"));
        let link = Link::start(ANYWHERE, addresses.to_vec(), 7, None);
        drop(first);
        for _ in 0..8 {
            let (mut client, mut server) = pair(&link, &second).await;
            arrives(&mut client, &mut server).await;
        }
        drop(second);
        link.end_with_targets();
        eventually(SOON, "the link is closed", || async {
            TcpStream::connect(link.address()).await.is_err().then_some(())
        })
        .await;
    }
}
