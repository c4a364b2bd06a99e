//! A link to the store that can be cut, frozen, and made to lose answers.

use super::store;
use chatify_building_blocks::tasks::Supervisor;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// They pass.
    Forward,
    /// They wait, both ways: a host that hangs.
    Frozen,
    /// Requests pass, answers wait.
    NoAnswers,
    /// Connections are closed as soon as they are made, and those that were open.
    Cut,
}

/// A TCP proxy before the real store.
pub(super) struct Proxy {
    pub(super) address: String,
    mode: watch::Sender<Mode>,
    /// Bytes of answers that may pass before they are frozen; negative for any number.
    allowance: Arc<AtomicI64>,
    supervisor: Supervisor,
}

impl Proxy {
    pub(super) async fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let (sender, modes) = watch::channel(mode);
        let proxy =
            Self { address, mode: sender, allowance: Arc::new(AtomicI64::new(-1)), supervisor: Supervisor::new() };
        let (supervisor, allowance) = (proxy.supervisor.clone(), Arc::clone(&proxy.allowance));
        proxy.supervisor.work("proxy", async move {
            while let Ok((client, _)) = listener.accept().await {
                if *modes.borrow() == Mode::Cut {
                    continue;
                }
                let link = Link { modes: modes.clone(), allowance: Arc::clone(&allowance) };
                supervisor.work("proxied connection", link.run(client));
            }
        });
        proxy
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Lets about `bytes` of answers pass, then freezes them until the next [`Proxy::set`].
    pub(super) fn freeze_after(&self, bytes: i64) {
        self.allowance.store(bytes, Ordering::SeqCst);
    }

    /// Answers pass without end again.
    pub(super) fn thaw(&self) {
        self.allowance.store(-1, Ordering::SeqCst);
        self.set(Mode::Forward);
    }
}

struct Link {
    modes: watch::Receiver<Mode>,
    allowance: Arc<AtomicI64>,
}

impl Link {
    async fn run(self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(store()).await else { return };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let mut cut = self.modes.clone();
        tokio::select! {
            _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
            () = self.copy(from_client, to_server, false) => {}
            () = self.copy(from_server, to_client, true) => {}
        }
    }

    async fn copy(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, answers: bool) {
        let mut buffer = vec![0; 4096];
        let mut modes = self.modes.clone();
        loop {
            let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
            if answers && self.spent(length) {
                // Waits for the mode to be set anew.
                modes.mark_unchanged();
                if modes.changed().await.is_err() {
                    return;
                }
            }
            let passes = |mode: &Mode| *mode == Mode::Forward || (*mode == Mode::NoAnswers && !answers);
            if modes.wait_for(passes).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    }

    /// Counts bytes of answers; says whether they are too many.
    fn spent(&self, length: usize) -> bool {
        let before = self.allowance.load(Ordering::SeqCst);
        if before < 0 {
            return false;
        }
        let left = before.saturating_sub(i64::try_from(length).expect("a small buffer")).max(0);
        self.allowance.store(left, Ordering::SeqCst);
        left == 0
    }
}
