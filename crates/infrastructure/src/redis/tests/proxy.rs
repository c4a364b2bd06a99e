//! A link to Redis that can be frozen and cut, and that counts what is asked over it.

use chatify_building_blocks::tasks::Supervisor;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Listens on a port of its own and passes everything on to a server.
pub(super) struct Proxy {
    port: u16,
    state: Arc<State>,
}

struct State {
    upstream: String,
    link: watch::Sender<Link>,
    /// Ends the connections that there are.
    cut: Mutex<CancellationToken>,
    /// Everything that clients sent.
    sent: Mutex<Vec<u8>>,
}

/// What the link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Healthy,
    /// Connections stay and are accepted; nothing is passed on.
    Frozen,
    /// New connections are closed at once.
    Refusing,
}

impl Proxy {
    pub(super) async fn start(upstream: &str, supervisor: &Supervisor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State {
            upstream: upstream.into(),
            link: watch::Sender::new(Link::Healthy),
            cut: Mutex::default(),
            sent: Mutex::default(),
        });
        supervisor.work("proxy", accept(listener, Arc::clone(&state), supervisor.clone()));
        Self { port, state }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(super) fn set(&self, link: Link) {
        self.state.link.send_replace(link);
    }

    /// Ends all connections.
    pub(super) fn cut(&self) {
        std::mem::take(&mut *self.state.cut.lock().unwrap_or_else(PoisonError::into_inner)).cancel();
    }

    /// How often clients sent this command.
    pub(super) fn count(&self, command: &str) -> usize {
        let sent = self.state.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let word = format!("${}\r\n{command}\r\n", command.len()).into_bytes();
        sent.windows(word.len()).filter(|window| *window == word).count()
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, supervisor: Supervisor) {
    while let Ok((client, _)) = listener.accept().await {
        if *state.link.borrow() == Link::Refusing {
            continue;
        }
        let server = TcpStream::connect(&state.upstream).await.expect("the server behind the proxy");
        let cut = state.cut.lock().unwrap_or_else(PoisonError::into_inner).child_token();
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let (up, down) = (Arc::clone(&state), Arc::clone(&state));
        let both = async move {
            tokio::select! {
                () = pump(from_client, to_server, &up, true) => {}
                () = pump(from_server, to_client, &down, false) => {}
            }
        };
        supervisor.work("proxy-link", async move {
            cut.run_until_cancelled(both).await;
        });
    }
}

/// Reads on while the link is frozen, as a system's buffers do, and passes it on afterwards.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State, record: bool) {
    let mut link = state.link.subscribe();
    let (mut buffer, mut held) = (vec![0; 64 * 1024], Vec::new());
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            thawed = async { link.wait_for(|link| *link != Link::Frozen).await.is_ok() }, if !held.is_empty() => {
                if !thawed || to.write_all(&std::mem::take(&mut held)).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let Ok(length @ 1..) = read else {
            return;
        };
        held.extend_from_slice(&buffer[..length]);
        if record {
            state.sent.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
        }
    }
}
