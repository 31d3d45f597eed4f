//! Reports to the sender (RFC 3461, 3462, 3464): from what became of each recipient to a message that says so. Never sends
//! anything, never asks the clock, never reports about a report.
//!
//! A report that cannot be delivered is lost, for nobody reports about it. So it is ASCII whatever the mail was made of, and
//! every host can take it; only a sender whose own address goes beyond ASCII gets one that needs SMTPUTF8.

mod form;
mod original;
mod status;
mod words;

use bytes::Bytes;
use jiff::Timestamp;
use memchr::memmem;

use crate::mail::{Address, Client, Envelope, Heading, Id, Mail, Message, Notify, Recipient, ReversePath, Status, Wish};
use form::{field, part, stuffed};

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

/// Who gets the reports about mail from this sender. Nobody does where it is null, for that would be a report about a report,
/// nor where the host may pass it on to another mailbox: whoever that is may have opted out.
pub fn to_be_told(sender: &ReversePath) -> Option<&Address> {
    match sender {
        ReversePath::Address(sender) if !sender.routes_on() => Some(sender),
        ReversePath::Address(_) | ReversePath::Null => None,
    }
}

/// The report about those of the notices that the sender wants to hear of, ready to be sent. `None` where there are none, and
/// where there is nobody [to be told](to_be_told).
///
/// It holds the header of the original and never its body, although `RET=FULL` asks for that (RFC 3461 4.3): it stays small,
/// and what was meant for a buyer is not sent about once more.
pub fn report(
    original: &Mail,
    arrived: Timestamp,
    occasion: Occasion,
    notices: &[Notice<'_>],
    by: &Reporter<'_>,
) -> Option<Mail> {
    let sender = to_be_told(&original.envelope.sender)?;
    let wished: Vec<_> = notices.iter().filter(|notice| occasion.is_wished(notice.recipient.wish.notify)).collect();
    if wished.is_empty() {
        return None;
    }
    let headers = original::headers(original);
    let case = Case {
        ascii: sender.as_str().is_ascii(),
        heading: original::heading(&headers),
        original,
        arrived,
        occasion,
        notices: wished,
        by,
    };
    let message = Message::from_wire(stuffed(&case.content(sender, &headers)).into())?;
    let wish = Wish { notify: Notify::Never, original: None };
    let envelope = Envelope {
        id: by.id,
        client: Client { helo: by.hostname.into(), extended: true, ..Client::new([127, 0, 0, 1].into()) },
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

/// What stands in none of the parts.
fn boundary(id: Id, parts: &[Vec<u8>]) -> String {
    let stands = |text: &String| parts.iter().any(|part| memmem::find(part, text.as_bytes()).is_some());
    (0_u64..).map(|number| format!("report-{id}-{number}")).find(|text| !stands(text)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Ret, Stage, original_recipient};

    const ARRIVED: &str = "2026-11-24T20:07:28Z";

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn recipient(address: &str, notify: Notify, original: Option<&str>) -> Recipient {
        assert!(original.is_none_or(|original| original_recipient(original).is_some()));
        Recipient { address: Address::parse(address).unwrap(), wish: Wish { notify, original: original.map(Into::into) } }
    }

    fn mail(sender: &str, smtputf8: bool, wire: &[u8]) -> Mail {
        let sender = Address::parse(sender).map_or(ReversePath::Null, ReversePath::Address);
        let client = Client { helo: "tool.test".into(), extended: true, ..Client::new([127, 0, 0, 1].into()) };
        let (id, ret, envid) = (Id::new(1, 1), Some(Ret::Full), Some("QQ+2B1".into()));
        let envelope = Envelope { id, client, sender, recipients: vec![], ret, envid, eight_bit: true, smtputf8 };
        let trace = Bytes::from_static(b"Received: from tool.test\r\n\tby relay.test\r\n");
        Mail::new(envelope, trace, Message::from_wire(Bytes::copy_from_slice(wire)).unwrap())
    }

    fn text(original: &Mail, occasion: Occasion, to: &Recipient, status: &Status) -> (Mail, String) {
        let by =
            Reporter { hostname: "relay.test", upstream: "mail.example", id: Id::new(2, 2), now: at("2026-11-24T21:00:00Z") };
        let notice = Notice { recipient: to, status, at: Some(at("2026-11-24T20:59:59Z")) };
        let report = report(original, at(ARRIVED), occasion, &[notice], &by).unwrap();
        let text = String::from_utf8(report.message.wire().to_vec()).unwrap();
        (report, text)
    }

    fn assert_holds(text: &str, lines: &[&str]) {
        for line in lines {
            let stands = format!("\r\n{text}").contains(&format!("\r\n{line}\r\n"));
            assert!(stands, "{line:?} is not in\n{text}");
        }
    }

    const WIRE: &[u8] = b"Subject: =?utf-8?q?F=C3=BCr?= you\r\nMessage-ID: <1@shop.test>\r\n..x: dot\r\n\r\nsecret body\r\n";

    #[test]
    fn a_refusal_is_told_to_people_and_to_machines() {
        let to = recipient("Buyer@Example.com", Notify::Unsaid, Some("rfc822;Old+2Btag@example.com"));
        let status = Status::said(Stage::Recipient, 550, "5.1.1 no such user");
        let (report, text) = text(&mail("shop@example.com", false, WIRE), Occasion::Failed, &to, &status);
        assert_holds(
            &text,
            &[
                "From: \"Mail relay\" <postmaster@relay.test>",
                "To: <shop@example.com>",
                "Subject: Not delivered: Buyer@Example.com",
                "Date: Tue, 24 Nov 2026 21:00:00 +0000",
                "In-Reply-To: <1@shop.test>",
                "References: <1@shop.test>",
                "Auto-Submitted: auto-replied",
                "MIME-Version: 1.0",
                "Content-Type: multipart/report; report-type=delivery-status;",
                // The text goes beyond ASCII with its subject.
                "  Subject:    F=C3=BCr you",
                "    The mail host mail.example refused it, and answered:\r\n      550 5.1.1 no such user",
                "Content-Type: message/delivery-status",
                "Original-Envelope-Id: QQ+1",
                "Reporting-MTA: dns; relay.test",
                "Arrival-Date: Tue, 24 Nov 2026 20:07:28 +0000",
                "Original-Recipient: rfc822;Old+tag@example.com",
                "Final-Recipient: rfc822;Buyer@Example.com",
                "Action: failed",
                "Status: 5.1.1",
                "Remote-MTA: dns; mail.example",
                "Diagnostic-Code: smtp; 550 5.1.1 no such user",
                "Last-Attempt-Date: Tue, 24 Nov 2026 20:59:59 +0000",
                "Content-Type: text/rfc822-headers",
                "Received: from tool.test\r\n\tby relay.test\r\nSubject: =?utf-8?q?F=C3=BCr?= you",
                "..x: dot\r\n\r\n--report-00000000008000002-0--",
            ],
        );
        assert!(!text.contains("secret") && !text.contains("Will-Retry"), "{text}");
        let Envelope { id, sender, recipients, eight_bit, smtputf8, ret, envid, .. } = &report.envelope;
        assert_eq!(
            (*id, sender, *eight_bit, *smtputf8, ret, envid),
            (Id::new(2, 2), &ReversePath::Null, false, false, &None, &None)
        );
        assert_eq!(recipients[..], [recipient("shop@example.com", Notify::Never, None)]);
        assert!(report.trace.is_empty());
    }

    #[test]
    fn an_opt_out_is_told_in_plain_words_and_is_nobody_elses() {
        let to = recipient("out@example.com", Notify::Unsaid, None);
        let status = Status::new(Stage::OptOut, 550, "5.7.1 recipient has opted out of your mail");
        let (_, text) = text(&mail("shop@example.com", false, b"A: b\r\n\r\n"), Occasion::Failed, &to, &status);
        assert_holds(
            &text,
            &[
                "Subject: Not sent because of an opt-out: out@example.com",
                "  out@example.com",
                "    has opted out of your mail. Mail to this recipient stops here: it was",
                "    not sent.",
                "Status: 5.7.1",
            ],
        );
        assert!(!text.contains("Remote-MTA") && !text.contains("Diagnostic-Code") && !text.contains("tried again"), "{text}");
    }

    #[test]
    fn nobody_is_said_to_have_opted_out_who_has_not() {
        let to = recipient("in@example.com", Notify::Unsaid, None);
        let original = mail("shop@example.com", false, b"A: b\r\n\r\n");
        let stopped = Status::new(Stage::OptOut, 550, "5.7.1 not sent, for somebody who opted out stands in To, Cc or Bcc");
        let unlogged =
            Status::new(Stage::OptOut, 451, "the suppression log cannot be written, so nothing is sent; try again later");
        for (occasion, status) in [(Occasion::Failed, stopped), (Occasion::Delayed { until: at(ARRIVED) }, unlogged)] {
            let (_, text) = text(&original, occasion, &to, &status);
            assert!(!text.contains("has opted out") && text.contains("It cannot be sent"), "{text}");
        }
    }

    #[test]
    fn another_report_is_promised_to_whom_it_will_be_sent() {
        let original = mail("shop@example.com", false, b"A: b\r\n\r\n");
        let status = Status::new(Stage::Connect, 451, "4.4.1 away");
        for failure in [false, true] {
            let to = recipient("a@example.com", Notify::When { success: false, failure, delay: true }, None);
            let (_, text) = text(&original, Occasion::Delayed { until: at(ARRIVED) }, &to, &status);
            assert_eq!(text.contains("  If it has not been delivered by then"), failure, "{text}");
        }
    }

    #[test]
    fn a_delay_says_until_when_and_a_relay_says_what_is_not_known() {
        let to = recipient("buyer@example.com", Notify::When { success: true, failure: false, delay: true }, None);
        let original = mail("shop@example.com", false, b"A: b\r\n\r\n");
        let until = at("2026-11-29T20:07:28Z");
        let status = Status::new(Stage::Connect, 451, "4.4.1 the host is out of reach");
        let (_, delayed) = text(&original, Occasion::Delayed { until }, &to, &status);
        assert_holds(&delayed, &["Action: delayed", "Status: 4.4.1", "Will-Retry-Until: Sun, 29 Nov 2026 20:07:28 +0000"]);
        assert!(delayed.contains("  We go on trying until Sun, 29 Nov 2026") && !delayed.contains("Remote-MTA"), "{delayed}");
        let (_, relayed) = text(&original, Occasion::Relayed, &to, &Status::said(Stage::Dot, 250, "2.0.0 queued"));
        assert_holds(&relayed, &["Action: relayed", "Status: 2.0.0", "Diagnostic-Code: smtp; 250 2.0.0 queued"]);
        assert!(relayed.contains("does not tell us whether it arrives"), "{relayed}");
    }

    #[test]
    fn who_does_not_want_to_hear_is_not_told() {
        let when = |success, failure, delay| Notify::When { success, failure, delay };
        let until = Timestamp::UNIX_EPOCH;
        for (notify, failed, delayed, relayed) in [
            (Notify::Unsaid, true, true, false),
            (Notify::Never, false, false, false),
            (when(true, false, false), false, false, true),
            (when(false, true, false), true, false, false),
            (when(false, false, true), false, true, false),
        ] {
            for (occasion, wished) in
                [(Occasion::Failed, failed), (Occasion::Delayed { until }, delayed), (Occasion::Relayed, relayed)]
            {
                assert_eq!(occasion.is_wished(notify), wished, "{occasion:?} {notify:?}");
                let (status, to) = (Status::said(Stage::Dot, 550, "x"), recipient("a@b.example", notify, None));
                let by = Reporter { hostname: "relay.test", upstream: "m", id: Id::new(2, 2), now: until };
                let notice = Notice { recipient: &to, status: &status, at: None };
                let about = |sender| report(&mail(sender, false, b""), until, occasion, &[notice], &by);
                assert_eq!(about("shop@example.com").is_some(), wished);
                // Never a report about a report, nor one to nobody knows whom.
                assert!(about("").is_none() && about("shop%example.com@b.example").is_none());
            }
        }
    }

    #[test]
    fn letters_beyond_ascii_stay_out_unless_the_sender_has_them() {
        let to = recipient("k\u{e4}ufer+a@b.example", Notify::Unsaid, Some("utf-8;k\u{e4}ufer@b.example"));
        let status = Status::new(Stage::Local, 553, "5.6.7 no SMTPUTF8");
        let wire = "Subject: \u{e4}\r\n\r\n".as_bytes();
        let (report, ascii) = text(&mail("shop@example.com", true, wire), Occasion::Failed, &to, &status);
        assert!(ascii.is_ascii() && !report.envelope.smtputf8 && !report.envelope.eight_bit);
        assert_holds(
            &ascii,
            &[
                "Subject: Not delivered",
                "Original-Recipient: utf-8;k\\x{E4}ufer@b.example",
                "Final-Recipient: utf-8;k\\x{E4}ufer\\x{2B}a@b.example",
                "Content-Type: message/global-headers\r\nContent-Transfer-Encoding: quoted-printable",
                "Subject: =C3=A4",
            ],
        );
        let (report, letters) = text(&mail("h\u{e4}ndler@b.example", true, wire), Occasion::Failed, &to, &status);
        assert!(report.envelope.smtputf8 && report.envelope.eight_bit);
        assert_holds(
            &letters,
            &[
                "To: <h\u{e4}ndler@b.example>",
                "Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit",
                "Final-Recipient: utf-8;k\u{e4}ufer+a@b.example",
            ],
        );
        // Where nobody said what the letters are, nothing is made of them.
        let (_, unknown) = text(&mail("shop@example.com", false, wire), Occasion::Failed, &to, &status);
        assert_holds(&unknown, &["Content-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: quoted-printable"]);
    }

    #[test]
    fn only_a_message_id_that_is_one_is_answered() {
        let named = |id: &str| answered(&Heading { message_id: Some(id.to_owned()), ..Heading::default() });
        assert_eq!(named("1@shop.test"), Some("<1@shop.test>".to_owned()));
        // `?` stands where something could not be shown.
        for id in ["", "a b@shop.test", "a@b> <c@d", "a?@shop.test", &"x".repeat(MAX_MESSAGE_ID + 1)] {
            assert_eq!(named(id), None, "{id}");
        }
    }

    #[test]
    fn no_part_holds_the_boundary() {
        let id = Id::new(2, 2);
        let parts = [format!("--report-{id}-0--\r\n").into_bytes(), format!("report-{id}-1").into_bytes()];
        assert_eq!(boundary(id, &parts), format!("report-{id}-2"));
    }

    #[test]
    fn the_others_are_spoken_of_where_there_are_others() {
        let to = recipient("a@b.example", Notify::Unsaid, None);
        let mut original = mail("shop@example.com", false, b"");
        let status = Status::said(Stage::Dot, 550, "x");
        for (more, spoken) in [(0, false), (1, true)] {
            original.envelope.recipients = vec![to.clone(); 1 + more];
            let (_, text) = text(&original, Occasion::Failed, &to, &status);
            assert_eq!(text.contains("All other recipients"), spoken, "{text}");
        }
    }
}
