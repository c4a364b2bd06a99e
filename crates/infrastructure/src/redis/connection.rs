//! The pod's connection to Redis, its deadline and its breaker.

use super::breaker::Breaker;
use super::error::{CallError, RedisStartError};
use super::keys::{Keys, encoded_pod};
use super::link::{Connector, Link};
use super::options::RedisOptions;
use chatify_building_blocks::clock::Clock;
use chatify_building_blocks::error::chain;
use chatify_building_blocks::random::Random;
use chatify_building_blocks::tasks::Supervisor;
use futures_util::future::try_join_all;
use redis::{Cmd, FromRedisValue, RedisError, Script, ServerErrorKind, cmd};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The commands that may wait for an answer at once; the next is refused. At the default deadline this is 20,000 commands a second to a Redis that
/// has just frozen, until the breaker opens.
const MAX_IN_FLIGHT: usize = 1_024;
/// When Redis goes away again so soon after its return, its work may be what is too much for it: it gets a pause, and the log too.
const RELAPSE: Duration = Duration::from_secs(5);

/// What all adapters of a pod share. It connects, and connects again, by itself; Redis may be away at any time, also at the start.
///
/// * **Deadline.** No command waits longer than [`RedisOptions::deadline`], connecting included.
/// * **Breaker.** After three failures one after the other, whatever keys they were about (in a cluster: in one range of slots), or a lost connection, Redis counts as
///   away: commands fail at once and only this object's own probes reach Redis, until one of them succeeds. So a frozen Redis costs no request anything.
/// * **Bounds.** At most 1,024 commands wait at once.
pub struct RedisConnection {
    options: RedisOptions,
    connector: Connector,
    keys: Keys,
    probes: Vec<String>,
    link: Mutex<Option<Link>>,
    state: watch::Sender<Availability>,
    outage: Mutex<Option<RedisOutage>>,
    /// How often it came back.
    returns: AtomicU64,
    breaker: Breaker,
    in_flight: Semaphore,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    counters: Counters,
}

/// Whether Redis answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Availability {
    /// It answers, since this moment of the clock's uptime; none when it did from the start.
    Available(Option<Duration>),
    /// It does not.
    Away,
}

/// Redis does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisOutage {
    /// The clock's uptime when that was seen.
    pub since: Duration,
    /// What was seen first, for an operator.
    pub reason: String,
}

/// What happened so far, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedisCounts {
    /// Commands sent.
    pub commands: u64,
    /// Commands that got no answer, or an error, in time.
    pub failures: u64,
    /// Commands that were not sent because Redis is away or too many were waiting.
    pub refused: u64,
    /// How often Redis went away.
    pub outages: u64,
    /// Rate limits that the pod decided alone.
    pub local_limits: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    commands: AtomicU64,
    failures: AtomicU64,
    refused: AtomicU64,
    outages: AtomicU64,
    pub(super) local_limits: AtomicU64,
}

