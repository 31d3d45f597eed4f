//! How it ended for one recipient: an SMTP status, and what it means for the mail. Never decides what happens next.

use std::fmt;

/// An enhanced status code (RFC 3463), `class.subject.detail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enhanced(pub u8, pub u16, pub u16);

impl Enhanced {
    /// Reads the code at the start of a reply's text (RFC 2034 4) and what follows it.
    ///
    /// `None` unless its class is that of the reply code.
    pub fn split(code: u16, text: &str) -> Option<(Self, &str)> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parts = word.split('.');
        let class: u8 = parts.next()?.parse().ok()?;
        let (subject, detail) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let fits = parts.next().is_none() && u16::from(class) == code / 100 && subject < 1000 && detail < 1000;
        fits.then(|| (Self(class, subject, detail), rest.trim_start()))
    }
}

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// At which step of the dialogue with the host something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Connecting, greeting, EHLO, STARTTLS.
    Connect,
    /// AUTH: the host does not take our login.
    Login,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Recipient,
    /// DATA, before a byte of the message.
    Data,
    /// The reply to the final dot.
    Dot,
    /// The final dot was sent and no usable reply came: the host may have the message.
    Unanswered,
    /// Our own part: a folder, a limit.
    Local,
    /// Our own judge: the recipient has opted out.
    OptOut,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Login => "AUTH",
            Self::Mail => "MAIL",
            Self::Recipient => "RCPT",
            Self::Data => "DATA",
            Self::Dot => "end of data",
            Self::Unanswered => "after end of data",
            Self::Local => "local",
            Self::OptOut => "opt-out",
        })
    }
}

/// What is said, to tools and in reports, of a recipient who has opted out, and of nobody else.
pub const OPTED_OUT: &str = "recipient has opted out of your mail";

/// A reply as a value: code (RFC 5321 4.2), enhanced code (RFC 3463), one line of clean text, and where it came up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Three digits.
    pub code: u16,
    /// Given by the host, or the plain one of its class.
    pub enhanced: Enhanced,
    /// Printable ASCII, no line ends; never more than 400 bytes.
    pub text: String,
    /// Where in the dialogue.
    pub stage: Stage,
    /// The host's own words; else ours, about what came up.
    pub by_host: bool,
}

impl Status {
    /// A reply of the host.
    pub fn said(stage: Stage, code: u16, text: &str) -> Self {
        Self { by_host: true, ..Self::new(stage, code, text) }
    }

    /// In our own words. The text is cleaned and an enhanced code in front of it is read.
    pub fn new(stage: Stage, code: u16, text: &str) -> Self {
        let text = clean(text, 400);
        let (enhanced, text) = match Enhanced::split(code, &text) {
            Some((enhanced, rest)) => (enhanced, rest.to_owned()),
            None => (Enhanced((code / 100).min(9) as u8, 0, 0), text),
        };
        Self { code, enhanced, text, stage, by_host: false }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.code, self.enhanced, self.text)
    }
}

/// What became of one recipient at one attempt. An expected ending, never an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The host took responsibility.
    Delivered(Status),
    /// Not now: try again later.
    Deferred(Status),
    /// Refused for good; the sender is to hear of it.
    Refused(Status),
    /// Kept back because of an opt-out, after the recipient had been accepted.
    Suppressed {
        /// Ours.
        status: Status,
        /// The sender is not to hear of it.
        silent: bool,
    },
}

impl Outcome {
    /// The status behind the outcome.
    pub fn status(&self) -> &Status {
        match self {
            Self::Delivered(status) | Self::Deferred(status) | Self::Refused(status) | Self::Suppressed { status, .. } => status,
        }
    }

    /// Nothing could be handed over at all: the host is out of reach or does not let us in, or the folder cannot be written.
    pub fn host_is_away(&self) -> bool {
        matches!(self, Self::Deferred(status) if matches!(status.stage, Stage::Connect | Stage::Login | Stage::Local))
    }

    /// Postfix's word for it in the delivery log: `sent`, `deferred`, `bounced`; and ours, `suppressed`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Delivered(_) => "sent",
            Self::Deferred(_) => "deferred",
            Self::Refused(status) if status.stage != Stage::OptOut => "bounced",
            Self::Refused(_) | Self::Suppressed { .. } => "suppressed",
        }
    }
}

/// Text from outside made safe for a reply or a log line: printable ASCII, the rest as `?`, at most `max` bytes.
pub fn clean(text: &str, max: usize) -> String {
    text.chars().take(max).map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// So many of something, for people: `1 message`, `2 messages`.
pub fn some(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_enhanced_code_must_agree_with_the_reply() {
        let status = |text| Status::new(Stage::Recipient, 550, text);
        assert_eq!(status("5.1.1 no such user").to_string(), "550 5.1.1 no such user");
        assert_eq!(status("2.1.1 odd").to_string(), "550 5.0.0 2.1.1 odd");
        assert_eq!(status("5.1.1").to_string(), "550 5.1.1 ");
        assert_eq!(status("bad\r\n250 ok\u{1b}[31m").text, "bad??250 ok?[31m");
    }
}
