//! The promise as a function: given what was sent, what was acknowledged and what everybody saw, which parts of the promise
//! are broken. It knows no server and no network, so its own tests can show that it finds every kind of violation.

use crate::message::ChatMessage;
use std::collections::{HashMap, HashSet};

/// One message that a client tried to send, with its repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The scope it was sent to.
    pub scope: String,
    /// The id that the client gave it.
    pub message_id: String,
    /// When the first try left, on a clock that all clients of the run share and that only counts.
    pub issued: u64,
    /// What the server answered in the end.
    pub answer: Answer,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Accepted at this position; `at` is when the answer came, on the same clock as [`Attempt::issued`].
    Accepted {
        /// The position in the answer.
        position: i64,
        /// When the answer came.
        at: u64,
    },
    /// Refused: it must never appear.
    Refused,
    /// No answer: it may appear once or not at all.
    Unknown,
}

/// One message as somebody saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its place in the order.
    pub position: i64,
    /// Its id.
    pub message_id: String,
}

/// What somebody saw of a scope from its beginning to its end, in the order of appearance.
#[derive(Clone, Debug)]
pub struct View {
    /// Who looked.
    pub observer: String,
    /// What they saw.
    pub seen: Vec<Seen>,
}

/// Everything that was seen of one scope. The first view is the one that the others are compared with.
#[derive(Clone, Debug)]
pub struct ScopeViews {
    /// The scope.
    pub scope: String,
    /// At least one view.
    pub views: Vec<View>,
}

/// A broken part of the promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An accepted message is missing.
    Lost {
        /// Who misses it.
        observer: String,
        /// Which.
        message_id: String,
    },
    /// A message was shown more than once.
    Duplicate {
        /// To whom.
        observer: String,
        /// Which.
        message_id: String,
    },
    /// A position is not behind the one before it.
    Reordered {
        /// Who saw it.
        observer: String,
        /// The message at the wrong place.
        message_id: String,
    },
    /// Somebody's sequence is not the one that the first view shows.
    Differs {
        /// Whose.
        observer: String,
        /// The first index at which it differs.
        index: usize,
    },
    /// A message is at another position than the answer to its sender said.
    Moved {
        /// Which.
        message_id: String,
        /// The position in the answer.
        answered: i64,
        /// The position where it is.
        found: i64,
    },
    /// A message was seen that was refused.
    RefusedButShown {
        /// Which.
        message_id: String,
    },
    /// A message was seen that nobody sent.
    Invented {
        /// Which.
        message_id: String,
    },
    /// A message stands before one that had been accepted before it was first sent.
    BeforeItsPast {
        /// The one that stands too early.
        message_id: String,
    },
}

impl From<&ChatMessage> for Seen {
    fn from(message: &ChatMessage) -> Self {
        Self { position: message.position, message_id: message.message_id.clone() }
    }
}

impl View {
    /// What `observer` saw.
    pub fn new<'a>(observer: &str, messages: impl IntoIterator<Item = &'a ChatMessage>) -> Self {
        Self { observer: observer.to_owned(), seen: messages.into_iter().map(Seen::from).collect() }
    }
}

/// Everything that is broken in one scope; empty when the promise holds.
///
/// # Panics
/// When there is no view.
#[must_use]
pub fn violations(attempts: &[Attempt], scope: &ScopeViews) -> Vec<Violation> {
    let attempts: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.scope == scope.scope).collect();
    let reference = scope.views.first().expect("a scope has at least one view");
    let mut found = Vec::new();
    for view in &scope.views {
        found.extend(lost(&attempts, view));
        found.extend(repeated(view));
        found.extend(out_of_order(view));
        found.extend(difference(reference, view));
    }
    found.extend(against_answers(&attempts, reference));
    found.extend(before_their_past(&attempts, reference));
    found
}

