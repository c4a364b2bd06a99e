//! What is counted. [`names::TABLE`] lists every metric; a new one is a row there, a field and a typed method here.

mod labels;
pub mod names;

use crate::error::{KINDS, answer};
use chatify_application::ports::Observer;
use chatify_building_blocks::error::ErrorKind;
use chatify_building_blocks::tasks::Supervisor;
pub use labels::{Closed, Shed, Stage, Transport};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram, with_local_recorder};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use names::Kind;
use std::sync::Arc;
use std::time::Duration;

/// From a quarter of a millisecond to ten seconds: what people notice lies in the middle.
const BUCKETS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// How often observations are moved from their queues into buckets, so that the queues do not grow.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The counters of one process; cheap to clone, and its methods are single atomic operations unless they say otherwise.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

struct Inner {
    recorder: PrometheusRecorder,
    rendered: PrometheusHandle,
    process: metrics_process::Collector,
    accepted: Counter,
    refused: Vec<Counter>,
    deliveries: Counter,
    stages: Vec<Histogram>,
    connections: Vec<Gauge>,
    opened: Vec<Counter>,
    closed: Vec<Counter>,
    frames_written: Counter,
    shed: Vec<Counter>,
    joins: [Counter; 2],
    duplicates: Counter,
    poison: Counter,
    dead_letters: Counter,
    projected: Counter,
    registered: Gauge,
    lag: Gauge,
    dedupe_entries: Gauge,
    tail_bytes: Gauge,
    ready: Gauge,
}

