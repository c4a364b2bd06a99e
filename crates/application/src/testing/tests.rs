//! The world in memory keeps the contracts that it stands in for.

use super::{MemoryHistory, MemoryLog};
use crate::ports::HistoryStore;
use crate::ports::contract::history::HistoryFixture;
use crate::ports::contract::log::{LogFixture, OpenLog};
use async_trait::async_trait;
use chatify_building_blocks::clock::{Clock, SystemClock};
use chatify_domain::Position;
use std::sync::Arc;

struct LogInMemory(MemoryLog);

fn a_log() -> LogInMemory {
    LogInMemory(MemoryLog::new(3, Arc::new(SystemClock::new()) as Arc<dyn Clock>))
}

#[async_trait]
impl LogFixture for LogInMemory {
    async fn open(&self) -> OpenLog {
        let log = Arc::new(self.0.clone());
        OpenLog { appender: Arc::clone(&log) as _, tail: Arc::clone(&log) as _, group: log }
    }

    async fn remove_before(&self, position: Position) {
        for partition in self.0.records().into_keys() {
            self.0.remove_before(partition, position);
        }
    }
}

#[async_trait]
impl HistoryFixture for MemoryHistory {
    async fn open(&self) -> Arc<dyn HistoryStore> {
        Arc::new(self.clone())
    }
}

mod log_keeps_its_contract {
    crate::log_contract!(super::a_log());
}

mod history_keeps_its_contract {
    crate::history_contract!(super::MemoryHistory::default());
}
