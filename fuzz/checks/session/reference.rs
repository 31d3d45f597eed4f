//! RFC 5321 as a second reader understands it: which replies are allowed to which line in which state, and what may leave.
//! Reads the client's bytes by itself, and shares nothing with the relay but the words of the protocol. Where a line is
//! written as the RFC writes it, there is one right answer; where it is odd, all that a server may say to it.

use optout_relay::mail::{Envelope, Message};
use optout_relay::smtp::Access;

use super::super::message::{ends_early, mended_by_hand};
use super::super::{is_canonical, stuffed, unstuffed};
use super::client::{BUSY, Ended, Heard, USER, is_plainly_out};
use super::lines::{base64, bytes_of_exchange, is_plain, means_data, mechanism, plain, text, verb};
use super::{LIMITS, Place};

/// Panics where the relay has broken a promise.
pub fn holds(place: Place, bytes: &[u8], heard: &Heard) {
    for reply in &heard.replies {
        is_clean(reply);
    }
    for (envelope, message) in &heard.messages {
        may_leave(envelope, message);
    }
    let mut reference = Reference {
        access: place.access,
        mends: place.mends,
        rest: bytes,
        heard,
        replies: heard.replies.iter().map(String::as_str).collect(),
        at: 0,
        taken: 0,
        state: State::default(),
        errors: 0,
        perhaps: 0,
        idle: 0,
        failed_logins: 0,
    };
    reference.follow();
}

/// Whole lines of printable ASCII, all with one code, and an enhanced code that fits it (RFC 5321 4.2, RFC 2034 4).
fn is_clean(reply: &str) {
    assert!(reply.ends_with("\r\n"), "{reply:?}");
    let lines: Vec<_> = reply.trim_end_matches("\r\n").split("\r\n").collect();
    for (at, line) in lines.iter().enumerate() {
        assert!(line.len() >= 4 && line.len() <= 510 && line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{reply:?}");
        let mark = if at + 1 == lines.len() { b' ' } else { b'-' };
        assert!(line[..3] == reply[..3] && line.as_bytes()[3] == mark, "{reply:?}");
        if !matches!(&reply[..3], "220" | "250" | "334" | "354") {
            assert!(line[4..].starts_with(&reply[..1]) && line.as_bytes()[5] == b'.', "{reply:?} has an enhanced code");
        }
    }
}

/// What goes to the host is what it takes for one message, to nobody who has opted out.
fn may_leave(envelope: &Envelope, message: &Message) {
    let wire = message.wire();
    assert!(is_canonical(wire) && !ends_early(wire), "{wire:?}");
    assert!(wire.len() as u64 <= LIMITS.message_size && !envelope.recipients.is_empty());
    assert!(envelope.recipients.len() <= LIMITS.recipients);
    let content: Vec<u8> = message.content().flatten().copied().collect();
    assert_eq!(content, unstuffed(wire));
    let (sender, smtputf8) = (envelope.sender.as_str(), envelope.smtputf8);
    for path in envelope.recipients.iter().map(|to| to.address.as_str()).chain([sender]) {
        assert!(!path.contains(char::is_control) && (smtputf8 || path.is_ascii()), "{path:?}");
    }
    for recipient in &envelope.recipients {
        assert!(!is_plainly_out(&recipient.address), "{recipient:?} has opted out");
        assert!(!recipient.address.routes_on(), "{recipient:?}");
    }
    assert!(envelope.client.helo.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{:?}", envelope.client);
}

#[derive(Default)]
struct State {
    encrypted: bool,
    user: bool,
    extended: bool,
    /// The line of MAIL, and those of the RCPTs that were taken.
    mail: Option<(String, Vec<String>)>,
    /// Some RCPT came: none, perhaps, or surely.
    tried: Tried,
    exchange: Option<Exchange>,
    /// The last line meant DATA, and was refused.
    data_refused: bool,
}

/// Whether a RCPT that was refused counts as one depends on whether it was understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Tried {
    #[default]
    No,
    Perhaps,
    Yes,
}

enum Exchange {
    Plain,
    Name,
    Password(Vec<u8>),
}

struct Reference<'a> {
    access: Access,
    mends: bool,
    rest: &'a [u8],
    heard: &'a Heard,
    replies: Vec<&'a str>,
    /// The next of them.
    at: usize,
    /// So many messages were answered with 250.
    taken: usize,
    state: State,
    /// Bad lines, counted as such by everybody; and with those that may be because nothing else comes.
    errors: usize,
    perhaps: usize,
    /// Lines since the last that concerned a mail.
    idle: usize,
    failed_logins: u32,
}

/// What may be said to a line.
struct Allowed(Vec<u16>);

