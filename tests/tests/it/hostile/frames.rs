//! WebSocket frames that break RFC 6455, or use what it allows to the full.

use super::Answer::{Close, Done, Goodbye, Silence};
use super::{Answer, Case, run_hub_cases};
use chatify_tests::raw::{BINARY, CLOSE, CONTINUATION, Frame, PING, PONG, TEXT};
use chatify_tests::records::Format;

/// The largest frame that the server takes, by default.
const FRAME_LIMIT: usize = 64 << 10;
/// A call that is answered with a result.
const CALL: &str = "{\"type\":1,\"invocationId\":\"1\",\"target\":\"Heartbeat\",\"arguments\":[]}\u{1e}";
const PROTOCOL: Answer = Close(1002);

/// The table.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = broken_frames();
    cases.extend(broken_sequences());
    cases.extend(allowed());
    cases
}

fn case(name: &str, frames: &[Frame], answer: Answer) -> Case {
    Case { name: name.into(), bytes: frames.iter().flat_map(Frame::bytes).collect(), answer }
}

fn broken_frames() -> Vec<Case> {
    let text = || Frame::text(CALL);
    let announced = |length| Frame { announced: Some(length), ..Frame::text("{") };
    let mut cases = vec![
        case("not masked", &[Frame { masked: false, ..text() }], PROTOCOL),
        case("more than the limit", &[Frame::new(TEXT, vec![b' '; FRAME_LIMIT + 1])], Close(1009)),
        case("announces 1 MiB", &[announced(1 << 20)], Close(1009)),
        case("announces 2^62", &[announced(1 << 62)], Close(1009)),
        case("announces 2^63", &[announced(1 << 63)], Close(1009)),
        case("announces 2^64 - 1", &[announced(u64::MAX)], Close(1009)),
        case("a ping that goes on", &[Frame::new(PING, "x").unfinished()], PROTOCOL),
        case("a close that goes on", &[Frame::new(CLOSE, "").unfinished()], PROTOCOL),
        case("a ping of 126 bytes", &[Frame::new(PING, vec![b'x'; 126])], PROTOCOL),
        case("text that is not UTF-8", &[Frame::new(TEXT, [0xff, 0xfe])], Close(1007)),
        case("an overlong UTF-8 sequence", &[Frame::new(TEXT, [0xc0, 0x80, 0x1e])], Close(1007)),
        case("a surrogate in UTF-8", &[Frame::new(TEXT, [0xed, 0xa0, 0x80, 0x1e])], Close(1007)),
        case("a close of one byte", &[Frame::new(CLOSE, [3])], PROTOCOL),
    ];
    for reserved in 1..8 {
        cases.push(case(&format!("reserved bits {reserved:03b}"), &[Frame { reserved, ..text() }], PROTOCOL));
    }
    for opcode in [3, 7, 11, 15] {
        cases.push(case(&format!("opcode {opcode}"), &[Frame::new(opcode, CALL)], PROTOCOL));
    }
    cases
}

fn broken_sequences() -> Vec<Case> {
    let part = |text: &str| Frame::text(text).unfinished();
    vec![
        case("a continuation of nothing", &[Frame::new(CONTINUATION, CALL)], PROTOCOL),
        case("a text within a text", &[part("{\"type\""), Frame::text(CALL)], PROTOCOL),
        case("bytes within a text", &[part("{\"type\""), Frame::new(BINARY, CALL)], PROTOCOL),
        case(
            "UTF-8 that breaks in the second part",
            &[Frame::new(TEXT, [b'"', 0xc3]).unfinished(), Frame::new(CONTINUATION, [b'"'])],
            Close(1007),
        ),
        case(
            "parts that are too long together",
            &[Frame::new(TEXT, vec![b' '; FRAME_LIMIT]).unfinished(), Frame::new(CONTINUATION, "too much")],
            Close(1009),
        ),
        case("HTTP again", &[Frame { masked: false, ..Frame::new(TEXT, "GET / HTTP/1.1\r\n\r\n") }], PROTOCOL),
    ]
}

fn allowed() -> Vec<Case> {
    let bytewise: Vec<Frame> = CALL
        .bytes()
        .enumerate()
        .map(|(index, byte)| {
            let frame = Frame::new(if index == 0 { TEXT } else { CONTINUATION }, [byte]);
            if index + 1 < CALL.len() { frame.unfinished() } else { frame }
        })
        .collect();
    let (head, tail) = CALL.split_at(20);
    let interrupted = [
        Frame::text(head).unfinished(),
        Frame::new(PING, "in between"),
        Frame::new(PONG, "unasked"),
        Frame::new(CONTINUATION, tail),
    ];
    let empty_parts: Vec<Frame> = std::iter::once(Frame::text(head).unfinished())
        .chain((0..1_000).map(|_| Frame::new(CONTINUATION, "").unfinished()))
        .chain([Frame::new(CONTINUATION, tail)])
        .collect();
    vec![
        case("a frame for each byte", &bytewise, Done),
        case("control frames within a message", &interrupted, Done),
        case("a thousand empty parts", &empty_parts, Done),
        case("an empty message", &[Frame::text("")], Silence),
        case("a message of half a record", &[Frame::text(head), Frame::text(tail)], Done),
        case("a thousand pings", &vec![Frame::new(PING, "ping"); 1_000], Silence),
        case("a thousand unasked pongs", &vec![Frame::new(PONG, ""); 1_000], Silence),
        case("exactly the limit", &[Frame::text(&format!("{}{CALL}", " ".repeat(FRAME_LIMIT - CALL.len())))], Done),
        case("goodbye", &[Frame::new(CLOSE, 1000u16.to_be_bytes())], Goodbye(1000)),
        case("going away", &[Frame::new(CLOSE, 1001u16.to_be_bytes())], Goodbye(1001)),
    ]
}

#[tokio::test]
async fn frames_that_break_the_rules_end_their_connection_only() {
    run_hub_cases(Format::Json, cases()).await;
}
