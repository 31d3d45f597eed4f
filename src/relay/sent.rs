//! Who was mailed: the lines for the log. Never does anything but tell it.

use jiff::Timestamp;

use super::Relay;
use crate::ledger::Sent;
use crate::mail::{Mail, Outcome, clean};

/// The longest line of a header that is kept.
const MAX_ID: usize = 998;

impl Relay {
    /// The host has taken the mail for some of them.
    pub(super) async fn record_sent(&self, mail: &Mail, outcomes: &[(usize, Outcome)]) {
        if !self.ledger.keeps_sent() {
            return;
        }
        let envelope = &mail.envelope;
        let (time, id) = (Timestamp::now().to_string(), envelope.id.to_string());
        let message_id = mail.message.message_id().map(|bytes| clean(&String::from_utf8_lossy(bytes), MAX_ID));
        let delivered = outcomes.iter().filter_map(|(place, outcome)| match outcome {
            Outcome::Delivered(status) => Some((envelope.recipients[*place].address.to_string(), status.to_string())),
            _ => None,
        });
        let delivered: Vec<_> = delivered.collect();
        let sender = envelope.sender.as_str();
        let line = |(recipient, reply)| Sent {
            time: &time,
            event: "sent",
            recipient,
            sender,
            client: envelope.client.ip,
            message_id: message_id.as_deref(),
            id: &id,
            upstream: self.upstream.name(),
            reply,
        };
        let lines: Vec<_> = delivered.iter().map(|(recipient, reply)| line((recipient, reply))).collect();
        self.ledger.sent(&lines).await;
    }
}
