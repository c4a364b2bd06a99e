//! What breaks. Each kind breaks something, waits, and heals it again; the rest of a run does not know which one it is.

use super::log::consumer;
use super::machines::{BROKERS, Fleet, Machines};
use super::record::{Entry, Recorder};
use crate::link::{Fault, Link};
use crate::profile::PODS;
use chatify_building_blocks::random::{Random, SeededRandom};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A pod is killed with -9 and started again.
    PodKill,
    /// While the brokers' answers are lost, all pods are killed with -9 and started again.
    AllPodsKill,
    /// While the brokers' answers are lost, a pod is killed with -9; it is started again when they arrive again.
    PodKillUnanswered,
    /// A pod is asked to end and started again.
    PodRestart,
    /// One pod after the other is asked to end and started again.
    RollingRestart,
    /// A pod is frozen.
    PodFreeze,
    /// A broker is killed with -9 and started again.
    BrokerKill,
    /// A broker is asked to end and started again.
    BrokerRestart,
    /// A broker is frozen.
    BrokerFreeze,
    /// Connections to a broker are reset and refused.
    BrokerRefuse,
    /// Nothing gets to a broker and back.
    BrokerBlackhole,
    /// A broker hears the pods, but its answers do not arrive for a while.
    BrokerOneWay,
    /// A broker does what it is asked, and its answers are lost.
    BrokerDroppedReplies,
    /// The store is frozen.
    StoreFreeze,
    /// The store is killed with -9 and started again.
    StoreKill,
    /// One pod's connections to the store are reset and refused.
    StoreRefuse,
    /// Nothing gets from one pod to the store and back.
    StoreBlackhole,
    /// The store does what pods ask, and its answers are lost.
    StoreDroppedReplies,
    /// The cache is frozen.
    CacheFreeze,
    /// The cache is killed with -9 and started again, empty.
    CacheKill,
    /// The cache is emptied.
    CacheEmptied,
    /// The cache does what pods ask, and its answers are lost.
    CacheDroppedReplies,
    /// Strangers join the group that writes the history, and leave it, again and again.
    WriterStorm,
    /// The store is frozen while all pods are killed with -9.
    StoreFreezeAllPodsKill,
    /// A broker and a pod are killed with -9.
    BrokerKillPodKill,
}

/// A broken thing, to tell who it was.
const POD_NAMES: [&str; PODS] = ["pod-0", "pod-1", "pod-2"];
const BROKER_NAMES: [&str; BROKERS] = ["kafka3-1", "kafka3-2", "kafka3-3"];
/// How long answers are lost before a pod is killed: some sends are in the log then, and nobody knows.
const UNANSWERED: Duration = Duration::from_millis(700);
/// How long a stranger stays in the writers' group.
const STRANGER_STAYS: Duration = Duration::from_millis(700);

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 25] = [
        Self::PodKill,
        Self::AllPodsKill,
        Self::PodKillUnanswered,
        Self::PodRestart,
        Self::RollingRestart,
        Self::PodFreeze,
        Self::BrokerKill,
        Self::BrokerRestart,
        Self::BrokerFreeze,
        Self::BrokerRefuse,
        Self::BrokerBlackhole,
        Self::BrokerOneWay,
        Self::BrokerDroppedReplies,
        Self::StoreFreeze,
        Self::StoreKill,
        Self::StoreRefuse,
        Self::StoreBlackhole,
        Self::StoreDroppedReplies,
        Self::CacheFreeze,
        Self::CacheKill,
        Self::CacheEmptied,
        Self::CacheDroppedReplies,
        Self::WriterStorm,
        Self::StoreFreezeAllPodsKill,
        Self::BrokerKillPodKill,
    ];

    /// The kind of that name, as [`Kind::name`] writes it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Its name in tables and histories.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PodKill => "pod-kill",
            Self::AllPodsKill => "all-pods-kill",
            Self::PodKillUnanswered => "pod-kill-unanswered",
            Self::PodRestart => "pod-restart",
            Self::RollingRestart => "rolling-restart",
            Self::PodFreeze => "pod-freeze",
            Self::BrokerKill => "broker-kill",
            Self::BrokerRestart => "broker-restart",
            Self::BrokerFreeze => "broker-freeze",
            Self::BrokerRefuse => "broker-refuse",
            Self::BrokerBlackhole => "broker-blackhole",
            Self::BrokerOneWay => "broker-one-way",
            Self::BrokerDroppedReplies => "broker-dropped-replies",
            Self::StoreFreeze => "store-freeze",
            Self::StoreKill => "store-kill",
            Self::StoreRefuse => "store-refuse",
            Self::StoreBlackhole => "store-blackhole",
            Self::StoreDroppedReplies => "store-dropped-replies",
            Self::CacheFreeze => "cache-freeze",
            Self::CacheKill => "cache-kill",
            Self::CacheEmptied => "cache-emptied",
            Self::CacheDroppedReplies => "cache-dropped-replies",
            Self::WriterStorm => "writer-storm",
            Self::StoreFreezeAllPodsKill => "store-freeze-all-pods-kill",
            Self::BrokerKillPodKill => "broker-kill-pod-kill",
        }
    }
}

