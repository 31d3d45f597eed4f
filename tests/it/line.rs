//! The line as a whole: what is cleared arrives byte for byte, what is opted out never does.

use crate::rig::{Plan, Relay};

#[tokio::test]
async fn what_is_cleared_arrives_as_it_came() {
    let list = "addresses = [\"out@example.com\"]\n";
    let relay = Relay::start(Plan { config: "", list, upstream: "" }).await;
    let mut client = relay.client().await;
    let reply = client.mail("shop@example.com", &["In@Example.com", "Out+1@EXAMPLE.com"], "Subject: x\r\n\r\n..dot\r\n").await;
    assert!(reply.starts_with("250 2.0.0 delivered as "), "{reply}");
    let outbox = relay.outbox();
    let (bytes, envelope) = &outbox[0];
    assert!(bytes.starts_with(b"Received: from tool.test ([127.0.0.1])\r\n\tby relay.test with ESMTP id "));
    assert!(bytes.ends_with(b"+0000\r\nSubject: x\r\n\r\n.dot\r\n\r\n"), "{}", bytes.escape_ascii());
    assert_eq!((outbox.len(), &envelope["recipients"]), (1, &serde_json::json!(["In@Example.com"])));
    let suppressed = relay.suppressed();
    assert_eq!((suppressed.len(), &suppressed[0]["recipient"]), (1, &"Out+1@EXAMPLE.com".into()));
    assert!(relay.stop().await);
}

/// A deadline is for the whole command: a byte now and then does not put it off.
#[tokio::test]
async fn a_drip_of_bytes_does_not_hold_a_session() {
    let relay = Relay::start(Plan { config: "[listen]\ncommand_timeout = \"300ms\"\n", list: "", upstream: "" }).await;
    let mut client = relay.client().await;
    let mut goodbye = None;
    for _ in 0..1000 {
        // Far more often than the deadline; when the relay has hung up, its last words are waiting.
        if let Ok(line) = tokio::time::timeout(std::time::Duration::from_millis(20), client.line()).await {
            goodbye = line;
            break;
        }
        let _ = client.try_send(b"x").await;
    }
    assert!(goodbye.as_ref().is_some_and(|line| line.starts_with("421 4.4.2")), "{goodbye:?}");
    assert!(relay.stop().await);
}
