//! Records that break the hub protocol, and calls with arguments that no method takes.

use super::Answer::{Close, Done, Error, Goodbye, Silence};
use super::{Answer, Case, run_hub_cases};
use chatify_tests::messagepack;
use chatify_tests::raw::{BINARY, Frame};
use chatify_tests::records::{Format, Record};
use serde_json::{Value, json};

const INVALID: Answer = Error("VALIDATION_ERROR");
const NO_METHOD: Answer = Error("NOT_FOUND");
/// Not JSON, or not MessagePack.
const MALFORMED: Answer = Close(1007);
/// No record of the hub protocol.
const NO_RECORD: Answer = Close(1002);

/// The table for JSON.
pub(super) fn json_cases() -> Vec<Case> {
    let mut cases = json_records();
    cases.extend(calls().into_iter().map(|(name, target, arguments, answer)| {
        let call = Record::call("1", target, arguments).to_json();
        json_case(&format!("{target}: {name}"), &format!("{call}\u{1e}"), answer)
    }));
    cases.extend(json_frames());
    cases.extend(json_arguments());
    cases
}

/// The table for MessagePack.
pub(super) fn messagepack_cases() -> Vec<Case> {
    let mut cases = messagepack_records();
    cases.extend(calls().into_iter().map(|(name, target, arguments, answer)| {
        let call = messagepack::record(&Record::call("1", target, arguments).to_array());
        bytes_case(&format!("{target}: {name}"), call, answer)
    }));
    cases
}

fn json_case(name: &str, text: &str, answer: Answer) -> Case {
    Case { name: format!("JSON, {name}"), bytes: Frame::text(text).bytes(), answer }
}

fn bytes_case(name: &str, bytes: Vec<u8>, answer: Answer) -> Case {
    Case { name: format!("MessagePack, {name}"), bytes: Frame::new(BINARY, bytes).bytes(), answer }
}

/// Name, method, arguments and answer of a call.
type Call = (&'static str, &'static str, Vec<Value>, Answer);

/// Calls whose form is right. The same in both formats.
fn calls() -> Vec<Call> {
    [send_calls(), join_calls(), other_calls()].concat()
}

fn send_calls() -> Vec<Call> {
    let send = |change: &dyn Fn(&mut Value)| {
        let mut argument = json!({"scopeType": "Channel", "scopeId": "hostile", "text": "hello"});
        change(&mut argument);
        vec![argument]
    };
    let set = |name: &'static str, value: Value| send(&|argument| argument[name] = value.clone());
    let unset = |name: &'static str| send(&|argument| drop(argument.as_object_mut().map(|object| object.remove(name))));
    vec![
        ("a message", "Send", send(&|_| {}), Done),
        ("no argument", "Send", vec![], INVALID),
        ("two arguments", "Send", vec![json!({}), json!({})], INVALID),
        ("null", "Send", vec![Value::Null], INVALID),
        ("a text", "Send", vec![json!("hello")], INVALID),
        ("a list", "Send", vec![json!([1, 2, 3])], INVALID),
        ("a list of the fields", "Send", vec![json!(["Channel", "hostile", "hello", null])], INVALID),
        ("no text", "Send", unset("text"), INVALID),
        ("no scope type", "Send", unset("scopeType"), INVALID),
        ("no scope id", "Send", unset("scopeId"), INVALID),
        ("text is a number", "Send", set("text", json!(7)), INVALID),
        ("text is null", "Send", set("text", Value::Null), INVALID),
        ("text of 4097 characters", "Send", set("text", json!("x".repeat(4097))), INVALID),
        ("text of 4096 characters of four bytes", "Send", set("text", json!("👋".repeat(4096))), Done),
        ("text with NUL", "Send", set("text", json!("a\u{0}b")), Done),
        ("unknown scope type", "Send", set("scopeType", json!("Room")), INVALID),
        ("scope type in another case", "Send", set("scopeType", json!("channel")), INVALID),
        ("scope type is a number", "Send", set("scopeType", json!(0)), INVALID),
        ("blank scope id", "Send", set("scopeId", json!("  ")), INVALID),
        ("scope id of 257 characters", "Send", set("scopeId", json!("x".repeat(257))), INVALID),
        ("scope id with a control character", "Send", set("scopeId", json!("a\u{0}b")), INVALID),
        ("message id is no UUID", "Send", set("messageId", json!("1")), INVALID),
        ("message id is a number", "Send", set("messageId", json!(1)), INVALID),
        ("message id in braces", "Send", set("messageId", json!("{01890a5d-ac96-774b-bcce-b302099a8057}")), INVALID),
        ("message id is null", "Send", set("messageId", Value::Null), Done),
        ("a sender of one's own choice", "Send", set("senderId", json!("somebody else")), Done),
        (
            "somebody else's direct message",
            "Send",
            send(&|argument| {
                argument["scopeType"] = json!("DirectMessage");
                argument["scopeId"] = json!("alice+bob");
            }),
            Error("FORBIDDEN"),
        ),
        (
            "a direct message in the wrong order",
            "Send",
            send(&|argument| {
                argument["scopeType"] = json!("DirectMessage");
                argument["scopeId"] = json!("mallory+bob");
            }),
            INVALID,
        ),
    ]
}

