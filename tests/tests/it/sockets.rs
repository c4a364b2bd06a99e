//! Connections that do nothing, too little, or nothing any more; and those that only keep alive.

use chatify_tests::http::Http;
use chatify_tests::hub::{Ending, Hub, HubError, HubOptions};
use chatify_tests::raw::{CLOSE, Frame, PING, PONG, Raw};
use chatify_tests::records::{Format, Record};
use chatify_tests::seeds::{message_id, unix_seconds};
use chatify_tests::server::{Options, Server};
use chatify_tests::tokens::{claims, signed, with_claim};
use chatify_tests::waiting::SOON;
use futures_util::future::join_all;
use jsonwebtoken::Algorithm;
use serde_json::Value;
use std::time::Duration;

/// Times so short that a test can wait for them.
fn short_times() -> Options {
    Options::new()
        .with("SERVER__HEADER_TIMEOUT", "1s")
        .with("LIMITS__HANDSHAKE_TIMEOUT", "3s")
        .with("LIMITS__KEEP_ALIVE", "1s")
        .with("LIMITS__CLIENT_TIMEOUT", "3s")
        .with("SERVER__REQUEST_TIMEOUT", "2s")
        .with("AUTH__LEEWAY", "0s")
}

#[tokio::test]
async fn sockets_that_do_not_finish_a_request_are_closed() {
    let server = Server::start(short_times()).await;
    let whole = "GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n";
    let mut sockets = Vec::new();
    for beginning in ["", "G", "GET /health/live HTTP/1.1\r\n", &whole[..whole.len() - 2]] {
        let mut socket = Raw::connect(server.address()).await;
        socket.write(beginning.as_bytes()).await;
        sockets.push(socket);
    }
    // One that was answered and then stays silent.
    let mut idle = Raw::connect(server.address()).await;
    idle.write(whole.as_bytes()).await;
    assert_eq!(idle.answer().await.expect("an answer").status, 200);
    sockets.push(idle);
    // One whose body never comes.
    let mut body = Raw::connect(server.address()).await;
    let token = server.token("alice").await;
    let request = format!(
        "POST /api/scopes/Channel/a/messages HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    );
    body.write(request.as_bytes()).await;
    sockets.push(body);
    for mut socket in sockets {
        socket.closed(SOON).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_header_that_comes_byte_by_byte_is_cut_off() {
    let server = Server::start(short_times()).await;
    let mut socket = Raw::connect(server.address()).await;
    socket.write(b"GET /health/live HTTP/1.1\r\nX-Slow: ").await;
    socket.dribble_until_closed(b'x', Duration::from_millis(100), SOON).await;
    server.stop().await;
}

#[tokio::test]
async fn sockets_that_do_not_shake_hands_are_closed() {
    let server = Server::start(short_times()).await;
    let token = server.token("alice").await;
    let authorization = format!("Bearer {token}");
    let beginnings = [
        vec![],
        Frame::text("{\"protocol\":\"json\",").bytes(),
        Frame::text("{\"protocol\":\"json\",\"version\":1}").bytes(),
        Frame::new(PING, "are you there").bytes(),
        Frame::text("{\"protocol\":\"json\",\"version\":1}\u{1e}").bytes()[..10].to_vec(),
        Frame::text("{\"proto").unfinished().bytes(),
    ];
    let mut sockets = Vec::new();
    for beginning in beginnings {
        let mut socket = Raw::connect(server.address()).await;
        let answer = socket.upgrade("/hubs/chat", &[("Authorization", &authorization)]).await.expect("an answer");
        assert_eq!(answer.status, 101, "{}", answer.text());
        socket.write(&beginning).await;
        sockets.push(socket);
    }
    for mut socket in sockets {
        socket.closed(SOON).await;
    }
    // Whoever shook hands in time is not touched by that timer.
    let mut hub = server.hub("alice").await;
    outlive_the_timeouts(&mut hub, 4).await;
    server.stop().await;
}

/// Answers `pings` pings of the server, one second apart, and does nothing else.
async fn outlive_the_timeouts(hub: &mut Hub, pings: usize) {
    for _ in 0..pings {
        assert_eq!(hub.record().await, Ok(Record::Ping), "an idle connection gets pings and nothing else");
        hub.send_record(&Record::Ping).await.expect("written");
    }
    assert_eq!(hub.call("Heartbeat", vec![]).await, Ok(Value::Null), "it still works");
}

#[tokio::test]
async fn pings_keep_a_connection_alive_and_silence_ends_it() {
    let server = Server::start(short_times()).await;
    for format in Format::ALL {
        let options = || HubOptions { format, ..HubOptions::default() };
        let mut silent = server.try_hub("silent", options()).await.expect("let in");
        let mut alive = server.try_hub("alive", options()).await.expect("let in");
        outlive_the_timeouts(&mut alive, 5).await;
        let Ending { close_record, code } = silent.ending().await;
        let (error, allow_reconnect) = close_record.expect("a Close record");
        assert!(error.as_deref().is_some_and(|error| error.starts_with("TIMEOUT: ")), "{error:?}");
        assert!(allow_reconnect && code.is_some(), "{code:?}");
    }
    server.stop().await;
}

/// A token that lasts for what a test does first, and not much longer.
fn ending_soon(server: &Server, user: &str) -> String {
    let claims = with_claim(claims("chatify", "chatify", user), "exp", (unix_seconds() + 8).into());
    signed(&claims, Algorithm::HS256, server.home().key().as_bytes())
}

#[tokio::test]
async fn a_connection_ends_with_its_token() {
    let server = Server::start(short_times()).await;
    let token = server.home().token_for("alice", "8s").await;
    let until_the_end = Format::ALL.map(|format| {
        let options = HubOptions { format, ..HubOptions::default() };
        let (address, token) = (server.address(), token.clone());
        async move {
            let mut hub = Hub::connect(address, &token, options).await.expect("let in");
            hub.join("Channel:short", None).await.expect("joined");
            // The client stays alive, so that its token is the only thing that can end it.
            while hub.record().await == Ok(Record::Ping) && hub.send_record(&Record::Ping).await.is_ok() {}
            hub.ending().await.close_record.expect("a Close record")
        }
    });
    for (error, allow_reconnect) in join_all(until_the_end).await {
        assert!(error.as_deref().is_some_and(|error| error.starts_with("UNAUTHENTICATED: ")), "{error:?}");
        assert!(allow_reconnect, "a client may come back with a new token");
    }
    let refused = Hub::connect(server.address(), &token, HubOptions::default()).await.expect_err("the token is over");
    assert!(matches!(refused, HubError::Refused(401, _)), "{refused}");
    server.stop().await;
}

#[tokio::test]
async fn an_event_stream_ends_with_its_token() {
    let server = Server::start(short_times()).await;
    let sent = server.hub("bob").await.send("Channel:short", "hello", &message_id()).await.expect("accepted");
    server.remembers(&sent).await;
    let token = ending_soon(&server, "alice");
    let mut stream = Http::new(server.address(), Some(token)).events("Channel/short", Some("0")).await;
    assert_eq!(stream.next().await.expect("an event").id, Some(sent.position.to_string()));
    assert_eq!(stream.next().await, None);
    server.stop().await;
}

#[tokio::test]
async fn cancellations_and_stray_records_change_nothing() {
    let server = Server::start(short_times()).await;
    for format in Format::ALL {
        let options = HubOptions { format, ..HubOptions::default() };
        let mut hub = server.try_hub("alice", options).await.expect("let in");
        hub.send_record(&Record::CancelInvocation { id: "nothing".into() }).await.expect("written");
        hub.send_record(&Record::Completion { id: "x".into(), outcome: Ok(Value::Null) }).await.expect("written");
        assert_eq!(hub.call("Heartbeat", vec![]).await, Ok(Value::Null));
        let id = hub.start_call("Heartbeat", vec![]).await.expect("written");
        hub.send_record(&Record::CancelInvocation { id: id.clone() }).await.expect("written");
        assert_eq!(hub.answer_to(&id).await, Ok(Value::Null), "what is answered cannot be cancelled");
    }
    server.stop().await;
}

#[tokio::test]
async fn websocket_pings_are_answered_and_closes_returned() {
    let server = Server::start(Options::new()).await;
    let token = server.token("alice").await;
    let mut socket = Raw::connect(server.address()).await;
    let answer = socket.upgrade("/hubs/chat", &[("Authorization", &format!("Bearer {token}"))]).await;
    assert_eq!(answer.expect("an answer").status, 101);
    socket.write_frame(&Frame::new(PING, "before the handshake")).await;
    let pong = socket.frame().await.expect("a pong");
    assert_eq!((pong.opcode, pong.payload.as_slice()), (PONG, b"before the handshake".as_slice()));
    socket.write_frame(&Frame::text("{\"protocol\":\"json\",\"version\":1}\u{1e}")).await;
    assert_eq!(socket.frame().await.expect("the answer to the handshake").payload, b"{}\x1e");
    socket.write_frame(&Frame::new(PING, "after it")).await;
    let pong = socket.frame().await.expect("a pong");
    assert_eq!((pong.opcode, pong.payload.as_slice()), (PONG, b"after it".as_slice()));
    socket.write_frame(&Frame::new(CLOSE, 1000u16.to_be_bytes())).await;
    let close = socket.frame().await.expect("a close");
    assert_eq!((close.opcode, close.payload.as_slice()), (CLOSE, 1000u16.to_be_bytes().as_slice()));
    socket.closed(SOON).await;
    server.stop().await;
}
