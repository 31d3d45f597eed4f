//! A login that the host does not take: it is tried rarely, for hosts lock accounts; mail waits for it without asking, and
//! people hear once what is wrong and when it goes on.

use std::path::Path;

use tokio::task::JoinSet;

use crate::held::SHOP;
use crate::host::{Act, Host, MODERN, Script, Stage, say};
use crate::rig::{Client, Logs, Plan, Relay, eventually};

const OFFER: &[&str] = &["PIPELINING", "8BITMIME", "AUTH PLAIN LOGIN"];

/// Each of them as the answer to the password.
const REFUSALS: &[(&str, &str)] = &[
    ("535 5.7.8 bad credentials", "does not take our login: 535 5.7.8 bad credentials"),
    ("534 5.7.9 application-specific password required", "does not take our login: 534 5.7.9 application-specific"),
    ("530 5.7.0 first something else", "does not take our login: 530 5.7.0"),
    ("538 5.7.11 encryption required", "does not take our login: 538 5.7.11"),
    ("554 5.7.0 disabled", "does not take our login: 554 5.7.0"),
    // Hosts say it so where there were too many tries.
    ("454 4.7.0 too many login attempts", "does not take our login: 454 4.7.0"),
    ("421 4.7.0 try again later", "does not take our login: 421 4.7.0"),
    ("334 more", "does not take our login: 334 more"),
    ("250 fine", "does not take our login: 250 fine"),
];

fn set_password(folder: &Path, password: &str) -> String {
    let path = folder.join("password");
    std::fs::write(&path, format!("{password}\n")).unwrap();
    format!("[upstream]\nuser = \"seller\"\npassword = {{ file = \"{}\" }}\n", path.display())
}

fn logins(host: &Host) -> usize {
    host.seen().commands.iter().filter(|command| command.starts_with("AUTH ")).count()
}

async fn held(client: &mut Client) {
    let answer = client.mail(SHOP, &["in@example.com"], "Subject: x\r\n\r\nx").await;
    assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
}

/// A relay whose login is refused, and the folder with its password.
async fn refused(acts: impl IntoIterator<Item = Act>, more: &str) -> (Host, Relay, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::start(Script::new(OFFER).at(Stage::Auth, acts)).await;
    let config = format!("{}{more}", set_password(folder.path(), "wrong"));
    let relay = Relay::start(Plan { config: &config, list: "", upstream: &host.url() }).await;
    (host, relay, folder)
}

#[tokio::test]
async fn a_login_that_is_refused_is_tried_once_and_said_once_however_much_mail_waits() {
    for (refusal, words) in REFUSALS {
        let logs = Logs::watch();
        let (host, relay, _folder) = refused([say(refusal)], "").await;
        let mut client = relay.client().await;
        for _ in 0..5 {
            held(&mut client).await;
        }
        assert_eq!((logins(&host), host.seen().connections), (1, 1), "{refusal}");
        let told = logs.lines(&["ERROR", words, ": mail is held, and the login is tried again in 5m"]);
        assert_eq!(told.len(), 1, "{refusal}: {:?}", logs.lines(&["ERROR"]));
        assert_eq!(logs.lines(&["ERROR"]).len(), 1, "{:?}", logs.lines(&["ERROR"]));
        assert_eq!(logs.lines(&["hint: see to `upstream.user` and its password"]).len(), 1);
        // Somebody asks for it, and the host has thought better of it.
        relay.line.spool.hurry(None);
        relay.is_drained().await;
        assert_eq!(host.kept().len(), 5, "{refusal}");
        drop(client);
        assert!(relay.stop().await);
    }
}

#[tokio::test]
async fn many_who_come_at_once_say_the_password_once() {
    let logs = Logs::watch();
    let (host, relay, _folder) = refused([Act::WhenTold(b"535 5.7.8 no")], "").await;
    let mut tools = JoinSet::new();
    for _ in 0..30 {
        let mut client = relay.client().await;
        tools.spawn(async move { held(&mut client).await });
    }
    eventually("nobody asks", || logins(&host) == 1).await;
    host.speak();
    assert_eq!(tools.join_all().await.len(), 30);
    assert_eq!((logins(&host), host.seen().connections, logs.lines(&["ERROR"]).len()), (1, 1, 1));
    // And where it is taken they all go on side by side.
    relay.line.spool.hurry(None);
    relay.is_drained().await;
    assert_eq!(host.kept().len(), 30);
    assert!(relay.stop().await);
}

