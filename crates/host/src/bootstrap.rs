//! The composition root: the only place that knows which adapters run.

use crate::auth::{Authenticator, key::Key};
use crate::config::{Config, Profile};
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
use chatify_application::{Application, Options, Ports};
use chatify_building_blocks::backoff::Backoff;
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::random::Random;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::Epoch;
use chatify_infrastructure::embedded::{self, EmbeddedPresence, EmbeddedRateLimiter, EmbeddedStore, RateLimit};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Name of the file in the data directory that tells where this process listens, once it does.
pub const LISTENING_FILE: &str = "listening";

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
    let signals = Signals::listen()?;
    let listener = listener::bind(config.server.listen)
        .with_context(|| format!("cannot listen on {}: is another process there?", config.server.listen))?;
    let address = listener.local_addr().context("the listening socket has no address")?;
    let key = Key::load(&config, &*random)?;
    let authenticator = Authenticator::new(&config, &key, clock.clone())?;
    let supervisor = Supervisor::new();
    let adapters = adapters(&config, &clock, &supervisor)?;
    let metrics = Metrics::new()?;
    metrics.start(&supervisor);
    let application = application(&config, &adapters, &clock, &random, &metrics)?;
    let hub = Hub::start(available_cores(), &supervisor, clock.clone(), metrics.clone());
    application.start(&supervisor, hub.clone());
    start_sweep(&config, &hub, &clock, &metrics, &supervisor);

    let draining = Draining::default();
    let state = AppState {
        application: application.clone(),
        authenticator,
        admission: Admission::new(config.limits.connections, config.limits.connections_per_user),
        config: Arc::new(config.clone()),
        metrics: metrics.clone(),
        clock: clock.clone(),
        random: random.clone(),
        draining: draining.clone(),
        hub: hub.clone(),
        supervisor: supervisor.clone(),
    };
    let router = router(&config, state, &hub);
    let stopping = CancellationToken::new();
    let accepting = listener::serve(listener, router, listener_options(&config), supervisor.clone(), stopping.clone());
    supervisor.service("listener", stops_when(stopping.clone(), supervisor.token(), accepting));
    announce(&config, address)?;
    if welcome {
        crate::welcome::print(&config, address, &key, &*clock)?;
    }

    let drain = Drain {
        draining,
        listener: stopping,
        hub,
        application,
        supervisor,
        clock,
        window: config.server.drain_window,
        grace: config.server.drain_grace,
    };
    let ended = drain.run(signals).await;
    adapters.store.close();
    drop(std::fs::remove_file(config.server.data_dir.join(LISTENING_FILE)));
    ended?;
    tracing::info!("ended");
    Ok(())
}

/// The adapters of the profile.
struct Adapters {
    store: EmbeddedStore,
    presence: Arc<EmbeddedPresence>,
    limiter: Arc<EmbeddedRateLimiter>,
}

fn adapters(config: &Config, clock: &Arc<dyn Clock>, supervisor: &Supervisor) -> anyhow::Result<Adapters> {
    match config.profile {
        Profile::Embedded => {
            let options = embedded::Options {
                log_epoch: Epoch::new(config.message_broker.log_epoch)?,
                retention: config.message_broker.retention,
                ..embedded::Options::new(&config.server.data_dir)
            };
            let store = EmbeddedStore::open(&options, clock.clone(), supervisor)?;
            let burst = NonZeroU32::new(config.limits.send_messages).context("`limits.send_messages` must not be 0")?;
            let limit = RateLimit { burst, window: config.limits.send_window };
            Ok(Adapters {
                store,
                presence: Arc::new(EmbeddedPresence::new(clock.clone())),
                limiter: EmbeddedRateLimiter::start(limit, clock.clone(), supervisor),
            })
        }
    }
}

fn application(
    config: &Config,
    adapters: &Adapters,
    clock: &Arc<dyn Clock>,
    random: &Arc<dyn Random>,
    metrics: &Metrics,
) -> anyhow::Result<Application> {
    let ports = Ports {
        appender: adapters.store.appender(),
        tail: adapters.store.tail(),
        group: adapters.store.group(),
        history: adapters.store.history(),
        presence: adapters.presence.clone(),
        limiter: adapters.limiter.clone(),
        clock: clock.clone(),
        random: random.clone(),
        observer: Arc::new(metrics.clone()),
    };
    let writer = &config.chat_history_writer;
    let options = Options {
        dedupe_window: config.message_broker.dedupe_window,
        tail_bytes: config.limits.tail_bytes,
        database_tries: writer.database_retry_attempts,
        database_retry: Backoff { first: writer.database_retry_first, cap: writer.database_retry_cap },
        consumer_backoff: Backoff { first: writer.consumer_backoff_first, cap: writer.consumer_backoff_cap },
        ..Options::new(config.pod_id())
    };
    Ok(Application::new(ports, options))
}

fn start_sweep(config: &Config, hub: &Arc<Hub>, clock: &Arc<dyn Clock>, metrics: &Metrics, supervisor: &Supervisor) {
    let options = SweepOptions { keep_alive: config.limits.keep_alive, client_timeout: config.limits.client_timeout };
    let sweep = sweep::run(hub.clone(), options, clock.clone(), metrics.clone(), supervisor.token());
    supervisor.service::<Infallible>("connection-sweep", async move {
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
    // Written whole and then put into place: whoever sees the file sees all of it.
    let path = config.server.data_dir.join(LISTENING_FILE);
    let draft = path.with_extension("draft");
    std::fs::write(&draft, format!("{address}\n"))?;
    std::fs::rename(&draft, &path)?;
    Ok(())
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
