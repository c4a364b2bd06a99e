//! Logs: text for people on a terminal, JSON for machines. Message text, tokens and query strings never get here.

use crate::config::LogFormat;
use crate::config::sections::Telemetry;
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter of the configuration, or `RUST_LOG`, cannot be read.
    #[error("the log filter `{filter}` cannot be read")]
    Filter {
        /// Which.
        filter: String,
        /// Why.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody else has started it.
    #[error("logging was started before")]
    Started(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Below INFO these write what went over the wire, tokens and texts included, so they are capped whatever the filter says. (Those that write through the
/// crate `log`, tungstenite among them, are not listened to at all: see the features of `tracing-subscriber`.)
const LIBRARIES: [&str; 10] =
    ["axum", "h2", "hyper", "hyper_util", "mio", "rdkafka", "redis", "rustls", "tokio_util", "tower"];
/// It reports each failed try several times; its adapter says what matters, once.
const SILENT: &str = "scylla";

/// Starts writing log lines to the standard error stream. Once for a process.
///
/// # Errors
/// When the filter cannot be read, or it was called before.
pub fn start(telemetry: &Telemetry) -> Result<(), TelemetryError> {
    let filter = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = filter.unwrap_or_else(|| telemetry.log_filter.clone());
    let mut parsed = EnvFilter::builder().parse(&filter).map_err(|source| TelemetryError::Filter { filter, source })?;
    let caps = LIBRARIES.map(|library| (library, "info")).into_iter().chain([(SILENT, "off")]);
    for (library, level) in caps {
        let directive = format!("{library}={level}").parse().expect("a crate's name and a level are a directive");
        parsed = parsed.add_directive(directive);
    }
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(colours());
    let started = match effective(telemetry.log_format) {
        Form::Text => subscriber.with_target(false).try_init(),
        Form::Json => subscriber.json().flatten_event(true).with_span_list(false).try_init(),
    };
    started.map_err(TelemetryError::Started)
}

enum Form {
    Text,
    Json,
}

fn effective(configured: LogFormat) -> Form {
    match configured {
        LogFormat::Text => Form::Text,
        LogFormat::Json => Form::Json,
        LogFormat::Auto if std::io::stderr().is_terminal() => Form::Text,
        LogFormat::Auto => Form::Json,
    }
}

/// Colours on a terminal unless `NO_COLOR` is set to anything (no-color.org).
fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
