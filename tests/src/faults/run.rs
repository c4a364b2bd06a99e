//! One run: services, pods, load, faults, and the verdict.

use super::clients::{ANSWER, Client, Counters, Habits, Phase, World};
use super::log::LogReader;
use super::machines::{Fleet, Machines, PARTITIONS};
use super::nemesis::{Kind, Nemesis, schedule};
use super::report::{Cycle, Report};
use super::senders::{Outgoing, post, read_back, samples};
use super::store;
use super::verdict::{Answer, Attempt, Finding, LogRecord, judge_answers, judge_history};
use super::watch::{CommitWatcher, Watched};
use crate::home::Options;
use crate::http::Http;
use crate::message::ChatMessage;
use crate::profile::PODS;
use crate::seeds::message_id;
use chatify_building_blocks::random::{Random, SeededRandom};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Scopes that are only there to see whether a pod takes messages for every partition.
const PROBES: usize = 6;
/// How long what was healed may take to come back.
const RECOVER: Duration = Duration::from_secs(90);
/// How long the end of a run may take, step by step.
const FINISH: Duration = Duration::from_secs(120);
/// Pages of one history, waits for a pod that is behind included.
const MOST_PAGES: usize = 2_000;
/// The same for a run in which something was found.
const FINISH_AFTER_FINDINGS: Duration = Duration::from_secs(10);
/// How often something is looked at that nobody announces.
const LOOK: Duration = Duration::from_millis(100);

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Repeats the run as far as threads allow.
    pub seed: u64,
    /// How many faults.
    pub cycles: usize,
    /// Of these kinds.
    pub kinds: Vec<Kind>,
    /// Hub clients.
    pub clients: usize,
    /// How many of them send as well.
    pub senders: usize,
    /// Clients that send through REST.
    pub posters: usize,
    /// How often a sender says something new.
    pub pace: Duration,
    /// Characters that each message has besides its number.
    pub padding: usize,
    /// Scopes in which clients talk.
    pub scopes: usize,
    /// How clients behave.
    pub habits: Habits,
    /// The program that pods run, when it is not the binary under test.
    pub binary: Option<PathBuf>,
    /// Environment variables of the pods.
    pub variables: Vec<(String, String)>,
    /// How long everything is well before each fault.
    pub steady: Duration,
    /// The shortest fault, and how much longer one may be.
    pub hold: (Duration, Duration),
}

impl Plan {
    /// The load of the suite, with so many faults of every kind.
    #[must_use]
    pub fn new(seed: u64, cycles: usize) -> Self {
        Self {
            seed,
            cycles,
            kinds: Kind::ALL.to_vec(),
            clients: 300,
            senders: 60,
            posters: 8,
            pace: Duration::from_millis(1_500),
            padding: 40,
            scopes: 6,
            habits: Habits::default(),
            binary: None,
            variables: Vec::new(),
            steady: Duration::from_secs(1),
            hold: (Duration::from_secs(2), Duration::from_secs(3)),
        }
    }
}

/// The clients of a run.
#[derive(Debug)]
struct Crowd {
    hub: JoinSet<Client>,
    posters: JoinSet<Outgoing>,
    reader: JoinSet<()>,
}

/// Makes one run over `machines`, whose faults are healed when it ends.
///
/// # Panics
/// When the harness itself does not work: what is wrong with the pods is in the report.
pub async fn run(machines: &Machines, plan: Plan) -> Report {
    let started = Instant::now();
    let mut options = Options::default()
        .with("LIMITS__KEEP_ALIVE", "2s")
        .with("LIMITS__SEND_MESSAGES", "120")
        .with("SERVER__DRAIN_WINDOW", "1s");
    for (name, value) in &plan.variables {
        options = options.with_variable(name, value);
    }
    if let Some(path) = &plan.binary {
        options = options.with_binary(path.clone());
    }
    let mut fleet = Fleet::start(machines.services(), options, plan.seed).await;
    let log = LogReader::start(&machines.brokers_direct(), &fleet.names().topic("1"), PARTITIONS);
    let (phase, seen) = watch::channel(Phase::Running);
    let channels = ("room", plan.scopes);
    let world = Arc::new(World::new(&fleet, channels, seen, log.reference(), &plan.seed.to_string()));
    let watcher = CommitWatcher::start(Watched::of(machines, &fleet), Arc::clone(&world));
    let mut crowd = gather(&world, &plan);
    let mut run = Run { machines, fleet: &mut fleet, world: &world, log: &log, watcher: &watcher, probes: Vec::new() };
    let cycles = run.break_things(&plan).await;
    let attempts = run.settle(&phase, &mut crowd).await;
    run.judge(attempts).await;
    let findings = world.findings.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let history = world.recorder.flush().to_owned();
    if findings.is_empty() && std::env::var("CHATIFY_FAULTS_KEEP").is_err() {
        world.recorder.discard();
    } else {
        fleet.keep_logs(&history.with_extension("logs"));
    }
    let totals = totals(&world.counters, &log);
    Report { seed: plan.seed, cycles, clients: plan.clients, totals, findings, history, took: started.elapsed() }
}

