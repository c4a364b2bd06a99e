//! Members whose process dies or freezes without leaving the group.

use super::fixture::{MISSING, clock, pod};
use super::real_log::RealLog;
use crate::kafka::{KafkaLog, KafkaOptions};
use chatify_application::ports::contract::log::{LogFixture, OpenLog};
use chatify_application::ports::contract::{channel, within};
use chatify_application::ports::log::{Appended, GroupEvent, GroupMember, LogError};
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::{Partition, Position};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Set for the process that is a member: the topic, whose name the group has with `-group` behind it.
const TOPIC: &str = "MEMBER_TEST_TOPIC";
/// The process is ready when it has committed so many records.
const COMMITTED: i64 = 10;

/// Brokers notice a dead member soon.
fn impatient(mut options: KafkaOptions) -> KafkaOptions {
    options.properties.insert("session.timeout.ms".into(), "6000".into());
    options.properties.insert("heartbeat.interval.ms".into(), "500".into());
    options
}

/// The other process, and its words.
struct Process {
    child: Child,
    words: BufReader<ChildStdout>,
    orders: ChildStdin,
}

impl Process {
    /// Starts this test again as a member of the log's group, and waits until it has committed something.
    fn start(test: &str, log: &RealLog) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args([&format!("kafka::tests::frozen::{test}"), "--exact", "--nocapture"])
            .env(TOPIC, &log.options.topic)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test again");
        let words = BufReader::new(child.stdout.take().expect("piped"));
        let orders = child.stdin.take().expect("piped");
        let mut process = Self { child, words, orders };
        process.hear("member: ready");
        process
    }

    /// Reads on until the process says this.
    fn hear(&mut self, expected: &str) {
        let mut line = String::new();
        while self.words.read_line(&mut line).expect("readable") > 0 {
            // The test framework writes its own words before, on the same line.
            if line.trim_end().ends_with(expected) {
                return;
            }
            line.clear();
        }
        panic!("the process ended without saying {expected:?}");
    }

    fn signal(&self, name: &str) {
        let done = Command::new("kill").args([name, &self.child.id().to_string()]).status().expect("kill");
        assert!(done.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The life of the other process: reads, commits a little, waits for an order, and then tells how it fares.
async fn be_a_member(topic: String) {
    let options = KafkaOptions {
        partitions: 1,
        dead_letter_topic: format!("{topic}-dlt"),
        group_id: format!("{topic}-group"),
        topic,
        start_deadline: Duration::from_secs(30),
        ..KafkaOptions::new(super::fixture::bootstrap_servers(), pod())
    };
    let log = KafkaLog::connect(impatient(options), clock(), &Supervisor::new()).await.expect(MISSING);
    let mut member = log.group().join().await.expect("a readable log");
    let positions = read(&mut *member, 30).await;
    let at = |offset: i64| positions[usize::try_from(offset).expect("small")];
    member.commit(Partition(0), at(COMMITTED)).await.expect("an owned partition");
    say("ready");
    let (asked, order) = tokio::sync::oneshot::channel();
    let wait = move || {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line);
        drop(asked.send(read));
    };
    std::thread::Builder::new().name("orders".into()).spawn(wait).expect("a thread");
    order.await.expect("the thread answers").expect("an order");
    let commit = member.commit(Partition(0), at(20)).await;
    say(if matches!(commit, Err(LogError::NotAssigned)) { "not assigned" } else { "committed" });
    while member.next().await.is_ok() {}
    say("ended");
}

fn say(word: &str) {
    let mut output = std::io::stdout();
    writeln!(output, "member: {word}").and_then(|()| output.flush()).expect("somebody listens");
}

async fn read(member: &mut dyn GroupMember, count: usize) -> Vec<Position> {
    let mut all = Vec::new();
    while all.len() < count {
        if let GroupEvent::Records { records, .. } = within("records", member.next()).await.expect("a readable log") {
            all.extend(records.iter().map(|record| record.position));
        }
    }
    all
}

async fn log_with_records() -> (RealLog, OpenLog, Vec<Appended>) {
    let mut log = RealLog::new(1);
    log.options = impatient(log.options.clone());
    let open = log.open().await;
    let appended = open.append_all(&channel("general"), 0..30).await;
    (log, open, appended)
}

fn positions(appended: &[Appended]) -> Vec<Position> {
    appended.iter().map(|one| one.position).collect()
}

#[tokio::test]
async fn what_a_killed_member_had_not_committed_comes_to_the_next_one() {
    if let Ok(topic) = std::env::var(TOPIC) {
        return be_a_member(topic).await;
    }
    let (log, open, appended) = log_with_records().await;
    let mut process = Process::start("what_a_killed_member_had_not_committed_comes_to_the_next_one", &log);
    process.child.kill().expect("it runs until it is killed");
    let mut heir = within("a member", open.group.join()).await.expect("a readable log");
    let rest = &appended[usize::try_from(COMMITTED).expect("small")..];
    assert_eq!(read(&mut *heir, rest.len()).await, positions(rest));
}

#[tokio::test]
async fn a_member_that_was_frozen_commits_nothing_and_learns_that_it_is_out() {
    if let Ok(topic) = std::env::var(TOPIC) {
        return be_a_member(topic).await;
    }
    let (log, open, appended) = log_with_records().await;
    let mut process = Process::start("a_member_that_was_frozen_commits_nothing_and_learns_that_it_is_out", &log);
    process.signal("-STOP");
    let mut heir = within("a member", open.group.join()).await.expect("a readable log");
    let rest = &appended[usize::try_from(COMMITTED).expect("small")..];
    assert_eq!(read(&mut *heir, rest.len()).await, positions(rest));
    within("the commit", heir.commit(Partition(0), appended[25].position)).await.expect("an owned partition");
    process.signal("-CONT");
    writeln!(process.orders, "go on").expect("it runs");
    process.hear("member: not assigned");
    process.hear("member: ended");
    let committed = within("what is committed", open.group.committed()).await.expect("a readable log");
    assert_eq!(committed, [(Partition(0), appended[25].position)]);
}
