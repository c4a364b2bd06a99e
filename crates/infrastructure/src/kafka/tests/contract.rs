//! The log's contract suites on a real Kafka. With one partition the brokers would let the first member keep it, so there are three.

use super::real_log::RealLog;

chatify_application::log_contract!(RealLog::new(3));
