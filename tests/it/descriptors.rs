//! A process may have only so many files open: clients must not use them up, and where they do it passes.

use std::time::Duration;

use crate::process::Shop;
use crate::rig::Client;

const LIST: &str = "addresses = [\"out@example.com\"]\n";

#[tokio::test]
async fn a_flood_of_clients_leaves_files_for_mail_and_log() {
    let shop = Shop::new("", LIST);
    let mut relay = shop.serve_within("-n 64");
    relay.says(" WARN serving only 4 clients at once, not 512: at most 64 files may be open");
    relay.says("hint: raise the limit of open files (`ulimit -n`, or LimitNOFILE= in the unit), or lower `listen.max_sessions`");
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(Client::connect(relay.address).await);
    }
    // Whoever came last has a place; the others had said nothing, and made room.
    let mut last = clients.split_off(196);
    for client in &mut last {
        client.expect("220 relay.test").await;
    }
    for client in &mut clients {
        client.expect("220 relay.test").await;
        client.expect("421 4.3.2").await;
    }
    let heard = last[0].mail("shop@example.com", &["out@example.com", "in@example.com"], "x").await;
    assert!(heard.starts_with("250 2.0.0"), "{heard}");
    assert_eq!((shop.delivered().len(), shop.suppressed().len()), (1, 1));
    drop(last);
    drop(clients);
    let mut late = Client::connect(relay.address).await;
    late.expect("220 relay.test").await;
    assert!(late.mail("shop@example.com", &["in@example.com"], "x").await.starts_with("250 2.0.0"));
    drop(late);
    relay.stop();
    assert_eq!((shop.delivered().len(), relay.count("ERROR")), (2, 0), "{}", relay.said.join("\n"));
}

/// Shells and services often set a low limit that may be raised.
#[tokio::test]
async fn a_limit_that_may_be_raised_is_no_limit() {
    let shop = Shop::new("[listen]\nmax_sessions = 100\n", LIST);
    let mut relay = shop.serve_within("-S -n 64");
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = Client::connect(relay.address).await;
        client.expect("220 relay.test").await;
        clients.push(client);
    }
    drop(clients);
    relay.stop();
    assert_eq!((relay.count("WARN"), relay.count("ERROR")), (0, 0), "{}", relay.said.join("\n"));
}

#[tokio::test]
async fn without_a_file_for_it_a_client_waits_and_is_served_later() {
    let shop = Shop::new("", LIST);
    let mut relay = shop.serve();
    let idle = relay.open_files();
    relay.stop();
    let Some(idle) = idle else { return println!("skipped: only root may count the files of the relay") };
    let mut relay = shop.serve_within(&format!("-n {}", idle + 2));
    relay.says(" WARN serving only 4 clients");
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(relay.address).await;
        client.expect("220 relay.test").await;
        clients.push(client);
    }
    let mut waits = Client::connect(relay.address).await;
    relay.line("ERROR accept a connection: ");
    relay.line("hint: raise the limit of open files, or lower `listen.max_sessions`");
    assert!(relay.is_silent(Duration::from_secs(1)), "it goes on and on: {}", relay.said.join("\n"));
    clients.pop();
    waits.expect("220 relay.test").await;
    drop((clients, waits));
    relay.stop();
}
