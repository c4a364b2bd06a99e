//! The promise as functions over what was recorded. Nothing here knows a server, so its tests can show that every kind of
//! violation is found.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// How long a repeat is recognised, in milliseconds: the default of `message_broker.dedupe_window`.
pub const DEDUPE_WINDOW_MILLIS: i64 = 300_000;

/// One record as it lies in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Its partition.
    pub partition: i32,
    /// Its place in the one order.
    pub position: i64,
    /// When the broker appended it, in milliseconds since 1970.
    pub appended_at: i64,
    /// `Channel:general`.
    pub scope: String,
    /// Who sent it.
    pub sender_id: String,
    /// The client's id for it.
    pub message_id: String,
    /// What was said.
    pub text: String,
    /// The pod that took it.
    pub origin_pod_id: String,
}

/// One message as a client or the history store shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its place.
    pub position: i64,
    /// Its id.
    pub message_id: String,
}

/// What a client sent, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Where it was sent.
    pub scope: String,
    /// Who sent it.
    pub sender_id: String,
    /// The client's id for it.
    pub message_id: String,
    /// What was answered in the end.
    pub answer: Answer,
}

/// What came of an attempt with all its repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Accepted at this position.
    Accepted(i64),
    /// Every try was refused.
    Refused,
    /// Some try got no answer, and no repeat has settled it.
    Unknown,
}

/// A broken part of the promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// An accepted message is not in the log.
    Lost {
        /// Which.
        message_id: String,
    },
    /// A refused message is in the log.
    RefusedShown {
        /// Which.
        message_id: String,
    },
    /// Repeating did not settle what came of a send.
    Unresolved {
        /// Which.
        message_id: String,
    },
    /// The log has a message that nobody sent.
    Invented {
        /// Which.
        message_id: String,
    },
    /// An answer named a position where the message is not.
    Moved {
        /// Which.
        message_id: String,
        /// The position in the answer.
        answered: i64,
    },
    /// A repeat on a pod that had already delivered the message was answered with another position.
    AnsweredElsewhere {
        /// Which.
        message_id: String,
        /// The position of the one that was delivered.
        delivered: i64,
        /// The position in the answer.
        answered: i64,
    },
    /// Somebody was shown a message twice.
    Twice {
        /// Who.
        observer: String,
        /// Which.
        message_id: String,
    },
    /// Somebody was shown a message before an earlier one.
    Order {
        /// Who.
        observer: String,
        /// Which came too late.
        message_id: String,
    },
    /// Somebody was not shown a message that stands before one that they were shown.
    Gap {
        /// Who.
        observer: String,
        /// The first one that is missing.
        message_id: String,
        /// Whether the last join had said that nothing is missing.
        recovered: bool,
    },
    /// Somebody was shown something that is not in the log.
    NotInLog {
        /// Who.
        observer: String,
        /// What.
        message_id: String,
    },
    /// A cursor that the log had given was not known any more.
    CursorForgotten {
        /// Who.
        observer: String,
        /// The cursor.
        cursor: i64,
    },
    /// The history misses a message of the log.
    HistoryMisses {
        /// Which.
        message_id: String,
    },
    /// The history has a row that is no projection of the log, or differs from it.
    HistoryInvents {
        /// Which.
        message_id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What was accepted was not in the history that was read afterwards, though the page said that it was complete.
    NotRead {
        /// Which.
        message_id: String,
    },
    /// An answer that the protocol does not allow here.
    WrongAnswer {
        /// Who got it.
        observer: String,
        /// What it said.
        answer: String,
    },
    /// A committed position went back.
    CommitWentBack {
        /// The partition.
        partition: i32,
        /// From here.
        from: i64,
        /// To here.
        to: i64,
    },
    /// A position was committed before everything in front of it was persisted.
    CommittedTooEarly {
        /// The first message that the store did not have.
        message_id: String,
    },
    /// A record that every pod wrote itself was kept as poison.
    DeadLettered {
        /// How many.
        count: usize,
    },
    /// A process ended that nobody had ended, or panicked.
    Crashed {
        /// Which, and how.
        what: String,
    },
    /// What was healed did not come back in time.
    NotRecovered {
        /// What, and after which fault.
        what: String,
    },
}

