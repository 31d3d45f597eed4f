//! Reports to the sender (RFC 3461, 3462, 3464): from what became of each recipient to a message that says so. Never sends
//! anything, never asks the clock, never reports about a report.
//!
//! A report that cannot be delivered is lost, for nobody reports about it. So it is ASCII whatever the mail was made of, and
//! every host can take it; only a sender whose own address goes beyond ASCII gets one that needs SMTPUTF8.

mod form;
mod status;
mod words;

use bytes::Bytes;
use jiff::Timestamp;
use memchr::memmem;

use crate::mail::{Address, Client, Envelope, Heading, Id, Mail, Message, Notify, Recipient, ReversePath, Status, Wish};
use form::{field, part, stuffed};

/// How much of the original's header a report holds, in bytes.
const MAX_HEADERS: usize = 64 << 10;

/// The longest Message-ID that is put into a field of ours, in bytes.
const MAX_MESSAGE_ID: usize = 250;

/// What became of one recipient.
#[derive(Clone, Copy, Debug)]
pub struct Notice<'a> {
    /// Who, and what the sender wants to hear of it.
    pub recipient: &'a Recipient,
    /// The last word on it.
    pub status: &'a Status,
    /// When that came; unknown where nothing was attempted.
    pub at: Option<Timestamp>,
}

/// What a report is about; the same for all of its recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// It was given up.
    Failed,
    /// It waits.
    Delayed {
        /// Given up then.
        until: Timestamp,
    },
    /// A host took it that sends no report of success.
    Relayed,
}

/// Who reports, and when.
#[derive(Clone, Copy, Debug)]
pub struct Reporter<'a> {
    /// Our name.
    pub hostname: &'a str,
    /// The name of the mail host.
    pub upstream: &'a str,
    /// Of the report.
    pub id: Id,
    /// The date of the report.
    pub now: Timestamp,
}

impl Occasion {
    /// The sender wants to hear of it (RFC 3461 4.1).
    pub fn is_wished(self, notify: Notify) -> bool {
        match self {
            Self::Failed => notify.of_failure(),
            Self::Delayed { .. } => notify.of_delay(),
            Self::Relayed => notify.of_success(),
        }
    }

    /// The word of RFC 3464 2.3.3.
    fn action(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed { .. } => "delayed",
            Self::Relayed => "relayed",
        }
    }
}

/// All that a report is made from.
struct Case<'a> {
    original: &'a Mail,
    /// Of the original.
    heading: Heading,
    arrived: Timestamp,
    occasion: Occasion,
    /// Those that are wished for.
    notices: Vec<&'a Notice<'a>>,
    by: &'a Reporter<'a>,
    /// Nothing beyond ASCII is allowed in it.
    ascii: bool,
}

