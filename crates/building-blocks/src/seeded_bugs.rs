//! Bugs on purpose, for the suite that must find them. Without the feature `seeded-bugs` there are none: [`seeded_bug`] is a constant then,
//! and nothing of it is compiled into the binary.

/// A part of the promise that can be broken. Each has one place in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A send whose outcome is not known is answered as accepted.
    AckBeforeDurable,
    /// A send whose outcome is not known is answered as refused.
    UnknownSaidRefused,
    /// A position is committed before what is in front of it is in the history.
    CommitBeforePersist,
    /// Positions of partitions that were given away are committed along with others.
    CommitAfterRevoke,
    /// What the history store does not take is skipped.
    SkipOnStoreError,
    /// The window of known messages begins empty when a pod starts.
    DedupeInMemoryOnly,
    /// Messages that repeat others are shown.
    RepeatsShown,
    /// A repeat that is known enters the log anew.
    NewPositionForRepeat,
    /// A join reads the past before it registers for what comes.
    HistoryBeforeLive,
    /// A join that could not read everything says that nothing is missing.
    RecoveredAlways,
    /// A full queue loses frames instead of its connection.
    DropOnFullQueue,
    /// Pages are ordered by id, which clients make from their clocks.
    OrderByTime,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Self; 12] = [
        Self::AckBeforeDurable,
        Self::UnknownSaidRefused,
        Self::CommitBeforePersist,
        Self::CommitAfterRevoke,
        Self::SkipOnStoreError,
        Self::DedupeInMemoryOnly,
        Self::RepeatsShown,
        Self::NewPositionForRepeat,
        Self::HistoryBeforeLive,
        Self::RecoveredAlways,
        Self::DropOnFullQueue,
        Self::OrderByTime,
    ];

    /// Its name in the environment variable `CHATIFY_SEEDED_BUG`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeDurable => "ack-before-durable",
            Self::UnknownSaidRefused => "unknown-said-refused",
            Self::CommitBeforePersist => "commit-before-persist",
            Self::CommitAfterRevoke => "commit-after-revoke",
            Self::SkipOnStoreError => "skip-on-store-error",
            Self::DedupeInMemoryOnly => "dedupe-in-memory-only",
            Self::RepeatsShown => "repeats-shown",
            Self::NewPositionForRepeat => "new-position-for-repeat",
            Self::HistoryBeforeLive => "history-before-live",
            Self::RecoveredAlways => "recovered-always",
            Self::DropOnFullQueue => "drop-on-full-queue",
            Self::OrderByTime => "order-by-time",
        }
    }
}

/// Whether this process has the bug: the one that `CHATIFY_SEEDED_BUG` names.
#[cfg(feature = "seeded-bugs")]
#[must_use]
pub fn seeded_bug(bug: Bug) -> bool {
    static NAMED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    NAMED.get_or_init(|| std::env::var("CHATIFY_SEEDED_BUG").ok()).as_deref() == Some(bug.name())
}

/// There are no bugs on purpose without the feature `seeded-bugs`.
#[cfg(not(feature = "seeded-bugs"))]
#[must_use]
pub const fn seeded_bug(_bug: Bug) -> bool {
    false
}
