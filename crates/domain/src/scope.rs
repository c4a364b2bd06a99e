//! Conversations.

use crate::{SenderId, limits};
use chatify_building_blocks::text_id;
use chatify_building_blocks::text_id::TextIdError;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::fmt;

text_id!(
    /// The name of a conversation within its type.
    ScopeId,
    max = limits::SCOPE_ID_MAX_CHARS
);

/// What kind of conversation a scope is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScopeType {
    /// Open to everyone who is signed in, until membership exists.
    Channel,
    /// Between the people whose ids make up the scope's id.
    DirectMessage,
}

impl ScopeType {
    /// Every type, for tables and messages.
    pub const ALL: [Self; 2] = [Self::Channel, Self::DirectMessage];

    /// The type's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Channel => "Channel",
            Self::DirectMessage => "DirectMessage",
        }
    }

    /// The type of that name; names are case-sensitive.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One conversation. Written `Channel:general`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    kind: ScopeType,
    id: ScopeId,
}

/// Why a text does not name a scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// The part before the colon is no scope type.
    #[error("scope type must be `Channel` or `DirectMessage`")]
    UnknownType,
    /// The id breaks a rule of its own.
    #[error("scope id {0}")]
    Id(#[source] TextIdError),
    /// A direct message's id is not the participants' ids in their one canonical form.
    #[error("a direct message's id is its participants' ids, percent-encoded, sorted and joined by `+`")]
    Participants,
}

/// What stays as it is in a participant's id: the unreserved characters of RFC 3986, section 2.3.
const PARTICIPANT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Scope {
    /// The scope of this type and id.
    ///
    /// # Errors
    /// When the id is not valid, or names a direct message in another than its canonical form.
    pub fn new(kind: ScopeType, id: &str) -> Result<Self, ScopeError> {
        let id = ScopeId::parse(id).map_err(ScopeError::Id)?;
        if kind == ScopeType::DirectMessage {
            check_participants(id.as_str())?;
        }
        Ok(Self { kind, id })
    }

    /// Reads `Channel:general`, `DirectMessage:alice+bob`, or a bare `general`, which is a channel. Only the text before the
    /// first colon can be a type.
    ///
    /// # Errors
    /// When there is no such scope.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        match text.split_once(':') {
            None => Self::new(ScopeType::Channel, text),
            Some((kind, id)) => Self::new(ScopeType::parse(kind).ok_or(ScopeError::UnknownType)?, id),
        }
    }

    /// The conversation between exactly these people.
    ///
    /// # Errors
    /// With fewer than two different people, or when their encoded ids are too long together.
    pub fn direct<'a>(people: impl IntoIterator<Item = &'a SenderId>) -> Result<Self, ScopeError> {
        let mut encoded: Vec<String> = people.into_iter().map(encode_participant).collect();
        encoded.sort();
        encoded.dedup();
        Self::new(ScopeType::DirectMessage, &encoded.join("+"))
    }

    /// What kind of conversation it is.
    #[must_use]
    pub const fn kind(&self) -> ScopeType {
        self.kind
    }

    /// Its id within the kind.
    #[must_use]
    pub const fn id(&self) -> &ScopeId {
        &self.id
    }

    /// Whether `user` is one of a direct message's participants; `false` for every other kind.
    #[must_use]
    pub fn has_participant(&self, user: &SenderId) -> bool {
        if self.kind != ScopeType::DirectMessage {
            return false;
        }
        let user = encode_participant(user);
        self.id.as_str().split('+').any(|participant| participant == user)
    }
}

fn encode_participant(user: &SenderId) -> String {
    utf8_percent_encode(user.as_str(), PARTICIPANT).to_string()
}

/// One conversation has one name: each part must be what encoding gives, in strictly ascending order, at least two of them.
fn check_participants(id: &str) -> Result<(), ScopeError> {
    let mut previous = "";
    let mut count = 0usize;
    for part in id.split('+') {
        let decoded = percent_decode_str(part).decode_utf8().map_err(|_| ScopeError::Participants)?;
        let user = SenderId::parse(&decoded).map_err(|_| ScopeError::Participants)?;
        if encode_participant(&user) != part || part <= previous {
            return Err(ScopeError::Participants);
        }
        previous = part;
        count += 1;
    }
    if count < 2 { Err(ScopeError::Participants) } else { Ok(()) }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.id)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(id: &str) -> SenderId {
        SenderId::parse(id).expect("a valid id")
    }

    #[test]
    fn a_bare_name_is_a_channel() {
        assert_eq!(Scope::parse("general").map(|s| s.to_string()), Ok("Channel:general".into()));
        assert_eq!(Scope::parse("Channel:a:b").map(|s| s.id().to_string()), Ok("a:b".into()));
        assert_eq!(Scope::parse("channel:a"), Err(ScopeError::UnknownType));
        assert_eq!(Scope::parse("Channel:"), Err(ScopeError::Id(TextIdError::Blank)));
    }

    #[test]
    fn a_direct_message_has_one_name() {
        let scope = Scope::direct([&user("bob"), &user("alice@x.org"), &user("bob")]).expect("a scope");
        assert_eq!(scope.to_string(), "DirectMessage:alice%40x.org+bob");
        assert!(scope.has_participant(&user("bob")) && !scope.has_participant(&user("alice")));
        for wrong in ["bob", "bob+alice", "a+a", "alice%40x.org+", "a%6c+b", "alice@x.org+bob", "%ff+b", "%+b"] {
            assert_eq!(Scope::new(ScopeType::DirectMessage, wrong), Err(ScopeError::Participants), "{wrong}");
        }
        assert!(!Scope::parse("Channel:alice+bob").expect("a channel").has_participant(&user("bob")));
    }

    proptest! {
        #[test]
        fn what_is_made_of_people_parses_back(people in prop::collection::btree_set("[ -~ä-ü]{1,20}", 2..4)) {
            let people: Vec<SenderId> = people.iter().filter_map(|p| SenderId::parse(p).ok()).collect();
            prop_assume!(people.len() >= 2);
            if let Ok(scope) = Scope::direct(&people) {
                prop_assert_eq!(&Scope::parse(&scope.to_string()).expect("parses"), &scope);
                prop_assert!(people.iter().all(|p| scope.has_participant(p)));
            }
        }
    }
}
