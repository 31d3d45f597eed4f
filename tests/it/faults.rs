//! The transaction by itself: every fault at every stage of the dialogue, and what it means for each of two recipients.
//! What is expected stands in a table that is read off the RFC, never off the code.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use optout_relay::mail::{self, Address, Client, Envelope, Id, Mail, Message, Outcome, ReversePath, Status, Wish};
use optout_relay::optout::{Context, OptOutList, Policy, Title, Verdict, judge};
use optout_relay::upstream::{self, Load, Secret, Security, Sent, Settings, To, Trust, Upstream, connector};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::host::Act::{self, Cut, Endless, Last, Say, Silence, Slow, Stall};
use crate::host::{Host, Script, Stage, Tls, say};
use crate::rig::PATIENCE;
use crate::tls::Ca;

/// Without SIZE, for there are large messages here.
const MODERN: &[&str] = &["PIPELINING", "8BITMIME", "SMTPUTF8", "AUTH PLAIN"];
const STEPWISE: &[&str] = &["8BITMIME", "SMTPUTF8", "AUTH PLAIN"];
const OFFERS: [&[&str]; 2] = [MODERN, STEPWISE];

/// As good as for ever: a test that waits for it fails by its own patience.
const NEVER: Duration = Duration::from_secs(3600);

const TO: [&str; 2] = ["first@example.com", "second@example.com"];

fn settings(port: u16) -> Settings {
    Settings {
        host: "127.0.0.1".into(),
        port,
        security: Security::None,
        secret: Some(Secret::new("seller".into(), "geheim".into())),
        hostname: "relay.test".into(),
        // Whoever leaks a place leaks the only one.
        max_connections: 1,
        idle: NEVER,
        connect_timeout: NEVER,
        timeout: NEVER,
        data_timeout: NEVER,
    }
}

fn upstream(settings: Settings) -> Arc<Upstream> {
    Arc::new(Upstream::Host(Box::new(upstream::Host::new(settings))))
}

/// One attempt, as the line makes it. `Err` where there was no connection to send over.
async fn send(upstream: &Upstream, to: &[&str], wire: impl Into<Bytes>) -> Result<Vec<Outcome>, Status> {
    let (list, policy) = (OptOutList::default(), Policy::default());
    let context =
        Context { sender: &ReversePath::Null, now: Timestamp::UNIX_EPOCH, title: Title::NotYet, policy: &policy, orders: &[] };
    let recipients: Vec<_> = to.iter().map(|to| Address::parse(to).unwrap()).collect();
    let client = Client { helo: "".into(), extended: true, ..Client::new([127, 0, 0, 1].into()) };
    let envelope = Envelope {
        id: Id::new(1, 1),
        client,
        sender: ReversePath::Null,
        recipients: recipients.iter().cloned().map(Into::into).collect(),
        eight_bit: false,
        smtputf8: false,
        ret: None,
        envid: None,
    };
    let mail = Mail::new(envelope, "".into(), Message::from_wire(wire.into()).unwrap());
    let (load, wish) = (Load::new(&mail), Wish::default());
    let cleared = recipients.iter().map(|recipient| match judge(&list, recipient, &context) {
        Verdict::Clear(permit) => To { permit, wish: &wish },
        _ => panic!("an empty list clears everybody"),
    });
    let cleared: Vec<_> = cleared.collect();
    for fresh in [false, true] {
        if let Sent::Done(outcomes) = upstream.open(fresh).await?.send(&cleared, &load, &|| true).await {
            return Ok(outcomes);
        }
    }
    panic!("a fresh connection is stale");
}

