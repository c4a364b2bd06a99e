//! Randomness that repeats itself, and the ids made of it.

use chatify_building_blocks::clock::{Clock, SystemClock};
use chatify_building_blocks::random::{Random, SeededRandom, SystemRandom};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// A source of random choices that prints its seed when the test that uses it fails.
#[derive(Clone, Debug)]
pub struct Seed {
    random: Arc<SeededRandom>,
    announcement: Arc<Announcement>,
}

#[derive(Debug)]
struct Announcement(u64);

impl Drop for Announcement {
    #[expect(clippy::print_stderr, reason = "the seed of a failing test is told to whoever reads its output")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat this run with CHATIFY_SEED={}", self.0);
        }
    }
}

impl Seed {
    /// The seed named by the environment variable `CHATIFY_SEED`, or a new one.
    ///
    /// # Panics
    /// When the variable is not a number.
    #[must_use]
    pub fn of_this_run() -> Self {
        let seed = match std::env::var("CHATIFY_SEED") {
            Ok(text) => text.parse().expect("CHATIFY_SEED is a number"),
            Err(_) => SystemRandom.u64(),
        };
        Self { random: Arc::new(SeededRandom::new(seed)), announcement: Arc::new(Announcement(seed)) }
    }

    /// A number of `range`.
    ///
    /// # Panics
    /// When the range is empty.
    #[must_use]
    pub fn pick(&self, range: Range<u64>) -> u64 {
        assert!(!range.is_empty(), "nothing to pick from {range:?}");
        range.start + self.random.u64() % (range.end - range.start)
    }

    /// One of `items`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn choose<'a, T>(&self, items: &'a [T]) -> &'a T {
        let index = self.pick(0..items.len() as u64);
        &items[usize::try_from(index).expect("an index of a slice fits")]
    }

    /// The number that repeats this run.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.announcement.0
    }
}

/// A new UUIDv7, as clients should give their messages. Not seeded: two runs against one server must not repeat ids.
#[must_use]
pub fn message_id() -> String {
    static CLOCK: OnceLock<SystemClock> = OnceLock::new();
    let now = CLOCK.get_or_init(SystemClock::new).now().as_millis();
    message_id_of(u64::try_from(now).expect("the clock is after 1970"))
}

/// A UUIDv7 that claims to have been made `millis` milliseconds after 1970.
#[must_use]
pub fn message_id_of(millis: u64) -> String {
    let bytes = SystemRandom.u128().to_be_bytes();
    let mut tail = [0u8; 10];
    tail.copy_from_slice(&bytes[..10]);
    uuid::Builder::from_unix_timestamp_millis(millis, &tail).into_uuid().hyphenated().to_string()
}

/// The wall clock in whole seconds since 1970, as tokens count.
#[must_use]
pub fn unix_seconds() -> i64 {
    SystemClock::new().now().as_millis() / 1000
}
