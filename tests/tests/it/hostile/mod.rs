//! Hostile input, as tables: each case gets its documented answer, none ends the process, and nothing leaks.
//!
//! [`requests`] (paths, queries, headers, bodies), [`tokens`], [`origins`], [`handshakes`], [`frames`] (WebSocket) and
//! [`records`] (hub protocol, both formats).

mod frames;
mod handshakes;
mod origins;
mod records;
mod requests;
mod tokens;

use chatify_tests::messagepack;
use chatify_tests::raw::{BINARY, CLOSE, Frame, PING, PONG, Raw, TEXT};
use chatify_tests::records::{Format, Record, read_array, read_json};
use chatify_tests::seeds::message_id;
use chatify_tests::server::{Options, Server};
use chatify_tests::waiting::{SOON, eventually};
use tokio::time::Instant;

/// How the hub answers.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// The call `1` ends with an error of this code, and the connection goes on.
    Error(&'static str),
    /// The call `1` ends with a result, and the connection goes on.
    Done,
    /// Nothing is said, and the connection goes on.
    Silence,
    /// A Close record with an error that does not invite to reconnect, a close frame with this code, and the end.
    Close(u16),
    /// The client said goodbye: a close frame with this code, and the end.
    Goodbye(u16),
}

/// One case of a hub table.
struct Case {
    name: String,
    /// Written as they are, after the handshake.
    bytes: Vec<u8>,
    answer: Answer,
}

/// The id of the call that shows that a connection still works.
const PROBE: &str = "probe";

/// What came back until the probe was answered or the connection ended.
#[derive(Debug, Default)]
struct Said {
    records: Vec<Record>,
    close_code: Option<u16>,
    probe_answered: bool,
}

impl Said {
    fn take(&mut self, record: Record) {
        match record {
            Record::Completion { id, outcome } if id == PROBE => {
                assert!(outcome.is_ok(), "the probe's answer: {outcome:?}");
                self.probe_answered = true;
            }
            Record::Ping => {}
            other => self.records.push(other),
        }
    }

    /// Whether this is the answer that the table wants.
    fn is(&self, answer: Answer) -> bool {
        let goes_on = self.probe_answered && self.close_code.is_none();
        match (answer, self.records.as_slice()) {
            (Answer::Error(code), [Record::Completion { id, outcome: Err(error) }]) => {
                goes_on && id == "1" && error.strip_prefix(code).is_some_and(|rest| rest.starts_with(": "))
            }
            (Answer::Done, [Record::Completion { id, outcome: Ok(_) }]) => goes_on && id == "1",
            (Answer::Silence, []) => goes_on,
            (Answer::Close(code), [Record::Close { error: Some(error), allow_reconnect: false }]) => {
                !self.probe_answered && self.close_code == Some(code) && error.starts_with("VALIDATION_ERROR: ")
            }
            (Answer::Goodbye(code), [] | [Record::Close { error: None, .. }]) => {
                !self.probe_answered && self.close_code == Some(code)
            }
            _ => false,
        }
    }
}

/// A socket that has been upgraded.
async fn upgraded(server: &Server, token: &str) -> Raw {
    let mut raw = Raw::connect(server.address()).await;
    let answer = raw.upgrade("/hubs/chat", &[("Authorization", &format!("Bearer {token}"))]).await.expect("an answer");
    assert_eq!(answer.status, 101, "{}", answer.text());
    raw
}

/// A socket that has shaken hands too.
async fn connected(server: &Server, token: &str, format: Format) -> Raw {
    let mut raw = upgraded(server, token).await;
    let handshake = format!("{{\"protocol\":\"{}\",\"version\":1}}\u{1e}", format.name());
    raw.write_frame(&Frame::text(&handshake)).await;
    assert_eq!(raw.frame().await.expect("the answer to the handshake").payload, b"{}\x1e");
    raw
}