fn join_calls() -> Vec<Call> {
    let join = |options: Value| vec![json!("Channel:hostile"), options];
    vec![
        ("no argument", "JoinScope", vec![], INVALID),
        ("three arguments", "JoinScope", vec![json!("a"), json!({}), json!({})], INVALID),
        ("a number", "JoinScope", vec![json!(1)], INVALID),
        ("an empty scope", "JoinScope", vec![json!("")], INVALID),
        ("an unknown type", "JoinScope", vec![json!("Room:a")], INVALID),
        ("a type without an id", "JoinScope", vec![json!("Channel:")], INVALID),
        ("somebody else's direct message", "JoinScope", vec![json!("DirectMessage:alice+bob")], Error("FORBIDDEN")),
        ("one participant", "JoinScope", vec![json!("DirectMessage:mallory")], INVALID),
        ("options are null", "JoinScope", join(Value::Null), Done),
        ("options are a list", "JoinScope", join(json!([1, 1])), INVALID),
        ("options are a text", "JoinScope", join(json!("all")), INVALID),
        ("an unknown option", "JoinScope", join(json!({"since": 1})), INVALID),
        ("limit 0", "JoinScope", join(json!({"limit": 0})), INVALID),
        ("limit 501", "JoinScope", join(json!({"limit": 501})), INVALID),
        ("limit -1", "JoinScope", join(json!({"limit": -1})), INVALID),
        ("limit 1.5", "JoinScope", join(json!({"limit": 1.5})), INVALID),
        ("after -1", "JoinScope", join(json!({"after": -1})), INVALID),
        ("after 2^53", "JoinScope", join(json!({"after": 1u64 << 53})), INVALID),
        ("after 2^63", "JoinScope", join(json!({"after": 1u64 << 63})), INVALID),
        ("after is a text", "JoinScope", join(json!({"after": "1"})), INVALID),
    ]
}

fn other_calls() -> Vec<Call> {
    vec![
        ("no argument", "LeaveScope", vec![], INVALID),
        ("a scope it never joined", "LeaveScope", vec![json!("Channel:never")], Done),
        ("not a scope", "LeaveScope", vec![json!({"scope": "a"})], INVALID),
        ("an argument", "Heartbeat", vec![json!(1)], INVALID),
        ("unknown", "NoSuchMethod", vec![], NO_METHOD),
        ("in another case", "send", vec![], NO_METHOD),
        ("empty", "", vec![], NO_METHOD),
        ("the server's own event", "ReceiveMessage", vec![json!({})], NO_METHOD),
    ]
}