impl Finding {
    /// Its kind, for tables.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "lost",
            Self::RefusedShown { .. } => "refused shown",
            Self::Unresolved { .. } => "unresolved",
            Self::Invented { .. } => "invented",
            Self::Moved { .. } => "moved",
            Self::AnsweredElsewhere { .. } => "answered elsewhere",
            Self::Twice { .. } => "twice",
            Self::Order { .. } => "order",
            Self::Gap { .. } => "gap",
            Self::NotInLog { .. } => "not in log",
            Self::CursorForgotten { .. } => "cursor forgotten",
            Self::HistoryMisses { .. } => "history misses",
            Self::HistoryInvents { .. } => "history invents",
            Self::NotRead { .. } => "not read",
            Self::WrongAnswer { .. } => "wrong answer",
            Self::CommitWentBack { .. } => "commit went back",
            Self::CommittedTooEarly { .. } => "committed too early",
            Self::DeadLettered { .. } => "dead-lettered",
            Self::Crashed { .. } => "crashed",
            Self::NotRecovered { .. } => "not recovered",
        }
    }
}

/// The rule of deduplication, written anew from ADR 0003: a record is a repeat when an earlier record of its partition, repeat
/// or not, has the same scope, sender and id and was appended less than the window before.
#[derive(Debug, Default)]
pub struct Projection {
    newest: HashMap<(i32, String, String, String), i64>,
    scopes: BTreeMap<String, Vec<Seen>>,
}

impl Projection {
    /// Takes the next record of its partition. Whether it is shown.
    pub fn take(&mut self, record: &LogRecord) -> bool {
        let LogRecord { partition, scope, sender_id, message_id, .. } = record;
        let name = (*partition, scope.clone(), sender_id.clone(), message_id.clone());
        let earlier = self.newest.get(&name).copied();
        let newest = earlier.map_or(record.appended_at, |earlier| earlier.max(record.appended_at));
        self.newest.insert(name, newest);
        let repeat = earlier.is_some_and(|earlier| record.appended_at - earlier < DEDUPE_WINDOW_MILLIS);
        if !repeat {
            let seen = Seen { position: record.position, message_id: message_id.clone() };
            self.scopes.entry(scope.clone()).or_default().push(seen);
        }
        !repeat
    }

    /// What everybody must see of a scope, as far as the log was read.
    #[must_use]
    pub fn scope(&self, scope: &str) -> &[Seen] {
        self.scopes.get(scope).map_or(&[], Vec::as_slice)
    }
}

/// Compares what one observer is shown of a scope with the log, as it comes.
#[derive(Clone, Debug, Default)]
pub struct Follower {
    verified: usize,
    fresh: VecDeque<Seen>,
    /// Whether the last join had said that nothing is missing.
    pub recovered: bool,
}

impl Follower {
    /// The observer was shown this.
    pub fn show(&mut self, seen: Seen) {
        self.fresh.push_back(seen);
    }

    /// How many messages were shown.
    #[must_use]
    pub fn count(&self) -> usize {
        self.verified + self.fresh.len()
    }

    /// Compares as much as the log already shows. The first thing that is wrong, if anything is.
    pub fn compare(&mut self, observer: &str, log: &[Seen]) -> Option<Finding> {
        while let (Some(seen), Some(expected)) = (self.fresh.front(), log.get(self.verified)) {
            if seen != expected {
                let seen = seen.clone();
                return Some(self.explain(observer, &seen, log));
            }
            self.verified += 1;
            self.fresh.pop_front();
        }
        None
    }

    fn explain(&self, observer: &str, seen: &Seen, log: &[Seen]) -> Finding {
        let (observer, message_id) = (observer.to_owned(), seen.message_id.clone());
        if log[..self.verified].iter().any(|earlier| earlier.message_id == seen.message_id) {
            return Finding::Twice { observer, message_id };
        }
        let rest = &log[self.verified..];
        if !rest.contains(seen) {
            return Finding::NotInLog { observer, message_id };
        }
        let missing = &rest[0];
        // What is missing may still come, too late.
        if self.fresh.iter().any(|later| later == missing) {
            return Finding::Order { observer, message_id: missing.message_id.clone() };
        }
        Finding::Gap { observer, message_id: missing.message_id.clone(), recovered: self.recovered }
    }
}

