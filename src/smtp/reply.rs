//! Every sentence that a tool can hear from us (RFC 5321 4.2), each with its enhanced code (RFC 3463). Never a path,
//! never an internal error, never bytes from outside that were not cleaned.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;

use crate::mail::{Enhanced, Id, OPTED_OUT, Status, clean};

/// One reply: a code, an enhanced code where the RFCs want one, and a line of text, or several for EHLO and HELP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    enhanced: Option<Enhanced>,
    /// Lines after the first are EHLO keywords or help.
    text: Cow<'static, str>,
    more: &'static [&'static str],
    size: Option<u64>,
}

const fn reply(code: u16, enhanced: Enhanced, text: &'static str) -> Reply {
    Reply { code, enhanced: Some(enhanced), text: Cow::Borrowed(text), more: &[], size: None }
}

fn spoken(code: u16, enhanced: Enhanced, text: String) -> Reply {
    Reply { text: Cow::Owned(text), ..reply(code, enhanced, "") }
}

/// A question of an AUTH exchange, in base64 (RFC 4954 4).
const fn challenge(question: &'static str) -> Reply {
    Reply { code: 334, enhanced: None, text: Cow::Borrowed(question), more: &[], size: None }
}

const BAD_SEQUENCE: Enhanced = Enhanced(5, 5, 1);
const SYNTAX: Enhanced = Enhanced(5, 5, 2);
const PARAMETER: Enhanced = Enhanced(5, 5, 4);

/// What EHLO offers; what not everybody is offered stands in front.
const OFFER: [&str; 7] = [LOGIN, "STARTTLS", "PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"];
const ENCRYPTED_OFFER: [&str; 6] = [LOGIN, "PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"];
const LOGIN: &str = "AUTH PLAIN LOGIN";

