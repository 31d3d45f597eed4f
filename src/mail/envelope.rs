//! Who sends what to whom: the SMTP envelope (RFC 5321 2.3.1) of one message under way. Never its content.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::Address;

/// Our own name of a message: it stands in the Received field, in every log line and in the reply to the tool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u64);

impl Id {
    /// An id from microseconds since 1970; the caller sees to it that no two are the same.
    pub fn from_micros(micros: u64) -> Self {
        Self(micros)
    }
}

/// Eleven characters of Crockford's base 32, in the order of time.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let mut text = [0_u8; 11];
        for (place, digit) in text.iter_mut().rev().enumerate() {
            *digit = DIGITS[(self.0 >> (5 * place)) as usize & 31];
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The reverse-path of RFC 5321: a mailbox, or null (`<>`) for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// `MAIL FROM:<>`
    Null,
    /// `MAIL FROM:<mailbox>`
    Address(Address),
}

impl ReversePath {
    /// The mailbox as written; empty for the null sender.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Address(address) => address.as_str(),
        }
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who is talking to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Where the connection comes from.
    pub ip: IpAddr,
    /// What it called itself at EHLO or HELO, cleaned; empty before.
    pub helo: Arc<str>,
    /// It said EHLO, so it speaks ESMTP.
    pub extended: bool,
}

/// One mail transaction: sender, recipients as written, what the client declared of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Ours.
    pub id: Id,
    /// Who handed it in.
    pub client: Client,
    /// Where reports go.
    pub sender: ReversePath,
    /// Accepted at RCPT, in order. Not cleared: judged again before anything leaves.
    pub recipients: Vec<Address>,
    /// `BODY=8BITMIME` was declared (RFC 6152).
    pub eight_bit: bool,
    /// `SMTPUTF8` was declared (RFC 6531).
    pub smtputf8: bool,
}