/// What is wrong with the answers, given the whole log.
#[must_use]
pub fn judge_answers(attempts: &[Attempt], log: &[LogRecord]) -> Vec<Finding> {
    let mut places: HashMap<(&str, &str, &str), Vec<i64>> = HashMap::new();
    for record in log {
        places.entry((&record.scope, &record.sender_id, &record.message_id)).or_default().push(record.position);
    }
    let mut findings = Vec::new();
    let mut sent = HashSet::new();
    for attempt in attempts {
        let name = (attempt.scope.as_str(), attempt.sender_id.as_str(), attempt.message_id.as_str());
        sent.insert(name);
        let message_id = attempt.message_id.clone();
        let places = places.get(&name).map_or(&[][..], Vec::as_slice);
        match attempt.answer {
            Answer::Accepted(_) if places.is_empty() => findings.push(Finding::Lost { message_id }),
            Answer::Accepted(answered) if !places.contains(&answered) => {
                findings.push(Finding::Moved { message_id, answered });
            }
            Answer::Refused if !places.is_empty() => findings.push(Finding::RefusedShown { message_id }),
            Answer::Unknown => findings.push(Finding::Unresolved { message_id }),
            Answer::Accepted(_) | Answer::Refused => {}
        }
    }
    let invented = places.keys().filter(|name| !sent.contains(*name));
    findings.extend(invented.map(|(_, _, id)| Finding::Invented { message_id: (*id).to_owned() }));
    findings
}

/// What is wrong with the rows of the history store, given the records that must be shown. Rows and records are compared whole.
#[must_use]
pub fn judge_history(shown: &[LogRecord], rows: &[LogRecord]) -> Vec<Finding> {
    let mut expected: HashMap<(&str, i64), &LogRecord> =
        shown.iter().map(|record| ((record.scope.as_str(), record.position), record)).collect();
    let mut findings = Vec::new();
    for row in rows {
        let message_id = row.message_id.clone();
        match expected.remove(&(row.scope.as_str(), row.position)) {
            None => {
                let reason = format!("{} at {} is no message, or there twice", row.scope, row.position);
                findings.push(Finding::HistoryInvents { message_id, reason });
            }
            Some(record) if record != row => {
                findings.push(Finding::HistoryInvents { message_id, reason: format!("{row:?} instead of {record:?}") });
            }
            Some(_) => {}
        }
    }
    let missing = expected.into_values();
    findings.extend(missing.map(|record| Finding::HistoryMisses { message_id: record.message_id.clone() }));
    findings
}

/// What is wrong with a series of committed positions of one partition.
#[derive(Clone, Debug, Default)]
pub struct Commits {
    highest: HashMap<i32, i64>,
}

impl Commits {
    /// Takes what was just read.
    pub fn take(&mut self, partition: i32, position: i64) -> Option<Finding> {
        let highest = self.highest.entry(partition).or_insert(position);
        if position < *highest {
            return Some(Finding::CommitWentBack { partition, from: *highest, to: position });
        }
        *highest = position;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: i64) -> LogRecord {
        LogRecord {
            partition: 0,
            position: 100 + number,
            appended_at: 1_000 * number,
            scope: "Channel:a".into(),
            sender_id: "alice".into(),
            message_id: format!("m{number}"),
            text: format!("text {number}"),
            origin_pod_id: "pod-0".into(),
        }
    }

    fn attempt(number: i64, answer: Answer) -> Attempt {
        let LogRecord { scope, sender_id, message_id, .. } = record(number);
        Attempt { scope, sender_id, message_id, answer }
    }

    fn seen(number: i64) -> Seen {
        let LogRecord { position, message_id, .. } = record(number);
        Seen { position, message_id }
    }

    fn follow(log: &[i64], shown: &[i64]) -> Option<Finding> {
        let log: Vec<Seen> = log.iter().copied().map(seen).collect();
        let mut follower = Follower { recovered: true, ..Follower::default() };
        shown.iter().copied().map(seen).for_each(|seen| follower.show(seen));
        follower.compare("bob", &log)
    }

    #[test]
    fn a_good_run_has_no_finding() {
        let log: Vec<LogRecord> = (0..4).map(record).collect();
        let attempts: Vec<Attempt> = (0..4).map(|n| attempt(n, Answer::Accepted(100 + n))).collect();
        assert_eq!(judge_answers(&attempts, &log), []);
        assert_eq!(judge_history(&log, &log), []);
        assert_eq!(follow(&[0, 1, 2, 3], &[0, 1, 2]), None);
        assert_eq!(follow(&[0, 1], &[0, 1, 2]), None, "the log is read more slowly than the client is shown");
    }

