//! Who may do what: pure decisions. Every surface that reads or writes a scope asks here, and nowhere else.

use crate::{Scope, ScopeType, SenderId};

/// What somebody wants to do in a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Receive what is said from now on.
    Join,
    /// Read what was said.
    Read,
    /// Say something.
    Post,
}

/// Why it is denied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The conversation is between other people.
    #[error("only its participants may use a direct message")]
    NotAParticipant,
}

/// Decides whether `user` may do `action` in `scope`.
///
/// Until membership exists every signed-in user may use any channel, and a direct message belongs to its participants.
///
/// # Errors
/// The reason for a denial.
pub fn authorize(user: &SenderId, action: Action, scope: &Scope) -> Result<(), Denied> {
    match (scope.kind(), action) {
        (ScopeType::Channel, Action::Join | Action::Read | Action::Post) => Ok(()),
        (ScopeType::DirectMessage, Action::Join | Action::Read | Action::Post) => {
            if scope.has_participant(user) {
                Ok(())
            } else {
                Err(Denied::NotAParticipant)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_of_the_table() {
        let user = |id| SenderId::parse(id).expect("a valid id");
        let cells = [
            ("Channel:general", "alice", true),
            ("Channel:alice+bob", "carol", true),
            ("DirectMessage:alice+bob", "alice", true),
            ("DirectMessage:alice+bob", "bob", true),
            ("DirectMessage:alice+bob", "carol", false),
            ("DirectMessage:alice+bob", "alice+bob", false),
            ("DirectMessage:alice+bob", "Alice", false),
        ];
        for (scope, who, allowed) in cells {
            let scope = Scope::parse(scope).expect("a scope");
            for action in [Action::Join, Action::Read, Action::Post] {
                assert_eq!(authorize(&user(who), action, &scope).is_ok(), allowed, "{who} {action:?} {scope}");
            }
        }
    }
}
