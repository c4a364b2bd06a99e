//! What must come out, computed in the plainest way.

use crate::ports::log::LogRecord;
use crate::testing::MemoryLog;
use chatify_domain::{ChatEvent, LoggedMessage, Position, Scope, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Keeps every record ever seen, also those that retention has removed since.
#[derive(Default)]
pub(super) struct Model {
    records: BTreeMap<(u32, Position), LogRecord>,
}

impl Model {
    pub(super) fn read(&mut self, log: &MemoryLog) {
        for record in log.records().into_values().flatten() {
            self.records.insert((record.partition.0, record.position), record);
        }
    }

    /// The messages of `scope`: every record that does not repeat an earlier one from within the window.
    pub(super) fn messages(&self, scope: &Scope, window: Duration) -> Vec<LoggedMessage> {
        let mut earlier: Vec<(&ChatEvent, Timestamp)> = Vec::new();
        let mut messages = Vec::new();
        for record in self.records.values() {
            let Ok(event) = &record.content else { continue };
            let ChatEvent::MessageSent(sent) = event;
            if sent.scope != *scope {
                continue;
            }
            let at = record.appended_at;
            let repeats = earlier.iter().any(|(ChatEvent::MessageSent(other), then)| {
                (other.message_id, &other.sender_id) == (sent.message_id, &sent.sender_id)
                    && (at.as_millis() - then.as_millis()) < i64::try_from(window.as_millis()).expect("minutes")
            });
            earlier.push((event, at));
            if !repeats {
                let (position, partition) = (record.position, record.partition);
                messages.push(LoggedMessage { position, partition, created_at: at, sent: Arc::clone(sent) });
            }
        }
        messages
    }

    /// Places of the records that cannot be decoded.
    pub(super) fn poison(&self) -> Vec<Position> {
        self.records.values().filter(|record| record.content.is_err()).map(|record| record.position).collect()
    }
}
