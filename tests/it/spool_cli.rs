//! `spool show`, `retry` and `drop`, with a relay that runs and without: what people read, and what becomes of the mail.

use std::process::Output;

use crate::held::{SHOP, id};
use crate::host::{Host, MODERN, Script, Stage, say};
use crate::process::{Process, Shop, told};
use crate::rig::{Client, eventually};

/// Nothing is tried again by itself while a test runs.
const CONFIG: &str = "[delivery]\nretry_first = \"50m\"\n";
const LIST: &str = "[[opt_out]]\naddress = \"out@x.example\"\naction = \"drop\"\n";

/// Hands in a message that is to be held; its id.
async fn hand_in(relay: &Process, to: &[&str]) -> String {
    let mut client = Client::connect(relay.address).await;
    client.expect("220 ").await;
    let answer = client.mail(SHOP, to, "Subject: x\r\n\r\nx").await;
    assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
    id(&answer)
}

/// Runs a command while the host, which is of this process, goes on.
async fn spool(shop: &Shop, arguments: &[&str]) -> (i32, String, String) {
    let mut command = shop.command(&["spool"]);
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    told(output.await.unwrap())
}

fn nothing() -> (i32, String, String) {
    (0, String::new(), "nothing is held\n".into())
}

/// With `…` for every time, and `ID` for the id.
fn timeless(text: &str, id: &str) -> String {
    let text = text.replace(id, "ID");
    let cut = |line: &str| {
        let line = match line.split_once(", waits for ") {
            Some((start, rest)) => format!("{start}, waits for …{}", &rest[rest.find(',').unwrap()..]),
            None => line.to_owned(),
        };
        match line.split_once(" again in ") {
            Some((start, _)) => format!("{start} again in …"),
            None if line.starts_with("  arrived  ") => format!("  arrived  …{}", &line[line.find(" from ").unwrap()..]),
            None => line,
        }
    };
    text.lines().map(|line| cut(line) + "\n").collect()
}

#[tokio::test]
async fn show_tells_for_whom_why_and_when() {
    let rcpt = [say("250 2.1.5 fine"), say("550 5.1.1 no such user"), say("451 4.2.1 later")];
    let host = Host::start(Script::new(MODERN).at(Stage::Rcpt, rcpt)).await;
    let shop = Shop::new(CONFIG, LIST);
    assert_eq!(spool(&shop, &["show"]).await, nothing());
    let mut relay = shop.serve_to(&host.url());
    let id = hand_in(&relay, &["a@x.example", "b@x.example", "c@x.example", "out@x.example"]).await;
    let head = "ID  from shop@example.com, waits for …, was tried once, is tried again in …\n";
    let recipients = "  delivered  a@x.example: 250 2.0.0 taken\n  refused    b@x.example: 550 5.1.1 no such user\n  \
                      waiting    c@x.example: 451 4.2.1 later\n  \
                      suppressed out@x.example: 550 5.7.1 recipient has opted out of your mail\n";
    let size = std::fs::metadata(shop.path(&format!("var/spool/{id}.msg"))).unwrap().len();
    let more = format!("  arrived  … from 127.0.0.1 (tool.test)\n  size     {size} bytes\n");
    for running in [true, false] {
        let (code, out, talk) = spool(&shop, &["show"]).await;
        assert_eq!((code, timeless(&out, &id), talk), (0, format!("{head}{recipients}"), "1 held\n".into()), "{running}");
        let (code, out, talk) = spool(&shop, &["show", &id]).await;
        assert_eq!((code, timeless(&out, &id), talk), (0, format!("{head}{more}{recipients}"), "1 held\n".into()));
        if running {
            relay.stop();
        }
    }
}

#[tokio::test]
async fn retry_has_it_tried_now_by_the_relay_that_runs() {
    let rcpt = [(); 3].map(|()| say("451 4.2.1 later"));
    let host = Host::start(Script::new(MODERN).at(Stage::Rcpt, rcpt)).await;
    let shop = Shop::new(CONFIG, "");
    let mut relay = shop.serve_to(&host.url());
    let mut ids = Vec::new();
    for to in ["a@x.example", "b@x.example", "c@x.example"] {
        ids.push(hand_in(&relay, &[to]).await);
    }
    assert_eq!(spool(&shop, &["retry", &ids[1]]).await, (0, String::new(), "1 to be tried now\n".into()));
    eventually("it is not tried", || host.kept().len() == 1).await;
    assert_eq!(host.kept()[0].to(), ["b@x.example"]);
    assert_eq!(spool(&shop, &["retry"]).await.0, 0);
    eventually("they are not tried", || host.kept().len() == 3).await;
    relay.stop();
    assert_eq!(spool(&shop, &["retry", "all"]).await, nothing());
}

