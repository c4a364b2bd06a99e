//! Somebody who follows one scope, through any pod, with interruptions.

use crate::commands::join_scope::{JoinError, JoinScope, NotRecovered};
use crate::ports::LiveSubscription;
use crate::queries::history::{HistoryQuery, Page};
use crate::testing::Subscriber;
use crate::{Application, Joined};
use chatify_domain::{LoggedMessage, Position, Scope, SenderId};

pub(super) struct Client {
    pub(super) user: SenderId,
    pub(super) scope: Scope,
    /// The pod and the connection to it.
    pub(super) connected: Option<(usize, Subscriber)>,
    /// Where the next join goes on.
    cursor: Option<Position>,
    /// Everything after this position and up to the cursor must have been seen.
    complete_after: Position,
    seen: Vec<LoggedMessage>,
}

impl Client {
    pub(super) fn new(user: SenderId, scope: Scope) -> Self {
        Self { user, scope, connected: None, cursor: None, complete_after: Position::ZERO, seen: Vec::new() }
    }

    /// Connects to a pod and joins, from where it was or anew.
    pub(super) async fn join(
        &mut self,
        pod: usize,
        application: &Application,
        subscriber: Subscriber,
        limit: Option<usize>,
        anew: bool,
    ) {
        self.leave();
        if anew {
            self.cursor = None;
        }
        let command = JoinScope { user: self.user.clone(), scope: self.scope.clone(), after: self.cursor, limit };
        match application.join(command, &subscriber).await {
            Ok(joined) => {
                self.take_answer(application, &joined).await;
                subscriber.release(&self.scope, joined.live_after);
                self.connected = Some((pod, subscriber));
            }
            Err(JoinError::Starting | JoinError::Log(_)) => {
                assert!(!subscriber.follows(&self.scope), "a join that failed still follows");
            }
            Err(JoinError::Denied(denied)) => panic!("channels are open: {denied}"),
        }
    }

    pub(super) fn leave(&mut self) {
        self.receive();
        if let Some((_, subscriber)) = self.connected.take() {
            subscriber.abandon(&self.scope);
        }
    }

    /// Takes what came live.
    pub(super) fn receive(&mut self) {
        let Some((_, subscriber)) = &self.connected else { return };
        for message in subscriber.received(&self.scope) {
            self.see(message);
        }
    }

    /// Whether what was seen is exactly what had to be seen.
    pub(super) fn check(&self, expected: &[LoggedMessage]) {
        let Some(cursor) = self.cursor else { return };
        let end = if self.connected.is_some() { Position::MAX } else { cursor };
        let had_to = expected.iter().filter(|m| m.position > self.complete_after && m.position <= end);
        let had_to: Vec<&LoggedMessage> = had_to.collect();
        assert_eq!(self.seen.iter().collect::<Vec<_>>(), had_to, "{:?} of {}", self.complete_after, self.scope);
    }

    fn see(&mut self, message: LoggedMessage) {
        let last = self.seen.last().map_or(self.complete_after, |last| last.position);
        assert!(message.position > last, "{message:?} after {last:?}");
        assert_eq!(message.sent.scope, self.scope);
        self.cursor = self.cursor.max(Some(message.position));
        self.seen.push(message);
    }

    async fn take_answer(&mut self, application: &Application, joined: &Joined) {
        assert_eq!(joined.recovered, joined.reason.is_none());
        assert!(joined.messages.iter().all(|message| message.position <= joined.live_after));
        match (self.cursor, joined.reason) {
            (_, Some(NotRecovered::PositionUnknown)) => panic!("the log never lost anything"),
            (Some(_), None) => {
                joined.messages.iter().for_each(|message| self.see(message.clone()));
                self.cursor = Some(joined.position);
            }
            (Some(cursor), Some(NotRecovered::Limit)) => {
                joined.messages.iter().for_each(|message| self.see(message.clone()));
                assert!(joined.has_more && joined.position >= cursor && joined.position <= joined.live_after);
                self.cursor = Some(joined.position);
                self.page_up(application, joined).await;
            }
            (None, None) => {
                let oldest = joined.messages.first().filter(|_| joined.has_more);
                let first = oldest.map_or(if joined.has_more { joined.position } else { Position::ZERO }, |oldest| {
                    oldest.position.previous()
                });
                self.start_at(first, joined.position, joined.messages.clone());
            }
            (_, Some(NotRecovered::Limit | NotRecovered::HistoryBehind | NotRecovered::HistoryUnavailable)) => {
                self.start_at(joined.live_after, joined.live_after, Vec::new());
            }
        }
    }

    /// Reads what one answer did not hold.
    async fn page_up(&mut self, application: &Application, joined: &Joined) {
        let mut at = joined.position;
        while at < joined.live_after {
            let page = application.history(self.page(Page::After(at))).await;
            let Some(page) = page.ok().filter(|page| page.complete) else {
                return self.start_at(joined.live_after, joined.live_after, Vec::new());
            };
            for message in page.items.into_iter().filter(|message| message.position <= joined.live_after) {
                self.see(message);
            }
            let end = page.scanned.map_or(joined.live_after, |(_, highest)| highest);
            at = if page.newest_reached { joined.live_after } else { end };
        }
        self.cursor = Some(joined.live_after);
    }

    pub(super) fn page(&self, page: Page) -> HistoryQuery {
        let (user, scope) = (self.user.clone(), self.scope.clone());
        HistoryQuery { user, scope, page, sender: None, from: None, to: None, limit: 7 }
    }

    fn start_at(&mut self, complete_after: Position, cursor: Position, seen: Vec<LoggedMessage>) {
        (self.complete_after, self.cursor, self.seen) = (complete_after, Some(cursor), seen);
    }
}
