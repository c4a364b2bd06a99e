//! What is encrypted, and what is never written down.

use super::rows::row;
use super::{connect, options, store, unique};
use crate::scylla::{ConnectError, ScyllaHistory, ScyllaOptions, ScyllaStartError, TlsOptions};
use chatify_application::ports::HistoryStore;
use chatify_application::ports::contract::{channel, within};
use chatify_application::ports::history::{Order, PositionRange};
use chatify_building_blocks::clock::SystemClock;
use chatify_building_blocks::random::SystemRandom;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{Position, Text};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const ALL: PositionRange = PositionRange { from: Position::ZERO, to: Position::MAX, order: Order::Ascending };

/// An authority of the test's own, and what it has signed for one name.
struct Authority {
    certificate: String,
    server: ServerConfig,
}

impl Authority {
    fn for_name(name: &str) -> Self {
        let mut own = CertificateParams::new(Vec::new()).expect("no names");
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(own, KeyPair::generate().expect("a key")).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let signed = params.signed_by(&key, &issuer).expect("a certificate");
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(vec![signed.der().clone()], private)
            .expect("the key of the certificate");
        Self { certificate: issuer.pem(), server }
    }

    /// Takes the encryption off before the real store; answers with the address to connect to.
    async fn serve(&self, supervisor: &Supervisor) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let acceptor = TlsAcceptor::from(Arc::new(self.server.clone()));
        let connections = supervisor.clone();
        supervisor.work("encrypting proxy", async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.work("encrypted connection", async move {
                    // A client that does not trust the certificate hangs up, which is what a test here wants.
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let mut server = TcpStream::connect(store()).await.expect("the store");
                    let _ended = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        address
    }

    fn file(&self, directory: &Path) -> PathBuf {
        let file = directory.join(format!("{}.pem", unique()));
        std::fs::write(&file, &self.certificate).expect("a file");
        file
    }
}

#[tokio::test]
async fn an_encrypted_store_is_used_when_its_authority_is_trusted() {
    let supervisor = Supervisor::new();
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::for_name("127.0.0.1");
    let tls = Some(TlsOptions { ca_file: Some(authority.file(directory.path())) });
    let contact_points = vec![authority.serve(&supervisor).await];
    let options = ScyllaOptions { contact_points, tls, ..options().await };
    options.check_authorities().expect("a good file");
    let (history, _supervisor) = connect(options).await;
    assert!(history.is_connected());
    let scope = channel(&unique());
    let row = row(&scope, 0, 1);
    history.append(std::slice::from_ref(&row)).await.expect("written");
    assert_eq!(history.slice(&scope, row.segment, ALL, 9).await.expect("a slice"), [row.message]);
}

#[tokio::test]
async fn a_certificate_of_another_authority_or_name_is_not_trusted() {
    let supervisor = Supervisor::new();
    let directory = tempfile::tempdir().expect("a directory");
    let (right, other) = (Authority::for_name("127.0.0.1"), Authority::for_name("127.0.0.1"));
    let elsewhere = Authority::for_name("127.0.0.2");
    for (server, trusted) in [(&right, &other), (&elsewhere, &elsewhere)] {
        let tls = Some(TlsOptions { ca_file: Some(trusted.file(directory.path())) });
        let contact_points = vec![server.serve(&supervisor).await];
        let (history, pod) = connect(ScyllaOptions { contact_points, tls, ..options().await }).await;
        assert!(!history.is_connected());
        pod.cancel();
        within("the end", pod.join()).await.expect("no crash");
    }
}

#[tokio::test]
async fn authorities_that_cannot_be_read_are_told_at_the_start() {
    let supervisor = Supervisor::new();
    let directory = tempfile::tempdir().expect("a directory");
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").expect("a file");
    for ca_file in [directory.path().join("missing.pem"), empty] {
        let options =
            ScyllaOptions { tls: Some(TlsOptions { ca_file: Some(ca_file) }), ..ScyllaOptions::new([store()]) };
        let error = options.check_authorities().expect_err("nothing to trust");
        assert!(matches!(error, ConnectError::Certificates(_)), "{error:?}");
        let start = ScyllaHistory::connect(options, Arc::new(SystemClock::new()), Arc::new(SystemRandom), &supervisor);
        let error = start.await.expect_err("nothing to trust");
        assert!(matches!(error, ScyllaStartError::Connect(ConnectError::Certificates(_))), "{error:?}");
        assert!(error.to_string().starts_with("scylla.ca_file"), "{error}");
    }
}

/// Everything that is logged, at the most talkative level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One thread runs the test and the driver's tasks, so the thread's own subscriber sees them all.
#[tokio::test]
async fn no_text_is_ever_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    // With a single dispatcher alive, tracing asks the thread that first passes a call site whether anyone wants its lines, and remembers the answer for
    // all: another test's thread would say no. With two alive it asks both dispatchers.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    let (history, _supervisor) = connect(options().await).await;
    let scope = channel(&unique());
    let mut rows = [row(&scope, 0, 1), row(&scope, 0, 2), row(&scope, 3, 3)];
    for row in &mut rows {
        Arc::make_mut(&mut row.message.sent).text = Text::parse("confidential").expect("a short text");
    }
    history.append(&rows).await.expect("written");
    history.slice(&scope, rows[0].segment, ALL, 9).await.expect("a slice");
    history.find(&scope, rows[0].message.sent.message_id).await.expect("found");
    let logged = String::from_utf8(log.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).expect("text");
    assert!(logged.contains("insert") || logged.contains("Request"), "the driver's own lines are among them");
    assert!(!logged.contains("confidential"), "a text was logged");
}
