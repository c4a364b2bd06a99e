//! A Redis of the test's own, which may be stopped, emptied and given secrets.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tokio::net::TcpSocket;

/// Ends with the test.
pub(super) struct OwnServer {
    process: Child,
    pub(super) port: u16,
    directory: TempDir,
    /// Nobody else is given these ports, also while it starts.
    _reserved: Vec<TcpSocket>,
}

impl OwnServer {
    /// A server with these settings. It answers as soon as it is up, which callers have to wait for.
    pub(super) fn start(settings: &[&str]) -> Self {
        Self::start_with(settings, Vec::new())
    }

    fn start_with(settings: &[&str], mut reserved: Vec<TcpSocket>) -> Self {
        let (socket, port) = free_port();
        reserved.push(socket);
        let directory = tempfile::tempdir().expect("a directory");
        Self { process: launch(port, directory.path(), settings), port, directory, _reserved: reserved }
    }

    /// A server that speaks TLS only, with a certificate that nobody else trusts, in PEM.
    pub(super) fn start_secret(password: &str) -> (Self, Vec<u8>) {
        let (socket, port) = free_port();
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (key, certificate) = (path("key.pem"), path("certificate.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout", &key, "-out", &certificate])
            .stderr(Stdio::null())
            .status();
        assert!(made.expect("the program openssl").success());
        let tls = port.to_string();
        let settings = ["--tls-port", &tls, "--tls-cert-file", &certificate, "--tls-key-file", &key];
        let settings = [&settings[..], &["--tls-auth-clients", "no", "--requirepass", password]].concat();
        let pem = std::fs::read(&certificate).expect("the certificate");
        (Self { process: launch(0, directory.path(), &settings), port, directory, _reserved: vec![socket] }, pem)
    }

    /// Three servers that are to become one cluster. What is on a frozen one is away; the others go on.
    pub(super) fn start_nodes() -> Vec<(Self, u16)> {
        let node = |_| {
            let (socket, bus) = free_port();
            let bus_port = bus.to_string();
            let settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", "120000", "--cluster-port"];
            let settings = [&settings[..], &[&bus_port, "--cluster-require-full-coverage", "no"]].concat();
            (Self::start_with(&settings, vec![socket]), bus)
        };
        (0..3).map(node).collect()
    }

    /// Stops the process where it stands, or lets it go on.
    pub(super) fn freeze(&self, frozen: bool) {
        let signal = if frozen { "-STOP" } else { "-CONT" };
        let status = Command::new("kill").args([signal, &self.process.id().to_string()]).status();
        assert!(status.expect("the program kill").success());
    }

    /// Ends it without a word and starts it again, empty.
    pub(super) fn restart(&mut self) {
        self.stop();
        self.process = launch(self.port, self.directory.path(), &[]);
    }

    /// Waits until it is up.
    pub(super) async fn answers(&self) {
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn stop(&mut self) {
        self.process.kill().expect("a process of ours");
        self.process.wait().expect("its end");
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn launch(port: u16, directory: &Path, settings: &[&str]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(directory)
        .args(settings)
        .stdout(Stdio::null())
        .spawn()
        .expect("the program redis-server: run `scripts/services.sh start redis`")
}

/// A port, and what keeps others from being given it: a socket that is bound to it and does not listen. On Linux a
/// server may listen there all the same, because both say that they reuse addresses.
fn free_port() -> (TcpSocket, u16) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a new socket");
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
    let port = socket.local_addr().expect("an address").port();
    (socket, port)
}