impl RedisConnection {
    /// Tries to connect once, and goes on trying in a service of `supervisor`. Takes at most [`RedisOptions::connect_timeout`] and one deadline.
    ///
    /// # Errors
    /// When the options can never work. Redis being away is no error.
    pub async fn connect(
        options: RedisOptions,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, RedisStartError> {
        let endpoint = options.endpoint()?;
        let connector = Connector::new(&options, &endpoint).map_err(RedisStartError::Client)?;
        let keys = Keys(options.key_prefix.clone());
        let this = Arc::new(Self {
            probes: keys.probes(),
            connector,
            keys,
            link: Mutex::default(),
            state: watch::Sender::new(Availability::Away),
            outage: Mutex::default(),
            returns: AtomicU64::new(0),
            breaker: Breaker::default(),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            clock,
            random,
            counters: Counters::default(),
            options,
        });
        match this.restore().await {
            Ok(()) => drop(this.state.send_replace(Availability::Available(None))),
            Err(error) => {
                this.begin_outage(&error);
                this.warn(&error);
            }
        }
        supervisor.service("redis-connection", Arc::clone(&this).run(supervisor.token()));
        Ok(this)
    }

    /// Whether Redis answers at the moment.
    #[must_use]
    pub fn is_available(&self) -> bool {
        matches!(self.availability(), Availability::Available(_))
    }

    /// Why Redis does not answer at the moment; none while it does. Asks nobody.
    #[must_use]
    pub fn health(&self) -> Option<RedisOutage> {
        self.current_outage().clone()
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> RedisCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RedisCounts {
            commands: read(&self.counters.commands),
            failures: read(&self.counters.failures),
            refused: read(&self.counters.refused),
            outages: read(&self.counters.outages),
            local_limits: read(&self.counters.local_limits),
        }
    }

    pub(super) fn availability(&self) -> Availability {
        *self.state.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Availability> {
        self.state.subscribe()
    }

    pub(super) fn options(&self) -> &RedisOptions {
        &self.options
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(super) fn random(&self) -> &Arc<dyn Random> {
        &self.random
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sends `command`, whose key is `key`.
    pub(super) async fn query<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> Result<T, CallError> {
        let ask = async |mut link: Link| link.query(command).await;
        self.call(key, ask).await
    }

    /// Runs `script`, all keys of which are in one slot.
    pub(super) async fn run_script<T: FromRedisValue>(
        &self,
        script: &LoadedScript,
        keys: &[&str],
        arguments: &[&str],
    ) -> Result<T, CallError> {
        let key = keys.first().copied().unwrap_or_default();
        let ask = async |mut link: Link| {
            let short = script.command("EVALSHA", script.script.get_hash(), keys, arguments);
            match link.query(&short).await {
                Err(error) if error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript) => {
                    link.query(&script.command("EVAL", script.code, keys, arguments)).await
                }
                outcome => outcome,
            }
        };
        self.call(key, ask).await
    }

    async fn call<T>(&self, key: &str, ask: impl AsyncFnOnce(Link) -> Result<T, RedisError>) -> Result<T, CallError> {
        let returns = self.returns.load(Ordering::Acquire);
        let (link, _permit) = match self.admit() {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                return Err(refusal);
            }
        };
        self.counters.commands.fetch_add(1, Ordering::Relaxed);
        let range = link.range(key);
        let failures = self.breaker.failures(range);
        let outcome = bounded(self.options.deadline, ask(link)).await;
        self.judge(range, (returns, failures), &outcome);
        outcome
    }

    fn admit(&self) -> Result<(Link, tokio::sync::SemaphorePermit<'_>), CallError> {
        if !self.is_available() {
            return Err(CallError::Away);
        }
        let link = self.current_link().ok_or(CallError::Away)?;
        let permit = self.in_flight.try_acquire().map_err(|_| CallError::Overloaded)?;
        Ok((link, permit))
    }

    /// Takes an outcome into account, unless Redis came back since the command was sent (`returns`): what failed then says nothing about now. The breaker had
    /// counted so many `failures` at that moment.
    fn judge<T>(&self, range: usize, (returns, failures): (u64, u32), outcome: &Result<T, CallError>) {
        let Err(error) = outcome else {
            return self.breaker.succeeded(range);
        };
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(error = chain(error), "redis command failed");
        if returns != self.returns.load(Ordering::Acquire) || !self.breaker.failed(range, failures, error.verdict()) {
            return;
        }
        let left = self.state.send_if_modified(|state| {
            let left = *state != Availability::Away;
            if left {
                // Before anybody can see the state and end it.
                self.begin_outage(error);
            }
            *state = Availability::Away;
            left
        });
        if left {
            self.warn(error);
        }
    }

    fn begin_outage(&self, error: &CallError) {
        *self.current_outage() = Some(RedisOutage { since: self.clock.uptime(), reason: chain(error) });
        self.counters.outages.fetch_add(1, Ordering::Relaxed);
    }

    fn warn(&self, error: &CallError) {
        tracing::warn!(
            error = chain(error),
            "redis is away: presence is unknown, limits count for each pod alone, signals stay in their pod"
        );
    }

    async fn run(self: Arc<Self>, token: CancellationToken) -> Result<(), Infallible> {
        let mut states = self.watch();
        let (mut turn, mut returned) = (0, None);
        while !token.is_cancelled() {
            let available = matches!(*states.borrow_and_update(), Availability::Available(_));
            let step = async {
                if available {
                    turn += 1;
                    self.look_after(&mut states, turn).await;
                } else {
                    if returned.is_some_and(|at| self.clock.uptime() < at + RELAPSE) {
                        sleep(self.options.reconnect.cap).await;
                    }
                    self.recover().await;
                    returned = Some(self.clock.uptime());
                }
            };
            token.run_until_cancelled(step).await;
        }
        Ok(())
    }

    /// Waits until Redis goes away, or for a while, and then sees whether it did without anybody asking.
    async fn look_after(&self, states: &mut watch::Receiver<Availability>, turn: usize) {
        tokio::select! {
            biased;
            _ = states.changed() => {}
            () = sleep(self.options.health_interval) => {
                // One range each time: what the check costs does not depend on the cluster's size.
                let returns = self.returns.load(Ordering::Acquire);
                if let Some(mut link) = self.current_link() {
                    let range = turn % link.ranges();
                    let failures = self.breaker.failures(range);
                    let outcome = bounded(self.options.deadline, link.query::<()>(&self.probe(range))).await;
                    self.judge(range, (returns, failures), &outcome);
                }
            }
        }
    }

    async fn recover(&self) {
        for attempt in 0.. {
            match self.restore().await {
                Ok(()) => break,
                Err(error) => tracing::debug!(error = chain(&error), "redis is still away"),
            }
            sleep(self.options.reconnect.wait(attempt, &*self.random)).await;
        }
        self.returns.fetch_add(1, Ordering::AcqRel);
        self.breaker.reset();
        *self.current_outage() = None;
        self.state.send_replace(Availability::Available(Some(self.clock.uptime())));
        tracing::info!("redis is back");
    }

    /// Takes the connection that is there, or a new one, when Redis does its work over it: it writes, on every node. A server that still loads, is
    /// full or became a replica is as good as none.
    async fn restore(&self) -> Result<(), CallError> {
        if let Some(link) = self.current_link()
            && self.probe_all(&link).await.is_ok()
        {
            return Ok(());
        }
        self.set_link(None);
        let patience = self.options.connect_timeout;
        let name = format!("chatify:{}", encoded_pod(&self.options.pod));
        let link = bounded(patience, self.connector.connect(patience, &name)).await?;
        self.probe_all(&link).await?;
        self.set_link(Some(link));
        Ok(())
    }

    async fn probe_all(&self, link: &Link) -> Result<(), CallError> {
        let probes = (0..link.ranges()).map(|range| {
            let mut link = link.clone();
            async move { link.query::<()>(&self.probe(range)).await }
        });
        bounded(self.options.deadline, try_join_all(probes)).await.map(drop)
    }

    fn probe(&self, range: usize) -> Cmd {
        // A script, because nearly everything here is one: a user who may not run any is noticed.
        let mut command = cmd("EVAL");
        command.arg("return redis.call('SET', KEYS[1], '1', 'PX', '10000')").arg(1).arg(&self.probes[range]);
        command
    }

    fn current_outage(&self) -> MutexGuard<'_, Option<RedisOutage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current_link(&self) -> Option<Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_link(&self, link: Option<Link>) {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }
}

/// A Lua script. Redis knows it by its hash after the first time; one that has forgotten it is told again within the same call.
pub(super) struct LoadedScript {
    code: &'static str,
    script: Script,
}

impl LoadedScript {
    pub(super) fn new(code: &'static str) -> Self {
        Self { code, script: Script::new(code) }
    }

    fn command(&self, verb: &str, body: &str, keys: &[&str], arguments: &[&str]) -> Cmd {
        let mut command = cmd(verb);
        command.arg(body).arg(keys.len()).arg(keys).arg(arguments);
        command
    }
}

async fn bounded<T>(patience: Duration, ask: impl Future<Output = Result<T, RedisError>>) -> Result<T, CallError> {
    match timeout(patience, ask).await {
        Ok(outcome) => outcome.map_err(CallError::Failed),
        Err(_) => Err(CallError::Deadline),
    }
}
