//! Lines of the suppression log: one for each recipient, however often a message is looked at.

use crate::held::SHOP;
use crate::host::Act::Cut;
use crate::host::{Host, MODERN, Script, Stage, say};
use crate::rig::{Plan, Relay, eventually};

const LIST: &str = "addresses = [\"out@x.example\"]\n";
const WIRE: &str = "Subject: x\r\n\r\nx";

#[tokio::test]
async fn who_is_mailed_all_the_same_has_one_line_although_the_mail_was_stored_first() {
    let host = Host::start(Script::new(MODERN)).await;
    let config = "[opt_out]\nmode = \"observe\"\n[delivery]\nanswer = \"stored\"\n";
    let relay = Relay::start(Plan { config, list: LIST, upstream: &host.url() }).await;
    let answer = relay.client().await.mail(SHOP, &["out@x.example"], WIRE).await;
    assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
    relay.is_drained().await;
    let events: Vec<_> = relay.suppressed().iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!((host.kept().len(), events), (1, vec!["observed".to_owned()]));
    assert!(relay.stop().await);
}

/// The host hangs up on a kept connection and takes no new one: the opt-out is in the log already, and stays what it is.
#[tokio::test]
async fn whom_the_log_calls_suppressed_is_not_mailed_when_the_host_went_away_meanwhile() {
    let script =
        Script::new(MODERN).at(Stage::Mail, [say("250 fine"), Cut]).at(Stage::Greeting, [say("220 host"), say("421 busy")]);
    let host = Host::start(script).await;
    let config = "[delivery]\nretry_first = \"50ms\"\nretry_max = \"100ms\"\n";
    let list = "[[opt_out]]\naddress = \"out@x.example\"\naction = \"drop\"\n";
    let relay = Relay::start(Plan { config, list, upstream: &host.url() }).await;
    let mut client = relay.client().await;
    let answer = client.mail(SHOP, &["first@x.example"], WIRE).await;
    assert!(answer.starts_with("250 2.0.0 delivered as "), "{answer}");
    let answer = client.mail(SHOP, &["out@x.example", "in@x.example"], WIRE).await;
    assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
    assert_eq!(relay.suppressed().len(), 1);
    relay.list("# nobody\n").await;
    relay.drain().await;
    eventually("it does not arrive", || host.kept().len() == 2).await;
    assert_eq!(host.kept()[1].to(), ["in@x.example"]);
    assert_eq!(relay.suppressed().len(), 1);
    drop(client);
    assert!(relay.stop().await);
}
