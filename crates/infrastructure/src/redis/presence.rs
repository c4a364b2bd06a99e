//! [`PresenceStore`] over Redis: entries of connections, and one lease for each pod.
//!
//! A connection is a member of its user's sorted set, named after the pod's *incarnation*. It counts while the pod's lease names that
//! incarnation. So a pod renews one key, however many idle connections it has; ends all of them by deleting one key; and when its lease was lost
//! (Redis emptied, the pod frozen, a restart) it takes a new incarnation and records its connections again, while what the old one left counts as gone
//! for good and is removed by whoever reads it.

use super::connection::{Availability, LoadedScript, RedisConnection};
use super::error::CallError;
use super::keys::{Incarnation, encoded_pod, member, owner};
use super::ledger::{Ledger, Slot};
use async_trait::async_trait;
use chatify_application::ports::PresenceStore;
use chatify_application::ports::presence::{ConnectionId, Presence};
use chatify_building_blocks::error::chain;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{SenderId, Timestamp};
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use redis::cmd;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How long entries of a pod that died stay in Redis when nobody reads them. Every living entry is written again long before.
const ENTRY_LIFETIME_MS: &str = "86400000";
/// The writes of a renewal that are under way at once.
const PARALLEL_WRITES: usize = 32;
/// After Redis is back, every pod records its connections within this time; until then a missing entry proves nothing.
const SETTLING: Duration = Duration::from_secs(2);
/// The least time between two repairs that nobody but this object asked for.
const REPAIR_PAUSE: Duration = Duration::from_secs(1);

/// This pod's view of who is online. All answers but [`Presence::Online`] and [`Presence::Offline`] that are certain are [`Presence::Unknown`].
pub struct RedisPresence {
    connection: Arc<RedisConnection>,
    pod: String,
    lease_key: String,
    lease_ms: String,
    process: u64,
    incarnations: AtomicU32,
    ledger: Mutex<Ledger>,
    /// One renewal at a time.
    renewal: tokio::sync::Mutex<()>,
    /// Redis and the ledger differ.
    repair: Notify,
    scripts: Scripts,
}

struct Scripts {
    renew_lease: LoadedScript,
    end_lease: LoadedScript,
    add_entry: LoadedScript,
    remove_entries: LoadedScript,
}

impl RedisPresence {
    /// Nobody of this pod is online. A service of `supervisor` repairs what Redis lost or was not told, as soon as it can.
    #[must_use]
    pub fn start(connection: Arc<RedisConnection>, supervisor: &Supervisor) -> Arc<Self> {
        let pod = encoded_pod(&connection.options().pod);
        let this = Arc::new(Self {
            lease_key: connection.keys().lease(&pod),
            lease_ms: connection.options().lease.as_millis().to_string(),
            pod,
            process: connection.random().u64(),
            incarnations: AtomicU32::new(0),
            connection,
            ledger: Mutex::default(),
            renewal: tokio::sync::Mutex::default(),
            repair: Notify::new(),
            scripts: Scripts {
                renew_lease: LoadedScript::new(include_str!("scripts/renew_lease.lua")),
                end_lease: LoadedScript::new(include_str!("scripts/end_lease.lua")),
                add_entry: LoadedScript::new(include_str!("scripts/add_entry.lua")),
                remove_entries: LoadedScript::new(include_str!("scripts/remove_entries.lua")),
            },
        });
        supervisor.service("presence-repair", Arc::clone(&this).run(supervisor.token()));
        this
    }

