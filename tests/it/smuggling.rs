//! SMTP smuggling: what looks like the end of a message and is none, with a second mail behind it. Nothing of that mail is
//! ever taken for one: the host gets nothing, or one message in which it is text; and what goes to the host holds no bare
//! CR, no bare LF and no NUL, whatever came in.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::bytes::{below_received, mail_in_pieces};
use crate::host::{Host, MODERN, STEPWISE, Script, Seen};
use crate::rig::{Client, Logs, Plan, Relay};

const FIX: &str = "[listen]\nline_endings = \"fix\"\n";

/// Each fake end, and what becomes of it where it is mended.
const FAKES: [(&str, &str); 11] = [
    ("\n.\n", "\r\n..\r\n"),
    ("\n.\r\n", "\r\n..\r\n"),
    ("\r\n.\n", "\r\n\r\n"),
    ("\r.\r", "\r\n..\r\n"),
    ("\r.\r\n", "\r\n..\r\n"),
    ("\r\n.\r", "\r\n\r\n"),
    ("\r\r\n.\r\r\n", "\r\n\r\n"),
    ("\r\n\0.\r\n", "\r\n..\r\n"),
    ("\r\n.\0\r\n", "\r\n\r\n"),
    ("\r\n.\r\r\n", "\r\n\r\n"),
    ("\n\0.\0\n", "\r\n..\r\n"),
];

const SMUGGLED: &str = "MAIL FROM:<smuggled@example.com>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nx\r\n";

/// Where a fake end may stand: before it, behind it, and the same two where they are mended.
const PLACES: [(&str, &str); 4] =
    [("", SMUGGLED), ("Subject: x\r\n\r\nhello", SMUGGLED), ("Subject: x\r\n\r\nhello", ""), ("a\r\n..\r\n..b", SMUGGLED)];

/// Everything that a host can see of mail is in order, and it was asked to take so many messages.
fn is_clean(seen: &Seen, messages: usize) {
    let sent: Vec<_> = seen.commands.iter().map(|line| line.split([':', ' ']).next().unwrap()).collect();
    assert_eq!(sent.iter().filter(|verb| **verb == "MAIL").count(), messages, "{:?}", seen.commands);
    assert_eq!((sent.iter().filter(|verb| **verb == "DATA").count(), seen.messages.len()), (messages, messages));
    for line in &seen.commands {
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(!line.contains("smuggled") && !line.contains("victim"), "{line}");
    }
    for taken in &seen.messages {
        let wire = &taken.wire;
        let lines: Vec<_> = wire.split_inclusive(|byte| *byte == b'\n').collect();
        assert!(lines.iter().all(|line| line.ends_with(b"\r\n")), "a bare LF: {}", wire.escape_ascii());
        let crs = wire.iter().filter(|byte| **byte == b'\r').count();
        assert_eq!(crs, lines.len(), "a bare CR: {}", wire.escape_ascii());
        assert!(!wire.contains(&0) && !lines.contains(&&b".\r\n"[..]), "{}", wire.escape_ascii());
    }
}

#[tokio::test]
async fn a_fake_end_with_a_mail_behind_it_brings_the_host_nothing_or_one_message() {
    for (config, offer) in [("", MODERN), ("", STEPWISE), (FIX, MODERN), (FIX, STEPWISE)] {
        let host = Host::start(Script::new(offer)).await;
        let relay = Relay::start(Plan { config, list: "", upstream: &host.url() }).await;
        let mut client = relay.client().await;
        let mut wanted = Vec::new();
        for (fake, mended) in FAKES {
            for (before, behind) in PLACES {
                // Behind an end of its own the last line would be empty.
                let last = if fake.ends_with("\r\n") || !behind.is_empty() { "" } else { "\r\n" };
                let heard = mail_in_pieces(&mut client, format!("{before}{fake}{behind}{last}").as_bytes(), &[]).await;
                if config.is_empty() {
                    assert_eq!(&heard[..9], "550 5.5.2", "{before:?} {fake:?}");
                } else {
                    assert!(heard.starts_with("250 2.0.0 delivered"), "{before:?} {fake:?}: {heard}");
                    // CR and CR LF are one line end.
                    let last = if fake.ends_with('\r') { "" } else { last };
                    wanted.push(format!("{before}{mended}{behind}{last}"));
                }
                assert_eq!(client.say("NOOP").await, "250 2.0.0 OK");
            }
        }
        // And the session still carries mail.
        let heard = client.mail("shop@example.com", &["in@example.com"], "end").await;
        assert!(heard.starts_with("250 2.0.0 delivered"), "{heard}");
        wanted.push("end\r\n".into());
        let seen = host.seen();
        is_clean(&seen, wanted.len());
        let found: Vec<_> = seen.messages.iter().map(|taken| String::from_utf8_lossy(below_received(taken))).collect();
        assert_eq!(found, wanted);
        drop(client);
        assert!(relay.stop().await);
    }
}