/// Kind, code, and where it came up.
type Ending = (&'static str, u16, mail::Stage);

fn endings(outcomes: &[Outcome]) -> Vec<Ending> {
    let ending = |outcome: &Outcome| (outcome.word(), outcome.status().code, outcome.status().stage);
    outcomes.iter().map(ending).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Cut,
    Silent,
    Later,
    Closing,
    Never,
    Garbage,
    Endless,
    Half,
}

const FAULTS: [Fault; 8] =
    [Fault::Cut, Fault::Silent, Fault::Later, Fault::Closing, Fault::Never, Fault::Garbage, Fault::Endless, Fault::Half];

impl Fault {
    fn act(self) -> Act {
        match self {
            Self::Cut => Cut,
            Self::Silent => Silence,
            Self::Later => say("452 4.3.1 later"),
            Self::Closing => Last(b"421 4.3.2 closing\r\n"),
            Self::Never => say("554 5.5.0 no"),
            Self::Garbage => Say(b"\0\xff\xfe what is this \x80\r\n"),
            Self::Endless => Endless(b"250-and another thing\r\n"),
            Self::Half => Last(b"250-half"),
        }
    }

    /// What the host said clearly; nothing is clear about the rest.
    fn code(self) -> Option<u16> {
        match self {
            Self::Later => Some(452),
            Self::Closing => Some(421),
            Self::Never => Some(554),
            Self::Cut | Self::Silent | Self::Garbage | Self::Endless | Self::Half => None,
        }
    }
}

/// Where a fault strikes, and the word that comes before it at that stage.
const PLACES: [(Stage, Option<&str>); 9] = [
    (Stage::Greeting, None),
    (Stage::Ehlo, None),
    (Stage::StartTls, None),
    (Stage::Auth, None),
    (Stage::Mail, None),
    (Stage::Rcpt, None),
    (Stage::Rcpt, Some("250 2.1.5 fine")),
    (Stage::Data, None),
    (Stage::Dot, None),
];

/// What a fault means for the two: the table of the stages, written down.
fn meant(stage: Stage, second: bool, fault: Fault) -> Result<[Ending; 2], Ending> {
    let answered = |at| match fault.code() {
        Some(code @ 500..) => ("bounced", code, at),
        Some(code) => ("deferred", code, at),
        None => ("deferred", 451, at),
    };
    let sent = ("sent", 250, mail::Stage::Dot);
    Ok(match stage {
        // It is the road or our configuration, whatever the host says.
        Stage::Auth if fault.code().is_some() => return Err(("deferred", 451, mail::Stage::Login)),
        Stage::Greeting | Stage::Ehlo | Stage::StartTls | Stage::Auth => return Err(("deferred", 451, mail::Stage::Connect)),
        Stage::Mail => [answered(mail::Stage::Mail); 2],
        // A clear word is for that one; with anything else the connection goes, and with it both.
        Stage::Rcpt if matches!(fault, Fault::Later | Fault::Never) && second => [sent, answered(mail::Stage::Recipient)],
        Stage::Rcpt if matches!(fault, Fault::Later | Fault::Never) => [answered(mail::Stage::Recipient), sent],
        Stage::Rcpt => [answered(mail::Stage::Recipient); 2],
        Stage::Data => [answered(mail::Stage::Data); 2],
        Stage::Dot if fault.code().is_some() => [answered(mail::Stage::Dot); 2],
        Stage::Dot => [("deferred", 451, mail::Stage::Unanswered); 2],
        other => panic!("no fault strikes at {other:?}"),
    })
}

async fn one_fault(
    offer: &'static [&'static str],
    (stage, before): (Stage, Option<&'static str>),
    fault: Fault,
    tls: Option<(Arc<Ca>, Tls)>,
) {
    let place = format!("{fault:?} at {stage:?} after {before:?}, {}", offer[0]);
    let script = Script::new(offer).at(stage, before.map(say)).at(stage, [fault.act()]);
    let script = tls.iter().fold(script, |script, (_, tls)| script.tls(tls.clone()));
    let host = Host::start(script).await;
    let limit = if fault == Fault::Silent { Duration::from_secs(3) } else { NEVER };
    let mut settings = Settings { timeout: limit, data_timeout: limit, ..settings(host.port) };
    if let Some((ca, _)) = &tls {
        (settings.host, settings.security) = ("localhost".into(), Security::StartTls(connector(Trust::Ca(&ca.path())).unwrap()));
    }
    let upstream = upstream(settings);
    let came = timeout(PATIENCE, send(&upstream, &TO, "x\r\n")).await.unwrap_or_else(|_| panic!("{place}: no end"));
    let came = came.map(|outcomes| endings(&outcomes)).map_err(|status| ("deferred", status.code, status.stage));
    assert_eq!(came, meant(stage, before.is_some(), fault).map(Vec::from), "{place}");
    let arrived = |(_, _, stage): &Ending| matches!(stage, mail::Stage::Dot | mail::Stage::Unanswered);
    let reached: Vec<_> = came.iter().flatten().zip(TO).filter(|(ending, _)| arrived(ending)).map(|(_, to)| to).collect();
    let seen = host.seen();
    assert_eq!(seen.messages.len(), usize::from(!reached.is_empty()), "{place}: {seen:?}");
    for taken in &seen.messages {
        let expected: Vec<_> = reached.iter().map(|to| format!("RCPT TO:<{to}>")).collect();
        assert_eq!((&taken.accepted, &taken.wire[..]), (&expected, &b"x\r\n"[..]), "{place}");
        let told = came.iter().flatten().any(|(kind, _, stage)| *kind == "sent" || *stage == mail::Stage::Unanswered);
        assert!(told || !taken.kept, "{place}: the host keeps what it is said not to have");
        let sent = came.iter().flatten().any(|(kind, ..)| *kind == "sent");
        assert!(!sent || taken.kept, "{place}: the host does not have what it is said to have");
    }
    // What it left behind holds no place, and no other mail goes over a connection that is out of step.
    let next = timeout(PATIENCE, send(&upstream, &TO[..1], "next\r\n")).await.unwrap_or_else(|_| panic!("{place}: no place"));
    assert_eq!(next.map(|outcomes| endings(&outcomes)), Ok(vec![("sent", 250, mail::Stage::Dot)]), "{place}: afterwards");
    assert_eq!(host.seen().messages.last().map(|taken| &taken.wire[..]), Some(&b"next\r\n"[..]), "{place}");
}

#[tokio::test]
async fn every_fault_at_every_stage_means_what_the_table_says() {
    let ca = Arc::new(Ca::new());
    let (mut cases, mut counted) = (JoinSet::new(), BTreeMap::new());
    for offer in OFFERS {
        for place in PLACES {
            for fault in FAULTS {
                let tls = (place.0 == Stage::StartTls).then(|| (ca.clone(), Tls::Upgraded(ca.host("localhost"))));
                cases.spawn(one_fault(offer, place, fault, tls));
                *counted.entry(format!("{:?}", place.0)).or_insert(0) += 1;
            }
        }
    }
    let count = cases.join_all().await.len();
    println!("{count} faults: {counted:?}");
    assert_eq!(count, 2 * 9 * 8);
}

/// In the middle of a message, and in the words around it.
#[tokio::test]
async fn a_message_that_is_stopped_on_its_way_is_not_said_to_be_there() {
    let deferred = |stage| ("deferred", 451, stage);
    let short = Duration::from_millis(500);
    let (sent, unanswered) = (("sent", 250, mail::Stage::Dot), deferred(mail::Stage::Unanswered));
    let mut count = 0;
    for (stage, act, limit, ending, arrives) in [
        (Stage::Body, Cut, NEVER, deferred(mail::Stage::Data), false),
        (Stage::Body, Stall, short, deferred(mail::Stage::Data), false),
        (Stage::Body, Say(b"554 5.3.4 too much\r\n"), NEVER, ("bounced", 554, mail::Stage::Dot), false),
        (Stage::Body, Say(b"452 4.3.1 full\r\n"), NEVER, ("deferred", 452, mail::Stage::Dot), false),
        (Stage::Body, Say(b"421 4.3.2 closing\r\n"), NEVER, ("deferred", 421, mail::Stage::Dot), false),
        // It speaks of something else, and who knows of what.
        (Stage::Body, Say(b"250 2.0.0 taken\r\n"), NEVER, unanswered, false),
        (Stage::Data, Say(b"354 go on\r\n250 2.0.0 taken\r\n"), NEVER, unanswered, false),
        (Stage::Data, Say(b"354 go on\r\n554 5.6.0 no\r\n"), NEVER, ("bounced", 554, mail::Stage::Dot), false),
        (Stage::Dot, Say(b"250\r\n"), NEVER, sent, true),
        (Stage::Dot, Say(b"250 \xff\xfe\x80\r\n"), NEVER, sent, true),
        (Stage::Dot, Say(b"250-2.0.0 \xc3\n250\n"), NEVER, sent, true),
    ] {
        for offer in OFFERS {
            let place = format!("{stage:?} {act:?} {}", offer[0]);
            let host = Host::start(Script::new(offer).at(stage, [act])).await;
            let upstream = upstream(Settings { timeout: limit, ..settings(host.port) });
            // More than all buffers on the way hold together.
            let wire = vec![b'x'; if stage == Stage::Dot { 100 } else { 24 << 20 }];
            let wire = Bytes::from([wire, b"\r\n".to_vec()].concat());
            let came = timeout(PATIENCE, send(&upstream, &TO, wire)).await.unwrap_or_else(|_| panic!("{place}: no end"));
            assert_eq!(came.map(|outcomes| endings(&outcomes)), Ok(vec![ending; 2]), "{place}");
            assert_eq!(host.seen().messages.len(), usize::from(arrives), "{place}");
            count += 1;
        }
    }
    assert_eq!(count, 22);
}

/// The deadline is for each piece of a message, not for the whole.
#[tokio::test]
async fn a_message_may_take_as_long_as_it_moves() {
    let limit = Duration::from_millis(1500);
    let host = Host::start(Script::new(MODERN).at(Stage::Body, [Slow])).await;
    let upstream = upstream(Settings { timeout: limit, data_timeout: limit, ..settings(host.port) });
    let wire = Bytes::from([vec![b'x'; 48 << 20], b"\r\n".to_vec()].concat());
    let begun = std::time::Instant::now();
    let came = send(&upstream, &TO, wire.clone()).await.unwrap();
    assert_eq!(endings(&came), [("sent", 250, mail::Stage::Dot); 2]);
    assert!(begun.elapsed() > 2 * limit, "it was too fast to show anything: {:?}", begun.elapsed());
    assert!(host.seen().messages[0].wire == wire);
}

/// Nobody was accepted and everybody has an answer: what comes of the connection then changes nothing.
#[tokio::test]
async fn an_answer_that_was_given_stands_when_the_connection_breaks() {
    let (no, later) = ("550 5.1.1 nobody", "450 4.2.1 full");
    for kept in [false, true] {
        let before = usize::from(kept);
        let script = Script::new(MODERN)
            .at(Stage::Rcpt, std::iter::repeat_n(say("250 2.1.5 fine"), before).chain([no, later].map(say)))
            .at(Stage::Data, std::iter::repeat_n(say("354 go on"), before).chain([Cut]));
        let host = Host::start(script).await;
        let upstream = upstream(settings(host.port));
        for _ in 0..before {
            assert!(send(&upstream, &TO[..1], "x\r\n").await.is_ok());
        }
        let came = endings(&send(&upstream, &TO, "x\r\n").await.unwrap());
        assert_eq!(came, [("bounced", 550, mail::Stage::Recipient), ("deferred", 450, mail::Stage::Recipient)]);
        assert_eq!(host.seen().connections, 1);
    }
    // One is refused, and then the connection breaks for the other.
    let host = Host::start(Script::new(STEPWISE).at(Stage::Rcpt, [say(no)]).at(Stage::Data, [Cut])).await;
    let came = endings(&send(&upstream(settings(host.port)), &TO, "x\r\n").await.unwrap());
    assert_eq!(came, [("bounced", 550, mail::Stage::Recipient), ("deferred", 451, mail::Stage::Data)]);
}

/// The stages at which somebody can wait for the host.
const WAITS: [Stage; 8] =
    [Stage::Greeting, Stage::Ehlo, Stage::StartTls, Stage::Auth, Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Dot];

async fn waiting(ca: &Ca, offer: &'static [&'static str], stage: Stage) -> (Host, Arc<Upstream>) {
    let mut script = Script::new(offer).at(stage, [Silence]);
    if stage == Stage::StartTls {
        script = script.tls(Tls::Upgraded(ca.host("localhost")));
    }
    let host = Host::start(script).await;
    let mut settings = settings(host.port);
    if stage == Stage::StartTls {
        (settings.host, settings.security) = ("localhost".into(), Security::StartTls(connector(Trust::Ca(&ca.path())).unwrap()));
    }
    (host, upstream(settings))
}