/// Reads until the probe and, if an answer to it is wanted, the call are answered, or the connection ends.
async fn listen(raw: &mut Raw, wanted: Answer) -> Said {
    let mut said = Said::default();
    // A send is answered when the disk has it, which may be after the probe.
    let call_is_answered = matches!(wanted, Answer::Done | Answer::Error(_));
    while !said.probe_answered || (call_is_answered && said.records.is_empty()) {
        let Some(frame) = raw.frame().await else { return said };
        match frame.opcode {
            TEXT => {
                let text = String::from_utf8(frame.payload).expect("text is UTF-8");
                let records = text.strip_suffix('\u{1e}').expect("records are ended").split('\u{1e}');
                records.for_each(|record| said.take(read_json(record).expect("the server keeps to the protocol")));
            }
            BINARY => {
                let records = messagepack::records(&frame.payload).expect("the server keeps to the protocol");
                records.iter().for_each(|record| said.take(read_array(record).expect("a record")));
            }
            CLOSE => said.close_code = Some(u16::from_be_bytes([frame.payload[0], frame.payload[1]])),
            PING | PONG => {}
            other => panic!("a frame with opcode {other}"),
        }
    }
    said
}

fn probe(format: Format) -> Vec<u8> {
    let probe = Record::call(PROBE, "Heartbeat", vec![]);
    match format {
        Format::Json => Frame::text(&format!("{}\u{1e}", probe.to_json())).bytes(),
        Format::MessagePack => Frame::new(BINARY, messagepack::record(&probe.to_array())).bytes(),
    }
}

/// Runs a hub table against a server of its own.
async fn run_hub_cases(format: Format, cases: Vec<Case>) {
    let server = Server::start(Options::new()).await;
    let baseline = Baseline::take(&server).await;
    let token = server.token("mallory").await;
    let mut wrong = Vec::new();
    for case in cases {
        let mut raw = connected(&server, &token, format).await;
        raw.write(&case.bytes).await;
        raw.write(&probe(format)).await;
        let said = listen(&mut raw, case.answer).await;
        if !said.is(case.answer) {
            wrong.push(format!("{}: wanted {:?}, got {said:?}", case.name, case.answer));
        }
    }
    assert!(wrong.is_empty(), "{} cases are answered otherwise: {wrong:#?}", wrong.len());
    baseline.check(server).await;
}

/// What a server holds when it has nothing to do.
struct Baseline {
    open_files: Vec<String>,
}

impl Baseline {
    async fn take(server: &Server) -> Self {
        server.ready().await;
        well_behaved(server).await;
        Self { open_files: settled(server).await }
    }

    /// Checks that the server still works, and that it holds no more than at the beginning.
    async fn check(self, server: Server) {
        well_behaved(&server).await;
        let end = Instant::now() + SOON;
        loop {
            let open = settled(&server).await;
            if sockets(&open) <= sockets(&self.open_files) {
                assert!(open.len() <= self.open_files.len() + LAZY_FILES, "the server holds {open:#?}");
                break;
            }
            assert!(Instant::now() < end, "the server holds {open:#?}; at the beginning {:#?}", self.open_files);
        }
        server.stop().await;
    }
}

/// The store opens its files when it first needs them, which may be after the baseline was taken.
const LAZY_FILES: usize = 8;

fn sockets(open: &[String]) -> usize {
    open.iter().filter(|name| name.starts_with("socket:")).count()
}

/// Waits until nobody is connected; gives what the server has open then.
async fn settled(server: &Server) -> Vec<String> {
    eventually(SOON, "all connections are forgotten", || async {
        (server.metric("chatify_active_connections", "").await == Some(0.0)).then_some(())
    })
    .await;
    server.open_files()
}

/// A client that keeps to the rules is served, whatever came before.
async fn well_behaved(server: &Server) {
    let mut hub = server.hub("alice").await;
    hub.join("Channel:good", None).await.expect("joined");
    let sent = hub.send("Channel:good", "still here", &message_id()).await.expect("accepted");
    assert_eq!(hub.message().await, sent);
    let http = server.http("alice").await;
    assert_eq!(http.page("Channel/good", "limit=1").await.items, [sent]);
    hub.close().await;
}

#[test]
fn the_tables_have_at_least_150_cases() {
    let counts = [
        requests::cases().len(),
        tokens::cases().len(),
        origins::cases().len(),
        handshakes::cases().len(),
        frames::cases().len(),
        records::json_cases().len(),
        records::messagepack_cases().len(),
    ];
    assert!(counts.iter().sum::<usize>() >= 150, "{counts:?}");
}
