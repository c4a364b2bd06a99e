//! A store that is away, hangs, loses answers or refuses the login.

use super::proxy::{Mode, Proxy};
use super::rows::row;
use super::{connect, options, server, unique};
use crate::scylla::connection::prepare;
use crate::scylla::{ConnectError, ScyllaHistory, ScyllaOptions, ScyllaStartError, session};
use chatify_application::ports::HistoryStore;
use chatify_application::ports::contract::{channel, within};
use chatify_application::ports::history::{HistoryError, HistoryRow, Order, PositionRange};
use chatify_building_blocks::clock::SystemClock;
use chatify_building_blocks::random::SystemRandom;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{LoggedMessage, Position, Scope};
use std::sync::Arc;
use std::time::Duration;

const ALL: PositionRange = PositionRange { from: Position::ZERO, to: Position::MAX, order: Order::Ascending };

async fn through(proxy: &Proxy) -> ScyllaOptions {
    ScyllaOptions { contact_points: vec![proxy.address.clone()], ..options().await }
}

fn some(scope: &Scope, count: i64) -> Vec<HistoryRow> {
    (0..count).map(|offset| row(scope, 0, offset)).collect()
}

fn messages(rows: &[HistoryRow]) -> Vec<LoggedMessage> {
    rows.iter().map(|row| row.message.clone()).collect()
}

async fn read(history: &ScyllaHistory, scope: &Scope, like: &HistoryRow) -> Result<Vec<LoggedMessage>, HistoryError> {
    history.slice(scope, like.segment, ALL, 10_000).await
}

/// The outcome of `call`, asked again while the store is not back.
async fn once_back<T, F: Future<Output = Result<T, HistoryError>>>(call: impl Fn() -> F) -> T {
    within("the store's return", async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        loop {
            match call().await {
                Ok(outcome) => return outcome,
                Err(error @ HistoryError::Corrupt(_)) => panic!("{error:?}"),
                Err(HistoryError::Unavailable(_) | HistoryError::Timeout) => pause.tick().await,
            };
        }
    })
    .await
}

#[tokio::test]
async fn a_frozen_store_is_a_timeout_and_comes_back() {
    let proxy = Proxy::start(Mode::Forward).await;
    let (patient, _supervisor) = connect(options().await).await;
    let hurried = ScyllaOptions { request_timeout: Duration::from_millis(400), ..through(&proxy).await };
    let (history, _supervisor) = connect(hurried).await;
    within("a connection", history.connected()).await;
    let scope = channel(&unique());
    let rows = some(&scope, 3);
    patient.append(&rows).await.expect("written");
    proxy.set(Mode::Frozen);
    let error = within("the deadline", read(&history, &scope, &rows[0])).await.expect_err("a frozen store");
    assert!(matches!(error, HistoryError::Timeout), "{error:?}");
    let error = within("the deadline", history.append(&rows)).await.expect_err("a frozen store");
    assert!(matches!(error, HistoryError::Timeout), "{error:?}");
    proxy.set(Mode::Forward);
    assert_eq!(once_back(|| read(&history, &scope, &rows[0])).await, messages(&rows));
}

