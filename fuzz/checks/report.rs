//! Reports to the sender: whatever was in the mail, in its envelope or in the host's mouth, a report is one message that
//! every host takes, of three parts, with the fields that it should have and no others. Read by a reader of its own. Never
//! sends one.
//!
//! An input has its parts between NULs: letters (`d` delayed, `r` relayed, `u` SMTPUTF8, `l` our own words, `o` an opt-out),
//! sender, recipients (one a line), ORCPT, ENVID, the host's words, the client's name, and the message.

use bytes::Bytes;
use jiff::Timestamp;
use optout_relay::dsn::{Notice, Occasion, Reporter, report, to_be_told};
use optout_relay::mail::{
    Address, Client, Envelope, Id, Mail, Message, Notify, Recipient, ReversePath, Stage, Status, Wish, clean, envelope_id,
    original_recipient,
};

use super::{as_lines, is_canonical, message::ends_early, stuffed, unstuffed};

const TRACE: &[u8] = b"Received: from tool.test\r\n\tby relay.test\r\n";

/// What is never in a report, for only the body has it.
const MAX_HEADERS: usize = 64 << 10;

pub fn check(bytes: &[u8]) {
    let case = Case::read(bytes);
    let by = Reporter { hostname: "relay.test", upstream: &case.host, id: Id::new(2, 2), now: Timestamp::UNIX_EPOCH };
    let notices: Vec<_> =
        case.to.iter().map(|recipient| Notice { recipient, status: &case.status, at: Some(Timestamp::MAX) }).collect();
    let wished = case.to.iter().filter(|to| case.occasion.is_wished(to.wish.notify)).count();
    let told = to_be_told(&case.mail.envelope.sender).filter(|_| wished > 0);
    let report = report(&case.mail, Timestamp::UNIX_EPOCH, case.occasion, &notices, &by);
    assert_eq!(report.is_some(), told.is_some());
    if let (Some(report), Some(told)) = (report, told) {
        can_be_sent(&report, told);
        reads_well(&report, &case, wished);
    }
}

struct Case {
    mail: Mail,
    to: Vec<Recipient>,
    status: Status,
    occasion: Occasion,
    host: String,
}

impl Case {
    fn read(bytes: &[u8]) -> Self {
        let mut parts = bytes.splitn(8, |byte| *byte == 0);
        let mut raw = || parts.next().unwrap_or_default();
        let (letters, sender, to, orcpt, envid) = (raw(), raw(), raw(), raw(), raw());
        let (words, client, content) = (raw(), raw(), raw());
        let [sender, to, orcpt, envid, words, client] = [sender, to, orcpt, envid, words, client].map(String::from_utf8_lossy);
        let has = |letter| letters.contains(&letter);
        let sender = Address::parse(&sender).map_or(ReversePath::Null, ReversePath::Address);
        let original = Some(Box::<str>::from(&*orcpt)).filter(|original| original_recipient(original).is_some());
        let notifies = [Notify::Unsaid, Notify::When { success: true, failure: true, delay: true }, Notify::Never];
        let to: Vec<_> = to
            .lines()
            .filter_map(|to| Address::parse(to).ok())
            .zip(notifies.into_iter().cycle())
            .map(|(address, notify)| Recipient { address, wish: Wish { notify, original: original.clone() } })
            .collect();
        let envelope = Envelope {
            id: Id::new(1, 1),
            client: Client { helo: clean(&client, 255).into(), extended: true, ..Client::new([192, 0, 2, 1].into()) },
            sender,
            recipients: to.clone(),
            ret: None,
            envid: Some(Box::<str>::from(&*envid)).filter(|id| envelope_id(id).is_some()),
            eight_bit: true,
            smtputf8: has(b'u'),
        };
        let message = Message::from_wire(stuffed(&as_lines(content)).into()).unwrap();
        let stage = if has(b'o') { Stage::OptOut } else { Stage::Recipient };
        let code = if has(b'd') { 451 } else { 550 };
        let mut status = if has(b'l') { Status::new(stage, code, &words) } else { Status::said(stage, code, &words) };
        if has(b'x') {
            // From somewhere where nobody has cleaned it.
            status.text = words.clone().into_owned();
        }
        Self {
            mail: Mail::new(envelope, Bytes::from_static(TRACE), message),
            to,
            status,
            occasion: match () {
                () if has(b'd') => Occasion::Delayed { until: Timestamp::MAX },
                () if has(b'r') => Occasion::Relayed,
                () => Occasion::Failed,
            },
            host: clean(&client, 255),
        }
    }
}

