//! What the relay says while it runs, and the suppression log as a file: names that scripts rely on, rotation, and no
//! secret at any level.

use std::fs;
use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::process::{Process, Shop};
use crate::rig::{Client, PATIENCE};

const LIST: &str = "addresses = [\"out@example.com\"]\n";

async fn greeted(relay: &Process) -> Client {
    let mut client = Client::connect(relay.address).await;
    client.expect("220 ").await;
    client
}

/// Mails somebody who opted out, in a session of its own: the reply to RCPT.
async fn refused(relay: &Process) -> String {
    let mut client = greeted(relay).await;
    let reply = client.mail("shop@example.com", &["out@example.com"], "").await;
    // With a transaction under way the relay would wait for its end before it stops.
    client.say("QUIT").await;
    reply
}

/// The names of the suppression logs, the one in use last.
fn logs(shop: &Shop) -> Vec<String> {
    let entries = fs::read_dir(shop.path("var/log")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("suppressed") && name.ends_with(".jsonl"));
    // `-` stands before `.`
    names.sort();
    names
}

fn events(shop: &Shop) -> usize {
    logs(shop).iter().map(|name| shop.read(&format!("var/log/{name}")).lines().count()).sum()
}

#[tokio::test]
async fn json_lines_parse_and_hold_the_usual_names() {
    let shop = Shop::new("[log]\nformat = \"json\"\n", LIST);
    let mut relay = shop.serve();
    let mut client = greeted(&relay).await;
    let reply = client.mail("shop@example.com", &["out@example.com", "in@example.com"], "Subject: x\r\n\r\nx").await;
    assert!(reply.starts_with("250 "), "{reply}");
    relay.stop();
    let said: Vec<Value> =
        relay.said.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect();
    let about = |to: &str| said.iter().find(|line| line["to"] == to).unwrap_or_else(|| panic!("{to}: {said:#?}"));
    let sent = about("in@example.com");
    let told = ["relay", "dsn", "status"].map(|name| sent[name].as_str().unwrap_or_default());
    assert_eq!(told, ["file:outbox", "2.0.0", "sent"], "{sent}");
    assert!(sent["delay"].as_str().is_some_and(|delay| delay.parse::<f64>().is_ok()), "{sent}");
    assert!(sent["timestamp"].is_string() && sent["level"] == "INFO" && sent["id"] != "", "{sent}");
    let suppressed = about("out@example.com");
    assert_eq!(suppressed["rule"], "blacklist.toml:1", "{suppressed}");
    assert_eq!(said[0]["message"], "started");
    assert_eq!((&said[0]["opt_outs"], &said[0]["upstream"]), (&1.into(), &"file:outbox".into()), "{}", said[0]);
}

#[tokio::test]
async fn text_lines_hold_the_usual_names_too() {
    let shop = Shop::new("", LIST);
    let mut relay = shop.serve();
    greeted(&relay).await.mail("shop@example.com", &["in@example.com"], "\r\nx").await;
    let line = relay.line(" status=\"sent\"");
    for part in [" id=", " to=in@example.com", " relay=\"file:outbox\"", " delay=\"0.", " dsn=2.0.0"] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
    assert!(!line.contains('\u{1b}'), "{line}");
    relay.stop();
}

/// A host that wants a password and takes everything.
async fn host() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let (mut line, mut in_data, mut reply) = (String::new(), false, "220 host.test ESMTP\r\n");
        loop {
            stream.get_mut().write_all(reply.as_bytes()).await.unwrap();
            line.clear();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            reply = match line.trim_end() {
                "." => "250 2.0.0 taken\r\n",
                _ if in_data => "",
                "DATA" => "354 go on\r\n",
                "QUIT" => "221 2.0.0 bye\r\n",
                hello if hello.starts_with("EHLO") => "250-host.test\r\n250 AUTH PLAIN LOGIN\r\n",
                auth if auth.starts_with("AUTH") => "235 2.7.0 welcome\r\n",
                _ => "250 2.1.0 fine\r\n",
            };
            in_data = reply.starts_with("354") || (in_data && reply.is_empty());
        }
    });
    address
}

