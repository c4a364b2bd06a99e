//! The real binary as a server: one process in the embedded profile, three pods behind a load balancer in the cluster profile.

use crate::http::Http;
use crate::hub::{Hub, HubError, HubOptions};
use crate::link::Link;
use crate::message::ChatMessage;
use crate::pod::Pod;
use crate::process::{open_files, resident_bytes, sockets_to_clients};
use crate::seeds::Seed;
use crate::waiting::{SOON, eventually};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::Arc;

pub use crate::home::{Home, Options};

/// What the load balancer's kernel holds in each direction, in bytes: so little that a client which does not read is soon a slow one
/// for its pod as well. A pod's kernel holds the more for a connection the more has flowed through it, so 16 KiB would be too much: 66 KB flowed, and
/// then 600 KB had room.
const BALANCER_BUFFER: usize = 4 << 10;

/// A running server. Dropping it kills its processes.
#[derive(Debug)]
pub struct Server {
    pods: Vec<Pod>,
    balancer: Option<Link>,
    home: Arc<Home>,
    options: Options,
}

impl Server {
    /// Starts a server in a new directory and waits until it accepts connections.
    ///
    /// # Panics
    /// When it ends or does not listen in time.
    pub async fn start(options: Options) -> Self {
        Self::start_in(&Home::new(), options).await
    }

