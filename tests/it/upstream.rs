//! What the tool hears, and what the host has got, when the host does anything but take the mail: every stage with every
//! kind of trouble, with PIPELINING and without.

use tokio::task::JoinSet;

use crate::host::Act::{self, Cut, Last, Say, Silence};
use crate::host::{Host, MODERN, STEPWISE, Script, Stage, say};
use crate::rig::{Logs, Plan, Relay};

/// One trouble: where, what, the status of it (5xx is what the tool hears, with 4xx the mail is held), and whether the host may have the message although it did not say so.
type Row = (Stage, Act, &'static str, Known);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// The dot never came, or its answer was clear.
    Surely,
    /// The dot came and its answer did not.
    Perhaps,
}
use Known::{Perhaps, Surely};

const TROUBLES: &[Row] = &[
    (Stage::Greeting, Say(b"421 4.3.2 busy"), "451 4.4.1", Surely),
    (Stage::Greeting, Say(b"554 5.7.1 go away"), "451 4.4.1", Surely),
    (Stage::Greeting, Say(b"hello"), "451 4.4.1", Surely),
    (Stage::Greeting, Say(b"220 one\r\n220 two\r\n"), "451 4.4.1", Surely),
    (Stage::Greeting, Cut, "451 4.4.1", Surely),
    (Stage::Greeting, Silence, "451 4.4.1", Surely),
    (Stage::Ehlo, Say(b"451 4.3.0 later"), "451 4.4.1", Surely),
    (Stage::Ehlo, Say(b"550 5.7.1 not you"), "451 4.4.1", Surely),
    (Stage::Ehlo, Say(b"250-half\r\nhello"), "451 4.4.1", Surely),
    (Stage::Ehlo, Say(b"250 host.test\r\n250 early\r\n"), "451 4.4.", Surely),
    (Stage::Ehlo, Cut, "451 4.4.1", Surely),
    (Stage::Ehlo, Silence, "451 4.4.1", Surely),
    (Stage::Mail, Say(b"450 4.2.0 busy"), "450 4.2.0 busy", Surely),
    (Stage::Mail, Say(b"421 4.3.2 closing"), "421 4.3.2", Surely),
    (Stage::Mail, Say(b"550 5.1.8 no such shop"), "550 5.1.8 no such shop", Surely),
    (Stage::Mail, Say(b"530 5.7.0 log in first"), "451 4.7.0", Surely),
    (Stage::Mail, Say(b"550 5.7.1 Authentication required"), "451 4.7.0", Surely),
    (Stage::Mail, Say(b"354 what"), "451 4.", Surely),
    (Stage::Mail, Say(b"hello"), "451 4.4.2", Surely),
    (Stage::Mail, Cut, "451 4.4.2", Surely),
    (Stage::Mail, Silence, "451 4.4.2", Surely),
    (Stage::Rcpt, Say(b"450 4.2.1 full"), "450 4.2.1", Surely),
    (Stage::Rcpt, Say(b"421 4.3.2 closing"), "421 4.3.2", Surely),
    (Stage::Rcpt, Say(b"550 5.1.1 nobody"), "550 5.1.1 nobody", Surely),
    (Stage::Rcpt, Say(b"354 what"), "451 4.5.0", Surely),
    (Stage::Rcpt, Say(b"hello"), "451 4.4.2", Surely),
    (Stage::Rcpt, Cut, "451 4.4.2", Surely),
    (Stage::Rcpt, Silence, "451 4.4.2", Surely),
    (Stage::Data, Say(b"451 4.3.0 later"), "451 4.3.0", Surely),
    (Stage::Data, Say(b"421 4.3.2 closing"), "421 4.3.2", Surely),
    (Stage::Data, Say(b"554 5.6.0 no mail today"), "554 5.6.0 no mail today", Surely),
    (Stage::Data, Say(b"250 2.0.0 what"), "451 4.", Surely),
    (Stage::Data, Say(b"hello"), "451 4.4.2", Surely),
    (Stage::Data, Cut, "451 4.4.2", Surely),
    (Stage::Data, Silence, "451 4.4.2", Surely),
    (Stage::Dot, Say(b"452 4.3.1 full"), "452 4.3.1", Surely),
    (Stage::Dot, Say(b"421 4.3.2 closing"), "421 4.3.2", Surely),
    (Stage::Dot, Say(b"554 5.7.1 spam"), "554 5.7.1 spam", Surely),
    (Stage::Dot, Say(b"354 more"), "451 4.4.2", Perhaps),
    (Stage::Dot, Say(b"hello"), "451 4.4.2", Perhaps),
    (Stage::Dot, Cut, "451 4.4.2", Perhaps),
    (Stage::Dot, Silence, "451 4.4.2", Perhaps),
];

