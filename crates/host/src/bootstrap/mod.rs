//! The composition root: the only place that knows which adapters run.
//!
//! [`serve`] is the life of a process from the top. Each profile's adapters are built in a module of its own; what they give is `Adapters`.

mod cluster;
mod embedded;
mod gate;

use crate::auth::{Authenticator, key::Key};
use crate::config::{Config, Profile};
use crate::dependencies::Dependencies;
use crate::http::admission::Admission;
use crate::http::state::AppState;
use crate::lifecycle::{Drain, Draining, Signals};
use crate::metrics::Metrics;
use crate::net::listener::{self, ListenerOptions};
use crate::realtime::Hub;
use crate::realtime::outbox::OutboxLimits;
use crate::realtime::sweep::{self, SweepOptions};
use crate::signalr::routes::HubState;
use crate::signalr::session::{HubContext, SessionLimits};
use anyhow::Context;
use axum::Router;
use chatify_application::ports::{HistoryStore, LogAppender, LogGroup, LogTail, PresenceStore, RateLimiter};
use chatify_application::{Application, Options, Ports};
use chatify_building_blocks::backoff::Backoff;
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::random::Random;
use chatify_building_blocks::tasks::Supervisor;
use chatify_infrastructure::embedded::RateLimit;
pub use cluster::ClusterOptions;
use gate::Gate;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Name of the file in the data directory that tells where this process listens, once it does.
pub const LISTENING_FILE: &str = "listening";

/// What every part of the process is made from; cheap to clone.
#[derive(Clone)]
struct Parts {
    config: Arc<Config>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    supervisor: Supervisor,
    metrics: Metrics,
}

/// The adapters of the profile.
struct Adapters {
    appender: Arc<dyn LogAppender>,
    tail: Arc<dyn LogTail>,
    group: Arc<dyn LogGroup>,
    history: Arc<dyn HistoryStore>,
    presence: Arc<dyn PresenceStore>,
    limiter: Arc<dyn RateLimiter>,
    /// See [`Options::append_deadline`].
    append_deadline: Duration,
    dependencies: Dependencies,
    closing: Closing,
}

/// What is left to do when nothing uses the adapters any more.
enum Closing {
    Embedded(chatify_infrastructure::embedded::EmbeddedStore),
    Cluster(cluster::Services),
}

/// Runs the server until it is told to end.
///
/// # Errors
/// When it cannot start, or a part of it crashed.
pub async fn serve(
    config: Config,
    welcome: bool,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let listener = listener::bind(config.server.listen)
        .with_context(|| format!("cannot listen on {}: is another process there?", config.server.listen))?;
    let address = listener.local_addr().context("the listening socket has no address")?;
    let key = Key::load(&config, &*random)?;
    let authenticator = Authenticator::new(&config, &key, clock.clone())?;
    let (supervisor, metrics, config) = (Supervisor::new(), Metrics::new()?, Arc::new(config));
    let parts = Parts { config, clock, random, supervisor, metrics };
    parts.metrics.start(&parts.supervisor);

    // From here on the process answers: that it lives, and what it waits for.
    let gate = Gate::new(parts.random.clone(), parts.metrics.clone());
    let stopping = CancellationToken::new();
    listen(&parts, listener, gate.router(), &stopping);
    if parts.config.profile == Profile::Cluster {
        announce(&parts.config, address)?;
    }
    let Some(adapters) = adapters(&parts, &gate, &mut signals).await? else {
        return given_up(&parts, &stopping).await;
    };
    let application = application(&parts, &adapters);
    let hub = Hub::start(available_cores(), &parts.supervisor, parts.clock.clone(), parts.metrics.clone());
    application.start(&parts.supervisor, hub.clone());
    start_sweep(&parts, &hub);
    let draining = Draining::default();
    let state = state(&parts, authenticator, &application, &hub, &draining, adapters.dependencies.clone());
    gate.open(router(&parts.config, state, &hub));
    if parts.config.profile == Profile::Embedded {
        announce(&parts.config, address)?;
    }
    if welcome {
        crate::welcome::print(&parts.config, address, &key, &*parts.clock)?;
    }

    let drain = Drain {
        draining,
        listener: stopping,
        hub,
        application,
        supervisor: parts.supervisor.clone(),
        clock: parts.clock.clone(),
        window: parts.config.server.drain_window,
        grace: parts.config.server.drain_grace,
    };
    let ended = drain.run(signals).await;
    adapters.closing.close().await;
    drop(std::fs::remove_file(parts.config.server.data_dir.join(LISTENING_FILE)));
    ended?;
    tracing::info!("ended");
    Ok(())
}

impl Closing {
    async fn close(self) {
        match self {
            Self::Embedded(store) => store.close(),
            Self::Cluster(services) => services.close().await,
        }
    }
}

/// The profile's adapters; none when the process was told to end, or crashed, before they were there.
async fn adapters(parts: &Parts, gate: &Gate, signals: &mut Signals) -> anyhow::Result<Option<Adapters>> {
    let connecting = async {
        match parts.config.profile {
            Profile::Embedded => embedded::open(parts),
            Profile::Cluster => cluster::connect(parts, gate).await,
        }
    };
    let crashed = parts.supervisor.token();
    tokio::select! {
        biased;
        () = crashed.cancelled() => Ok(None),
        name = signals.next() => {
            tracing::info!("{name}: ending before the start was done");
            Ok(None)
        }
        adapters = connecting => adapters.map(Some),
    }
}

/// Ends a process that never served.
async fn given_up(parts: &Parts, stopping: &CancellationToken) -> anyhow::Result<()> {
    stopping.cancel();
    parts.supervisor.cancel();
    drop(std::fs::remove_file(parts.config.server.data_dir.join(LISTENING_FILE)));
    let joined = tokio::time::timeout(parts.config.server.drain_grace, parts.supervisor.join()).await;
    joined.context("tasks did not end in time")?.map_err(Into::into)
}

