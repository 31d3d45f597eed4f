//! Opt-outs that are learned: a notice comes in, and the next mail to that buyer does not leave.

use crate::held::SHOP;
use crate::host::{Host, MODERN, Script};
use crate::rig::{Plan, Relay, eventually};

const OURS: &str = "optout@relay.local";
const BUYER: &str = "k3x9qzr7w2m5p1d@marketplace.amazon.it";
const OTHER: &str = "zzz9qzr7w2m5p1d@marketplace.amazon.it";
const ORDER: &str = "404-1234567-7654321";

/// A notice of today's shape; the buyer's address and the order may be left out.
pub fn notice(id: &str, buyer: &str, order: &str) -> String {
    let link = if buyer.is_empty() { String::new() } else { format!("<a href=3D\"mailto:{buyer}?subject=3Dx\">contact</a>") };
    let number = if order.is_empty() { String::new() } else { format!(" [{order}]") };
    format!(
        "From: Amazon <auto-communication@amazon.com>\r\nTo: shop@shop.example\r\nDate: Wed, 25 Nov 2026 08:00:00 +0000\r\n\
         Subject: Your e-mail could not be delivered{number}\r\nMessage-ID: <{id}@amazon.com>\r\n\
         X-Space-Notification-Type: BUYER_OPTED_OUT_BSM_MESSAGES\r\nX-Marketplace-ID: APJ6JRA9NG5V4\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/alternative; boundary=\"b1\"\r\n\r\n--b1\r\nContent-Type: text/html; charset=UTF-8\r\n\
         Content-Transfer-Encoding: quoted-printable\r\n\r\n<p>Your message about order{number} could not be delivered, \
         because t=\r\nhe buyer has chosen to opt out of receiving unsolicited messages.</p>{link}\r\n--b1--\r\n"
    )
}

fn about(order: &str) -> String {
    format!("Subject: your order {order}\r\n\r\nThank you.")
}

async fn relay(config: &str, list: &str) -> Relay {
    Relay::start(Plan { config, list, upstream: "" }).await
}

/// The reply to one mail.
async fn mail(relay: &Relay, to: &[&str], wire: &str) -> String {
    relay.client().await.mail(SHOP, to, wire).await
}

fn field<'a>(line: &'a serde_json::Value, path: &[&str]) -> &'a str {
    path.iter().fold(line, |value, name| &value[name]).as_str().unwrap_or("null")
}

fn learned(relay: &Relay) -> String {
    std::fs::read_to_string(relay.path("var/learned.toml")).unwrap()
}

#[tokio::test]
async fn a_notice_mailed_to_us_opts_its_buyer_out_before_it_is_answered() {
    let relay = relay("", "").await;
    let reply = mail(&relay, &[OURS], &notice("n1", BUYER, ORDER)).await;
    assert!(reply.starts_with("250 2.0.0 taken as ") && reply.ends_with(&format!("; learned: {BUYER} opted out")), "{reply}");
    let reply = mail(&relay, &[BUYER], &about("")).await;
    assert!(reply.starts_with("550 5.7.1"), "{reply}");
    let line = &relay.suppressed()[0];
    assert_eq!((field(line, &["recipient"]), field(line, &["rule", "kind"])), (BUYER, "address"));
    assert!(field(line, &["rule", "file"]).ends_with("learned.toml"), "{line}");
    assert_eq!((field(line, &["source"]), field(line, &["since"])), ("notice <n1@amazon.com>", "2026-11-25T08:00:00Z"));
    // The same again, and another one for the same buyer.
    for id in ["n1", "n2"] {
        let reply = mail(&relay, &[OURS], &notice(id, BUYER, "")).await;
        assert!(reply.ends_with(&format!("known: {BUYER} had opted out before")), "{reply}");
    }
    let text = learned(&relay);
    assert_eq!(text.matches("[[opt_out]]").count(), 1, "{text}");
    for part in ["verified = false", "message_id = \"n1@amazon.com\"", &format!("order = \"{ORDER}\""), "intake = \"address\""] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(relay.outbox().is_empty());
    // It is there when the relay comes back.
    let (folder, _) = relay.leave().await;
    let relay = Relay::start_in(folder, Plan { config: "", list: "", upstream: "" }).await;
    assert!(mail(&relay, &[BUYER], &about("")).await.starts_with("550 5.7.1"));
    assert!(relay.stop().await);
}