    #[test]
    fn answers_that_break_the_promise_are_found() {
        let log = [record(0), record(1)];
        let cases = [
            (attempt(7, Answer::Accepted(107)), Finding::Lost { message_id: "m7".into() }),
            (attempt(1, Answer::Refused), Finding::RefusedShown { message_id: "m1".into() }),
            (attempt(1, Answer::Unknown), Finding::Unresolved { message_id: "m1".into() }),
            (attempt(1, Answer::Accepted(100)), Finding::Moved { message_id: "m1".into(), answered: 100 }),
        ];
        for (attempt_, finding) in cases {
            let others = attempt(0, Answer::Accepted(100));
            let known = if attempt_.message_id == "m7" { vec![attempt(1, Answer::Accepted(101))] } else { vec![] };
            let attempts: Vec<Attempt> = [others, attempt_].into_iter().chain(known).collect();
            assert_eq!(judge_answers(&attempts, &log), [finding]);
        }
        let found = judge_answers(&[attempt(0, Answer::Accepted(100))], &log);
        assert_eq!(found, [Finding::Invented { message_id: "m1".into() }]);
    }

    #[test]
    fn a_repeat_may_be_answered_with_any_of_its_places() {
        let again = LogRecord { position: 109, ..record(0) };
        for position in [100, 109] {
            assert_eq!(judge_answers(&[attempt(0, Answer::Accepted(position))], &[record(0), again.clone()]), []);
        }
    }

    #[test]
    fn what_an_observer_is_shown_wrongly_is_found() {
        let observer = || "bob".to_owned();
        let id = |number: i64| format!("m{number}");
        let cases = [
            (follow(&[0, 1, 2], &[0, 1, 1]), Finding::Twice { observer: observer(), message_id: id(1) }),
            (follow(&[0, 1, 2], &[0, 2, 1]), Finding::Order { observer: observer(), message_id: id(1) }),
            (follow(&[0, 1, 2], &[0, 2]), Finding::Gap { observer: observer(), message_id: id(1), recovered: true }),
            (follow(&[0, 1, 2], &[0, 9]), Finding::NotInLog { observer: observer(), message_id: id(9) }),
        ];
        for (found, expected) in cases {
            assert_eq!(found, Some(expected));
        }
    }

    #[test]
    fn the_projection_drops_repeats_within_the_window_and_only_those() {
        let mut projection = Projection::default();
        let at = |position: i64, appended_at: i64| LogRecord { position, appended_at, ..record(1) };
        assert!(projection.take(&at(1, 0)));
        assert!(!projection.take(&at(2, DEDUPE_WINDOW_MILLIS - 1)));
        assert!(!projection.take(&at(3, 2 * DEDUPE_WINDOW_MILLIS - 2)), "a repeat keeps the window open");
        assert!(projection.take(&at(4, 3 * DEDUPE_WINDOW_MILLIS - 2)));
        let others = [
            LogRecord { sender_id: "bob".into(), ..at(5, 0) },
            LogRecord { scope: "Channel:b".into(), ..at(6, 0) },
            LogRecord { message_id: "m2".into(), ..at(7, 0) },
        ];
        for other in others {
            assert!(projection.take(&other), "{other:?}");
        }
        let positions: Vec<i64> = projection.scope("Channel:a").iter().map(|seen| seen.position).collect();
        assert_eq!(positions, [1, 4, 5, 7]);
    }

    #[test]
    fn rows_that_are_no_projection_of_the_log_are_found() {
        let log = [record(0), record(1)];
        assert_eq!(judge_history(&log, &log[..1]), [Finding::HistoryMisses { message_id: "m1".into() }]);
        let changed = LogRecord { text: "undone".into(), ..record(1) };
        for rows in
            [vec![record(0), changed], vec![record(0), record(1), record(2)], vec![record(0), record(1), record(0)]]
        {
            let found = judge_history(&log, &rows);
            assert!(matches!(found.as_slice(), [Finding::HistoryInvents { .. }]), "{found:?}");
        }
    }

    #[test]
    fn a_commit_that_goes_back_is_found() {
        let mut commits = Commits::default();
        assert_eq!(commits.take(0, 5), None);
        assert_eq!(commits.take(1, 2), None);
        assert_eq!(commits.take(0, 5), None);
        assert_eq!(commits.take(0, 4), Some(Finding::CommitWentBack { partition: 0, from: 5, to: 4 }));
    }
}
