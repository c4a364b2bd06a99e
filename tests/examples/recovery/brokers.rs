//! One broker of three is killed: how long is nothing accepted in some scope?

use super::{Line, Outcome, SCOPES, SPEAKERS, steady, tell};
use chatify_tests::faults::machines::BROKERS;
use chatify_tests::measure::scene::Scene;
use chatify_tests::measure::spread::Spread;
use chatify_tests::measure::stage::Acceptance;
use chatify_tests::profile::PODS;
use chatify_tests::waiting::{LONG, eventually};
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What decides how soon the other brokers give one up.
const SESSION_TIMEOUT: &str = "broker.session.timeout.ms";
/// The least that is looked at after a kill: longer than the brokers take to give one up.
const LOOK_AT: Duration = Duration::from_secs(15);
/// How long sends may take to go on, or the run has found something else.
const RESUME_WITHIN: Duration = Duration::from_secs(90);
/// A sender that was accepted so shortly ago goes on.
const GOING_ON: Duration = Duration::from_secs(2);
/// How long the brokers may take to describe themselves.
const ASK: Duration = Duration::from_secs(10);

/// Kills one broker after the other.
pub(super) async fn kill(scene: &Scene, kills: usize) -> Outcome<Vec<Line>> {
    if kills == 0 {
        return Ok(Vec::new());
    }
    let timeout = session_timeout(&scene.machines.brokers_direct()).await?;
    tell(&format!("{SESSION_TIMEOUT} is {timeout}"))?;
    let (mut scopes, mut speakers) = (Vec::new(), Vec::new());
    for number in 0..kills {
        scene.replicas().await;
        steady(scene).await;
        drop(scene.stage.take_failures());
        let (scope, speaker) = kill_one(scene, number % BROKERS).await?;
        let failed = scene.stage.take_failures().len();
        tell(&format!(
            "broker {}: no scope waited longer than {:.2} s, no sender longer than {:.2} s, {failed} tries failed",
            number + 1,
            scope.as_secs_f64(),
            speaker.as_secs_f64()
        ))?;
        scopes.push(scope);
        speakers.push(speaker);
    }
    scene.replicas().await;
    let line = |figure, found: &Spread, wanted| Line {
        fault: "one broker of three killed",
        kills,
        figure,
        found: format!("{}; `{SESSION_TIMEOUT}` is {timeout}", found.seconds()),
        samples: found.count(),
        wanted,
    };
    let (scopes, speakers) = (Spread::of(scopes), Spread::of(speakers));
    Ok(vec![
        line("the longest time without an accepted send in a scope", &scopes, "p95 ≤ 12 s"),
        line("the same for one sender, on one pod", &speakers, ""),
    ])
}

/// The longest time in which nothing new was accepted in some scope, and from some sender.
async fn kill_one(scene: &Scene, broker: usize) -> Outcome<(Duration, Duration)> {
    let name = format!("kafka3-{}", broker + 1);
    // Every gap begins with an acceptance before the kill.
    let everybody = async || (speaking(scene, None).len() == SPEAKERS).then_some(());
    eventually(LONG, "everybody is accepted before the kill", everybody).await;
    let killed = Instant::now();
    scene.machines.script("kill", &name).await;
    loop {
        sleep(Duration::from_millis(100)).await;
        let speaking = speaking(scene, Some(killed));
        if killed.elapsed() > LOOK_AT && speaking.len() == SPEAKERS {
            break;
        }
        if killed.elapsed() > RESUME_WITHIN {
            return Err(
                format!("only {} of {SPEAKERS} senders go on {RESUME_WITHIN:?} after a kill", speaking.len()).into()
            );
        }
    }
    scene.machines.script("start", &name).await;
    // A message that was sent before the kill may have been in the log already: only new ones show that sends go on.
    let mut accepted = scene.stage.accepted();
    accepted.retain(|accepted| accepted.at < killed || accepted.began >= killed);
    let scope = (0..SCOPES).map(|scope| longest_gap(accepted.iter().filter(|one| one.scope == scope)));
    let speaker = (0..SCOPES * PODS).map(|number| {
        let (scope, pod) = (number % SCOPES, number / SCOPES);
        longest_gap(accepted.iter().filter(|one| (one.scope, one.pod) == (scope, pod)))
    });
    Ok((scope.max().unwrap_or_default(), speaker.max().unwrap_or_default()))
}

/// Scope and pod of every sender who was accepted shortly ago, with something that was sent after `since`.
fn speaking(scene: &Scene, since: Option<Instant>) -> HashSet<(usize, usize)> {
    let now = Instant::now();
    let recent = |accepted: &Acceptance| {
        since.is_none_or(|since| accepted.began >= since) && now.saturating_duration_since(accepted.at) < GOING_ON
    };
    scene.stage.accepted().into_iter().filter(recent).map(|accepted| (accepted.scope, accepted.pod)).collect()
}

/// The longest time between two that follow each other.
fn longest_gap<'a>(accepted: impl Iterator<Item = &'a Acceptance>) -> Duration {
    let mut moments: Vec<Instant> = accepted.map(|accepted| accepted.at).collect();
    moments.sort_unstable();
    moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// What the brokers themselves say.
async fn session_timeout(bootstrap: &str) -> Outcome<String> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let options = AdminOptions::new().request_timeout(Some(ASK));
    let described = admin.describe_configs([&ResourceSpecifier::Broker(1)], &options).await?;
    let mut entries = described.into_iter().filter_map(Result::ok).flat_map(|resource| resource.entries);
    let found = entries.find(|entry| entry.name == SESSION_TIMEOUT).and_then(|entry| entry.value);
    Ok(found.map_or_else(|| "not told".to_owned(), |milliseconds| format!("{milliseconds} ms")))
}
