//! Every limit of the domain, with its unit and its reason. Limits of sockets, queues and requests are configuration.

use std::time::Duration;

/// Characters in a `ScopeId`: room for two percent-encoded user ids, small enough for a key.
pub const SCOPE_ID_MAX_CHARS: usize = 256;
/// Characters in a `SenderId`.
pub const SENDER_ID_MAX_CHARS: usize = 256;
/// Characters in a `PodId`: a Kubernetes pod name has at most 253.
pub const POD_ID_MAX_CHARS: usize = 256;
/// Characters (Unicode scalar values) in a message's text.
pub const TEXT_MAX_CHARS: usize = 4096;
/// The greatest epoch whose positions are exact as JSON numbers (below 2^53).
pub const EPOCH_MAX: u16 = 8191;
/// Bits of a position that hold the offset: 2^40 records in one partition of one epoch.
pub const OFFSET_BITS: u32 = 40;

/// Messages a page of history holds when the caller does not say.
pub const PAGE_LIMIT_DEFAULT: usize = 50;
/// The most messages a page of history or an answer to a join holds.
pub const PAGE_LIMIT_MAX: usize = 500;
/// Messages in one history segment before the next one is opened.
pub const SEGMENT_MESSAGES: u64 = 50_000;

/// How long a repeated message id is recognised by every consumer of the log: a property of the log, the same on every pod.
pub const DEDUPE_WINDOW: Duration = Duration::from_secs(5 * 60);
/// How much more than the window is read back, because append times of one partition may step back a little.
pub const DEDUPE_MARGIN: Duration = Duration::from_secs(60);
