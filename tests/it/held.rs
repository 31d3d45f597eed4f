//! Mail that cannot go now: what the tool hears, what the disk has of it, and what the host gets in the end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::host::Act::WhenTold;
use crate::host::{Host, MODERN, Script, Stage, say};
use crate::rig::{Logs, Plan, Relay, eventually};

pub const SHOP: &str = "shop@example.com";
const ALL: &[&str] = &["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 10000000", "DSN"];

fn plan<'a>(config: &'a str, url: &'a str) -> Plan<'a> {
    Plan { config, list: "", upstream: url }
}

/// The id in an answer that tells one.
pub fn id(answer: &str) -> String {
    let words: Vec<_> = answer.split([' ', ',']).collect();
    words[words.iter().position(|word| *word == "as").unwrap() + 1].to_owned()
}

#[tokio::test]
async fn what_the_host_could_not_take_it_gets_from_another_relay_on_the_same_folder() {
    let (host, content) = (Host::away(Script::new(ALL)), "Subject: \u{fc}\r\n\r\n..\r\n..dot\r\n\r\n");
    let relay = Relay::start(plan("", &host.url())).await;
    let mut client = relay.client().await;
    client.say("EHLO tool.test").await;
    client.say("MAIL FROM:<k\u{e4}ufer@b\u{fc}cher.example> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+2B1").await;
    client.say("RCPT TO:<\"a b\"@x.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;old+2Btag@x.example").await;
    client.say("RCPT TO:<never+tag@x.example> NOTIFY=NEVER").await;
    client.say("DATA").await;
    let answer = client.say(&format!("{content}.")).await;
    assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
    let id = id(&answer);
    assert_eq!(relay.spooled(), [format!("{id}.json"), format!("{id}.msg")]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&relay.path("var/spool")), 0o700);
    for name in relay.spooled() {
        assert_eq!(mode(&relay.path("var/spool").join(name)), 0o600);
    }
    drop(client);
    let (folder, in_time) = relay.leave().await;
    assert!(in_time);
    host.arrive();
    let relay = Relay::start_in(folder, plan("", &host.url())).await;
    relay.drain().await;
    relay.is_drained().await;
    let kept = host.kept();
    let [taken] = &kept[..] else { panic!("{kept:?}") };
    let size = taken.wire.len();
    let mail = "MAIL FROM:<k\u{e4}ufer@b\u{fc}cher.example>";
    assert_eq!(taken.mail, format!("{mail} SIZE={size} BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+2B1"));
    let to = ["<\"a b\"@x.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;old+2Btag@x.example", "<never+tag@x.example> NOTIFY=NEVER"];
    assert_eq!(taken.accepted, to.map(|to| format!("RCPT TO:{to}")));
    let text = taken.text();
    let (trace, rest) = text.split_at(size - content.len());
    assert_eq!(rest, content);
    assert!(trace.starts_with("Received: from tool.test ([127.0.0.1])\r\n\tby relay.test with UTF8SMTP id "), "{trace}");
    assert_eq!((trace.matches("\r\n").count(), trace.matches(&id).count()), (3, 1), "{trace}");
    assert!(relay.stop().await);
}

