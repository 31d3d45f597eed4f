//! Senders to whom no report may be sent: what the tool hears instead.

use crate::host::{Host, MODERN, Script, Stage, say};
use crate::rig::{Plan, Relay};

#[tokio::test]
async fn where_nobody_may_be_told_the_tool_hears_who_did_not_get_it() {
    for sender in ["", "out%x.example@y.example"] {
        let host = Host::start(Script::new(MODERN).at(Stage::Rcpt, [say("250 fine"), say("551 5.1.1 nobody")])).await;
        let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
        let answer = relay.client().await.mail(sender, &["a@x.example", "b@x.example"], "Subject: x\r\n\r\nx").await;
        assert_eq!(answer, "551 5.1.1 refused for 1 of 2 recipients, sent to the others: nobody", "{sender}");
        relay.is_drained().await;
        assert_eq!(host.kept().iter().map(|taken| taken.to()).collect::<Vec<_>>(), [["a@x.example"]]);
        assert!(relay.stop().await);
    }
}
