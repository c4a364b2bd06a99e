//! The writing end on librdkafka's mock cluster, which breaks on demand, and on a real Kafka; the readers on a real Kafka.

mod contract;
mod dead_letters;
mod fixture;
mod frozen;
mod group;
mod leaving;
mod outcomes;
mod producer;
mod queries;
mod real;
mod real_log;
#[cfg(feature = "kafka-tls")]
mod secure;
mod settings;
mod tail;