/// The kinds of `cycles` cycles: each of `pool` about equally often, in an order that the seed decides.
#[must_use]
pub fn schedule(pool: &[Kind], cycles: usize, random: &SeededRandom) -> Vec<Kind> {
    let mut all: Vec<Kind> = Vec::new();
    while all.len() < cycles {
        let mut round = pool.to_vec();
        while !round.is_empty() && all.len() < cycles {
            all.push(round.swap_remove(pick(random, round.len())));
        }
    }
    all
}

fn pick(random: &SeededRandom, count: usize) -> usize {
    usize::try_from(random.u64() % u64::try_from(count).expect("few")).expect("few")
}

/// Who breaks things, and where.
#[derive(Debug)]
pub struct Nemesis<'a> {
    /// The services.
    pub machines: &'a Machines,
    /// The pods.
    pub fleet: &'a mut Fleet,
    /// Who is hit.
    pub random: &'a SeededRandom,
    /// The history of the run.
    pub recorder: &'a Recorder,
    /// How long a fault lasts.
    pub hold: Duration,
    /// The brokers past the links, the topic, and the writers' group.
    pub storm: (String, String, String),
    /// What was found wrong with pods on the way.
    pub wrong: Vec<String>,
}

impl Nemesis<'_> {
    /// Breaks, waits, heals.
    pub async fn strike(&mut self, kind: Kind) {
        self.tell("break", kind, "");
        let (pod, broker) = (pick(self.random, PODS), pick(self.random, BROKERS));
        match kind {
            Kind::PodKill
            | Kind::AllPodsKill
            | Kind::PodKillUnanswered
            | Kind::PodRestart
            | Kind::RollingRestart
            | Kind::PodFreeze => {
                self.tell("target", kind, POD_NAMES[pod]);
                self.pods(kind, pod).await;
            }
            Kind::BrokerKill => self.process("kill", "start", BROKER_NAMES[broker]).await,
            Kind::BrokerRestart => self.process("stop", "start", BROKER_NAMES[broker]).await,
            Kind::BrokerFreeze => self.process("pause", "resume", BROKER_NAMES[broker]).await,
            Kind::BrokerRefuse => self.links(Fault::REFUSED, &[&self.machines.brokers[broker]]).await,
            Kind::BrokerBlackhole => self.links(Fault::BLACKHOLE, &[&self.machines.brokers[broker]]).await,
            Kind::BrokerOneWay => self.links(Fault::ONE_WAY, &[&self.machines.brokers[broker]]).await,
            Kind::BrokerDroppedReplies => self.links(Fault::DROPPED_REPLIES, &[&self.machines.brokers[broker]]).await,
            Kind::StoreFreeze => self.process("pause", "resume", "cassandra").await,
            Kind::StoreKill => self.process("kill", "start", "cassandra").await,
            Kind::StoreRefuse => self.links(Fault::REFUSED, &[&self.machines.stores[pod]]).await,
            Kind::StoreBlackhole => self.links(Fault::BLACKHOLE, &[&self.machines.stores[pod]]).await,
            Kind::StoreDroppedReplies => self.all_links(Fault::DROPPED_REPLIES, &self.machines.stores).await,
            Kind::CacheFreeze => self.process("pause", "resume", "redis").await,
            Kind::CacheKill => self.process("kill", "start", "redis").await,
            Kind::CacheEmptied => {
                self.machines.empty_cache();
                sleep(self.hold).await;
            }
            Kind::CacheDroppedReplies => self.all_links(Fault::DROPPED_REPLIES, &self.machines.caches).await,
            Kind::WriterStorm => self.storm().await,
            Kind::StoreFreezeAllPodsKill => {
                self.machines.script("pause", "cassandra").await;
                sleep(self.hold).await;
                self.kill_all().await;
                self.machines.script("resume", "cassandra").await;
                self.fleet.settle().await;
            }
            Kind::BrokerKillPodKill => {
                self.machines.script("kill", BROKER_NAMES[broker]).await;
                let wrong = self.fleet.kill(pod).await;
                self.wrong.extend(wrong);
                sleep(self.hold).await;
                self.machines.script("start", BROKER_NAMES[broker]).await;
                self.fleet.restart(pod).await;
            }
        }
        self.tell("heal", kind, "");
    }

    fn tell(&self, operation: &str, kind: Kind, target: &str) {
        let entry = Entry { actor: "nemesis", operation, id: kind.name(), cause: target, ..Entry::EMPTY };
        self.recorder.record(&entry);
    }

    async fn pods(&mut self, kind: Kind, pod: usize) {
        match kind {
            Kind::PodFreeze => {
                self.fleet.freeze(pod);
                sleep(self.hold).await;
                self.fleet.thaw(pod);
            }
            Kind::PodRestart => self.restart(pod).await,
            Kind::RollingRestart => {
                for pod in 0..PODS {
                    self.restart(pod).await;
                }
            }
            Kind::AllPodsKill => {
                self.lose_answers(Fault::DROPPED_REPLIES);
                sleep(UNANSWERED).await;
                self.kill_all().await;
                self.lose_answers(Fault::NONE);
                self.fleet.settle().await;
            }
            Kind::PodKillUnanswered => {
                self.lose_answers(Fault::DROPPED_REPLIES);
                sleep(UNANSWERED).await;
                let wrong = self.fleet.kill(pod).await;
                self.wrong.extend(wrong);
                sleep(self.hold).await;
                self.lose_answers(Fault::NONE);
                self.fleet.restart(pod).await;
            }
            _ => {
                let wrong = self.fleet.kill(pod).await;
                self.wrong.extend(wrong);
                sleep(self.hold).await;
                self.fleet.restart(pod).await;
            }
        }
    }

    fn lose_answers(&self, fault: Fault) {
        self.machines.brokers.iter().for_each(|link| link.set(fault));
    }

    async fn restart(&mut self, pod: usize) {
        let wrong = self.fleet.stop(pod).await;
        self.wrong.extend(wrong);
        self.fleet.restart(pod).await;
    }

    async fn kill_all(&mut self) {
        for pod in 0..PODS {
            let wrong = self.fleet.kill(pod).await;
            self.wrong.extend(wrong);
        }
        (0..PODS).for_each(|pod| self.fleet.begin_restart(pod));
    }

    async fn process(&self, break_: &str, heal: &str, name: &str) {
        self.machines.script(break_, name).await;
        sleep(self.hold).await;
        self.machines.script(heal, name).await;
    }

    async fn all_links(&self, fault: Fault, links: &[Link]) {
        self.links(fault, &links.iter().collect::<Vec<_>>()).await;
    }

    async fn links(&self, fault: Fault, links: &[&Link]) {
        links.iter().for_each(|link| link.set(fault));
        sleep(self.hold).await;
        links.iter().for_each(|link| link.set(Fault::NONE));
    }

    /// One stranger after the other joins the writers, is given partitions, and leaves without having done anything.
    async fn storm(&self) {
        let end = Instant::now() + self.hold.max(4 * STRANGER_STAYS);
        while Instant::now() < end {
            let (bootstrap, topic, group) = self.storm.clone();
            let stay = std::thread::Builder::new().name("stranger".into());
            let stay = stay.spawn(move || stay_for_a_while(&bootstrap, &topic, &group)).expect("a thread");
            while !stay.is_finished() {
                sleep(STRANGER_STAYS / 10).await;
            }
        }
    }
}

