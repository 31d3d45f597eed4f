//! What a host has got: for each recipient the letter, its fingerprint, and under which id the relay had it; or what a
//! report says. Never a judgement.

use std::fmt;

use crate::chance::fingerprint;
use crate::letter::{NAME, unstuffed};

#[derive(Clone, Debug)]
pub struct Arrival {
    /// The letter's name; of a report: that of the letter that it is about. Empty where there is none.
    pub name: String,
    /// The relay's name of it, from its `Received:`.
    pub id: String,
    /// Of a report: whom the letter did not reach.
    pub recipient: String,
    /// Without the relay's `Received:`.
    pub hash: u64,
    /// When MAIL came.
    pub since: u64,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Letter,
    /// `Action: failed` (RFC 3464 2.3.3).
    Failure,
    /// Any other word there.
    Note,
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, id, recipient, hash, since, kind } = self;
        write!(f, "{name} {id} {hash:016x} {since} {kind:?} {recipient}")
    }
}

/// One message, dots still stuffed.
pub fn arrivals(sender: &str, to: &[String], wire: &[u8], since: u64) -> Vec<Arrival> {
    let content = unstuffed(wire);
    let (id, content) = without_trace(&content);
    let text = String::from_utf8_lossy(content);
    let name = text.lines().find_map(|line| line.strip_prefix(NAME)).unwrap_or_default().to_owned();
    let letter = Arrival { name, id, recipient: String::new(), hash: fingerprint(content), since, kind: Kind::Letter };
    if sender.is_empty() {
        return reported(&text).into_iter().map(|(recipient, kind)| Arrival { recipient, kind, ..letter.clone() }).collect();
    }
    to.iter().map(|recipient| Arrival { recipient: recipient.clone(), ..letter.clone() }).collect()
}

/// The first field, if it is a relay's `Received:`, and its lines; the id in it.
fn without_trace(content: &[u8]) -> (String, &[u8]) {
    if !content.starts_with(b"Received: ") {
        return (String::new(), content);
    }
    let mut lines = content.split_inclusive(|byte| *byte == b'\n');
    let mut length = lines.next().map_or(0, <[u8]>::len);
    length += lines.take_while(|line| line.starts_with(b"\t") || line.starts_with(b" ")).map(<[u8]>::len).sum::<usize>();
    let (trace, rest) = content.split_at(length);
    let trace = String::from_utf8_lossy(trace);
    let id = trace.split_once(" id ").and_then(|(_, rest)| rest.split_once(';')).map_or("", |(id, _)| id);
    (id.to_owned(), rest)
}

/// The recipients of a report (RFC 3464 2.3), each with what became of the letter.
fn reported(text: &str) -> Vec<(String, Kind)> {
    let (mut all, mut recipient) = (Vec::new(), None);
    for line in text.lines() {
        let Some((field, value)) = line.split_once(':') else { continue };
        match field.to_ascii_lowercase().as_str() {
            "final-recipient" => recipient = value.split_once(';').map(|(_, address)| address.trim().to_owned()),
            "action" => {
                let kind = if value.trim() == "failed" { Kind::Failure } else { Kind::Note };
                all.extend(recipient.take().map(|recipient| (recipient, kind)));
            }
            _ => {}
        }
    }
    all
}
