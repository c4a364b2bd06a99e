//! One measurement from start to verdict: services and pods of its own, a steady load, and in the end the comparison of everything with the log.

use super::listeners::Listener;
use super::speakers::Speaker;
use super::stage::Stage;
use crate::faults::clients::{Phase, World};
use crate::faults::log::LogReader;
use crate::faults::machines::{Fleet, Machines, PARTITIONS};
use crate::faults::verdict::{Answer, Attempt, Finding, judge_answers};
use crate::home::Options;
use crate::http::Http;
use crate::pod::Pod;
use crate::process::allow_open_files;
use crate::profile::PODS;
use crate::waiting::{LONG, eventually};
use chatify_building_blocks::random::{Random, SeededRandom};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long the end of a run may take, step by step.
const FINISH: Duration = Duration::from_secs(120);
/// Files that people and links need.
const OPEN_FILES: u64 = 4_096;
/// How often something is looked at that nobody announces.
const LOOK: Duration = Duration::from_millis(20);

/// Who is there.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// Scopes in which people talk.
    pub scopes: usize,
    /// Hub clients that listen, each in one scope, spread by the load balancer.
    pub listeners: usize,
    /// Hub clients that speak, spread over scopes and pods.
    pub speakers: usize,
    /// How often each of them says something.
    pub pace: Duration,
    /// Repeats what is left to chance.
    pub seed: u64,
}

/// A running cluster with people on it.
#[derive(Debug)]
pub struct Scene {
    /// The services.
    pub machines: Machines,
    /// The pods.
    pub fleet: Fleet,
    /// The log as a plain consumer reads it.
    pub log: LogReader,
    /// What people tell.
    pub stage: Arc<Stage>,
    phase: watch::Sender<Phase>,
    speakers: JoinSet<Vec<Attempt>>,
    listeners: JoinSet<Listener>,
}

