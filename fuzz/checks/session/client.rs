//! A client and the connection that serves it, without socket, clock and disk: what `smtp::connection` does with the same
//! parts. Never judges what it hears.

use std::sync::{Arc, OnceLock};

use optout_relay::mail::{Address, Envelope, Id, Message, PlusTags, Recipient};
use optout_relay::optout::{Attributes, Builder, OptOutList, Subject};
use optout_relay::smtp::{Command, Credentials, Data, Input, Line, Reply, Session, Space, Step, says_data};
use optout_relay::users::{Login, User};

use super::super::address::is_opted_out;
use super::{LIMITS, Place};

/// Who has opted out in these sessions.
pub const OPTED_OUT: [&str; 4] = ["out@example.com", "gone.example", "*.below.example", "promo-*@example.org"];

/// Who may log in in these sessions, and as whom send.
pub const USER: (&str, &[u8], &str) = ("tool", b"secret", "*@shop.example");

/// A user for whom there is no time.
pub const BUSY: &str = "busy";

/// How the bytes of a client come.
#[derive(Clone, Copy, Debug)]
pub enum Pieces {
    /// As many at once as are read at once.
    Whole,
    /// One by one.
    Single,
    /// Line by line.
    Lines,
    /// In pieces of any length.
    Random,
}

/// What a client has heard, and what the relay has taken from it.
#[derive(Debug)]
pub struct Heard {
    /// All lines of each, as they went over the wire.
    pub replies: Vec<String>,
    pub messages: Vec<(Envelope, Message)>,
    pub ended: Ended,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client has said all that it had to say.
    Quiet,
    /// The relay has hung up.
    HungUp,
    /// The relay has hung up because the client has sent on where it had to wait, or a line without end.
    Ahead,
}

/// Serves a client that says all these bytes.
pub fn converse(place: Place, bytes: &[u8], pieces: Pieces) -> Heard {
    let session = Session::new("relay.test".into(), [192, 0, 2, 1].into(), LIMITS, place.access);
    let coming = cut(bytes, pieces);
    let input = Input::default();
    let spreads = matches!(pieces, Pieces::Random);
    let (replies, messages, id) = (Vec::new(), Vec::new(), 0);
    let mut connection =
        Connection { session, input, coming, replies, messages, id, data_refused: false, spreads, mends: place.mends };
    connection.say(&Reply::greeting("relay.test"));
    let ended = connection.serve();
    let Connection { replies, messages, .. } = connection;
    Heard { replies, messages, ended }
}

/// The next piece stands last.
fn cut(bytes: &[u8], pieces: Pieces) -> Vec<&[u8]> {
    let mut cut: Vec<_> = match pieces {
        Pieces::Whole => bytes.chunks(4096).collect(),
        Pieces::Single => bytes.chunks(1).collect(),
        Pieces::Lines => bytes.split_inclusive(|byte| *byte == b'\n').flat_map(|line| line.chunks(4096)).collect(),
        Pieces::Random => {
            let (mut cut, mut rest, mut seed) = (Vec::new(), bytes, bytes.len() as u32 | 1);
            while !rest.is_empty() {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (piece, tail) = rest.split_at(rest.len().min(1 + (seed >> 27) as usize));
                cut.push(piece);
                rest = tail;
            }
            cut
        }
    };
    cut.reverse();
    cut
}

struct Connection<'a> {
    session: Session,
    input: Input,
    coming: Vec<&'a [u8]>,
    replies: Vec<String>,
    messages: Vec<(Envelope, Message)>,
    id: u64,
    data_refused: bool,
    /// What is large moves into pages of its own.
    spreads: bool,
    mends: bool,
}