#[allow(missing_docs)] // each sentence explains itself
impl Reply {
    pub const OK: Self = reply(250, Enhanced(2, 0, 0), "OK");
    pub const SENDER_OK: Self = reply(250, Enhanced(2, 1, 0), "sender OK");
    pub const RECIPIENT_OK: Self = reply(250, Enhanced(2, 1, 5), "recipient OK");
    pub const BYE: Self = reply(221, Enhanced(2, 0, 0), "bye");
    pub const NOT_HTTP: Self = reply(221, Enhanced(2, 7, 0), "this is a mail server, not a web server");
    pub const SHUTTING_DOWN: Self = reply(421, Enhanced(4, 3, 2), "the relay is shutting down, try again later");
    pub const TOO_SLOW: Self = reply(421, Enhanced(4, 4, 2), "nothing came in time");
    pub const TOO_MANY_ERRORS: Self = reply(421, Enhanced(4, 7, 0), "too many bad commands");
    pub const ENDLESS_LINE: Self = reply(421, Enhanced(4, 7, 0), "the line does not end");
    pub const GO_AHEAD: Self = reply(220, Enhanced(2, 0, 0), "go ahead with TLS");
    pub const ENCRYPTED_ALREADY: Self = reply(503, BAD_SEQUENCE, "the connection is encrypted already");
    pub const ENCRYPT_FIRST: Self =
        reply(530, Enhanced(5, 7, 0), "STARTTLS first: mail is taken over encrypted connections only");
    pub const LOGIN_FIRST: Self = reply(530, Enhanced(5, 7, 0), "AUTH first: user name and password are needed here");
    pub const GO_ON_PLAIN: Self = challenge("");
    pub const ASK_NAME: Self = challenge("VXNlcm5hbWU6");
    pub const ASK_PASSWORD: Self = challenge("UGFzc3dvcmQ6");
    pub const LOGGED_IN: Self = reply(235, Enhanced(2, 7, 0), "welcome");
    pub const WRONG_LOGIN: Self = reply(535, Enhanced(5, 7, 8), "user name or password is wrong");
    pub const TOO_MANY_LOGINS: Self = reply(421, Enhanced(4, 7, 0), "user name or password was wrong too often");
    pub const LOGIN_BUSY: Self = reply(454, Enhanced(4, 7, 0), "too many logins at once, try again later");
    pub const LOGIN_CANCELLED: Self = reply(501, Enhanced(5, 7, 0), "login cancelled");
    pub const NO_BASE64: Self = reply(501, SYNTAX, "this is not base64");
    pub const NO_CREDENTIALS: Self = reply(501, SYNTAX, "this is not a user name and a password");
    pub const LOGGED_IN_ALREADY: Self = reply(503, BAD_SEQUENCE, "a user is logged in already");
    pub const NO_LOGIN_HERE: Self = reply(503, BAD_SEQUENCE, "AUTH comes after EHLO, and before MAIL");
    pub const LOGIN_NEEDS_TLS: Self =
        reply(538, Enhanced(5, 7, 11), "STARTTLS first: no password over a connection in the clear");
    pub const UNKNOWN_MECHANISM: Self = reply(504, PARAMETER, "the ways to log in are PLAIN and LOGIN");
    pub const NOT_YOUR_SENDER: Self = reply(553, Enhanced(5, 7, 1), "this user may not send mail as this sender");
    pub const TOO_MANY_SESSIONS: Self = reply(421, Enhanced(4, 7, 0), "too many connections from your address, try again later");
    pub const NEEDED_ELSEWHERE: Self =
        reply(421, Enhanced(4, 3, 2), "too many clients at once, and nothing came from you, try again later");
    pub const NO_MEMORY: Self = reply(452, Enhanced(4, 3, 1), "too much mail at once, try again later");
    pub const HEADER_TOO_LARGE: Self = reply(552, Enhanced(5, 3, 4), "the header is too large");
    pub const UNVERIFIED: Self = reply(252, Enhanced(2, 5, 0), "cannot verify, but will take mail and try");
    pub const CLIENT_UNKNOWN: Self = reply(554, Enhanced(5, 7, 1), "this client may not relay here");
    pub const TALKED_FIRST: Self = reply(554, Enhanced(5, 5, 0), "wait for the greeting");
    pub const UNKNOWN_COMMAND: Self = reply(500, SYNTAX, "unknown command");
    pub const NOT_IMPLEMENTED: Self = reply(502, BAD_SEQUENCE, "command not implemented");
    pub const LINE_TOO_LONG: Self = reply(500, SYNTAX, "the line is too long");
    pub const BAD_BYTES: Self = reply(500, SYNTAX, "a command is one line of text that ends in CR LF");
    pub const BAD_SYNTAX: Self = reply(501, PARAMETER, "syntax error");
    pub const BAD_PARAMETER: Self = reply(501, PARAMETER, "a parameter has a wrong value");
    pub const UNKNOWN_PARAMETER: Self = reply(555, PARAMETER, "a parameter is unknown or was not offered");
    pub const BAD_SENDER: Self = reply(553, Enhanced(5, 1, 7), "the sender is not an address");
    pub const BAD_RECIPIENT: Self = reply(553, Enhanced(5, 1, 3), "the recipient is not an address");
    pub const ROUTED_RECIPIENT: Self =
        reply(553, Enhanced(5, 1, 3), "the address goes on to another host, so opt-outs cannot be checked");
    pub const NEEDS_SMTPUTF8: Self = reply(553, Enhanced(5, 6, 7), "this address needs SMTPUTF8 at MAIL FROM");
    pub const NESTED_MAIL: Self = reply(503, BAD_SEQUENCE, "a sender was given already");
    pub const MAIL_FIRST: Self = reply(503, BAD_SEQUENCE, "MAIL FROM first");
    pub const RCPT_FIRST: Self = reply(503, BAD_SEQUENCE, "RCPT TO first");
    pub const NO_VALID_RECIPIENTS: Self = reply(554, BAD_SEQUENCE, "no valid recipients");
    pub const TOO_MANY_RECIPIENTS: Self =
        reply(452, Enhanced(4, 5, 3), "too many recipients, send the others in another message");
    pub const TOO_LARGE: Self = reply(552, Enhanced(5, 3, 4), "the message is too large");
    pub const LOOP: Self = reply(554, Enhanced(5, 4, 6), "too many hops, the mail goes in a circle");
    pub const BARE_LINE_ENDS: Self = reply(550, SYNTAX, "a message has lines that end in CR LF and no NUL, see RFC 5321 2.3.8");
    pub const CANNOT_MEND: Self = reply(451, Enhanced(4, 3, 0), "the message's line ends cannot be mended, try again later");
    pub const OPTED_OUT: Self = reply(550, Enhanced(5, 7, 1), OPTED_OUT);
    pub const UNREADABLE_HEADER: Self =
        reply(554, Enhanced(5, 6, 0), "the header names a recipient that cannot be read, so opt-outs cannot be checked");
    pub const LONG_HEADER: Self = reply(554, Enhanced(5, 6, 0), "the header is too long, so opt-outs cannot be checked");
    pub const CANNOT_LOG: Self =
        reply(451, Enhanced(4, 3, 0), "the suppression log cannot be written, so nothing is sent; try again later");
    pub const CANNOT_LEARN: Self =
        reply(451, Enhanced(4, 3, 0), "what was learned cannot be written down, so nothing is sent; try again later");
    pub const NO_ROOM: Self = reply(452, Enhanced(4, 3, 1), "too little room on the relay's disk, try again later");
    pub const CANNOT_HOLD: Self = reply(451, Enhanced(4, 3, 0), "the message cannot be held on disk, try again later");
    pub const GO_ON: Self =
        Self { code: 354, enhanced: None, text: Cow::Borrowed("end with a dot on a line of its own"), more: &[], size: None };
    pub const HELP: Self = Self {
        code: 214,
        enhanced: Some(Enhanced(2, 0, 0)),
        text: Cow::Borrowed("an opt-out relay: mail to buyers who opted out is refused"),
        more: &["EHLO HELO STARTTLS AUTH MAIL RCPT DATA RSET NOOP VRFY HELP QUIT"],
        size: None,
    };