impl Metrics {
    /// Every metric at zero.
    ///
    /// # Errors
    /// Never with the buckets of this file.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new().set_buckets(&BUCKETS)?.build_recorder();
        let process = metrics_process::Collector::default();
        with_local_recorder(&recorder, || {
            describe();
            process.describe();
        });
        Ok(Self(Arc::new(Inner::new(recorder, process))))
    }

    /// Starts the service that keeps histograms small.
    pub fn start(&self, supervisor: &Supervisor) {
        let (rendered, cancelled) = (self.0.rendered.clone(), supervisor.token());
        supervisor.service("metrics-upkeep", async move {
            while cancelled.run_until_cancelled(tokio::time::sleep(UPKEEP_EVERY)).await.is_some() {
                rendered.run_upkeep();
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// All metrics in Prometheus' text format. Reads `/proc`: for scrapes only.
    #[must_use]
    pub fn render(&self) -> String {
        with_local_recorder(&self.0.recorder, || self.0.process.collect());
        self.0.rendered.render()
    }

    /// `count` messages went to subscribers' connections.
    pub fn delivered(&self, count: usize) {
        self.0.deliveries.increment(count as u64);
    }

    /// A stage of a message's way took this long.
    pub fn delivery_stage(&self, stage: Stage, took: Duration) {
        self.0.stages[stage as usize].record(took);
    }

    /// A connection is open. Each call needs one of [`Metrics::connection_closed`].
    pub fn connection_opened(&self, transport: Transport) {
        self.0.opened[transport as usize].increment(1);
        self.0.connections[transport as usize].increment(1);
    }

    /// An open connection is closed.
    pub fn connection_closed(&self, transport: Transport, reason: Closed) {
        self.0.connections[transport as usize].decrement(1);
        self.0.closed[transport as usize * Closed::ALL.len() + reason as usize].increment(1);
    }

    /// `count` frames were written.
    pub fn frames_written(&self, count: usize) {
        self.0.frames_written.increment(count as u64);
    }

    /// An outbox had no room.
    pub fn outbox_shed(&self, reason: Shed) {
        self.0.shed[reason as usize].increment(1);
    }

    /// The hub's registry holds this many connections.
    pub fn active_connections(&self, registered: usize) {
        self.0.registered.set(gauge_value(registered as u64));
    }

    /// The gauges of the application's loops, as they are at a scrape.
    pub fn loops(&self, lag: u64, dedupe_entries: usize, tail_bytes: usize, ready: bool) {
        self.0.lag.set(gauge_value(lag));
        self.0.dedupe_entries.set(gauge_value(dedupe_entries as u64));
        self.0.tail_bytes.set(gauge_value(tail_bytes as u64));
        self.0.ready.set(u8::from(ready));
    }

    /// A request was answered. `route` is a route's pattern, never a path. Looks the metric up by its labels.
    pub fn http_request(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let route = route.to_string();
        with_local_recorder(&self.0.recorder, || {
            counter!(names::HTTP_REQUESTS, "method" => method, "route" => route.clone(), "status" => status.to_string())
                .increment(1);
            histogram!(names::HTTP_SECONDS, "route" => route).record(took);
        });
    }
}

impl Inner {
    fn new(recorder: PrometheusRecorder, process: metrics_process::Collector) -> Self {
        let rendered = recorder.handle();
        let made = with_local_recorder(&recorder, Handles::new);
        let Handles { refused, stages, connections, opened, closed, shed, joins } = made;
        let single = |name: &'static str| with_local_recorder(&recorder, || counter(counter!(name)));
        let level = |name: &'static str| with_local_recorder(&recorder, || gauge(gauge!(name)));
        Self {
            accepted: single(names::ACCEPTED),
            deliveries: single(names::DELIVERIES),
            frames_written: single(names::FRAMES),
            duplicates: single(names::DUPLICATES),
            poison: single(names::POISON),
            dead_letters: single(names::DEAD_LETTERS),
            projected: single(names::PROJECTED),
            registered: level(names::REGISTERED),
            lag: level(names::LAG),
            dedupe_entries: level(names::DEDUPE),
            tail_bytes: level(names::TAIL),
            ready: level(names::READY),
            refused,
            stages,
            connections,
            opened,
            closed,
            shed,
            joins,
            rendered,
            process,
            recorder,
        }
    }
}

/// The handles that have labels; each list is indexed by its enum.
struct Handles {
    refused: Vec<Counter>,
    stages: Vec<Histogram>,
    connections: Vec<Gauge>,
    opened: Vec<Counter>,
    closed: Vec<Counter>,
    shed: Vec<Counter>,
    joins: [Counter; 2],
}

impl Handles {
    fn new() -> Self {
        let reason = |kind| counter(counter!(names::REFUSED, "reason" => answer(kind).code));
        let closed = |transport: &Transport, reason: &Closed| {
            counter(counter!(names::CLOSED, "transport" => transport.as_str(), "reason" => reason.as_str()))
        };
        let joined = |recovered: &'static str| counter(counter!(names::JOINS, "recovered" => recovered));
        let transports = || Transport::ALL.iter();
        Self {
            refused: KINDS.map(reason).into(),
            stages: Stage::ALL
                .iter()
                .map(|stage| histogram!(names::DELIVERY_SECONDS, "stage" => stage.as_str()))
                .collect(),
            connections: transports().map(|t| gauge(gauge!(names::CONNECTIONS, "transport" => t.as_str()))).collect(),
            opened: transports().map(|t| counter(counter!(names::OPENED, "transport" => t.as_str()))).collect(),
            closed: transports().flat_map(|t| Closed::ALL.iter().map(move |r| closed(t, r))).collect(),
            shed: Shed::ALL.iter().map(|r| counter(counter!(names::SHED, "reason" => r.as_str()))).collect(),
            joins: [joined("false"), joined("true")],
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "gauges are doubles; below 2^53 nothing is lost")]
fn gauge_value(count: u64) -> f64 {
    count as f64
}

/// Makes the metric exist before the first event.
fn counter(handle: Counter) -> Counter {
    handle.increment(0);
    handle
}

/// Makes the metric exist before it is first set.
fn gauge(handle: Gauge) -> Gauge {
    handle.set(0.0);
    handle
}

fn describe() {
    for row in names::TABLE {
        match row.kind {
            Kind::Counter => metrics::describe_counter!(row.name, row.meaning),
            Kind::Gauge => metrics::describe_gauge!(row.name, row.meaning),
            Kind::Histogram => metrics::describe_histogram!(row.name, row.meaning),
        }
    }
    gauge!(names::BUILD, "version" => crate::cli::VERSION, "commit" => crate::cli::COMMIT).set(1.0);
}

impl Observer for Metrics {
    fn sent(&self, stage: Duration) {
        self.0.accepted.increment(1);
        self.delivery_stage(Stage::Durable, stage);
    }

    fn refused(&self, kind: ErrorKind) {
        self.0.refused[kind as usize].increment(1);
    }

    fn joined(&self, recovered: bool) {
        self.0.joins[usize::from(recovered)].increment(1);
    }

    fn duplicate_dropped(&self) {
        self.0.duplicates.increment(1);
    }

    fn poison_skipped(&self) {
        self.0.poison.increment(1);
    }

    fn projected(&self, rows: usize) {
        self.0.projected.increment(rows as u64);
    }

    fn dead_lettered(&self) {
        self.0.dead_letters.increment(1);
    }

    fn fan_out_batch(&self, _messages: usize, oldest_wait: Duration) {
        self.delivery_stage(Stage::FanOut, oldest_wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn value(rendered: &str, series: &str) -> Option<f64> {
        rendered.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    #[test]
    fn table_and_answer_agree() {
        let metrics = Metrics::new().expect("good buckets");
        metrics.http_request("GET", "/health/live", 200, Duration::from_millis(3));
        for stage in Stage::ALL {
            metrics.delivery_stage(*stage, Duration::from_millis(3));
        }
        let rendered = metrics.render();
        let kinds: BTreeSet<(&str, &str)> = rendered
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .filter(|(name, _)| name.starts_with("chatify_"))
            .collect();
        let lower = |kind: Kind| match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let table: BTreeSet<(&str, &str)> = names::TABLE.iter().map(|row| (row.name, lower(row.kind))).collect();
        assert_eq!(kinds, table);
        assert!(rendered.contains("process_resident_memory_bytes "), "{rendered}");
    }

    #[test]
    fn the_page_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/METRICS.md");
        if std::env::var_os("CHATIFY_BLESS").is_some() {
            std::fs::write(&path, names::markdown()).expect("writable");
        }
        let current = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(current == names::markdown(), "run CHATIFY_BLESS=1 cargo test -p chatify-host metrics");
    }

    #[test]
    fn each_method_moves_its_metric() {
        let metrics = Metrics::new().expect("good buckets");
        let fresh = metrics.render();
        assert_eq!(value(&fresh, "chatify_messages_refused_total{reason=\"CONFLICT\"}"), Some(0.0));
        let slow = "chatify_connections_closed_total{transport=\"websocket\",reason=\"slow_consumer\"}";
        assert_eq!(value(&fresh, slow), Some(0.0));
        metrics.connection_opened(Transport::WebSocket);
        metrics.connection_opened(Transport::WebSocket);
        metrics.connection_closed(Transport::WebSocket, Closed::SlowConsumer);
        metrics.refused(ErrorKind::Conflict);
        metrics.sent(Duration::from_millis(2));
        metrics.delivered(12);
        metrics.outbox_shed(Shed::SlowConsumer);
        metrics.joined(true);
        metrics.loops(7, 8, 9, true);
        let rendered = metrics.render();
        let expected = [
            (slow, 1.0),
            ("chatify_active_connections{transport=\"websocket\"}", 1.0),
            ("chatify_active_connections{transport=\"event_stream\"}", 0.0),
            ("chatify_messages_refused_total{reason=\"CONFLICT\"}", 1.0),
            ("chatify_messages_accepted_total", 1.0),
            ("chatify_deliveries_total", 12.0),
            ("chatify_outbox_shed_total{reason=\"slow_consumer\"}", 1.0),
            ("chatify_joins_total{recovered=\"true\"}", 1.0),
            ("chatify_delivery_seconds_bucket{stage=\"durable\",le=\"0.0025\"}", 1.0),
            ("chatify_delivery_seconds_bucket{stage=\"durable\",le=\"0.001\"}", 0.0),
            ("chatify_projection_lag_records", 7.0),
            ("chatify_ready", 1.0),
        ];
        for (series, expected) in expected {
            assert_eq!(value(&rendered, series), Some(expected), "{series}\n{rendered}");
        }
    }
}
