//! Many messages that wait: none holds up another, the host is not stormed when it comes back, and new mail need not
//! queue up behind them.

use std::time::Duration;

use optout_relay::spool::{Request, Wanted};

use crate::held::{SHOP, id};
use crate::host::Act::{Silence, Stall, WhenTold};
use crate::host::{Host, MODERN, Script, Stage, say};
use crate::process::Shop;
use crate::rig::{Client, Logs, Plan, Relay, eventually};

const QUICK: &str = "[delivery]\nretry_first = \"50ms\"\nretry_max = \"100ms\"\n";

/// A relay with so many messages whose host was away when they came.
async fn queue(config: &str, count: usize, host: &Host) -> (Relay, Client) {
    let relay = Relay::start(Plan { config, list: "", upstream: &host.url() }).await;
    let mut client = relay.client().await;
    for number in 0..count {
        let answer = client.mail(SHOP, &[&format!("{number}@x.example")], "Subject: x\r\n\r\nx").await;
        assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
    }
    assert_eq!(relay.line.spool.len(), count);
    (relay, client)
}

#[tokio::test]
async fn one_that_always_fails_holds_up_no_other() {
    for (word, reply) in [
        ("MAIL FROM:<poison@", "450 4.2.0 busy"),
        ("MAIL FROM:<poison@", "hello"),
        ("RCPT TO:<poison@", "451 4.2.1 later"),
        ("RCPT TO:<poison@", "421 4.3.2 closing"),
    ] {
        let (host, logs) = (Host::away(Script::new(MODERN).always(word, reply)), Logs::watch());
        let (relay, mut client) = queue(QUICK, 0, &host).await;
        client.mail("poison@example.com", &["poison@x.example"], "Subject: x\r\n\r\nx").await;
        for _ in 0..20 {
            client.mail(SHOP, &["a@x.example"], "Subject: x\r\n\r\nx").await;
        }
        host.arrive();
        eventually("they do not go past it", || host.kept().len() == 20).await;
        eventually("they are still held", || relay.line.spool.len() == 1).await;
        assert_eq!(relay.held()[0].envelope.sender.as_str(), "poison@example.com");
        assert_eq!(logs.lines(&["the mail host is out of reach"]).len(), 1, "{word} {reply}");
        drop(client);
        assert!(relay.stop().await);
    }
}

#[tokio::test]
async fn a_host_that_is_away_is_asked_by_one_at_a_time() {
    let away = [(); 3].map(|()| WhenTold(b"421 4.3.2 not yet"));
    let host = Host::away(Script::new(MODERN).at(Stage::Greeting, away));
    let (relay, mut client) = queue(QUICK, 50, &host).await;
    host.arrive();
    for asked in 1..=3 {
        eventually("nobody asks", || host.seen().connections == asked).await;
        // Whoever asked as well would be here before this is answered.
        let answer = client.mail(SHOP, &["new@x.example"], "Subject: x\r\n\r\nx").await;
        assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(host.seen().connections, asked);
        host.speak();
    }
    relay.is_drained().await;
    let mut to: Vec<_> = host.kept().iter().flat_map(|taken| taken.to().into_iter().map(str::to_owned)).collect();
    to.sort();
    to.dedup();
    assert_eq!((host.kept().len(), to.len()), (53, 51));
    // As many as may try again at once, and no more.
    assert!(host.seen().connections <= 3 + 10, "{}", host.seen().connections);
    drop(client);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn new_mail_goes_past_all_that_waits() {
    let slow = [say("250 2.0.0 taken"), WhenTold(b"250 2.0.0 taken"), WhenTold(b"250 2.0.0 taken")];
    let host = Host::away(Script::new(MODERN).at(Stage::Dot, slow));
    let (relay, mut client) = queue(QUICK, 200, &host).await;
    host.arrive();
    // The first has found the host, and two others fill all places of those who try again.
    eventually("the queue does not flow", || host.seen().messages.len() == 3).await;
    let answer = client.mail(SHOP, &["new@x.example"], "Subject: x\r\n\r\nx").await;
    assert!(answer.starts_with("250 2.0.0 delivered as "), "{answer}");
    assert_eq!((relay.line.spool.len(), host.kept()[1].to()), (199, vec!["new@x.example"]));
    host.speak();
    host.speak();
    relay.is_drained().await;
    assert_eq!(host.kept().len(), 201);
    drop(client);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn what_is_under_way_is_dropped_when_it_comes_back() {
    let host = Host::start(Script::new(MODERN).at(Stage::Dot, [WhenTold(b"451 4.3.0 later")])).await;
    let relay = Relay::start(Plan { config: "[delivery]\npatience = \"50ms\"\n", list: "", upstream: &host.url() }).await;
    let answer = relay.client().await.mail(SHOP, &["a@x.example"], "Subject: x\r\n\r\nx").await;
    let which = relay.held()[0].envelope.id;
    assert_eq!(id(&answer), which.to_string());
    let ask = |wanted, which| Request { which, wanted }.ask(&relay.path("var/spool")).unwrap();
    let asked = ask(Wanted::Drop, Some(which));
    for _ in 0..2 {
        // Between the first and the second all wishes were looked at.
        let other = ask(Wanted::Retry, None);
        eventually("no wish is heard", || !other.exists()).await;
    }
    assert_eq!(relay.spooled().len(), 1);
    host.speak();
    relay.is_drained().await;
    eventually("the wish is not heard", || !asked.exists()).await;
    assert_eq!((host.kept(), host.seen().messages.len()), (vec![], 1));
    assert!(relay.stop().await);
}

#[tokio::test]
async fn what_is_under_way_at_the_end_is_held_and_sent_by_the_next_relay() {
    for (stage, act, duplicates) in [(Stage::Greeting, Stall, 0), (Stage::Dot, Silence, 1)] {
        let host = Host::start(Script::new(MODERN).at(stage, [act])).await;
        let shop = Shop::new(&format!("shutdown_grace = \"200ms\"\n{QUICK}"), "");
        let mut relay = shop.serve_to(&host.url());
        let mut client = Client::connect(relay.address).await;
        client.expect("220 ").await;
        let stops = async {
            eventually("the host is not asked", || host.seen().connections == 1).await;
            host.has_acted(stage).await;
            relay.signal("TERM");
        };
        let (answer, ()) = tokio::join!(client.mail(SHOP, &["a@x.example"], "Subject: x\r\n\r\nx"), stops);
        assert!(answer.starts_with("250 2.0.0 held as "), "{stage:?}: {answer}");
        let code = relay.end().0;
        assert_eq!((code, relay.count("possible_duplicate=true")), (0, duplicates), "{stage:?}:\n{}", relay.said.join("\n"));
        let mut relay = shop.serve_to(&host.url());
        eventually("it is not sent", || host.kept().len() == 1).await;
        assert_eq!(host.seen().messages.len(), 1 + duplicates);
        relay.stop();
        assert_eq!(relay.count("possible_duplicate"), 0);
        assert_eq!(std::fs::read_dir(shop.path("var/spool")).unwrap().count(), 2);
    }
}