/// Out of everything that an end is made of.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let hard =
        [&b"\r"[..], b"\n", b"\r\n", b"\0", b".", b"..", b"\r\n.", b".\n", b"text", b"\xff", b"RSET\r\n", SMUGGLED.as_bytes()];
    prop::collection::vec(prop::sample::select(hard.to_vec()), 0..25).prop_map(|pieces| {
        let mut content = pieces.concat();
        if !content.is_empty() && !content.ends_with(b"\r\n") {
            content.extend(b"\r\n");
        }
        // Lone dots behind true line ends are the client's to stuff.
        while let Some(at) = content.windows(5).position(|window| window == b"\r\n.\r\n") {
            content.insert(at + 2, b'.');
        }
        if content.starts_with(b".\r\n") {
            content.insert(0, b'.');
        }
        content
    })
}

#[test]
fn any_bytes_in_any_pieces_are_one_clean_message_or_none() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for config in ["", FIX] {
        let (host, relay, client) = runtime.block_on(async {
            let host = Host::start(Script::new(MODERN)).await;
            let relay = Relay::start(Plan { config, list: "", upstream: &host.url() }).await;
            let client = relay.client().await;
            (host, relay, RefCell::new(client))
        });
        let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
        let cuts = prop::collection::vec(any::<usize>(), 0..8);
        let run = |(content, cuts): (Vec<u8>, Vec<usize>)| {
            let before = host.seen().messages.len();
            let heard = runtime.block_on(mail_in_pieces(&mut client.borrow_mut(), &content, &cuts));
            let taken = usize::from(heard.starts_with("250 2.0.0 delivered"));
            prop_assert!(taken == 1 || (config.is_empty() && heard.starts_with("550 5.5.2")), "{}", heard);
            is_clean(&host.seen(), before + taken);
            Ok(())
        };
        runner.run(&(contents(), cuts), run).unwrap();
        drop(client);
        assert!(runtime.block_on(relay.stop()));
    }
}

/// In the folder, in the spool and from there: the same bytes, whichever way they take.
#[tokio::test]
async fn a_mended_message_is_the_same_on_every_way_out() {
    const CONTENT: &str = "Subject: x\n\nhello\n.\nMAIL FROM:<smuggled@example.com>\r.\r\0\r\n";
    const MENDED: &[u8] = b"Subject: x\r\n\r\nhello\r\n..\r\nMAIL FROM:<smuggled@example.com>\r\n..\r\n";
    for answer in ["delivered", "stored"] {
        let config = format!("{FIX}[delivery]\nanswer = \"{answer}\"\n");
        let host = Host::start(Script::new(MODERN)).await;
        for upstream in ["", &host.url()] {
            let relay = Relay::start(Plan { config: &config, list: "", upstream }).await;
            let heard = mail_in_pieces(&mut relay.client().await, CONTENT.as_bytes(), &[]).await;
            assert!(heard.starts_with("250 2.0.0 "), "{heard}");
            relay.drain().await;
            if upstream.is_empty() {
                let outbox = relay.outbox();
                let unstuffed = MENDED.escape_ascii().to_string().replace("..", ".");
                assert!(outbox.len() == 1 && outbox[0].0.escape_ascii().to_string().ends_with(&unstuffed), "{outbox:?}");
            } else {
                let seen = host.seen();
                is_clean(&seen, 1);
                assert_eq!(below_received(&seen.messages[0]), MENDED);
            }
            assert!(relay.stop().await);
        }
    }
}

