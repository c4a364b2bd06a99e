//! Keyed hashes of messages: small names for large things that nobody outside can choose to collide.

use chatify_building_blocks::random::Random;
use chatify_domain::{MessageId, MessageSent, Scope, SenderId, Text};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// Names (scope, sender, message id). With 128 keyed bits, two of a few million being equal by chance is out of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64, u64);

/// The keys. Two processes have different ones, which is fine: fingerprints never leave the process.
#[derive(Clone, Copy)]
pub(crate) struct Fingerprints {
    keys: (u64, u64),
}

impl Fingerprints {
    pub(crate) fn new(random: &dyn Random) -> Self {
        Self { keys: (random.u64(), random.u64()) }
    }

    /// Names a message for deduplication.
    pub(crate) fn message(&self, sent: &MessageSent) -> Fingerprint {
        self.of(&sent.scope, &sent.sender_id, sent.message_id)
    }

    /// Names the message that `sender` calls `id` in `scope`.
    pub(crate) fn of(&self, scope: &Scope, sender: &SenderId, id: MessageId) -> Fingerprint {
        let mut hasher = self.hasher();
        scope.hash(&mut hasher);
        sender.hash(&mut hasher);
        hasher.write_u128(id.as_u128());
        let hash = hasher.finish128();
        Fingerprint(hash.h1, hash.h2)
    }

    /// Tells texts apart: two different ones are equal once in four thousand million.
    pub(crate) fn body(&self, text: &Text) -> u32 {
        let mut hasher = self.hasher();
        hasher.write(text.as_str().as_bytes());
        let hash = hasher.finish();
        u32::try_from(hash >> 32).expect("32 bits are left")
    }

    /// Names an id within a scope, whoever used it.
    pub(crate) fn id(&self, scope: &Scope, id: MessageId) -> u64 {
        let mut hasher = self.hasher();
        scope.hash(&mut hasher);
        hasher.write_u128(id.as_u128());
        hasher.finish()
    }

    fn hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.keys.0, self.keys.1)
    }
}

#[cfg(test)]
impl Fingerprint {
    pub(crate) const fn from_parts(one: u64, other: u64) -> Self {
        Self(one, other)
    }
}

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// Hashes a [`Fingerprint`] for a table: it is a hash already.
pub(crate) type FingerprintHasher = BuildHasherDefault<Identity>;

#[derive(Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, bytes: &[u8]) {
        // Only fingerprints come here, through `write_u64`; other input is folded so that it stays a correct hash.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatify_building_blocks::random::SeededRandom;

    #[test]
    fn every_part_of_the_name_counts_and_so_does_the_key() {
        let names = Fingerprints::new(&SeededRandom::new(1));
        let scope = |name| Scope::parse(name).expect("a channel");
        let sender = |name| SenderId::parse(name).expect("a user");
        let id = MessageId::from_u128;
        let name = names.of(&scope("a"), &sender("b"), id(1));
        assert_eq!(name, names.of(&scope("a"), &sender("b"), id(1)));
        assert_ne!(name, names.of(&scope("b"), &sender("a"), id(1)));
        assert_ne!(name, names.of(&scope("ab"), &sender("b"), id(1)));
        assert_ne!(name, names.of(&scope("a"), &sender("b"), id(2)));
        assert_ne!(name, Fingerprints::new(&SeededRandom::new(2)).of(&scope("a"), &sender("b"), id(1)));
        let text = |text| names.body(&Text::parse(text).expect("short"));
        assert_ne!(text("a"), text("b"));
        assert_ne!(names.id(&scope("a"), id(1)), names.id(&scope("b"), id(1)));
    }
}
