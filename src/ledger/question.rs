//! What somebody wants to know from the logs, and the lines that answer it. Never reads a file, never knows the time.

use jiff::Timestamp;
use serde::Deserialize;

use crate::mail::{Address, PlusTags};

/// One line of any of the logs, as far as it is there; what a line does not have is empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Line {
    /// RFC 3339, UTC.
    pub time: String,
    /// What happened.
    pub event: String,
    /// `reject`, `drop` or `bounce`.
    pub action: String,
    /// Whom it was for; of `learned.jsonl` see `address`.
    pub recipient: Option<String>,
    /// Who has opted out.
    pub address: Option<String>,
    /// Envelope sender.
    pub sender: String,
    /// Address of the tool.
    pub client: String,
    /// What the tool called itself.
    pub helo: String,
    /// Message-ID of the mail or the notice.
    pub message_id: Option<String>,
    /// Our id of the message; of `actions.jsonl` null where it is about none.
    #[serde(deserialize_with = "or_empty")]
    pub id: String,
    /// The entry that decided.
    pub rule: Option<Rule>,
    /// As in the list.
    pub reason: Option<String>,
    /// As in the list.
    pub source: Option<String>,
    /// As in the list, or when the notice came.
    pub since: Option<String>,
    /// The lists in force.
    pub list: String,
    /// What the tool, or the relay, was told.
    pub reply: String,
    /// The way by which a notice came.
    pub intake: String,
    /// The order that a notice names.
    pub order: Option<String>,
    /// Who has done it at the admin page.
    pub who: String,
    /// Where it went.
    pub upstream: String,
    /// Number in the chain; 0 of a line from before it.
    pub seq: u64,
}

fn or_empty<'de, D: serde::Deserializer<'de>>(text: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(text)?.unwrap_or_default())
}

/// Where the entry that decided stands.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Path of the list.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// As in the list.
    pub kind: String,
    /// The entry in its comparing form.
    pub value: String,
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} in {}:{}", self.kind, self.value, self.file, self.line)
    }
}

impl Line {
    /// Whom it is about.
    pub fn about(&self) -> Option<&str> {
        self.recipient.as_deref().or(self.address.as_deref())
    }

    /// When it was written, if that can be read.
    pub fn moment(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Which lines are wanted; what is not given, any.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// From this moment on.
    pub since: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
    /// About this address, however it is spelled.
    pub about: Option<Whom>,
    /// Sent by; a glob in lower case.
    pub sender: Option<String>,
    /// Part of the rule: its list, kind or value.
    pub rule: Option<String>,
    /// `reject`, `drop` or `bounce`.
    pub action: Option<String>,
    /// The id of a message.
    pub id: Option<String>,
    /// Only records before this number of the chain.
    pub before: Option<u64>,
}

/// An address that is looked for.
#[derive(Clone, Debug)]
pub struct Whom {
    local: String,
    untagged: String,
    domain: String,
    tags: PlusTags,
}

impl Whom {
    /// Whoever has this address, in all its spellings.
    pub fn new(address: &Address, tags: PlusTags) -> Self {
        let (key, untagged) = (address.key(tags), address.key(PlusTags::Ignore).local.to_owned());
        Self { local: key.local.to_owned(), untagged, domain: key.domain.to_owned(), tags }
    }

    /// Local part, without a tag, and domain, in comparing form.
    pub fn untagged(&self) -> (&str, &str) {
        (&self.untagged, &self.domain)
    }

    /// Whether an address as it stands in a log is theirs.
    pub fn is(&self, text: &str) -> bool {
        self.may_be(text.as_bytes())
            && Address::parse(text).is_ok_and(|address| {
                let key = address.key(self.tags);
                key.local == self.local && key.domain == self.domain
            })
    }

    /// Quickly; false is certain. Only what is plain can be told by its looks.
    fn may_be(&self, written: &[u8]) -> bool {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'+' | b'@');
        let Some(at) = memchr::memrchr(b'@', written) else { return true };
        let (local, domain) = (&written[..at], &written[at + 1..]);
        if domain.ends_with(b".") || !written.iter().all(is_plain) {
            return true;
        }
        let starts = local.get(..self.local.len()).is_some_and(|start| start.eq_ignore_ascii_case(self.local.as_bytes()));
        domain.eq_ignore_ascii_case(self.domain.as_bytes()) && (starts || local.starts_with(b"+"))
            || domain.len() >= 4 && memchr::memmem::find(&domain.to_ascii_lowercase(), b"xn--").is_some()
    }
}

impl Question {
    /// Whether a line, without its line end, is wanted; those that are not are passed over as fast as can be.
    pub fn fits(&self, text: &[u8]) -> Result<Option<Line>, Damaged> {
        if !text.starts_with(b"{") || !text.ends_with(b"}") {
            return Err(Damaged);
        }
        if let Some(whom) = &self.about
            && !field(text, b"\"recipient\":\"").or_else(|| field(text, b"\"address\":\"")).is_none_or(|text| whom.may_be(text))
        {
            return Ok(None);
        }
        if let Some(id) = &self.id
            && memchr::memmem::find(text, id.as_bytes()).is_none()
        {
            return Ok(None);
        }
        let line: Line = serde_json::from_slice(text).map_err(|_| Damaged)?;
        Ok(self.wants(&line).then_some(line))
    }

