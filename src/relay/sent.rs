//! Who was mailed: the lines for the log. Never does anything but tell it.

use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;

use jiff::Timestamp;

use super::Relay;
use crate::ledger::Sent;
use crate::mail::{Mail, Outcome, clean};

/// The longest Message-ID that is kept: a line of a header.
const MAX_ID: usize = 998;

impl Relay {
    /// The host has taken the mail for some of them.
    pub(super) async fn record_sent(&self, mail: &Mail, outcomes: &[(usize, Outcome)]) {
        if !self.ledger.keeps_sent() {
            return;
        }
        let envelope = &mail.envelope;
        // One text for all that must be written out first: this is on the way of every mail.
        let mut text = String::with_capacity(256);
        let mut written = |what: std::fmt::Arguments<'_>| {
            let start = text.len();
            // A String takes every write.
            let _ = text.write_fmt(what);
            start..text.len()
        };
        let (time, id) = (written(format_args!("{}", Timestamp::now())), written(format_args!("{}", envelope.id)));
        let delivered = outcomes.iter().filter_map(|(place, outcome)| match outcome {
            Outcome::Delivered(status) => Some((envelope.recipients[*place].address.as_str(), written(format_args!("{status}")))),
            _ => None,
        });
        let delivered: Vec<_> = delivered.collect();
        let message_id = mail.message.message_id().map(plain);
        let line = |(recipient, reply): (_, Range<usize>)| Sent {
            time: &text[time.clone()],
            event: "sent",
            recipient,
            sender: envelope.sender.as_str(),
            client: envelope.client.ip,
            message_id: message_id.as_deref(),
            id: &text[id.clone()],
            upstream: self.upstream.name(),
            reply: &text[reply],
        };
        self.ledger.sent(delivered.into_iter().map(line)).await;
    }
}

/// As it stands there, mostly.
fn plain(id: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(id) {
        Ok(text) if id.len() <= MAX_ID && id.iter().all(u8::is_ascii_graphic) => Cow::Borrowed(text),
        _ => Cow::Owned(clean(&String::from_utf8_lossy(id), MAX_ID)),
    }
}
