//! [`LogAppender`] over the writer.

use super::Store;
use super::checksum::ValueDigest;
use super::queue::AppendJob;
use crate::record;
use chatify_application::ports::LogAppender;
use chatify_application::ports::log::{AppendError, Durable, NewRecord};
use std::sync::Arc;

/// Encodes on the caller's thread, so that the writer only writes.
pub(super) struct EmbeddedAppender(pub(super) Arc<Store>);

impl LogAppender for EmbeddedAppender {
    fn append(&self, new: NewRecord) -> Result<Durable, AppendError> {
        let value = record::encode(&new.event).map_err(|_| AppendError::TooLarge)?;
        let (reply, durable) = Durable::pair();
        let digest = ValueDigest::of(&value);
        let job = AppendJob { event: new.event, correlation: new.correlation, value, digest, reply };
        self.0.writer.append(job).map_err(super::error::WriteError::into_append)?;
        Ok(durable)
    }
}