    fn wants(&self, line: &Line) -> bool {
        let in_time = || match line.moment() {
            Some(time) => self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until),
            None => self.since.is_none() && self.until.is_none(),
        };
        let by_sender = |glob: &str| wildmatch::WildMatch::new(glob).matches(&line.sender.to_lowercase());
        let by_rule = |part: &str| line.rule.as_ref().is_some_and(|rule| rule.to_string().to_lowercase().contains(part));
        in_time()
            && self.about.as_ref().is_none_or(|whom| line.about().is_some_and(|about| whom.is(about)))
            && self.id.as_ref().is_none_or(|id| *id == line.id)
            && self.action.as_ref().is_none_or(|action| *action == line.action)
            && self.sender.as_deref().is_none_or(by_sender)
            && self.rule.as_deref().is_none_or(by_rule)
            && self.before.is_none_or(|before| line.seq < before)
    }
}

/// A line that is no line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// The text of a field as it is written, up to its quote; None where it is not there or holds an escape.
pub(super) fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let start = memchr::memmem::find(line, name)? + name.len();
    let rest = &line[start..];
    let text = &rest[..memchr::memchr(b'"', rest)?];
    (!text.contains(&b'\\')).then_some(text)
}

/// A moment, or the beginning of a day, or so long before `now`, as in 7d or 12h.
pub fn moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    let day = || {
        let day = text.parse::<jiff::civil::Date>().ok()?;
        jiff::tz::TimeZone::UTC.to_timestamp(day.to_datetime(jiff::civil::Time::MIN)).ok()
    };
    let ago = || {
        let ago = humantime_serde::re::humantime::parse_duration(text).ok()?;
        now.checked_sub(jiff::SignedDuration::try_from(ago).ok()?).ok()
    };
    text.parse().ok().or_else(day).or_else(ago)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whom(text: &str) -> Question {
        let about = Some(Whom::new(&Address::parse(text).unwrap(), PlusTags::Ignore));
        Question { about, ..Question::default() }
    }

    fn line(recipient: &str) -> String {
        serde_json::json!({"time": "2026-11-25T08:00:00Z", "recipient": recipient, "sender": "Shop@A.example", "id": "i1",
            "action": "drop", "rule": {"file": "l.toml", "line": 3, "kind": "address", "value": "b@x.example"}, "seq": 7})
        .to_string()
    }

    #[test]
    fn an_address_is_found_in_all_its_spellings_and_nobody_else() {
        for (asked, written, found) in [
            ("buyer@x.example", "Buyer+7@X.example", true),
            ("Buyer+1@x.example", "buyer@x.example", true),
            ("buyer@x.example", "\"buyer\"@x.example", true),
            ("buyer@x.example", "buyer@x.example.", true),
            ("buyer@x.example", "buyers@x.example", false),
            ("buyer@x.example", "buy@x.example", false),
            ("buyer@x.example", "buyer@y.example", false),
            ("buyer@bücher.example", "buyer@xn--bcher-kva.example", true),
            ("buyer@xn--bcher-kva.example", "buyer@BÜCHER.example", true),
            ("b\u{fc}ß@x.example", "b\u{fc}ß+a@x.example", true),
        ] {
            let answer = whom(asked).fits(line(written).as_bytes()).unwrap();
            assert_eq!(answer.is_some(), found, "{asked} in {written}");
        }
    }

    #[test]
    fn every_condition_counts() {
        let at = |text: &str| Some(text.parse().unwrap());
        let q = Question::default;
        for (question, wanted) in [
            (q(), true),
            (Question { since: at("2026-11-25T08:00:00Z"), ..q() }, true),
            (Question { since: at("2026-11-25T08:00:01Z"), ..q() }, false),
            (Question { until: at("2026-11-25T08:00:00Z"), ..q() }, false),
            (Question { sender: Some("*@a.example".into()), ..q() }, true),
            (Question { sender: Some("*@b.example".into()), ..q() }, false),
            (Question { rule: Some("l.toml:3".into()), ..q() }, true),
            (Question { rule: Some("pattern".into()), ..q() }, false),
            (Question { action: Some("drop".into()), ..q() }, true),
            (Question { action: Some("bounce".into()), ..q() }, false),
            (Question { id: Some("i1".into()), ..q() }, true),
            (Question { id: Some("i".into()), ..q() }, false),
            (Question { before: Some(8), ..q() }, true),
            (Question { before: Some(7), ..q() }, false),
        ] {
            assert_eq!(question.fits(line("b@x.example").as_bytes()).unwrap().is_some(), wanted, "{question:?}");
        }
        assert_eq!(q().fits(b"{\"half").err(), Some(Damaged));
        assert_eq!(q().fits(b"{\"time\":7}").err(), Some(Damaged));
    }

    #[test]
    fn a_moment_is_written_in_three_ways() {
        let now = "2026-11-25T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-11-25", "2026-11-25T00:00:00Z"),
            ("2026-11-25T08:00:00Z", "2026-11-25T08:00:00Z"),
            ("7d", "2026-11-18T12:00:00Z"),
        ] {
            assert_eq!(moment(text, now), Some(expected.parse().unwrap()));
        }
        assert_eq!(moment("soon", now), None);
    }
}