#[tokio::test]
async fn an_order_that_was_mailed_about_tells_whose_notice_it_is() {
    let relay = relay("", "").await;
    assert!(mail(&relay, &[BUYER, "copy@shop.example"], &about(ORDER)).await.starts_with("250 2.0.0 delivered"));
    let reply = mail(&relay, &[OURS], &notice("n1", "", ORDER)).await;
    assert!(reply.ends_with(&format!("learned: {BUYER} opted out")), "{reply}");
    assert!(mail(&relay, &[BUYER], &about("")).await.starts_with("550 5.7.1"));
    assert!(mail(&relay, &["copy@shop.example"], &about("")).await.starts_with("250"));
}

#[tokio::test]
async fn an_order_that_waits_finds_its_buyer_before_the_first_mail_leaves() {
    let relay = relay("", "").await;
    let reply = mail(&relay, &[OURS], &notice("n1", "", ORDER)).await;
    assert!(reply.contains(&format!("learned: order {ORDER} opted out")), "{reply}");
    // Whoever else gets it is not the buyer.
    let reply = mail(&relay, &[BUYER, "copy@shop.example"], &about(ORDER)).await;
    assert!(reply.starts_with("250 2.0.0 delivered"), "{reply}");
    let outbox = relay.outbox();
    assert_eq!((outbox.len(), &outbox[0].1["recipients"]), (1, &serde_json::json!(["copy@shop.example"])));
    let line = &relay.suppressed()[0];
    assert_eq!((field(line, &["rule", "kind"]), field(line, &["rule", "value"])), ("order", ORDER));
    // From here on by the address, whatever a mail is about.
    assert!(mail(&relay, &[BUYER], &about("")).await.starts_with("550 5.7.1"));
    assert!(mail(&relay, &[OTHER], &about("404-0000000-0000000")).await.starts_with("250"));
    let line = &relay.suppressed()[1];
    assert_eq!((field(line, &["rule", "kind"]), field(line, &["source"])), ("address", "notice <n1@amazon.com>"));
}

#[tokio::test]
async fn an_order_in_a_list_works_the_same_way() {
    let relay = relay("", "").await;
    assert!(mail(&relay, &[BUYER], &about(ORDER)).await.starts_with("250 2.0.0 delivered"));
    relay.list(&format!("orders = [\"{ORDER}\", \"404-0000000-0000000\"]\n")).await;
    eventually("the buyer is not found", || relay.line.lists.current().len() == 3).await;
    assert!(mail(&relay, &[BUYER], &about("")).await.starts_with("550 5.7.1"));
    assert!(mail(&relay, &[OTHER], &about("404-0000000-0000000")).await.starts_with("550 5.7.1"));
    assert!(mail(&relay, &[OTHER], &about("")).await.starts_with("550 5.7.1"));
    assert_eq!(relay.outbox().len(), 1);
}

#[tokio::test]
async fn a_copy_to_us_opts_out_the_other_recipients_or_the_orders() {
    let relay = relay("", "").await;
    let reply = mail(&relay, &[BUYER, "optout+buyer@relay.local", "me@example.com"], &about("")).await;
    assert!(reply.contains("delivered as ") && reply.contains(&format!("learned: {BUYER} opted out")), "{reply}");
    assert_eq!(
        relay.outbox().iter().map(|(_, envelope)| envelope["recipients"].clone()).collect::<Vec<_>>(),
        [serde_json::json!(["me@example.com"])]
    );
    let reply = mail(&relay, &["optout+order@relay.local", OTHER], &about(ORDER)).await;
    assert!(reply.starts_with("250 ") && reply.ends_with("this message was not sent to them"), "{reply}");
    assert!(mail(&relay, &[OTHER], &about("")).await.starts_with("550 5.7.1"));
    // Alone, it speaks of whoever stands in the header.
    let wire = "To: third@marketplace.amazon.de, me@example.com\r\n\r\nx";
    let reply = mail(&relay, &["optout+buyer@relay.local"], wire).await;
    assert!(reply.ends_with("learned: third@marketplace.amazon.de opted out"), "{reply}");
    let reply = mail(&relay, &["optout+order@relay.local"], "Subject: x\r\n\r\nx").await;
    assert!(reply.ends_with("nothing learned: it names no order"), "{reply}");
}

