//! [`SignalBus`] over Redis's publish and subscribe.
//!
//! One channel for all signals of a deployment: every pod gets everything, as it does with the log. In a cluster the nodes pass publications on to
//! each other, so a pod listens to any one of them.

use super::connection::RedisConnection;
use super::signal_codec::{decode, encode};
use chatify_application::ports::SignalBus;
use chatify_application::ports::signal::{LocalSignals, Signal, SignalCounts, Signals};
use chatify_building_blocks::tasks::Supervisor;
use futures_util::StreamExt;
use redis::aio::PubSub;
use redis::{RedisError, cmd};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

/// Signals that may wait for Redis; the next is dropped.
const MAX_WAITING: usize = 1_024;
/// Signals in one publication: at most 330 KiB.
const MAX_BATCH: usize = 64;

/// This pod's end of the bus. While Redis is away, signals reach the pod's own subscribers only; listening goes on by itself when it is back.
pub struct RedisSignalBus {
    connection: Arc<RedisConnection>,
    local: LocalSignals,
    queue: mpsc::Sender<Signal>,
    /// Marks what this process published, so that its own subscribers do not get it again from Redis.
    origin: u64,
    listening: watch::Sender<bool>,
}

impl RedisSignalBus {
    /// Starts to listen, and to publish what is given to it, as services of `supervisor`.
    #[must_use]
    pub fn start(connection: Arc<RedisConnection>, supervisor: &Supervisor) -> Arc<Self> {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let origin = connection.random().u64();
        let listening = watch::Sender::new(false);
        let this = Arc::new(Self { connection, local: LocalSignals::new(), queue, origin, listening });
        let (publishes, listens) = (Arc::clone(&this), Arc::clone(&this));
        let (publishing, token) = (supervisor.token(), supervisor.token());
        supervisor.service("signal-publisher", async move {
            publishing.run_until_cancelled(publishes.pass_on(waiting)).await;
            Ok::<_, Infallible>(())
        });
        supervisor.service("signal-listener", async move {
            token.run_until_cancelled(listens.listen()).await;
            Ok::<_, Infallible>(())
        });
        this
    }

    /// Whether signals of other pods come in at the moment.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        *self.listening.borrow()
    }

    #[cfg(test)]
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.listening.subscribe()
    }

    async fn pass_on(&self, mut waiting: mpsc::Receiver<Signal>) {
        let channel = self.connection.keys().signals();
        let mut batch = Vec::with_capacity(MAX_BATCH);
        while waiting.recv_many(&mut batch, MAX_BATCH).await > 0 {
            let mut command = cmd("PUBLISH");
            command.arg(&channel).arg(encode(self.origin, &batch));
            if self.connection.query::<()>(&channel, &command).await.is_err() {
                batch.iter().for_each(|_| self.local.count_dropped());
            }
            batch.clear();
        }
    }

    async fn listen(&self) {
        let options = self.connection.options();
        let mut failures = 0;
        for attempt in 0.. {
            match timeout(options.connect_timeout, self.subscribe_channel(attempt)).await {
                Ok(Ok(subscription)) => {
                    failures = 0;
                    self.listening.send_replace(true);
                    self.receive(subscription).await;
                    self.listening.send_replace(false);
                    tracing::debug!("signals of other pods do not come in: the connection to redis is gone");
                }
                // The other connection says in the log that Redis is away.
                Ok(Err(_)) | Err(_) => failures += 1,
            }
            sleep(options.reconnect.wait(failures, &**self.connection.random())).await;
        }
    }

    async fn subscribe_channel(&self, attempt: usize) -> Result<PubSub, RedisError> {
        let mut subscription = self.connection.connector().listen(attempt).await?;
        subscription.subscribe(self.connection.keys().signals()).await?;
        Ok(subscription)
    }

    /// Until the connection is gone. The driver's queue behind the stream has no bound, but nothing here waits: it is emptied as it is filled.
    async fn receive(&self, subscription: PubSub) {
        let options = self.connection.options();
        let (mut sink, mut stream) = subscription.split();
        loop {
            match timeout(options.health_interval, stream.next()).await {
                Ok(Some(message)) => match decode(message.get_payload_bytes(), self.origin) {
                    Ok(signals) => signals.into_iter().for_each(|signal| self.local.receive(signal)),
                    Err(_) => self.local.count_malformed(),
                },
                Ok(None) => return,
                // Silence: a link that was cut without a word looks the same.
                Err(_) => match timeout(options.connect_timeout, sink.ping::<redis::Value>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return,
                },
            }
        }
    }
}

impl SignalBus for RedisSignalBus {
    fn publish(&self, signal: Signal) {
        if self.local.publish(signal.clone()) && self.queue.try_send(signal).is_err() {
            self.local.count_dropped();
        }
    }

    fn subscribe(&self) -> Signals {
        self.local.subscribe()
    }

    fn counts(&self) -> SignalCounts {
        self.local.counts()
    }
}
