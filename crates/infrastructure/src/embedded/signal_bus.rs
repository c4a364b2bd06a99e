//! [`SignalBus`] in the memory of the one process.

use chatify_application::ports::SignalBus;
use chatify_application::ports::signal::{LocalSignals, Signal, SignalCounts, Signals};

/// There is one pod, so its own subscribers are all that there are.
#[derive(Debug, Default)]
pub struct EmbeddedSignalBus(LocalSignals);

impl EmbeddedSignalBus {
    /// Nobody subscribes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl SignalBus for EmbeddedSignalBus {
    fn publish(&self, signal: Signal) {
        // One that is too long is counted there.
        let _published = self.0.publish(signal);
    }

    fn subscribe(&self) -> Signals {
        self.0.subscribe()
    }

    fn counts(&self) -> SignalCounts {
        self.0.counts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use chatify_application::ports::contract::signal::SignalFixture;
    use std::sync::Arc;

    struct Fixture;

    #[async_trait]
    impl SignalFixture for Fixture {
        async fn open(&self) -> Vec<Arc<dyn SignalBus>> {
            vec![Arc::new(EmbeddedSignalBus::new())]
        }
    }

    chatify_application::signal_contract!(Fixture);
}