fn gather(world: &Arc<World>, plan: &Plan) -> Crowd {
    let (samples, waiting) = samples();
    let random = SeededRandom::new(plan.seed);
    let (mut hub, mut posters, mut reader) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    let count = world.scopes.len();
    for number in 0..plan.clients {
        let name = format!("client-{number}");
        // Every tenth is in two scopes.
        let second = number.is_multiple_of(10).then_some((number / 10 + 1) % count);
        let mut scopes: Vec<String> =
            [Some(number % count), second].into_iter().flatten().map(|index| world.scopes[index].clone()).collect();
        scopes.dedup();
        let sends = number < plan.senders;
        let outgoing = sends.then(|| Outgoing::new(world, &name, &scopes, (plan.pace, plan.padding), samples.clone()));
        hub.spawn(Client::new(world, &name, random.u64(), &scopes, outgoing).with(plan.habits, number).run());
    }
    for number in 0..plan.posters {
        let name = format!("poster-{number}");
        // The first one says far more than it may: it waits for each answer, and what it has left over grows while a fault lasts.
        let pace = if number == 0 { plan.pace / 32 } else { plan.pace };
        let scopes = [world.scopes[number % count].clone()];
        posters.spawn(post(
            Arc::clone(world),
            Outgoing::new(world, &name, &scopes, (pace, plan.padding), samples.clone()),
        ));
    }
    reader.spawn(read_back(Arc::clone(world), waiting));
    Crowd { hub, posters, reader }
}

fn totals(counters: &Counters, log: &LogReader) -> Vec<(&'static str, u64)> {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let reference = log.read();
    let number = |count: usize| u64::try_from(count).expect("fits");
    vec![
        ("records in the log", number(reference.records.len())),
        ("messages that everybody sees", number(reference.shown.len())),
        ("sends accepted", count(&counters.accepted)),
        ("sends repeated", count(&counters.repeated)),
        ("sends refused for good", count(&counters.refused)),
        ("messages shown to clients", count(&counters.shown)),
        ("connections", count(&counters.connections)),
        ("connections broken", count(&counters.broken)),
        ("joins that were whole", count(&counters.recovered)),
        ("joins that said that they were not", count(&counters.not_recovered)),
        ("messages read back", count(&counters.read_back)),
    ]
}

struct Run<'a> {
    machines: &'a Machines,
    fleet: &'a mut Fleet,
    world: &'a Arc<World>,
    log: &'a LogReader,
    watcher: &'a CommitWatcher,
    probes: Vec<Attempt>,
}