#[tokio::test]
async fn retry_has_it_tried_now_by_the_relay_that_starts_next() {
    let rcpt = [(); 2].map(|()| say("451 4.2.1 later"));
    let host = Host::start(Script::new(MODERN).at(Stage::Rcpt, rcpt)).await;
    let shop = Shop::new(CONFIG, "");
    let mut relay = shop.serve_to(&host.url());
    let (first, _) = (hand_in(&relay, &["a@x.example"]).await, hand_in(&relay, &["b@x.example"]).await);
    relay.stop();
    assert_eq!(spool(&shop, &["retry", &first]).await, (0, String::new(), "1 to be tried now\n".into()));
    let mut relay = shop.serve_to(&host.url());
    eventually("it is not tried", || host.kept().len() == 1).await;
    assert_eq!(host.kept()[0].to(), ["a@x.example"]);
    relay.stop();
    assert_eq!(spool(&shop, &["retry"]).await, (0, String::new(), "1 to be tried now\n".into()));
    let mut relay = shop.serve_to(&host.url());
    eventually("it is not tried", || host.kept().len() == 2).await;
    relay.stop();
}

#[tokio::test]
async fn drop_forgets_one_and_no_other() {
    let host = Host::away(Script::new(MODERN));
    let shop = Shop::new(CONFIG, "");
    for running in [true, false] {
        let mut relay = shop.serve_to(&host.url());
        let (stays, gone) = (hand_in(&relay, &["b@x.example"]).await, hand_in(&relay, &["a@x.example"]).await);
        if !running {
            relay.stop();
        }
        let (code, out, talk) = spool(&shop, &["drop", &gone]).await;
        assert_eq!((code, out.as_str()), (64, ""));
        assert!(talk.ends_with("nobody is here to confirm it\nhint: say --yes\n"), "{talk}");
        assert_eq!(spool(&shop, &["drop", &gone, "--yes"]).await, (0, String::new(), format!("{gone} dropped\n")));
        let not_held = format!("{gone} is not held: it was delivered, given up or dropped; the log tells\n");
        for command in ["show", "retry", "drop"] {
            assert_eq!(spool(&shop, &[command, &gone]).await, (1, String::new(), not_held.clone()), "{command}");
        }
        let (_, out, talk) = spool(&shop, &["show"]).await;
        let expected =
            "ID  from shop@example.com, waits for …, until the mail host is back\n  waiting    b@x.example: 451 4.4.1 ";
        assert!(timeless(&out, &stays).starts_with(expected) && talk == "1 held\n", "{out}{talk}");
        assert!(!shop.path(&format!("var/spool/{gone}.msg")).exists());
        if running {
            relay.says(&format!(" WARN held mail was dropped, for somebody asked for it id={gone}"));
            relay.stop();
        }
        assert_eq!(spool(&shop, &["drop", &stays, "--yes"]).await.0, 0);
        assert_eq!(spool(&shop, &["show"]).await, nothing());
    }
}

#[tokio::test]
async fn what_cannot_be_dropped_is_said_once() {
    let shop = Shop::new(CONFIG, "");
    let mut relay = shop.serve_to(&Host::away(Script::new(MODERN)).url());
    let id = hand_in(&relay, &["a@x.example"]).await;
    let record = shop.path(&format!("var/spool/{id}.json"));
    std::fs::remove_file(&record).unwrap();
    std::fs::create_dir(&record).unwrap();
    let (code, out, talk) = spool(&shop, &["drop", &id, "--yes"]).await;
    assert!(talk.ends_with(&format!("{id} is still held\nhint: the relay's log tells why\n")), "{talk}");
    assert_eq!((code, out.as_str()), (74, ""));
    relay.says("ERROR held mail cannot be dropped: ");
    assert_eq!(std::fs::read_dir(shop.path("var/spool/requests")).unwrap().count(), 0);
    relay.stop();
    assert_eq!(relay.count("cannot be dropped"), 1);
}

#[test]
fn what_is_no_id_is_bad_usage() {
    let shop = Shop::new("", "");
    for arguments in [&["show", "x"][..], &["retry", "../../etc/passwd"], &["drop", "all", "--yes"], &["drop"]] {
        let Output { status, stdout, stderr } = shop.command(&["spool"]).args(arguments).output().unwrap();
        let talk = String::from_utf8(stderr).unwrap();
        assert_eq!((status.code(), stdout), (Some(64), vec![]), "{arguments:?}: {talk}");
        assert!(arguments.len() == 1 || talk.contains("an id has 17 letters and digits"), "{talk}");
    }
    assert!(!shop.path("var").exists());
}