fn listen(parts: &Parts, listener: std::net::TcpListener, router: Router, stopping: &CancellationToken) {
    let supervisor = &parts.supervisor;
    let options = listener_options(&parts.config);
    let accepting = listener::serve(listener, router, options, supervisor.clone(), stopping.clone());
    supervisor.service("listener", stops_when(stopping.clone(), supervisor.token(), accepting));
}

fn application(parts: &Parts, adapters: &Adapters) -> Application {
    let config = &parts.config;
    let ports = Ports {
        appender: adapters.appender.clone(),
        tail: adapters.tail.clone(),
        group: adapters.group.clone(),
        history: adapters.history.clone(),
        presence: adapters.presence.clone(),
        limiter: adapters.limiter.clone(),
        clock: parts.clock.clone(),
        random: parts.random.clone(),
        observer: Arc::new(parts.metrics.clone()),
    };
    let writer = &config.chat_history_writer;
    let options = Options {
        dedupe_window: config.message_broker.dedupe_window,
        append_deadline: adapters.append_deadline,
        tail_bytes: config.limits.tail_bytes,
        database_tries: writer.database_retry_attempts,
        database_retry: Backoff { first: writer.database_retry_first, cap: writer.database_retry_cap },
        consumer_backoff: Backoff { first: writer.consumer_backoff_first, cap: writer.consumer_backoff_cap },
        ..Options::new(config.pod_id())
    };
    Application::new(ports, options)
}

fn state(
    parts: &Parts,
    authenticator: Authenticator,
    application: &Application,
    hub: &Arc<Hub>,
    draining: &Draining,
    dependencies: Dependencies,
) -> AppState {
    let limits = &parts.config.limits;
    AppState {
        application: application.clone(),
        authenticator,
        admission: Admission::new(limits.connections, limits.connections_per_user),
        config: parts.config.clone(),
        metrics: parts.metrics.clone(),
        clock: parts.clock.clone(),
        random: parts.random.clone(),
        draining: draining.clone(),
        dependencies,
        hub: hub.clone(),
        supervisor: parts.supervisor.clone(),
    }
}

/// How often a user may send.
fn send_limit(config: &Config) -> RateLimit {
    let burst = NonZeroU32::new(config.limits.send_messages).unwrap_or(NonZeroU32::MIN);
    RateLimit { burst, window: config.limits.send_window }
}

fn start_sweep(parts: &Parts, hub: &Arc<Hub>) {
    let limits = &parts.config.limits;
    let options = SweepOptions { keep_alive: limits.keep_alive, client_timeout: limits.client_timeout };
    let (clock, metrics) = (parts.clock.clone(), parts.metrics.clone());
    let sweep = sweep::run(hub.clone(), options, clock, metrics, parts.supervisor.token());
    parts.supervisor.service::<Infallible>("connection-sweep", async move {
        sweep.await;
        Ok(())
    });
}

fn router(config: &Config, state: AppState, hub: &Arc<Hub>) -> Router {
    let limits = &config.limits;
    let context = HubContext {
        application: state.application.clone(),
        hub: hub.clone(),
        random: state.random.clone(),
        metrics: state.metrics.clone(),
        limits: SessionLimits {
            frame_bytes: limits.frame,
            outbox: OutboxLimits { frames: limits.outbox_frames, bytes: limits.outbox_bytes },
            sends_in_flight: limits.sends_in_flight,
            scopes: limits.scopes_per_connection,
            handshake_timeout: limits.handshake_timeout,
            close_timeout: limits.close_timeout,
        },
    };
    let hub = HubState { context: Arc::new(context), app: state.clone() };
    crate::http::router(state, crate::signalr::routes::routes(hub))
}

fn listener_options(config: &Config) -> ListenerOptions {
    ListenerOptions {
        header_timeout: config.server.header_timeout,
        max_header_bytes: config.server.max_header_bytes,
        // Event streams are told to end within the window.
        request_grace: config.server.drain_window + config.server.drain_grace,
        max_http_connections: config.limits.connections,
    }
}

/// A listener that was told to stop has not ended early: it is a service until the process ends.
async fn stops_when<E>(
    stopping: CancellationToken,
    ending: CancellationToken,
    accepting: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    tokio::select! {
        biased;
        outcome = accepting => outcome?,
        () = ending.cancelled() => stopping.cancel(),
    }
    ending.cancelled().await;
    Ok(())
}

/// Tells operators (in the log) and scripts (in a file of the data directory) where the server is.
fn announce(config: &Config, address: SocketAddr) -> anyhow::Result<()> {
    let version = crate::cli::VERSION;
    tracing::info!(%address, profile = ?config.profile, pod = %config.pod_id(), version, "listening");
    match (write_address(config, address), config.profile) {
        // A pod keeps nothing on its disk, which may well be read-only.
        (Err(error), Profile::Cluster) => {
            tracing::info!(%error, "the data directory cannot be written: no file tells where this pod listens");
            Ok(())
        }
        (outcome, Profile::Embedded | Profile::Cluster) => Ok(outcome?),
    }
}

/// Written whole and then put into place: whoever sees the file sees all of it.
fn write_address(config: &Config, address: SocketAddr) -> std::io::Result<()> {
    std::fs::create_dir_all(&config.server.data_dir)?;
    let path = config.server.data_dir.join(LISTENING_FILE);
    let draft = path.with_extension("draft");
    std::fs::write(&draft, format!("{address}\n"))?;
    std::fs::rename(&draft, &path)
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
