//! Which segment each message of a batch goes to.

use super::partition::Decided;
use crate::application::Core;
use crate::ports::history::{HistoryError, HistoryRow, Segment};
use crate::ports::log::{LogRecord, Undecodable};
use crate::segments::ScopeSegments;
use chatify_domain::{Position, Scope};
use futures_util::future::join_all;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Scopes whose state is kept in memory, in each of two generations.
const SCOPES_PER_GENERATION: usize = 10_000;
/// Scopes that are looked up in the store at the same time.
const LOOKUPS: usize = 16;

/// What is to be written for a batch.
pub(super) struct Planned {
    pub(super) opens: Vec<(Scope, Segment)>,
    pub(super) rows: Vec<HistoryRow>,
    /// How many of the rows the history has for certain.
    pub(super) written: usize,
    pub(super) poison: VecDeque<(LogRecord, Undecodable)>,
    /// What may be committed when all of it is done.
    pub(super) next: Position,
}

/// The segments of the scopes that were written to lately.
///
/// Two generations: what is used moves to the young one, and when that is full it becomes the old one and the old one is forgotten. So memory is bounded,
/// and nothing that one batch uses can be forgotten during it.
pub(super) struct ScopeCache {
    young: HashMap<Scope, ScopeSegments>,
    old: HashMap<Scope, ScopeSegments>,
    generation: usize,
}

impl ScopeCache {
    pub(super) fn new(batch: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), generation: SCOPES_PER_GENERATION.max(batch) }
    }

    /// Makes the scopes of these messages known.
    pub(super) async fn load(&mut self, core: &Core, decided: &[Decided]) -> Result<(), HistoryError> {
        // Ordered, so that a simulation repeats itself.
        let mut unknown: BTreeMap<&Scope, Position> = BTreeMap::new();
        for one in decided {
            if let Decided::Message(message) = one
                && !self.use_again(&message.sent.scope)
            {
                unknown.entry(&message.sent.scope).or_insert(message.position);
            }
        }
        let unknown: Vec<(Scope, Position)> =
            unknown.into_iter().map(|(scope, first)| (scope.clone(), first)).collect();
        for some in unknown.chunks(LOOKUPS) {
            let lookups: Vec<_> = some.iter().map(|(scope, first)| look_up(core, scope, *first)).collect();
            let mut failure = None;
            for ((scope, _), outcome) in some.iter().zip(join_all(lookups).await) {
                match outcome {
                    // Also beside one that failed, so that a slow store is asked for fewer with each attempt.
                    Ok(segments) => self.keep(scope.clone(), segments),
                    Err(error) => failure = Some(error),
                }
            }
            failure.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// Places the messages. Their scopes are known.
    pub(super) fn plan(&mut self, core: &Core, decided: impl Iterator<Item = Decided>, next: Position) -> Planned {
        let mut planned = Planned { opens: Vec::new(), rows: Vec::new(), written: 0, poison: VecDeque::new(), next };
        for one in decided {
            match one {
                Decided::Nothing => {}
                Decided::Poison(record, class) => planned.poison.push_back((record, class)),
                Decided::Message(message) => {
                    let scope = &message.sent.scope;
                    let segments = self.young.get_mut(scope).or_else(|| self.old.get_mut(scope));
                    let segments = segments.expect("the batch's scopes were loaded, and a generation holds a batch");
                    let placed = segments.place(message.position, message.created_at, core.options.segment_messages);
                    planned.opens.extend(placed.opens.map(|segment| (scope.clone(), segment)));
                    planned.rows.push(HistoryRow { segment: placed.segment, message });
                }
            }
        }
        planned
    }

    /// Says whether the scope is known, and keeps it.
    fn use_again(&mut self, scope: &Scope) -> bool {
        if self.young.contains_key(scope) {
            return true;
        }
        match self.old.remove(scope) {
            Some(segments) => {
                self.keep(scope.clone(), segments);
                true
            }
            None => false,
        }
    }

    fn keep(&mut self, scope: Scope, segments: ScopeSegments) {
        if self.young.len() >= self.generation {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(scope, segments);
    }
}

/// What the store knows of a scope, as it was before its message at `first` was written: after a crash, that one and later ones may be there
/// already, and they are counted when they come again. Nobody writes before `first` any more, so the number is right also while an owner that was given up
/// for dead still writes.
async fn look_up(core: &Core, scope: &Scope, first: Position) -> Result<ScopeSegments, HistoryError> {
    let recorded = core.ports.history.segments(scope).await?;
    let Some(last) = recorded.last() else { return Ok(ScopeSegments::new(&recorded, 0)) };
    let stored = core.ports.history.count(scope, last.start, first).await?;
    Ok(ScopeSegments::new(&recorded, stored))
}
