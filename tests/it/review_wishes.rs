//! What people want of held mail: that the log says what was done, and that the relay can read what they leave behind.

use std::os::unix::fs::chown;

use optout_relay::spool::Forgotten;

use crate::held::{SHOP, id};
use crate::host::Act::WhenTold;
use crate::host::{Host, MODERN, Script, Stage};
use crate::process::{Shop, told};
use crate::rig::{Client, Plan, Relay};

const WIRE: &str = "Subject: x\r\n\r\nx";

#[tokio::test]
async fn what_arrived_before_the_wish_was_heard_was_not_dropped() {
    let host = Host::start(Script::new(MODERN).at(Stage::Dot, [WhenTold(b"250 2.0.0 taken")])).await;
    let relay = Relay::start(Plan { config: "[delivery]\npatience = \"50ms\"\n", list: "", upstream: &host.url() }).await;
    let answer = relay.client().await.mail(SHOP, &["a@x.example"], WIRE).await;
    let held = relay.held()[0].envelope.id;
    assert_eq!(id(&answer), held.to_string());
    assert_eq!(relay.line.spool.forget(held).unwrap(), Forgotten::NotYet);
    host.speak();
    relay.is_drained().await;
    assert_eq!(relay.line.spool.forget(held).unwrap(), Forgotten::Before);
    assert!(relay.stop().await);
}

/// Only root can be somebody else.
#[tokio::test]
async fn whoever_is_not_the_relays_user_leaves_the_spool_alone() {
    let shop = Shop::new("", "");
    let host = Host::away(Script::new(MODERN));
    let mut relay = shop.serve_to(&host.url());
    let mut client = Client::connect(relay.address).await;
    client.expect("220 ").await;
    client.mail(SHOP, &["a@x.example"], WIRE).await;
    relay.stop();
    let lock = shop.path("var/spool/lock");
    if chown(&lock, Some(65_534), None).is_ok() {
        let mut command = shop.command(&["spool", "retry"]);
        let (code, _, talk) = told(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap());
        assert!(code == 74 && talk.contains("another user's") && talk.contains("the relay's user"), "{code} {talk}");
    }
}