    /// 220 with the host's name first (RFC 5321 4.2).
    pub fn greeting(hostname: &str) -> Self {
        Self { code: 220, enhanced: None, text: Cow::Owned(format!("{hostname} ESMTP optout-relay")), more: &[], size: None }
    }

    /// 250 to HELO.
    pub fn hello(hostname: &str) -> Self {
        Self { code: 250, enhanced: None, text: Cow::Owned(hostname.to_owned()), more: &[], size: None }
    }

    /// 250 to EHLO with what is offered; `size` in bytes (RFC 1870).
    pub fn extended_hello(hostname: &str, size: u64, start_tls: bool, login: bool) -> Self {
        Self {
            more: match (start_tls, login) {
                (true, true) => &OFFER,
                (true, false) => &OFFER[1..],
                (false, true) => &ENCRYPTED_OFFER,
                (false, false) => &ENCRYPTED_OFFER[1..],
            },
            size: Some(size),
            ..Self::hello(hostname)
        }
    }

    /// 250: somebody else has the whole message now, or there was nobody left to send it to.
    pub fn delivered(id: Id) -> Self {
        spoken(250, Enhanced(2, 0, 0), format!("delivered as {id}"))
    }

    /// 250: on this disk, and tried until the host has it.
    pub fn held(id: Id) -> Self {
        spoken(250, Enhanced(2, 0, 0), format!("held as {id}, and sent on from here"))
    }

    /// 250: all recipients have opted out with action `drop` or `bounce`.
    pub fn suppressed(id: Id) -> Self {
        spoken(250, Enhanced(2, 0, 0), format!("taken as {id} and suppressed, nobody is mailed"))
    }

    /// 250: what came of a message to our own address.
    pub fn learned(id: Id, what: &str) -> Self {
        spoken(250, Enhanced(2, 0, 0), clean(&format!("taken as {id}; {what}"), 400))
    }

    /// The host's own refusal, word for word as far as words are clean.
    pub fn refused(status: &Status) -> Self {
        spoken(status.code, status.enhanced, status.text.clone())
    }

    /// The host refused some recipients for good and took the others, and no report can say so.
    pub fn partly_refused(status: &Status, refused: usize, all: usize) -> Self {
        let text = format!("refused for {refused} of {all} recipients, sent to the others: {}", status.text);
        spoken(status.code, status.enhanced, text)
    }

    /// The words, without the codes.
    pub fn text(&self) -> String {
        clean(&self.text, 400)
    }

    /// The host took it for some recipients, and the disk does not take it for the others.
    pub fn partly_held(not_sent: usize, all: usize) -> Self {
        let text =
            format!("not sent to {not_sent} of {all} recipients, for the relay's disk does not take it; sent to the others");
        spoken(554, Enhanced(5, 3, 0), text)
    }

    /// 2xx or 3xx.
    pub fn is_positive(&self) -> bool {
        self.code < 400
    }

    /// Appends the reply as it goes over the wire.
    pub fn write_to(&self, wire: &mut Vec<u8>) {
        let size = self.size.map(|size| format!("SIZE {size}"));
        let more = size.iter().map(String::as_str).chain(self.more.iter().copied());
        let mut lines = std::iter::once(&*self.text).chain(more).peekable();
        while let Some(line) = lines.next() {
            let mark = if lines.peek().is_some() { '-' } else { ' ' };
            // A Vec takes every write.
            let _ = match self.enhanced {
                Some(enhanced) => wire.write_fmt(format_args!("{}{mark}{enhanced} {line}\r\n", self.code)),
                None => wire.write_fmt(format_args!("{}{mark}{line}\r\n", self.code)),
            };
        }
    }
}

/// One line, for logs.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, "{enhanced} ")?;
        }
        f.write_str(&clean(&self.text, 400))
    }
}