/// A host that goes on refusing is asked ever more rarely, by the waits of `[delivery]`.
#[tokio::test]
async fn it_is_tried_again_by_the_waits_of_delivery() {
    let logs = Logs::watch();
    let rhythm = "[delivery]\nretry_first = \"50ms\"\nretry_max = \"200ms\"\n";
    let (host, relay, _folder) = refused([say("535 5.7.8 no"); 4], rhythm).await;
    held(&mut relay.client().await).await;
    relay.is_drained().await;
    assert_eq!((logins(&host), host.kept().len()), (5, 1));
    for wait in ["in 50ms", "in 100ms"] {
        assert_eq!(logs.lines(&["ERROR", "tried again", wait]).len(), 1, "{wait}");
    }
    assert_eq!(logs.lines(&["ERROR", "tried again in 200ms"]).len(), 2);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn a_password_file_that_was_changed_is_tried_at_once() {
    let logs = Logs::watch();
    let (host, relay, folder) = refused([say("535 5.7.8 no"), say("535 5.7.8 no")], "").await;
    let mut client = relay.client().await;
    held(&mut client).await;
    // Still wrong.
    set_password(folder.path(), "wrong again");
    eventually("it is not tried", || logins(&host) == 2).await;
    eventually("it is not told", || logs.lines(&["ERROR", "tried again in 10m"]).len() == 1).await;
    set_password(folder.path(), "right");
    relay.is_drained().await;
    let said: Vec<_> = host.seen().commands.into_iter().filter(|command| command.starts_with("AUTH ")).collect();
    let plain = ["AHNlbGxlcgB3cm9uZw==", "AHNlbGxlcgB3cm9uZyBhZ2Fpbg==", "AHNlbGxlcgByaWdodA=="];
    assert_eq!(said, plain.map(|words| format!("AUTH PLAIN {words}")));
    assert_eq!(logs.lines(&["INFO", "the password towards the mail host has changed"]).len(), 2);
    assert_eq!(host.kept().len(), 1);
    drop(client);
    assert!(relay.stop().await);
}

/// What the host says, and what we say then: the first way that it offers, LOGIN where PLAIN is not known, and never more
/// than there is to say.
#[tokio::test]
async fn a_login_ends_whatever_the_host_answers() {
    let plain = "AUTH PLAIN AHNlbGxlcgB3cm9uZw==";
    for (offer, acts, said, taken) in [
        (OFFER, &[][..], &[plain][..], true),
        (&["AUTH LOGIN"], &[], &["AUTH LOGIN"], true),
        (OFFER, &[say("504 5.5.4 unknown")], &[plain, "AUTH LOGIN"], true),
        (&["AUTH PLAIN"], &[say("504 5.5.4 unknown")], &[plain], false),
        (OFFER, &[say("504 5.5.4 unknown"), say("504 5.5.4 unknown")], &[plain, "AUTH LOGIN"], false),
        (OFFER, &[say("535-5.7.8 no\r\n535 5.7.8 and no")], &[plain], false),
        // Before it was asked for anything: it wants nothing more.
        (&["AUTH LOGIN"], &[say("235 2.7.0 come in")], &["AUTH LOGIN"], true),
        // All answers at once, to questions that were not asked.
        (&["AUTH LOGIN"], &[Act::Say(b"334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n235 in\r\n")], &["AUTH LOGIN"], false),
        (OFFER, &[Act::Say(b"235-in\r\nhello\r\n")], &[plain], false),
        (OFFER, &[Act::Say(b"334-\xff\xfe\r\n334 \0\r\n")], &[plain], false),
        (OFFER, &[Act::Endless(b"235-and another thing\r\n")], &[plain], false),
        (OFFER, &[Act::Endless(b"x")], &[plain], false),
        (OFFER, &[Act::Silence], &[plain], false),
        (OFFER, &[Act::Cut], &[plain], false),
        (&["AUTH"], &[], &[], false),
        (&["AUTH CRAM-MD5 XOAUTH2"], &[], &[], false),
        (MODERN, &[], &[], false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::start(Script::new(offer).at(Stage::Auth, acts.iter().copied())).await;
        let config = format!("{}timeout = \"2s\"\n", set_password(folder.path(), "wrong"));
        let relay = Relay::start(Plan { config: &config, list: "", upstream: &host.url() }).await;
        let answer = relay.client().await.mail(SHOP, &["in@example.com"], "Subject: x\r\n\r\nx").await;
        assert!(answer.starts_with(if taken { "250 2.0.0 delivered" } else { "250 2.0.0 held" }), "{offer:?} {acts:?}: {answer}");
        let seen: Vec<_> = host.seen().commands.into_iter().filter(|command| command.starts_with("AUTH")).collect();
        assert_eq!(seen, said, "{offer:?} {acts:?}");
        assert_eq!(host.kept().len(), usize::from(taken), "{offer:?} {acts:?}");
        assert!(relay.stop().await);
    }
}