fn codes(codes: impl IntoIterator<Item = u16>) -> Allowed {
    Allowed(codes.into_iter().collect())
}

impl<'a> Reference<'a> {
    fn follow(&mut self) {
        assert_eq!(self.next(), Some(220), "greeting");
        while let Some(line) = self.line() {
            let rest = self.rest.len();
            match self.next() {
                Some(code) => {
                    if self.answered(line, code) {
                        break;
                    }
                }
                // The only silence: somebody spoke on behind STARTTLS.
                None => {
                    assert!(self.heard.ended == Ended::Ahead && rest > 0, "no reply to {:?}", line.escape_ascii().to_string());
                    assert!(text(line).is_some_and(|line| verb(line) == "STARTTLS"));
                    break;
                }
            }
        }
        if self.heard.ended == Ended::Ahead && self.at + 1 == self.replies.len() {
            assert_eq!(self.next(), Some(421), "a line without end");
        }
        assert_eq!(self.at, self.replies.len(), "as many replies as commands: {:#?}", self.replies);
        assert_eq!(self.taken, self.heard.messages.len(), "as many messages as were taken");
    }

    /// The next line with its end.
    fn line(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')? + 1;
        let (line, rest) = self.rest.split_at(end);
        // Somebody who sends this is hung up on before it ends, or when it has ended.
        if line.len() > 64 << 10 && self.heard.ended == Ended::Ahead {
            return None;
        }
        self.rest = rest;
        Some(line)
    }

    fn next(&mut self) -> Option<u16> {
        let reply = self.replies.get(self.at)?;
        self.at += 1;
        Some(reply[..3].parse().unwrap())
    }

    /// Whether that was the end.
    fn answered(&mut self, line: &[u8], code: u16) -> bool {
        let shown = line.escape_ascii().to_string();
        let exchange = self.state.exchange.take();
        let max = if self.may_log_in() { 12_288 } else { 4096 };
        let text = text(line).filter(|_| line.len() <= max);
        let Allowed(allowed) = match (&exchange, text) {
            (_, None) => match (exchange.is_some(), bytes_of_exchange(line, max)) {
                // A response is any line of bytes.
                (true, Some(_)) => codes([501]),
                _ => codes([500]),
            },
            (Some(_), Some(text)) => self.to_response(exchange.as_ref(), text),
            (None, Some(text)) => self.to_command(text),
        };
        let refused_before = std::mem::take(&mut self.state.data_refused);
        self.idle += 1;
        if self.idle > LIMITS.idle_commands {
            self.perhaps += 1;
        }
        if code == 421 {
            let too_many = self.perhaps + 1 >= LIMITS.errors || (self.failed_logins >= 2 && allowed.contains(&535));
            assert!(too_many, "hung up after {} errors at {shown}", self.perhaps);
            return true;
        }
        assert!(allowed.contains(&code), "{code} to {shown}, not one of {allowed:?}");
        let hangs_up = code == 502 && text.is_some_and(|text| verb(text) == "BDAT");
        if matches!(code, 500..=509 | 530 | 538 | 555) && !hangs_up {
            (self.errors, self.perhaps) = (self.errors + 1, self.perhaps + 1);
            assert!(self.errors < LIMITS.errors, "still there after {} errors", self.errors);
        }
        if exchange.is_some() {
            if let Some(text) = text {
                self.after_response(exchange, text, code);
            }
            return false;
        }
        if let Some(text) = text {
            self.after_command(text, code);
        }
        let bye = code == 221 || hangs_up;
        self.state.data_refused = code >= 500 && line.len() <= max && means_data(line);
        self.is_over(code, refused_before, bye)
    }

    /// The relay hangs up behind this reply.
    fn is_over(&self, code: u16, refused_before: bool, bye: bool) -> bool {
        let last = self.at == self.replies.len() && self.heard.ended == Ended::Ahead;
        let ahead = last && code >= 500 && (refused_before || (self.state.data_refused && !self.rest.is_empty()));
        // What is said of somebody, or of a password, is no sign that it was no command.
        if refused_before && code >= 500 && !matches!(code, 535 | 550) {
            assert!(bye || ahead || self.heard.ended == Ended::HungUp, "lines of a message are no commands");
        }
        bye || ahead
    }

    fn to_response(&self, exchange: Option<&Exchange>, line: &str) -> Allowed {
        let Some(bytes) = base64(line) else { return codes([501]) };
        match exchange {
            Some(Exchange::Name) if bytes.is_empty() || std::str::from_utf8(&bytes).is_err() => codes([501]),
            Some(Exchange::Name) => codes([334]),
            Some(Exchange::Password(name)) => outcome(name, &bytes),
            _ => match plain(&bytes) {
                Some((name, password)) => outcome(&name, &password),
                None => codes([501]),
            },
        }
    }

