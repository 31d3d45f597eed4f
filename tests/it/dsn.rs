//! Reports as an independent reader finds them: their structure and fields, and that nothing from outside, whatever its
//! bytes, ends a line, adds a field, or makes a report that a host could refuse.

use bytes::Bytes;
use jiff::Timestamp;
use mail_parser::{HeaderValue, MessageParser, MimeHeaders};
use optout_relay::dsn::{Notice, Occasion, Reporter, report};
use optout_relay::mail::{
    Address, Client, Envelope, Id, Mail, Message, Notify, Recipient, ReversePath, Stage, Status, Wish, envelope_id,
    original_recipient,
};
use proptest::prelude::*;

fn original(sender: &str, smtputf8: bool, envid: Option<&str>, wire: Vec<u8>) -> Mail {
    let client = Client { helo: "tool.test".into(), extended: true, ..Client::new([127, 0, 0, 1].into()) };
    let sender = ReversePath::Address(Address::parse(sender).unwrap());
    let (id, envid) = (Id::new(1, 1), envid.map(Into::into));
    let envelope = Envelope { id, client, sender, recipients: vec![], ret: None, envid, eight_bit: true, smtputf8 };
    Mail::new(envelope, Bytes::from_static(b"Received: from tool.test\r\n"), Message::from_wire(wire.into()).unwrap())
}

fn recipient(address: &str, original: Option<&str>) -> Recipient {
    Recipient {
        address: Address::parse(address).unwrap(),
        wish: Wish { notify: Notify::Unsaid, original: original.map(Into::into) },
    }
}

fn about(mail: &Mail, occasion: Occasion, notices: &[Notice<'_>]) -> Mail {
    let at = Timestamp::from_second(1_800_000_000).unwrap();
    let by = Reporter { hostname: "relay.test", upstream: "mail.example", id: Id::new(2, 2), now: at };
    report(mail, at, occasion, notices, &by).unwrap()
}

/// Dots unstuffed.
fn content(mail: &Mail) -> Vec<u8> {
    mail.message.content().flatten().copied().collect()
}

#[test]
fn a_foreign_reader_finds_all_three_parts_and_every_field() {
    let wire = b"Subject: Your order\r\nMessage-ID: <1@shop.test>\r\n\r\nsecret\r\n".to_vec();
    let mail = original("shop@example.com", false, Some("QQ+2B1"), wire);
    let (gone, full) = (recipient("Gone@example.com", Some("rfc822;Old+40example.com")), recipient("full@example.com", None));
    let refused = Status::said(Stage::Recipient, 550, "5.1.1 no such user");
    let local = Status::new(Stage::Local, 452, "4.3.1 no room");
    let notices = [(&gone, &refused), (&full, &local)].map(|(recipient, status)| Notice { recipient, status, at: None });
    let content = content(&about(&mail, Occasion::Failed, &notices));
    let parsed = MessageParser::default().parse(&content).unwrap();
    let kind = parsed.content_type().unwrap();
    assert_eq!(
        (kind.ctype(), kind.subtype(), kind.attribute("report-type")),
        ("multipart", Some("report"), Some("delivery-status"))
    );
    assert_eq!(parsed.from().unwrap().first().unwrap().address(), Some("postmaster@relay.test"));
    assert_eq!(parsed.to().unwrap().first().unwrap().address(), Some("shop@example.com"));
    assert_eq!(parsed.subject(), Some("Not delivered: 2 recipients"));
    assert_eq!(parsed.in_reply_to(), &HeaderValue::Text("1@shop.test".into()));
    assert_eq!(parsed.header_raw("Auto-Submitted").map(str::trim), Some("auto-replied"));
    assert_eq!(parsed.date().unwrap().to_timestamp(), 1_800_000_000);
    assert!(parsed.message_id().unwrap().ends_with("@relay.test"));
    // The multipart itself and its three.
    assert_eq!(parsed.parts.len(), 4);
    let types: Vec<_> = parsed.parts.iter().skip(1).map(|part| part.content_type().unwrap().subtype().unwrap()).collect();
    assert_eq!(types, ["plain", "delivery-status", "rfc822-headers"]);
    let text = parsed.body_text(0).unwrap();
    for words in ["Your order", "<1@shop.test>", "Gone@example.com", "550 5.1.1 no such user", "full@example.com", "no room"] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    // Each group of fields is a header section, read by the same reader.
    let fields = parsed.parts[2].contents();
    let groups: Vec<_> =
        std::str::from_utf8(fields).unwrap().trim_end().split("\r\n\r\n").map(|group| format!("{group}\r\n\r\n")).collect();
    let groups: Vec<_> = groups.iter().map(|group| MessageParser::default().parse_headers(group.as_bytes()).unwrap()).collect();
    let wanted: [&[(&str, Option<&str>)]; 3] = [
        &[("Original-Envelope-Id", Some("QQ+1")), ("Reporting-MTA", Some("dns; relay.test"))],
        &[
            ("Original-Recipient", Some("rfc822;Old@example.com")),
            ("Final-Recipient", Some("rfc822;Gone@example.com")),
            ("Action", Some("failed")),
            ("Status", Some("5.1.1")),
            ("Remote-MTA", Some("dns; mail.example")),
            ("Diagnostic-Code", Some("smtp; 550 5.1.1 no such user")),
        ],
        &[
            ("Original-Recipient", None),
            ("Final-Recipient", Some("rfc822;full@example.com")),
            ("Action", Some("failed")),
            ("Status", Some("4.3.1")),
            ("Remote-MTA", None),
            ("Diagnostic-Code", None),
        ],
    ];
    assert_eq!(groups.len(), wanted.len());
    for (group, wanted) in groups.iter().zip(wanted) {
        for (name, value) in wanted {
            assert_eq!(group.header_raw(*name).map(str::trim), *value, "{name}");
        }
    }
    let headers = String::from_utf8_lossy(parsed.parts[3].contents());
    assert!(
        headers.starts_with("Received: from tool.test\r\nSubject: Your order\r\n") && !headers.contains("secret"),
        "{headers}"
    );
}

/// Whole lines of anything: what looks like a boundary, a field, a dot, a very long line, other scripts, raw bytes.
fn hostile_lines() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        3 => prop::sample::select(vec![
            &b""[..], b".", b"..", b" ", b"--report-00000000008000002-0--", b"--report-00000000008000002-0", b"Subject: \x1b[31m",
            b"Message-ID: <a@b> c>", b"Message-ID: <\xff@x>", b"Subject: =?utf-8?q?=0D=0ABcc:_x?=", b"Subject: =?utf-8?b?4oCu?=",
            "Subject: \u{202e}\u{2028}ä".as_bytes(), b"Content-Type: multipart/mixed; boundary=x",
        ]).prop_map(<[u8]>::to_vec),
        3 => ("[A-Za-z-]{1,12}", prop::collection::vec(any::<u8>(), 0..120)).prop_map(|(name, value)| [name.as_bytes(), b": ", &value].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..60),
        1 => (900..90_000_usize).prop_map(|length| [&b"X: "[..], &vec![b'x'; length]].concat()),
    ];
    prop::collection::vec(line, 0..12).prop_map(|lines| {
        let stuffed = |line: Vec<u8>| {
            let mut line: Vec<_> = line.into_iter().filter(|byte| !b"\r\n\0".contains(byte)).collect();
            if line.starts_with(b".") {
                line.insert(0, b'.');
            }
            line.extend(b"\r\n");
            line
        };
        lines.into_iter().flat_map(stuffed).collect()
    })
}

