//! Who sends what to whom: the SMTP envelope (RFC 5321 2.3.1) of one message under way. Never its content.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::Address;

/// Our own name of a message: it stands in the Received field, in every log line, in the reply to the tool, and is the
/// name of its files in the spool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u128);

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Digits of an id: 53 bits of time and 32 of chance.
const ID_LENGTH: usize = 17;

impl Id {
    /// An id from microseconds since 1970, and from chance: two relays, or one whose clock was set back, give no id twice.
    pub fn new(micros: u64, chance: u32) -> Self {
        Self(u128::from(micros & ((1 << 53) - 1)) << 32 | u128::from(chance))
    }

    /// Reads what [`Display`](fmt::Display) has written; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| DIGITS.iter().position(|digit| *digit == byte).map(|value| value as u128);
        let all = text.bytes().try_fold(0, |bits, byte| Some(bits << 5 | digit(byte)?))?;
        (text.len() == ID_LENGTH).then_some(Self(all))
    }
}

/// Seventeen characters of Crockford's base 32, in the order of time.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0_u8; ID_LENGTH];
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
    /// It speaks through TLS.
    pub encrypted: bool,
    /// Who it has proved to be, by a password.
    pub user: Option<Arc<str>>,
}

impl Client {
    /// One that has said nothing yet.
    pub fn new(ip: IpAddr) -> Self {
        Self { ip, helo: "".into(), extended: false, encrypted: false, user: None }
    }
}

/// Somebody accepted at RCPT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// As written.
    pub address: Address,
    /// What the sender wants to hear of it.
    pub wish: Wish,
}

/// The parameters of RCPT (RFC 3461 4.1, 4.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// `NOTIFY`
    pub notify: Notify,
    /// `ORCPT` as it was written: type, semicolon, xtext.
    pub original: Option<Box<str>>,
}

/// When the sender wants a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Notify {
    /// Nothing was said: failures, and delays if we like.
    #[default]
    Unsaid,
    /// `NEVER`
    Never,
    /// Exactly these.
    When {
        /// `SUCCESS`
        success: bool,
        /// `FAILURE`
        failure: bool,
        /// `DELAY`
        delay: bool,
    },
}

impl Notify {
    /// Reads the value of `NOTIFY` in capitals; `NEVER` stands alone (RFC 3461 4.1).
    pub fn parse(list: &str) -> Option<Self> {
        if list == "NEVER" {
            return Some(Self::Never);
        }
        let (mut success, mut failure, mut delay) = (false, false, false);
        for word in list.split(',') {
            match word {
                "SUCCESS" => success = true,
                "FAILURE" => failure = true,
                "DELAY" => delay = true,
                _ => return None,
            }
        }
        Some(Self::When { success, failure, delay })
    }

    /// The sender wants to hear that the mail could not be delivered.
    pub fn of_failure(self) -> bool {
        matches!(self, Self::Unsaid | Self::When { failure: true, .. })
    }

    /// The sender wants to hear that the mail is late.
    pub fn of_delay(self) -> bool {
        matches!(self, Self::Unsaid | Self::When { delay: true, .. })
    }

    /// The sender wants to hear that the mail went on.
    pub fn of_success(self) -> bool {
        matches!(self, Self::When { success: true, .. })
    }
}

/// The value of `NOTIFY`; empty where nothing was said.
impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::When { success, failure, delay } = *self else {
            return f.write_str(if *self == Self::Never { "NEVER" } else { "" });
        };
        let words = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
        let mut comma = "";
        for (_, word) in words.iter().filter(|(wished, _)| *wished) {
            write!(f, "{comma}{word}")?;
            comma = ",";
        }
        Ok(())
    }
}

/// `RET`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// `FULL`
    Full,
    /// `HDRS`
    Headers,
}

impl Ret {
    /// Reads the value of `RET` in capitals.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "FULL" => Some(Self::Full),
            "HDRS" => Some(Self::Headers),
            _ => None,
        }
    }
}

/// The value of `RET`.
impl fmt::Display for Ret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        })
    }
}

impl From<Address> for Recipient {
    /// Without wishes.
    fn from(address: Address) -> Self {
        Self { address, wish: Wish::default() }
    }
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
    pub recipients: Vec<Recipient>,
    /// `RET`: how much of the message a report holds (RFC 3461 4.3).
    pub ret: Option<Ret>,
    /// `ENVID` in xtext as it was written (RFC 3461 4.4).
    pub envid: Option<Box<str>>,
    /// `BODY=8BITMIME` was declared (RFC 6152).
    pub eight_bit: bool,
    /// `SMTPUTF8` was declared (RFC 6531).
    pub smtputf8: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written_and_sorts_by_time() {
        let ids = [Id::new(0, 0), Id::new(1, 0), Id::new(1, u32::MAX), Id::new(2, 7), Id::new((1 << 53) - 1, u32::MAX)];
        assert!(ids.is_sorted_by_key(|id| id.to_string()));
        for id in ids {
            assert_eq!(Id::parse(&id.to_string()), Some(id));
        }
        for wrong in ["", "0", "0000000000000000U", "00000000000000000000", "../00000000000000"] {
            assert_eq!(Id::parse(wrong), None, "{wrong}");
        }
    }
}