fn lost(attempts: &[&Attempt], view: &View) -> Vec<Violation> {
    let seen: HashSet<&str> = view.seen.iter().map(|seen| seen.message_id.as_str()).collect();
    let accepted = attempts.iter().filter(|attempt| matches!(attempt.answer, Answer::Accepted { .. }));
    let missing = accepted.filter(|attempt| !seen.contains(attempt.message_id.as_str()));
    missing
        .map(|attempt| Violation::Lost { observer: view.observer.clone(), message_id: attempt.message_id.clone() })
        .collect()
}

fn repeated(view: &View) -> Vec<Violation> {
    let mut seen = HashSet::new();
    let repeats = view.seen.iter().filter(|item| !seen.insert(item.message_id.as_str()));
    repeats
        .map(|item| Violation::Duplicate { observer: view.observer.clone(), message_id: item.message_id.clone() })
        .collect()
}

fn out_of_order(view: &View) -> Vec<Violation> {
    let steps = view.seen.windows(2).filter(|pair| pair[1].position <= pair[0].position);
    steps
        .map(|pair| Violation::Reordered { observer: view.observer.clone(), message_id: pair[1].message_id.clone() })
        .collect()
}

fn difference(reference: &View, view: &View) -> Option<Violation> {
    let same = reference.seen.iter().zip(&view.seen).take_while(|(left, right)| left == right).count();
    let whole = same == reference.seen.len() && same == view.seen.len();
    (!whole).then(|| Violation::Differs { observer: view.observer.clone(), index: same })
}

fn against_answers(attempts: &[&Attempt], view: &View) -> Vec<Violation> {
    let known: HashMap<&str, &Attempt> = attempts.iter().map(|&item| (item.message_id.as_str(), item)).collect();
    let check = |seen: &Seen| {
        let message_id = seen.message_id.clone();
        match known.get(seen.message_id.as_str()).map(|attempt| attempt.answer) {
            None => Some(Violation::Invented { message_id }),
            Some(Answer::Refused) => Some(Violation::RefusedButShown { message_id }),
            Some(Answer::Unknown) => None,
            Some(Answer::Accepted { position, .. }) => (position != seen.position).then_some(Violation::Moved {
                message_id,
                answered: position,
                found: seen.position,
            }),
        }
    };
    view.seen.iter().filter_map(check).collect()
}