#[tokio::test]
async fn a_cut_ends_every_wait_for_the_host() {
    let ca = Ca::new();
    let mut count = 0;
    for offer in OFFERS {
        for stage in WAITS {
            let (host, upstream) = waiting(&ca, offer, stage).await;
            let sender = upstream.clone();
            let sending = tokio::spawn(async move { send(&sender, &TO, "x\r\n").await });
            host.has_acted(stage).await;
            upstream.cut();
            let came = timeout(PATIENCE, sending).await.unwrap_or_else(|_| panic!("{stage:?}: the wait goes on")).unwrap();
            let statuses = match came {
                Ok(outcomes) => outcomes.iter().map(Outcome::status).cloned().collect(),
                Err(status) => vec![status; 2],
            };
            let (at, text) = match stage {
                Stage::Mail => (mail::Stage::Mail, "451 4.3.2 the relay was stopped"),
                Stage::Rcpt => (mail::Stage::Recipient, "451 4.3.2 the relay was stopped"),
                Stage::Data => (mail::Stage::Data, "451 4.3.2 the relay was stopped"),
                Stage::Dot => {
                    (mail::Stage::Unanswered, "451 4.4.2 the mail host did not answer after the message, it may have it")
                }
                _ => (mail::Stage::Connect, "451 4.3.2 the relay was stopped"),
            };
            let came: Vec<_> = statuses.iter().map(|status| (status.stage, status.to_string())).collect();
            assert_eq!(came, vec![(at, text.to_owned()); 2], "{stage:?}");
            // And nothing is begun after it.
            assert_eq!(send(&upstream, &TO, "x\r\n").await.unwrap_err().stage, mail::Stage::Connect);
            assert_eq!(host.seen().connections, 1);
            count += 1;
        }
    }
    assert_eq!(count, 16);
}

