//! Tools that encrypt, and a door that is crowded: who gets in, what counts, and who makes room for whom.

use std::path::Path;

use optout_relay::certificate::Certificate;
use optout_relay::upstream::{Trust, connector};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio_rustls::TlsConnector;

use crate::rig::{Client, Logs, Plan, Relay, eventually};

const TLS: &str = "[listen]\ncertificate = \"chain.pem\"\nkey = \"key.pem\"\n";

/// Writes a new certificate for `localhost` into a folder; whoever trusts it.
pub fn certify(folder: &Path) -> TlsConnector {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("chain.pem"), cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), signing_key.serialize_pem()).unwrap();
    connector(Trust::Ca(&folder.join("chain.pem"))).unwrap()
}

async fn start(config: &str) -> (Relay, TlsConnector) {
    let folder = tempfile::tempdir().unwrap();
    let trusts = certify(folder.path());
    (Relay::start_in(folder, Plan { config, list: "", upstream: "" }).await, trusts)
}

async fn start_tls(relay: &Relay, trusts: &TlsConnector) -> std::io::Result<Client> {
    let mut client = relay.client().await;
    client.say("EHLO tool").await;
    assert_eq!(client.say("STARTTLS").await, "220 2.0.0 go ahead with TLS");
    client.encrypt(trusts).await
}