#[tokio::test]
async fn a_host_that_takes_its_time_settles_what_is_held_meanwhile() {
    let host = Host::start(Script::new(MODERN).at(Stage::Dot, [WhenTold(b"250 2.0.0 taken"), WhenTold(b"554 5.6.0 no")])).await;
    let logs = Logs::watch();
    let relay = Relay::start(plan("[delivery]\npatience = \"50ms\"\n", &host.url())).await;
    let mut client = relay.client().await;
    for (expected, reports) in [("sent", 0), ("bounced", 1)] {
        let answer = client.mail(SHOP, &["a@x.example", "b@x.example"], "Subject: x\r\n\r\nx").await;
        assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
        let held = relay.held();
        assert_eq!((held.len(), held[0].in_flight(), held[0].waiting()), (1, true, vec![0, 1]));
        host.speak();
        relay.is_drained().await;
        assert_eq!(logs.lines(&[&id(&answer), &format!("status=\"{expected}\"")]).len(), 2);
        assert_eq!(host.reports().len(), reports);
    }
    assert_eq!(host.kept().len() - host.reports().len(), 1);
    assert_eq!(host.reports()[0].to(), [SHOP]);
    assert_eq!(logs.lines(&["possible_duplicate"]), [""; 0]);
    drop(client);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn where_the_disk_does_not_take_it_the_tool_waits_for_the_host() {
    let host =
        Host::start(Script::new(MODERN).at(Stage::Dot, [WhenTold(b"250 2.0.0 taken"), WhenTold(b"451 4.3.0 later")])).await;
    let logs = Logs::watch();
    let relay = Relay::start(plan("[delivery]\npatience = \"50ms\"\n", &host.url())).await;
    let (spool, elsewhere) = (relay.path("var/spool"), relay.path("var/elsewhere"));
    let mut client = relay.client().await;
    for (told, expected) in [(1, "250 2.0.0 delivered as "), (2, "451 4.3.0 the message cannot be held on disk")] {
        fs::rename(&spool, &elsewhere).unwrap();
        let answer = client.mail(SHOP, &["a@x.example"], "Subject: x\r\n\r\nx");
        let speaks = async {
            eventually("nobody hears of it", || logs.lines(&["ERROR", "cannot be held"]).len() == told).await;
            host.speak();
        };
        let (answer, ()) = tokio::join!(answer, speaks);
        assert!(answer.starts_with(expected), "{answer}");
        fs::rename(&elsewhere, &spool).unwrap();
        assert_eq!(relay.spooled(), [""; 0]);
    }
    drop(client);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn stored_mail_is_answered_before_the_host_is_asked() {
    let script = Script::new(MODERN).at(Stage::Greeting, [WhenTold(b"220 host.test")]);
    let host = Host::start(script.at(Stage::Rcpt, [say("250 2.1.5 fine"), say("550 5.1.1 nobody")])).await;
    let list = "[[opt_out]]\naddress = \"out@x.example\"\naction = \"drop\"\n";
    let config = "[delivery]\nanswer = \"stored\"\n";
    let relay = Relay::start(Plan { config, list, upstream: &host.url() }).await;
    let mut client = relay.client().await;
    let answer = client.mail(SHOP, &["out@x.example"], "Subject: x\r\n\r\nx").await;
    assert!(answer.starts_with("250 2.0.0 taken as ") && answer.ends_with("nobody is mailed"), "{answer}");
    assert_eq!((relay.spooled(), relay.suppressed().len()), (vec![], 1));
    let answer = client.mail(SHOP, &["out@x.example", "in@x.example"], "Subject: x\r\n\r\nx").await;
    assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
    assert_eq!((relay.spooled().len(), relay.suppressed().len(), host.seen().messages.len()), (1, 2, 0));
    host.speak();
    relay.is_drained().await;
    let answer = client.mail(SHOP, &["gone@x.example"], "Subject: x\r\n\r\nx").await;
    assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
    relay.is_drained().await;
    let kept = host.kept();
    assert_eq!(kept.iter().map(|taken| taken.to()).collect::<Vec<_>>(), [["in@x.example"], [SHOP]]);
    assert!(kept[1].is_report() && kept[1].text().contains("\r\nFinal-Recipient: rfc822;gone@x.example\r\n"), "{kept:?}");
    // Suppressed in the first look, and not once more when it was sent.
    assert_eq!(relay.suppressed().len(), 2);
    drop(client);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn stored_mail_flows_when_the_host_comes() {
    let host = Host::away(Script::new(MODERN));
    let config = "[delivery]\nanswer = \"stored\"\nretry_first = \"50ms\"\n";
    let relay = Relay::start(plan(config, &host.url())).await;
    let mut client = relay.client().await;
    for _ in 0..30 {
        let answer = client.mail(SHOP, &["a@x.example"], "Subject: x\r\n\r\nx").await;
        assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
    }
    host.arrive();
    relay.is_drained().await;
    assert_eq!(host.kept().len(), 30);
    drop(client);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn each_recipient_ends_for_itself_and_one_report_tells_of_the_refused() {
    let rcpt = [say("250 2.1.5 fine"), say("550 5.1.1 no such user"), say("451 4.2.1 later"), say("550 5.2.1 closed")];
    let host = Host::start(Script::new(MODERN).at(Stage::Rcpt, rcpt)).await;
    let relay = Relay::start(plan("", &host.url())).await;
    let mut client = relay.client().await;
    let to = ["a@x.example", "b@x.example", "c@x.example", "d@x.example"];
    let answer = client.mail(SHOP, &to, "Subject: x\r\n\r\nx").await;
    assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
    assert_eq!(relay.held()[0].waiting(), [2]);
    assert_eq!(host.kept().len(), 1);
    relay.drain().await;
    let kept = host.kept();
    assert_eq!(kept.iter().map(|taken| taken.to()).collect::<Vec<_>>(), [vec![to[0]], vec![to[2]], vec![SHOP]]);
    assert_eq!(kept[0].wire, kept[1].wire);
    let report = kept[2].text();
    let told: Vec<_> = report.lines().filter_map(|line| line.strip_prefix("Final-Recipient: rfc822;")).collect();
    assert_eq!(told, [to[1], to[3]]);
    assert!(report.contains("\r\nStatus: 5.1.1\r\n") && report.contains("\r\nStatus: 5.2.1\r\n"), "{report}");
    drop(client);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn without_room_on_the_disk_no_mail_is_begun() {
    let relay = Relay::start(plan("[delivery]\nmin_free = \"1000000TiB\"\n", "")).await;
    let mut client = relay.client().await;
    let answer = client.mail(SHOP, &[], "").await;
    assert!(answer.starts_with("452 4.3.1 "), "{answer}");
    drop(client);
    let (folder, _) = relay.leave().await;
    let relay = Relay::start_in(folder, plan("[delivery]\nmin_free = \"1B\"\n", "")).await;
    let mut client = relay.client().await;
    let answer = client.mail(SHOP, &["a@x.example"], "Subject: x\r\n\r\nx").await;
    assert!(answer.starts_with("250 2.0.0 delivered as "), "{answer}");
    drop(client);
    assert!(relay.stop().await);
}