#[tokio::test]
async fn every_trouble_at_every_stage_is_told_and_the_next_attempt_arrives_once() {
    let logs = Logs::watch();
    let mut rows = JoinSet::new();
    for (name, offer) in [("modern", MODERN), ("stepwise", STEPWISE)] {
        for (number, &row) in TROUBLES.iter().enumerate() {
            let recipient = format!("{name}-{number}@example.com");
            rows.spawn(async move { one_trouble(row, offer, &recipient).await });
        }
    }
    let all = rows.join_all().await;
    assert_eq!(all.len(), 2 * TROUBLES.len());
    for (recipient, known) in all {
        let warned = logs.lines(&["WARN", "possible_duplicate=true", &recipient]).len();
        assert_eq!(warned, usize::from(known == Perhaps), "{recipient}: possible duplicates in the log");
    }
}

async fn one_trouble((stage, act, hears, known): Row, offer: &'static [&'static str], recipient: &str) -> (String, Known) {
    let place = format!("{recipient}: {stage:?} {act:?}");
    let host = Host::start(Script::new(offer).at(stage, [act])).await;
    let config = if let Silence = act { "[upstream]\ntimeout = \"2s\"\ndata_timeout = \"2s\"\n" } else { "" };
    let relay = Relay::start(Plan { config, list: "", upstream: &host.url() }).await;
    let mut client = relay.client().await;
    let heard = client.mail("shop@example.com", &[recipient], "Subject: x\r\n\r\nhello").await;
    let deferred = hears.starts_with('4');
    let expected = if deferred { "250 2.0.0 held" } else { hears };
    assert!(heard.starts_with(expected), "{place}: the tool hears {heard:?}, wants {expected:?}");
    let taken = host.seen().messages;
    assert_eq!(taken.len(), usize::from(stage == Stage::Dot), "{place}: {taken:?}");
    assert!(taken.iter().all(|taken| !taken.kept), "{place}");
    let held = relay.held();
    let last: Vec<_> = held.iter().flat_map(|record| &record.outcomes).flatten().map(|last| last.status().to_string()).collect();
    assert!(last.iter().all(|status| status.starts_with(hears)) && last.len() == usize::from(deferred), "{place}: {last:?}");
    // The trouble is over. What it left behind must neither keep mail from arriving nor double it.
    relay.drain().await;
    if !deferred {
        let heard = client.mail("shop@example.com", &[recipient], "Subject: x\r\n\r\nhello").await;
        assert!(heard.starts_with("250 2.0.0 delivered"), "{place}: afterwards the tool hears {heard:?}");
    }
    drop(client);
    assert!(relay.stop().await, "{place}");
    let kept = host.seen().messages.iter().filter(|taken| taken.kept).count();
    assert_eq!(kept, 1, "{place}");
    (recipient.to_owned(), known)
}

#[tokio::test]
async fn mail_for_a_host_that_cannot_be_reached_is_held() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let relay = Relay::start(Plan { config: "", list: "", upstream: &format!("smtp://{closed}") }).await;
    let heard = relay.client().await.mail("shop@example.com", &["in@example.com"], "x").await;
    assert!(heard.starts_with("250 2.0.0 held as "), "{heard}");
    assert_eq!(relay.held().len(), 1);
    assert!(relay.stop().await);
}