#[tokio::test]
async fn what_is_held_is_stopped_and_counted() {
    let host = Host::away(Script::new(MODERN));
    let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
    for to in [BUYER, BUYER, OTHER] {
        assert!(mail(&relay, &[to], &about("")).await.starts_with("250 2.0.0 held"));
    }
    let reply = mail(&relay, &[OURS], &notice("n1", BUYER, "")).await;
    assert!(reply.ends_with(&format!("learned: {BUYER} opted out, 2 held messages are stopped")), "{reply}");
    host.arrive();
    relay.drain().await;
    assert_eq!(host.kept().iter().filter(|mail| mail.to() == [BUYER]).count(), 0);
    assert_eq!(host.kept().iter().filter(|mail| mail.to() == [OTHER]).count(), 1);
}

#[tokio::test]
async fn what_cannot_be_written_down_or_read_back_is_not_called_learned() {
    let relay = relay("", "").await;
    let path = relay.path("var/learned.toml");
    std::fs::write(&path, "addresses = [\n").unwrap();
    let reply = mail(&relay, &[OURS], &notice("n1", BUYER, "")).await;
    assert!(reply.starts_with("451 4.3.0 what was learned cannot be written down"), "{reply}");
    std::fs::write(&path, "").unwrap();
    assert!(mail(&relay, &[OURS], &notice("n1", BUYER, "")).await.contains("learned: "));
    assert!(mail(&relay, &[BUYER], &about("")).await.starts_with("550 5.7.1"));
}

#[tokio::test]
async fn who_is_never_learned_and_what_is_too_much_in_a_day() {
    let config = "[learn]\nnever_learn = [\"zzz*@marketplace.amazon.*\"]\nmax_per_day = 1\n";
    let relay = relay(config, "").await;
    let reply = mail(&relay, &[OURS], &notice("n1", OTHER, "")).await;
    assert!(reply.contains("nothing learned: ") && reply.contains("never_learn"), "{reply}");
    assert!(mail(&relay, &[OURS], &notice("n2", BUYER, "")).await.contains("learned: "));
    let reply = mail(&relay, &[OURS], &notice("n3", "third@marketplace.amazon.de", "")).await;
    assert!(reply.contains("waits as ") && reply.contains("learn.max_per_day"), "{reply}");
    assert!(mail(&relay, &["third@marketplace.amazon.de"], &about("")).await.starts_with("250"));
    assert_eq!(std::fs::read_dir(relay.path("var/quarantine")).unwrap().count(), 1);
}

/// The lines of `learned.jsonl`.
fn journal(relay: &Relay) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(relay.path("var/log/learned.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn each_lesson_is_one_line_in_its_log() {
    let relay = relay("", "").await;
    mail(&relay, &[OURS], &notice("n1", "", ORDER)).await;
    mail(&relay, &[OURS], &notice("n1", "", ORDER)).await;
    mail(&relay, &[BUYER], &about(ORDER)).await;
    mail(&relay, &[OURS], "Subject: hello\r\n\r\nx").await;
    let lines = journal(&relay);
    let told: Vec<_> =
        lines.iter().map(|line| [field(line, &["event"]), field(line, &["address"]), field(line, &["order"])]).collect();
    assert_eq!(told, [["waiting", "null", ORDER], ["bound", BUYER, ORDER]]);
    assert_eq!((field(&lines[1], &["message_id"]), field(&lines[1], &["since"])), ("n1@amazon.com", "2026-11-25T08:00:00Z"));
}

#[tokio::test]
async fn a_folder_is_learned_from_and_nothing_in_it_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join("notices").join(name);
    for part in ["", "new", "cur", "tmp"] {
        std::fs::create_dir_all(at(part)).unwrap();
    }
    let write = |name: &str, text: &str| std::fs::write(at(name), text).unwrap();
    write("a.eml", &notice("n1", BUYER, ""));
    write("b.EML", "Subject: hello\r\n\r\nx");
    write("c.txt", &notice("n3", "third@marketplace.amazon.de", ""));
    write("new/1.x", &notice("n2", OTHER, ""));
    write("new/2.x", "Subject: hello\r\n\r\nx");
    write("cur/3.x:2,F", &notice("n4", "fourth@marketplace.amazon.de", ""));
    write("cur/4.x:2,S", &notice("n5", "fifth@marketplace.amazon.de", ""));
    let config = "[learn]\nfolder = \"notices\"\n";
    let relay = Relay::start_in(folder, Plan { config, list: "", upstream: "" }).await;
    let files = |names: &[&str]| names.iter().all(|name| relay.path("notices").join(name).exists());
    eventually("the files are not put away", || {
        files(&["learned/a.eml", "nothing/b.EML", "cur/1.x:2,S", "new/2.x", "cur/3.x:2,FS", "cur/4.x:2,S", "c.txt"])
    })
    .await;
    assert_eq!(relay.line.lists.current().len(), 3);
    for (to, reply) in [
        (BUYER, "550 5.7.1"),
        (OTHER, "550 5.7.1"),
        ("fourth@marketplace.amazon.de", "550 5.7.1"),
        ("third@marketplace.amazon.de", "250"),
    ] {
        assert!(mail(&relay, &[to], &about("")).await.starts_with(reply), "{to}");
    }
    // A name that is taken there already replaces nothing.
    std::fs::write(relay.path("notices/a.eml"), notice("n1", BUYER, "")).unwrap();
    eventually("the second one is not put away", || files(&["learned/a.eml", "learned/2-a.eml"])).await;
}

