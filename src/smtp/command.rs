//! One command line as a value. Verbs and parameters are read by `smtp-proto`; paths are ours, for what is forwarded
//! must stay as it was written. Never keeps state, never answers.

use smtp_proto::request::parser::Rfc5321Parser;
use smtp_proto::{Error, MAIL_BODY_8BITMIME, MAIL_BODY_BINARYMIME, MAIL_SMTPUTF8, MailFrom, RcptTo, Request};

use super::auth::{Auth, Mechanism};
use super::parameters::{OfMail, of_mail, of_rcpt};
use super::reply::Reply;
use crate::mail::{Address, Recipient, Ret, ReversePath, clean};

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// EHLO, with the name cleaned.
    Ehlo(String),
    /// HELO, with the name cleaned.
    Helo(String),
    /// MAIL FROM.
    Mail(Mail),
    /// RCPT TO.
    Rcpt(Recipient),
    /// DATA
    Data,
    /// RSET
    Rset,
    /// NOOP
    Noop,
    /// VRFY
    Vrfy,
    /// HELP
    Help,
    /// STARTTLS
    StartTls,
    /// AUTH
    Auth(Auth),
    /// QUIT
    Quit,
    /// BDAT: not offered; what follows is no command, so the connection cannot go on.
    Bdat,
    /// A request of the web.
    Http,
}

/// MAIL FROM and its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Reverse-path.
    pub sender: ReversePath,
    /// `SIZE=` in bytes, 0 where none was declared (RFC 1870).
    pub size: u64,
    /// `BODY=8BITMIME`
    pub eight_bit: bool,
    /// `SMTPUTF8`
    pub smtputf8: bool,
    /// `RET=` (RFC 3461 4.3)
    pub ret: Option<Ret>,
    /// `ENVID=` as written (RFC 3461 4.4).
    pub envid: Option<Box<str>>,
}

/// The longest name that is taken at EHLO, in bytes (RFC 5321 4.5.3.1.2).
const MAX_NAME: usize = 255;

impl Command {
    /// Reads a line without its CRLF. An error is the reply to it.
    pub fn parse(line: &[u8]) -> Result<Self, Reply> {
        if line.contains(&0) || line.contains(&b'\r') {
            return Err(Reply::BAD_BYTES);
        }
        let Ok(text) = std::str::from_utf8(line) else { return Err(Reply::BAD_BYTES) };
        if let Some(rest) = after(text, "MAIL FROM:") {
            return mail(rest);
        }
        if let Some(rest) = after(text, "RCPT TO:") {
            return rcpt(rest);
        }
        if let Some(rest) = after(text, "AUTH ") {
            return auth(rest);
        }
        if is_http(text) {
            return Ok(Self::Http);
        }
        other(line)
    }
}

/// Whoever wrote this line means DATA, however badly it is written: the lines behind it may be those of a message.
pub fn says_data(line: &[u8]) -> bool {
    let word = line.iter().position(u8::is_ascii_alphanumeric).map_or(&[][..], |start| &line[start..]);
    let verb = word.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"DATA"));
    verb && !word.get(4).is_some_and(u8::is_ascii_alphanumeric)
}

/// What follows a verb, in any case and with any number of spaces where there should be one or none.
fn after<'a>(text: &'a str, verb: &str) -> Option<&'a str> {
    let mut rest = text.trim_start_matches(' ');
    for word in verb.split_inclusive(' ') {
        let word = word.trim_end();
        if !rest.get(..word.len())?.eq_ignore_ascii_case(word) {
            // `FROM :` is as common as `FROM: `.
            let bare = word.strip_suffix(':')?;
            if !rest.get(..bare.len())?.eq_ignore_ascii_case(bare) {
                return None;
            }
            return rest[bare.len()..].trim_start_matches(' ').strip_prefix(':').map(|r| r.trim_start_matches(' '));
        }
        rest = rest[word.len()..].trim_start_matches(' ');
    }
    Some(rest)
}