/// The host wants the message, and before that is heard the relay ends: then it is not begun.
#[tokio::test]
async fn no_message_is_begun_after_a_cut() {
    let host = Host::start(Script::new(MODERN).at(Stage::Data, [say("354 go on")])).await;
    let upstream = upstream(settings(host.port));
    let sender = upstream.clone();
    let sending = tokio::spawn(async move { send(&sender, &TO, "x\r\n").await });
    host.has_acted(Stage::Data).await;
    upstream.cut();
    let came = timeout(PATIENCE, sending).await.expect("the wait goes on").unwrap().unwrap();
    assert_eq!(endings(&came), [("deferred", 451, mail::Stage::Data); 2]);
    assert_eq!(came[0].status().to_string(), "451 4.3.2 the relay was stopped");
    assert_eq!(host.seen().messages, []);
}

#[tokio::test]
async fn a_cut_ends_the_wait_for_a_place_and_for_a_connection() {
    let stopped = |came: Result<_, Status>| {
        let status = came.map(|outcomes: Vec<Outcome>| outcomes).unwrap_err();
        assert_eq!((status.stage, status.to_string().as_str()), (mail::Stage::Connect, "451 4.3.2 the relay was stopped"));
    };
    let cut_while_it_waits = async |upstream: Arc<Upstream>| {
        let sender = upstream.clone();
        let sending = tokio::spawn(async move { send(&sender, &TO, "x\r\n").await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!sending.is_finished());
        upstream.cut();
        stopped(timeout(PATIENCE, sending).await.expect("the wait goes on").unwrap());
    };
    // The only place is taken.
    let host = Host::start(Script::new(MODERN)).await;
    let busy = upstream(settings(host.port));
    let van = busy.open(false).await.unwrap();
    cut_while_it_waits(busy.clone()).await;
    drop(van);
    // Nobody accepts, and the queue is full.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _queue = std::net::TcpStream::connect(address).unwrap();
    cut_while_it_waits(upstream(settings(address.port()))).await;
    // Connected, and TLS does not begin.
    let ca = Ca::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let security = Security::Tls(connector(Trust::Ca(&ca.path())).unwrap());
    cut_while_it_waits(upstream(Settings { security, ..settings(listener.local_addr().unwrap().port()) })).await;
}

/// Whoever waits may stop waiting at any moment: nothing leaks, and a dialogue that was left is not taken up again.
#[tokio::test]
async fn a_wait_that_is_given_up_leaks_no_place_and_no_connection_out_of_step() {
    let ca = Ca::new();
    let mut count = 0;
    for offer in OFFERS {
        for stage in WAITS {
            let (host, upstream) = waiting(&ca, offer, stage).await;
            tokio::select! {
                came = send(&upstream, &TO, "left\r\n") => panic!("{stage:?}: {came:?}"),
                () = host.has_acted(stage) => {}
            }
            let next = timeout(PATIENCE, send(&upstream, &TO[..1], "next\r\n")).await;
            let next = next.unwrap_or_else(|_| panic!("{stage:?}: no place")).map(|outcomes| endings(&outcomes));
            assert_eq!(next, Ok(vec![("sent", 250, mail::Stage::Dot)]), "{stage:?}");
            let seen = host.seen();
            let wires: Vec<_> = seen.messages.iter().map(|taken| (taken.wire.as_slice(), taken.kept)).collect();
            let (left, came) = ((&b"left\r\n"[..], false), (&b"next\r\n"[..], true));
            assert_eq!(wires, if stage == Stage::Dot { vec![left, came] } else { vec![came] }, "{stage:?}");
            assert_eq!(seen.connections, 2, "{stage:?}");
            count += 1;
        }
    }
    assert_eq!(count, 16);
    // A van that was never loaded goes back.
    let host = Host::start(Script::new(MODERN)).await;
    let upstream = upstream(settings(host.port));
    drop(upstream.open(false).await.unwrap());
    assert!(send(&upstream, &TO, "x\r\n").await.is_ok());
    assert_eq!(host.seen().connections, 1);
}
