//! What comes in goes out, byte for byte below the added `Received:` field, whatever the bytes and however they come;
//! and what a host cannot take is refused instead of altered.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::host::{Host, MODERN, STEPWISE, Script, Stage, Taken, say};
use crate::rig::{Client, Plan, Relay};

/// The wire form without the field that the relay adds in front.
pub fn below_received(taken: &Taken) -> &[u8] {
    let wire = &taken.wire;
    assert!(wire.starts_with(b"Received: from "), "{}", wire.escape_ascii());
    // Three lines, the last of them ends with the time zone.
    let end = wire.windows(7).position(|window| window == b"+0000\r\n").unwrap();
    &wire[end + 7..]
}

fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len());
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        wire.extend(line.starts_with(b".").then_some(b'.'));
        wire.extend_from_slice(line);
    }
    wire
}

pub async fn mail_in_pieces(client: &mut Client, wire: &[u8], cuts: &[usize]) -> String {
    client.send("MAIL FROM:<shop@example.com>\r\nRCPT TO:<in@example.com>\r\nDATA\r\n").await;
    for code in ["250", "250", "354"] {
        client.expect(code).await;
    }
    let mut rest = wire;
    for cut in cuts {
        let (piece, tail) = rest.split_at(cut % (rest.len() + 1));
        client.send(piece).await;
        // The relay reads what is there before the next piece comes.
        tokio::task::yield_now().await;
        rest = tail;
    }
    client.send([rest, b".\r\n"].concat()).await;
    client.reply().await
}

/// Whole lines of what is hard: dots, 8-bit, long lines, empty lines, words that look like commands.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![&b"\r\n"[..], b".", b"..", b".\r\n.", b"\r\n.\r\n", b"\r\n\r\n", b"QUIT\r\n", b"\xe4\xff"]).prop_map(<[u8]>::to_vec),
        2 => prop::collection::vec(any::<u8>().prop_filter("CR, LF and NUL are refused", |byte| !b"\r\n\0".contains(byte)), 0..40),
        1 => (900..3000_usize).prop_map(|length| vec![b'x'; length]),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| {
        let mut content = pieces.concat();
        if !content.is_empty() && !content.ends_with(b"\r\n") {
            content.extend(b"\r\n");
        }
        content
    })
}

#[test]
fn any_content_in_any_pieces_arrives_as_it_was() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (host, relay, mut client) = runtime.block_on(async {
        let host = Host::start(Script::new(MODERN)).await;
        let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
        let client = relay.client().await;
        (host, relay, client)
    });
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let cuts = prop::collection::vec(any::<usize>(), 0..8);
    let client = std::cell::RefCell::new(&mut client);
    let cases = std::cell::Cell::new(0);
    runner
        .run(&(contents(), cuts), |(content, cuts)| {
            let wire = stuffed(&content);
            let heard = runtime.block_on(mail_in_pieces(&mut client.borrow_mut(), &wire, &cuts));
            prop_assert!(heard.starts_with("250 2.0.0 delivered"), "{}", heard);
            cases.set(cases.get() + 1);
            let messages = host.seen().messages;
            prop_assert_eq!(messages.len(), cases.get());
            let found = below_received(messages.last().unwrap());
            prop_assert!(found == wire, "came {}\nwent {}", wire.escape_ascii(), found.escape_ascii());
            Ok(())
        })
        .unwrap();
    assert!(runtime.block_on(relay.stop()));
}

