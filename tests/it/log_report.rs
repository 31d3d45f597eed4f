//! `log report`: what was sent to somebody since the notice came, from the logs that a relay wrote.

use crate::learned::notice;
use crate::process::Shop;
use crate::rig::Client;

const BUYER: &str = "k3x9qzr7w2m5p1d@marketplace.amazon.it";

fn line(time: &str, event: &str, recipient: &str) -> String {
    format!(
        "{{\"time\":\"{time}\",\"event\":\"{event}\",\"recipient\":\"{recipient}\",\"sender\":\"s@x.example\",\"id\":\"i\"}}\n"
    )
}

#[tokio::test]
async fn it_tells_what_left_after_the_notice_was_written_and_what_did_not() {
    let shop = Shop::new("[listen]\nsmtp = [\"127.0.0.1:0\"]\n[upstream]\nurl = \"file:outbox\"\n", "");
    let mut relay = shop.serve();
    let mut client = Client::connect(relay.address).await;
    client.expect("220 ").await;
    assert!(client.mail("shop@tool.example", &[BUYER], "Message-ID: <m1@tool>\r\n\r\nx").await.starts_with("250"));
    // Written at eight; the mail left later.
    let text = notice("n1", BUYER, "").replace("25 Nov 2026", "25 Nov 2025");
    assert!(client.mail("shop@tool.example", &["optout@relay.local"], &text).await.contains("learned: "));
    assert!(client.mail("shop@tool.example", &[BUYER], "x").await.starts_with("550"));
    client.say("QUIT").await;
    relay.stop();
    let (code, out, talk) = shop.run(&["log", "report", "K3X9qzr7w2m5p1d+x@marketplace.amazon.it"]);
    assert_eq!((code, talk.as_str()), (1, ""), "{out}");
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].contains("learned: notice <n1@amazon.com> of 2025-11-25T08:00:00Z, by address"), "{out}");
    assert!(lines[2].contains("sent: from shop@tool.example, ") && lines[2].ends_with(" <m1@tool>"), "{out}");
    assert!(lines[3].contains("suppressed: from shop@tool.example"), "{out}");
    assert_eq!(lines[4], "1 sent, 1 not sent");
    let (code, out, _) = shop.run(&["log", "report", BUYER, "--since", "2999-01-01"]);
    assert_eq!((code, out.lines().last()), (0, Some("0 sent, 0 not sent")));
    let (code, out, _) = shop.run(&["log", "report", BUYER, "--json"]);
    assert!(code == 1 && out.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{out}");
    let (code, _, talk) = shop.run(&["log", "report", "nobody@x.example"]);
    assert!(code == 66 && talk.contains("no notice about nobody@x.example is in the log\nhint: say from when on"), "{talk}");
}

#[test]
fn rotated_files_are_read_and_damaged_lines_are_told() {
    let shop = Shop::new("", "");
    let log = shop.path("var/log");
    std::fs::create_dir_all(&log).unwrap();
    let write = |name: &str, text: String| std::fs::write(log.join(name), text).unwrap();
    // Over before the day that is asked for: not even opened.
    write("sent-20251101T000000.000000Z.jsonl", "damaged\n".into());
    write(
        "sent-20251120T000000.000000Z.jsonl",
        line("2025-11-10T00:00:00Z", "sent", "a@x.example") + &line("2025-11-09T00:00:00Z", "sent", "a@x.example"),
    );
    write(
        "sent.jsonl",
        line("2025-11-21T00:00:00Z", "sent", "A@X.example") + "{\"half\n" + &line("2025-11-22T00:00:00Z", "sent", "b@x.example"),
    );
    let (code, out, talk) = shop.run(&["log", "report", "a@x.example", "--since", "2025-11-10"]);
    assert_eq!(
        (code, out.lines().last(), talk.as_str()),
        (65, Some("2 sent, 0 not sent"), "var/log/sent.jsonl:2: this line is damaged\n")
    );
}

#[tokio::test]
async fn the_command_learns_and_undoes_while_no_relay_runs() {
    let shop = Shop::new("[listen]\nsmtp = [\"127.0.0.1:0\"]\n[upstream]\nurl = \"file:outbox\"\n[learn]\nmax_per_day = 1\n", "");
    let write = |name: &str, text: &str| std::fs::write(shop.path(name), text).unwrap();
    write("1.eml", &notice("n1", BUYER, ""));
    write("2.eml", &notice("n2", "other@marketplace.amazon.it", ""));
    write("3.eml", "Subject: hello\n\nx\n");
    let (code, out, _) = shop.run(&["learn", "--dry-run", "1.eml"]);
    assert!(code == 0 && out.contains(&format!("would be learned: {BUYER} opted out")) && !shop.path("var").exists(), "{out}");
    let (code, out, talk) = shop.run(&["learn", "1.eml", "2.eml", "3.eml"]);
    assert!(
        code == 0 && out.contains("learned: ") && out.contains("waits as ") && out.contains("nothing learned: "),
        "{out}{talk}"
    );
    assert_eq!(shop.run(&["learn", "3.eml"]).0, 1);
    // Also where a relay has left its index.
    shop.serve().stop();
    assert_eq!(shop.run(&["learn", "3.eml"]).0, 1);
    assert_eq!(shop.run(&["explain", BUYER]).0, 1);
    // A person takes the wrong one back, and the notice comes again.
    let (code, out, _) = shop.run(&["list", "remove", BUYER]);
    assert!(code == 0 && out.contains("var/learned.toml: ended, address"), "{out}");
    assert_eq!(shop.run(&["explain", BUYER]).0, 0);
    let (_, out, _) = shop.run(&["learn", "1.eml"]);
    assert!(out.contains("a person has ended that"), "{out}");
    // And lets the other one in.
    let (_, out, _) = shop.run(&["learn", "quarantine", "show"]);
    let id = out.split('\t').next().unwrap().to_owned();
    assert!(out.contains("learn.max_per_day") && id.len() == 12, "{out}");
    let (code, out, talk) = shop.run(&["learn", "quarantine", "accept", &id]);
    assert_eq!((code, talk.as_str()), (0, ""), "{out}");
    assert_eq!(shop.run(&["explain", "other@marketplace.amazon.it"]).0, 1);
    assert_eq!(shop.run(&["learn", "quarantine", "reject", &id]).0, 66);
    let log = shop.read("var/log/learned.jsonl");
    let events: Vec<_> =
        log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].clone()).collect();
    assert_eq!(events, ["learned", "quarantined", "accepted"]);
}
