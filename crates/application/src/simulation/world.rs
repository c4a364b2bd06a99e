//! The things that happen.

use super::client::Client;
use super::model::Model;
use crate::queries::history::{HistoryPage, HistoryQuery, Page};
use crate::testing::{AppendFault, Pod, Shared};
use crate::{Application, LoopState, Options, SendError, SendMessage};
use chatify_building_blocks::backoff::Backoff;
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::correlation::CorrelationId;
use chatify_building_blocks::random::{Random, SeededRandom};
use chatify_domain::{ChatEvent, LoggedMessage, MessageId, MessageSent, PodId, Position, Scope, SenderId, Text};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const SEGMENT_MESSAGES: u64 = 5;

pub(super) struct World {
    random: SeededRandom,
    shared: Shared,
    pods: [Pod; 2],
    clients: Vec<Client>,
    model: Model,
    tail_bytes: usize,
    /// Everything that was ever sent, to be repeated.
    sent: Vec<Arc<MessageSent>>,
    /// What was answered with a place.
    accepted: BTreeSet<(Scope, SenderId, MessageId)>,
    /// What got no answer; its sender repeats it.
    unanswered: Vec<Arc<MessageSent>>,
    /// Ids that came into the log behind the application's back, so that nobody looked late repeats up.
    raced: BTreeSet<MessageId>,
}

fn scopes() -> Vec<Scope> {
    ["general", "random", "b"].into_iter().map(|name| Scope::parse(name).expect("a channel")).collect()
}

fn users() -> Vec<SenderId> {
    ["alice", "bob", "carol"].into_iter().map(|name| SenderId::parse(name).expect("a user")).collect()
}

impl World {
    pub(super) async fn new(seed: u64) -> Self {
        let random = SeededRandom::new(seed);
        let shared = Shared::new(2);
        let tail_bytes = [0, 2_000, 8_000, 1 << 20][usize::try_from(random.u64() % 4).expect("small")];
        let pods = [0, 1].map(|number| Pod::start(shared.ports(random.u64()), options(number, tail_bytes)));
        let clients = users()
            .into_iter()
            .flat_map(|user| scopes().into_iter().map(move |scope| Client::new(user.clone(), scope)))
            .take(6)
            .collect();
        let (model, sent, accepted, unanswered, raced) = Default::default();
        let mut world = Self { random, shared, pods, clients, model, tail_bytes, sent, accepted, unanswered, raced };
        world.wait(Duration::from_millis(10)).await;
        world
    }

    /// One thing that happens.
    pub(super) async fn step(&mut self) {
        match self.below(40) {
            0..14 => self.send_new().await,
            14..17 => self.repeat().await,
            17 => self.send_from_both_pods().await,
            18 => self.race(),
            19..25 => self.join().await,
            25 => self.leave(),
            26 => self.restart_pod().await,
            27..29 => self.log_fault(),
            29..32 => self.store_fault(),
            32..34 => self.wait_long().await,
            34 => self.retain(),
            35 => self.latency(),
            _ => self.read().await,
        }
        let millis = self.below(60);
        self.wait(Duration::from_millis(millis)).await;
    }

    /// Everything works again, and has time to catch up.
    pub(super) async fn heal(&mut self) {
        self.shared.store.set_available(true);
        self.shared.store.tear_appends(0);
        self.shared.log.heal();
        self.wait(Duration::from_secs(20)).await;
        for sent in std::mem::take(&mut self.unanswered) {
            self.send(0, sent).await;
            // A late repeat is only taken when the history has caught up.
            self.wait(Duration::from_secs(1)).await;
        }
        assert!(self.unanswered.is_empty(), "nothing is broken any more: {:?}", self.unanswered);
        for index in 0..self.clients.len() {
            if self.clients[index].connected.is_none() {
                self.join_one(index, index % 2, None, false).await;
            }
        }
        self.wait(Duration::from_secs(10)).await;
    }

    /// Everyone has seen what they had to, and the history is the log without its repeats.
    pub(super) async fn check(&mut self) {
        self.observe();
        for pod in &self.pods {
            let status = pod.application.status();
            assert_eq!((status.fan_out, status.projection, status.lag), (LoopState::Live, LoopState::Live, 0));
        }
        for scope in scopes() {
            let expected = self.model.messages(&scope, window());
            for client in self.clients.iter().filter(|client| client.scope == scope) {
                client.check(&expected);
            }
            self.check_ids(&scope, &expected);
            self.check_rows(&scope, &expected);
            for pod in [0, 1] {
                self.check_pages(pod, &scope, &expected).await;
            }
        }
        let dead: Vec<Position> = self.shared.log.dead_letters().into_iter().map(|(_, position)| position).collect();
        assert_eq!(dead, self.model.poison());
        // A pod that has only just read the log back gives the same pages.
        self.restart(0).await;
        self.wait(Duration::from_secs(5)).await;
        for scope in scopes() {
            self.check_pages(0, &scope, &self.model.messages(&scope, window())).await;
        }
    }