#[tokio::test]
async fn the_envelope_goes_as_it_was_written_and_flags_only_what_is_needed() {
    for (parameters, to, content, mail) in [
        ("", "In@Example.com", "plain", "MAIL FROM:<Shop@Example.com> SIZE=#"),
        (" BODY=8BITMIME SMTPUTF8", "in@example.com", "plain", "MAIL FROM:<Shop@Example.com> SIZE=#"),
        ("", "in@example.com", "8-bit: ä", "MAIL FROM:<Shop@Example.com> SIZE=# BODY=8BITMIME"),
        (" SMTPUTF8", "käufer@example.com", "plain", "MAIL FROM:<Shop@Example.com> SIZE=# SMTPUTF8"),
        (" SMTPUTF8", "in@example.com", "Subject: ä", "MAIL FROM:<Shop@Example.com> SIZE=# BODY=8BITMIME SMTPUTF8"),
        ("", "\"a b\"@example.com", "plain", "MAIL FROM:<Shop@Example.com> SIZE=#"),
    ] {
        for offer in [MODERN, STEPWISE] {
            let host = Host::start(Script::new(offer)).await;
            let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
            let mut client = relay.client().await;
            client.say("EHLO tool.test").await;
            client.say(&format!("MAIL FROM:<Shop@Example.com>{parameters}")).await;
            client.say(&format!("RCPT TO:<{to}>")).await;
            client.say("DATA").await;
            let heard = client.say(&format!("{content}\r\n.")).await;
            assert!(heard.starts_with("250 2.0.0 delivered"), "{mail}: {heard}");
            let seen = host.seen();
            let taken = &seen.messages[0];
            assert_eq!(taken.mail, mail.replace('#', &taken.wire.len().to_string()));
            assert_eq!(taken.accepted, [format!("RCPT TO:<{to}>")]);
            drop(client);
            assert!(relay.stop().await);
            assert_eq!(host.seen().commands.last().map(String::as_str), Some("QUIT"));
        }
    }
}

/// What the tool wants to hear of its mail goes to a host that offers DSN as it was written, and nothing is made up.
#[tokio::test]
async fn wishes_go_on_as_they_were_written_to_a_host_that_offers_dsn() {
    const WISHES: [(&str, &str); 6] = [
        ("a@x.test", " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Old+2Btag@X.test"),
        ("b@x.test", " NOTIFY=NEVER"),
        ("c@x.test", " ORCPT=x400;a+20b+3Dc"),
        ("d@x.test", ""),
        ("e@x.test", " NOTIFY=DELAY"),
        ("f@x.test", " ORCPT=utf-8;k\\x{E4}ufer@x.test"),
    ];
    for (offer, told) in [
        (&["PIPELINING", "SIZE", "DSN"][..], true),
        (&["SIZE", "dsn"], true),
        (&["PIPELINING", "SIZE"], false),
        (&["SIZE", "X-DSN"], false),
    ] {
        let host = Host::start(Script::new(offer)).await;
        let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
        let mut client = relay.client().await;
        client.say("EHLO tool.test").await;
        for parameters in [" RET=HDRS ENVID=a+2Bb+20c", " ENVID=x", " RET=FULL", ""] {
            client.say(&format!("MAIL FROM:<shop@example.com>{parameters}")).await;
            for (to, wishes) in WISHES {
                client.say(&format!("RCPT TO:<{to}>{wishes}")).await;
            }
            client.say("DATA").await;
            let heard = client.say("x\r\n.").await;
            assert!(heard.starts_with("250 2.0.0 delivered"), "{offer:?}: {heard}");
            let if_told = |words: &'static str| if told { words } else { "" };
            // Where the host reports no success, our report about it comes the same way.
            let taken = host.seen().messages.into_iter().rfind(|taken| taken.mail.contains("shop@example.com")).unwrap();
            let size = taken.wire.len();
            assert_eq!(taken.mail, format!("MAIL FROM:<shop@example.com> SIZE={size}{}", if_told(parameters)), "{offer:?}");
            assert_eq!(taken.accepted, WISHES.map(|(to, wishes)| format!("RCPT TO:<{to}>{}", if_told(wishes))), "{offer:?}");
        }
        drop(client);
        assert!(relay.stop().await);
    }
}