/// Replies that no RFC allows and hosts give: they count for what they mean.
#[tokio::test]
async fn an_odd_reply_that_can_be_understood_is() {
    for (stage, reply) in [
        (Stage::Greeting, &b"220\r\n"[..]),
        (Stage::Greeting, b"220-host.test\r\n220-has\r\n220 much to say\r\n"),
        (Stage::Greeting, b"220 host \xff\x1b\0\n"),
        (Stage::Ehlo, b"250-\r\n250 PIPELINING\r\n"),
        (Stage::Ehlo, b"250\r\n"),
        (Stage::Mail, b"250\r\n"),
        (Stage::Mail, b"250 ok\n"),
        (Stage::Rcpt, b"251 somewhere else\r\n"),
        (Stage::Rcpt, b"250-a\n250 b\n"),
        (Stage::Data, b"354\r\n"),
        (Stage::Dot, b"250\r\n"),
        (Stage::Dot, b"250 \xff\xfe\x80\r\n"),
        (Stage::Dot, b"250-2.0.0 queued\n250\n"),
        (Stage::Quit, b"500 what\r\n"),
    ] {
        let host = Host::start(Script::new(MODERN).at(stage, [Say(reply)])).await;
        let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
        let heard = relay.client().await.mail("shop@example.com", &["in@example.com"], "x").await;
        assert!(heard.starts_with("250 2.0.0 delivered"), "{stage:?} {}: {heard}", reply.escape_ascii());
        assert!(relay.stop().await);
        assert_eq!(host.seen().messages.iter().filter(|taken| taken.kept).count(), 1);
    }
}

#[tokio::test]
async fn one_of_several_recipients_is_refused_or_deferred() {
    let (yes, no, later) = ("250 2.1.5 fine", "550 5.1.1 nobody", "450 4.2.1 full");
    for (replies, hears, reached, wait) in [
        ([yes, no, yes], "250 2.0.0 delivered", 2, 0),
        ([no, no, no], "550 5.1.1 nobody", 0, 0),
        // Each for itself: whoever is accepted gets it now, and whoever is not waits alone.
        ([yes, later, yes], "250 2.0.0 held", 2, 1),
        ([later, no, yes], "250 2.0.0 held", 1, 1),
        ([no, later, no], "250 2.0.0 held", 0, 1),
    ] {
        for offer in [MODERN, STEPWISE] {
            let host = Host::start(Script::new(offer).at(Stage::Rcpt, replies.map(say))).await;
            let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
            let heard = relay.client().await.mail("shop@example.com", &["a@x.test", "b@x.test", "c@x.test"], "x").await;
            assert!(heard.starts_with(hears), "{replies:?}: {heard}");
            let to_them = |taken: &crate::host::Taken| taken.accepted.iter().filter(|to| to.contains("x.test")).count();
            assert_eq!(host.seen().messages.iter().map(to_them).sum::<usize>(), reached, "{replies:?}");
            assert_eq!(
                relay.held().iter().filter(|held| !held.is_report()).map(|held| held.waiting().len()).sum::<usize>(),
                wait
            );
            // In the end everybody has it once, or the sender a report about all who have not.
            relay.drain().await;
            assert!(relay.stop().await);
            let taken = host.seen().messages;
            assert_eq!(taken.iter().map(to_them).sum::<usize>(), reached + wait, "{replies:?}: {taken:?}");
            let refused = replies.iter().filter(|reply| reply.starts_with('5')).count();
            let reports: Vec<_> = taken.iter().filter(|taken| taken.accepted == ["RCPT TO:<shop@example.com>"]).collect();
            let told = reports.iter().map(|report| String::from_utf8_lossy(&report.wire).matches("Action: failed").count());
            let told: Vec<_> = told.collect();
            assert_eq!(told, if refused == 0 || refused == 3 { vec![] } else { vec![refused] }, "{replies:?}");
        }
    }
}