fn mail(rest: &str) -> Result<Command, Reply> {
    let (path, parameters) = path(rest).ok_or(Reply::BAD_SYNTAX)?;
    let OfMail { size, ret, envid, others } = of_mail(parameters)?;
    let asked = parameters_of(&others, |parser| parser.mail_from_parameters("".into()).map(MailFrom::into_owned))?;
    let MailFrom { flags, auth, trans_id, by, solicit, mtrk, hold_for, hold_until, mt_priority, .. } = asked;
    let foreign = flags & !(MAIL_BODY_8BITMIME | MAIL_SMTPUTF8 | smtp_proto::MAIL_BODY_7BIT) != 0;
    let unoffered = auth.is_some() || trans_id.is_some() || solicit.is_some() || mtrk.is_some();
    if flags & MAIL_BODY_BINARYMIME != 0 || foreign || unoffered || by != 0 || hold_for + hold_until != 0 || mt_priority != 0 {
        return Err(Reply::UNKNOWN_PARAMETER);
    }
    let smtputf8 = flags & MAIL_SMTPUTF8 != 0;
    let sender = match path {
        "" => ReversePath::Null,
        path => ReversePath::Address(Address::parse(path).map_err(|_| Reply::BAD_SENDER)?),
    };
    if !smtputf8 && !path.is_ascii() {
        return Err(Reply::NEEDS_SMTPUTF8);
    }
    Ok(Command::Mail(Mail { sender, size, eight_bit: flags & MAIL_BODY_8BITMIME != 0, smtputf8, ret, envid }))
}

fn rcpt(rest: &str) -> Result<Command, Reply> {
    let (path, parameters) = path(rest).ok_or(Reply::BAD_SYNTAX)?;
    let (wish, others) = of_rcpt(parameters)?;
    let RcptTo { rrvs, flags, .. } =
        parameters_of(&others, |parser| parser.rcpt_to_parameters("".into()).map(RcptTo::into_owned))?;
    if rrvs != 0 || flags != 0 {
        return Err(Reply::UNKNOWN_PARAMETER);
    }
    match Address::parse(path) {
        Ok(address) if address.routes_on() => Err(Reply::ROUTED_RECIPIENT),
        Ok(address) => Ok(Command::Rcpt(Recipient { address, wish })),
        Err(_) => Err(Reply::BAD_RECIPIENT),
    }
}

/// `AUTH mechanism [initial-response]` (RFC 4954 4). A mechanism that nobody knows is no error of syntax.
fn auth(rest: &str) -> Result<Command, Reply> {
    let (mechanism, initial) =
        rest.trim_end_matches(' ').split_once(' ').map_or((rest.trim_end_matches(' '), None), |(m, i)| (m, Some(i)));
    let mechanism = match mechanism.to_ascii_uppercase().as_str() {
        "PLAIN" => Mechanism::Plain,
        "LOGIN" => Mechanism::Login,
        "" => return Err(Reply::BAD_SYNTAX),
        _ => return Err(Reply::UNKNOWN_MECHANISM),
    };
    Ok(Command::Auth(Auth { mechanism, initial: initial.map(|text| text.trim_start_matches(' ').into()) }))
}

/// Splits `<path> parameters`; the brackets may be missing, as with many old tools.
fn path(rest: &str) -> Option<(&str, &str)> {
    let Some(inner) = rest.strip_prefix('<') else {
        let (path, parameters) = rest.split_once(' ').unwrap_or((rest, ""));
        return (!path.is_empty() && !path.contains(['<', '>'])).then_some((path, parameters));
    };
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => {
                let parameters = &inner[at + 1..];
                let parted = parameters.is_empty() || parameters.starts_with(' ');
                return parted.then_some((inner[..at].trim_matches(' '), parameters));
            }
            _ => {}
        }
    }
    None
}

fn parameters_of<T: Default>(text: &str, parse: impl FnOnce(&mut Rfc5321Parser<'_, '_>) -> Result<T, Error>) -> Result<T, Reply> {
    let text = text.trim_matches(' ');
    if text.is_empty() {
        return Ok(T::default());
    }
    let line = format!("{text}\n");
    let mut bytes = line.as_bytes().iter();
    parse(&mut Rfc5321Parser::new(&mut bytes)).map_err(|error| match error {
        Error::UnsupportedParameter { .. } => Reply::UNKNOWN_PARAMETER,
        _ => Reply::BAD_PARAMETER,
    })
}

fn other(line: &[u8]) -> Result<Command, Reply> {
    let mut whole = Vec::with_capacity(line.len() + 2);
    whole.extend_from_slice(line);
    whole.extend_from_slice(b"\r\n");
    match Request::parse(&mut whole.iter()) {
        Ok(Request::Ehlo { host }) => Ok(Command::Ehlo(clean(&host, MAX_NAME))),
        Ok(Request::Helo { host }) => Ok(Command::Helo(clean(&host, MAX_NAME))),
        Ok(Request::Data) => Ok(Command::Data),
        Ok(Request::Rset) => Ok(Command::Rset),
        Ok(Request::Noop { .. }) => Ok(Command::Noop),
        Ok(Request::Vrfy { .. }) => Ok(Command::Vrfy),
        Ok(Request::Help { .. }) => Ok(Command::Help),
        Ok(Request::Quit) => Ok(Command::Quit),
        Ok(Request::Bdat { .. }) => Ok(Command::Bdat),
        Ok(Request::StartTls) => Ok(Command::StartTls),
        Ok(_) => Err(Reply::NOT_IMPLEMENTED),
        Err(Error::UnknownCommand) => Err(Reply::UNKNOWN_COMMAND),
        Err(_) => Err(Reply::BAD_SYNTAX),
    }
}