    fn after_response(&mut self, exchange: Option<Exchange>, line: &str, code: u16) {
        match (exchange, code) {
            (Some(Exchange::Name), 334) => self.state.exchange = base64(line).map(Exchange::Password),
            (_, 235) => self.state.user = true,
            (_, 535) => self.failed_logins += 1,
            _ => {}
        }
    }

    fn to_command(&self, line: &str) -> Allowed {
        let plainly = line == line.trim() && !line.contains("  ");
        match (verb(line).as_str(), plainly && is_plain(line)) {
            ("EHLO" | "HELO", true) => codes([250]),
            ("EHLO" | "HELO", false) => codes([250, 501]),
            ("MAIL", true) => self.to_mail(line),
            ("MAIL", false) => codes([250, 452, 500, 501, 502, 503, 530, 552, 553, 555]),
            ("RCPT", true) => self.to_rcpt(),
            ("RCPT", false) => codes(
                match self.state.mail {
                    Some(_) => &[250, 452, 500, 501, 502, 550, 553, 555][..],
                    None => &[500, 501, 502, 503, 553, 555],
                }
                .iter()
                .copied(),
            ),
            ("DATA", true) => self.to_data(),
            ("DATA", false) => codes(self.to_data().0.into_iter().chain([501])),
            ("RSET" | "NOOP", true) => codes([250]),
            ("RSET" | "NOOP", false) => codes([250, 501]),
            ("VRFY", _) => codes([252, 501]),
            ("HELP", _) => codes([214, 501]),
            ("QUIT", true) => codes([221]),
            ("QUIT", false) => codes([221, 501]),
            ("STARTTLS", true) => self.to_start_tls(),
            ("STARTTLS", false) => codes(self.to_start_tls().0.into_iter().chain([501])),
            ("AUTH", _) => self.to_auth(line),
            ("BDAT", _) => codes([501, 502]),
            // A browser, or nothing that anybody knows.
            _ => codes([221, 500, 501, 502, 504]),
        }
    }

    fn to_mail(&self, line: &str) -> Allowed {
        let own = !self.state.user || line.to_ascii_lowercase().ends_with("@shop.example>");
        codes([match () {
            () if self.access.tls_first && !self.state.encrypted => 530,
            () if !self.access.trusted && !self.state.user => 530,
            () if self.state.mail.is_some() => 503,
            () if !own => 553,
            () => 250,
        }])
    }

    fn to_rcpt(&self) -> Allowed {
        match &self.state.mail {
            None => codes([503]),
            Some((_, to)) if to.len() >= LIMITS.recipients => codes([452]),
            Some(_) => codes([250, 550]),
        }
    }

    fn to_data(&self) -> Allowed {
        let allowed: &[u16] = match (&self.state.mail, self.state.tried) {
            (Some((_, to)), _) if !to.is_empty() => &[354],
            (Some(_), Tried::Yes) => &[554],
            (Some(_), Tried::Perhaps) => &[503, 554],
            (None, _) | (_, Tried::No) => &[503],
        };
        codes(allowed.iter().copied())
    }

    fn to_start_tls(&self) -> Allowed {
        codes([match (self.access.tls, self.state.encrypted) {
            (false, _) => 502,
            (true, true) => 503,
            (true, false) => 220,
        }])
    }

    fn may_log_in(&self) -> bool {
        self.access.login && !self.state.user && (self.state.encrypted || self.access.local)
    }

    fn to_auth(&self, line: &str) -> Allowed {
        let mut words = mechanism(line);
        let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
        match mechanism.as_str() {
            "PLAIN" | "LOGIN" => {}
            "" => return codes([500, 501, 504]),
            _ => return codes([504]),
        }
        if !self.access.login {
            return codes([502]);
        }
        if self.state.user || !self.may_log_in() || !self.state.extended || self.state.mail.is_some() {
            return codes([503, 538]);
        }
        match (words.next(), words.next()) {
            (None, _) => codes([334]),
            (Some("="), None) => codes([501]),
            (Some(initial), None) => {
                let exchange = if mechanism == "PLAIN" { Exchange::Plain } else { Exchange::Name };
                self.to_response(Some(&exchange), initial)
            }
            (Some(_), Some(_)) => codes([501]),
        }
    }

