//! The accept loop.

use axum::Router;
use chatify_building_blocks::tasks::Supervisor;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The limits of the listening socket.
#[derive(Clone, Copy, Debug)]
pub struct ListenerOptions {
    /// A connection that has not sent the whole head of its first or next request by then is closed.
    pub header_timeout: Duration,
    /// Bytes of a request's head; a longer one is answered with 431.
    pub max_header_bytes: usize,
    /// How long requests that are under way may take once the listener stops.
    pub request_grace: Duration,
    /// Connections that speak HTTP at the same time (hub sockets no longer do); more wait in the operating system's queue.
    pub max_http_connections: usize,
}

/// Connections that the operating system keeps for us while we are busy.
const BACKLOG: i32 = 4096;
/// Wait after an accept that failed for want of resources, instead of spinning.
const OUT_OF_RESOURCES: Duration = Duration::from_millis(50);

/// Takes the address, so that a second process on it fails before any other work is done.
///
/// # Errors
/// When it cannot be had.
pub fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts and serves until `stopping` is cancelled; requests that are under way then have a moment to end.
///
/// # Errors
/// When the socket cannot be used at all.
pub async fn serve(
    listener: std::net::TcpListener,
    router: Router,
    options: ListenerOptions,
    supervisor: Supervisor,
    stopping: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(options.max_http_connections));
    loop {
        let permit = tokio::select! {
            biased;
            () = stopping.cancelled() => return Ok(()),
            permit = room.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
        };
        let accepted = tokio::select! {
            biased;
            () = stopping.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                supervisor
                    .work("http-connection", connection(socket, router.clone(), options, permit, stopping.clone()));
            }
            Err(error) if is_the_peers(error.kind()) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(OUT_OF_RESOURCES).await;
            }
        }
    }
}

/// The peer was gone before it was accepted.
fn is_the_peers(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
}

/// Serves HTTP/1.1 on `socket`, up to an upgrade, which takes the socket with it.
async fn connection(
    socket: TcpStream,
    router: Router,
    options: ListenerOptions,
    _room: OwnedSemaphorePermit,
    stopping: CancellationToken,
) {
    // Answers and deliveries are whole when they are written: waiting for more would only delay them.
    drop(socket.set_nodelay(true));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(options.max_header_bytes.max(MIN_BUFFER))
        .keep_alive(true);
    let asked = AtomicBool::new(false);
    let service = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        service.call(request)
    });
    let serving = http.serve_connection(TokioIo::new(socket), service).with_upgrades();
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        biased;
        // An error here is the peer's: it left, or was not heard in time. What we answer is counted where it is answered.
        _ = serving.as_mut() => return,
        () = stopping.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    // hyper would wait for the first request of a connection that was only opened, as browsers do ahead of need.
    if asked.load(Ordering::Relaxed) {
        drop(tokio::time::timeout(options.request_grace, serving).await);
    }
}

/// hyper's least.
const MIN_BUFFER: usize = 8192;
