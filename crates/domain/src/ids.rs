//! Ids of people, pods and messages.

use crate::limits;
use chatify_building_blocks::text_id;

text_id!(
    /// Who sent a message: the signed-in user's id. It comes from the token, never from a frame.
    SenderId,
    max = limits::SENDER_ID_MAX_CHARS
);

text_id!(
    /// One running process.
    PodId,
    max = limits::POD_ID_MAX_CHARS
);

/// The client's name for a message: a UUID, best of version 7. Repeating a send with the same id is safe.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(uuid::Uuid);

/// The text is not a UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a UUID, for example 01890a5d-ac96-774b-bcce-b302099a8057")]
pub struct MessageIdError;

impl MessageId {
    /// Reads the hyphenated form of a UUID, in either case.
    ///
    /// # Errors
    /// When `text` has any other form.
    pub fn parse(text: &str) -> Result<Self, MessageIdError> {
        if text.len() != 36 {
            return Err(MessageIdError);
        }
        uuid::Uuid::try_parse(text).map(Self).map_err(|_| MessageIdError)
    }

    /// The id with these 128 bits.
    #[must_use]
    pub const fn from_u128(bits: u128) -> Self {
        Self(uuid::Uuid::from_u128(bits))
    }

    /// All 128 bits.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0.as_u128()
    }

    /// A UUIDv7 (RFC 9562, section 5.7) of this moment and these random bits.
    #[must_use]
    pub fn new_v7(now: crate::Timestamp, random: u128) -> Self {
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        let bytes = random.to_be_bytes();
        let mut tail = [0u8; 10];
        tail.copy_from_slice(&bytes[..10]);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &tail).into_uuid())
    }

    /// The moment that a UUIDv7 carries; `None` for every other version.
    #[must_use]
    pub fn made_at(self) -> Option<crate::Timestamp> {
        if self.0.get_version_num() != 7 {
            return None;
        }
        let millis = self.as_u128() >> 80;
        i64::try_from(millis).ok().map(crate::Timestamp::from_millis)
    }
}

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut buffer = uuid::Uuid::encode_buffer();
        f.write_str(self.0.as_hyphenated().encode_lower(&mut buffer))
    }
}

impl std::fmt::Debug for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        assert_eq!(MessageId::parse(id).map(|id| id.to_string()), Ok(id.into()));
        assert_eq!(MessageId::parse(&id.to_uppercase()).map(|id| id.to_string()), Ok(id.into()));
        for wrong in ["", "x", &id[1..], &id.replace('-', ""), &format!("{{{id}}}"), &id.replace('a', "g")] {
            assert_eq!(MessageId::parse(wrong), Err(MessageIdError), "{wrong}");
        }
    }

    #[test]
    fn a_version_7_id_carries_its_moment() {
        let moment = Timestamp::from_millis(1_700_000_000_123);
        assert_eq!(MessageId::new_v7(moment, 42).made_at(), Some(moment));
        let v4 = MessageId::parse("936da01f-9abd-4d9d-80c7-02af85c822a8").expect("a uuid");
        assert_eq!(v4.made_at(), None);
    }
}
