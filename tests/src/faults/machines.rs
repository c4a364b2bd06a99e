//! What a run owns: a set of services of its own, three pods, and the cables between them, each of which can be cut.

use crate::cluster::{ClusterNames, Services};
use crate::home::{Home, Options};
use crate::link::{Fault, Link};
use crate::pod::Pod;
use crate::profile::PODS;
use crate::waiting::{LONG, within};
use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

/// Partitions of the log.
pub const PARTITIONS: i32 = 3;
/// Brokers of the log.
pub const BROKERS: usize = 3;
/// Where the ports of the run's own services begin, unless `CHATIFY_TEST_FAULTS_PORT_BASE` says otherwise.
const PORT_BASE: u16 = 24_000;
/// How far above the base they are; `scripts/services.sh` decides.
const REDIS: u16 = 379;
const CASSANDRA: u16 = 3_042;
const KAFKA3: u16 = 3_192;
/// The listeners that tell clients to come by the harness's links are this far above the brokers' own.
const LINK_LISTENERS: u16 = 20;
/// The links themselves.
const LINKS: u16 = 3_230;
/// What the load balancer's kernel holds in each direction, so that a client which does not read is soon a slow one for its pod.
const BALANCER_BUFFER: usize = 16 << 10;
/// How long the services may take to start on a busy machine.
const START: Duration = Duration::from_secs(240);
/// What a run starts, in the order in which it waits for them.
const SERVICES: [&str; 3] = ["redis", "cassandra", "kafka3"];

/// Services that belong to one run, and the links in front of them. Ending the run ends them.
#[derive(Debug)]
pub struct Machines {
    base: u16,
    /// One a broker, for all pods.
    pub brokers: Vec<Link>,
    /// One a pod.
    pub stores: Vec<Link>,
    /// One a pod.
    pub caches: Vec<Link>,
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the project").to_owned()
}

impl Machines {
    /// Starts the services with empty disks, and the links.
    ///
    /// # Panics
    /// When a service does not start.
    pub async fn start() -> Self {
        let base = std::env::var("CHATIFY_TEST_FAULTS_PORT_BASE");
        let base = base.map_or(PORT_BASE, |text| text.parse().expect("CHATIFY_TEST_FAULTS_PORT_BASE is a port"));
        let link = |listen: u16, target: u16| Link::start(loopback(listen), vec![loopback(target)], 0, None);
        let number = |index: usize| u16::try_from(index).expect("few");
        let machines = Self {
            base,
            brokers: (0..BROKERS)
                .map(|index| link(base + LINKS + number(index), base + KAFKA3 + LINK_LISTENERS + number(index)))
                .collect(),
            stores: (0..PODS).map(|_| link(0, base + CASSANDRA)).collect(),
            caches: (0..PODS).map(|_| link(0, base + REDIS)).collect(),
        };
        // A run that was killed could not end its own.
        for service in SERVICES {
            machines.script("reset", service).await;
        }
        for service in SERVICES {
            machines.script("start", service).await;
        }
        machines
    }

    /// Ends the services and forgets their data.
    ///
    /// # Panics
    /// When one does not end.
    pub async fn end(self) {
        for service in SERVICES {
            self.script("reset", service).await;
        }
    }

    /// Runs `scripts/services.sh COMMAND NAME` on the services of this run.
    ///
    /// # Panics
    /// When it fails.
    pub async fn script(&self, command: &str, name: &str) {
        let mut script = Command::new(root().join("scripts/services.sh"));
        script.args([command, name]).env("SERVICES_PORT_BASE", self.base.to_string());
        script.env("SERVICES_KAFKA_LINK_PORT", (self.base + LINKS).to_string());
        script.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let what = format!("scripts/services.sh {command} {name}");
        let running = script.spawn().expect("the script can be started").wait_with_output();
        let output = within(START, &what, running).await.expect("its output");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what} (SERVICES_PORT_BASE={}) failed: {errors}", self.base);
    }

    /// The addresses that pods use: each by way of its links.
    #[must_use]
    pub fn services(&self) -> Services {
        let addresses = |links: &[Link]| links.iter().map(|link| link.address().to_string()).collect::<Vec<_>>();
        Services {
            kafka: vec![addresses(&self.brokers).join(",")],
            cql: addresses(&self.stores),
            redis: self.caches.iter().map(|link| format!("redis://{}", link.address())).collect(),
            cql_direct: self.store_direct(),
        }
    }

    /// The brokers, past the links.
    #[must_use]
    pub fn brokers_direct(&self) -> String {
        let broker = |index: u16| loopback(self.base + KAFKA3 + index).to_string();
        [broker(0), broker(1), broker(2)].join(",")
    }

    /// The store, past the links.
    #[must_use]
    pub fn store_direct(&self) -> String {
        loopback(self.base + CASSANDRA).to_string()
    }

    /// The cache, past the links.
    #[must_use]
    pub fn cache_direct(&self) -> SocketAddr {
        loopback(self.base + REDIS)
    }

    /// Empties the cache, as an operator's slip would.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn empty_cache(&self) {
        let mut stream = TcpStream::connect(self.cache_direct()).expect("the cache accepts");
        stream.write_all(b"FLUSHALL\r\n").expect("the cache takes a command");
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).expect("the cache answers");
        assert_eq!(&answer, b"+OK\r\n", "the cache is empty");
    }

    /// Ends every fault of every link.
    pub fn mend(&self) {
        for link in self.brokers.iter().chain(&self.stores).chain(&self.caches) {
            link.set(Fault::NONE);
        }
    }
}

