//! A member that leaves while it joins. Who leads the group of the test is no client of librdkafka but a few requests written by hand, because it has to
//! keep another member waiting for its partitions.

use super::fixture::{MISSING, bootstrap_servers};
use super::real_log::RealLog;
use crate::kafka::KafkaLog;
use chatify_application::ports::contract::log::LogFixture;
use chatify_application::ports::contract::within;
use chatify_building_blocks::clock::ManualClock;
use chatify_building_blocks::tasks::Supervisor;
use chatify_domain::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than a test waits for anything, so that the brokers do not give a member up meanwhile.
const SESSION_MILLIS: i32 = 290_000;

/// The brokers begin a new generation at once, and not when the session of the one who left is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_member_that_left_while_it_joined() {
    let mut fixture = RealLog::new(1);
    fixture.options.properties.insert("session.timeout.ms".into(), SESSION_MILLIS.to_string());
    drop(fixture.open().await);
    let mut leader = Leader::join(&fixture.options.group_id, &fixture.options.topic).await;
    let supervisor = Supervisor::new();
    // Its time stands still: it does not give up leaving because the machine is slow.
    let still = Arc::new(ManualClock::at(Timestamp::from_millis(0)));
    let log = KafkaLog::connect(fixture.options.clone(), still, &supervisor).await.expect(MISSING);
    let member = within("a member", log.group().join()).await.expect("a readable log");
    within("the other member", async { while leader.rejoin().await < 2 {} }).await;

    // Nothing is missing but what the leader gives it, and a client that does not wait for that has the time to close.
    drop(member);
    log.close().await;
    drop(log);
    supervisor.cancel();
    drop(tokio::time::timeout(Duration::from_millis(500), supervisor.join()).await);
    leader.assign_nothing().await;
    within("the end of its threads", supervisor.join()).await.expect("no thread crashed");
    assert_eq!(leader.rejoin().await, 1, "members");
}

/// A member that leads its group, for it was the first. The requests are those of the protocol's guide (<https://kafka.apache.org/protocol>), in the oldest
/// versions that brokers still know.
struct Leader {
    stream: TcpStream,
    group: String,
    topic: String,
    member: String,
    generation: i32,
    others: Vec<String>,
}

impl Leader {
    async fn join(group: &str, topic: &str) -> Self {
        let stream = TcpStream::connect(bootstrap_servers()).await.expect(MISSING);
        let (group, topic) = (group.to_owned(), topic.to_owned());
        let mut leader = Self { stream, group, topic, member: String::new(), generation: -1, others: Vec::new() };
        assert_eq!(leader.rejoin().await, 1, "members");
        leader.assign_nothing().await;
        leader
    }

    /// Begins a new generation, and gives the number of its members. The brokers answer when all have come, or are given up.
    async fn rejoin(&mut self) -> usize {
        let subscription = Bytes::default().short(0).int(1).text(&self.topic).int(-1);
        let request = Bytes::default()
            .text(&self.group)
            .int(SESSION_MILLIS)
            .int(SESSION_MILLIS)
            .text(&self.member)
            .text("consumer")
            .int(1)
            .text("cooperative-sticky")
            .bytes(&subscription.0);
        let mut answer = self.ask(JOIN_GROUP, 2, request).await;
        assert_eq!((answer.int(), answer.short()), (0, 0), "throttled, or an error");
        self.generation = answer.int();
        let (_protocol, leader) = (answer.text(), answer.text());
        self.member = answer.text();
        assert_eq!(leader, self.member, "the first member leads");
        let members = answer.int();
        self.others = (0..members).map(|_| (answer.text(), answer.bytes()).0).filter(|name| *name != leader).collect();
        self.others.len() + 1
    }

    /// Lets the generation begin its work.
    async fn assign_nothing(&mut self) {
        let nothing = Bytes::default().short(0).int(0).int(-1);
        let members: Vec<&String> = std::iter::once(&self.member).chain(&self.others).collect();
        let mut request = Bytes::default().text(&self.group).int(self.generation).text(&self.member);
        request = request.int(i32::try_from(members.len()).expect("few members"));
        for member in members {
            request = request.text(member).bytes(&nothing.0);
        }
        let mut answer = self.ask(SYNC_GROUP, 1, request).await;
        assert_eq!((answer.int(), answer.short()), (0, 0), "throttled, or an error");
    }

    async fn ask(&mut self, api: i16, version: i16, request: Bytes) -> Answer {
        let head = Bytes::default().short(api).short(version).int(0).text("leader");
        let request = Bytes::default().bytes(&[head.0, request.0].concat());
        let answer = async {
            self.stream.write_all(&request.0).await?;
            let length = self.stream.read_i32().await?;
            let mut answer = vec![0; usize::try_from(length).expect("a length")];
            self.stream.read_exact(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let mut answer = Answer(within("the brokers' answer", answer).await.expect(MISSING).into());
        assert_eq!(answer.int(), 0, "the request's number");
        answer
    }
}

const JOIN_GROUP: i16 = 11;
const SYNC_GROUP: i16 = 14;

/// A request as it is written.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn short(mut self, value: i16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn int(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn text(self, value: &str) -> Self {
        let mut this = self.short(i16::try_from(value.len()).expect("a short text"));
        this.0.extend(value.as_bytes());
        this
    }

    fn bytes(self, value: &[u8]) -> Self {
        let mut this = self.int(i32::try_from(value.len()).expect("few bytes"));
        this.0.extend(value);
        this
    }
}

/// An answer as it is read.
struct Answer(std::collections::VecDeque<u8>);

impl Answer {
    fn take<const LENGTH: usize>(&mut self) -> [u8; LENGTH] {
        std::array::from_fn(|_| self.0.pop_front().expect("a whole answer"))
    }

    fn short(&mut self) -> i16 {
        i16::from_be_bytes(self.take())
    }

    fn int(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }

    fn text(&mut self) -> String {
        let length = usize::try_from(self.short()).expect("a text");
        String::from_utf8(self.0.drain(..length).collect()).expect("a text")
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = usize::try_from(self.int()).expect("bytes");
        self.0.drain(..length).collect()
    }
}