fn addresses() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "buyer@example.com".to_owned(),
        "\"a  b\\\"> Bcc: x\"@example.com".to_owned(),
        "käufer+a@bücher.example".to_owned(),
        "a\u{202e}b@example.com".to_owned(),
        format!("{}@example.com", "x".repeat(300)),
        format!("\"{}\"@example.com", "x ".repeat(150)),
        "Postmaster".to_owned(),
    ])
}

fn originals() -> impl Strategy<Value = Option<String>> {
    let written = prop_oneof!["[ -~]{0,40}", "utf-8;.{0,40}", "rfc822;[!-~]{0,500}", "rfc822;(\\+[0-9A-F]{2}){1,30}"];
    prop::option::of(written).prop_map(|written| written.filter(|written| original_recipient(written).is_some()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_from_outside_makes_a_report_that_cannot_be_sent(
        (sender, to, smtputf8) in (addresses(), prop::collection::vec((addresses(), originals()), 1..4), any::<bool>()),
        (wire, said, code, envid) in (hostile_lines(), ".{0,1000}", prop::sample::select(vec![250_u16, 451, 550, 999]), "[!-~]{0,100}"),
        stage in prop::sample::select(vec![Stage::Connect, Stage::Recipient, Stage::Dot, Stage::Local, Stage::OptOut]),
        occasion in prop::sample::select(vec![Occasion::Failed, Occasion::Delayed { until: Timestamp::MAX }]),
        raw in any::<bool>(),
    ) {
        let envid = Some(envid.as_str()).filter(|id| envelope_id(id).is_some());
        let mail = original(&sender, smtputf8, envid, wire);
        let mut status = Status::new(stage, code, &said);
        if raw {
            // Read back from somewhere that did not clean it.
            status.text = said;
        }
        let to: Vec<_> = to.iter().map(|(address, original)| recipient(address, original.as_deref())).collect();
        let notices: Vec<_> = to.iter().map(|recipient| Notice { recipient, status: &status, at: Some(Timestamp::MIN) }).collect();
        let report = about(&mail, occasion, &notices);
        let wire = report.message.wire();

        prop_assert!(Message::from_wire(wire.clone()).is_some());
        prop_assert_eq!(report.envelope.smtputf8, !sender.is_ascii());
        prop_assert!(wire.is_ascii() || report.envelope.smtputf8);
        prop_assert!(std::str::from_utf8(wire).is_ok());
        prop_assert_eq!(report.envelope.eight_bit, !wire.is_ascii());
        prop_assert!(wire.split(|byte| *byte == b'\n').all(|line| line.len() <= 999 && line != b".\r"));
        let visible = |byte: &u8| matches!(byte, b'\t' | b'\r' | b'\n' | b' '..=b'~' | 128..);
        prop_assert!(wire.iter().all(visible));

        let content = content(&report);
        let parsed = MessageParser::default().parse(&content).unwrap();
        let names: Vec<_> = parsed.headers().iter().map(|header| header.name().to_owned()).filter(|name| name != "In-Reply-To" && name != "References").collect();
        prop_assert_eq!(names, ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]);
        prop_assert_eq!(parsed.parts.len(), 4);
        // In letters: the reader makes three bytes of each that is none.
        let headers = String::from_utf8_lossy(parsed.parts[3].contents()).chars().count();
        prop_assert!(headers <= 64 << 10, "{} letters of header", headers);
        let fields = String::from_utf8_lossy(parsed.parts[2].contents()).into_owned();
        prop_assert_eq!(fields.split("\r\n\r\n").count(), 1 + to.len());
        for name in ["Final-Recipient: ", "Action: ", "Status: "] {
            prop_assert_eq!(fields.lines().filter(|line| line.starts_with(name)).count(), to.len());
        }
    }
}
