//! `log.format = "postfix"`: what the real binary writes; that pflogsumm reads it is tried in `tests/interop`.

use crate::process::Shop;
use crate::rig::Client;

const LIST: &str = "addresses = [\"out@x.example\"]\n[[opt_out]]\naddress = \"drop@x.example\"\naction = \"drop\"\n\
                    [[opt_out]]\naddress = \"bounce@x.example\"\naction = \"bounce\"\n";

/// Without the time, the process and the id, which must be a time, a number and an id.
fn bare(line: &str, id: &str) -> String {
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok() && time.ends_with('Z'), "{line}");
    let (before, after) = rest.split_once('[').unwrap();
    let (pid, after) = after.split_once("]: ").unwrap();
    assert!(pid.parse::<u32>().is_ok(), "{line}");
    format!("{before}: {}", after.replace(id, "ID"))
}

#[tokio::test]
async fn each_message_is_told_in_the_words_of_postfix_and_nothing_twice() {
    let shop = Shop::new("[log]\nformat = \"postfix\"\n", LIST);
    let mut relay = shop.serve();
    let mut client = Client::connect(relay.address).await;
    client.expect("220").await;
    let to = ["out@x.example", "drop@x.example", "in@x.example", "bounce@x.example"];
    let reply = client.mail("shop@a.example", &to, "Subject: x\r\nMessage-ID: <1@a>\r\n\r\nx").await;
    let id = reply.split(|c: char| !c.is_ascii_alphanumeric()).find(|word| word.len() == 17).unwrap().to_owned();
    relay.line("to=<shop@a.example>, relay=");
    relay.line(": removed");
    relay.stop();
    let lines: Vec<_> = relay.said.iter().filter(|line| line.contains(&id)).map(|line| bare(line, &id)).collect();
    let took = |line: &str| regex_lite::Regex::new(r"\b\d+\.\d\d\b").unwrap().replace_all(line, "S").into_owned();
    let size = |line: &str| regex_lite::Regex::new(r"size=\d+|report=\w+").unwrap().replace_all(line, "N").into_owned();
    let lines: Vec<_> = lines.iter().map(|line| size(&took(line))).collect();
    let about = |to: &str| format!("from=<shop@a.example> to=<{to}> proto=ESMTP helo=<tool.test>");
    let expected = [
        format!(
            "relay postfix/smtpd: ID: reject: RCPT from unknown[127.0.0.1]: 550 5.7.1 <out@x.example>: Recipient address rejected: opted out; {}",
            about("out@x.example")
        ),
        "relay postfix/smtpd: ID: client=unknown[127.0.0.1]".into(),
        "relay postfix/cleanup: ID: message-id=<1@a>".into(),
        "relay postfix/qmgr: ID: from=<shop@a.example>, N, nrcpt=3 (queue active)".into(),
        format!(
            "relay postfix/smtpd: ID: discard: RCPT from unknown[127.0.0.1]: <drop@x.example>: Recipient address opted out; {}",
            about("drop@x.example")
        ),
        "relay postfix/bounce: ID: to=<bounce@x.example>, relay=none, delay=0, delays=0/0/0/0, dsn=5.7.1, status=bounced (recipient has opted out)".into(),
        "relay postfix/smtp: ID: to=<in@x.example>, relay=file:outbox, delay=S, delays=0/0/0/S, dsn=2.0.0, status=sent (250 2.0.0 written to the outbox)".into(),
        "relay postfix/qmgr: ID: removed".into(),
        "relay optout-relay: info: its sender gets a report id=ID N to=shop@a.example".into(),
    ];
    assert_eq!(lines, expected);
}