fn json_records() -> Vec<Case> {
    let heartbeat = r#"{"type":1,"invocationId":"1","target":"Heartbeat","arguments":[]}"#;
    [
        ("not JSON", "nonsense", MALFORMED),
        ("nothing", "", MALFORMED),
        ("white space", "  ", MALFORMED),
        ("JSON that ends early", "{\"type\":1,", MALFORMED),
        ("JSON with more behind it", "{\"type\":6}{}", MALFORMED),
        ("a byte order mark", "\u{feff}{\"type\":6}", MALFORMED),
        ("single quotes", "{'type':6}", MALFORMED),
        ("a comment", "{\"type\":6/**/}", MALFORMED),
        ("no object", "[1]", NO_RECORD),
        ("a call as a list", r#"[1,"1","Heartbeat",[]]"#, NO_RECORD),
        ("a number", "6", NO_RECORD),
        ("null", "null", NO_RECORD),
        ("no type", "{}", NO_RECORD),
        ("type 0", "{\"type\":0}", NO_RECORD),
        ("type 99", "{\"type\":99}", NO_RECORD),
        ("type 256", "{\"type\":256}", NO_RECORD),
        ("type -1", "{\"type\":-1}", NO_RECORD),
        ("type 1e1", "{\"type\":1e1}", NO_RECORD),
        ("type as a text", "{\"type\":\"6\"}", NO_RECORD),
        ("type twice", "{\"type\":6,\"type\":6}", NO_RECORD),
        ("a call without a target", r#"{"type":1,"invocationId":"1","arguments":[]}"#, NO_RECORD),
        ("a call without arguments", r#"{"type":1,"invocationId":"1","target":"Heartbeat"}"#, NO_RECORD),
        (
            "arguments that are no list",
            r#"{"type":1,"invocationId":"1","target":"Heartbeat","arguments":{}}"#,
            NO_RECORD,
        ),
        ("a target that is no text", r#"{"type":1,"invocationId":"1","target":7,"arguments":[]}"#, NO_RECORD),
        ("an id that is no text", r#"{"type":1,"invocationId":1,"target":"Heartbeat","arguments":[]}"#, NO_RECORD),
        ("a cancellation without an id", "{\"type\":5}", NO_RECORD),
        ("a stream call without an id", r#"{"type":4,"target":"Heartbeat","arguments":[]}"#, NO_RECORD),
        ("a stream call", r#"{"type":4,"invocationId":"1","target":"Heartbeat","arguments":[]}"#, NO_METHOD),
        ("an unknown method without an id", r#"{"type":1,"target":"NoSuchMethod","arguments":[]}"#, Silence),
        ("a cancellation of nothing", r#"{"type":5,"invocationId":"7"}"#, Silence),
        ("a stream item", r#"{"type":2,"invocationId":"7","item":1}"#, Silence),
        ("a completion of nothing", r#"{"type":3,"invocationId":"7","result":1}"#, Silence),
        ("an acknowledgement", r#"{"type":8,"sequenceId":1}"#, Silence),
        ("a ping", "{\"type\":6}", Silence),
        ("a goodbye", "{\"type\":7}", Goodbye(1000)),
        (
            "headers",
            r#"{"headers":{"a":"b","c":"d"},"type":1,"invocationId":"1","target":"Heartbeat","arguments":[]}"#,
            Done,
        ),
        (
            "unknown fields",
            r#"{"type":1,"invocationId":"1","target":"Heartbeat","arguments":[],"more":{"a":[1]}}"#,
            Done,
        ),
        (
            "escapes in names and values",
            r#"{"\u0074ype":1,"invocationId":"\u0031","target":"Heart\u0062eat","arguments":[]}"#,
            Done,
        ),
        ("a call", heartbeat, Done),
        (
            "white space around a call",
            " \r\n\t{\"type\":1, \"invocationId\":\"1\", \"target\":\"Heartbeat\", \"arguments\":[ ]} \n",
            Done,
        ),
    ]
    .into_iter()
    .map(|(name, text, answer)| json_case(name, &format!("{text}\u{1e}"), answer))
    .collect()
}

/// Several records in one frame.
fn json_frames() -> Vec<Case> {
    let ping = "{\"type\":6}\u{1e}";
    vec![
        json_case("a thousand pings in a frame", &ping.repeat(1_000), Silence),
        json_case("bad behind good in a frame", &format!("{ping}nonsense\u{1e}"), MALFORMED),
    ]
}

/// Arguments that only JSON can write down.
fn json_arguments() -> Vec<Case> {
    let call = |target: &str, arguments: &str| {
        format!("{{\"type\":1,\"invocationId\":\"1\",\"target\":\"{target}\",\"arguments\":[{arguments}]}}\u{1e}")
    };
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let send = |fields: &str| call("Send", &format!("{{\"scopeType\":\"Channel\",\"scopeId\":\"hostile\",{fields}}}"));
    let after = |number: &str| call("JoinScope", &format!("\"hostile\",{{\"after\":{number}}}"));
    vec![
        json_case("30,000 levels for an argument", &call("Send", &deep(30_000)), INVALID),
        json_case(
            "30,000 levels in an unknown field",
            &send(&format!("\"text\":\"a\",\"more\":{}", deep(30_000))),
            Done,
        ),
        json_case("200 levels for the text", &send(&format!("\"text\":{}", deep(200))), INVALID),
        json_case("a field twice", &send("\"text\":\"a\",\"text\":\"b\""), INVALID),
        json_case("half a surrogate pair", &send("\"text\":\"\\ud83d\""), INVALID),
        json_case("a surrogate pair", &send("\"text\":\"\\ud83d\\udc4b\""), Done),
        json_case("an unknown escape", &send("\"text\":\"\\x41\""), MALFORMED),
        json_case("a raw new line in a text", &send("\"text\":\"a\nb\""), MALFORMED),
        json_case("after 1e400", &after("1e400"), INVALID),
        json_case("after 1e3", &after("1e3"), INVALID),
        json_case("after 1.0", &after("1.0"), INVALID),
        json_case("after 400 digits", &after(&"9".repeat(400)), INVALID),
        json_case("after -0", &after("-0"), INVALID),
        json_case("after NaN", &after("NaN"), MALFORMED),
        json_case("20,000 arguments", &call("Send", &format!("1{}", ",1".repeat(20_000))), INVALID),
    ]
}

fn messagepack_records() -> Vec<Case> {
    let framed = messagepack::framed;
    let record = |value: Value| messagepack::record(&value);
    let heartbeat = |id: &[u8]| [&[0x96, 0x01, 0x80], id, &[0xa9], b"Heartbeat".as_slice(), &[0x90, 0x90]].concat();
    vec![
        bytes_case("nothing", framed(&[]), MALFORMED),
        bytes_case("a byte that is never used", framed(&[0xc1]), NO_RECORD),
        bytes_case("noise", framed(&[0x95, 0x01, 0xd9, 0xff, 0x00]), MALFORMED),
        bytes_case("a length without an end", vec![0xff; 6], Close(1009)),
        bytes_case("a length of 2 GiB", vec![0xff, 0xff, 0xff, 0xff, 0x07], Close(1009)),
        bytes_case("a list of four billion", framed(&[0xdd, 0xff, 0xff, 0xff, 0xff]), MALFORMED),
        bytes_case("a map of four billion", framed(&[0xdf, 0xff, 0xff, 0xff, 0xff]), MALFORMED),
        bytes_case("a text of four billion", framed(&[0x91, 0xdb, 0xff, 0xff, 0xff, 0xff]), MALFORMED),
        bytes_case("bytes of four billion", framed(&[0x91, 0xc6, 0xff, 0xff, 0xff, 0xff]), NO_RECORD),
        bytes_case(
            "a list of four billion arguments",
            framed(&[0x95, 1, 0x80, 0xc0, 0xa1, b'x', 0xdd, 0xff, 0xff, 0xff, 0xff]),
            MALFORMED,
        ),
        bytes_case("50,000 levels", framed(&[0x91; 50_000]), NO_RECORD),
        bytes_case("50,000 levels of maps", framed(&[0x81; 50_000]), NO_RECORD),
        bytes_case("a text that is not UTF-8", framed(&[0x91, 0xa2, 0xff, 0xfe]), MALFORMED),
        bytes_case("an extension", framed(&[0x91, 0xd4, 0x01, 0x00]), NO_RECORD),
        bytes_case("no list", record(json!({"type": 6})), NO_RECORD),
        bytes_case("an empty list", record(json!([])), NO_RECORD),
        bytes_case("no type", record(json!([null])), NO_RECORD),
        bytes_case("type 99", record(json!([99])), NO_RECORD),
        bytes_case("type -1", record(json!([-1])), NO_RECORD),
        bytes_case("a call without arguments", record(json!([1, {}, "1", "Heartbeat"])), NO_RECORD),
        bytes_case("a call without a target", record(json!([1, {}, "1", null, [], []])), NO_RECORD),
        bytes_case("an id that is no text", record(json!([1, {}, 1, "Heartbeat", [], []])), NO_RECORD),
        bytes_case("a stream call", record(json!([4, {}, "1", "Heartbeat", [], []])), NO_METHOD),
        bytes_case("a call without an id", record(json!([1, {}, null, "NoSuchMethod", [], []])), Silence),
        bytes_case("a call without stream ids", record(json!([1, {}, "1", "Heartbeat", []])), Done),
        bytes_case("headers", record(json!([1, {"a": "b"}, "1", "Heartbeat", [], []])), Done),
        bytes_case("a text with a long form of its length", framed(&heartbeat(&[0xdb, 0, 0, 0, 1, b'1'])), Done),
        bytes_case("a cancellation", record(json!([5, {}, "1"])), Silence),
        bytes_case("a ping", record(json!([6])), Silence),
        bytes_case("a goodbye", record(json!([7, null])), Goodbye(1000)),
        bytes_case("JSON", "{\"type\":6}\u{1e}".repeat(20).into_bytes(), NO_RECORD),
    ]
}

#[tokio::test]
async fn json_records_get_their_documented_answer() {
    run_hub_cases(Format::Json, json_cases()).await;
}

#[tokio::test]
async fn messagepack_records_get_their_documented_answer() {
    run_hub_cases(Format::MessagePack, messagepack_cases()).await;
}