impl Run<'_> {
    async fn break_things(&mut self, plan: &Plan) -> Vec<Cycle> {
        let random = SeededRandom::new(plan.seed.rotate_left(17));
        let mut cycles = Vec::new();
        self.converge("the start").await;
        for kind in schedule(&plan.kinds, plan.cycles, &random) {
            sleep(plan.steady).await;
            let counters = &self.world.counters;
            let before = [&counters.broken, &counters.accepted, &counters.repeated].map(|c| c.load(Ordering::Relaxed));
            let extra = u64::try_from(plan.hold.1.as_millis()).expect("short").max(1);
            let hold = plan.hold.0 + Duration::from_millis(random.u64() % extra);
            let storm = (self.machines.brokers_direct(), self.fleet.names().topic("1"), self.fleet.names().group());
            let recorder = &self.world.recorder;
            let (machines, fleet) = (self.machines, &mut *self.fleet);
            let mut nemesis = Nemesis { machines, fleet, random: &random, recorder, hold, storm, wrong: Vec::new() };
            nemesis.strike(kind).await;
            for what in nemesis.wrong {
                self.world.found(Finding::Crashed { what });
            }
            let (accepting, caught_up) = self.converge(kind.name()).await;
            let counters = &self.world.counters;
            let after = [&counters.broken, &counters.accepted, &counters.repeated].map(|c| c.load(Ordering::Relaxed));
            let [broken, accepted, repeated] = [0, 1, 2].map(|index| after[index] - before[index]);
            cycles.push(Cycle { kind, accepting, caught_up, broken, accepted, repeated });
            for what in self.fleet.wrong() {
                self.world.found(Finding::Crashed { what });
            }
            if !self.world.findings.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                // The rest of the run would only bury what was found.
                break;
            }
        }
        cycles
    }

    /// Waits until every pod takes messages again, and until the history has what the log had when that began.
    async fn converge(&mut self, after: &str) -> (Duration, Duration) {
        let healed = Instant::now();
        if timeout(RECOVER, self.probe()).await.is_err() {
            self.world.found(Finding::NotRecovered { what: format!("sends, after {after}") });
        }
        let accepting = healed.elapsed();
        if !self.history_has_the_log(RECOVER).await {
            let committed = self.watcher.committed();
            self.world.found(Finding::NotRecovered { what: format!("the history ({committed:?}), after {after}") });
        }
        let caught_up = healed.elapsed();
        // Two brokers that are missing at once are another fault than one after the other.
        while !self.log.in_sync() {
            if healed.elapsed() > RECOVER {
                self.world.found(Finding::NotRecovered { what: format!("replicas, after {after}") });
                break;
            }
            sleep(LOOK).await;
        }
        (accepting, caught_up)
    }

    /// Sends one message to each probe scope through each pod, until all are accepted.
    async fn probe(&mut self) {
        let token = self.world.token("probe");
        let clients: Vec<Http> =
            (0..PODS).map(|pod| Http::new(self.fleet.pod(pod).address(), Some(token.clone()))).collect();
        let first = self.probes.len();
        let attempts = (0..PODS * PROBES).map(|number| Attempt {
            scope: format!("Channel:probe-{}", number % PROBES),
            sender_id: "probe".to_owned(),
            message_id: message_id(),
            answer: Answer::Unknown,
        });
        // They count as unresolved unless they are accepted below.
        self.probes.extend(attempts);
        let sends = self.probes[first..].iter().enumerate().map(|(number, attempt)| {
            let http = &clients[number / PROBES];
            async move {
                loop {
                    let scope = attempt.scope.replacen(':', "/", 1);
                    let answer = timeout(ANSWER, http.send(&scope, "probe", &attempt.message_id)).await;
                    if let Ok(Ok(answer)) = answer
                        && matches!(answer.status, 200 | 201)
                    {
                        return answer.json()["position"].as_i64().expect("an accepted send has a position");
                    }
                    sleep(LOOK).await;
                }
            }
        });
        let positions = join_all(sends).await;
        for (attempt, position) in self.probes[first..].iter_mut().zip(positions) {
            attempt.answer = Answer::Accepted(position);
        }
    }

    async fn history_has_the_log(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        let ends = loop {
            if let Ok(ends) = self.log.ends() {
                break ends;
            }
            if Instant::now() > end {
                return false;
            }
        };
        while Instant::now() < end {
            if self.watcher.has_committed(&ends) && self.log.has_read(&ends) {
                return true;
            }
            sleep(LOOK).await;
        }
        false
    }

    /// How long a step of the end may take: not long when the verdict is known already.
    fn patience(&self) -> Duration {
        let findings = self.world.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.is_empty() { FINISH } else { FINISH_AFTER_FINDINGS }
    }

    /// Ends the load: everything is repeated until it is answered, then everybody reads to the end.
    async fn settle(&mut self, phase: &watch::Sender<Phase>, crowd: &mut Crowd) -> Vec<Attempt> {
        phase.send_replace(Phase::Settling);
        let end = Instant::now() + self.patience();
        while self.world.counters.unsettled.load(Ordering::Relaxed) > 0 && Instant::now() < end {
            sleep(LOOK).await;
        }
        if !self.history_has_the_log(self.patience()).await {
            let committed = self.watcher.committed();
            self.world.found(Finding::NotRecovered { what: format!("the history ({committed:?}), in the end") });
        }
        let counts: BTreeMap<String, usize> = {
            let reference = self.log.read();
            self.world.scopes.iter().map(|scope| (scope.clone(), reference.projection.scope(scope).len())).collect()
        };
        phase.send_replace(Phase::Over(counts.clone()));
        let mut attempts = std::mem::take(&mut self.probes);
        let end = Instant::now() + self.patience();
        while let Ok(Some(client)) = tokio::time::timeout_at(end, crowd.hub.join_next()).await {
            match client {
                Ok(client) => {
                    for what in client.missing(&counts) {
                        self.world.found(Finding::NotRecovered { what });
                    }
                    attempts.extend(client.outgoing.iter().flat_map(Outgoing::attempts));
                }
                Err(error) => self.world.found(Finding::Crashed { what: format!("a client of the harness: {error}") }),
            }
        }
        let stuck = crowd.hub.len();
        crowd.hub.shutdown().await;
        if stuck > 0 {
            self.world.found(Finding::NotRecovered { what: format!("{stuck} clients, in the end") });
        }
        while let Ok(Some(Ok(poster))) = tokio::time::timeout_at(end, crowd.posters.join_next()).await {
            attempts.extend(poster.attempts());
        }
        crowd.posters.shutdown().await;
        crowd.reader.shutdown().await;
        attempts
    }

    /// Compares everything with the log.
    async fn judge(&mut self, attempts: Vec<Attempt>) {
        let (records, shown, poison) = {
            let reference = self.log.read();
            (reference.records.clone(), reference.shown.clone(), reference.poison)
        };
        // Without all attempts, messages would look invented; that they are missing was found already.
        let whole = self.world.findings.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let mut findings = judge_answers(&attempts, &records);
        findings.retain(|finding| whole || !matches!(finding, Finding::Invented { .. }));
        if poison > 0 {
            findings.push(Finding::DeadLettered { count: poison });
        }
        match store::messages(&self.machines.store_direct(), &self.fleet.names().keyspace()) {
            Ok(rows) => findings.extend(judge_history(&shown, &rows)),
            Err(error) => findings.push(Finding::NotRecovered { what: format!("the store: {error}") }),
        }
        for pod in 0..PODS {
            let http = Http::new(self.fleet.pod(pod).address(), Some(self.world.token("auditor")));
            for scope in &self.world.scopes {
                let expected: Vec<&LogRecord> = shown.iter().filter(|record| record.scope == *scope).collect();
                for backward in [false, true] {
                    findings.extend(judge_pages(&http, pod, scope, &expected, backward).await);
                }
            }
        }
        for pod in 0..PODS {
            findings.extend(self.fleet.stop(pod).await.map(|what| Finding::Crashed { what }));
        }
        findings.into_iter().for_each(|finding| self.world.found(finding));
    }
}

