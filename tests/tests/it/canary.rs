//! Secrets and message text never get into the log, not even at its most talkative.

use chatify_tests::hub::{HubOptions, send_argument};
use chatify_tests::raw::{Frame, Raw};
use chatify_tests::records::{Format, Record};
use chatify_tests::seeds::message_id;
use chatify_tests::server::{Options, Server};
use serde_json::json;

const TEXT: &str = "canary-text-5b1f0c";
const SUBJECT_OF_ANOTHER: &str = "canary-of-a-forged-token-77aa";

#[tokio::test]
async fn nothing_that_is_private_is_logged() {
    let server = Server::start(Options::new().with_variable("RUST_LOG", "trace")).await;
    server.ready().await;
    let token = server.token("alice").await;
    let key = server.home().key();
    talk(&server).await;
    misbehave(&server, &token).await;
    let metrics = server.http("alice").await.get("/metrics").await.text();
    let signature = token.rsplit('.').next().expect("a token has three parts").to_owned();
    let home = server.home().clone();
    let correlation = "corr_01890a5d-ac96-774b-bcce-b302099a8057";
    let path = "/api/scopes/Channel/canary/messages";
    let headers = [("X-Correlation-ID", correlation)];
    server.http("alice").await.must(hyper::Method::GET, path, &headers, None).await;
    let log = {
        server.check_log();
        let before_the_end = server.log();
        assert!(before_the_end.contains("DEBUG"), "the log is more talkative than usual");
        before_the_end
    };
    let canaries = [TEXT, &token, &signature, &key, SUBJECT_OF_ANOTHER];
    for canary in canaries {
        let place = log.lines().find(|line| line.contains(canary));
        assert_eq!(place, None, "{canary} is in the log");
        assert!(!metrics.contains(canary), "{canary} is in the metrics");
    }
    assert!(log.contains(correlation), "a request can be found by its correlation id");
    drop(home);
    server.stop().await;
}

/// Uses every way in, and every way out, as it is meant to be used.
async fn talk(server: &Server) {
    for format in Format::ALL {
        for token_in_query in [false, true] {
            let options = HubOptions { format, token_in_query, ..HubOptions::default() };
            let mut hub = server.try_hub("alice", options).await.expect("let in");
            hub.join("Channel:canary", None).await.expect("joined");
            let sent = hub.send("Channel:canary", TEXT, &message_id()).await.expect("accepted");
            assert_eq!(hub.message().await, sent);
            server.remembers(&sent).await;
            hub.send("Channel:canary", "changed", &sent.message_id).await.expect_err("a conflict");
            hub.close().await;
        }
    }
    let http = server.http("alice").await;
    let sent = http.send("Channel/canary", TEXT, &message_id()).await.expect("an answer");
    assert_eq!(sent.status, 201);
    assert!(http.get("/api/scopes/Channel/canary/messages").await.text().contains(TEXT));
    let mut stream = http.events("Channel/canary", Some("0")).await;
    assert!(stream.next().await.expect("an event").data.contains(TEXT));
}

/// Breaks rules with private things at hand.
async fn misbehave(server: &Server, token: &str) {
    let http = server.http("alice").await;
    let path = "/api/scopes/Channel/canary/messages";
    for body in
        [json!({"text": 7, "messageId": TEXT}), json!({"txet": TEXT}), json!({"text": TEXT.repeat(500)}), json!(TEXT)]
    {
        let answer = http.post(path, &body).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    // A token where none belongs, and a token of somebody else.
    http.get(&format!("{path}?access_token={token}")).await;
    let forged = format!("eyJhbGciOiJIUzI1NiJ9.{SUBJECT_OF_ANOTHER}.AAAA");
    let mut anonymous = Raw::connect(server.address()).await;
    let refused = anonymous.upgrade(&format!("/hubs/chat?access_token={forged}"), &[]).await.expect("an answer");
    assert_eq!(refused.status, 401);
    let mut hub = server.hub("alice").await;
    let wrong = send_argument("Channel:canary", &TEXT.repeat(500), "no id");
    hub.call("Send", vec![wrong]).await.expect_err("refused");
    hub.call("Send", vec![json!(TEXT)]).await.expect_err("refused");
    hub.call(TEXT, vec![]).await.expect_err("no such method");
    hub.send_record(&Record::call(TEXT, TEXT, vec![json!(TEXT)])).await.expect("written");
    hub.answer_to(TEXT).await.expect_err("no such method");
    let mut raw = Raw::connect(server.address()).await;
    let upgraded = raw.upgrade(&format!("/hubs/chat?access_token={token}"), &[]).await.expect("an answer");
    assert_eq!(upgraded.status, 101);
    raw.write_frame(&Frame::text("{\"protocol\":\"json\",\"version\":1}\u{1e}")).await;
    raw.write_frame(&Frame::text(&format!("{{\"type\":1,\"{TEXT}\":{TEXT}\u{1e}"))).await;
    while raw.frame().await.is_some() {}
}