impl Scene {
    /// Starts everything, and waits until everybody listens and every partition gets messages.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn open(cast: Cast) -> Self {
        allow_open_files(OPEN_FILES);
        let machines = Machines::start().await;
        let options = Options::new().with("SERVER__DRAIN_WINDOW", "1s");
        let fleet = Fleet::start(machines.services(), options, cast.seed).await;
        let log = LogReader::start(&machines.brokers_direct(), &fleet.names().topic("1"), PARTITIONS);
        let (phase, seen) = watch::channel(Phase::Running);
        let world = Arc::new(World::new(&fleet, ("measured", cast.scopes), seen, log.reference(), "measured"));
        let stage = Arc::new(Stage::new(world));
        let (speakers, listeners) = (JoinSet::new(), JoinSet::new());
        let mut scene = Self { machines, fleet, log, stage, phase, speakers, listeners };
        scene.tell_pods(None);
        scene.gather(cast);
        let everybody = async || {
            let partitions: HashSet<i64> = scene.stage.accepted().iter().map(|accepted| accepted.partition).collect();
            let all = i64::try_from(partitions.len()) == Ok(i64::from(PARTITIONS));
            (scene.stage.away() == 0 && all).then_some(())
        };
        eventually(LONG, "everybody listens, and every partition has messages", everybody).await;
        scene
    }

    fn gather(&mut self, cast: Cast) {
        let random = SeededRandom::new(cast.seed);
        for number in 0..cast.listeners {
            self.listeners.spawn(Listener::new(&self.stage, number, number % cast.scopes, random.u64()).run());
        }
        let first = Instant::now() + Duration::from_secs(1);
        for number in 0..cast.speakers {
            // Every scope is spoken in through every pod, when there are enough speakers.
            let place = (number / cast.scopes % PODS, number % cast.scopes);
            let share = cast.pace * u32::try_from(number).expect("few") / u32::try_from(cast.speakers).expect("few");
            self.speakers.spawn(Speaker::new(&self.stage, number, place, cast.pace, first + share).run());
        }
    }

    /// Tells people where the pods listen; `without` is one that does not.
    pub fn tell_pods(&self, without: Option<usize>) {
        let address = |number: usize| (Some(number) != without).then(|| self.fleet.pod(number).address());
        self.stage.set_pods((0..PODS).map(address).collect());
    }

    /// A REST client of one pod.
    #[must_use]
    pub fn http(&self, pod: usize, user: &str) -> Http {
        Http::new(Pod::address(self.fleet.pod(pod)), Some(self.stage.world.token(user)))
    }

    /// Waits until the log has all its replicas. Another fault before that would be a worse one.
    pub async fn replicas(&self) {
        let end = Instant::now() + FINISH;
        while !self.log.in_sync() {
            if Instant::now() > end {
                self.stage.world.found(Finding::NotRecovered { what: "replicas of the log".to_owned() });
                return;
            }
            sleep(LOOK).await;
        }
    }

    /// Ends the load: nobody says anything new, everybody gets what is there. Gives what is wrong with what was sent and shown.
    pub async fn settle(&mut self) {
        let world = Arc::clone(&self.stage.world);
        self.phase.send_replace(Phase::Settling);
        let end = Instant::now() + FINISH;
        let mut attempts = Vec::new();
        while let Ok(Some(spoken)) = timeout_at(end, self.speakers.join_next()).await {
            match spoken {
                Ok(spoken) => attempts.extend(spoken),
                Err(error) => world.found(Finding::Crashed { what: format!("a speaker of the harness: {error}") }),
            }
        }
        if !self.log_is_read().await || !self.speakers.is_empty() {
            world.found(Finding::NotRecovered { what: "sends and the log, in the end".to_owned() });
        }
        let counts: BTreeMap<String, usize> = {
            let reference = self.log.read();
            world.scopes.iter().map(|scope| (scope.clone(), reference.projection.scope(scope).len())).collect()
        };
        self.phase.send_replace(Phase::Over(counts));
        let all_listeners = async {
            while let Some(listener) = self.listeners.join_next().await {
                if let Err(error) = listener {
                    world.found(Finding::Crashed { what: format!("a listener of the harness: {error}") });
                }
            }
        };
        if timeout(FINISH, all_listeners).await.is_err() {
            let what = format!("{} listeners did not see everything", self.listeners.len());
            world.found(Finding::NotRecovered { what });
        }
        self.judge(&attempts).into_iter().for_each(|finding| world.found(finding));
    }

    async fn log_is_read(&self) -> bool {
        let end = Instant::now() + FINISH;
        while Instant::now() < end {
            if self.log.ends().is_ok_and(|ends| self.log.has_read(&ends)) {
                return true;
            }
            sleep(LOOK).await;
        }
        false
    }

    fn judge(&self, attempts: &[Attempt]) -> Vec<Finding> {
        let reference = self.log.read();
        let mut findings = judge_answers(attempts, &reference.records);
        if reference.poison > 0 {
            findings.push(Finding::DeadLettered { count: reference.poison });
        }
        let mut shown: HashMap<&str, usize> = HashMap::new();
        for record in &reference.shown {
            *shown.entry(&record.message_id).or_default() += 1;
        }
        let accepted = attempts.iter().filter(|attempt| matches!(attempt.answer, Answer::Accepted(_)));
        for attempt in accepted.filter(|attempt| shown.get(attempt.message_id.as_str()) != Some(&1)) {
            let (observer, message_id) = ("the log".to_owned(), attempt.message_id.clone());
            findings.push(Finding::Twice { observer, message_id });
        }
        findings
    }

    /// Ends everything. The sentences that say what broke a promise, none when all was well.
    pub async fn close(mut self) -> Vec<String> {
        let mut wrong = self.fleet.wrong();
        for pod in 0..PODS {
            wrong.extend(self.fleet.stop(pod).await);
        }
        let world = &self.stage.world;
        wrong.into_iter().for_each(|what| world.found(Finding::Crashed { what }));
        let findings = world.findings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let history = world.recorder.flush().to_owned();
        if findings.is_empty() {
            world.recorder.discard();
        } else {
            self.fleet.keep_logs(&history.with_extension("logs"));
        }
        let mut sentences: Vec<String> = findings.iter().map(|finding| format!("{finding:?}")).collect();
        if !sentences.is_empty() {
            sentences.push(format!("the pods' logs are in {}", history.with_extension("logs").display()));
        }
        drop((self.log, self.fleet));
        self.machines.end().await;
        sentences
    }
}