fn stay_for_a_while(bootstrap: &str, topic: &str, group: &str) {
    // Only to be sure that the brokers answer at all.
    drop(consumer(bootstrap, "storm"));
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", group).set("client.id", "stranger");
    config.set("enable.auto.commit", "false").set("partition.assignment.strategy", "cooperative-sticky");
    config.set("auto.offset.reset", "earliest").set("session.timeout.ms", "6000");
    let stranger: BaseConsumer = config.create().expect("a valid configuration");
    stranger.subscribe(&[topic]).expect("a topic can be subscribed");
    for _ in 0..7 {
        drop(stranger.poll(STRANGER_STAYS / 7));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_repeats_itself_and_has_every_kind() {
        let once = schedule(&Kind::ALL, 25, &SeededRandom::new(5));
        assert_eq!(once, schedule(&Kind::ALL, 25, &SeededRandom::new(5)));
        assert_ne!(once, schedule(&Kind::ALL, 25, &SeededRandom::new(6)));
        assert!(Kind::ALL.iter().all(|kind| once.contains(kind)), "{once:?}");
        let long = schedule(&Kind::ALL, 200, &SeededRandom::new(5));
        assert!(Kind::ALL.iter().all(|kind| long.iter().filter(|other| *other == kind).count() >= 8));
    }

    #[test]
    fn names_lead_back_to_their_kinds() {
        assert!(Kind::ALL.iter().all(|kind| Kind::named(kind.name()) == Some(*kind)));
        assert_eq!(Kind::named("earthquake"), None);
    }
}