/// The report about those of the notices that the sender wants to hear of, ready to be sent. `None` where there are none,
/// and where the sender is null: that would be a report about a report.
///
/// It holds the header of the original and never its body, also where `RET=FULL` was asked for (RFC 3461 4.3 allows that):
/// what the tool has sent it has, and what opted-out buyers were to read is not sent about once more.
pub fn report(
    original: &Mail,
    arrived: Timestamp,
    occasion: Occasion,
    notices: &[Notice<'_>],
    by: &Reporter<'_>,
) -> Option<Mail> {
    let ReversePath::Address(sender) = &original.envelope.sender else { return None };
    let wished: Vec<_> = notices.iter().filter(|notice| occasion.is_wished(notice.recipient.wish.notify)).collect();
    if wished.is_empty() {
        return None;
    }
    let headers = headers(original);
    let case =
        Case { ascii: sender.as_str().is_ascii(), heading: heading(&headers), original, arrived, occasion, notices: wished, by };
    let message = Message::from_wire(stuffed(&case.content(sender, &headers)).into())?;
    let wish = Wish { notify: Notify::Never, original: None };
    let envelope = Envelope {
        id: by.id,
        client: Client { ip: [127, 0, 0, 1].into(), helo: by.hostname.into(), extended: true },
        sender: ReversePath::Null,
        recipients: vec![Recipient { address: sender.clone(), wish }],
        ret: None,
        envid: None,
        eight_bit: message.is_eight_bit(),
        smtputf8: !case.ascii,
    };
    Some(Mail::new(envelope, Bytes::new(), message))
}

impl Case<'_> {
    /// The whole message, dots not stuffed yet.
    fn content(&self, sender: &Address, headers: &[u8]) -> Vec<u8> {
        let (status_type, text, fields) = (self.status_type(), words::text(self), status::fields(self));
        let parts = [
            part("text/plain; charset=utf-8", "Notification", text.as_bytes(), false),
            part(status_type, "Delivery report", fields.as_bytes(), !self.ascii),
            part(self.headers_type(headers), "Headers of the message", headers, false),
        ];
        let boundary = boundary(self.by.id, &parts);
        let mut content = self.head(sender, &boundary).into_bytes();
        for part in &parts {
            content.extend(format!("--{boundary}\r\n").bytes());
            content.extend_from_slice(part);
            content.extend(b"\r\n");
        }
        content.extend(format!("--{boundary}--\r\n").bytes());
        content
    }

    fn head(&self, sender: &Address, boundary: &str) -> String {
        let Reporter { hostname, id, now, .. } = self.by;
        let field = |name, value: &str| field(name, value, self.ascii);
        let answered = answered(&self.heading).map(|id| field("In-Reply-To", &id) + &field("References", &id));
        [
            field("From", &format!("\"Mail relay\" <postmaster@{hostname}>")),
            field("To", &format!("<{sender}>")),
            field("Subject", &words::subject(self)),
            field("Date", &date(*now)),
            field("Message-ID", &format!("<{id}@{hostname}>")),
            answered.unwrap_or_default(),
            field("Auto-Submitted", "auto-replied"),
            field("MIME-Version", "1.0"),
            format!("Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"{boundary}\"\r\n\r\n"),
        ]
        .concat()
    }

    fn status_type(&self) -> &'static str {
        if self.ascii { "message/delivery-status" } else { "message/global-delivery-status" }
    }

    /// Letters beyond ASCII are UTF-8 where the mail said so, and of unknown making elsewhere.
    fn headers_type(&self, headers: &[u8]) -> &'static str {
        let declared = self.original.envelope.smtputf8 && !headers.is_ascii();
        let international = declared && std::str::from_utf8(headers).is_ok();
        if international { "message/global-headers" } else { "text/rfc822-headers" }
    }
}

/// As fields have it (RFC 5322 3.3).
fn date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

/// Which message the report answers, if its name is one.
fn answered(heading: &Heading) -> Option<String> {
    let id = heading.message_id.as_deref()?;
    let is_name = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>?".contains(&byte));
    (is_name && id.len() <= MAX_MESSAGE_ID).then(|| format!("<{id}>"))
}

/// What the fields say, however long the section was.
fn heading(headers: &[u8]) -> Heading {
    let message = Message::from_wire(stuffed(headers).into());
    message.and_then(|message| message.headers(usize::MAX).map(|section| Heading::read(&section))).unwrap_or_default()
}

/// The header section of the original, our own field in front: whole fields, as far as there are any. What does not look
/// like a field is the body, if a tool has forgotten the empty line.
fn headers(original: &Mail) -> Vec<u8> {
    let mut bytes = original.trace.to_vec();
    for chunk in original.message.content() {
        bytes.extend_from_slice(&chunk[..chunk.len().min(MAX_HEADERS.saturating_sub(bytes.len()))]);
        if bytes.len() >= MAX_HEADERS {
            break;
        }
    }
    let is_field = |line: &[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        name.len() < line.len() && !name.is_empty() && name.iter().all(u8::is_ascii_graphic)
    };
    let (mut end, mut inside) = (0, false);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let goes_on = inside && matches!(line, [b' ' | b'\t', ..]);
        if line == b"\r\n" || !line.ends_with(b"\r\n") || !(goes_on || is_field(line)) {
            break;
        }
        (end, inside) = (end + line.len(), true);
    }
    bytes.truncate(end);
    bytes
}

/// What stands in none of the parts.
fn boundary(id: Id, parts: &[Vec<u8>]) -> String {
    let stands = |text: &String| parts.iter().any(|part| memmem::find(part, text.as_bytes()).is_some());
    (0_u64..).map(|number| format!("report-{id}-{number}")).find(|text| !stands(text)).unwrap_or_default()
}