/// Goes from the newest message to the oldest and keeps the earliest moment at which a newer one had been accepted: a message
/// that was first sent after that moment stands too early.
fn before_their_past(attempts: &[&Attempt], view: &View) -> Vec<Violation> {
    let known: HashMap<&str, &Attempt> = attempts.iter().map(|&item| (item.message_id.as_str(), item)).collect();
    let mut earliest_newer = u64::MAX;
    let mut found = Vec::new();
    for seen in view.seen.iter().rev() {
        let Some(attempt) = known.get(seen.message_id.as_str()) else { continue };
        if attempt.issued > earliest_newer {
            found.push(Violation::BeforeItsPast { message_id: seen.message_id.clone() });
        }
        if let Answer::Accepted { at, .. } = attempt.answer {
            earliest_newer = earliest_newer.min(at);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(count: i64) -> Vec<Attempt> {
        let attempt = |n: i64| Attempt {
            scope: "Channel:a".into(),
            message_id: format!("m{n}"),
            issued: u64::try_from(n * 10).expect("positive"),
            answer: Answer::Accepted { position: 100 + n, at: u64::try_from(n * 10 + 5).expect("positive") },
        };
        (0..count).map(attempt).collect()
    }

    fn view(observer: &str, numbers: &[i64]) -> View {
        let seen = numbers.iter().map(|n| Seen { position: 100 + n, message_id: format!("m{n}") }).collect();
        View { observer: observer.into(), seen }
    }

    fn check(attempts: &[Attempt], views: Vec<View>) -> Vec<Violation> {
        violations(attempts, &ScopeViews { scope: "Channel:a".into(), views })
    }

    #[test]
    fn a_good_run_has_no_violation() {
        let mut attempts = attempts(4);
        attempts.push(Attempt { scope: "Channel:b".into(), ..attempts[0].clone() });
        attempts.push(Attempt { message_id: "never".into(), answer: Answer::Unknown, ..attempts[0].clone() });
        attempts.push(Attempt { message_id: "no".into(), answer: Answer::Refused, ..attempts[0].clone() });
        assert_eq!(check(&attempts, vec![view("history", &[0, 1, 2, 3]), view("bob", &[0, 1, 2, 3])]), []);
    }

    #[test]
    fn a_lost_message_is_found_wherever_it_is_missing() {
        let found = check(&attempts(3), vec![view("history", &[0, 1, 2]), view("bob", &[0, 2])]);
        assert!(found.contains(&Violation::Lost { observer: "bob".into(), message_id: "m1".into() }), "{found:?}");
        assert!(found.contains(&Violation::Differs { observer: "bob".into(), index: 1 }), "{found:?}");
        let found = check(&attempts(3), vec![view("history", &[0, 1])]);
        assert_eq!(found, [Violation::Lost { observer: "history".into(), message_id: "m2".into() }]);
    }

    #[test]
    fn a_duplicate_is_found() {
        let mut twice = view("bob", &[0, 1]);
        twice.seen.push(Seen { position: 107, message_id: "m0".into() });
        let found = check(&attempts(2), vec![view("history", &[0, 1]), twice]);
        assert!(found.contains(&Violation::Duplicate { observer: "bob".into(), message_id: "m0".into() }), "{found:?}");
    }

    #[test]
    fn another_order_is_found() {
        let found = check(&attempts(3), vec![view("history", &[0, 1, 2]), view("bob", &[0, 2, 1])]);
        assert!(found.contains(&Violation::Reordered { observer: "bob".into(), message_id: "m1".into() }), "{found:?}");
        assert!(found.contains(&Violation::Differs { observer: "bob".into(), index: 1 }), "{found:?}");
    }

    #[test]
    fn a_message_at_another_place_than_answered_is_found() {
        let mut attempts = attempts(1);
        attempts[0].answer = Answer::Accepted { position: 99, at: 5 };
        let expected = Violation::Moved { message_id: "m0".into(), answered: 99, found: 100 };
        assert_eq!(check(&attempts, vec![view("history", &[0])]), [expected]);
    }

    #[test]
    fn what_was_refused_or_never_sent_must_not_appear() {
        let mut attempts = attempts(1);
        attempts[0].answer = Answer::Refused;
        let found = check(&attempts, vec![view("history", &[0, 1])]);
        let refused = Violation::RefusedButShown { message_id: "m0".into() };
        assert_eq!(found, [refused, Violation::Invented { message_id: "m1".into() }]);
    }

    #[test]
    fn a_message_before_its_own_past_is_found() {
        let mut attempts = attempts(2);
        // m0 was sent after m1 had been accepted and still stands before it.
        attempts[0].issued = 50;
        attempts[0].answer = Answer::Unknown;
        let found = check(&attempts, vec![view("history", &[0, 1])]);
        assert_eq!(found, [Violation::BeforeItsPast { message_id: "m0".into() }]);
    }

    #[test]
    fn a_view_that_is_too_short_or_too_long_differs() {
        let unknown =
            |n: i64| Attempt { answer: Answer::Unknown, ..attempts(3).remove(usize::try_from(n).expect("small")) };
        let all: Vec<Attempt> = (0..3).map(unknown).collect();
        let found = check(&all, vec![view("history", &[0, 1]), view("short", &[0]), view("long", &[0, 1, 2])]);
        let differs = |observer: &str, index| Violation::Differs { observer: observer.into(), index };
        assert_eq!(found, [differs("short", 1), differs("long", 2)]);
    }
}