    /// Starts a server over the data that an earlier one left.
    ///
    /// # Panics
    /// When it ends or does not listen in time.
    pub async fn start_in(home: &Arc<Home>, options: Options) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), home, options).await
    }

    /// Starts a server whose load balancer, if it has one, listens on `address`.
    ///
    /// # Panics
    /// When it ends or does not listen in time.
    pub async fn start_at(address: SocketAddr, home: &Arc<Home>, options: Options) -> Self {
        let count = if home.cluster().is_some() { options.pods() } else { 1 };
        let start = |number: usize| {
            let command = home.command(&["serve"], &options, number);
            Pod::spawn(command, home.next_log(), &home.pod_dir(number).join("listening"))
        };
        let pods = (0..count).map(start).collect();
        let mut server = Self { pods, balancer: None, home: Arc::clone(home), options };
        for (number, pod) in server.pods.iter_mut().enumerate() {
            pod.listening(&home.pod_dir(number).join("listening")).await;
        }
        if home.cluster().is_some() {
            // A load balancer leads to pods that are ready.
            server.ready().await;
            let targets = server.pods.iter().map(Pod::address).collect();
            let seed = Seed::of_this_run().number();
            server.balancer = Some(Link::start(address, targets, seed, Some(BALANCER_BUFFER)));
        }
        server
    }

    /// Where it listens: the load balancer, when there is one.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.balancer.as_ref().map_or_else(|| self.pods[0].address(), Link::address)
    }

    /// Its processes.
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// Memory that its processes have in RAM, in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.pods.iter().map(|pod| resident_bytes(pod.pid())).sum()
    }

    /// Files that its processes have open, and sockets to clients. Connections to the services of a cluster come and go as the drivers
    /// like it and are left out.
    #[must_use]
    pub fn open_files(&self) -> Vec<String> {
        let files = self.pods.iter().flat_map(|pod| match self.balancer {
            None => open_files(pod.pid()),
            Some(_) => sockets_to_clients(pod.pid(), pod.address().port()),
        });
        files.collect()
    }

    /// What it keeps between starts.
    #[must_use]
    pub const fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// Everything that its processes have logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.pods.iter().map(Pod::log).collect()
    }

    /// A token for `user`.
    pub async fn token(&self, user: &str) -> String {
        self.home.token(user).await
    }

    /// A REST client that is signed in as `user`.
    pub async fn http(&self, user: &str) -> Http {
        Http::new(self.address(), Some(self.token(user).await))
    }

    /// A hub client that is signed in as `user`.
    ///
    /// # Panics
    /// When the server does not let it in.
    pub async fn hub(&self, user: &str) -> Hub {
        self.try_hub(user, HubOptions::default()).await.unwrap_or_else(|error| panic!("{user} connects: {error}"))
    }

    /// Tries to connect a hub client that is signed in as `user`.
    ///
    /// # Errors
    /// Why the server did not let it in.
    pub async fn try_hub(&self, user: &str, options: HubOptions) -> Result<Hub, HubError> {
        Hub::connect(self.address(), &self.token(user).await, options).await
    }

    /// Waits until the readiness probe of every pod answers 200.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn ready(&self) {
        for pod in &self.pods {
            pod.ready().await;
        }
    }

    /// Waits until the memory of every pod has `last`, the newest message of its scope: a join answers from there, and what has not
    /// got there yet comes live.
    ///
    /// # Panics
    /// When it does not get there in time.
    pub async fn remembers(&self, last: &ChatMessage) {
        let (token, path) = (self.token(&last.sender_id).await, last.scope.replacen(':', "/", 1));
        for pod in &self.pods {
            let http = Http::new(pod.address(), Some(token.clone()));
            let newest = async || http.page(&path, "limit=1").await.items;
            eventually(SOON, "the newest message is known", || async {
                (newest().await.last() == Some(last)).then_some(())
            })
            .await;
        }
    }

    /// Waits until the log of a cluster has so many records and the history all of them. Without a cluster they are one file, and this does not wait.
    ///
    /// # Panics
    /// When it does not get there in time.
    pub async fn history_has(&self, records: i64) {
        if self.home.cluster().is_some() {
            self.home.caught_up(&self.options, records).await;
        }
    }

    /// The sum of a metric's series whose line contains `labels`, over all pods.
    ///
    /// # Panics
    /// When a pod does not answer.
    pub async fn metric(&self, name: &str, labels: &str) -> Option<f64> {
        let mut values: Vec<f64> = Vec::new();
        for pod in &self.pods {
            let answer = Http::new(pod.address(), None).get("/metrics").await;
            assert_eq!(answer.status, 200, "/metrics");
            let text = answer.text();
            let series = text.lines().filter(|line| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
            });
            values.extend(series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()));
        }
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Sends a signal to exactly its processes.
    ///
    /// # Panics
    /// When one is gone already and was waited for.
    pub fn signal(&self, signal: Signal) {
        if let Some(balancer) = &self.balancer {
            balancer.end_with_targets();
        }
        self.pods.iter().for_each(|pod| pod.signal(signal));
    }

    /// Ends it without a warning, as a power cut would, and waits until the kernel has closed what it held.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(mut self) -> Arc<Home> {
        for pod in &mut self.pods {
            pod.kill().await;
        }
        Arc::clone(&self.home)
    }

    /// Waits until all its processes have ended by themselves; the status is that of the one which ended worst.
    ///
    /// # Panics
    /// When they do not in time.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut worst = self.pods[0].ended().await;
        for pod in &mut self.pods[1..] {
            let status = pod.ended().await;
            if !status.success() {
                worst = status;
            }
        }
        worst
    }

    /// Asks it to end, waits for that, and checks that nothing was left behind.
    ///
    /// # Panics
    /// When it does not end in time, ends with another code than 0, panicked, or logged an error that nobody expected.
    pub async fn stop(mut self) -> Arc<Home> {
        self.signal(Signal::TERM);
        let status = self.ended().await;
        assert!(status.success(), "after SIGTERM the server ended with {status}");
        self.check_log();
        Arc::clone(&self.home)
    }

    /// Checks that the logs tell of no panic and of no error that nobody expected.
    ///
    /// # Panics
    /// When they do.
    pub fn check_log(&self) {
        let log = self.log();
        assert!(!log.contains("panicked"), "something panicked");
        let is_error = |line: &&str| line.contains("ERROR");
        let errors: Vec<&str> = log.lines().filter(is_error).filter(|line| !self.options.expects(line)).collect();
        assert!(errors.is_empty(), "unexpected errors in the log: {errors:#?}");
    }
}