#[tokio::test]
async fn no_body_and_no_password_at_any_level() {
    let host = host().await;
    let config = format!(
        "[upstream]\nurl = \"smtp://seller@{host}\"\npassword = {{ file = \"secret\" }}\n[log]\nlevel = \"debug\"\nformat = \"json\"\n"
    );
    let shop = Shop::new(&config, LIST);
    fs::write(shop.path("secret"), "hunter2\n").unwrap();
    let mut command = shop.command(&["serve"]);
    let mut relay = Process::start(command.env("OPTOUT_RELAY_LISTEN__SMTP", "[\"127.0.0.1:0\"]"));
    let mut client = greeted(&relay).await;
    let wire = "Subject: my-subject\r\n\r\nmy-body";
    let reply = client.mail("shop@example.com", &["out@example.com", "in@example.com"], wire).await;
    assert!(reply.starts_with("250 2.0.0 "), "{reply}");
    client.say("BOGUS my-body").await;
    relay.stop();
    assert_eq!(relay.count("\"status\":\"sent\""), 1, "{}", relay.said.join("\n"));
    // The password in itself, and as AUTH PLAIN and AUTH LOGIN write it.
    for secret in ["hunter2", "AHNlbGxlcgBodW50ZXIy", "aHVudGVyMg==", "my-subject", "my-body"] {
        assert_eq!(relay.count(secret), 0, "{secret}: {}", relay.said.join("\n"));
        assert!(!shop.read("var/log/suppressed.jsonl").contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn the_level_is_kept() {
    let shop = Shop::new("[log]\nlevel = \"error\"\n", LIST);
    let mut relay = shop.serve();
    refused(&relay).await;
    relay.stop();
    assert_eq!(relay.count(" INFO "), 0, "{:?}", relay.said);
    assert_eq!(shop.suppressed().len(), 1);
}

#[tokio::test]
async fn the_suppression_log_is_rotated_and_nothing_is_lost() {
    const MAILS: usize = 9;
    for (keep, files) in [(0, MAILS), (3, 4)] {
        let shop = Shop::new(&format!("[log]\nrotate_size = \"1B\"\nkeep = {keep}\n"), LIST);
        let mut relay = shop.serve();
        for _ in 0..MAILS {
            let reply = refused(&relay).await;
            assert!(reply.starts_with("550 5.7.1 "), "{reply}");
        }
        relay.stop();
        let logs = logs(&shop);
        assert_eq!((logs.len(), events(&shop)), (files, files), "{logs:?}");
        assert_eq!(logs.last().map(String::as_str), Some("suppressed.jsonl"));
        assert!(logs[..files - 1].iter().all(|name| name.starts_with("suppressed-20") && name.ends_with("Z.jsonl")), "{logs:?}");
    }
}

#[tokio::test]
async fn a_log_that_is_moved_away_is_begun_anew_after_a_hangup() {
    let shop = Shop::new("", LIST);
    let mut relay = shop.serve();
    refused(&relay).await;
    fs::rename(shop.path("var/log/suppressed.jsonl"), shop.path("var/log/suppressed-mine.jsonl")).unwrap();
    relay.signal("HUP");
    let (begun, mut mails) = (Instant::now(), 1);
    while !shop.path("var/log/suppressed.jsonl").exists() {
        let reply = refused(&relay).await;
        assert!(reply.starts_with("550 ") && begun.elapsed() < PATIENCE, "{reply}");
        mails += 1;
    }
    refused(&relay).await;
    relay.stop();
    assert_eq!(events(&shop), mails + 1);
    assert!((1..=2).contains(&shop.suppressed().len()), "{:?}", shop.suppressed());
}

#[tokio::test]
async fn a_half_written_line_is_cut_and_told() {
    let shop = Shop::new("", LIST);
    fs::create_dir_all(shop.path("var/log")).unwrap();
    fs::write(shop.path("var/log/suppressed.jsonl"), "{\"event\":\"suppressed\"}\n{\"event\":\"supp").unwrap();
    let mut relay = shop.serve();
    relay.says("var/log/suppressed.jsonl ended in a half-written line, which was cut");
    refused(&relay).await;
    relay.stop();
    assert_eq!(shop.suppressed().len(), 2);
}
