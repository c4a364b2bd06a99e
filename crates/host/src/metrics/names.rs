//! Every metric: name, kind, labels and meaning. `docs/METRICS.md` is written from this table.

use std::fmt::Write as _;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations in buckets; in seconds.
    Histogram,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels, `-` for none.
    pub labels: &'static str,
    /// What it says.
    pub meaning: &'static str,
}

macro_rules! names {
    ($($constant:ident = $name:literal, $kind:ident, $labels:literal, $meaning:literal;)+) => {
        $(#[doc = $meaning] pub(super) const $constant: &str = $name;)+
        /// The table.
        pub const TABLE: &[Definition] =
            &[$(Definition { name: $name, kind: Kind::$kind, labels: $labels, meaning: $meaning }),+];
    };
}

names! {
    ACCEPTED = "chatify_messages_accepted_total", Counter, "-", "Sends that were answered with a position.";
    REFUSED = "chatify_messages_refused_total", Counter, "reason", "Commands and queries that were refused, by error code.";
    DELIVERIES = "chatify_deliveries_total", Counter, "-", "Messages handed to a subscriber's connection: one for each message and subscriber.";
    DELIVERY_SECONDS = "chatify_delivery_seconds", Histogram, "stage", "Time of a message by stage. `durable`: from the log's acceptance to the disk's; `fan_out`: from its place in the log to this pod's hub, oldest of a batch; `socket`: from its place in the log to the sockets, that is end to end.";
    CONNECTIONS = "chatify_active_connections", Gauge, "transport", "Open connections, by transport.";
    REGISTERED = "chatify_registered_connections", Gauge, "-", "Connections in the hub's registry, counted every second.";
    OPENED = "chatify_connections_opened_total", Counter, "transport", "Connections that were opened, by transport.";
    CLOSED = "chatify_connections_closed_total", Counter, "transport, reason", "Connections that were closed, by transport and reason.";
    FRAMES = "chatify_frames_written_total", Counter, "-", "Frames written to connections, pings and answers included.";
    SHED = "chatify_outbox_shed_total", Counter, "reason", "What a full outbox did not take: a `ping` was dropped, with `slow_consumer` the connection was closed and its messages left to the resume.";
    JOINS = "chatify_joins_total", Counter, "recovered", "Joins that were answered, by whether nothing is provably missing.";
    DUPLICATES = "chatify_duplicates_dropped_total", Counter, "-", "Records that repeat an earlier one and were not delivered.";
    POISON = "chatify_poison_records_total", Counter, "-", "Records that the fan-out could not read and skipped.";
    DEAD_LETTERS = "chatify_dead_letters_total", Counter, "-", "Records kept for an operator because they can have no effect on the history.";
    PROJECTED = "chatify_projected_messages_total", Counter, "-", "Messages written to the history.";
    LAG = "chatify_projection_lag_records", Gauge, "-", "Records that the history has not got yet, over all partitions, the same on every pod: take `max`, not `sum`.";
    DEDUPE = "chatify_dedupe_entries", Gauge, "-", "Message ids in the deduplication window.";
    TAIL = "chatify_tail_bytes", Gauge, "-", "Memory of the newest messages.";
    READY = "chatify_ready", Gauge, "-", "1 when this pod is ready, 0 otherwise.";
    HTTP_REQUESTS = "chatify_http_requests_total", Counter, "method, route, status", "Answered HTTP requests; a WebSocket counts when it is opened.";
    HTTP_SECONDS = "chatify_http_request_seconds", Histogram, "route", "Time from a request's header to its answer's header.";
    BUILD = "chatify_build_info", Gauge, "version, commit", "Always 1; says which build runs.";
}

/// `docs/METRICS.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(HEAD);
    for row in TABLE {
        let kind = format!("{:?}", row.kind).to_lowercase();
        let _ = writeln!(text, "| `{}` | {kind} | {} | {} |", row.name, row.labels, row.meaning);
    }
    text
}

const HEAD: &str = "\
# Metrics

`GET /metrics` answers in Prometheus' text format. Counters exist from the start, at zero. Durations are histograms in seconds. No label holds a
user, a scope or anything else that grows with use. The process's own metrics (`process_cpu_seconds_total`, `process_resident_memory_bytes`,
`process_open_fds`, `process_max_fds`, `process_start_time_seconds`, `process_threads`, …) come with them.

This page is written from the code; a test fails when they differ. `CHATIFY_BLESS=1 cargo test -p chatify-host metrics` writes it anew.

| name | kind | labels | meaning |
| --- | --- | --- | --- |
";
