//! How clients of librdkafka are given up.

/// Drops `client` on a thread of its own: closing waits for the client's threads and connections, which must hold nobody up.
pub(super) fn close_on_thread<T: Send + 'static>(client: T) {
    // Without a thread the closure is dropped here, and the client with it: slower, but as complete.
    if let Err(error) = std::thread::Builder::new().name("kafka-close".into()).spawn(move || drop(client)) {
        tracing::warn!(%error, "no thread to close a Kafka client on");
    }
}