/// Reads the whole history of a scope through one pod, in one direction, and compares it row by row.
async fn judge_pages(http: &Http, pod: usize, scope: &str, expected: &[&LogRecord], backward: bool) -> Option<Finding> {
    let observer = format!("history through pod-{pod}, {}", if backward { "backward" } else { "forward" });
    let items = match read_history(http, scope, backward).await {
        Ok(items) => items,
        Err(answer) => return Some(Finding::WrongAnswer { observer, answer }),
    };
    let same = |(item, record): (&ChatMessage, &&LogRecord)| {
        item.position == record.position
            && item.message_id == record.message_id
            && item.sender_id == record.sender_id
            && item.text == record.text
            && item.origin_pod_id == record.origin_pod_id
    };
    let equal = items.iter().zip(expected).take_while(|pair| same((pair.0, pair.1))).count();
    if equal == items.len() && equal == expected.len() {
        return None;
    }
    let (item, record) = (items.get(equal), expected.get(equal));
    Some(Finding::WrongAnswer { observer, answer: format!("{scope}, message {equal}: {item:?} instead of {record:?}") })
}

async fn read_history(http: &Http, scope: &str, backward: bool) -> Result<Vec<ChatMessage>, String> {
    let path = scope.replacen(':', "/", 1);
    let (mut all, mut cursor) = (Vec::new(), if backward { None } else { Some(0) });
    for _ in 0..MOST_PAGES {
        let query = match (backward, cursor) {
            (true, None) => "limit=500".to_owned(),
            (true, Some(before)) => format!("before={before}&limit=333"),
            (false, after) => format!("after={}&limit=500", after.unwrap_or(0)),
        };
        let path = format!("/api/scopes/{path}/messages?{query}");
        let answer = timeout(ANSWER, http.request(hyper::Method::GET, &path, &[], None));
        let answer = answer.await.map_err(|_| format!("{path}: no answer"))??;
        if answer.status != 200 {
            return Err(format!("{path}: {} {}", answer.status, answer.text()));
        }
        let body = answer.json();
        if body["complete"] != true {
            // A pod that could not ask the log in time says so, and may be asked again.
            sleep(LOOK).await;
            continue;
        }
        let mut items = ChatMessage::read_all(&body["items"])?;
        let reached = body[if backward { "oldestReached" } else { "newestReached" }] == true;
        let edge = if backward { items.first() } else { items.last() }.map(|item| item.position);
        if backward {
            items.append(&mut all);
            all = items;
        } else {
            all.append(&mut items);
        }
        match edge {
            _ if reached => return Ok(all),
            Some(edge) => cursor = Some(edge),
            // The pod is a moment behind the log.
            None => sleep(LOOK).await,
        }
    }
    Err(format!("{path}: no end after {MOST_PAGES} pages"))
}