#[tokio::test]
async fn what_was_mended_is_logged_once_and_nothing_is_where_nothing_was() {
    let logs = Logs::watch();
    let relay = Relay::start(Plan { config: FIX, list: "", upstream: "" }).await;
    let mut client = relay.client().await;
    client.mail("shop@example.com", &["in@example.com"], "sound\r\n..\r\n").await;
    assert_eq!(logs.lines(&["mended"]), [""; 0]);
    client.say("EHLO \x1b[31mold-tool").await;
    let heard = mail_in_pieces(&mut client, b"a\nb\n\rc\0\r\r\n", &[]).await;
    let id = heard.rsplit(' ').next().unwrap();
    let line = "mended line ends: 2 bare LF, 2 bare CR, 1 NUL";
    let found = logs.lines(&["INFO", line, id, "client=127.0.0.1", "helo=\"?[31mold-tool\"", "shop@example.com"]);
    assert_eq!((found.len(), logs.lines(&["mended"]).len()), (1, 1), "{:?}", logs.lines(&["mended"]));
    drop(client);
    assert!(relay.stop().await);
}

/// Bytes that would begin a line of their own, wherever a client may write a name.
#[tokio::test]
async fn no_name_writes_a_line_into_the_trace_field_or_a_command() {
    let host = Host::start(Script::new(&["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE", "DSN"])).await;
    let relay = Relay::start(Plan { config: "[listen]\nmax_errors = 100\n", list: "", upstream: &host.url() }).await;
    let mut sent = 0;
    for odd in ["\r", "\n", "\0", "\x1b", "\t", "\x7f", "\u{85}", "\u{2028}", "\u{202e}", "+0D+0A", "\\x{0D}"] {
        let mut client = relay.client().await;
        for line in [
            &format!("EHLO a{odd}X-Smuggled b"),
            &format!("EHLO a{odd}b"),
            "EHLO tool.test",
            &format!("MAIL FROM:<shop{odd}@example.com> SMTPUTF8"),
            &format!("MAIL FROM:<shop@example.com> SMTPUTF8 ENVID=a{odd}b"),
            "RSET",
            "MAIL FROM:<shop@example.com> SMTPUTF8",
            &format!("RCPT TO:<in{odd}@example.com>"),
            &format!("RCPT TO:<\"in\\{odd}\"@example.com>"),
            &format!("RCPT TO:<in@example.com> ORCPT=utf-8;a{odd}@example.com"),
            &format!("RCPT TO:<in@example.com> ORCPT=rfc822;a{odd}@example.com"),
            "RCPT TO:<in@example.com>",
            "DATA",
        ] {
            let heard = speak(&mut client, line).await;
            assert!(!heard.contains(char::is_control), "{line:?}: {heard:?}");
        }
        let heard = client.say("x\r\n.").await;
        assert!(heard.starts_with("250 2.0.0 delivered"), "{odd:?}: {heard}");
        sent += 1;
        let seen = host.seen();
        is_clean(&seen, sent);
        let trace = seen.messages[sent - 1].text();
        let printable = |line: &str| line.chars().all(|c| c == '\t' || c == ' ' || c.is_ascii_graphic());
        assert!(trace.split("\r\n").all(printable) && trace.split("\r\n").count() == 5, "{odd:?}: {trace:?}");
    }
    assert!(relay.stop().await);
}

/// A line that may be cut into two by what stands in it: the last reply, once all have been read.
async fn speak(client: &mut Client, line: &str) -> String {
    let heard = client.say(line).await;
    if line.contains('\n') { format!("{heard} {}", client.reply().await) } else { heard }
}
