//! The profile `embedded`: everything in one process and one data directory.

use super::{Adapters, Closing, Parts, send_limit};
use crate::dependencies::Dependencies;
use chatify_domain::Epoch;
use chatify_domain::limits::DEDUPE_MARGIN;
use chatify_infrastructure::embedded::{EmbeddedPresence, EmbeddedRateLimiter, EmbeddedStore, Options};
use std::sync::Arc;
use std::time::Duration;

/// Takes the data directory. Blocks for a few syncs of the disk.
pub(super) fn open(parts: &Parts) -> anyhow::Result<Adapters> {
    let config = &parts.config;
    let options = Options {
        log_epoch: Epoch::new(config.message_broker.log_epoch)?,
        retention: config.message_broker.retention,
        kept_before_committed: config.message_broker.dedupe_window + DEDUPE_MARGIN,
        ..Options::new(&config.server.data_dir)
    };
    let store = EmbeddedStore::open(&options, parts.clock.clone(), &parts.supervisor)?;
    Ok(Adapters {
        appender: store.appender(),
        tail: store.tail(),
        group: store.group(),
        history: store.history(),
        presence: Arc::new(EmbeddedPresence::new(parts.clock.clone())),
        limiter: EmbeddedRateLimiter::start(send_limit(config), parts.clock.clone(), &parts.supervisor),
        // What waits for the disk here is written before anything that comes later, and nobody else writes.
        append_deadline: Duration::ZERO,
        dependencies: Dependencies::none(),
        closing: Closing::Embedded(store),
    })
}
