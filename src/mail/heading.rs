//! What a rule may need from a header section: subject, Message-ID, and who is named as recipient. Only read where a
//! rule asks for it; never on the way of ordinary mail, never a body.

use mail_parser::{HeaderName, HeaderValue, MessageParser};

use super::{Address, HeaderSection, clean};

/// The longest Message-ID that is kept: a line of a message (RFC 5322 2.1.1).
const MAX_ID: usize = 998;

/// The fields of a header section that rules and logs speak of, decoded (RFC 2047).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heading {
    /// Subject, empty if there is none.
    pub subject: String,
    /// Message-ID without its angle brackets.
    pub message_id: Option<String>,
    /// The mailboxes of To, Cc and Bcc, also of those fields that stand twice.
    pub recipients: Vec<Address>,
    /// Some mailbox in To, Cc or Bcc could not be read.
    pub unreadable_recipient: bool,
}

impl Heading {
    /// Decodes a header section. Never fails: what cannot be read is left empty, or told in `unreadable_recipient`.
    pub fn read(section: &HeaderSection<'_>) -> Self {
        let Some(message) = MessageParser::default().parse_headers(section.bytes()) else {
            return Self::default();
        };
        let mut heading = Self {
            subject: message.subject().unwrap_or_default().to_owned(),
            message_id: message.message_id().map(|id| clean(id, MAX_ID)),
            ..Self::default()
        };
        for header in message.headers() {
            if matches!(header.name, HeaderName::To | HeaderName::Cc | HeaderName::Bcc) {
                heading.add_recipients(&header.value);
            }
        }
        heading
    }

    fn add_recipients(&mut self, value: &HeaderValue<'_>) {
        let HeaderValue::Address(addresses) = value else {
            self.unreadable_recipient |= *value != HeaderValue::Empty;
            return;
        };
        for mailbox in addresses.iter() {
            match mailbox.address.as_deref().map(|text| Address::parse(text.trim())) {
                Some(Ok(address)) if !address.routes_on() => self.recipients.push(address),
                // An empty group (`undisclosed-recipients:;`) names nobody.
                None if mailbox.name.is_none() => {}
                _ => self.unreadable_recipient = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::mail::Message;

    fn heading(text: &'static str) -> Heading {
        let message = Message::from_wire(Bytes::from_static(text.as_bytes())).unwrap();
        Heading::read(&message.headers(1 << 16).unwrap())
    }

    #[test]
    fn fields_are_decoded_and_gathered() {
        let found = heading(concat!(
            "To: \"A\" <a@x.example>, b@x.example\r\nTo: c@x.example\r\n",
            "Cc: team: d@x.example, e@x.example;\r\nBcc: F <f@x.example>\r\n",
            "Subject: =?utf-8?q?=5BWichtig=5D?= Frage\r\nMessage-ID: <1@x>\r\n\r\n"
        ));
        let to: Vec<_> = found.recipients.iter().map(Address::as_str).collect();
        assert_eq!(to, ["a@x.example", "b@x.example", "c@x.example", "d@x.example", "e@x.example", "f@x.example"]);
        assert_eq!((found.subject.as_str(), found.message_id.as_deref()), ("[Wichtig] Frage", Some("1@x")));
        assert!(!found.unreadable_recipient);
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        assert!(heading("To: buyer at example\r\n\r\n").unreadable_recipient);
        let nobody = heading("To: undisclosed-recipients:;\r\n\r\n");
        assert_eq!((nobody.recipients.len(), nobody.unreadable_recipient), (0, false));
    }
}
