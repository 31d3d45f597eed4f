//! What people want of held mail: that the log says what was done, and that the relay can read what they leave behind.

use std::os::unix::fs::chown;

use crate::held::SHOP;
use crate::host::{Host, MODERN, Script};
use crate::process::{Shop, told};
use crate::rig::Client;

const WIRE: &str = "Subject: x\r\n\r\nx";

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
