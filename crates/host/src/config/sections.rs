//! The sections. To add a setting, add a documented field with its default, and its range to `validate`.

use super::describe::section;
use super::units;
use super::values::{LogFormat, Profile, Secret, TextList, TokenAlgorithm};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

section! {
    /// What kind of server this is.
    General [""] {
        /// Which adapters are used. This release has `embedded`: one process, everything in one data directory.
        profile: Profile = "\"embedded\"",
    }
}

section! {
    /// Where the server listens, what it keeps where, and how long it waits.
    Server ["server"] {
        /// Address and port to listen on. Use `0.0.0.0:8080` to be reached from other machines.
        listen: SocketAddr = "\"127.0.0.1:8080\"",
        /// Directory for everything that is kept. Made when it is missing; only one process may use it at a time.
        data_dir: PathBuf = "\"./data\"",
        /// Name of this process in messages and presence, 1 to 256 characters. Unset: the host's name.
        pod_id: Option<String> = "",
        /// Origins (`https://chat.example.org`) whose web pages may call this server, besides its own.
        origins: TextList = "[]",
        /// Time over which connections are told to reconnect elsewhere when the server ends.
        #[serde(with = "units::duration")] drain_window: Duration = "\"10s\"",
        /// Time after the drain window for work in flight; what is not done then is cut off.
        #[serde(with = "units::duration")] drain_grace: Duration = "\"10s\"",
        /// Whether `/` serves the playground, a page that shows what the server can do.
        playground: bool = "true",
        /// Longest time from a request's header to its answer.
        #[serde(with = "units::duration")] request_timeout: Duration = "\"30s\"",
        /// Longest time that a connection may take to send a request's header.
        #[serde(with = "units::duration")] header_timeout: Duration = "\"10s\"",
        /// Largest header of a request.
        #[serde(with = "units::size")] max_header_bytes: usize = "\"16KiB\"",
        /// Largest body of a request.
        #[serde(with = "units::size")] max_body_bytes: usize = "\"64KiB\"",
    }
}

section! {
    /// Who may come in. There is no unauthenticated mode.
    Auth ["auth"] {
        /// The `iss` that a token must have.
        issuer: String = "\"chatify\"",
        /// The `aud` that a token must have.
        audience: String = "\"chatify\"",
        /// The one algorithm that is accepted: `HS256`, `RS256`, `ES256` or `EdDSA`.
        algorithm: TokenAlgorithm = "\"HS256\"",
        /// Shared secret (HS256, at least 32 bytes) or public key in PEM. Unset with HS256: a key that is made in the data directory (`auth.key`).
        key: Option<Secret> = "",
        /// File that holds `key`.
        key_file: Option<PathBuf> = "",
        /// How far the clocks of issuer and server may differ.
        #[serde(with = "units::duration")] leeway: Duration = "\"30s\"",
        /// How long a token of `chatify token` is valid.
        #[serde(with = "units::duration")] token_ttl: Duration = "\"12h\"",
    }
}

section! {
    /// How much one user, one connection and the whole server may use.
    Limits ["limits"] {
        /// Messages that a user may send at once, and within `send_window`.
        send_messages: u32 = "100",
        /// See `send_messages`.
        #[serde(with = "units::duration")] send_window: Duration = "\"60s\"",
        /// Open connections of the server.
        connections: usize = "20000",
        /// Open hub and event-stream connections of one user.
        connections_per_user: Option<usize> = "",
        /// Scopes that one connection may be in.
        scopes_per_connection: usize = "500",
        /// Sends of one connection that may wait for the log; the next one waits in the socket.
        sends_in_flight: usize = "32",
        /// Largest message from a client on the hub.
        #[serde(with = "units::size")] frame: usize = "\"64KiB\"",
        /// Frames that may wait for a slow connection before it is closed and has to resume.
        outbox_frames: usize = "512",
        /// Bytes that may wait for a slow connection before it is closed and has to resume.
        #[serde(with = "units::size")] outbox_bytes: usize = "\"1MiB\"",
        /// Memory for the newest messages, from which joins and resumes are answered.
        #[serde(with = "units::size")] tail_bytes: usize = "\"64MiB\"",
        /// How often an idle connection is pinged.
        #[serde(with = "units::duration")] keep_alive: Duration = "\"15s\"",
        /// Silence after which a client counts as gone.
        #[serde(with = "units::duration")] client_timeout: Duration = "\"30s\"",
        /// Longest time from a WebSocket's opening to the hub's handshake.
        #[serde(with = "units::duration")] handshake_timeout: Duration = "\"10s\"",
    }
}

section! {
    /// The log.
    MessageBroker ["message_broker"] {
        /// Generation of the log, 1 to 8191. Raise it by one when the log was lost or made anew.
        log_epoch: u16 = "1",
        /// How long the log keeps messages; the history keeps them for good. What the history has not got yet is never removed.
        #[serde(with = "units::duration")] retention: Duration = "\"7d\"",
        /// How long a repeated message id is recognised without a look at the history.
        #[serde(with = "units::duration")] dedupe_window: Duration = "\"5m\"",
    }
}

section! {
    /// The loop that writes the history.
    ChatHistoryWriter ["chat_history_writer"] {
        /// Tries for one batch before the writer pauses.
        database_retry_attempts: u32 = "5",
        /// Longest wait after the first failed try; it doubles with each one.
        #[serde(with = "units::duration")] database_retry_first: Duration = "\"100ms\"",
        /// No wait between tries is longer.
        #[serde(with = "units::duration")] database_retry_cap: Duration = "\"10s\"",
        /// Longest first pause after all tries failed; it doubles each time.
        #[serde(with = "units::duration")] consumer_backoff_first: Duration = "\"1s\"",
        /// No pause is longer.
        #[serde(with = "units::duration")] consumer_backoff_cap: Duration = "\"16s\"",
    }
}

section! {
    /// Logs.
    Telemetry ["telemetry"] {
        /// `text`, `json`, or `auto`: text on a terminal and JSON otherwise.
        log_format: LogFormat = "\"auto\"",
        /// Levels by module, for example `info,chatify_application=debug`. The variable `RUST_LOG` wins.
        log_filter: String = "\"info\"",
    }
}