#[tokio::test]
async fn a_lost_second_page_is_a_timeout() {
    let proxy = Proxy::start(Mode::Forward).await;
    let (patient, _supervisor) = connect(options().await).await;
    let scope = channel(&unique());
    let rows = some(&scope, 1_500);
    patient.append(&rows).await.expect("written");
    let hurried = ScyllaOptions { request_timeout: Duration::from_secs(2), ..through(&proxy).await };
    let (history, _supervisor) = connect(hurried).await;
    within("a connection", history.connected()).await;
    // One page of 500 such rows is about 50 kB, all three are about 150 kB.
    proxy.freeze_after(80_000);
    let error = within("the deadline", read(&history, &scope, &rows[0])).await.expect_err("half an answer");
    assert!(matches!(error, HistoryError::Timeout), "{error:?}");
    proxy.thaw();
    assert_eq!(once_back(|| read(&history, &scope, &rows[0])).await, messages(&rows));
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_repeated_to_no_effect() {
    let proxy = Proxy::start(Mode::Forward).await;
    let (patient, _supervisor) = connect(options().await).await;
    let hurried = ScyllaOptions { request_timeout: Duration::from_millis(600), ..through(&proxy).await };
    let (history, _supervisor) = connect(hurried).await;
    within("a connection", history.connected()).await;
    let scope = channel(&unique());
    let rows = some(&scope, 150);
    proxy.set(Mode::NoAnswers);
    let error = within("the deadline", history.append(&rows)).await.expect_err("no answer");
    assert!(matches!(error, HistoryError::Timeout), "{error:?}");
    proxy.set(Mode::Forward);
    once_back(|| history.append(&rows)).await;
    assert_eq!(patient.count(&scope, rows[0].segment, Position::MAX).await.expect("a count"), 150);
    assert_eq!(read(&patient, &scope, &rows[0]).await.expect("a slice"), messages(&rows));
}

#[tokio::test]
async fn a_cut_connection_is_unavailable_and_is_made_again() {
    let proxy = Proxy::start(Mode::Forward).await;
    let (history, _supervisor) = connect(through(&proxy).await).await;
    let scope = channel(&unique());
    let rows = some(&scope, 3);
    once_back(|| history.append(&rows)).await;
    proxy.set(Mode::Cut);
    let error = within("a failure", async {
        loop {
            // The driver may not have seen the end of its connection yet, when the last request was answered before it.
            if let Err(error) = read(&history, &scope, &rows[0]).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(matches!(error, HistoryError::Unavailable(_)), "{error:?}");
    proxy.set(Mode::Forward);
    assert_eq!(once_back(|| read(&history, &scope, &rows[0])).await, messages(&rows));
}

#[tokio::test]
async fn a_store_that_is_away_at_the_start_is_used_when_it_comes() {
    let proxy = Proxy::start(Mode::Cut).await;
    let (history, supervisor) = connect(through(&proxy).await).await;
    assert!(!history.is_connected());
    let scope = channel(&unique());
    let rows = some(&scope, 3);
    let error = history.append(&rows).await.expect_err("no store");
    assert!(matches!(error, HistoryError::Unavailable(_)), "{error:?}");
    proxy.set(Mode::Forward);
    within("a connection", history.connected()).await;
    history.append(&rows).await.expect("written");
    supervisor.cancel();
    within("the end", supervisor.join()).await.expect("no crash");
}

#[tokio::test]
async fn a_pod_can_end_while_the_store_is_away() {
    let proxy = Proxy::start(Mode::Cut).await;
    let (history, supervisor) = connect(through(&proxy).await).await;
    supervisor.cancel();
    within("the end", supervisor.join()).await.expect("no crash");
    within("no connection", history.connected()).await;
    assert!(!history.is_connected());
}

#[tokio::test]
async fn a_refused_login_is_told_at_the_start_without_the_password() {
    let supervisor = Supervisor::new();
    let point = server::refusing_logins(&supervisor, server::WRONG).await;
    let anonymous = ScyllaOptions { connect_timeout: Duration::from_secs(30), ..ScyllaOptions::new([point]) };
    let named =
        ScyllaOptions { username: Some("chatify".into()), password: Some("swordfish".into()), ..anonymous.clone() };
    for options in [anonymous, named] {
        let start = ScyllaHistory::connect(options, Arc::new(SystemClock::new()), Arc::new(SystemRandom), &supervisor);
        let error = within("an answer", start).await.expect_err("a refused login");
        assert!(matches!(error, ScyllaStartError::Connect(ConnectError::LoginRefused(_))), "{error:?}");
        assert_eq!(error.to_string(), "the history store refuses the login: check scylla.username and scylla.password");
        assert!(!format!("{error:?}").contains("swordfish"));
    }
}

/// Its logins are rows on nodes that may be away, and it then refuses them all with the code of a wrong password.
#[tokio::test]
async fn a_store_that_cannot_look_up_the_login_is_away() {
    let servers = Supervisor::new();
    let reason = "Unable to perform authentication: Cannot achieve consistency level QUORUM";
    let options = ScyllaOptions {
        username: Some("chatify".into()),
        password: Some("swordfish".into()),
        connect_timeout: Duration::from_secs(30),
        ..ScyllaOptions::new([server::refusing_logins(&servers, reason).await])
    };
    let (history, supervisor) = within("a first try", connect(options)).await;
    assert!(!history.is_connected());
    supervisor.cancel();
    within("the end", supervisor.join()).await.expect("no crash");
}

#[tokio::test]
async fn a_store_that_prepares_nothing_is_not_waited_for() {
    let proxy = Proxy::start(Mode::Forward).await;
    let options = through(&proxy).await;
    let session = session::open(&options).await.expect("a session");
    proxy.set(Mode::Frozen);
    let limit = Duration::from_millis(400);
    let prepared = within("the deadline", prepare(&session, &options, limit)).await;
    let error = prepared.err().expect("a frozen store");
    assert!(matches!(error, ScyllaStartError::PrepareTimeout(_)), "{error:?}");
    assert!(error.may_pass() && !error.ends_the_process());
}

#[tokio::test]
async fn a_data_centre_that_is_not_there_is_told_at_the_start() {
    let real = ScyllaOptions { local_datacenter: Some("datacenter1".into()), ..options().await };
    let other = ScyllaOptions { local_datacenter: Some("datacentre1".into()), ..real.clone() };
    let supervisor = Supervisor::new();
    let start = ScyllaHistory::connect(other, Arc::new(SystemClock::new()), Arc::new(SystemRandom), &supervisor);
    let error = within("an answer", start).await.expect_err("no such data centre");
    assert_eq!(
        error.to_string(),
        "scylla.local_datacenter: no node of the history store is in `datacentre1`; there are {\"datacenter1\"}"
    );
    let (history, _supervisor) = connect(real).await;
    let scope = channel(&unique());
    history.append(&some(&scope, 1)).await.expect("written in the local data centre");
}