#[tokio::test]
async fn a_tool_encrypts_and_is_asked_everything_anew() {
    let (relay, trusts) = start(TLS).await;
    let mut client = relay.client().await;
    client.send("EHLO first\r\n").await;
    assert!(client.lines().await.contains(&"250-STARTTLS".to_owned()));
    client.say("MAIL FROM:<in-the-clear@example.com>").await;
    client.expect_to("STARTTLS", "220 2.0.0").await;
    let mut client = client.encrypt(&trusts).await.unwrap();
    // Whatever was said in the clear may have been said by anybody.
    client.expect_to("RCPT TO:<buyer@example.com>", "503 5.5.1").await;
    client.send("EHLO second\r\n").await;
    assert!(!client.lines().await.iter().any(|line| line.contains("STARTTLS")));
    client.expect_to("STARTTLS", "503 5.5.1").await;
    let heard = client.mail("shop@example.com", &["buyer@example.com"], "Subject: x\r\n\r\nx").await;
    assert!(heard.starts_with("250 2.0.0"), "{heard}");
    let (content, envelope) = &relay.outbox()[0];
    let content = String::from_utf8_lossy(content);
    assert_eq!(envelope["sender"], "shop@example.com");
    assert!(content.contains(" with ESMTPS id ") && content.contains("from tool.test ("), "{content}");
    drop(client);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn what_stands_behind_starttls_ends_the_connection() {
    let logs = Logs::watch();
    let (relay, _) = start(TLS).await;
    let mut client = relay.client().await;
    client.say("EHLO tool").await;
    client.send("STARTTLS\r\nMAIL FROM:<smuggled@example.com>\r\n").await;
    assert_eq!(client.line().await, None);
    assert_eq!(logs.lines(&["hung up: something was sent behind STARTTLS"]).len(), 1);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn encryption_from_the_first_byte() {
    let (relay, trusts) = start(&format!("{TLS}submissions = [\"127.0.0.1:0\"]\n")).await;
    let encrypted = relay.encrypted.unwrap();
    let mut client = Client::connect(encrypted).await.encrypt(&trusts).await.unwrap();
    client.expect("220 relay.test").await;
    let heard = client.mail("shop@example.com", &["buyer@example.com"], "x").await;
    assert!(heard.starts_with("250 2.0.0"), "{heard}");
    assert_eq!(client.say("QUIT").await, "221 2.0.0 bye");
    assert_eq!(client.line().await, None);
    // Whoever speaks before the greeting does not speak SMTP here either.
    let mut client = Client::connect(encrypted).await.encrypt(&trusts).await.unwrap();
    client.send("GET / HTTP/1.1\r\n").await;
    let heard = client.line().await.unwrap();
    assert!(heard.starts_with("554 5.5.0") || heard.starts_with("220"), "{heard}");
    drop(client);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn who_speaks_no_tls_is_hung_up_on() {
    let logs = Logs::watch();
    let (relay, trusts) = start(&format!("{TLS}submissions = [\"127.0.0.1:0\"]\n")).await;
    let mut client = Client::connect(relay.encrypted.unwrap()).await;
    client.send("EHLO tool\r\n").await;
    while client.bytes().await.is_some() {}
    let mut client = relay.client().await;
    client.say("EHLO tool").await;
    client.say("STARTTLS").await;
    client.send("EHLO tool\r\n").await;
    while client.bytes().await.is_some() {}
    eventually("nothing is said of it", || !logs.lines(&["no TLS with a client"]).is_empty()).await;
    // Nobody else is concerned.
    assert!(start_tls(&relay, &trusts).await.is_ok());
    assert!(relay.stop().await);
}

#[tokio::test]
async fn a_new_certificate_is_in_force_by_itself_and_a_broken_one_is_not() {
    let logs = Logs::watch();
    let (relay, old) = start(TLS).await;
    let folder = relay.folder.path().to_owned();
    let new = certify(&folder);
    eventually("the certificate is not reloaded", || !logs.lines(&["certificate reloaded"]).is_empty()).await;
    assert!(start_tls(&relay, &new).await.is_ok());
    assert!(start_tls(&relay, &old).await.is_err());
    // The key of another certificate.
    let key = std::fs::read(folder.join("key.pem")).unwrap();
    certify(&folder);
    std::fs::write(folder.join("key.pem"), key).unwrap();
    relay.control.reload();
    let told = &["certificate not reloaded, the last good one stays in force", "cannot be used with the key in"];
    eventually("nothing is said of it", || !logs.lines(told).is_empty()).await;
    assert!(start_tls(&relay, &new).await.is_ok());
    assert!(relay.stop().await);
}

/// The three places are taken; whoever comes makes the one leave that has been silent for longest, and nobody who has brought
/// mail.
#[tokio::test]
async fn silent_clients_make_room() {
    let (relay, _) = start("[listen]\nmax_sessions = 3\n").await;
    let mut good = relay.client().await;
    let heard = good.mail("shop@example.com", &["buyer@example.com"], "x").await;
    assert!(heard.starts_with("250"), "{heard}");
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(relay.client().await);
        // They differ by a millisecond at least.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    for mut gone in silent.drain(..8) {
        gone.expect("421 4.3.2").await;
        assert_eq!(gone.line().await, None);
    }
    for client in silent.iter_mut().chain([&mut good]) {
        assert!(client.say("NOOP").await.starts_with("250"));
    }
    drop((silent, good));
    assert!(relay.stop().await);
}

/// A trickle is silence: only a whole command, or a piece of a message, is not.
#[tokio::test]
async fn a_trickle_is_silence() {
    let (relay, _) = start("[listen]\nmax_sessions = 2\n").await;
    let mut trickle = relay.client().await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    // It says less, and has not been here for as long.
    let mut quiet = relay.client().await;
    for _ in 0..10 {
        trickle.send("X").await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let late = relay.client().await;
    trickle.expect("421 4.3.2").await;
    assert!(quiet.say("NOOP").await.starts_with("250"));
    drop((late, quiet));
    assert!(relay.stop().await);
}

/// A message waits until another one has left its memory; the small one beside them does not.
#[tokio::test]
async fn large_mail_waits_for_room_and_small_mail_does_not() {
    let (relay, _) = start("[listen]\nmax_message_size = \"1MiB\"\nmax_memory = \"2MiB\"\n").await;
    let line = format!("{}\r\n", "x".repeat(98));
    let begin = async |client: &mut Client| {
        client.say("EHLO tool").await;
        client.say("MAIL FROM:<shop@example.com>").await;
        client.say("RCPT TO:<buyer@example.com>").await;
        client.expect_to("DATA", "354").await;
    };
    let (mut first, mut second) = (relay.client().await, relay.client().await);
    begin(&mut first).await;
    begin(&mut second).await;
    first.send(line.repeat(10_000)).await;
    eventually("the first one takes no room", || relay.line.memory.left() == 0).await;
    second.send(line.repeat(3_000)).await;
    second.send(".\r\n").await;
    let mut small = relay.client().await;
    assert!(small.mail("shop@example.com", &["buyer@example.com"], &line.repeat(100)).await.starts_with("250"));
    assert_eq!(relay.outbox().len(), 1, "the second one does not wait");
    assert!(first.say(".").await.starts_with("250"));
    assert!(second.reply().await.starts_with("250"));
    eventually("room is not given back", || relay.line.memory.left() == 1 << 20).await;
    drop((first, second, small));
    assert!(relay.stop().await);
}

/// Whoever is taken out of the file sends nothing more, also over a connection that is open; nobody else is concerned.
#[tokio::test]
async fn a_user_who_is_removed_logs_in_anew() {
    const HASH: &str = "$argon2id$v=19$m=8192,t=1,p=1$+qqx3gtMXby7ec6VTC55Iw$k96cCueJTl2P+DqQhhyoSZYIg8wRSM39kTGBT6jBV0g";
    let users = |names: &[&str]| {
        let entry = |name: &&str| format!("[[user]]\nname = \"{name}\"\npassword = \"{HASH}\"\n");
        names.iter().map(entry).collect::<String>()
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("users.toml"), users(&["stays", "goes"])).unwrap();
    let config = "[listen]\nclients = [\"10.0.0.0/8\"]\nusers = \"users.toml\"\n";
    let logs = Logs::watch();
    let relay = Relay::start_in(folder, Plan { config, list: "", upstream: "" }).await;
    let (mut stays, mut goes) = (relay.client().await, relay.client().await);
    for (client, login) in [(&mut stays, "c3RheXM="), (&mut goes, "Z29lcw==")] {
        client.say("EHLO tool").await;
        client.expect_to(&format!("AUTH LOGIN {login}"), "334").await;
        client.expect_to("czNjcmV0", "235").await;
        client.expect_to("MAIL FROM:<shop@example.com>", "250").await;
        client.expect_to("RSET", "250").await;
    }
    std::fs::write(relay.path("users.toml"), users(&["stays"])).unwrap();
    eventually("the users are not reloaded", || !logs.lines(&["users reloaded", "users=1"]).is_empty()).await;
    stays.expect_to("MAIL FROM:<shop@example.com>", "250").await;
    goes.expect_to("MAIL FROM:<shop@example.com>", "530 5.7.0").await;
    goes.expect_to("AUTH LOGIN Z29lcw==", "334").await;
    goes.expect_to("czNjcmV0", "535").await;
    drop((stays, goes));
    assert!(relay.stop().await);
}

/// A tool would not trust it, and only says that there is "no TLS".
#[tokio::test]
async fn a_certificate_whose_time_is_over_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |from: i32, until: i32| {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(at("chain.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(at("key.pem"), key.serialize_pem()).unwrap();
        Certificate::open(&at("chain.pem"), &at("key.pem")).unwrap().lapse()
    };
    assert_eq!(write(2020, 2021), Some("has expired: tools will not trust it"));
    assert_eq!(write(2090, 2091), Some("is not valid yet: tools will not trust it"));
    assert_eq!(write(2020, 2090), None);
}