    fn after_command(&mut self, line: &str, code: u16) {
        let verb = verb(line);
        if matches!(verb.as_str(), "MAIL" | "RCPT" | "DATA") && code < 500 {
            self.idle = 0;
        }
        match (verb.as_str(), code) {
            ("EHLO" | "HELO", 250) => {
                self.state.mail = None;
                self.state.extended = verb == "EHLO";
                self.offered(verb == "EHLO");
            }
            ("RSET", 250) => self.state.mail = None,
            ("MAIL", 250) => {
                assert!(self.state.mail.is_none(), "a second MAIL is refused");
                assert!(self.access.trusted || self.state.user, "nobody relays without leave");
                assert!(!self.access.tls_first || self.state.encrypted, "in the clear");
                (self.state.mail, self.state.tried) = (Some((line.to_owned(), Vec::new())), Tried::No);
            }
            ("RCPT", code) => {
                let tried = match code {
                    500..=503 => Tried::No,
                    553 | 555 => Tried::Perhaps,
                    _ => Tried::Yes,
                };
                self.state.tried = self.state.tried.max(tried);
                if let (Some((_, to)), 250) = (&mut self.state.mail, code) {
                    to.push(line.to_owned());
                }
            }
            ("DATA", 354) => self.message(),
            ("STARTTLS", 220) => self.state = State { encrypted: true, ..State::default() },
            ("AUTH", 334) => {
                let mut words = mechanism(line);
                let plain = words.next().is_some_and(|word| word.eq_ignore_ascii_case("PLAIN"));
                self.state.exchange = Some(match words.next().and_then(base64) {
                    Some(name) => Exchange::Password(name),
                    None if plain => Exchange::Plain,
                    None => Exchange::Name,
                });
            }
            ("AUTH", 235) => self.state.user = true,
            ("AUTH", 535) => self.failed_logins += 1,
            _ => {}
        }
    }

    /// STARTTLS only where there is TLS and none yet, AUTH only where a password is safe.
    fn offered(&self, extended: bool) {
        let reply = self.replies[self.at - 1];
        let offers = |keyword: &str| reply.split("\r\n").any(|line| line.get(4..).is_some_and(|rest| rest.starts_with(keyword)));
        assert_eq!(offers("STARTTLS"), extended && self.access.tls && !self.state.encrypted, "{reply}");
        assert_eq!(offers("AUTH "), extended && self.may_log_in(), "{reply}");
        assert!(offers("relay.test") && offers("PIPELINING") == extended && offers("SIZE 600") == extended, "{reply}");
    }

    /// What stands behind 354, up to the only end that there is.
    fn message(&mut self) {
        let mail = self.state.mail.take();
        self.state.tried = Tried::No;
        let is_end = |at: &usize| {
            let behind_line = *at == 0 || self.rest[..*at].ends_with(b"\r\n");
            behind_line && self.rest[*at..].starts_with(b".\r\n")
        };
        let Some(end) = (0..self.rest.len()).find(is_end) else {
            self.rest = &[];
            assert_eq!(self.heard.ended, Ended::Quiet, "a message without end");
            return;
        };
        let (content, rest) = self.rest.split_at(end);
        self.rest = &rest[3..];
        let mended = if self.mends && !is_canonical(content) { stuffed(&mended_by_hand(content)) } else { content.to_vec() };
        let expected = match () {
            () if content.len().max(mended.len()) as u64 > LIMITS.message_size => 552,
            () if !is_canonical(&mended) => 550,
            () if header_len(&mended) as u64 > LIMITS.header_size => 552,
            () => 250,
        };
        let code = self.next();
        assert_eq!(code, Some(expected), "to {:?}", content.escape_ascii().to_string());
        if code == Some(250) {
            let (envelope, message) = &self.heard.messages[self.taken];
            self.taken += 1;
            assert_eq!(message.wire(), &mended, "as it came");
            is_that_of(envelope, &mail.unwrap());
            assert_eq!(envelope.client.encrypted, self.state.encrypted);
            assert_eq!(envelope.client.user.is_some(), self.state.user);
        }
    }
}

/// Up to and with the first empty line.
fn header_len(content: &[u8]) -> usize {
    let mut length = 0;
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        length += line.len();
        if line == b"\r\n" {
            break;
        }
    }
    length
}

/// Sender and recipients stand in the lines that were taken, and nobody else is among them.
fn is_that_of(envelope: &Envelope, (mail, to): &(String, Vec<String>)) {
    assert!(mail.contains(envelope.sender.as_str()), "{mail:?}");
    assert_eq!(envelope.recipients.len(), to.len(), "{to:?}");
    for (recipient, line) in envelope.recipients.iter().zip(to) {
        let written = recipient.address.as_str();
        assert!(line.contains(written), "{written:?} in {line:?}");
        if is_plain(line) {
            assert!(line.ends_with(&format!("<{written}>")), "{written:?} in {line:?}");
        }
    }
}

fn outcome(name: &[u8], password: &[u8]) -> Allowed {
    codes([match () {
        () if (name, password) == (USER.0.as_bytes(), USER.1) => 235,
        () if name == BUSY.as_bytes() => 454,
        () => 535,
    }])
}
