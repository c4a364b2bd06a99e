//! The words of Chatify and the rules between them: pure values and pure functions.
//!
//! No runtime, no serialisation, no I/O. A value that exists is valid: every type is made by a constructor that checks its
//! limit from [`limits`]. Read [`scope`], [`message`], [`position`], [`event`], then [`policy`]. A new kind of fact in the log
//! is a new variant of [`event::ChatEvent`].
#![warn(missing_docs)]

pub mod event;
pub mod ids;
pub mod limits;
pub mod message;
pub mod policy;
pub mod position;
pub mod scope;

pub use chatify_building_blocks::clock::Timestamp;
pub use event::{ChatEvent, LoggedMessage, MessageSent};
pub use ids::{MessageId, PodId, SenderId};
pub use message::Text;
pub use position::{Epoch, Offset, Partition, Position};
pub use scope::{Scope, ScopeId, ScopeType};