#[tokio::test]
async fn what_no_host_vouches_for_waits_for_a_person_where_one_must() {
    let config = "[learn]\ntrusted_authserv = [\"mx.shop.example\"]\n";
    let relay = relay(config, "").await;
    let vouched = |result: &str, id: &str, buyer: &str| format!("Authentication-Results: {result}\r\n{}", notice(id, buyer, ""));
    for (result, learned) in [
        ("mx.shop.example; dkim=fail header.d=amazon.com", false),
        ("mx.evil.example; dkim=pass header.d=amazon.com", false),
        ("mx.shop.example; dkim=pass header.d=evil.example", false),
        ("mx.shop.example; dkim=pass header.d=amazon.com", true),
    ] {
        let reply = mail(&relay, &[OURS], &vouched(result, "n1", BUYER)).await;
        assert_eq!((reply.contains("learned: "), reply.contains("waits as ")), (learned, !learned), "{result}: {reply}");
    }
    assert!(learned(&relay).contains("verified = true"));
    let text = std::fs::read_dir(relay.path("var/quarantine"))
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
    let text: Vec<_> = text.collect();
    assert!(text.len() == 1 && text[0].starts_with("# no DKIM or DMARC pass of amazon.it by mx.shop.example\n"), "{text:?}");
}

#[tokio::test]
async fn a_refusal_that_means_an_opt_out_is_learned() {
    let host = Host::start(Script::new(MODERN).always("RCPT TO:<gone@", "550 5.7.1 Recipient Opted-Out")).await;
    let config = "[learn]\nrefusals = [{ code = 550, text = \"opted[ -]out\" }]\n";
    let relay = Relay::start(Plan { config, list: "", upstream: &host.url() }).await;
    assert!(mail(&relay, &["gone@x.example"], &about("")).await.starts_with("550 5.7.1 Recipient"));
    assert!(mail(&relay, &["gone@x.example"], &about("")).await.starts_with("550 5.7.1 recipient has opted out"));
    assert!(learned(&relay).contains("refusal like"), "{}", learned(&relay));
}

#[tokio::test]
async fn an_address_that_many_share_is_never_opted_out_by_an_order() {
    let shared = "no-reply-amazon-iba-buyer@marketplace.amazon.it";
    let relay = relay("", "").await;
    assert!(mail(&relay, &[shared], &about(ORDER)).await.starts_with("250 2.0.0 delivered"));
    let reply = mail(&relay, &[OURS], &notice("n1", "", ORDER)).await;
    assert!(reply.contains(&format!("learned: order {ORDER} opted out")), "{reply}");
    // Mail about that order does not leave, mail about others does.
    assert!(mail(&relay, &[shared], &about(ORDER)).await.starts_with("550 5.7.1"));
    assert!(mail(&relay, &[shared], &about("404-0000000-0000000")).await.starts_with("250 2.0.0 delivered"));
    assert!(!learned(&relay).contains(shared));
}

#[tokio::test]
async fn dots_that_begin_lines_are_what_they_were() {
    let relay = relay("", "").await;
    let stuffed = notice("n1", BUYER, "").replace("<p>Your", "..\r\n<p>Your");
    assert!(mail(&relay, &[OURS], &stuffed).await.contains("learned: "));
}
