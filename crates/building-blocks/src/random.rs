//! Randomness as an argument: the one place that asks the machine for it.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::{Mutex, PoisonError};

/// Where random numbers come from.
pub trait Random: Send + Sync + 'static {
    /// 64 random bits.
    fn u64(&self) -> u64;

    /// 128 random bits.
    fn u128(&self) -> u128 {
        u128::from(self.u64()) << 64 | u128::from(self.u64())
    }

    /// A number in `[0, 1)`.
    fn unit(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double's mantissa")]
        let bits = (self.u64() >> 11) as f64;
        bits / (1u64 << 53) as f64
    }
}

/// A cryptographically strong generator seeded by the operating system.
#[derive(Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    #[expect(clippy::disallowed_methods, reason = "this is the one source of randomness")]
    fn u64(&self) -> u64 {
        rand::rng().next_u64()
    }
}

/// A generator that repeats itself for the same seed: for tests and simulations.
#[derive(Debug)]
pub struct SeededRandom(Mutex<StdRng>);

impl SeededRandom {
    /// The generator of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Random for SeededRandom {
    fn u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }
}