    async fn run(self: Arc<Self>, token: CancellationToken) -> Result<(), Infallible> {
        let mut states = self.connection.watch();
        while !token.is_cancelled() {
            let step = async {
                tokio::select! {
                    changed = states.changed() => drop(changed),
                    () = self.repair.notified() => {}
                }
                if matches!(*states.borrow_and_update(), Availability::Available(_)) {
                    self.renew().await;
                    sleep(REPAIR_PAUSE).await;
                }
            };
            token.run_until_cancelled(step).await;
        }
        Ok(())
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uptime(&self) -> Duration {
        self.connection.clock().uptime()
    }

    /// Brings Redis to what the ledger says. The caller holds `renewal`.
    async fn synchronize(&self) -> Result<(), CallError> {
        // Twice at most: the check may find that entries got lost although the lease did not.
        for _ in 0..2 {
            let incarnation = self.renew_lease().await?;
            let missing = self.ledger().missing();
            each(missing.into_iter().map(|slot| async move { self.record(&slot, incarnation).await })).await?;
            let removals = self.ledger().take_removals();
            // One that fails is owed again, so all of them are tried.
            let removals = removals.into_iter().map(|(slot, incarnation)| self.erase(slot, incarnation));
            let removed = stream::iter(removals).buffer_unordered(PARALLEL_WRITES);
            removed.fold(Ok(()), async |all: Result<(), CallError>, one| all.and(one)).await?;
            let checked = self.ledger().next_checked();
            let lost =
                each(checked.into_iter().map(|slot| async move { self.record(&slot, incarnation).await })).await?;
            if !lost {
                break;
            }
            self.doubt_others();
            self.ledger().abandon_lease();
        }
        Ok(())
    }

    async fn renew_lease(&self) -> Result<Incarnation, CallError> {
        let usable = self.ledger().usable_lease();
        let current = usable.map(|incarnation| incarnation.to_string()).unwrap_or_default();
        let fresh = Incarnation { process: self.process, number: self.incarnations.fetch_add(1, Ordering::Relaxed) };
        let arguments = [&*current, &*fresh.to_string(), &*self.lease_ms];
        let holder: String =
            self.connection.run_script(&self.scripts.renew_lease, &[&self.lease_key], &arguments).await?;
        let incarnation = usable.filter(|_| holder == current).unwrap_or(fresh);
        if usable.is_some() && incarnation == fresh {
            if !holder.is_empty() && !fresh.is_of_same_process(&holder) {
                let pod = &self.connection.options().pod;
                tracing::warn!(%pod, "another process took the lease of this pod: is its id used twice?");
            }
            self.doubt_others();
        }
        self.ledger().hold(incarnation);
        Ok(incarnation)
    }

    /// What this pod lost in Redis, others may have lost too, and they notice it only when they renew; or at once, when Redis was away.
    fn doubt_others(&self) {
        if !self.is_settled() {
            return;
        }
        let until = self.uptime() + self.connection.options().lease / 3;
        self.ledger().doubt_until(until);
    }

    /// Writes one entry; true when Redis did not have it.
    async fn record(&self, slot: &Slot, incarnation: Incarnation) -> Result<bool, CallError> {
        let Some(since) = self.ledger().since(slot) else {
            return Ok(false);
        };
        let keys = self.connection.keys();
        let member = member(&self.pod, incarnation, slot.connection.0);
        let (entries, route) = (keys.entries(&slot.user), keys.route(&slot.user, &member));
        let since = since.as_millis().to_string();
        let arguments = [&*member, &*since, &*self.pod, ENTRY_LIFETIME_MS];
        let added = self.connection.run_script(&self.scripts.add_entry, &[&entries, &route], &arguments).await?;
        if !self.ledger().recorded(slot, incarnation) {
            // The connection ended while its entry was on its way, and its removal may have come first.
            self.erase(slot.clone(), incarnation).await?;
        }
        Ok(added)
    }

    /// Removes one entry, now or at the next renewal.
    async fn erase(&self, slot: Slot, incarnation: Incarnation) -> Result<(), CallError> {
        let member = member(&self.pod, incarnation, slot.connection.0);
        let outcome = self.erase_members(&slot.user, std::slice::from_ref(&member)).await;
        if outcome.is_err() {
            self.ledger().owe_removal(slot, incarnation);
        }
        outcome
    }

    async fn erase_members(&self, user: &SenderId, members: &[String]) -> Result<(), CallError> {
        let keys = self.connection.keys();
        let routes = members.iter().map(|member| keys.route(user, member));
        let all: Vec<_> = std::iter::once(keys.entries(user)).chain(routes).collect();
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        let members: Vec<_> = members.iter().map(String::as_str).collect();
        self.connection.run_script(&self.scripts.remove_entries, &all, &members).await
    }

    async fn read(&self, user: &SenderId) -> Result<Presence, CallError> {
        let certain = self.is_certain();
        let own = self.ledger().usable_lease();
        let key = self.connection.keys().entries(user);
        let entries: Vec<(String, f64)> =
            self.connection.query(&key, cmd("ZRANGE").arg(&key).arg(0).arg(-1).arg("WITHSCORES")).await?;
        let leases = self.leases(&entries).await?;
        if own.is_some() && own == self.ledger().usable_lease() {
            let there = leases.get(&*self.pod).and_then(Option::as_deref);
            if there != own.map(|incarnation| incarnation.to_string()).as_deref() {
                self.doubt_others();
                self.repair.notify_one();
            }
        }
        let (live, dead): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(member, _)| {
            owner(member)
                .is_some_and(|(pod, incarnation)| leases.get(pod).and_then(Option::as_deref) == Some(incarnation))
        });
        // What is named in another way is left to whoever understands it.
        let dead: Vec<_> =
            dead.into_iter().map(|(member, _)| member).filter(|member| owner(member).is_some()).collect();
        if !dead.is_empty() {
            // A failure costs nothing: the next reader removes them.
            drop(self.erase_members(user, &dead).await);
        }
        // Entries come in the order of their times.
        Ok(match live.first() {
            Some((_, since)) => {
                #[expect(clippy::cast_possible_truncation, reason = "milliseconds are exact in a double")]
                let since = Timestamp::from_millis(*since as i64);
                Presence::Online { since, connections: live.len() }
            }
            None if certain && self.is_certain() => Presence::Offline,
            None => Presence::Unknown,
        })
    }

