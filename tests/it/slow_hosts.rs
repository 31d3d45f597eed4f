//! A host that takes its time: what that costs the relay.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::held::SHOP;
use crate::host::Act::{Silence, WhenTold};
use crate::host::{Host, MODERN, Script, Stage};
use crate::rig::{Plan, Relay, eventually};

const WIRE: &str = "Subject: x\r\n\r\nx";

#[tokio::test]
async fn only_so_many_attempts_go_on_in_memory_when_nobody_waits_for_them_any_more() {
    let host = Host::start(Script::new(MODERN).at(Stage::Dot, [WhenTold(b"250 taken"); 2])).await;
    let config = "[upstream]\nmax_connections = 2\n[delivery]\npatience = \"50ms\"\n";
    let relay = Relay::start(Plan { config, list: "", upstream: &host.url() }).await;
    let mut client = relay.client().await;
    for _ in 0..14 {
        let answer = client.mail(SHOP, &["a@x.example"], WIRE).await;
        assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
    }
    // Two that began while the tool waited, and what the spool lets out of new mail for two connections.
    let under_way = relay.held().iter().filter(|record| record.in_flight()).count();
    assert_eq!(under_way, 10);
    assert_eq!(relay.line.late.available_permits(), 0);
    (0..2).for_each(|_| host.speak());
    relay.drain().await;
    eventually("a place is not given back", || relay.line.late.available_permits() == 2).await;
    assert_eq!(host.kept().len(), 14);
    drop(client);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn a_host_that_says_no_goodbye_is_waited_for_once() {
    let host = Host::start(Script::new(MODERN).at(Stage::Dot, [WhenTold(b"250 taken"); 4]).at(Stage::Quit, [Silence; 4])).await;
    let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
    let mut tools = JoinSet::new();
    for _ in 0..4 {
        let mut client = relay.client().await;
        tools.spawn(async move { client.mail(SHOP, &["a@x.example"], WIRE).await });
    }
    eventually("they are not under way", || host.seen().messages.len() == 4).await;
    (0..4).for_each(|_| host.speak());
    tools.join_all().await.iter().for_each(|answer| assert!(answer.starts_with("250 "), "{answer}"));
    let begun = Instant::now();
    assert!(relay.stop().await);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
