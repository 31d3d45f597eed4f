//! One attempt to deliver, over a real connection, to a host that says anything: it ends, says one thing of each recipient,
//! and calls nobody delivered or refused whom the host has not called so. Judges by what the host has seen and said itself.
//!
//! An input is what the host says, between NULs: to the connection, then to each command and to the message as they come;
//! when it has nothing left to say it hangs up. Before the first NUL may stand letters: `a` the relay has a password, `s` the
//! recipients are in another script.

use std::cell::OnceCell;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use optout_relay::mail::{Address, Client, Envelope, Id, Mail, Message, Outcome, ReversePath, Stage, Status, Wish};
use optout_relay::optout::{Context, OptOutList, Policy, Title, Verdict, judge};
use optout_relay::upstream::{Host, Load, Secret, Security, Sent, Settings, To, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

use super::host_replies::reference;

/// The fuzzer looks to it that nobody waits for ever.
const NEVER: Duration = Duration::from_secs(3600);

const PASSWORD: &str = "Hunter2+Fox";
const TRACE: &[u8] = b"Received: from tool.test\r\n";
const MESSAGE: &[u8] = b"Subject: x\r\n\r\n..dot\r\n";

thread_local! {
    static PLACE: OnceCell<(Runtime, TcpListener)> = const { OnceCell::new() };
}

pub fn check(bytes: &[u8]) {
    let (letters, says) = bytes.split_at(bytes.iter().position(|byte| *byte == 0).map_or(0, |at| at + 1));
    PLACE.with(|place| {
        let (runtime, listener) = place.get_or_init(|| {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            (runtime, listener)
        });
        let (came, seen) = runtime.block_on(async {
            let port = listener.local_addr().unwrap().port();
            tokio::join!(deliver(port, letters), Seen::serve(listener, says))
        });
        seen.is_well_spoken_to(letters);
        match came {
            Ok(outcomes) => seen.bears_out(&outcomes, letters),
            Err(status) => is_clean(&status, letters),
        }
    });
}

fn recipients(letters: &[u8]) -> [&'static str; 2] {
    if letters.contains(&b's') { ["käufer@example.com", "b@bücher.example"] } else { ["a@example.com", "b@example.com"] }
}

/// One attempt, as the line makes it. `Err` where there was no connection to send over.
async fn deliver(port: u16, letters: &[u8]) -> Result<Vec<Outcome>, Status> {
    let secret = letters.contains(&b'a').then(|| Secret::new("seller".into(), PASSWORD.into()));
    let upstream = Upstream::Host(Box::new(Host::new(Settings {
        host: "127.0.0.1".into(),
        port,
        security: Security::None,
        secret,
        hostname: "relay.test".into(),
        max_connections: 1,
        idle: NEVER,
        connect_timeout: NEVER,
        timeout: NEVER,
        data_timeout: NEVER,
    })));
    let recipients = recipients(letters).map(|to| Address::parse(to).unwrap());
    let envelope = Envelope {
        id: Id::new(1, 1),
        client: Client::new([127, 0, 0, 1].into()),
        sender: ReversePath::Null,
        recipients: recipients.iter().cloned().map(Into::into).collect(),
        eight_bit: false,
        smtputf8: letters.contains(&b's'),
        ret: None,
        envid: None,
    };
    let mail = Mail::new(envelope, TRACE.into(), Message::from_wire(MESSAGE.into()).unwrap());
    let (list, policy, wish) = (OptOutList::default(), Policy::default(), Wish::default());
    let context =
        Context { sender: &ReversePath::Null, now: Timestamp::UNIX_EPOCH, title: Title::NotYet, policy: &policy, orders: &[] };
    let permit = |to| match judge(&list, to, &context) {
        Verdict::Clear(permit) => To { permit, wish: &wish },
        _ => panic!("an empty list clears everybody"),
    };
    let cleared: Vec<_> = recipients.iter().map(permit).collect();
    let sent = upstream.open(false).await?.send(&cleared, &Load::new(&mail), &|| true).await;
    upstream.close().await;
    match sent {
        Sent::Done(outcomes) => Ok(outcomes),
        other => panic!("{other:?} on the first connection"),
    }
}

/// What a host has heard, and what it has said to it.
#[derive(Debug, Default)]
struct Seen {
    /// Without CRLF; a message is a line of this kind too.
    heard: Vec<Bytes>,
    said: Vec<u8>,
    /// At some time it had said more than it was asked.
    ahead: bool,
}

impl Seen {
    async fn serve(listener: &TcpListener, says: &[u8]) -> Self {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut seen, mut unread) = (Self::default(), Vec::new());
        let mut says = says.split(|byte| *byte == 0);
        loop {
            // The greeting is an answer too.
            while seen.replies().len() <= seen.heard.len() {
                let Some(words) = says.next() else {
                    // What still comes is to be read, or the last words would be lost.
                    let _ = stream.shutdown().await;
                    while let Ok(1..) = stream.read(&mut [0; 1024]).await {}
                    return seen;
                };
                seen.said.extend_from_slice(words);
                if stream.write_all(words).await.is_err() {
                    return seen;
                }
            }
            seen.ahead |= seen.replies().len() > seen.heard.len() + 1 || !seen.said.ends_with(b"\n");
            let is_message = seen.heard.last().is_some_and(|last| last == "DATA") && seen.reply(seen.heard.len()).code == *b"354";
            let Some(heard) = next(&mut stream, &mut unread, if is_message { b"\r\n.\r\n" } else { b"\r\n" }).await else {
                return seen;
            };
            seen.heard.push(heard);
        }
    }

    fn replies(&self) -> Vec<Vec<&[u8]>> {
        reference(&self.said)
    }

    /// What was said to what was heard as `place`, from 1; 0 is the greeting.
    fn reply(&self, place: usize) -> Reply {
        let replies = self.replies();
        let Some(lines) = replies.get(place) else { return Reply::default() };
        let plain = |line: &&[u8]| line.len() > 4 && line.len() < 500 && line.iter().all(|byte| matches!(byte, b' '..=b'~'));
        let code = lines[lines.len() - 1].first_chunk().copied().unwrap_or_default();
        let whole = matches!(code, [b'2'..=b'5', b'0'..=b'5', b'0'..=b'9']);
        let alike = lines.iter().all(|line| plain(line) && line.starts_with(&code) && matches!(line[3], b' ' | b'-'));
        Reply { code, plain: whole && alike }
    }

    /// The reply to the first command that begins so.
    fn reply_to(&self, start: &str) -> Reply {
        let place = self.heard.iter().position(|heard| heard.starts_with(start.as_bytes()));
        place.map_or(Reply::default(), |place| self.reply(place + 1))
    }

    /// The commands of one transaction in their order, in printable letters, and nothing else.
    fn is_well_spoken_to(&self, letters: &[u8]) {
        let whole = [TRACE, MESSAGE].concat();
        let mut order = vec!["EHLO relay.test".to_owned()];
        let [first, second] = recipients(letters);
        order.extend(["MAIL FROM:<>", &format!("RCPT TO:<{first}>"), &format!("RCPT TO:<{second}>"), "DATA"].map(str::to_owned));
        let mut order = order.iter().map(String::as_str);
        let mut expected = order.next();
        for (place, heard) in self.heard.iter().enumerate() {
            let is_message = place > 0 && self.heard[place - 1] == "DATA" && self.reply(place).code == *b"354";
            if is_message {
                assert_eq!(*heard, whole, "the message as it is, and its dot");
                assert!(self.reply_to("MAIL").class() == b'2', "{self:?}");
                continue;
            }
            let line = std::str::from_utf8(heard).unwrap();
            assert!(!line.contains(char::is_control), "{line:?}");
            if expected.is_some_and(|expected| line.starts_with(expected)) {
                expected = order.next();
                continue;
            }
            let is_login = letters.contains(&b'a') && expected == Some("MAIL FROM:<>");
            let others = line == "QUIT" || line == "RSET" || line == "HELO relay.test" || is_login;
            assert!(others, "{line:?} is heard, not {expected:?}");
        }
    }

    /// What became of each recipient is what the host has said of it.
    fn bears_out(&self, outcomes: &[Outcome], letters: &[u8]) {
        assert_eq!(outcomes.len(), 2, "{self:?}");
        let (mail, data) = (self.reply_to("MAIL"), self.reply_to("DATA"));
        // It may be answered before it was read.
        let dot = self.heard.iter().position(|heard| heard == "DATA").map_or(Reply::default(), |at| self.reply(at + 2));
        let has_it = self.heard.iter().any(|heard| heard.starts_with(TRACE));
        let rcpts: Vec<_> =
            (1..=self.heard.len()).filter(|at| self.heard[at - 1].starts_with(b"RCPT")).map(|at| self.reply(at)).collect();
        for (place, outcome) in outcomes.iter().enumerate() {
            is_clean(outcome.status(), letters);
            let rcpt = rcpts.get(place).copied().unwrap_or_default();
            let all = [mail, rcpt, data, dot];
            let taken = has_it && mail.class() == b'2' && rcpt.class() == b'2' && data.code == *b"354" && dot.class() == b'2';
            match outcome {
                Outcome::Delivered(_) => assert!(taken, "{outcome:?} of {self:?}"),
                Outcome::Refused(status) if status.stage == Stage::Local => {}
                Outcome::Refused(_) => assert!(all.iter().any(|reply| reply.class() == b'5'), "{outcome:?} of {self:?}"),
                Outcome::Deferred(_) => {
                    // Whoever speaks out of turn or oddly is not believed.
                    let sure = !self.ahead && (0..=self.heard.len()).all(|at| self.reply(at).plain);
                    assert!(!(sure && taken), "{outcome:?} of {self:?}");
                }
                Outcome::Suppressed { .. } => panic!("nobody has opted out"),
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Reply {
    code: [u8; 3],
    /// As the RFC writes it, in all of its lines.
    plain: bool,
}

impl Reply {
    fn class(self) -> u8 {
        self.code[0]
    }
}

/// The bytes up to `end`; for a message with the CRLF of its last line. `None` where the relay has hung up.
async fn next(stream: &mut TcpStream, unread: &mut Vec<u8>, end: &[u8]) -> Option<Bytes> {
    loop {
        if let Some(at) = unread.windows(end.len()).position(|window| window == end) {
            let whole: Vec<_> = unread.drain(..at + end.len()).collect();
            let kept = if end.len() > 2 { at + 2 } else { at };
            return Some(whole[..kept].to_vec().into());
        }
        if stream.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    }
}

fn is_clean(status: &Status, letters: &[u8]) {
    assert!(status.text.len() <= 400 && status.text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{status:?}");
    let shows = status.text.to_ascii_lowercase().contains(&PASSWORD.to_ascii_lowercase());
    assert!(!shows || !letters.contains(&b'a'), "{status:?}");
}
