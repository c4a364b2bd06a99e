//! A pod is killed: how soon do its clients have everything again, and how soon is nobody online who is gone?

use super::{Line, Outcome, steady, tell};
use chatify_tests::http::Http;
use chatify_tests::hub::{Hub, HubOptions};
use chatify_tests::measure::scene::Scene;
use chatify_tests::measure::spread::Spread;
use chatify_tests::profile::PODS;
use chatify_tests::waiting::{SOON, eventually};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Users of a killed pod who do not come back.
const GONE_USERS: usize = 10;
/// How long the return of everybody is waited for.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// What is promised for users who are gone, and how much longer they are looked at when it is not kept.
const GONE_WITHIN: Duration = Duration::from_secs(60);
const LOOK_FURTHER: Duration = Duration::from_secs(60);
/// After this, everybody has noticed that the pod is gone: the kernel closes its connections. When they come back they say when that was.
const NOTICED: Duration = Duration::from_secs(2);
/// How often presence is asked for.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// What was found over all kills.
#[derive(Default)]
struct Found {
    back: Vec<Duration>,
    unproven: usize,
    not_back: usize,
    gone: Vec<Duration>,
    users: usize,
}

/// Kills one pod after the other; `abandoned` says in how many kills users do not come back.
pub(super) async fn kill(scene: &mut Scene, kills: usize, abandoned: usize) -> Outcome<Vec<Line>> {
    let mut found = Found::default();
    for number in 0..kills {
        steady(scene).await;
        kill_one(scene, number, number < abandoned, &mut found).await?;
    }
    let in_time = found.gone.iter().filter(|after| **after <= GONE_WITHIN).count();
    let (back, gone) = (Spread::of(found.back), Spread::of(found.gone));
    let clients = format!(
        "{}; {} of {} not back within {} s, {} whose first join proved nothing",
        back.seconds(),
        found.not_back,
        back.count() + found.not_back,
        BACK_WITHIN.as_secs(),
        found.unproven
    );
    let users = format!("{}; {in_time} of {} within {} s", gone.seconds(), found.users, GONE_WITHIN.as_secs());
    Ok(vec![
        Line {
            fault: "pod killed",
            kills,
            figure: "a client of it has everything again, `recovered: true`",
            found: clients,
            samples: back.count(),
            wanted: "10 s",
        },
        Line {
            fault: "pod killed",
            kills: kills.min(abandoned),
            figure: "a user who does not come back is offline on another pod",
            found: users,
            samples: gone.count(),
            wanted: "all within 60 s",
        },
    ])
}

async fn kill_one(scene: &mut Scene, number: usize, abandon: bool, found: &mut Found) -> Outcome<()> {
    let (pod, other) = (number % PODS, (number + 1) % PODS);
    let http = scene.http(other, "watcher");
    let users: Vec<String> = (0..GONE_USERS).filter(|_| abandon).map(|user| format!("gone-{number}-{user}")).collect();
    let connections = arrive(scene, pod, &users, &http).await?;
    scene.stage.forget();
    let killed = Instant::now();
    if let Some(wrong) = scene.fleet.kill(pod).await {
        return Err(wrong.into());
    }
    scene.tell_pods(Some(pod));
    sleep(NOTICED).await;
    while scene.stage.away() > 0 && killed.elapsed() < BACK_WITHIN {
        sleep(Duration::from_millis(20)).await;
    }
    let not_back = scene.stage.away();
    let returns = scene.stage.take_returns();
    let back = Spread::of(returns.iter().map(|back| back.at.saturating_duration_since(killed)).collect());
    tell(&format!("pod {}: {} clients back, {}, {not_back} not", number + 1, back.count(), back.seconds()))?;
    found.back.extend(returns.iter().map(|back| back.at.saturating_duration_since(killed)));
    found.unproven += returns.iter().filter(|back| back.unproven > 0).count();
    found.not_back += not_back;
    let gone = depart(&http, &users, killed).await?;
    if abandon {
        tell(&format!("    {} of {} users offline: {}", gone.len(), users.len(), Spread::of(gone.clone()).seconds()))?;
    }
    found.users += users.len();
    found.gone.extend(gone);
    drop(connections);
    scene.fleet.restart(pod).await;
    scene.tell_pods(None);
    Ok(())
}

/// Connects each user to this pod, and waits until another one sees them.
async fn arrive(scene: &Scene, pod: usize, users: &[String], http: &Http) -> Outcome<Vec<Hub>> {
    let mut connections = Vec::new();
    for user in users {
        let (address, token) = (scene.fleet.pod(pod).address(), scene.stage.world.token(user));
        connections.push(Hub::connect(address, &token, HubOptions::default()).await?);
    }
    for user in users {
        let online = async || (status(http, user).await? == "online").then_some(());
        eventually(SOON, "everybody is online", online).await;
    }
    Ok(connections)
}

/// When each user was offline first, after the kill. Whoever is not in time is left out.
async fn depart(http: &Http, users: &[String], killed: Instant) -> Outcome<Vec<Duration>> {
    let mut gone: BTreeMap<&String, Duration> = BTreeMap::new();
    while gone.len() < users.len() && killed.elapsed() < GONE_WITHIN + LOOK_FURTHER {
        for user in users {
            if !gone.contains_key(user) && status(http, user).await.as_deref() == Some("offline") {
                gone.insert(user, killed.elapsed());
            }
        }
        sleep(ASK_EVERY).await;
    }
    Ok(gone.into_values().collect())
}

/// What this pod says of a user.
async fn status(http: &Http, user: &str) -> Option<String> {
    let answer = http.get(&format!("/api/users/{user}/presence")).await;
    answer.json()["status"].as_str().map(str::to_owned)
}
