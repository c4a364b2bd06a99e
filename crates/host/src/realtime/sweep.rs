//! Once a second, over all connections: keep-alive pings, silent clients, expired tokens. One timer for the pod instead of three per connection.

use super::encode::{Chunk, Format, Opcode, RECORD_SEPARATOR, websocket_frame};
use super::hub::Hub;
use super::peer::{CloseReason, Peer};
use crate::metrics::Metrics;
use bytes::Bytes;
use chatify_building_blocks::clock::Clock;
use chatify_domain::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often connections are looked at, and so how exact the times below are.
const PERIOD: Duration = Duration::from_secs(1);

/// The times of a connection.
#[derive(Clone, Copy, Debug)]
pub struct SweepOptions {
    /// A ping is sent when nothing was written for this long.
    pub keep_alive: Duration,
    /// The connection is closed when no whole message was read for this long.
    pub client_timeout: Duration,
}

/// Runs until `cancelled` is.
pub async fn run(
    hub: Arc<Hub>,
    options: SweepOptions,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    cancelled: CancellationToken,
) {
    let pings = Pings::new();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            () = cancelled.cancelled() => return,
            _ = ticks.tick() => {}
        }
        hub.uptime().set(clock.uptime());
        metrics.active_connections(hub.open());
        let (seconds, now) = (hub.uptime().seconds(), clock.now());
        for peer in hub.peers() {
            look_at(&peer, seconds, now, options, &pings);
        }
    }
}

fn look_at(peer: &Peer, seconds: u32, now: Timestamp, options: SweepOptions, pings: &Pings) {
    let (unheard, unwritten) = peer.silent_for(seconds);
    if now >= peer.expires_at() {
        peer.close(CloseReason::TokenExpired);
    } else if peer.socket().is_some() && Duration::from_secs(unheard.into()) >= options.client_timeout {
        peer.close(CloseReason::ClientTimeout);
    } else if Duration::from_secs(unwritten.into()) >= options.keep_alive {
        peer.send_if_idle(pings.of(peer.format()));
    }
}

/// A ping for each format, made once.
struct Pings([Bytes; 3]);

impl Pings {
    fn new() -> Self {
        let frame = |opcode, payload: &[u8]| {
            let mut out = Vec::new();
            websocket_frame(opcode, payload, &mut out);
            Bytes::from(out)
        };
        let mut json = br#"{"type":6}"#.to_vec();
        json.push(RECORD_SEPARATOR);
        Self([
            frame(Opcode::Text, &json),
            // Length 2, then the array [6].
            frame(Opcode::Binary, &[0x02, 0x91, 0x06]),
            Bytes::from_static(b": keep-alive\n\n"),
        ])
    }

    fn of(&self, format: Format) -> Chunk {
        Chunk { bytes: self.0[format as usize].clone(), frames: 1 }
    }
}