    /// The leases of this pod and of all pods that have an entry.
    async fn leases(&self, entries: &[(String, f64)]) -> Result<BTreeMap<String, Option<String>>, CallError> {
        let owners = entries.iter().filter_map(|(member, _)| owner(member)).map(|(pod, _)| pod);
        let pods: BTreeSet<&str> = owners.chain([&*self.pod]).collect();
        let read = pods.into_iter().map(async |pod| {
            let key = self.connection.keys().lease(pod);
            let holder = self.connection.query(&key, cmd("GET").arg(&key)).await?;
            Ok((pod.to_owned(), holder))
        });
        Ok(try_join_all(read).await?.into_iter().collect())
    }

    /// Whether a missing entry proves anything.
    fn is_certain(&self) -> bool {
        self.is_settled() && self.ledger().is_certain_at(self.uptime())
    }

    fn is_settled(&self) -> bool {
        match self.connection.availability() {
            Availability::Available(since) => since.is_none_or(|since| self.uptime() >= since + SETTLING),
            Availability::Away => false,
        }
    }
}

/// Makes all of these writes, until one fails; true when one of them changed something.
async fn each(writes: impl Iterator<Item = impl Future<Output = Result<bool, CallError>>>) -> Result<bool, CallError> {
    stream::iter(writes).buffer_unordered(PARALLEL_WRITES).try_fold(false, async |any, one| Ok(any | one)).await
}

#[async_trait]
impl PresenceStore for RedisPresence {
    async fn connected(&self, user: &SenderId, connection: ConnectionId) {
        let slot = Slot { user: user.clone(), connection };
        let lease = {
            let mut ledger = self.ledger();
            if ledger.is_withdrawn() || !ledger.add(slot.clone(), self.connection.clock().now()) {
                return;
            }
            ledger.usable_lease()
        };
        let outcome = match lease {
            Some(incarnation) => self.record(&slot, incarnation).await.map(drop),
            None => {
                let _one = self.renewal.lock().await;
                // Whoever held the lock before may have recorded this entry too.
                if self.ledger().is_recorded(&slot) { Ok(()) } else { self.synchronize().await }
            }
        };
        if outcome.is_err() {
            self.repair.notify_one();
        }
    }

    async fn disconnected(&self, user: &SenderId, connection: ConnectionId) {
        let slot = Slot { user: user.clone(), connection };
        let lease = {
            let mut ledger = self.ledger();
            if !ledger.remove(&slot) {
                return;
            }
            ledger.lease()
        };
        // Without a lease nothing of this pod counts.
        if let Some(incarnation) = lease
            && self.erase(slot, incarnation).await.is_err()
        {
            self.repair.notify_one();
        }
    }

    async fn presence(&self, user: &SenderId) -> Presence {
        self.read(user).await.unwrap_or(Presence::Unknown)
    }

    async fn renew(&self) {
        let _one = self.renewal.lock().await;
        if self.ledger().is_withdrawn() {
            return;
        }
        if let Err(error) = self.synchronize().await {
            // While Redis is away the connection has said so, and its return starts a repair.
            tracing::debug!(error = chain(&error), "presence was not renewed");
            if self.connection.is_available() {
                self.repair.notify_one();
            }
        }
    }

    async fn withdraw(&self) {
        let _one = self.renewal.lock().await;
        let lease = self.ledger().withdraw();
        if let Some(incarnation) = lease {
            let arguments = [&*incarnation.to_string()];
            let ended = self.connection.run_script::<()>(&self.scripts.end_lease, &[&self.lease_key], &arguments).await;
            if ended.is_err() {
                tracing::info!("presence could not be withdrawn; it ends with the pod's lease");
            }
        }
    }
}