    async fn send_new(&mut self) {
        let scope = self.pick(scopes());
        let sender = self.pick(users());
        let id = MessageId::new_v7(self.shared.clock.now(), self.random.u128());
        let sent = self.message(&scope, sender, id);
        self.sent.push(Arc::clone(&sent));
        let pod = self.pod();
        self.send(pod, sent).await;
    }

    async fn repeat(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let sent = self.pick(self.sent.clone());
        let pod = self.pod();
        if self.below(6) == 0 {
            // The same id with another text can come through only when the first one never did, and then it is the first one.
            let text = Text::parse("something else").expect("short");
            let other = SendMessage { text, ..command(&sent) };
            if let Ok(sending) = self.pods[pod].application.send(other).await
                && matches!(sending.outcome().await, Ok(_) | Err(SendError::Unknown))
            {
                self.raced.insert(sent.message_id);
            }
            return;
        }
        self.send(pod, sent).await;
    }

    /// The same message, through two pods at the same time.
    async fn send_from_both_pods(&mut self) {
        let (scope, sender) = (self.pick(scopes()), self.pick(users()));
        let id = MessageId::new_v7(self.shared.clock.now(), self.random.u128());
        let sent = self.message(&scope, sender, id);
        self.sent.push(Arc::clone(&sent));
        let [one, other] = &self.pods;
        let (one, other) = tokio::join!(deliver(&one.application, &sent), deliver(&other.application, &sent));
        self.note(&sent, one);
        self.note(&sent, other);
    }

    /// A repeat that another pod let through.
    fn race(&mut self) {
        if let Some(sent) = (!self.sent.is_empty()).then(|| self.pick(self.sent.clone())) {
            self.raced.insert(sent.message_id);
            self.shared.log.append_now(ChatEvent::MessageSent(sent));
        }
        if self.below(3) == 0 {
            self.shared.log.append_poison(&self.pick(scopes()));
        }
    }

    async fn join(&mut self) {
        let index = self.index(self.clients.len());
        let pod = self.pod();
        let limit = [None, Some(0), Some(1), Some(4)][self.index(4)];
        let anew = self.below(5) == 0;
        self.join_one(index, pod, limit, anew).await;
    }

    async fn join_one(&mut self, client: usize, pod: usize, limit: Option<usize>, anew: bool) {
        let Pod { application, connections, .. } = &self.pods[pod];
        self.clients[client].join(pod, application, connections.connect(), limit, anew).await;
    }

    fn leave(&mut self) {
        let index = self.index(self.clients.len());
        self.clients[index].leave();
    }

    async fn restart_pod(&mut self) {
        let pod = self.pod();
        if self.below(2) == 0 {
            // It crashes between writing and committing.
            self.shared.log.fail_commits(50);
        }
        self.restart(pod).await;
    }

    async fn restart(&mut self, pod: usize) {
        for client in &mut self.clients {
            if client.connected.as_ref().is_some_and(|(at, _)| *at == pod) {
                client.leave();
            }
        }
        self.pods[pod].stop().await;
        self.shared.log.fail_commits(0);
        self.pods[pod] = Pod::start(self.shared.ports(self.random.u64()), options(pod, self.tail_bytes));
        self.wait(Duration::from_secs(self.below(3))).await;
    }

    fn log_fault(&mut self) {
        match self.below(7) {
            0 => self.shared.log.fail_next_append(AppendFault::Refused),
            1 => self.shared.log.fail_next_append(AppendFault::AnswerLost),
            2 => self.shared.log.fail_next_append(AppendFault::RecordLost),
            3 => self.shared.log.fail_reads(self.index(4)),
            4 => self.shared.log.fail_commits(self.index(4)),
            5 => self.shared.log.set_readable(self.below(2) == 0),
            _ => self.shared.log.step_back(Duration::from_secs(self.below(50))),
        }
    }

    fn store_fault(&mut self) {
        match self.below(3) {
            0 => self.shared.store.set_available(false),
            1 => self.shared.store.set_available(true),
            _ => self.shared.store.tear_appends(self.index(4)),
        }
    }

    async fn wait_long(&mut self) {
        let seconds = self.below(240);
        self.wait(Duration::from_secs(seconds)).await;
        if self.below(2) == 0 {
            // What the new process does not read back, it does not know.
            let pod = self.pod();
            self.restart(pod).await;
            self.join().await;
            self.race();
            self.repeat().await;
        }
    }