impl Connection<'_> {
    fn serve(&mut self) -> Ended {
        loop {
            let line = self.input.line(self.session.max_line());
            let text = match &line {
                Line::Whole(line) => Ok(&**line),
                Line::Bare(_) => Err(Reply::BAD_BYTES),
                Line::TooLong => Err(Reply::LINE_TOO_LONG),
                Line::Endless => return self.end(&Reply::ENDLESS_LINE, Ended::Ahead),
                Line::Partial if self.read() => continue,
                Line::Partial => return Ended::Quiet,
            };
            let ended = if self.session.in_exchange() {
                let step = self.session.response(text);
                self.step(step)
            } else {
                let is_data = matches!(&line, Line::Whole(line) | Line::Bare(line) if says_data(line));
                self.command(text.and_then(Command::parse), is_data)
            };
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    fn read(&mut self) -> bool {
        // A command line has its bounds, whatever comes.
        assert!(self.input.waiting() <= 2 * 12_288 + 4096);
        let piece = self.coming.pop();
        self.put(piece.unwrap_or_default());
        piece.is_some()
    }

    fn put(&mut self, piece: &[u8]) {
        match self.input.space(4096) {
            Space::Grows(buffer) => buffer.extend_from_slice(piece),
            Space::Stays(room) => {
                room[..piece.len()].copy_from_slice(piece);
                self.input.filled(piece.len());
            }
        }
    }

    fn say(&mut self, reply: &Reply) {
        let mut wire = Vec::new();
        reply.write_to(&mut wire);
        self.replies.push(String::from_utf8(wire).unwrap());
    }

    fn end(&mut self, last: &Reply, ended: Ended) -> Ended {
        self.say(last);
        ended
    }

    fn command(&mut self, command: Result<Command, Reply>, is_data: bool) -> Option<Ended> {
        let after_refused_data = std::mem::take(&mut self.data_refused);
        let id = self.id;
        let step = self.session.command(command, || Id::new(id, 0));
        self.id += 1;
        if let Step::Say(reply) = &step {
            let refused = (500..600).contains(&reply.code);
            self.data_refused = is_data && refused;
            if (is_data && self.input.is_waiting()) || (after_refused_data && refused) {
                return Some(self.end(reply, Ended::Ahead));
            }
        }
        self.step(step)
    }

    fn step(&mut self, step: Step) -> Option<Ended> {
        match step {
            Step::Say(reply) => self.say(&reply),
            Step::Judge(recipient) => self.judge(recipient),
            Step::Receive => return self.message(),
            Step::LogIn(credentials) => {
                let next = self.session.logged_in(login(&credentials));
                return self.step(next);
            }
            Step::Encrypt if self.input.is_waiting() => return Some(Ended::Ahead),
            Step::Encrypt => {
                self.say(&Reply::GO_AHEAD);
                self.session.encrypted();
            }
            Step::Close(reply) => return Some(self.end(&reply, Ended::HungUp)),
        }
        None
    }

    fn judge(&mut self, recipient: Recipient) {
        let reply = if is_opted_out(list(), &recipient.address) { Reply::OPTED_OUT } else { Reply::RECIPIENT_OK };
        self.say(&reply);
        self.session.judged(recipient, &reply);
    }

    fn message(&mut self) -> Option<Ended> {
        self.say(&Reply::GO_ON);
        let limit = LIMITS.message_size as usize;
        let received = loop {
            match self.input.data(limit) {
                Data::Whole(wire) => match Message::from_wire(wire.clone()) {
                    None if self.mends => {
                        let mended = Message::mended(wire, limit);
                        break mended.map(|(message, _)| message).map_err(|_| Reply::TOO_LARGE);
                    }
                    message => break message.ok_or(Reply::BARE_LINE_ENDS),
                },
                Data::TooLarge => break Err(Reply::TOO_LARGE),
                Data::Partial if self.coming.is_empty() => return Some(Ended::Quiet),
                Data::Partial => {
                    assert!(self.input.waiting() <= limit + 16, "what is thrown away takes no memory");
                    if self.spreads && !self.input.is_drained() && self.input.waiting() >= 64 {
                        self.input.spread(limit).unwrap();
                    }
                    let piece = self.coming.pop().unwrap_or_default();
                    self.put(piece);
                }
            }
        };
        let reply = match (received, self.session.end_of_data()) {
            (Ok(message), _) if message.header_len() as u64 > LIMITS.header_size => Reply::HEADER_TOO_LARGE,
            (Ok(message), Some(envelope)) => {
                let id = envelope.id;
                self.messages.push((envelope, message));
                Reply::delivered(id)
            }
            (Ok(_), None) => Reply::RCPT_FIRST,
            (Err(reply), _) => reply,
        };
        self.say(&reply);
        None
    }
}

fn list() -> &'static OptOutList {
    static LIST: OnceLock<OptOutList> = OnceLock::new();
    LIST.get_or_init(|| {
        let mut list = Builder::new(PlusTags::Ignore);
        for entry in OPTED_OUT {
            list.add(1, Subject::guess(entry).unwrap(), Attributes::default());
        }
        list.finish()
    })
}

fn login(credentials: &Credentials) -> Login {
    static KNOWN: OnceLock<Arc<User>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| Arc::new(User::new(USER.0, Some(&[USER.2.to_owned()]))));
    match (credentials.name.as_str(), credentials.password.as_slice()) {
        (name, password) if (name, password) == (USER.0, USER.1) => Login::Ok(known.clone()),
        (BUSY, _) => Login::Busy,
        _ => Login::Wrong,
    }
}

/// The mailbox has opted out, as somebody sees it who knows nothing of keys.
pub fn is_plainly_out(address: &Address) -> bool {
    let written = address.as_str().to_ascii_lowercase();
    let (local, domain) = written.rsplit_once('@').unwrap_or((&written, ""));
    let local = local.replace(['"', '\\'], "");
    let (local, domain) = (local.split('+').next().unwrap_or_default(), domain.strip_suffix('.').unwrap_or(domain));
    (local, domain) == ("out", "example.com")
        || domain == "gone.example"
        || domain.ends_with(".below.example")
        || (local.starts_with("promo-") && domain == "example.org")
}
