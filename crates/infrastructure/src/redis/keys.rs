//! How things are named in Redis.
//!
//! Ids may hold any character. Whatever could end a hash tag or a part of a member is percent-encoded, so that no user can take
//! another's place and no two names are the same.

use chatify_domain::{PodId, SenderId};
use std::fmt::{self, Write};

/// The number of parts into which the hash slots are divided to tell a sick node of a cluster from a healthy one.
pub(super) const SLOT_RANGES: usize = 16;

/// One life of a pod: entries belong to it, so that a pod that restarts, or that was silent for longer than its lease, does not revive
/// what it left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Incarnation {
    /// A random number that the process drew at its start.
    pub(super) process: u64,
    /// The process's incarnations, counted.
    pub(super) number: u32,
}

impl Incarnation {
    /// Whether the incarnation of this name belongs to the same process.
    pub(super) fn is_of_same_process(self, name: &str) -> bool {
        name.split_once('-').is_some_and(|(process, _)| process == format!("{:016x}", self.process))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}-{}", self.process, self.number)
    }
}

/// The keys of one deployment.
#[derive(Clone, Debug)]
pub(super) struct Keys(pub(super) String);

impl Keys {
    /// The sorted set of a user's connections. The braces are Redis's: all keys of the user share a slot.
    pub(super) fn entries(&self, user: &SenderId) -> String {
        format!("{}presence:user:{{{}}}", self.0, Encoded(user.as_str()))
    }

    /// The pod that holds one connection of a user; `member` is its name in the sorted set, because pods number their connections alone.
    pub(super) fn route(&self, user: &SenderId, member: &str) -> String {
        format!("{}route:{{{}}}:{member}", self.0, Encoded(user.as_str()))
    }

    /// The lease of a pod, by its encoded name.
    pub(super) fn lease(&self, encoded_pod: &str) -> String {
        format!("{}pod:{{{encoded_pod}}}", self.0)
    }

    /// The budget of a user.
    pub(super) fn budget(&self, user: &SenderId) -> String {
        format!("{}limit:send:{{{}}}", self.0, Encoded(user.as_str()))
    }

    /// A key in each range of slots, by which the health of all nodes is seen.
    pub(super) fn probes(&self) -> Vec<String> {
        let mut found = vec![None; SLOT_RANGES];
        for number in 0_u32.. {
            let key = format!("{}probe:{{{number}}}", self.0);
            found[slot_range(&key)].get_or_insert(key);
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        found.into_iter().flatten().collect()
    }

    /// The channel of the signals.
    pub(super) fn signals(&self) -> String {
        format!("{}signals", self.0)
    }
}

/// A pod's name in keys and members.
pub(super) fn encoded_pod(pod: &PodId) -> String {
    Encoded(pod.as_str()).to_string()
}

/// The name of a connection in a user's sorted set: `{pod}:{incarnation}:{connection}`.
pub(super) fn member(encoded_pod: &str, incarnation: Incarnation, connection: u64) -> String {
    format!("{encoded_pod}:{incarnation}:{connection}")
}

/// The pod and the incarnation that a member belongs to; none when it is no member of ours.
pub(super) fn owner(member: &str) -> Option<(&str, &str)> {
    let mut parts = member.split(':');
    let (pod, incarnation, connection) = (parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && !connection.is_empty()).then_some((pod, incarnation))
}

/// In which of the [`SLOT_RANGES`] a key is.
pub(super) fn slot_range(key: &str) -> usize {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(tag, _)| tag);
    let hashed = if tag.is_empty() { key } else { tag };
    // Redis's CRC-16 (XMODEM) modulo 16384 slots.
    let crc = hashed.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 })
    });
    usize::from(crc % 16384) * SLOT_RANGES / 16384
}

/// Letters, digits and `-_.~@+` as they are, every other byte as `%XX`.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'@' | b'+' => {
                    formatter.write_char(char::from(byte))?;
                }
                _ => write!(formatter, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(id: &str) -> SenderId {
        SenderId::parse(id).expect("a valid id")
    }

    fn keys() -> Keys {
        Keys("test:".into())
    }

    #[test]
    fn keys_read_as_the_design_says() {
        assert_eq!(keys().entries(&user("alice")), "test:presence:user:{alice}");
        assert_eq!(keys().route(&user("alice"), "p:1:2"), "test:route:{alice}:p:1:2");
        assert_eq!(keys().lease(&encoded_pod(&PodId::parse("chatify-0").expect("a pod"))), "test:pod:{chatify-0}");
    }

    #[test]
    fn ids_with_braces_and_colons_do_not_break_tags_and_members() {
        assert_eq!(keys().entries(&user("}{a:é")), "test:presence:user:{%7D%7Ba%3A%C3%A9}");
        let pod = encoded_pod(&PodId::parse("a:b{c}").expect("a pod"));
        let member = member(&pod, Incarnation { process: 7, number: 2 }, 3);
        assert_eq!(owner(&member), Some((&*pod, "0000000000000007-2")));
        for stranger in ["", "a", "a:b", "a:b:", "a:b:c:d"] {
            assert_eq!(owner(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn a_process_knows_its_own_incarnations() {
        let (one, stranger) = (Incarnation { process: 7, number: 2 }, Incarnation { process: 8, number: 2 });
        assert!(one.is_of_same_process(&Incarnation { number: 3, ..one }.to_string()));
        assert!(!one.is_of_same_process(&stranger.to_string()) && !one.is_of_same_process(""));
    }

    #[test]
    fn slots_are_those_of_redis() {
        // CLUSTER KEYSLOT foo = 12182, CLUSTER KEYSLOT 123456789 = 12739, CLUSTER KEYSLOT hello = 866.
        assert_eq!([slot_range("foo"), slot_range("x{123456789}y"), slot_range("{hello}")], [11, 12, 0]);
        let ranges: Vec<_> = keys().probes().iter().map(|key| slot_range(key)).collect();
        assert_eq!(ranges, (0..SLOT_RANGES).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn names_are_unique_and_a_users_keys_share_a_slot(one in "\\PC{1,20}", other in "\\PC{1,20}") {
            prop_assume!(!one.trim().is_empty() && !other.trim().is_empty() && one != other);
            let (one, other) = (user(&one), user(&other));
            prop_assert_ne!(keys().entries(&one), keys().entries(&other));
            prop_assert_eq!(slot_range(&keys().entries(&one)), slot_range(&keys().route(&one, "p:1:2")));
        }
    }
}