/// Two mails over a connection that dies at the second: the second arrives once, over a fresh one.
#[tokio::test]
async fn a_kept_connection_that_died_loses_and_doubles_nothing() {
    for (stage, acts, connections) in [
        (Stage::Dot, [say("250 2.0.0 taken"), say("250 2.0.0 taken")], 1),
        (Stage::Dot, [Last(b"250 2.0.0 taken\r\n"), say("250 2.0.0 taken")], 2),
        (Stage::Dot, [Last(b"250 2.0.0 taken\r\n421 4.4.2 idle\r\n"), say("250 2.0.0 taken")], 2),
        (Stage::Mail, [say("250 2.1.0 fine"), Cut], 2),
        (Stage::Mail, [say("250 2.1.0 fine"), say("421 4.4.2 idle")], 2),
        (Stage::Rcpt, [say("250 2.1.5 fine"), Cut], 2),
        (Stage::Data, [say("354 go on"), Cut], 2),
    ] {
        for offer in [MODERN, STEPWISE] {
            let host = Host::start(Script::new(offer).at(stage, acts)).await;
            let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
            let mut client = relay.client().await;
            for number in 1..=2 {
                let heard = client.mail("shop@example.com", &["in@example.com"], "x").await;
                assert!(heard.starts_with("250 2.0.0 delivered"), "{stage:?} {acts:?}, mail {number}: {heard}");
            }
            drop(client);
            assert!(relay.stop().await);
            let seen = host.seen();
            let kept = seen.messages.iter().filter(|taken| taken.kept).count();
            assert_eq!((seen.messages.len(), kept, seen.connections), (2, 2, connections), "{stage:?} {acts:?}");
        }
    }
}

/// After the final dot nothing is sent again by itself: the host may have it.
#[tokio::test]
async fn a_kept_connection_that_dies_after_the_dot_is_not_tried_again() {
    let host = Host::start(Script::new(MODERN).at(Stage::Dot, [say("250 2.0.0 taken"), Cut])).await;
    let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
    let mut client = relay.client().await;
    assert!(client.mail("shop@example.com", &["in@example.com"], "x").await.starts_with("250"));
    assert!(client.mail("shop@example.com", &["in@example.com"], "x").await.starts_with("250 2.0.0 held"));
    drop(client);
    assert_eq!((host.seen().messages.len(), host.seen().connections), (2, 1));
    assert_eq!(relay.held().len(), 1);
    assert!(relay.stop().await);
}

/// Codes that no RFC knows: the first digit says what they mean, for that recipient and for nobody else.
#[tokio::test]
async fn a_refusal_by_an_unknown_code_is_a_refusal() {
    for (stage, act, hears, kept) in [
        (Stage::Rcpt, say("571 5.7.1 spam"), "250 2.0.0 delivered", 1),
        (Stage::Rcpt, say("460 4.7.1 later"), "250 2.0.0 held", 1),
        (Stage::Dot, say("571 5.7.1 spam"), "550 5.7.1 spam", 0),
        (Stage::Dot, say("460 4.7.1 later"), "250 2.0.0 held", 0),
    ] {
        let host = Host::start(Script::new(MODERN).at(stage, [act])).await;
        let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
        let heard = relay.client().await.mail("shop@example.com", &["a@example.com", "b@example.com"], "x").await;
        assert!(heard.starts_with(hears), "{stage:?} {act:?}: {heard}");
        let is_kept = |taken: &crate::host::Taken| taken.kept && taken.mail.contains("shop@example.com");
        assert_eq!(host.seen().messages.into_iter().filter(is_kept).count(), kept, "{stage:?} {act:?}");
        assert!(relay.stop().await);
    }
}

#[tokio::test]
async fn a_stop_that_is_cut_short_tells_what_was_sent_and_not_answered() {
    let logs = Logs::watch();
    let host = Host::start(Script::new(MODERN).at(Stage::Dot, [Silence])).await;
    let config = "shutdown_grace = \"50ms\"\n";
    let relay = Relay::start(Plan { config, list: "", upstream: &host.url() }).await;
    let mut client = relay.client().await;
    for line in ["EHLO tool.test", "MAIL FROM:<shop@example.com>", "RCPT TO:<in@example.com>", "DATA"] {
        client.say(line).await;
    }
    client.send("x\r\n.\r\n").await;
    while host.seen().messages.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!relay.stop().await);
    client.expect("250 2.0.0 held").await;
    assert_eq!(logs.lines(&["WARN", "possible_duplicate=true", "in@example.com"]).len(), 1);
}