/// To the sender, from nobody, in a form that every host takes.
fn can_be_sent(report: &Mail, told: &Address) {
    let wire = report.message.wire();
    assert!(is_canonical(wire) && !ends_early(wire), "{wire:?}");
    assert!(report.trace.is_empty());
    let envelope = &report.envelope;
    assert_eq!((&envelope.sender, envelope.recipients.len()), (&ReversePath::Null, 1));
    assert_eq!((&envelope.recipients[0].address, envelope.recipients[0].wish.notify), (told, Notify::Never));
    assert_eq!(envelope.smtputf8, !told.as_str().is_ascii(), "a report goes where its sender could");
    assert!(wire.is_ascii() || envelope.smtputf8);
    assert_eq!(envelope.eight_bit, !wire.is_ascii());
    assert!(std::str::from_utf8(wire).is_ok());
    for line in wire.split(|byte| *byte == b'\n') {
        assert!(line.len() <= 999, "a line of {} bytes", line.len());
        assert!(line.iter().all(|byte| matches!(byte, b'\t' | b'\r' | b' '..=b'~' | 128..)), "{line:?}");
    }
}

fn reads_well(report: &Mail, case: &Case, wished: usize) {
    let content = unstuffed(report.message.wire());
    let content = std::str::from_utf8(&content).unwrap();
    let (head, body) = content.split_once("\r\n\r\n").unwrap();
    let fields = names(head);
    let optional = ["In-Reply-To", "References"];
    let kept: Vec<_> = fields.iter().copied().filter(|name| !optional.contains(name)).collect();
    assert_eq!(kept, ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"], "{head}");
    assert!(fields.len() == 8 || fields.len() == 10, "{head}");
    let boundary = head.rsplit_once("boundary=\"").unwrap().1.trim_end_matches('"');
    let parts = parted(body, boundary);
    assert_eq!(parts.len(), 3, "{content}");
    let [_, status, headers] = [parts[0], parts[1], parts[2]].map(decoded);
    let status = String::from_utf8(status).unwrap();
    let groups: Vec<_> = status.trim_end_matches("\r\n").split("\r\n\r\n").map(names).collect();
    assert_eq!(groups.len(), 1 + wished, "{status}");
    assert_eq!(groups[0].iter().filter(|name| **name == "Reporting-MTA").count(), 1, "{status}");
    for group in &groups[1..] {
        for name in ["Final-Recipient", "Action", "Status"] {
            assert_eq!(group.iter().filter(|found| **found == name).count(), 1, "{status}");
        }
    }
    is_header_of(&headers, case);
}

/// The names of the fields of a section, none of which is anything else.
fn names(section: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for line in section.split("\r\n") {
        match line.split_once(':') {
            _ if line.starts_with([' ', '\t']) && !names.is_empty() => {
                assert!(!line.trim_matches([' ', '\t']).is_empty(), "{section:?}")
            }
            Some((name, _)) if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()) => names.push(name),
            _ => panic!("{line:?} is no field: {section:?}"),
        }
    }
    names
}

/// What stands between the lines of the boundary (RFC 2046 5.1.1); only the last is the last.
fn parted<'a>(body: &'a str, boundary: &str) -> Vec<&'a str> {
    let (next, last) = (format!("--{boundary}\r\n"), format!("--{boundary}--\r\n"));
    assert_eq!(body.matches(boundary).count(), 4, "the boundary stands in no part");
    let inner = body.strip_prefix(next.as_str()).unwrap().strip_suffix(last.as_str()).unwrap();
    inner.split(next.as_str()).map(|part| part.strip_suffix("\r\n").unwrap()).collect()
}

/// The content of a part.
fn decoded(part: &str) -> Vec<u8> {
    let (head, content) = part.split_once("\r\n\r\n").unwrap();
    assert_eq!(names(head), ["Content-Description", "Content-Type", "Content-Transfer-Encoding"], "{head}");
    if !head.ends_with("quoted-printable") {
        return content.as_bytes().to_vec();
    }
    // RFC 2045 6.7
    let mut bytes = Vec::new();
    let mut rest = content.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = match (byte, tail) {
            (b'=', [b'\r', b'\n', tail @ ..]) => tail,
            (b'=', [high, low, tail @ ..]) => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                tail
            }
            (byte, tail) => {
                assert_ne!(*byte, b'=', "{content}");
                bytes.push(*byte);
                tail
            }
        };
    }
    assert!(content.split("\r\n").all(|line| line.len() <= 76 && !line.ends_with([' ', '\t'])), "{content}");
    bytes
}

/// Our own field, then whole fields as they stand at the beginning of the original, and nothing of its body.
fn is_header_of(headers: &[u8], case: &Case) {
    assert!(headers.len() <= MAX_HEADERS, "{} bytes of header", headers.len());
    let original = unstuffed(case.mail.message.wire());
    let fields = headers.strip_prefix(TRACE).unwrap();
    assert!(original.starts_with(fields), "{:?} is not of {:?}", fields.escape_ascii(), original.escape_ascii());
    assert!(!fields.starts_with(b"\r\n") && !fields.windows(4).any(|end| end == b"\r\n\r\n"), "{:?}", fields.escape_ascii());
    assert!(fields.is_empty() || fields.ends_with(b"\r\n"));
    let mut inside = false;
    for line in fields.split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap();
        let is_field = !name.is_empty() && name.len() < line.len() && name.iter().all(u8::is_ascii_graphic);
        assert!(is_field || (inside && matches!(line[0], b' ' | b'\t')), "{:?} is no field", line.escape_ascii());
        inside = true;
    }
}