/// Three pods behind a load balancer.
#[derive(Debug)]
pub struct Fleet {
    // Before the home: a pod that is dropped by a failing test shows its log, which is in there.
    pods: Vec<Option<Pod>>,
    balancer: Link,
    options: Options,
    home: Arc<Home>,
}

impl Fleet {
    /// Starts the pods over `services`, under names of their own.
    ///
    /// # Panics
    /// When one does not start.
    pub async fn start(services: Services, options: Options, seed: u64) -> Self {
        let home = Home::with_cluster(Some(ClusterNames::new(services)));
        let balancer = Link::start(loopback(0), Vec::new(), seed, Some(BALANCER_BUFFER));
        let mut fleet = Self { home, options, pods: Vec::new(), balancer };
        fleet.pods = (0..PODS).map(|number| Some(fleet.spawn(number))).collect();
        for number in 0..PODS {
            fleet.listening(number).await;
        }
        fleet
    }

    fn spawn(&self, number: usize) -> Pod {
        let command = self.home.command(&["serve"], &self.options, number);
        let number_of_log = self.home.next_log();
        Pod::spawn(command, number_of_log, &self.announcement(number))
    }

    fn announcement(&self, number: usize) -> PathBuf {
        self.home.pod_dir(number).join("listening")
    }

    async fn listening(&mut self, number: usize) {
        let announcement = self.announcement(number);
        if let Some(pod) = &mut self.pods[number] {
            pod.listening(&announcement).await;
            pod.ready().await;
        }
        let addresses = self.pods.iter().flatten().map(Pod::address).filter(|address| address.port() != 0);
        self.balancer.lead_to(addresses.collect());
    }

    /// Where clients connect.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.balancer.address()
    }

    /// The names of this run.
    ///
    /// # Panics
    /// Never: a fleet has names.
    #[must_use]
    pub fn names(&self) -> &ClusterNames {
        self.home.cluster().expect("a fleet is a cluster")
    }

    /// A process.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pod(&self, number: usize) -> &Pod {
        self.pods[number].as_ref().expect("the pod runs")
    }

    /// Freezes a pod.
    pub fn freeze(&self, number: usize) {
        self.pod(number).signal(Signal::STOP);
    }

    /// Lets a frozen pod go on.
    pub fn thaw(&self, number: usize) {
        self.pod(number).signal(Signal::CONT);
    }

    /// Ends a pod without a warning. What was wrong with it before.
    pub async fn kill(&mut self, number: usize) -> Option<String> {
        let mut pod = self.pods[number].take()?;
        let wrong = wrong_with(number, &mut pod);
        pod.kill().await;
        wrong
    }

    /// Ends a pod as an orchestrator does: it gets its time, and is killed if that is not enough. What was wrong with it.
    pub async fn stop(&mut self, number: usize) -> Option<String> {
        let mut pod = self.pods[number].take()?;
        if let Some(wrong) = wrong_with(number, &mut pod) {
            return Some(wrong);
        }
        pod.signal(Signal::TERM);
        let status = tokio::time::timeout(LONG, pod.end()).await;
        let panicked = pod.log().contains("panicked").then(|| format!("pod-{number} panicked"));
        match status {
            Ok(status) if !status.success() => Some(format!("pod-{number} ended with {status} after SIGTERM")),
            Ok(_) => panicked,
            Err(_) => {
                pod.kill().await;
                Some(format!("pod-{number} did not end within {LONG:?} after SIGTERM"))
            }
        }
    }

    /// Starts a pod that does not run, and waits until it listens.
    pub async fn restart(&mut self, number: usize) {
        self.pods[number] = Some(self.spawn(number));
        self.listening(number).await;
    }

    /// Starts a pod that does not run, without waiting; [`Fleet::settle`] does.
    pub fn begin_restart(&mut self, number: usize) {
        self.pods[number] = Some(self.spawn(number));
    }

    /// Waits until every pod that was started listens.
    pub async fn settle(&mut self) {
        for number in 0..PODS {
            self.listening(number).await;
        }
    }

    /// What is wrong with the pods that run: one has ended, or panicked.
    pub fn wrong(&mut self) -> Vec<String> {
        let pods = self.pods.iter_mut().enumerate();
        pods.filter_map(|(number, pod)| wrong_with(number, pod.as_mut()?)).collect()
    }

    /// Copies the logs of every process of this run, the dead ones' too, into `directory`.
    ///
    /// # Panics
    /// When the disk does not take them.
    pub fn keep_logs(&self, directory: &Path) {
        fs::create_dir_all(directory).expect("a directory for logs");
        let files = fs::read_dir(self.home.directory()).expect("the home is a directory");
        for path in files.filter_map(|file| Some(file.ok()?.path())) {
            if path.extension().is_some_and(|extension| extension == "log") {
                fs::copy(&path, directory.join(path.file_name().expect("a file"))).expect("a log can be copied");
            }
        }
    }
}

fn wrong_with(number: usize, pod: &mut Pod) -> Option<String> {
    if let Some(status) = pod.has_ended() {
        return Some(format!("pod-{number} ended by itself with {status}"));
    }
    pod.log().contains("panicked").then(|| format!("pod-{number} panicked"))
}
