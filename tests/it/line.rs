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
