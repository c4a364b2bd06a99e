//! How many may be connected: over all, so that the server's memory has a bound, and for one user, so that nobody takes all the room.

use super::problem::Problem;
use chatify_building_blocks::error::ErrorKind;
use chatify_domain::SenderId;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a client that found no room waits.
const NO_ROOM: Duration = Duration::from_secs(5);

/// Counts hub and event-stream connections from their request on, those in the middle of a handshake included. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connections: usize,
    per_user: Option<usize>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_user: HashMap<SenderId, usize>,
}

/// The right to one connection; given back when it is dropped.
#[derive(Debug)]
pub struct Admitted {
    admission: Admission,
    user: SenderId,
}

impl Admission {
    /// Room for `connections` over all and `per_user` for each user, when that has a limit.
    #[must_use]
    pub fn new(connections: usize, per_user: Option<usize>) -> Self {
        Self(Arc::new(Inner { connections, per_user, open: Mutex::default() }))
    }

    /// Takes one place for `user`.
    ///
    /// # Errors
    /// When the server or the user has as many as they may.
    pub fn admit(&self, user: &SenderId) -> Result<Admitted, Problem> {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= self.0.connections {
            return Err(no_room("this server has as many connections as it takes"));
        }
        let own = open.by_user.entry(user.clone()).or_default();
        if self.0.per_user.is_some_and(|most| *own >= most) {
            return Err(no_room("this user has as many connections as one user may have"));
        }
        *own += 1;
        open.total += 1;
        Ok(Admitted { admission: self.clone(), user: user.clone() })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.admission.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total -= 1;
        if let Entry::Occupied(mut own) = open.by_user.entry(self.user.clone()) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

fn no_room(detail: &str) -> Problem {
    Problem { retry_after: Some(NO_ROOM), ..Problem::new(ErrorKind::RateLimited, detail) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let admission = Admission::new(3, Some(2));
        let user = |name| SenderId::parse(name).expect("an id");
        let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
        let first = admission.admit(&alice).expect("room");
        let second = admission.admit(&alice).expect("room");
        let refused = admission.admit(&alice).expect_err("alice has two");
        assert!(refused.detail.contains("this user") && refused.retry_after == Some(NO_ROOM));
        let third = admission.admit(&bob).expect("room");
        assert!(admission.admit(&carol).expect_err("full").detail.contains("this server"));
        drop(first);
        let fourth = admission.admit(&carol).expect("room again");
        drop((second, third, fourth));
        let open = admission.0.open.lock().expect("not poisoned");
        assert_eq!((open.total, open.by_user.len()), (0, 0), "nothing is left of those who are gone");
    }
}