    /// Retention removes what is old and in the history, and what the history's writer does not need to read back.
    fn retain(&mut self) {
        self.observe();
        for (partition, records) in self.shared.log.records() {
            let committed = self.shared.log.committed_now(partition);
            let needed = records.iter().find(|record| record.position >= committed);
            let needed = needed.map_or(self.shared.clock.now(), |record| record.appended_at);
            let old = needed.minus(window() + Duration::from_secs(180));
            let old = records.iter().take_while(|r| r.appended_at < old && r.position < committed).last();
            if let Some(last) = old {
                self.shared.log.remove_before(partition, last.position.next());
            }
        }
    }

    fn latency(&mut self) {
        self.shared.store.set_latency(Duration::from_millis(self.below(40)));
        for pod in &self.pods {
            pod.connections.set_latency(Duration::from_millis(self.below(20)));
        }
    }

    /// A page that says to be complete has no hole and nothing that is not there.
    async fn read(&mut self) {
        let scope = self.pick(scopes());
        self.observe();
        let before = self.model.messages(&scope, window());
        let positions: Vec<Position> = before.iter().map(|message| message.position).collect();
        let at = if positions.is_empty() { Position::ZERO } else { positions[self.index(positions.len())] };
        let page = [Page::Latest, Page::Before(at), Page::After(at), Page::Around(at)][self.index(4)];
        let limit = 1 + self.index(9);
        let pod = self.pod();
        let asked = page;
        let Ok(page) = self.pods[pod].application.history(query(&scope, page, limit)).await else { return };
        self.observe();
        let expected = self.model.messages(&scope, window());
        assert!(page.items.len() <= limit);
        if page.newest_reached {
            // Whatever was accepted before, through whichever pod, is seen.
            let reached = match asked {
                Page::Latest => page.items.last().map_or(Position::ZERO, |last| last.position),
                Page::Before(end) => end.previous(),
                Page::After(at) | Page::Around(at) => page.items.last().map_or(at, |last| last.position.max(at)),
            };
            assert!(positions.iter().all(|position| *position <= reached), "{asked:?} {page:?}");
        }
        if page.complete {
            let start = page.items.first().map_or(0, |first| {
                expected.iter().position(|message| message == first).expect("a page has only what is there")
            });
            assert_eq!(page.items, expected[start..start + page.items.len()]);
            assert!(!page.oldest_reached || start == 0, "{page:?}");
            // Nor is there a hole between the page and the position that it was asked for.
            let (first, last) = (page.items.first(), page.items.last());
            let first = first.map_or(Position::MAX, |first| first.position);
            let last = last.map_or(Position::ZERO, |last| last.position);
            let between = |low: Position, high: Position| positions.iter().any(|at| low < *at && *at < high);
            match asked {
                Page::Latest => {}
                Page::Before(end) => assert!(!between(last, end), "{asked:?} {page:?}"),
                // A pod that is behind has nothing to show yet, and says that it is.
                Page::After(_) if page.items.is_empty() => {}
                Page::After(start) => assert!(!between(start, first), "{asked:?} {page:?}"),
                Page::Around(at) => {
                    let has_it = first <= at && at <= last;
                    assert!(has_it || !positions.contains(&at), "{asked:?} {page:?}");
                }
            }
        }
    }

    async fn send(&mut self, pod: usize, sent: Arc<MessageSent>) {
        let outcome = deliver(&self.pods[pod].application, &sent).await;
        self.note(&sent, outcome);
    }

    fn note(&mut self, sent: &Arc<MessageSent>, outcome: Result<LoggedMessage, SendError>) {
        match outcome {
            Ok(message) => {
                assert_eq!((&message.sent.text, message.sent.message_id), (&sent.text, sent.message_id));
                self.accepted.insert(key(sent));
            }
            Err(SendError::Unknown | SendError::Append(_) | SendError::Starting | SendError::HistoryUnavailable(_)) => {
                self.unanswered.push(Arc::clone(sent));
            }
            Err(SendError::Conflict) => assert!(self.raced.contains(&sent.message_id), "{sent:?} has one text"),
            Err(error @ (SendError::Denied(_) | SendError::RateLimited { .. })) => panic!("{error}"),
        }
    }

    fn check_ids(&self, scope: &Scope, expected: &[LoggedMessage]) {
        let mut times: BTreeMap<(Scope, SenderId, MessageId), usize> = BTreeMap::new();
        for message in expected {
            *times.entry(key(&message.sent)).or_default() += 1;
        }
        for (key, times) in &times {
            assert!(*times == 1 || self.raced.contains(&key.2), "{key:?} appears {times} times");
        }
        for key in self.accepted.iter().filter(|(of, ..)| of == scope) {
            assert!(times.contains_key(key), "{key:?} was accepted and is not there");
        }
    }

