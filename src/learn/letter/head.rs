//! The header of a mail or a part: its fields, and the mailboxes in them. Never panics, never takes long.

use jiff::Timestamp;
use mail_parser::parsers::MessageStream;
use mail_parser::{DateTime, HeaderValue};

use crate::learn::letter::transfer::Encoding;
use crate::learn::letter::words::decoded_words;
use crate::mail::{Address, clean};

/// Bytes of a header; a mail with a longer one is not looked at.
const MAX_HEAD: usize = 256 << 10;

/// Bytes of one field; a longer one is there, but says nothing.
const MAX_FIELD: usize = 16 << 10;

/// Fields of a header.
const MAX_FIELDS: usize = 2000;

/// The longest Message-ID that is kept: a line of a message (RFC 5322 2.1.1).
const MAX_ID: usize = 998;

/// The fields of a header.
#[derive(Debug, Default)]
pub struct Head {
    /// Names in lower case; values in one line, as they were written.
    fields: Vec<(String, String)>,
    /// It was too long, and nothing of it is believed.
    pub cut: bool,
}

impl Head {
    /// Reads up to the empty line, and returns what stands behind it.
    pub fn read(mail: &[u8]) -> (Self, &[u8]) {
        let mut head = Self::default();
        let mut rest = mail;
        while let Some((line, behind)) = next_line(rest) {
            rest = behind;
            if line.is_empty() {
                return (head, rest);
            }
            if head.fields.len() >= MAX_FIELDS || mail.len() - rest.len() > MAX_HEAD {
                head.cut = true;
                return (head, &[]);
            }
            head.add(line);
        }
        (head, rest)
    }

    fn add(&mut self, line: &[u8]) {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            if let Some((_, value)) = self.fields.last_mut() {
                extend(value, line);
            }
        } else if let Some(at) = memchr::memchr(b':', line) {
            let name = String::from_utf8_lossy(line[..at].trim_ascii()).to_ascii_lowercase();
            let mut value = String::new();
            extend(&mut value, &line[at + 1..]);
            self.fields.push((name, value));
        }
    }

    /// What all fields of this name say; the name in any case.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = move |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
        self.fields.iter().filter(named).map(|(_, value)| value.trim())
    }

    /// What the first field of this name says.
    pub fn first(&self, name: &str) -> Option<&str> {
        let named = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
        self.fields.iter().find(named).map(|(_, value)| value.trim())
    }

    /// The subject, decoded.
    pub fn subject(&self) -> String {
        self.first("Subject").map(decoded_words).unwrap_or_default()
    }

    /// The Message-ID without its angle brackets.
    pub fn message_id(&self) -> Option<String> {
        let id = self.first("Message-ID")?;
        let inner = id.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(id, |(inner, _)| inner);
        let inner = inner.trim();
        (!inner.is_empty()).then(|| clean(inner, MAX_ID))
    }

    /// When it was sent, as it says.
    pub fn date(&self) -> Option<Timestamp> {
        date(self.first("Date")?)
    }
}

/// The moment behind a date (RFC 5322 3.3).
pub fn date(text: &str) -> Option<Timestamp> {
    let date = DateTime::parse_rfc822(text).filter(DateTime::is_valid)?;
    Timestamp::from_second(date.to_timestamp()).ok()
}

fn next_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.is_empty() {
        return None;
    }
    let end = memchr::memchr(b'\n', text);
    let (line, rest) = end.map_or((text, &[][..]), |end| (&text[..end], &text[end + 1..]));
    Some((line.strip_suffix(b"\r").unwrap_or(line), rest))
}

/// Once too long, a value is empty and stays so.
fn extend(value: &mut String, line: &[u8]) {
    const TOO_LONG: &str = "\0";
    if value == TOO_LONG {
    } else if value.len() + line.len() > MAX_FIELD {
        TOO_LONG.clone_into(value);
    } else {
        value.push_str(&String::from_utf8_lossy(line));
    }
}

/// Of what kind a part is, and how it is written.
#[derive(Debug)]
pub struct Kind {
    /// As in `text`.
    pub main: String,
    /// As in `html`.
    pub sub: String,
    pub boundary: String,
    pub charset: String,
    pub encoding: Encoding,
    /// To be saved, not to be read.
    pub attached: bool,
    file_name: String,
}

impl Kind {
    /// By the fields of a part. One that says nothing is text, or in a digest a mail.
    pub fn of(head: &Head, in_digest: bool) -> Self {
        let mut kind = Self {
            main: if in_digest { "message" } else { "text" }.into(),
            sub: if in_digest { "rfc822" } else { "plain" }.into(),
            boundary: String::new(),
            charset: String::new(),
            encoding: encoding(head.first("Content-Transfer-Encoding").unwrap_or_default()),
            attached: false,
            file_name: String::new(),
        };
        for (field, name) in [("Content-Type", "name"), ("Content-Disposition", "filename")] {
            let Some(value) = head.first(field) else { continue };
            let value = format!("{value}\n");
            let HeaderValue::ContentType(value) = MessageStream::new(value.as_bytes()).parse_content_type() else { continue };
            if let Some(name) = value.attribute(name) {
                kind.file_name = name.to_ascii_lowercase();
            }
            if field == "Content-Disposition" {
                kind.attached = value.ctype().eq_ignore_ascii_case("attachment");
            } else if let Some(sub) = value.subtype() {
                let attribute = |name| value.attribute(name).unwrap_or_default().to_owned();
                (kind.main, kind.sub) = (value.ctype().to_ascii_lowercase(), sub.to_ascii_lowercase());
                (kind.boundary, kind.charset) = (attribute("boundary"), attribute("charset"));
            }
        }
        kind
    }

    /// A mail that was saved and attached as a file.
    pub fn is_mail_file(&self) -> bool {
        self.file_name.ends_with(".eml")
    }
}

fn encoding(name: &str) -> Encoding {
    match name.trim().to_ascii_lowercase().as_str() {
        "quoted-printable" => Encoding::QuotedPrintable,
        "base64" => Encoding::Base64,
        _ => Encoding::Plain,
    }
}

/// Everything in an address field, or in a quoted one, that looks like a mailbox. Wherever it stands: a name that looks like
/// another mailbox is a trick.
pub fn mailboxes(value: &str) -> impl Iterator<Item = &str> {
    let parts = value.split(|c: char| c.is_whitespace() || c.is_control() || "<>[]()\",;'".contains(c));
    parts.map(|part| part.strip_prefix("mailto:").unwrap_or(part)).filter(|part| part.contains('@'))
}

/// The one mailbox of a field such as From, and no doubt about it: no list, no group, no second mailbox in the name.
pub fn sole_mailbox(value: &str) -> Option<Address> {
    if has_several(value) {
        return None;
    }
    one_mailbox(value)
}

/// The mailbox, if there is but one in the text; it may stand there twice.
pub fn one_mailbox(value: &str) -> Option<Address> {
    let mut found = mailboxes(value);
    let first = found.next()?;
    if !found.all(|other| other.eq_ignore_ascii_case(first)) {
        return None;
    }
    Address::parse(first).ok().filter(|address| address.as_str() == first && !address.domain().is_empty())
}

/// A comma, colon or semicolon outside of quotes: a list or a group. Or something that cannot stand in a field at all.
fn has_several(value: &str) -> bool {
    let (mut quoted, mut escaped, mut angles) = (false, false, 0);
    for c in value.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' | ':' | ';' if !quoted => return true,
            '<' if !quoted => angles += 1,
            c if c.is_control() && c != '\t' => return true,
            _ => {}
        }
    }
    quoted || angles > 1
}