/// An original recipient in another script must not make a mail need SMTPUTF8 that can go without.
#[tokio::test]
async fn an_original_recipient_in_another_script_goes_in_the_form_that_the_host_can_take() {
    for (offer, to, hears) in [
        (&["SMTPUTF8", "DSN"][..], "käufer@x.test", "RCPT TO:<käufer@x.test> ORCPT=utf-8;käufer@x.test"),
        (&["SMTPUTF8", "DSN"], "in@x.test", "RCPT TO:<in@x.test> ORCPT=utf-8;k\\x{E4}ufer@x.test"),
        (&["DSN"], "in@x.test", "RCPT TO:<in@x.test> ORCPT=utf-8;k\\x{E4}ufer@x.test"),
    ] {
        let host = Host::start(Script::new(offer)).await;
        let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
        let mut client = relay.client().await;
        client.say("EHLO tool.test").await;
        client.say("MAIL FROM:<shop@example.com> SMTPUTF8").await;
        client.say(&format!("RCPT TO:<{to}> ORCPT=utf-8;käufer@x.test")).await;
        client.say("DATA").await;
        assert!(client.say("x\r\n.").await.starts_with("250 2.0.0 delivered"));
        assert_eq!(host.seen().messages[0].accepted, [hears]);
        drop(client);
        assert!(relay.stop().await);
    }
}

#[tokio::test]
async fn what_the_host_cannot_take_is_refused_and_never_altered() {
    for (offer, parameters, to, content, hears) in [
        (&["SMTPUTF8"][..], "", "in@example.com", "ä", "554 5.6.3"),
        (&["8BITMIME"], " SMTPUTF8", "käufer@example.com", "x", "553 5.6.7"),
        (&["8BITMIME"], " SMTPUTF8", "in@example.com", "Subject: ä", "553 5.6.7"),
        (&["SIZE 20"], "", "in@example.com", "more than twenty bytes", "552 5.3.4"),
        // No limit is told, or none that can be read.
        (&["SIZE"], "", "in@example.com", "x", "250"),
        (&["SIZE 0"], "", "in@example.com", "x", "250"),
        (&[], "", "in@example.com", "x", "250"),
    ] {
        let host = Host::start(Script::new(offer)).await;
        let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
        let mut client = relay.client().await;
        client.say("EHLO tool.test").await;
        client.say(&format!("MAIL FROM:<shop@example.com>{parameters}")).await;
        client.say(&format!("RCPT TO:<{to}>")).await;
        client.say("DATA").await;
        let heard = client.say(&format!("{content}\r\n.")).await;
        assert!(heard.starts_with(hears), "{offer:?}: {heard}");
        assert_eq!(host.seen().messages.len(), usize::from(hears == "250"));
        drop(client);
        assert!(relay.stop().await);
    }
}

#[tokio::test]
async fn what_the_host_says_comes_to_the_tool_clean() {
    for (reply, hears) in [
        (&b"550 5.1.1 red \x1b[31m and \xff\0 odd"[..], "550 5.1.1 red ?[31m and ?? odd"),
        (b"550-5.1.1 first\r\n550 5.1.1 second", "550 5.1.1 first second"),
        (b"550 no enhanced code", "550 5.0.0 no enhanced code"),
        (b"550 2.1.1 a wrong one", "550 5.0.0 2.1.1 a wrong one"),
        (b"550\n", "550 5.0.0"),
    ] {
        let host = Host::start(Script::new(MODERN).at(Stage::Rcpt, [crate::host::Act::Say(reply)])).await;
        let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
        let mut client = relay.client().await;
        let heard = client.mail("shop@example.com", &["in@example.com"], "x").await;
        assert_eq!(heard, hears, "{}", reply.escape_ascii());
        assert!(client.say("NOOP").await.starts_with("250 2.0.0 OK"));
        drop(client);
        assert!(relay.stop().await);
    }
    // Far more than a line may be long.
    let endless = say(Box::leak(format!("550 5.1.1 {}", "x".repeat(5000)).into_boxed_str()));
    let host = Host::start(Script::new(MODERN).at(Stage::Rcpt, [endless])).await;
    let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
    let heard = relay.client().await.mail("shop@example.com", &["in@example.com"], "x").await;
    assert!(heard.starts_with("550 5.1.1 xxx") && heard.len() <= 510, "{heard}");
    assert!(relay.stop().await);
}