/// A browser that was talked into our port sends a request line, then header lines.
fn is_http(text: &str) -> bool {
    let first = text.split(' ').next().unwrap_or_default();
    matches!(first, "GET" | "POST" | "PUT" | "HEAD" | "OPTIONS" | "DELETE" | "PATCH" | "CONNECT" | "TRACE")
        || (first.len() > 1
            && first.ends_with(':')
            && first[..first.len() - 1].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox(line: &str) -> String {
        match Command::parse(line.as_bytes()) {
            Ok(Command::Rcpt(recipient)) => recipient.address.to_string(),
            Ok(Command::Mail(mail)) => mail.sender.to_string(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn paths_stay_as_they_were_written() {
        for (line, expected) in [
            ("MAIL FROM:<A@b.Example>", "A@b.Example"),
            ("mail from: <a@b.example> SIZE=10 BODY=8BITMIME", "a@b.example"),
            ("MAIL FROM :<a@b.example>", "a@b.example"),
            ("MAIL  FROM:a@b.example SIZE=10", "a@b.example"),
            ("MAIL FROM:<>", ""),
            ("RCPT TO:<\"a> b\"@c.example>", "\"a> b\"@c.example"),
            ("RCPT TO:<a..b@docomo.ne.jp>", "a..b@docomo.ne.jp"),
            ("RCPT TO:<@x,@y:u@z.example>", "u@z.example"),
            ("RCPT TO:<Postmaster>", "Postmaster"),
            ("RCPT TO:<50%off!@x.example>", "50%off!@x.example"),
        ] {
            assert_eq!(mailbox(line), expected, "{line}");
        }
    }

    #[test]
    fn bad_lines_have_their_replies() {
        for (line, code) in [
            ("RCPT TO:<info@>", 553),
            ("RCPT TO:<buyer%example.org@host.example>", 553),
            ("RCPT TO:<\"buyer@example.org\"@host.example>", 553),
            ("RCPT TO:<example.org!buyer@host.example>", 553),
            ("RCPT TO:<>", 553),
            ("RCPT TO:", 501),
            ("RCPT TO:<a@b.example", 501),
            ("RCPT TO:<a@b.example>x", 501),
            ("RCPT TO:<a@b.example> X=Y", 555),
            ("RCPT TO:<a@b.example> CONNEG", 555),
            ("RCPT TO:<a@b.example> RRVS=2014-04-03T23:01:00Z", 555),
            ("MAIL FROM:<a@b.example> SIZE=-1", 501),
            ("MAIL FROM:<a@b.example> SIZE=abc", 501),
            ("MAIL FROM:<a@b.example> BODY=BINARYMIME", 555),
            ("MAIL FROM:<ä@b.example>", 553),
            ("MAIL TO:<a@b.example>", 501),
            ("EHLO", 501),
            ("WIZ", 500),
            ("", 500),
            ("EXPN x", 502),
            ("NOOP \0", 500),
            ("NOOP \r", 500),
        ] {
            assert_eq!(Command::parse(line.as_bytes()).unwrap_err().code, code, "{line}");
        }
        assert_eq!(Command::parse(b"NOOP \xff").unwrap_err().code, 500);
    }

    #[test]
    fn a_size_beyond_all_numbers_is_just_too_large() {
        for (written, size) in [("999999999999999999999", u64::MAX), ("18446744073709551616", u64::MAX), ("0010", 10), ("0", 0)] {
            let command = Command::parse(format!("MAIL FROM:<a@b.example> size={written} BODY=8BITMIME").as_bytes());
            assert!(matches!(command, Ok(Command::Mail(Mail { size: found, .. })) if found == size), "{written}: {command:?}");
        }
    }

    #[test]
    fn a_browser_is_known() {
        for line in ["GET / HTTP/1.1", "Host: x", "X-A:"] {
            assert_eq!(Command::parse(line.as_bytes()), Ok(Command::Http), "{line}");
        }
    }
}
