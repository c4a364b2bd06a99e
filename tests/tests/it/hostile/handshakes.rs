//! The first record of a hub connection.

use self::Outcome::{Closed, Refused, Welcome};
use super::{Baseline, upgraded};
use chatify_tests::raw::{BINARY, CLOSE, Frame, ServerFrame, TEXT};
use chatify_tests::server::{Options, Server};

/// What comes of a handshake.
pub(super) enum Outcome {
    /// `{}`, and the connection works.
    Welcome,
    /// An error in words, a close frame with 1002, and the end.
    Refused,
    /// A close frame with this code, and the end.
    Closed(u16),
}

/// The table: name, what is written after the upgrade, and what comes of it.
pub(super) fn cases() -> Vec<(&'static str, Vec<u8>, Outcome)> {
    let text = |text: &str| Frame::text(&format!("{text}\u{1e}")).bytes();
    let good = "{\"protocol\":\"json\",\"version\":1}";
    let (head, tail) = good.split_at(10);
    vec![
        ("json", text(good), Welcome),
        ("messagepack", text("{\"protocol\":\"messagepack\",\"version\":1}"), Welcome),
        ("in a frame of bytes", Frame::new(BINARY, format!("{good}\u{1e}")).bytes(), Welcome),
        ("with unknown fields", text("{\"protocol\":\"json\",\"version\":1,\"more\":{}}"), Welcome),
        ("over two frames", [Frame::text(head).bytes(), text(tail)].concat(), Welcome),
        ("empty", text(""), Refused),
        ("not JSON", text("nonsense"), Refused),
        ("an empty object", text("{}"), Refused),
        ("a list", text("[\"json\",1]"), Refused),
        ("no version", text("{\"protocol\":\"json\"}"), Refused),
        ("no protocol", text("{\"version\":1}"), Refused),
        ("version 0", text("{\"protocol\":\"json\",\"version\":0}"), Refused),
        ("version 2", text("{\"protocol\":\"json\",\"version\":2}"), Refused),
        ("version as a text", text("{\"protocol\":\"json\",\"version\":\"1\"}"), Refused),
        ("version 2^64", text("{\"protocol\":\"json\",\"version\":18446744073709551616}"), Refused),
        ("unknown protocol", text("{\"protocol\":\"xml\",\"version\":1}"), Refused),
        ("protocol in another case", text("{\"protocol\":\"JSON\",\"version\":1}"), Refused),
        ("protocol as a number", text("{\"protocol\":1,\"version\":1}"), Refused),
        ("a ping instead", text("{\"type\":6}"), Refused),
        ("a call instead", text("{\"type\":1,\"target\":\"Heartbeat\",\"arguments\":[]}"), Refused),
        ("MessagePack instead", Frame::new(BINARY, [0x02, 0x91, 0x06]).bytes().repeat(2_000), Refused),
        ("5,000 bytes without an end", Frame::new(TEXT, vec![b' '; 5_000]).bytes(), Refused),
        ("more than a frame may have", Frame::new(TEXT, vec![b' '; 70_000]).bytes(), Closed(1009)),
        ("not masked", Frame { masked: false, ..Frame::text(good) }.bytes(), Closed(1002)),
        ("not UTF-8", Frame::new(TEXT, [0xff, 0x1e]).bytes(), Closed(1007)),
        ("goodbye", Frame::new(CLOSE, 1000u16.to_be_bytes()).bytes(), Closed(1000)),
    ]
}

#[tokio::test]
async fn handshakes_get_their_documented_answer() {
    let server = Server::start(Options::new()).await;
    let baseline = Baseline::take(&server).await;
    let token = server.token("mallory").await;
    let mut wrong = Vec::new();
    for (name, bytes, outcome) in cases() {
        let mut raw = upgraded(&server, &token).await;
        raw.write(&bytes).await;
        let mut frames = Vec::new();
        while let Some(frame) = raw.frame().await {
            let welcome = frame.payload == b"{}\x1e";
            frames.push(frame);
            if welcome {
                break;
            }
        }
        if !is(&outcome, &frames) {
            wrong.push(format!("{name}: {frames:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} handshakes are answered otherwise: {wrong:#?}", wrong.len());
    baseline.check(server).await;
}

/// Whether these frames say what the table wants.
fn is(outcome: &Outcome, frames: &[ServerFrame]) -> bool {
    let closed = |frame: &ServerFrame, code: u16| frame.opcode == CLOSE && frame.payload == code.to_be_bytes();
    match (outcome, frames) {
        (Welcome, [answer]) => answer.payload == b"{}\x1e",
        (Refused, [answer, close]) => {
            let error = String::from_utf8_lossy(&answer.payload);
            error.starts_with("{\"error\":\"") && error.ends_with("\"}\u{1e}") && closed(close, 1002)
        }
        (Closed(code), [close]) => closed(close, *code),
        _ => false,
    }
}