    /// Row by row, and each segment exactly as long as it should be.
    fn check_rows(&self, scope: &Scope, expected: &[LoggedMessage]) {
        let segments = self.shared.store.dump(scope);
        let lengths: Vec<usize> = segments.iter().map(|(_, rows)| rows.len()).collect();
        let full = usize::try_from(SEGMENT_MESSAGES).expect("small");
        if let Some((last, before)) = lengths.split_last() {
            assert!(before.iter().all(|length| *length == full) && *last <= full, "{lengths:?}");
        }
        for (segment, rows) in &segments {
            assert_eq!(rows.first().map(|row| row.position), Some(segment.start));
            assert_eq!(rows.first().map(|row| row.created_at), Some(segment.first_created_at));
        }
        let rows: Vec<LoggedMessage> = segments.into_iter().flat_map(|(_, rows)| rows).collect();
        assert_eq!(rows, expected);
    }

    /// Forward and backward, in pages, equals the log.
    async fn check_pages(&self, pod: usize, scope: &Scope, expected: &[LoggedMessage]) {
        let limit = 1 + expected.len() / 3;
        let forward = self.walk(pod, scope, Page::After(Position::ZERO), limit).await;
        assert_eq!(forward.concat(), expected);
        let mut backward = self.walk(pod, scope, Page::Latest, limit).await;
        backward.reverse();
        assert_eq!(backward.concat(), expected);
    }

    async fn walk(&self, pod: usize, scope: &Scope, mut page: Page, limit: usize) -> Vec<Vec<LoggedMessage>> {
        let mut pages = Vec::new();
        loop {
            let got = self.pods[pod].application.history(query(scope, page, limit)).await.expect("nothing is broken");
            let HistoryPage { items, oldest_reached, newest_reached, complete, scanned } = got;
            assert!(complete, "nothing is broken");
            pages.push(items);
            page = match (page, scanned) {
                (Page::After(_), Some((_, high))) if !newest_reached => Page::After(high),
                (Page::Latest | Page::Before(_), Some((low, _))) if !oldest_reached => Page::Before(low),
                _ => return pages,
            };
        }
    }

    /// Lets everyone see what is there, and the model too.
    fn observe(&mut self) {
        self.model.read(&self.shared.log);
        self.clients.iter_mut().for_each(Client::receive);
    }

    async fn wait(&mut self, time: Duration) {
        self.shared.pass(time).await;
        self.clients.iter_mut().for_each(Client::receive);
    }

    fn message(&self, scope: &Scope, sender_id: SenderId, message_id: MessageId) -> Arc<MessageSent> {
        let text = Text::parse(&format!("{}", self.sent.len())).expect("short");
        let origin_pod_id = PodId::parse("somewhere").expect("a pod");
        Arc::new(MessageSent { message_id, scope: scope.clone(), sender_id, text, origin_pod_id })
    }

    fn pod(&self) -> usize {
        self.index(2)
    }

    fn pick<T>(&self, mut from: Vec<T>) -> T {
        let index = self.index(from.len());
        from.swap_remove(index)
    }

    fn index(&self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("small")
    }

    fn below(&self, end: u64) -> u64 {
        self.random.u64() % end
    }
}

fn options(number: usize, tail_bytes: usize) -> Options {
    Options {
        tail_bytes,
        segment_messages: SEGMENT_MESSAGES,
        projection_batch: 8,
        database_tries: 2,
        database_retry: Backoff { first: Duration::from_millis(10), cap: Duration::from_millis(50) },
        consumer_backoff: Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(4) },
        ..Options::new(PodId::parse(&format!("pod-{number}")).expect("a pod"))
    }
}

async fn deliver(application: &Application, sent: &MessageSent) -> Result<LoggedMessage, SendError> {
    application.send(command(sent)).await?.outcome().await.map(|accepted| accepted.message)
}

fn command(sent: &MessageSent) -> SendMessage {
    SendMessage {
        sender: sent.sender_id.clone(),
        scope: sent.scope.clone(),
        text: sent.text.clone(),
        message_id: Some(sent.message_id),
        correlation: CorrelationId::parse("corr_01890a5d-ac96-774b-bcce-b302099a8057").expect("an id"),
    }
}

fn query(scope: &Scope, page: Page, limit: usize) -> HistoryQuery {
    let user = users().swap_remove(0);
    HistoryQuery { user, scope: scope.clone(), page, sender: None, from: None, to: None, limit }
}

fn key(sent: &MessageSent) -> (Scope, SenderId, MessageId) {
    (sent.scope.clone(), sent.sender_id.clone(), sent.message_id)
}

fn window() -> Duration {
    chatify_domain::limits::DEDUPE_WINDOW
}
